//! The evaluator that is given a whole trace: it asks of each event, from the history before it, whether it was allowed.
//!
//! Nothing is forgotten as events come: every version of every word is kept with its span, and every phase of every
//! table. What a core may have cached is worked out when a rule asks for it, from the spans and the flushes. It judges by the
//! same rules as [`Checker`](super::Checker) and by other means; where they differ, one of them is wrong.

mod access;
mod notes;
mod sets;

use std::collections::{BTreeMap, BTreeSet, HashMap};

use slat::addr::{GpaRange, Hpa, Level};
use slat::host::Flush;

use super::declared::{Declared, guest_pages};
use super::discipline::{Class, Discipline, Leaf, Meaning};
use super::event::{Event, How, Thread};
use super::history::{Begun, History, Kind, Link};
use super::verdict::{Finding, Verdict};
use crate::memory::PAGE_SIZE;

/// What is wrong with a trace.
pub fn judge(discipline: &Discipline, trace: &[Event]) -> Vec<Finding> {
    let mut replay = Replay {
        history: History::new(discipline.clone()),
        declared: Declared::default(),
        calls: BTreeMap::new(),
        pointers: HashMap::new(),
        stays: HashMap::new(),
        found: BTreeSet::new(),
    };
    for (now, event) in trace.iter().enumerate() {
        replay.history.now = now;
        let found = replay.look_at(event);
        replay.found.extend(found.into_iter().map(|verdict| Finding { event: now, verdict }));
        replay.write_down(event);
    }
    replay.found.into_iter().collect()
}

struct Replay {
    history: History,
    declared: Declared,
    calls: BTreeMap<Thread, Call>,
    /// How often a table had been linked when a thread last read a pointer to it, and when that was.
    pointers: HashMap<(Thread, u64), (usize, usize)>,
    /// Since when what a thread reads is good, and whether that outlasts calls.
    stays: HashMap<Thread, (usize, bool)>,
    found: BTreeSet<Finding>,
}

/// A call that has not returned.
struct Call {
    since: usize,
    is_alone: bool,
    /// Where it took back notes of software's.
    noted: Vec<(u64, u64)>,
    /// The words that it has written to.
    written: BTreeSet<u64>,
}

/// A change that is looked at.
#[derive(Clone, Copy)]
struct Change {
    thread: Thread,
    at: u64,
    old: u64,
    new: u64,
    how: How,
    was: Meaning,
    is: Meaning,
    link: Link,
}

impl Replay {
    /// The rules that an event breaks. What it changes is written down already where a rule speaks of afterwards.
    fn look_at(&mut self, event: &Event) -> Vec<Verdict> {
        match *event {
            Event::Allocated { table, tables } => {
                let alive =
                    self.history.discipline.tables(table, tables).any(|table| self.history.kind(table) != Kind::Free);
                verdict_if(alive, Verdict::DoubleUse)
            }
            Event::Freed { table, tables } => {
                self.history.discipline.tables(table, tables).flat_map(|table| self.freed(table)).collect()
            }
            Event::Read { thread, at, .. } => verdict_if(self.is_late(thread, at.get()), Verdict::UseAfterFree),
            Event::Wrote { thread, at, old, new, how } => self.wrote(thread, at.get(), old, new, how),
            Event::Updated { at, new, .. } => self.updated(at.get(), new),
            Event::FlushBegun { thread, flush, vmid, .. } => {
                let is_ours = vmid == self.history.discipline.vmid;
                verdict_if(is_ours && !self.has_cause(thread, flush), Verdict::FlushWithoutCause)
            }
            Event::Returned { thread } => self.returned(thread),
            Event::Taken { start, len } => {
                self.declared.take(start, len);
                let reached = self.history.leaves().into_iter().any(|(_, leaf, link)| self.reaches_taken(leaf, link));
                verdict_if(reached, Verdict::ReachesTakenMemory)
            }
            Event::Withdrawn(range) => {
                self.declared.withdraw(range);
                let written =
                    self.history.leaves().into_iter().any(|(at, leaf, link)| self.writes_withdrawn(at, leaf, link));
                verdict_if(written, Verdict::WritesWhereWithdrawn)
            }
            Event::Annotated { range, word } => self.annotated(range, word),
            Event::Complete(range) => verdict_if(self.declared.is_exposed(guest_pages(range)), Verdict::LostDirtyPage),
            Event::Quiet => {
                let left = self.history.linked_words().any(|(at, word)| self.history.is_owned(at, word));
                verdict_if(left, Verdict::LeftLocked)
            }
            Event::Ended => verdict_if(self.history.any_table_left(), Verdict::Leak),
            _ => Vec::new(),
        }
    }

