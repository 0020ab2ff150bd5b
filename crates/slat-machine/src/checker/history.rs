//! What has happened so far, kept whole: every version of every word, every phase of every table, every flush.

use std::cell::Cell;
use std::collections::{BTreeMap, HashMap};

use slat::addr::{Hpa, Level};
use slat::host::Flush;

use super::discipline::{Discipline, Leaf, Meaning};
use super::event::Thread;
use super::replay::hpa;

/// The history.
pub(super) struct History {
    pub(super) discipline: Discipline,
    /// The event that is being looked at.
    pub(super) now: usize,
    words: BTreeMap<u64, Vec<Version>>,
    tables: HashMap<u64, Vec<Phase>>,
    begun: HashMap<u64, Begun>,
    /// In the order in which they were complete.
    flushes: Vec<Begun>,
    pub(super) root: Vec<u64>,
    uprooted: Option<usize>,
    /// When each thread came and went.
    calls: HashMap<Thread, Vec<(usize, bool)>>,
    /// Whether there ever was a set of leaves.
    pub(super) has_sets: bool,
}

/// A value that a word held.
struct Version {
    value: u64,
    from: usize,
    by: Thread,
    /// Flushes before this one have been looked at, and the cores that they reached.
    seen: Cell<(usize, u64)>,
}

/// How a table hangs in the tree.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Link {
    pub(super) above: u64,
    pub(super) level: Level,
    pub(super) base: u64,
}

/// A time in a table's life.
#[derive(Clone, Copy)]
struct Phase {
    from: usize,
    kind: Kind,
    link: Option<Link>,
    /// Who brought it into this phase.
    by: Option<Thread>,
    /// Whether the link is new rather than restored.
    is_new: bool,
}

/// Kinds of phases.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    Free,
    Private,
    Linked,
    Unlinked,
}

/// A flush.
#[derive(Clone, Copy)]
pub(super) struct Begun {
    pub(super) flush: Flush,
    pub(super) at: usize,
    pub(super) cores: u64,
    /// When it was complete.
    pub(super) done: usize,
}

impl History {
    pub(super) fn new(discipline: Discipline) -> Self {
        Self {
            discipline,
            now: 0,
            words: BTreeMap::new(),
            tables: HashMap::new(),
            begun: HashMap::new(),
            flushes: Vec::new(),
            root: Vec::new(),
            uprooted: None,
            calls: HashMap::new(),
            has_sets: false,
        }
    }

    pub(super) fn begin(&mut self, id: u64, begun: Begun) {
        self.begun.insert(id, begun);
    }

    /// A thread comes, or goes.
    pub(super) fn call(&mut self, thread: Thread, comes: bool) {
        self.calls.entry(thread).or_default().push((self.now, comes));
    }

    /// When the call began in which the thread did something then; that very event, if it was in none.
    fn call_began(&self, thread: Thread, then: usize) -> usize {
        let calls = self.calls.get(&thread).map_or(&[][..], Vec::as_slice);
        let last = calls.iter().rev().find(|(event, _)| *event <= then);
        last.filter(|(_, comes)| *comes).map_or(then, |(event, _)| *event)
    }

    pub(super) fn finish(&mut self, id: u64) {
        let done = self.now;
        self.flushes.extend(self.begun.remove(&id).map(|begun| Begun { done, ..begun }));
    }
}

// Tables.
impl History {
    fn enter_phase(&mut self, table: u64, kind: Kind, link: Option<Link>, by: Option<Thread>, is_new: bool) {
        let phase = Phase { from: self.now, kind, link, by, is_new };
        self.tables.entry(table).or_default().push(phase);
    }

    /// The table's phase at the time of an event.
    pub(super) fn kind_at(&self, table: u64, then: usize) -> Kind {
        let phases = self.tables.get(&table).map_or(&[][..], Vec::as_slice);
        phases.iter().rev().find(|phase| phase.from <= then).map_or(Kind::Free, |phase| phase.kind)
    }

    fn phase(&self, table: u64) -> Option<&Phase> {
        self.tables.get(&table)?.last()
    }

    pub(super) fn kind(&self, table: u64) -> Kind {
        self.phase(table).map_or(Kind::Free, |phase| phase.kind)
    }

    pub(super) fn exists(&self, table: u64) -> bool {
        self.tables.contains_key(&table)
    }

    /// How the table hangs in the tree, or did last.
    pub(super) fn last_link(&self, table: u64) -> Option<Link> {
        self.phase(table)?.link
    }

