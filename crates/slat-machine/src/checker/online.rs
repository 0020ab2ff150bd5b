//! The evaluator that runs beside the program: it keeps the state of every entry and of every table, and looks at each
//! event once.

mod guest;

use std::collections::{BTreeMap, BTreeSet, HashMap};

use slat::addr::{Gpa, Hpa, Level};
use slat::host::{Access, Flush};

use super::declared::{Declared, guest_pages};
use super::discipline::{Class, Discipline, Meaning};
use super::event::{Event, How, Thread};
use super::frames::{Frame, Frames, Status, addresses, index_of, table_of};
use super::may_tlb::{MayTlb, Stale};
use super::verdict::{Finding, Verdict};
use crate::trace::FRAME_SIZE;

/// The evaluator. Feed it every event of a trace, in order.
#[derive(Clone, Debug)]
pub struct Checker {
    discipline: Discipline,
    frames: Frames,
    tlb: MayTlb,
    declared: Declared,
    root: Vec<u64>,
    /// When the tree was cut off at its root, as long as cores may have the root loaded.
    loaded: Option<usize>,
    /// Who owns the words that are locked, and what they held before.
    owners: HashMap<u64, (Thread, u64)>,
    /// Threads inside of the engine, and whether each has been alone there since it came.
    inside: BTreeMap<Thread, bool>,
    /// Guest addresses between the leaves of which each thread inside has taken back a note of software's: hardware
    /// reads the same as before, but whoever does it cannot always know.
    noted: BTreeMap<Thread, (u64, u64)>,
    /// The generation of the table that a thread last read a pointer to.
    pointers: HashMap<(Thread, u64), u32>,
    flushes: HashMap<u64, Begun>,
    now: usize,
    findings: Vec<Finding>,
}

/// A flush that is not complete yet.
#[derive(Clone, Copy, Debug)]
struct Begun {
    flush: Flush,
    at: usize,
    cores: u64,
}

/// A change of a word of a table that hardware may walk, or might have.
#[derive(Clone, Copy)]
struct Change {
    thread: Thread,
    at: u64,
    how: How,
    old: u64,
    new: u64,
    level: Level,
    was: Meaning,
    is: Meaning,
}

impl Checker {
    /// An evaluator that has seen nothing yet.
    pub fn new(discipline: Discipline) -> Self {
        Self {
            discipline,
            frames: Frames::default(),
            tlb: MayTlb::default(),
            declared: Declared::default(),
            root: Vec::new(),
            loaded: None,
            owners: HashMap::new(),
            inside: BTreeMap::new(),
            noted: BTreeMap::new(),
            pointers: HashMap::new(),
            flushes: HashMap::new(),
            now: 0,
            findings: Vec::new(),
        }
    }

    /// What is wrong with a whole trace.
    pub fn judge(discipline: Discipline, trace: &[Event]) -> Vec<Finding> {
        let mut checker = Self::new(discipline);
        trace.iter().for_each(|event| checker.step(event));
        checker.findings
    }

    /// What was wrong so far.
    pub fn findings(&self) -> &[Finding] {
        &self.findings
    }

    /// How many events there have been.
    pub fn events(&self) -> usize {
        self.now
    }

    /// How many stale values cores may still use.
    pub fn stale(&self) -> usize {
        self.tlb.all().count()
    }

    /// What is cached and has to be flushed before a call returns: the word, the value, and whose call it is.
    pub fn owed(&self) -> Vec<(Hpa, u64, Thread)> {
        let owed = |(at, stale): (u64, &Stale)| Some((Hpa::new(at), stale.value, stale.owed?));
        self.tlb.all().filter_map(owed).collect()
    }

