//! Range operations in steps that may lack tables, which are fetched between them (R10).

use super::handle::VmRef;
use super::worker::Worker;
use super::{Budget, Progress};
use crate::addr::GpaRange;
use crate::reclaim::OutOfMemory;

/// What one step came to.
pub(super) struct Stepped {
    pub(super) progress: Progress,
    /// What is left of the budget.
    pub(super) left: u64,
    /// Tables that are missing where it stopped, if it stopped for that.
    pub(super) shortage: Option<usize>,
}

impl<R: VmRef> Worker<R> {
    /// Repeats `step` as long as there is something to do and the budget lasts, and fetches the tables that it misses.
    pub(super) fn until_topped_up(
        &mut self,
        range: GpaRange,
        budget: Budget,
        mut step: impl FnMut(&mut Self, GpaRange, u64) -> Stepped,
    ) -> Result<Progress, OutOfMemory> {
        let (mut at, mut left, mut changed) = (range.start(), budget.get(), 0);
        loop {
            let taken = step(self, range.from(at), left);
            changed += taken.progress.changed;
            left = taken.left;
            // Whatever is left: a caller with small budgets hears of a shortage, too.
            if let Some(tables) = taken.shortage {
                self.top_up(tables)?;
            }
            match taken.progress.next {
                Some(next) if left > 0 => at = next,
                next => return Ok(Progress { next, changed, widened: false }),
            }
        }
    }
}
