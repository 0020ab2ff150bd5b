//! Gathering what has to be flushed, and proving that it was.

use crate::addr::{GpaRange, Level};
use crate::host::{Flush, Hint, Tlb};
use crate::sync::Atomics;
use crate::table::Tally;

/// Proof that a gather was closed: all that was gathered since it was opened is cached nowhere any more.
#[must_use = "the proof is what a broken entry is made anew with"]
pub(crate) struct Flushed(());

/// The changes of one batch that some TLB may not know of.
#[must_use = "a gather has to be closed"]
pub(crate) struct Gather {
    leaves: Option<(GpaRange, Hint)>,
    tables: Option<GpaRange>,
    /// Extents longer than this are flushed as the whole VMID.
    threshold: u64,
    /// Whether below tables that come or go leaves of two sizes may be cached for one address, which only a flush of
    /// everything is sure to drop.
    overlaps: bool,
}

impl Gather {
    pub(crate) fn new(threshold: u64, overlaps: bool) -> Self {
        Self { leaves: None, tables: None, threshold, overlaps }
    }

    /// A leaf of `level` over `range` lost something that may be cached.
    #[inline]
    pub(crate) fn leaf(&mut self, range: GpaRange, level: Level) {
        self.leaves_of(range, Hint::Level(level));
    }

    /// Leaves of whatever level in `range` may be cached with more than their entries say.
    pub(crate) fn leaves_of(&mut self, range: GpaRange, hint: Hint) {
        self.leaves = Some(match self.leaves {
            Some((gathered, level)) => (gathered.hull(range), level.join(hint)),
            None => (range, hint),
        });
    }

    /// The table over `range` was unlinked, or took a leaf's place.
    pub(crate) fn table(&mut self, range: GpaRange) {
        self.tables = Some(self.tables.map_or(range, |gathered| gathered.hull(range)));
    }

    /// Flushes what was gathered with one operation, or with none when nothing was, and waits for it.
    pub(crate) fn close<H: Tlb, A: Atomics>(&mut self, host: &H, tally: &Tally<A>) -> Flushed {
        let flush = match (self.leaves.take(), self.tables.take()) {
            (None, None) => return Flushed(()),
            (Some((range, level)), None) => Flush::Leaves { range, level },
            (Some((range, _)), Some(tables)) => Flush::Tables { range: range.hull(tables) },
            (None, Some(range)) => Flush::Tables { range },
        };
        let flush = match flush {
            Flush::Tables { .. } if self.overlaps => Flush::All,
            Flush::Leaves { range, .. } | Flush::Tables { range } if range.len() > self.threshold => Flush::All,
            other => other,
        };
        match flush {
            Flush::Leaves { .. } => tally.flushed_leaves(),
            Flush::Tables { .. } => tally.flushed_tables(),
            Flush::All => tally.flushed_all(),
        }
        // Orders the changes before the embedder's choice of VMID, roots and CPUs (R8).
        A::full_fence();
        host.wait(host.flush(flush));
        Flushed(())
    }
}

impl Drop for Gather {
    fn drop(&mut self) {
        debug_assert!(self.leaves.is_none() && self.tables.is_none(), "a gather was dropped unflushed");
    }
}

#[cfg(test)]
mod tests;