    /// How often the table was linked.
    pub(super) fn links(&self, table: u64) -> usize {
        self.tables.get(&table).into_iter().flatten().filter(|phase| phase.kind == Kind::Linked && phase.is_new).count()
    }

    /// Who has made the table its own.
    pub(super) fn taker(&self, table: u64) -> Option<Thread> {
        self.phase(table)?.by
    }

    pub(super) fn allocate(&mut self, table: Hpa, tables: usize) {
        for table in self.discipline.tables(table, tables) {
            let written: Vec<_> = self.written_words(table).filter(|(_, word)| *word != 0).collect();
            written.into_iter().for_each(|(at, _)| self.write(at, 0, 0));
            self.enter_phase(table, Kind::Private, None, None, false);
        }
    }

    pub(super) fn free(&mut self, table: Hpa, tables: usize) {
        for table in self.discipline.tables(table, tables) {
            self.enter_phase(table, Kind::Free, self.last_link(table), None, false);
        }
    }

    pub(super) fn root(&mut self, root: Hpa, tables: usize) {
        self.root = self.discipline.tables(root, tables).collect();
        let level = self.discipline.root_level;
        for (number, table) in (0..).zip(self.root.clone()) {
            let link = Link { above: 0, level, base: number * self.discipline.table_span(level) };
            self.enter_phase(table, Kind::Linked, Some(link), None, false);
        }
    }

    pub(super) fn uproot(&mut self, thread: Thread) {
        self.uprooted = Some(self.now);
        self.root.clone().into_iter().for_each(|table| self.unlink(table, thread));
    }

    /// A thread writes to a table that is in nobody's tree.
    pub(super) fn recycle(&mut self, table: u64, thread: Thread) {
        if let Some(phase) = self.tables.get_mut(&table).and_then(|phases| phases.last_mut())
            && phase.kind == Kind::Private
        {
            phase.by = Some(thread);
            return;
        }
        self.enter_phase(table, Kind::Private, self.last_link(table), Some(thread), false);
    }

    pub(super) fn link(&mut self, table: u64, link: Link) {
        self.enter_phase(table, Kind::Linked, Some(link), None, true);
    }

    /// The table leaves the tree, with all below it.
    pub(super) fn unlink(&mut self, table: u64, thread: Thread) {
        if self.kind(table) == Kind::Linked {
            self.enter_phase(table, Kind::Unlinked, self.last_link(table), Some(thread), false);
            self.tables_below(table).into_iter().for_each(|below| self.unlink(below, thread));
        }
    }

    pub(super) fn restore(&mut self, table: u64) {
        if self.kind(table) == Kind::Unlinked {
            self.enter_phase(table, Kind::Linked, self.last_link(table), None, false);
            self.tables_below(table).into_iter().for_each(|below| self.restore(below));
        }
    }

    fn tables_below(&self, table: u64) -> Vec<u64> {
        let Some(link) = self.last_link(table) else { return Vec::new() };
        let below = |(_, word)| match self.discipline.meaning(word, link.level) {
            Meaning::Table(below) => Some(below.get()),
            _ => None,
        };
        self.written_words(table).filter_map(below).collect()
    }

    pub(super) fn any_table_left(&self) -> bool {
        self.tables.keys().any(|&table| self.kind(table) != Kind::Free)
    }

    /// A table that is to be linked is empty, full of leaves, or full of one annotation.
    pub(super) fn is_clean(&self, table: u64, level: Level) -> bool {
        let words: Vec<_> = self.written_words(table).map(|(_, word)| word).filter(|word| *word != 0).collect();
        let meaning = |word: &u64| self.discipline.meaning(*word, level);
        let is_uniform = words.iter().all(|word| *word == words[0] && meaning(word).is_nothing());
        words.is_empty()
            || words.len() == self.discipline.table_words()
                && (is_uniform || words.iter().all(|word| meaning(word).is_leaf()))
    }
}

// Words.
impl History {
    pub(super) fn word(&self, at: u64) -> u64 {
        self.words.get(&at).and_then(|versions| versions.last()).map_or(0, |version| version.value)
    }

    pub(super) fn write(&mut self, at: u64, value: u64, by: Thread) {
        let version = Version { value, from: self.now, by, seen: Cell::default() };
        self.words.entry(at).or_default().push(version);
    }

