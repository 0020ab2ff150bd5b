//! Counters: one set per handle, written by its owner alone, summed on reading.

use crate::addr::Level;
use crate::sync::{Atomics, Ordering, Word};

/// Which counter.
#[derive(Clone, Copy)]
enum Counter {
    Tables,
    Waiting,
    /// Faults that mapped a page: each counts as a leaf, too.
    PagesFaultedIn,
    Mapped,
    Relaxed,
    Accessed,
    Spurious,
    Retries,
    Splits,
    GroupsMade,
    GroupsDissolved,
    Collapses,
    FlushedLeaves,
    FlushedTables,
    FlushedAll,
    FlushedLocal,
    /// The first of [`Level::COUNT`] counters.
    Leaves,
}

const COUNTERS: usize = Counter::Leaves as usize + Level::COUNT;

/// One handle's counters.
pub(crate) struct Tally<A: Atomics> {
    counts: [A::Statistic; COUNTERS],
}

/// The sum over handles. What was created by one and destroyed by another wraps around and cancels.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Counts([u64; COUNTERS]);

macro_rules! count_one {
    ($($(#[$doc:meta])* $name:ident => $counter:ident;)*) => {
        impl<A: Atomics> Tally<A> {
            $($(#[$doc])* #[inline(always)] pub(crate) fn $name(&self) { self.add(Counter::$counter as usize, 1); })*
        }
    };
}

count_one! {
    /// A fault mapped something; the leaf is counted apart.
    fault_mapped => Mapped;
    /// A fault mapped a page: a leaf appeared.
    page_faulted_in => PagesFaultedIn;
    relaxed => Relaxed;
    accessed => Accessed;
    spurious => Spurious;
    retried => Retries;
    split => Splits;
    collapsed => Collapses;
    /// A contiguous group was mapped; its leaves are counted apart.
    group_made => GroupsMade;
    group_dissolved => GroupsDissolved;
    flushed_leaves => FlushedLeaves;
    flushed_tables => FlushedTables;
    flushed_all => FlushedAll;
    /// A flush on the vCPU's own CPU that belongs neither to a relaxed nor to a spurious fault.
    flushed_local => FlushedLocal;
    /// A subtree was unlinked and waits for its grace period.
    retired_subtree => Waiting;
}

impl<A: Atomics> Tally<A> {
    pub(crate) fn new() -> Self {
        Self { counts: core::array::from_fn(|_| A::Statistic::new(0)) }
    }

    /// Tables came from the embedder.
    pub(crate) fn allocated(&self, tables: usize) {
        self.add(Counter::Tables as usize, tables as u64);
    }

    /// Tables went back to the embedder.
    pub(crate) fn freed(&self, tables: usize) {
        self.add(Counter::Tables as usize, (tables as u64).wrapping_neg());
    }

    /// A subtree's grace period is over and it was taken apart.
    pub(crate) fn freed_subtree(&self) {
        self.add(Counter::Waiting as usize, 1u64.wrapping_neg());
    }

    /// Leaves appeared.
    #[inline(always)]
    pub(crate) fn mapped(&self, level: Level, leaves: u64) {
        self.add(Counter::Leaves as usize + level.index(), leaves);
    }

    /// Leaves went.
    pub(crate) fn unmapped(&self, level: Level, leaves: u64) {
        self.add(Counter::Leaves as usize + level.index(), leaves.wrapping_neg());
    }

    /// Adds this handle's counts to a sum.
    pub(crate) fn add_to(&self, sum: &mut Counts) {
        for (sum, count) in sum.0.iter_mut().zip(&self.counts) {
            *sum = sum.wrapping_add(count.load(Ordering::Relaxed));
        }
    }

    /// The owner is the only writer, so no read-modify-write is needed.
    #[inline(always)]
    fn add(&self, counter: usize, amount: u64) {
        let count = &self.counts[counter];
        count.store(count.load(Ordering::Relaxed).wrapping_add(amount), Ordering::Relaxed);
    }
}

impl Counts {
    pub(crate) fn tables(&self) -> u64 {
        self.0[Counter::Tables as usize]
    }

    pub(crate) fn waiting(&self) -> u64 {
        self.0[Counter::Waiting as usize]
    }

    pub(crate) fn mapped(&self) -> u64 {
        self.0[Counter::Mapped as usize].wrapping_add(self.pages_faulted_in())
    }

    fn pages_faulted_in(&self) -> u64 {
        self.0[Counter::PagesFaultedIn as usize]
    }

    pub(crate) fn relaxed(&self) -> u64 {
        self.0[Counter::Relaxed as usize]
    }

    pub(crate) fn accessed(&self) -> u64 {
        self.0[Counter::Accessed as usize]
    }

    pub(crate) fn spurious(&self) -> u64 {
        self.0[Counter::Spurious as usize]
    }

    pub(crate) fn retries(&self) -> u64 {
        self.0[Counter::Retries as usize]
    }

    pub(crate) fn splits(&self) -> u64 {
        self.0[Counter::Splits as usize]
    }

    pub(crate) fn collapses(&self) -> u64 {
        self.0[Counter::Collapses as usize]
    }

    /// Contiguous groups that faults made, and those that were dissolved.
    pub(crate) fn groups(&self) -> [u64; 2] {
        [Counter::GroupsMade, Counter::GroupsDissolved].map(|counter| self.0[counter as usize])
    }

    /// Flushes of leaves, of tables, of everything, and local ones: each relaxed or spurious fault has one of these.
    pub(crate) fn flushes(&self) -> [u64; 4] {
        let [leaves, tables, all, local] =
            [Counter::FlushedLeaves, Counter::FlushedTables, Counter::FlushedAll, Counter::FlushedLocal]
                .map(|counter| self.0[counter as usize]);
        [leaves, tables, all, local.wrapping_add(self.relaxed()).wrapping_add(self.spurious())]
    }

    pub(crate) fn leaves(&self) -> [u64; Level::COUNT] {
        let mut leaves = core::array::from_fn(|level| self.0[Counter::Leaves as usize + level]);
        leaves[Level::PAGE.index()] = leaves[Level::PAGE.index()].wrapping_add(self.pages_faulted_in());
        leaves
    }
}
