//! The host takes memory back (R4): a span of time in which no fault publishes what the host is about to change.

use core::fmt;

use super::handle::VmRef;
use super::worker::{RangeError, Worker};
use super::{Budget, Progress};
use crate::addr::{Gpa, GpaRange};
use crate::space::TooManyOpen;

/// An invalidation that is open. From its beginning to its drop no fault maps anything in its range.
///
/// The order for an embedder whose memory changes behind a guest: [`Worker::invalidate`], [`unmap`](Self::unmap) until it
/// is done (no access through the old memory is possible from then on), change the memory, drop. Invalidations may
/// overlap and nest, on several workers. One that is leaked rather than dropped stays open.
#[must_use = "an invalidation ends when it is dropped"]
pub struct Invalidation<'w, R: VmRef> {
    worker: &'w mut Worker<R>,
    range: GpaRange,
    /// Where unmapping goes on; the range's end when it is done.
    next: Gpa,
}

/// Why an invalidation was not begun.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum InvalidateError {
    /// The range was refused.
    Range(RangeError),
    /// 65,535 invalidations are open in one region, or as many of host memory as the VM may have workers.
    TooMany,
}

impl fmt::Display for InvalidateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Range(error) => error.fmt(f),
            Self::TooMany => f.write_str("too many invalidations are open"),
        }
    }
}

impl core::error::Error for InvalidateError {}

impl From<TooManyOpen> for InvalidateError {
    fn from(_: TooManyOpen) -> Self {
        Self::TooMany
    }
}

impl<R: VmRef> Worker<R> {
    /// Begins an invalidation of `range`. Faults in the range are sent back to the guest ([`Outcome::Retry`]) until the
    /// guard is dropped; faults elsewhere are not disturbed.
    ///
    /// [`Outcome::Retry`]: super::Outcome::Retry
    pub fn invalidate(&mut self, range: GpaRange) -> Result<Invalidation<'_, R>, InvalidateError> {
        self.check(range).map_err(InvalidateError::Range)?;
        self.handle.vm.vm().space.shards.open(range)?;
        Ok(Invalidation { worker: self, range, next: range.start() })
    }
}

impl<R: VmRef> Invalidation<'_, R> {
    /// Unmaps the range, to be called until it is done: each call goes on where the last one stopped. As
    /// [`Worker::unmap`].
    pub fn unmap(&mut self, budget: Budget) -> Progress {
        let progress = self.worker.remove(self.range.from(self.next), budget);
        self.next = progress.next.unwrap_or(self.range.end());
        progress
    }

    /// The range.
    pub fn range(&self) -> GpaRange {
        self.range
    }
}

impl<R: VmRef> Drop for Invalidation<'_, R> {
    fn drop(&mut self) {
        self.worker.handle.vm.vm().space.shards.close(self.range);
    }
}

impl<R: VmRef> fmt::Debug for Invalidation<'_, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Invalidation").field("range", &self.range).finish_non_exhaustive()
    }
}