    /// Who has locked the word, and what it held before.
    pub(super) fn before_locked(&self, at: u64) -> Option<(Thread, u64)> {
        let versions = self.words.get(&at)?;
        let (last, before) = versions.split_last()?;
        let before = before.last().map_or(0, |version| version.value);
        self.is_locked(at, last.value).then_some((last.by, before))
    }

    fn is_locked(&self, at: u64, word: u64) -> bool {
        self.discipline.is_locked(word, self.level_of(at))
    }

    /// Whether the word at `at`, if it is `word`, is one thread's.
    pub(super) fn is_owned(&self, at: u64, word: u64) -> bool {
        self.is_locked(at, word) || self.discipline.is_frozen(word, self.level_of(at))
    }

    fn level_of(&self, at: u64) -> Level {
        self.last_link(self.discipline.table_of(at)).map_or(Level::PAGE, |link| link.level)
    }

    /// What the word held at the time of an event, and since when.
    pub(super) fn word_at(&self, at: u64, then: usize) -> Option<(u64, usize)> {
        let versions = self.words.get(&at)?;
        versions.iter().rev().find(|version| version.from <= then).map(|version| (version.value, version.from))
    }

    /// Every word that is locked: by whom, since when.
    pub(super) fn locked_words(&self) -> impl Iterator<Item = (Thread, usize)> {
        let last = self.words.iter().filter_map(|(&at, versions)| Some((at, versions.last()?)));
        last.filter(|(at, version)| self.is_locked(*at, version.value)).map(|(_, version)| (version.by, version.from))
    }

    /// The words of a table that were ever written.
    pub(super) fn written_words(&self, table: u64) -> impl Iterator<Item = (u64, u64)> {
        let words = self.words.range(table..table + self.discipline.table_bytes());
        words.filter_map(|(at, versions)| Some((*at, versions.last()?.value)))
    }

    /// The words of linked tables.
    pub(super) fn linked_words(&self) -> impl Iterator<Item = (u64, u64)> {
        let linked = self.words.keys().filter(|&&at| self.kind(self.discipline.table_of(at)) == Kind::Linked);
        linked.map(|&at| (at, self.word(at)))
    }

    pub(super) fn address(&self, at: u64, link: Link) -> u64 {
        link.base + self.discipline.index_of(at) as u64 * self.discipline.span(link.level)
    }

    /// Every leaf that hardware may use: current or cached.
    pub(super) fn leaves(&self) -> Vec<(u64, Leaf, Link)> {
        let leaf = |(at, word, link): (u64, u64, Link)| match self.discipline.meaning(word, link.level) {
            Meaning::Leaf(leaf) => Some((at, leaf, link)),
            _ => None,
        };
        let linked = self.linked_words();
        let current = linked.filter_map(|(at, word)| Some((at, word, self.last_link(self.discipline.table_of(at))?)));
        current.chain(self.all_cached()).filter_map(leaf).collect()
    }
}

// What may be cached although no walk from the root finds it.
impl History {
    /// The values of the word at `at` that cores may still use although it does not say so any more.
    pub(super) fn cached(&self, at: u64) -> Vec<u64> {
        self.cached_with_links(at).into_iter().map(|(word, _)| word).collect()
    }

    pub(super) fn cached_with_links(&self, at: u64) -> Vec<(u64, Link)> {
        let Some(versions) = self.words.get(&at) else { return Vec::new() };
        let table = self.discipline.table_of(at);
        let is_linked = self.kind(table) == Kind::Linked;
        let (current, level) = (self.word(at), self.last_link(table).map(|link| link.level));
        let mut cached = Vec::new();
        for (number, version) in versions.iter().enumerate() {
            let to = versions.get(number + 1).map_or(usize::MAX, |next| next.from);
            if let Some((until, link)) = self.last_reached(table, version, to) {
                let meaning = self.discipline.meaning(version.value, link.level);
                let says_so =
                    is_linked && level.is_some_and(|level| meaning == self.discipline.meaning(current, level));
                let is_back = meaning.is_leaf()
                    && !meaning.is_valid()
                    && is_linked
                    && self.discipline.meaning(current, link.level).is_leaf();
                let counts = meaning.is_valid() || (until == to && self.was_taken_away(versions, number, link));
                if counts && !says_so && !is_back && self.survives(at, version, until, link) {
                    cached.push((version.value, link));
                }
            }
        }
        cached
    }

    /// An old leaf counts as cached once it was taken away: what it was before it was made old may be.
    fn was_taken_away(&self, versions: &[Version], number: usize, link: Link) -> bool {
        let meaning = |version: &Version| self.discipline.meaning(version.value, link.level);
        versions
            .get(number + 1)
            .is_some_and(|next| self.discipline.takes_away(meaning(&versions[number]), meaning(next)))
    }

