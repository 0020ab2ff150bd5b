//! Splitting large leaves before faults have to.

use core::fmt;

use super::handle::{Handle, VmRef};
use super::step::Stepped;
use super::worker::{RangeError, Worker};
use super::{Budget, Progress};
use crate::addr::{GpaRange, Level};
use crate::reclaim::OutOfMemory;
use crate::space::Visit;

/// Why a range was not split.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum SplitError {
    /// The range was refused. Nothing was changed.
    Range(RangeError),
    /// There is no memory for a table. What was split stays; calling again with the whole range does the rest.
    OutOfMemory,
}

impl fmt::Display for SplitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Range(error) => error.fmt(f),
            Self::OutOfMemory => OutOfMemory.fmt(f),
        }
    }
}

impl core::error::Error for SplitError {}

impl From<RangeError> for SplitError {
    fn from(error: RangeError) -> Self {
        Self::Range(error)
    }
}

impl From<OutOfMemory> for SplitError {
    fn from(_: OutOfMemory) -> Self {
        Self::OutOfMemory
    }
}

/// Entries looked at or filled inside one section.
const ENTRIES: u64 = 32 * 1024;

impl<R: VmRef> Worker<R> {
    /// Splits the leaves larger than `largest` that map some of `range`, until none is left that was there; to be called
    /// until it is done. What they map, and with what permissions, stays as it is. Contiguous groups larger than
    /// `largest` are dissolved first.
    ///
    /// What to do after a log was turned on, so that the first write to a page under it finds a page, rather than a block
    /// that it has to split: nobody waits for a table then, and 32 blocks share one flush where each fault has one of its
    /// own. Where the format needs it, all 32 are invalid until that flush is over (R1); vCPUs that meet one fault and try
    /// again.
    ///
    /// Allocates tables, outside of any walk. Progress counts leaves split; a leaf costs a table's number of entries of
    /// the budget.
    pub fn split(&mut self, range: GpaRange, largest: Level, budget: Budget) -> Result<Progress, SplitError> {
        self.check(range)?;
        if largest >= self.handle.vm.vm().space.geometry().largest_leaf() {
            return Ok(Progress { next: None, changed: 0, widened: false });
        }
        let split = |worker: &mut Self, range, left| worker.split_once(range, largest, left);
        Ok(self.until_topped_up(range, budget, split)?)
    }

    fn split_once(&mut self, range: GpaRange, largest: Level, budget: u64) -> Stepped {
        let Handle { vm, member } = &mut self.handle;
        let space = &vm.vm().space;
        let section = space.domain.enter(&mut member.reader);
        let visit = Visit { space, section: section.inside(), tally: section.tally() };
        let ahead = visit.split_ahead(range, largest, &mut member.cache, budget.min(ENTRIES));
        let progress = Progress { next: ahead.next, changed: ahead.split, widened: false };
        drop(section);
        let left = budget.saturating_sub(ahead.visited.max(1));
        // All that one flush may take, if there is memory for them; one will do.
        let shortage = ahead.shortage.filter(|&tables| self.top_up(tables).is_err()).map(|_| 1);
        Stepped { progress, left, shortage }
    }
}