    /// Takes the event into the history.
    fn write_down(&mut self, event: &Event) {
        match *event {
            Event::Read { thread, at, value } => self.read_pointer(thread, at.get(), value),
            Event::FlushBegun { id, flush, vmid, cores, .. } if vmid == self.history.discipline.vmid => {
                self.history.begin(id, Begun { flush, at: self.history.now, cores, done: 0 });
            }
            Event::FlushDone { id } => self.history.finish(id),
            Event::Called { thread } => {
                self.calls.values_mut().for_each(|call| call.is_alone = false);
                let is_alone = self.calls.is_empty();
                self.history.call(thread, true);
                self.calls.insert(thread, {
                    let (noted, written) = (Vec::new(), BTreeSet::new());
                    Call { since: self.history.now, is_alone, noted, written }
                });
                if !self.stays.get(&thread).is_some_and(|(_, outlasts)| *outlasts) {
                    self.stays.insert(thread, (self.history.now, false));
                }
            }
            Event::Returned { thread } => {
                self.history.call(thread, false);
                self.calls.remove(&thread);
            }
            Event::Left { thread } => _ = self.stays.insert(thread, (self.history.now, true)),
            Event::Entered { thread } => _ = self.stays.insert(thread, (self.history.now, false)),
            Event::Cleared(range) => self.declared.clear_notes(range),
            Event::Given { start, len } => self.declared.give(start, len),
            Event::Granted(range) => self.declared.grant(range),
            Event::Logged(range) => {
                self.declared.log(range);
                self.writable_pages().into_iter().for_each(|pages| self.declared.expose(pages));
            }
            Event::Unlogged(range) => self.declared.unlog(range),
            Event::Copied(range) => self.copied(range),
            Event::Allocated { table, tables } => self.history.allocate(table, tables),
            Event::Freed { table, tables } => self.history.free(table, tables),
            Event::Rooted { root, tables } => self.history.root(root, tables),
            Event::Uprooted { thread } => self.history.uproot(thread),
            _ => {}
        }
    }

    fn freed(&self, table: u64) -> Vec<Verdict> {
        let kind = self.history.kind(table);
        let mut found = verdict_if(kind == Kind::Free, Verdict::DoubleUse);
        if kind == Kind::Linked || self.history.is_cached(table) {
            found.push(Verdict::FreedWhileWalked);
        }
        found
    }

    /// Whether a thread uses a table that is gone, or by a pointer from another stay, from before it was linked again, or
    /// taken for another use.
    fn is_late(&self, thread: Thread, at: u64) -> bool {
        let table = self.history.discipline.table_of(at);
        let links = self.history.links(table);
        let known = self.pointers.get(&(thread, table));
        let since = self.stays.get(&thread).map_or(0, |(since, _)| *since);
        match self.history.kind(table) {
            Kind::Free => true,
            Kind::Linked => known.is_some_and(|&(then, read)| then < links || read < since),
            Kind::Private => {
                let is_current = known.is_some_and(|&(then, _)| then == links);
                is_current && self.history.taker(table).is_some_and(|taker| taker != thread)
            }
            Kind::Unlinked => false,
        }
    }

    fn read_pointer(&mut self, thread: Thread, at: u64, value: u64) {
        if let Some(link) = self.history.last_link(self.history.discipline.table_of(at))
            && let Meaning::Table(table) = self.history.discipline.meaning(value, link.level)
            && self.history.exists(table.get())
        {
            self.pointers.insert((thread, table.get()), (self.history.links(table.get()), self.history.now));
        }
    }
}

fn verdict_if(wrong: bool, verdict: Verdict) -> Vec<Verdict> {
    if wrong { vec![verdict] } else { Vec::new() }
}

