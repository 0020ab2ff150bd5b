//! The evaluator that runs beside the program: it keeps the state of every entry and of every table, and looks at each
//! event once.

mod access;
mod doubled;
mod flushes;
mod guest;
mod notes;
mod sets;
mod stays;
mod tables;
mod words;

use std::collections::{BTreeMap, BTreeSet, HashMap};

use slat::addr::{Hpa, Level};

use self::flushes::Begun;
use self::stays::{Inside, Pointer, Stay};
use super::declared::{Declared, guest_pages};
use super::discipline::{Discipline, Meaning};
use super::event::{Event, How, Thread};
use super::frames::{Frames, Status};
use super::may_tlb::{MayTlb, Stale};
use super::verdict::{Finding, Verdict};

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
    /// Who owns the words that are locked.
    owners: HashMap<u64, Owner>,
    /// Threads inside of the engine.
    inside: BTreeMap<Thread, Inside>,
    /// Guest addresses between the leaves of which each thread inside has taken back a note of software's, or something that
    /// hardware has put there again: nothing is cached, but whoever does it cannot always know.
    noted: BTreeMap<Thread, (u64, u64)>,
    /// Linked words that are leaves of sets, and the event at which each became what it is.
    sets: BTreeMap<u64, usize>,
    /// Words that are frozen, and were leaves that were accessed.
    frozen: BTreeSet<u64>,
    stays: HashMap<Thread, Stay>,
    /// The last pointer to a table that a thread has read.
    pointers: HashMap<(Thread, u64), Pointer>,
    flushes: HashMap<u64, Begun>,
    now: usize,
    findings: Vec<Finding>,
}

/// The owner of a locked word.
#[derive(Clone, Debug)]
struct Owner {
    thread: Thread,
    /// What the word held before.
    before: u64,
    /// What was cached of it then, and was nobody's to flush.
    unowed: Vec<u64>,
    /// Whether another leaf of its set, given up meanwhile by the same thread, was accessed.
    is_beside_accessed: bool,
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
            sets: BTreeMap::new(),
            frozen: BTreeSet::new(),
            stays: HashMap::new(),
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
            Event::Allocated { table, tables } => self.allocated(table, tables),
            Event::Freed { table, tables } => self.freed(table, tables),
            Event::Rooted { root, tables } => self.rooted(root, tables),
            Event::Uprooted { thread } => self.uprooted(thread),
            Event::Read { thread, at, value } => self.read(thread, at.get(), value),
            Event::Wrote { thread, at, old, new, how } => self.wrote(thread, at.get(), old, new, how),
            Event::Updated { at, old, new, .. } => self.updated(at.get(), old, new),
            Event::FlushBegun { thread, id, flush, vmid, cores } => self.flush_begun(thread, id, flush, vmid, cores),
            Event::FlushDone { id } => self.flush_done(id),
            Event::Called { thread } => self.called(thread),
            Event::Returned { thread } => self.returned(thread),
            Event::Left { thread } => self.left(thread),
            Event::Entered { thread } => self.entered(thread),
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
            Event::Annotated { range, word } => self.annotated(range, word),
            Event::Cleared(range) => self.declared.clear_notes(range),
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