    /// The next event.
    pub fn step(&mut self, event: &Event) {
        match *event {
            Event::Allocated { table, tables } => {
                if !self.frames.allocate(table, tables) {
                    self.find(Verdict::DoubleUse);
                }
            }
            Event::Freed { table, tables } => self.freed(table, tables),
            Event::Rooted { root, tables } => self.rooted(root, tables),
            Event::Uprooted { thread } => self.uprooted(thread),
            Event::Read { thread, at, value } => self.read(thread, at.get(), value),
            Event::Wrote { thread, at, old, new, how } => self.wrote(thread, at.get(), old, new, how),
            Event::FlushBegun { thread, id, flush, vmid, cores } => self.flush_begun(thread, id, flush, vmid, cores),
            Event::FlushDone { id } => self.flush_done(id),
            Event::Called { thread } => self.called(thread),
            Event::Returned { thread } => self.returned(thread),
            Event::Taken { start, len } => {
                self.declared.take(start, len);
                self.look_at_all_leaves(Verdict::ReachesTakenMemory, Self::reaches_taken);
            }
            Event::Given { start, len } => self.declared.give(start, len),
            Event::Withdrawn(range) => {
                self.declared.withdraw(range);
                self.look_at_all_leaves(Verdict::WritesWhereWithdrawn, Self::writes_where_withdrawn);
            }
            Event::Granted(range) => self.declared.grant(range),
            Event::Logged(range) => self.logged(range),
            Event::Unlogged(range) => self.declared.unlog(range),
            Event::Copied(range) => self.copied(range),
            Event::Complete(range) => {
                if self.declared.is_exposed(guest_pages(range)) {
                    self.find(Verdict::LostDirtyPage);
                }
            }
            Event::Quiet => self.quiet(),
            Event::Ended => {
                if self.frames.iter().any(|(_, frame)| frame.status != Status::Free) {
                    self.find(Verdict::Leak);
                }
            }
        }
        self.now += 1;
    }

    /// Each verdict is given once an event.
    fn find(&mut self, verdict: Verdict) {
        let finding = Finding { event: self.now, verdict };
        if !self.findings.contains(&finding) {
            self.findings.push(finding);
        }
    }

    fn find_if(&mut self, wrong: bool, verdict: Verdict) {
        if wrong {
            self.find(verdict);
        }
    }
}

// The life of tables.
impl Checker {
    fn rooted(&mut self, root: Hpa, tables: usize) {
        let level = self.discipline.root_level;
        let span = self.discipline.table_span(level);
        self.root = addresses(root, tables).collect();
        for (number, at) in (0..).zip(self.root.clone()) {
            if let Some(frame) = self.frames.get_mut(at) {
                (frame.status, frame.level, frame.base) = (Status::Linked, level, Gpa::new(number * span));
            }
        }
    }

    fn uprooted(&mut self, thread: Thread) {
        self.loaded = Some(self.now);
        self.root.clone().into_iter().for_each(|root| self.unlink(root, thread));
    }

    fn freed(&mut self, table: Hpa, tables: usize) {
        for at in addresses(table, tables) {
            let status = self.frames.get(at).map_or(Status::Free, |frame| frame.status);
            self.find_if(status == Status::Free, Verdict::DoubleUse);
            self.find_if(status == Status::Linked || self.is_cached(at), Verdict::FreedWhileWalked);
            if let Some(frame) = self.frames.get_mut(at) {
                frame.status = Status::Free;
            }
        }
    }

    /// Whether a walker may still come to a table, or has cached something of it.
    fn is_cached(&self, table: u64) -> bool {
        (self.loaded.is_some() && self.root.contains(&table))
            || self.is_walked(table)
            || self.tlb.between(table, table + FRAME_SIZE).next().is_some()
    }

    /// Whether a walker may come to an unlinked table by a pointer that it has cached.
    fn is_walked(&self, table: u64) -> bool {
        let Some(frame) = self.frames.get(table) else { return false };
        let Some(level) = frame.level.above() else { return false };
        let pointers = self.tlb.at(frame.above).iter();
        let points_here =
            |stale: &Stale| self.discipline.meaning(stale.value, level) == Meaning::Table(Hpa::new(table));
        frame.status != Status::Free && frame.above != 0 && pointers.into_iter().any(points_here)
    }

    /// A table leaves the tree, with all below it: what it says may stay cached.
    fn unlink(&mut self, table: u64, thread: Thread) {
        let now = self.now;
        let Some(frame) = self.frames.get_mut(table).filter(|frame| frame.status == Status::Linked) else { return };
        frame.status = Status::Unlinked(now);
        for (at, value, meaning) in self.valid_words(table) {
            let stale = Stale { value, since: now, cores: self.discipline.cores, owed: Some(thread) };
            self.tlb.add(at, stale);
            if let Meaning::Table(below) = meaning {
                self.unlink(below.get(), thread);
            }
        }
    }