// Changes of words.
impl Replay {
    fn wrote(&mut self, thread: Thread, at: u64, old: u64, new: u64, how: How) -> Vec<Verdict> {
        let table = self.history.discipline.table_of(at);
        let mut found = verdict_if(self.is_late(thread, at), Verdict::UseAfterFree);
        self.calls.get_mut(&thread).into_iter().for_each(|call| _ = call.written.insert(at));
        let is_owners = self.history.is_owned(at, old);
        if self.history.kind(table) == Kind::Unlinked && how == How::Store && !is_owners {
            found.extend(verdict_if(self.history.is_cached(table), Verdict::DoubleUse));
            self.history.recycle(table, thread);
            self.pointers.remove(&(thread, table));
        }
        if self.history.kind(table) == Kind::Private {
            self.history.recycle(table, thread);
        }
        let kind = self.history.kind(table);
        let Some(link) = self.history.last_link(table).filter(|_| matches!(kind, Kind::Linked | Kind::Unlinked)) else {
            self.history.write(at, new, thread);
            return found;
        };
        let meaning = |word| self.history.discipline.meaning(word, link.level);
        let change = Change { thread, at, old, new, how, was: meaning(old), is: meaning(new), link };
        found.extend(self.owner_rules(change, kind));
        let before = self.history.before_locked(at);
        found.extend(self.access_rules(change, before.map(|(_, word)| word)));
        self.history.write(at, new, thread);
        self.note(change);
        found.extend(self.word_rules(change, kind));
        if kind == Kind::Linked {
            if change.was != change.is {
                found.extend(self.link_rules(change, before == Some((thread, new))));
            }
            found.extend(self.note_rules(change, before.map(|(_, word)| word)));
        }
        found
    }

    /// Hardware's own changes: it can come only to tables that it still may walk.
    fn updated(&mut self, at: u64, new: u64) -> Vec<Verdict> {
        let table = self.history.discipline.table_of(at);
        let kind = self.history.kind(table);
        let found = verdict_if(kind != Kind::Linked && !self.history.is_cached(table), Verdict::FreedWhileWalked);
        self.keep_causes(at);
        self.history.write(at, new, Thread::MAX);
        let Some(link) = self.history.last_link(table).filter(|_| kind == Kind::Linked) else { return found };
        let is = self.history.discipline.meaning(new, link.level);
        self.history.has_sets |= is_of_set(is);
        found.into_iter().chain(self.leaf_rules(at, is, link)).collect()
    }

    fn owner_rules(&self, change: Change, kind: Kind) -> Vec<Verdict> {
        let Change { thread, at, old, how, link, .. } = change;
        let was_locked = self.history.discipline.is_locked(old, link.level);
        let locked_by = |at| self.history.before_locked(at).map(|(owner, _)| owner);
        match how {
            How::Swap => verdict_if(was_locked, Verdict::NotOwner),
            How::Exchange if kind == Kind::Linked => vec![Verdict::BlindChange],
            How::Exchange => {
                verdict_if(self.history.is_cached(self.history.discipline.table_of(at)), Verdict::FreedWhileWalked)
            }
            How::Store if was_locked => verdict_if(locked_by(at) != Some(thread), Verdict::NotOwner),
            How::Store if self.history.discipline.is_frozen(old, link.level) => {
                verdict_if(locked_by(link.above) != Some(thread), Verdict::NotOwner)
            }
            How::Store => vec![Verdict::NotOwner],
        }
    }

    /// Rules of what the word says now, and of what may be cached of what it said, or what others of its set did.
    fn word_rules(&mut self, change: Change, kind: Kind) -> Vec<Verdict> {
        let Change { at, new, was, is, link, .. } = change;
        self.history.has_sets |= is_of_set(is);
        let mut found = verdict_if(is == Meaning::Reserved, Verdict::Misconfigured);
        let discipline = &self.history.discipline;
        let own = self.history.cached(at).into_iter().map(|word| discipline.meaning(word, link.level));
        let used: Vec<_> = own.chain(self.history.lent_by_others(at, link)).collect();
        let is_block = matches!(is, Meaning::Leaf(_)) && link.level > Level::PAGE && discipline.breaks;
        let breaks = discipline.needs_break(was, is)
            || used.iter().any(|&meaning| discipline.needs_break(meaning, is))
            || (is_block && self.history.is_cached_below(at, link));
        let history = &self.history;
        let places = |table: Hpa| (table.get()..table.get() + discipline.table_bytes()).step_by(8);
        let words = |table: Hpa| places(table).map(|at| history.word(at));
        let breaks = breaks && !discipline.overlaps(used.iter().copied().chain([was]), new, link.level, words);
        found.extend(verdict_if(breaks, Verdict::BreakBeforeMake));
        let emptied = is.is_nothing() && !was.is_nothing();
        found.extend(verdict_if(emptied && !used.is_empty(), Verdict::EmptyWhileCached));
        if kind == Kind::Linked {
            found.extend(self.leaf_rules(at, is, link));
        }
        found
    }

