//! Planted bugs: what shows that a checker can fail. Each is planted outside of the engine, in what it stands on: its
//! atomics, its format, its host.

use std::cell::Cell;
use std::fmt;

/// A bug to plant, or none.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Plant {
    /// The engine as it is, on ground that holds.
    Nothing,

    /// Atomics: no fence after this read-modify-write.
    NoFenceAfter(Shape),
    /// Atomics: no fence of its own is one.
    NoFullFence,
    /// Atomics: entries of tables are loaded Relaxed, not Acquire.
    RelaxedEntryLoads,
    /// Atomics: entries of tables are compared and exchanged Relaxed, so a table is linked unpublished.
    RelaxedEntryChanges,
    /// Atomics: entries of tables are stored Relaxed, so a split publishes a table that may look empty.
    RelaxedEntryStores,
    /// Atomics: words outside of tables are loaded Relaxed.
    RelaxedLoads,
    /// Atomics: words outside of tables are stored Relaxed.
    RelaxedStores,
    /// Atomics: words outside of tables are exchanged Relaxed.
    RelaxedSwaps,
    /// Atomics: a compare-and-swap of an entry is a comparison, then a store.
    TornEntryChanges,
    /// Atomics: an exchange of a word outside of tables is a load, then a store.
    TornSwaps,
    /// Atomics: a change of the word's shape is not made at all.
    Unmade(Shape),
    /// Atomics: bits that are set already are not set again (R5: "never test first").
    TestBeforeSet,
    /// Atomics: a leaf is made writable only after the page was marked.
    MarksFirst,
    /// Atomics: a page is marked and its summary bit is not set.
    SummaryUnset,
    /// Atomics: an entry is locked by an exchange, whatever it holds.
    LocksByExchange,
    /// Atomics: an entry is frozen by an exchange, whatever it holds.
    FreezesByExchange,
    /// Atomics: a word outside of tables that is read again after an entry was locked says what it said before.
    NoRecheck,
    /// Atomics: who gives a locked entry back empty forgets to.
    LeavesLocked,

    /// Format: no change needs break-before-make.
    NothingBreaks,
    /// Format: withdrawing write permission for good leaves the note that it may come back.
    RevokedMayReturn,
    /// Format: write-protecting an entry of this level changes nothing.
    UnprotectedLevel(u8),
    /// Format: an entry that is locked looks empty.
    LockedLooksEmpty,
    /// Format: what hardware has noted of writes is not seen.
    WrittenForgotten,
    /// Format: a table does not say that annotations lie below.
    NoteForgotten,
    /// Format: a member of a contiguous group looks like a leaf of its own, so that it is changed without a break.
    MemberTakenForLeaf,
    /// Format: what hardware can do without break-before-make is broken all the same: a guest faults for nothing.
    EverythingBreaks,
    /// Format: an entry that changes its size is software's at once, before the flush.
    NothingHeld,
    /// Format: the children of a table that is collapsed under hardware's eyes may be changed.
    NothingFrozen,
    /// Format: where leaves of two sizes may be cached, they are flushed by address.
    SizesFlushedByAddress,
    /// Format: an entry that is frozen looks empty.
    FrozenLooksEmpty,
    /// Format: every leaf is read as writable, so that leaves of different permissions look alike.
    DecodesWritable,
    /// Format: regions of invalidations are smaller than the largest leaf.
    SmallShards,

    /// Host: a flush does nothing.
    NoFlush,
    /// Host: a flush reaches the first page of its range only.
    FlushesFirstPage,
    /// Host: a flush of leaves takes its level hint for one level less.
    FlushesLevelBelow,
    /// Host: a flush of unlinked tables drops leaves and keeps cached walks.
    FlushKeepsWalks,
    /// Host: a flush of leaves reaches the last page of its range only.
    FlushesLastPage,
    /// Host: a flush reaches the first vCPU only.
    FlushesOneVcpu,
    /// Host: a flush of unlinked tables drops pages only.
    FlushesPagesOfTables,
    /// Host: a flush is for the guest addresses after its range.
    FlushesNeighbour,
    /// Host: waiting for a flush waits for the one before.
    LateFlush,
    /// Host: the local flush of a relaxed page does nothing.
    NoLocalFlush,
    /// Host: tables come with the contents of their last use.
    TablesNotZero,
    /// Host: what was translated once is never looked up again.
    AnswersFromMemory,
    /// Host: memory is taken back before the engine has unmapped it.
    TakenTooEarly,
    /// Host: its own tables change after the one-shot unmapping, not before.
    ChangedTooLate,
    /// Host: an invalidation ends before the host has changed its own tables.
    EndsTooEarly,
    /// Host: what a harvest took is copied before it returns.
    CopiedTooEarly,
    /// Host: a guest is still running while its VM is torn down.
    GuestStillRuns,
}