    /// Until when a walk could come to the version, which the word held until `to`; and how its table hung then. Only
    /// the last such time matters.
    fn last_reached(&self, table: u64, version: &Version, to: usize) -> Option<(usize, Link)> {
        let phases = self.tables.get(&table)?;
        let mut reached = None;
        for (number, phase) in phases.iter().enumerate() {
            let end = phases.get(number + 1).map_or(usize::MAX, |next| next.from);
            let Some(link) = phase.link.filter(|_| version.from < end && phase.from < to) else { continue };
            match phase.kind {
                Kind::Linked => reached = Some((to.min(end), link)),
                Kind::Unlinked if version.from > phase.from && self.was_walked(table, phase.from, version.from) => {
                    reached = Some((phase.from, link));
                }
                _ => {}
            }
        }
        reached.filter(|(until, _)| *until <= self.now)
    }

    /// Whether no flush since has made every core forget the version.
    fn survives(&self, at: u64, version: &Version, until: usize, link: Link) -> bool {
        let meaning = self.discipline.meaning(version.value, link.level);
        let start = self.address(at, link);
        let next = self.words[&at].iter().find(|next| next.from > version.from);
        let asked = next.map_or(until, |next| self.call_began(next.by, next.from));
        let (mut seen, mut reached) = version.seen.get();
        for flush in &self.flushes[seen..] {
            let in_vain = || {
                self.may_be_read_again(at, version, flush.flush)
                    || self.was_said_by_others(at, meaning, asked, flush.done)
            };
            if until <= flush.at && self.discipline.covers(flush.flush, meaning, start, link.level) && !in_vain() {
                reached |= flush.cores;
            }
        }
        seen = self.flushes.len();
        if until < self.now {
            version.seen.set((seen, reached));
        }
        reached & self.discipline.cores != self.discipline.cores
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
    pub(super) fn is_walked(&self, table: u64) -> bool {
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
        !self.flushes.iter().any(|flush| {
            flush.at >= from
                && flush.at < then
                && flush.cores & self.discipline.cores == self.discipline.cores
                && self.discipline.covers(flush.flush, pointer, start, level)
        })
    }

    /// Whether a core may come to an unlinked table, or has something of it.
    pub(super) fn is_cached(&self, table: u64) -> bool {
        (self.is_root_loaded() && self.root.contains(&table))
            || self.is_walked(table)
            || self.written_words(table).any(|(at, _)| !self.cached(at).is_empty())
    }

    /// Whether a core may have the root loaded although the tree was cut off.
    pub(super) fn is_root_loaded(&self) -> bool {
        let all = |flush: &&Begun| flush.flush == Flush::All && flush.cores == self.discipline.cores;
        self.uprooted.is_some_and(|cut| !self.flushes.iter().filter(all).any(|flush| flush.at >= cut))
    }

    pub(super) fn all_cached(&self) -> Vec<(u64, u64, Link)> {
        let cached = |&at: &u64| self.cached_with_links(at).into_iter().map(move |(word, link)| (at, word, link));
        self.words.keys().flat_map(cached).collect()
    }

    /// Whether smaller leaves are cached for what the entry at `at` covers.
    pub(super) fn is_cached_below(&self, at: u64, link: Link) -> bool {
        let start = self.address(at, link);
        let end = start + self.discipline.span(link.level);
        self.all_cached()
            .into_iter()
            .any(|(below, _, deeper)| deeper.level < link.level && (start..end).contains(&self.address(below, deeper)))
    }

    /// Who first took away what is cached as `word` of the word at `at`, and when. Who locked the entry and gave it back as it
    /// was has taken nothing.
    pub(super) fn taker_of(&self, at: u64, word: u64) -> Option<(Thread, usize)> {
        let versions = self.words.get(&at)?;
        let table = self.discipline.table_of(at);
        let level = self.last_link(table)?.level;
        let meaning = |version: &Version| self.discipline.meaning(version.value, level);
        let last = versions.iter().rposition(|version| version.value == word)?;
        let since = &versions[last..];
        let is_given_back = |index: usize| {
            let [found, locked, back] = [0, 1, 2].map(|next| since.get(index + next));
            let [Some(found), Some(locked), Some(back)] = [found, locked, back] else { return false };
            self.discipline.is_locked(locked.value, level) && (locked.by, found.value) == (back.by, back.value)
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