    /// A leaf in a linked table, held against what was declared.
    fn leaf_rules(&mut self, at: u64, is: Meaning, link: Link) -> Vec<Verdict> {
        let Meaning::Leaf(leaf) = is else { return Vec::new() };
        let mut found = verdict_if(self.reaches_taken(leaf, link), Verdict::ReachesTakenMemory);
        found.extend(verdict_if(self.writes_withdrawn(at, leaf, link), Verdict::WritesWhereWithdrawn));
        if leaf.unnoticed {
            self.declared.expose(self.pages(at, leaf, link));
        }
        found
    }

    /// Tables that the change takes out of the tree and into it.
    fn link_rules(&mut self, change: Change, is_back: bool) -> Vec<Verdict> {
        let Change { thread, at, was, is, link, .. } = change;
        if let Meaning::Table(table) = was
            && self.history.last_link(table.get()).is_some_and(|below| below.above == at)
        {
            self.history.unlink(table.get(), thread);
        }
        let Meaning::Table(table) = is else { return Vec::new() };
        let (table, Some(below)) = (table.get(), link.level.below()) else { return Vec::new() };
        match self.history.kind(table) {
            Kind::Unlinked if is_back => {
                self.history.restore(table);
                return Vec::new();
            }
            Kind::Private => {}
            Kind::Unlinked if !self.history.is_cached(table) => {}
            _ => return vec![Verdict::DoubleUse],
        }
        let base = self.history.address(at, link);
        self.history.link(table, Link { above: at, level: below, base });
        let meaning = |(_, word)| self.history.discipline.meaning(word, below);
        let has_sets = self.history.written_words(table).map(meaning).any(is_of_set);
        self.history.has_sets |= has_sets;
        self.pointers.insert((thread, table), (self.history.links(table), self.history.now));
        verdict_if(!self.history.is_clean(table, below), Verdict::LinkedUnclean)
    }

    /// What somebody has taken hardware may put back: whoever took it cannot know, and flushes it.
    fn keep_causes(&mut self, at: u64) {
        let mut kept = Vec::new();
        for (word, link) in self.history.cached_with_links(at) {
            let owing = self.calls.iter().filter(|(thread, call)| self.owes(**thread, call.since, at, word, link));
            let start = self.history.address(at, link);
            let meaning = self.history.discipline.meaning(word, link.level);
            kept.extend(owing.map(|(thread, _)| (*thread, self.history.discipline.reach(meaning, start, link.level))));
        }
        for (thread, reach) in kept {
            self.calls.get_mut(&thread).into_iter().for_each(|call| call.noted.push(reach));
        }
    }

    /// A change that hardware cannot see is a cause for a flush all the same.
    fn note(&mut self, change: Change) {
        let Change { thread, at, old, new, was, is, link, .. } = change;
        let is_note = match (was, is) {
            (Meaning::Leaf(_), Meaning::Leaf(_)) => was.class(is) == Class::Same,
            (was, is) => was.is_leaf() && is.is_leaf() && !was.is_valid() && !is.is_valid(),
        };
        if is_note && old != new && self.history.kind(self.history.discipline.table_of(at)) == Kind::Linked {
            let (start, end) = self.history.discipline.reach(is, self.history.address(at, link), link.level);
            if let Some(call) = self.calls.get_mut(&thread) {
                call.noted.push((start, end));
            }
        }
    }
}

