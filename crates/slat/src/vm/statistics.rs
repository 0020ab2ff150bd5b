//! What a VM has done, and what it holds.

use crate::addr::Level;
use crate::table::Counts;

/// Counters of a VM. The first group returns to zero after teardown, once all handles are dropped.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
#[non_exhaustive]
pub struct Statistics {
    /// Table pages held: linked, carried by handles, or awaiting a grace period. The root counts as its tables.
    pub tables: u64,
    /// Leaves mapped, by level; each member of a contiguous group counts, and so do those of tables that were unlinked and
    /// are not taken apart yet.
    pub leaves: [u64; Level::COUNT],
    /// Unlinked subtrees that await a grace period or are being taken apart.
    pub awaiting: u64,

    /// Faults that mapped something.
    pub mapped: u64,
    /// Faults that gave write permission back.
    pub relaxed: u64,
    /// Faults that set the accessed flag.
    pub accessed: u64,
    /// Faults that found nothing to do.
    pub spurious: u64,
    /// Faults that met somebody else's work and were sent back to the guest.
    pub retries: u64,
    /// Leaves split into tables.
    pub splits: u64,
    /// Tables collapsed into leaves.
    pub collapses: u64,
    /// Contiguous groups that faults mapped.
    pub groups: u64,
    /// Contiguous groups that were made leaves of their own, since only a part was meant.
    pub dissolutions: u64,
    /// Flushes of leaf entries.
    pub flushes_leaves: u64,
    /// Flushes of unlinked tables.
    pub flushes_tables: u64,
    /// Flushes of everything.
    pub flushes_all: u64,
    /// Flushes of one page on the faulting vCPU's own CPU.
    pub flushes_local: u64,
}

impl Statistics {
    pub(crate) fn of(counts: &Counts) -> Self {
        let [flushes_leaves, flushes_tables, flushes_all, flushes_local] = counts.flushes();
        let [groups, dissolutions] = counts.groups();
        Self {
            tables: counts.tables(),
            leaves: counts.leaves(),
            awaiting: counts.waiting(),
            mapped: counts.mapped(),
            relaxed: counts.relaxed(),
            accessed: counts.accessed(),
            spurious: counts.spurious(),
            retries: counts.retries(),
            splits: counts.splits(),
            collapses: counts.collapses(),
            groups,
            dissolutions,
            flushes_leaves,
            flushes_tables,
            flushes_all,
            flushes_local,
        }
    }

    /// Flushes that other CPUs take part in.
    pub const fn flushes(&self) -> u64 {
        self.flushes_leaves + self.flushes_tables + self.flushes_all
    }
}