    /// A table that was unlinked is in the tree again, as it was.
    fn restore(&mut self, table: u64) {
        let is_unlinked = |frame: &Frame| matches!(frame.status, Status::Unlinked(_));
        let Some(frame) = self.frames.get_mut(table).filter(|frame| is_unlinked(frame)) else { return };
        frame.status = Status::Linked;
        let level = frame.level;
        for (at, _, meaning) in self.valid_words(table) {
            self.settle(at, level, meaning, None);
            if let Meaning::Table(below) = meaning {
                self.restore(below.get());
            }
        }
    }

    /// The words of a table that hardware may cache: where, what, and what it means.
    fn valid_words(&self, table: u64) -> Vec<(u64, u64, Meaning)> {
        let Some(frame) = self.frames.get(table) else { return Vec::new() };
        let meaning = |word| self.discipline.meaning(word, frame.level);
        let place = |index: usize| table + 8 * index as u64;
        let words = frame.words.iter().enumerate().filter(|(_, word)| **word != 0);
        let all = words.map(|(index, &word)| (place(index), word, meaning(word)));
        all.filter(|(.., meaning)| meaning.is_valid()).collect()
    }

    /// A word that points to `table` was stored at `at`, whose table's entries are of `level`. `is_back`: the
    /// owner of the word puts back what was there before.
    fn link(&mut self, table: u64, at: u64, level: Level, thread: Thread, is_back: bool) {
        let Some(frame) = self.frames.get(table) else { return self.find(Verdict::DoubleUse) };
        match frame.status {
            Status::Unlinked(_) if is_back => return self.restore(table),
            Status::Private(_) => {}
            Status::Unlinked(_) if !self.is_cached(table) => {}
            _ => return self.find(Verdict::DoubleUse),
        }
        let base = self.address_of(at, level);
        let Some(below) = level.below() else { return };
        self.find_if(!self.is_clean(table, below), Verdict::LinkedUnclean);
        if let Some(frame) = self.frames.get_mut(table) {
            frame.status = Status::Linked;
            frame.generation += 1;
            (frame.level, frame.base, frame.above) = (below, base, at);
            self.pointers.insert((thread, table), frame.generation);
        }
    }

    /// A table that is to be linked is empty, or full of leaves.
    fn is_clean(&self, table: u64, level: Level) -> bool {
        let Some(frame) = self.frames.get(table) else { return false };
        let is_leaf = |word: &u64| self.discipline.meaning(*word, level).is_leaf();
        frame.words.iter().all(|word| *word == 0) || frame.words.iter().all(is_leaf)
    }

    /// The first guest address that the word at `at` is for.
    fn address_of(&self, at: u64, level: Level) -> Gpa {
        let base = self.frames.get(table_of(at)).map_or(0, |frame| frame.base.get());
        Gpa::new(base + index_of(at) as u64 * self.discipline.span(level))
    }
}

// Words.
impl Checker {
    fn read(&mut self, thread: Thread, at: u64, value: u64) {
        self.used(thread, at);
        if let Some(frame) = self.frames.get(table_of(at)).filter(|frame| frame.status != Status::Free)
            && let Meaning::Table(table) = self.discipline.meaning(value, frame.level)
            && let Some(below) = self.frames.get(table.get())
        {
            self.pointers.insert((thread, table.get()), below.generation);
        }
    }

    /// A thread uses a word of a table: one that is there, and by a pointer to what it is now.
    fn used(&mut self, thread: Thread, at: u64) {
        let table = table_of(at);
        let wrong = match self.frames.get(table) {
            None => true,
            Some(frame) if frame.status == Status::Free => true,
            Some(frame) => match self.pointers.get(&(thread, table)) {
                Some(&known) if known < frame.generation => frame.status == Status::Linked,
                Some(_) => matches!(frame.status, Status::Private(Some(owner)) if owner != thread),
                None => false,
            },
        };
        self.find_if(wrong, Verdict::UseAfterFree);
    }

