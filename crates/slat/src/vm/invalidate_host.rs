//! The host takes memory back by its own addresses: an invalidation of whatever lies before that memory (R4).

use core::fmt;

use super::handle::{Handle, VmRef};
use super::invalidate::InvalidateError;
use super::worker::{RangeError, Worker};
use super::{Budget, Progress};
use crate::addr::{Gpa, GpaRange, HostRange};

/// An invalidation of host memory that is open: what [`Invalidation`](super::Invalidation) is for a range of guest
/// addresses, for all those behind which the memory lies.
///
/// As long as it is open no slot with some of the memory is created, arrives from elsewhere or is gone: such calls are
/// answered with [`SlotError::Invalidated`](super::SlotError::Invalidated), or are not done yet.
#[must_use = "an invalidation ends when it is dropped"]
pub struct HostInvalidation<'w, R: VmRef> {
    worker: &'w mut Worker<R>,
    memory: HostRange,
    /// How many of the ranges of guest addresses are unmapped, and where unmapping the next one goes on.
    done: usize,
    next: Gpa,
}

impl<R: VmRef> Worker<R> {
    /// Begins an invalidation of the memory at `memory`, in the embedder's addresses ([`NewSlot::host`]): for an embedder
    /// whose memory changes behind its back, as by an MMU notifier. The memory need not be that of any slot, nor be whole
    /// pages. Allocates nothing.
    ///
    /// [`NewSlot::host`]: super::NewSlot::host
    pub fn invalidate_host(&mut self, memory: HostRange) -> Result<HostInvalidation<'_, R>, InvalidateError> {
        let Handle { vm, member } = &mut self.handle;
        let (space, slots) = (&vm.vm().space, &vm.vm().slots);
        if space.root.load().is_none() {
            return Err(InvalidateError::Range(RangeError::Gone));
        }
        let section = space.domain.enter(&mut member.reader);
        let doors = (|range| space.shards.open(range), |range| space.shards.close(range));
        slots.open_host(section.inside(), memory, space.geometry().page_size(), doors)?;
        drop(section);
        Ok(HostInvalidation { worker: self, memory, done: 0, next: Gpa::new(0) })
    }

    /// Calls `each` with every range of guest addresses, in whole pages, behind which some of the memory lies: what to age,
    /// for an embedder that asks by host addresses. Slots may change meanwhile unless `memory` is being invalidated.
    pub fn for_each_guest_range(&mut self, memory: HostRange, mut each: impl FnMut(&mut Self, GpaRange)) {
        let mut number = 0;
        while let Some(range) = self.guest_range(memory, number) {
            each(self, range);
            number += 1;
        }
    }

    fn guest_range(&mut self, memory: HostRange, number: usize) -> Option<GpaRange> {
        let Handle { vm, member } = &mut self.handle;
        let (space, slots) = (&vm.vm().space, &vm.vm().slots);
        let section = space.domain.enter(&mut member.reader);
        slots.read(section.inside()).of_host(memory, space.geometry().page_size()).nth(number)
    }
}

impl<R: VmRef> HostInvalidation<'_, R> {
    /// Unmaps whatever lies before the memory, to be called until it is done: each call goes on where the last one stopped.
    /// As [`Worker::unmap`].
    pub fn unmap(&mut self, budget: Budget) -> Progress {
        let mut progress = Progress { next: None, changed: 0, widened: false };
        let mut left = budget.get();
        while let Some(range) = self.worker.guest_range(self.memory, self.done) {
            let range = range.from(self.next);
            if left == 0 {
                progress.next = Some(range.start());
                break;
            }
            let removed = self.worker.remove_leaving(range, 0, left);
            progress.changed += removed.progress.changed;
            progress.widened |= removed.progress.widened;
            left = removed.left;
            match removed.progress.next {
                Some(next) => self.next = next,
                None => (self.done, self.next) = (self.done + 1, Gpa::new(0)),
            }
        }
        progress
    }

    /// The memory.
    pub fn memory(&self) -> HostRange {
        self.memory
    }
}

impl<R: VmRef> Drop for HostInvalidation<'_, R> {
    fn drop(&mut self) {
        let Handle { vm, member } = &mut self.worker.handle;
        let (space, slots) = (&vm.vm().space, &vm.vm().slots);
        let section = space.domain.enter(&mut member.reader);
        let close = |range| space.shards.close(range);
        slots.close_host(section.inside(), self.memory, space.geometry().page_size(), close);
    }
}

impl<R: VmRef> fmt::Debug for HostInvalidation<'_, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HostInvalidation").field("memory", &self.memory).finish_non_exhaustive()
    }
}