// Flushes and returns.
impl Replay {
    /// A thread that was alone all its call flushes what it changed, and no more.
    fn has_cause(&self, thread: Thread, flush: Flush) -> bool {
        let Some(call) = self.calls.get(&thread).filter(|call| call.is_alone) else { return true };
        let owed = self.owed_by(thread, call).filter_map(|(at, word, link)| {
            let discipline = &self.history.discipline;
            let (meaning, start) = (discipline.meaning(word, link.level), self.history.address(at, link));
            let is_covered = discipline.covers(flush, meaning, start, link.level);
            is_covered.then(|| discipline.reach(meaning, start, link.level))
        });
        let hull = owed.chain(call.noted.iter().copied()).reduce(|one, other| (one.0.min(other.0), one.1.max(other.1)));
        match (hull, flush) {
            (None, _) => self.history.is_root_loaded(),
            (Some(_), Flush::All) => true,
            (Some((start, end)), Flush::Leaves { range, .. } | Flush::Tables { range }) => {
                start <= range.start().get() && range.end().get() <= end
            }
        }
    }

    /// What a call has taken away and is still cached. It wrote to the word, or cut off its table.
    fn owed_by<'r>(&'r self, thread: Thread, call: &'r Call) -> impl Iterator<Item = (u64, u64, Link)> {
        let is_its = move |at: &u64| {
            let cut = self.history.unlinked_by(self.history.discipline.table_of(*at));
            call.written.contains(at) || cut.is_some_and(|(by, from)| by == thread && from >= call.since)
        };
        let words = self.history.open_words().into_iter().filter(is_its);
        let cached =
            words.flat_map(|at| self.history.cached_with_links(at).into_iter().map(move |it| (at, it.0, it.1)));
        cached.filter(move |&(at, word, link)| self.owes(thread, call.since, at, word, link))
    }

    /// Whether `thread` took away, in a call that began at `since`, what is still cached as `word`.
    fn owes(&self, thread: Thread, since: usize, at: u64, word: u64, link: Link) -> bool {
        let meaning = |word| self.history.discipline.meaning(word, link.level);
        let harmless = matches!(meaning(word).class(meaning(self.history.word(at))), Class::Same | Class::Wider)
            && self.history.kind(self.history.discipline.table_of(at)) != Kind::Free;
        let taker = self.history.taker_of(at, word);
        !harmless && taker.is_some_and(|(taker, when)| taker == thread && when >= since)
    }

    fn returned(&self, thread: Thread) -> Vec<Verdict> {
        let Some(call) = self.calls.get(&thread) else { return Vec::new() };
        let mut found = verdict_if(self.owed_by(thread, call).next().is_some(), Verdict::ReturnedUnflushed);
        let owns = self.history.locked_words().any(|(owner, since)| owner == thread && since >= call.since);
        found.extend(verdict_if(owns, Verdict::LeftLocked));
        found
    }
}

// What the guest may do.
impl Replay {
    fn reaches_taken(&self, leaf: Leaf, link: Link) -> bool {
        leaf.permissions != slat::host::Permissions::NONE
            && self.declared.is_taken(leaf.output, self.history.discipline.span(link.level) << leaf.set_bits)
    }

    fn writes_withdrawn(&self, at: u64, leaf: Leaf, link: Link) -> bool {
        leaf.permissions.write() && self.declared.is_withdrawn(self.pages(at, leaf, link))
    }

    /// The pages for which hardware may use the leaf.
    fn pages(&self, at: u64, leaf: Leaf, link: Link) -> std::ops::Range<u64> {
        let start = self.history.address(at, link);
        let (first, end) = self.history.discipline.reach(Meaning::Leaf(leaf), start, link.level);
        first / PAGE_SIZE..end / PAGE_SIZE
    }

    /// Pages that may be written to without a note of hardware's.
    fn writable_pages(&self) -> Vec<std::ops::Range<u64>> {
        let leaves = self.history.leaves().into_iter().filter(|(_, leaf, _)| leaf.unnoticed);
        leaves.map(|(at, leaf, link)| self.pages(at, leaf, link)).collect()
    }

    fn copied(&mut self, range: GpaRange) {
        let writable = self.writable_pages();
        for page in guest_pages(range) {
            self.declared.copied(page, writable.iter().any(|pages| pages.contains(&page)));
        }
    }
}

/// Whether a leaf stands for others, too.
fn is_of_set(meaning: Meaning) -> bool {
    matches!(meaning, Meaning::Leaf(leaf) if leaf.set_bits > 0)
}

/// As a physical address.
pub(super) const fn hpa(table: u64) -> Hpa {
    Hpa::new(table)
}