    fn wrote(&mut self, thread: Thread, at: u64, old: u64, new: u64, how: How) {
        self.used(thread, at);
        let table = table_of(at);
        self.recycle(thread, at, old, how);
        let Some(frame) = self.frames.get(table) else { return };
        let (status, level) = (frame.status, frame.level);
        let is_back = self.owners.get(&at) == Some(&(thread, new));
        if matches!(status, Status::Linked | Status::Unlinked(_)) {
            let meaning = |word| self.discipline.meaning(word, level);
            let change = Change { thread, at, how, old, new, level, was: meaning(old), is: meaning(new) };
            self.check_owner(change, status);
            self.find_if(change.is == Meaning::Reserved, Verdict::Misconfigured);
            self.make_stale(change, status);
            self.check_break(change);
            let emptied = change.is == Meaning::Empty && change.was != Meaning::Empty;
            self.find_if(emptied && !self.tlb.at(at).is_empty(), Verdict::EmptyWhileCached);
        }
        if let Some(frame) = self.frames.get_mut(table) {
            frame.words[index_of(at)] = new;
        }
        if status == Status::Linked {
            self.follow(thread, at, old, new, level, is_back);
        }
    }

    /// A store to a table that was unlinked makes it its writer's own, to be filled anew; but the last stores of those
    /// who own entries in it.
    fn recycle(&mut self, thread: Thread, at: u64, old: u64, how: How) {
        let table = table_of(at);
        let is_cached = self.is_cached(table);
        let Some(frame) = self.frames.get_mut(table) else { return };
        let is_owners = self.discipline.is_locked(old, frame.level) || self.discipline.is_frozen(old, frame.level);
        match frame.status {
            Status::Unlinked(_) if how == How::Store && !is_owners => {
                frame.status = Status::Private(Some(thread));
                self.pointers.retain(|(user, known), _| *user != thread || *known != table);
                self.find_if(is_cached, Verdict::DoubleUse);
            }
            Status::Private(_) => frame.status = Status::Private(Some(thread)),
            _ => {}
        }
    }

    fn check_owner(&mut self, change: Change, status: Status) {
        let Change { thread, at, how, old, new, level, .. } = change;
        let owner = self.owners.remove(&at);
        if self.discipline.is_locked(new, level) {
            self.owners.insert(at, (thread, old));
        }
        let was_locked = self.discipline.is_locked(old, level);
        match how {
            How::Swap => self.find_if(was_locked, Verdict::NotOwner),
            How::Exchange if status == Status::Linked => self.find(Verdict::BlindChange),
            How::Exchange => self.find_if(self.is_cached(table_of(at)), Verdict::FreedWhileWalked),
            How::Store if was_locked => {
                self.find_if(owner.is_none_or(|(owner, _)| owner != thread), Verdict::NotOwner);
            }
            How::Store if self.discipline.is_frozen(old, level) => {
                let above = self.frames.get(table_of(at)).map_or(0, |frame| frame.above);
                let owns = self.owners.get(&above).is_some_and(|(owner, _)| *owner == thread);
                self.find_if(!owns, Verdict::NotOwner);
            }
            How::Store => self.find(Verdict::NotOwner),
        }
    }

    /// What hardware may have cached of the word until now, or may cache of it although it is unlinked.
    fn make_stale(&mut self, change: Change, status: Status) {
        let Change { thread, at, old, new, was, is, level, .. } = change;
        let cores = self.discipline.cores;
        let owed = self.discipline.takes_away(was, is).then_some(thread);
        match status {
            Status::Linked => {
                if owed.is_some() || (was.is_valid() && was.class(is) != Class::Same) {
                    self.tlb.add(at, Stale { value: old, since: self.now, cores, owed });
                }
                if Self::is_note(was, is) && old != new {
                    let start = self.address_of(at, level).get();
                    let (first, end) = self.noted.get(&thread).copied().unwrap_or((start, start));
                    self.noted.insert(thread, (first.min(start), end.max(start + self.discipline.span(level))));
                }
                self.settle(at, level, is, owed);
                self.check_leaf(at, level, is);
            }
            Status::Unlinked(since) if self.is_walked(table_of(at)) => {
                let discipline = &self.discipline;
                self.tlb.owe_at(at, |stale| match discipline.meaning(stale.value, level).class(is) {
                    Class::Same | Class::Wider => None,
                    _ if stale.value == old => owed,
                    _ => stale.owed,
                });
                if is.is_valid() {
                    self.tlb.add(at, Stale { value: new, since, cores, owed: None });
                }
            }
            _ => {}
        }
    }

