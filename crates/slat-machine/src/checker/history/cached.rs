//! What may be cached although no walk from the root finds it: worked out from spans and flushes when a rule asks.

use slat::host::Flush;

use super::{Begun, History, Kind, Link, Seen, Version};
use crate::checker::discipline::Meaning;
use crate::checker::event::Thread;
use crate::checker::replay::hpa;

/// What becomes of a version of a word.
enum Fate {
    /// Nobody uses it, nor ever will.
    Gone,
    /// Nobody uses it but by a walk; it may come to be cached.
    Hidden,
    /// These cores may use it.
    Cached(Link, u64),
}

impl History {
    /// The values of the word at `at` that cores may still use although it does not say so any more.
    pub(in crate::checker) fn cached(&self, at: u64) -> Vec<u64> {
        self.cached_with_links(at).into_iter().map(|(word, _)| word).collect()
    }

    pub(in crate::checker) fn cached_with_links(&self, at: u64) -> Vec<(u64, Link)> {
        self.cached_by(at).into_iter().map(|(word, link, _)| (word, link)).collect()
    }

    /// The same, with the cores that may use each. Versions that nobody will ever use again are not looked at again.
    fn cached_by(&self, at: u64) -> Vec<(u64, Link, u64)> {
        let Some(word) = self.words.get(&at).filter(|_| self.open.borrow().contains(&at)) else { return Vec::new() };
        let table = self.discipline.table_of(at);
        let is_linked = self.kind(table) == Kind::Linked;
        let (current, level) = (self.word(at), self.last_link(table).map(|link| link.level));
        let (mut cached, mut is_open) = (Vec::new(), false);
        let mut alive = word.alive.take();
        alive.retain(|&number| {
            let (link, cores) = match self.fate(at, &word.versions, number) {
                Fate::Gone => return false,
                Fate::Hidden => return true,
                Fate::Cached(link, cores) => (link, cores),
            };
            is_open = true;
            let value = word.versions[number].value;
            let meaning = self.discipline.meaning(value, link.level);
            let says_so = is_linked && level.is_some_and(|level| meaning == self.discipline.meaning(current, level));
            let is_back = meaning.is_leaf()
                && !meaning.is_valid()
                && is_linked
                && self.discipline.meaning(current, link.level).is_leaf();
            if !says_so && !is_back {
                cached.push((value, link, cores));
            }
            true
        });
        word.alive.replace(alive);
        if !is_open {
            self.open.borrow_mut().remove(&at);
        }
        cached
    }

    /// What becomes of a version. What was overwritten, and is not cached, never is again: neither the spans in which a walk
    /// came to it change any more, nor do flushes give back.
    fn fate(&self, at: u64, versions: &[Version], number: usize) -> Fate {
        let (version, next) = (&versions[number], versions.get(number + 1));
        let to = next.map_or(usize::MAX, |next| next.from);
        let lost = if next.is_some() { Fate::Gone } else { Fate::Hidden };
        let Some((until, link)) = self.last_reached(self.discipline.table_of(at), version, to) else { return lost };
        let is_valid = self.discipline.meaning(version.value, link.level).is_valid();
        let counts = is_valid || (until == to && self.was_taken_away(versions, number, link));
        if !counts {
            return lost;
        }
        match self.cores_left(at, versions, number, (until, link)) {
            0 => lost,
            cores => Fate::Cached(link, cores),
        }
    }

    /// An old leaf counts as cached once it was taken away: what it was before it was made old may be.
    fn was_taken_away(&self, versions: &[Version], number: usize, link: Link) -> bool {
        let meaning = |version: &Version| self.discipline.meaning(version.value, link.level);
        versions
            .get(number + 1)
            .is_some_and(|next| self.discipline.takes_away(meaning(&versions[number]), meaning(next)))
    }

    /// Until when a walk could come to the version, which the word held until `to`; and how its table hung then. The last such
    /// time is the one that matters.
    fn last_reached(&self, table: u64, version: &Version, to: usize) -> Option<(usize, Link)> {
        let phases = self.tables.get(&table)?;
        let before = phases.partition_point(|phase| phase.from < to);
        let ends = |number: usize| phases.get(number + 1).map_or(usize::MAX, |next| next.from);
        let mut late = (0..before).rev().map(|number| (&phases[number], ends(number)));
        let reached = late.find_map(|(phase, end)| {
            let link = phase.link.filter(|_| version.from < end)?;
            let is_written_in = || version.from > phase.from && self.was_walked(table, phase.from, version.from);
            match phase.kind {
                Kind::Linked => Some((to.min(end), link)),
                Kind::Unlinked if is_written_in() => Some((phase.from, link)),
                _ => None,
            }
        });
        reached.filter(|(until, _)| *until <= self.now)
    }