/// What a read-modify-write looks like: the engine's words have no names here, but their changes have shapes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Shape {
    /// A record that was idle is marked: a section begins.
    Section,
    /// An entry is locked.
    Lock,
    /// An entry is changed in one step: a leaf relaxed or protected, a table linked.
    Change,
    /// Bits are set: a page is marked, or a summary.
    Mark,
    /// Bits are cleared: marks are taken, or a summary bit.
    Take,
    /// An event is counted in a shard.
    Event,
    /// An invalidation is opened in a shard.
    Open,
    /// One is added: a gather counts as unflushed.
    Count,
    /// Anything else.
    Other,
}

/// Every bug.
pub const ALL: &[Plant] = &[
    Plant::NoFenceAfter(Shape::Section),
    Plant::NoFenceAfter(Shape::Lock),
    Plant::NoFenceAfter(Shape::Change),
    Plant::NoFenceAfter(Shape::Mark),
    Plant::NoFenceAfter(Shape::Take),
    Plant::NoFullFence,
    Plant::RelaxedEntryLoads,
    Plant::RelaxedEntryChanges,
    Plant::RelaxedEntryStores,
    Plant::RelaxedLoads,
    Plant::RelaxedStores,
    Plant::RelaxedSwaps,
    Plant::TornEntryChanges,
    Plant::TornSwaps,
    Plant::Unmade(Shape::Section),
    Plant::Unmade(Shape::Mark),
    Plant::Unmade(Shape::Event),
    Plant::Unmade(Shape::Open),
    Plant::Unmade(Shape::Count),
    Plant::TestBeforeSet,
    Plant::MarksFirst,
    Plant::SummaryUnset,
    Plant::LocksByExchange,
    Plant::FreezesByExchange,
    Plant::NoRecheck,
    Plant::LeavesLocked,
    Plant::NothingBreaks,
    Plant::RevokedMayReturn,
    Plant::UnprotectedLevel(0),
    Plant::LockedLooksEmpty,
    Plant::WrittenForgotten,
    Plant::NoteForgotten,
    Plant::MemberTakenForLeaf,
    Plant::FrozenLooksEmpty,
    Plant::EverythingBreaks,
    Plant::NothingHeld,
    Plant::NothingFrozen,
    Plant::SizesFlushedByAddress,
    Plant::DecodesWritable,
    Plant::SmallShards,
    Plant::NoFlush,
    Plant::FlushesFirstPage,
    Plant::FlushesLevelBelow,
    Plant::FlushKeepsWalks,
    Plant::FlushesLastPage,
    Plant::FlushesOneVcpu,
    Plant::FlushesPagesOfTables,
    Plant::FlushesNeighbour,
    Plant::LateFlush,
    Plant::NoLocalFlush,
    Plant::TablesNotZero,
    Plant::AnswersFromMemory,
    Plant::TakenTooEarly,
    Plant::ChangedTooLate,
    Plant::EndsTooEarly,
    Plant::CopiedTooEarly,
    Plant::GuestStillRuns,
];

thread_local! {
    static CURRENT: Cell<Plant> = const { Cell::new(Plant::Nothing) };
    static LAST: Cell<Shape> = const { Cell::new(Shape::Other) };
}

impl Plant {
    /// The bug planted on this operating-system thread, which all threads of a model share.
    pub fn current() -> Self {
        CURRENT.get()
    }

    /// Whether this very bug is planted.
    pub fn is_planted(self) -> bool {
        CURRENT.get() == self
    }

    /// Plants the bug until the guard is dropped.
    pub fn plant(self) -> Planted {
        CURRENT.set(self);
        Planted
    }
}

impl fmt::Display for Plant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// A bug is planted as long as this lives.
#[derive(Debug)]
pub struct Planted;

impl Drop for Planted {
    fn drop(&mut self) {
        CURRENT.set(Plant::Nothing);
    }
}

impl Shape {
    /// Notes that this was the last read-modify-write.
    pub(crate) fn done(self) {
        LAST.set(self);
    }

    /// The last read-modify-write; just after one, the caller's own, since no switch lies between it and its fence.
    pub(crate) fn last() -> Self {
        LAST.get()
    }
}