    /// Whether a change is one of software's notes, as far as hardware can tell: in a leaf that it uses, or in an old one.
    fn is_note(was: Meaning, is: Meaning) -> bool {
        match (was, is) {
            (Meaning::Leaf(_), Meaning::Leaf(_)) => was.class(is) == Class::Same,
            (Meaning::Old(_), Meaning::Old(_)) => true,
            _ => false,
        }
    }

    /// What the word says again is not stale, and what says less than the word harms nobody. The rest has to be flushed
    /// by who took it away: `taker`, if the word's change took anything away, else whoever it was before.
    fn settle(&mut self, at: u64, level: Level, is: Meaning, taker: Option<Thread>) {
        let discipline = &self.discipline;
        self.tlb.retain_at(at, |stale| match discipline.meaning(stale.value, level) {
            Meaning::Old(_) => !is.is_leaf(),
            was => was != is,
        });
        self.tlb.owe_at(at, |stale| match discipline.meaning(stale.value, level).class(is) {
            Class::Same | Class::Wider => None,
            Class::Narrower | Class::Other => stale.owed.or(taker),
        });
    }

    /// A leaf that is new to hardware, held against what was declared.
    fn check_leaf(&mut self, at: u64, level: Level, is: Meaning) {
        let Meaning::Leaf(leaf) = is else { return };
        let start = self.address_of(at, level);
        self.find_if(self.reaches_taken(start, level, leaf), Verdict::ReachesTakenMemory);
        self.find_if(self.writes_where_withdrawn(start, level, leaf), Verdict::WritesWhereWithdrawn);
        if leaf.permissions.allow(Access::Write) {
            let pages = self.pages_of(start, level);
            self.declared.expose(pages);
        }
    }

    /// Break-before-make: nobody has cached what contradicts the new value, at this level or below.
    fn check_break(&mut self, change: Change) {
        let Change { at, new, was, is, level, .. } = change;
        let cached = self.tlb.at(at).iter().map(|stale| self.discipline.meaning(stale.value, level));
        let words = |table: Hpa| self.frames.get(table.get()).into_iter().flat_map(|frame| frame.words.iter().copied());
        if self.discipline.overlaps(cached.chain([was]), new, level, words) {
            return;
        }
        let contradicts = |stale: &Stale| self.discipline.needs_break(self.discipline.meaning(stale.value, level), is);
        let is_leaf = matches!(is, Meaning::Leaf(_)) && self.discipline.breaks;
        let wrong = self.discipline.needs_break(was, is)
            || self.tlb.at(at).iter().any(contradicts)
            || (is_leaf && level > Level::PAGE && self.has_stale_below(at, level));
        self.find_if(wrong, Verdict::BreakBeforeMake);
    }

    /// Whether smaller leaves are cached for what the entry at `at` covers.
    fn has_stale_below(&self, at: u64, level: Level) -> bool {
        let start = self.address_of(at, level).get();
        let end = start + self.discipline.span(level);
        self.tlb.all().any(|(below, _)| {
            let Some(frame) = self.frames.get(table_of(below)).filter(|frame| frame.level < level) else {
                return false;
            };
            (start..end).contains(&self.address_of(below, frame.level).get())
        })
    }

    /// Tables that the change links or unlinks.
    fn follow(&mut self, thread: Thread, at: u64, old: u64, new: u64, level: Level, is_back: bool) {
        let [was, is] = [old, new].map(|word| self.discipline.meaning(word, level));
        if was == is {
            return;
        }
        if let Meaning::Table(table) = was
            && self.frames.get(table.get()).is_some_and(|frame| frame.above == at)
        {
            self.unlink(table.get(), thread);
        }
        if let Meaning::Table(table) = is {
            self.link(table.get(), at, level, thread, is_back);
        }
    }
}