    /// The cores that no flush since has made forget the version, which a walk could come to until then.
    fn cores_left(&self, at: u64, versions: &[Version], number: usize, (until, link): (usize, Link)) -> u64 {
        let version = &versions[number];
        let meaning = self.discipline.meaning(version.value, link.level);
        let start = self.address(at, link);
        let again = Seen { until, flushes: version.born, reached: 0 };
        let Seen { flushes: seen, mut reached, .. } =
            Some(version.seen.get()).filter(|seen| seen.until == until).unwrap_or(again);
        for (flush_number, flush) in self.flushes.iter().enumerate().skip(seen) {
            let in_vain = || {
                let next = versions[number + 1..].iter().find(|next| next.from > version.from);
                let asked = next.map_or(until, |next| self.call_began(next.by, next.from));
                self.spared.contains(&(flush_number, at, version.value))
                    || self.may_be_read_again(at, version, flush.flush)
                    || self.was_said_by_others(at, meaning, asked, flush.done)
            };
            if until <= flush.at && self.discipline.covers(flush.flush, meaning, start, link.level) && !in_vain() {
                reached |= flush.cores;
            }
        }
        if until < self.now {
            version.seen.set(Seen { until, flushes: self.flushes.len(), reached });
        }
        self.discipline.cores & !reached
    }

    /// The leaves that a core may hold beside another one of another size for the same address, as far as the tables do not
    /// say them any more.
    pub(in crate::checker) fn doubled(&self) -> Vec<(u64, u64)> {
        if !self.discipline.spares_doubled {
            return Vec::new();
        }
        let cached = self.cached_pieces();
        if cached.is_empty() {
            return Vec::new();
        }
        let linked = self.linked_words().filter_map(|(at, word)| {
            let link = self.last_link(self.discipline.table_of(at))?;
            let is_used = matches!(self.discipline.meaning(word, link.level), Meaning::Leaf(_));
            self.piece(at, word, link).filter(|_| is_used)
        });
        let used: Vec<_> = linked.map(|piece| (piece, self.discipline.cores)).collect();
        let is_doubled = |(start, end): (u64, u64), cores: u64| {
            let met = cached.iter().map(|&(.., piece, others)| (piece, others)).chain(used.iter().copied());
            let mut met = met.filter(|(_, others)| others & cores != 0);
            met.any(|((first, last), _)| first < end && start < last && last - first != end - start)
        };
        let doubled = cached.iter().filter(|(_, _, piece, cores)| is_doubled(*piece, *cores));
        doubled.map(|&(at, word, ..)| (at, word)).collect()
    }

    /// The leaves that are cached and not said any more: the word, what it held, for which addresses, and by which cores.
    fn cached_pieces(&self) -> Vec<(u64, u64, (u64, u64), u64)> {
        let open = self.open_words().into_iter();
        let cached = open.flat_map(|at| self.cached_by(at).into_iter().map(move |found| (at, found)));
        let piece = |(at, (word, link, cores))| Some((at, word, self.piece(at, word, link)?, cores));
        cached.filter_map(piece).collect()
    }

    /// The guest addresses of a leaf, and of all its set.
    fn piece(&self, at: u64, word: u64, link: Link) -> Option<(u64, u64)> {
        let meaning = self.discipline.meaning(word, link.level);
        meaning.is_leaf().then(|| self.discipline.reach(meaning, self.address(at, link), link.level))
    }

    /// A flush of leaves spares the pointer to an unlinked table, through which the word is read again.
    fn may_be_read_again(&self, at: u64, version: &Version, flush: Flush) -> bool {
        let table = self.discipline.table_of(at);
        matches!(flush, Flush::Leaves { .. })
            && self.kind(table) == Kind::Unlinked
            && self.word(at) == version.value
            && self.is_walked(table)
    }

    /// Whether a core may still have a pointer to the table that is not in the tree any more.
    pub(in crate::checker) fn is_walked(&self, table: u64) -> bool {
        let Some(phase) = self.phase(table).filter(|phase| phase.kind != Kind::Free) else { return false };
        let Some((link, level)) = phase.link.and_then(|link| Some((link, link.level.above()?))) else { return false };
        let points = |word: &u64| self.discipline.meaning(*word, level) == Meaning::Table(hpa(table));
        link.above != 0 && self.cached(link.above).iter().any(points)
    }

    /// The same for a time that is past: the table was unlinked at `from`, and the pointer not flushed until `then`.
    fn was_walked(&self, table: u64, from: usize, then: usize) -> bool {
        let Some(link) = self.last_link(table) else { return false };
        let Some(level) = link.level.above() else { return self.root.contains(&table) };
        let (start, pointer) = (link.base, Meaning::Table(hpa(table)));
        let late = self.flushes.partition_point(|flush| flush.done < from);
        !self.flushes[late..].iter().any(|flush| {
            flush.at >= from
                && flush.at < then
                && flush.cores & self.discipline.cores == self.discipline.cores
                && self.discipline.covers(flush.flush, pointer, start, level)
        })
    }

    /// Whether a core may come to an unlinked table, or has something of it.
    pub(in crate::checker) fn is_cached(&self, table: u64) -> bool {
        (self.is_root_loaded() && self.root.contains(&table))
            || self.is_walked(table)
            || self.open_words_of(table).into_iter().any(|at| !self.cached(at).is_empty())
    }

    /// Whether a core may have the root loaded although the tree was cut off.
    pub(in crate::checker) fn is_root_loaded(&self) -> bool {
        let all = |flush: &&Begun| flush.flush == Flush::All && flush.cores == self.discipline.cores;
        self.uprooted.is_some_and(|cut| !self.flushes.iter().filter(all).any(|flush| flush.at >= cut))
    }

    /// The words of which something may be cached.
    pub(in crate::checker) fn open_words(&self) -> Vec<u64> {
        self.open.borrow().iter().copied().collect()
    }

    /// Those of a table.
    fn open_words_of(&self, table: u64) -> Vec<u64> {
        self.open.borrow().range(table..table + self.discipline.table_bytes()).copied().collect()
    }

    pub(in crate::checker) fn all_cached(&self) -> Vec<(u64, u64, Link)> {
        let cached = |at| self.cached_with_links(at).into_iter().map(move |(word, link)| (at, word, link));
        self.open_words().into_iter().flat_map(cached).collect()
    }

    /// Whether smaller leaves are cached for what the entry at `at` covers.
    pub(in crate::checker) fn is_cached_below(&self, at: u64, link: Link) -> bool {
        let start = self.address(at, link);
        let end = start + self.discipline.span(link.level);
        self.all_cached()
            .into_iter()
            .any(|(below, _, deeper)| deeper.level < link.level && (start..end).contains(&self.address(below, deeper)))
    }

    /// Who first took away what is cached as `word` of the word at `at`, and when. Who locked the entry, or froze it, and
    /// gave it back as it was has taken nothing.
    pub(in crate::checker) fn taker_of(&self, at: u64, word: u64) -> Option<(Thread, usize)> {
        let versions = self.versions(at);
        let table = self.discipline.table_of(at);
        let level = self.last_link(table)?.level;
        let meaning = |version: &Version| self.discipline.meaning(version.value, level);
        let last = versions.iter().rposition(|version| version.value == word)?;
        let since = &versions[last..];
        let is_given_back = |index: usize| {
            let [found, locked, back] = [0, 1, 2].map(|next| since.get(index + next));
            let [Some(found), Some(locked), Some(back)] = [found, locked, back] else { return false };
            let is_owned =
                self.discipline.is_locked(locked.value, level) || self.discipline.is_frozen(locked.value, level);
            is_owned && (locked.by, found.value) == (back.by, back.value)
        };
        let mut taken = since.windows(2).enumerate();
        let taken = taken.find(|(index, pair)| {
            self.discipline.takes_away(meaning(&pair[0]), meaning(&pair[1])) && !is_given_back(*index)
        });
        let taken = taken.map(|(_, pair)| pair);
        let unlinked = self.phase(table).filter(|phase| phase.kind == Kind::Unlinked);
        taken
            .map(|pair| (pair[1].by, pair[1].from))
            .or_else(|| unlinked.and_then(|phase| Some((phase.by?, phase.from))))
    }
}