// Flushes and calls.
impl Checker {
    fn flush_begun(&mut self, thread: Thread, id: u64, flush: Flush, vmid: u16, cores: u64) {
        if vmid != self.discipline.vmid {
            return;
        }
        self.flushes.insert(id, Begun { flush, at: self.now, cores });
        let is_alone = self.inside.get(&thread) == Some(&true);
        self.find_if(is_alone && !self.has_cause(thread, flush), Verdict::FlushWithoutCause);
    }

    /// Whether somebody waits for what the flush covers, and for nothing less.
    fn has_cause(&self, thread: Thread, flush: Flush) -> bool {
        let owed = self.tlb.all().filter(|(_, stale)| stale.owed.is_some());
        let spans = owed.filter_map(|(at, stale)| self.covered_span(flush, at, stale));
        let spans = spans.chain(self.noted.get(&thread).copied());
        let hull = spans.reduce(|(start, end), (first, last)| (start.min(first), end.max(last)));
        match (hull, flush) {
            (None, _) => self.loaded.is_some(),
            (Some(_), Flush::All) => true,
            (Some((start, end)), Flush::Leaves { range, .. } | Flush::Tables { range }) => {
                start <= range.start().get() && range.end().get() <= end
            }
        }
    }

    /// The guest addresses of the stale word at `at`, if the flush drops it.
    fn covered_span(&self, flush: Flush, at: u64, stale: &Stale) -> Option<(u64, u64)> {
        let level = self.frames.get(table_of(at))?.level;
        let start = self.address_of(at, level).get();
        let is_leaf = self.discipline.meaning(stale.value, level).is_leaf();
        let covered = self.discipline.covers(flush, start, level, is_leaf);
        covered.then(|| (start, start + self.discipline.span(level)))
    }

    fn flush_done(&mut self, id: u64) {
        let Some(Begun { flush, at: begun, cores }) = self.flushes.remove(&id) else { return };
        if flush == Flush::All && cores == self.discipline.cores {
            self.loaded = self.loaded.filter(|&cut| cut > begun);
        }
        let mut tlb = std::mem::take(&mut self.tlb);
        let kept = |at, stale: &Stale| matches!(flush, Flush::Leaves { .. }) && self.may_be_read_again(&tlb, at, stale);
        let again: BTreeSet<_> =
            tlb.all().filter(|(at, stale)| kept(*at, stale)).map(|(at, s)| (at, s.value)).collect();
        tlb.flush(cores, |at, stale| {
            stale.since <= begun && !again.contains(&(at, stale.value)) && self.covered_span(flush, at, stale).is_some()
        });
        self.tlb = tlb;
    }

    /// Whether the word is what an unlinked table still says, to which a pointer is cached that a flush of leaves spares.
    fn may_be_read_again(&self, tlb: &MayTlb, at: u64, stale: &Stale) -> bool {
        let Some(frame) = self.frames.get(table_of(at)) else { return false };
        matches!(frame.status, Status::Unlinked(_))
            && self.frames.word(at) == stale.value
            && !tlb.at(frame.above).is_empty()
    }

    fn called(&mut self, thread: Thread) {
        let is_alone = self.inside.is_empty();
        self.inside.values_mut().for_each(|alone| *alone = false);
        self.inside.insert(thread, is_alone);
        self.noted.remove(&thread);
    }

    fn returned(&mut self, thread: Thread) {
        self.inside.remove(&thread);
        let unflushed = self.tlb.forgive(thread);
        self.find_if(unflushed, Verdict::ReturnedUnflushed);
        let owns = self.owners.values().any(|(owner, _)| *owner == thread);
        self.find_if(owns, Verdict::LeftLocked);
        self.owners.retain(|_, (owner, _)| *owner != thread);
    }

    fn quiet(&mut self) {
        let discipline = &self.discipline;
        let is_left = |word, level| discipline.is_locked(word, level) || discipline.is_frozen(word, level);
        let linked = self.frames.iter().filter(|(_, frame)| frame.status == Status::Linked);
        let mut words = linked.flat_map(|(_, frame)| frame.words.iter().map(|&word| (word, frame.level)));
        let left = words.any(|(word, level)| is_left(word, level));
        drop(words);
        self.find_if(left, Verdict::LeftLocked);
    }
}
