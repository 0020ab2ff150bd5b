//! Grace periods without thread-locals, and what waits for them.
//!
//! Every handle owns a [`Record`] and marks it while it stands inside the engine (a [`Section`]). Memory that was made
//! unreachable is freed when every section that could have seen it is over. A vCPU that runs its guest is outside.
//!
//! The epochs: a section notes the domain's epoch when it begins. The epoch moves from one to the next only when no
//! section that began under another epoch is running. What was unlinked, and tagged with the epoch read after a full
//! fence, is free two epochs later. `ARCHITECTURE.md`, "Grace periods", has the argument.

mod boxes;
mod lines;
mod published;
mod subtree;
mod try_lock;

pub use boxes::OutOfMemory;
pub(crate) use boxes::{Folded, Shared, vec_for, vec_with};
pub(crate) use lines::Lines;
pub(crate) use published::{Prepared, Published, Publisher, Remembered, Retired, Version};
pub(crate) use subtree::{Limbo, Subtree, drain_exclusive, take_apart_now};
pub(crate) use try_lock::{TryLock, TryLockGuard};

use alloc::vec::Vec;
use core::cell::UnsafeCell;
use core::marker::PhantomData;
use core::ptr::NonNull;

use crate::sync::{Atomics, Ordering, Padded, Word};
use crate::table::Tally;

/// A point in the sequence of grace periods.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Epoch(u64);

/// The readers of one VM, and the epoch they agree on.
pub(crate) struct Domain<A: Atomics> {
    /// An odd number, so that a section that notes it is not 0; it moves by [`STEP`].
    epoch: Padded<A::Word>,
    records: Vec<Padded<Record<A>>>,
}

/// From one epoch to the next.
const STEP: u64 = 2;

const FREE: u64 = 0;
const OWNED: u64 = 1;
const BORROWED: u64 = 2;

struct Record<A: Atomics> {
    /// 0 outside; inside, the epoch noted.
    section: A::Word,
    /// What the owner counts.
    tally: Tally<A>,
    /// [`FREE`], [`OWNED`] by a [`Reader`], or [`BORROWED`] for a while by one who empties its limbo.
    claimed: A::Word,
    /// What the last owner left in the limbo: nothing to borrow the record for while it is 0.
    left: A::Word,
    /// What this record's owner unlinked. Stays here when the owner leaves: the next one goes on with it.
    limbo: UnsafeCell<Limbo>,
}

// SAFETY: `limbo` is reached only through `&mut Reader`, and at most one `Reader` exists for a record at a time: it is
// created by winning `claimed` (Acquire) and gives it back on release (Release), so accesses by successive owners are
// ordered. The words are atomics.
unsafe impl<A: Atomics> Sync for Record<A> {}

/// The right to use one record: one per handle, which keeps it together with the VM whose domain gave it.
pub(crate) struct Reader<A: Atomics> {
    record: NonNull<Record<A>>,
}

// SAFETY: it is a reference to a record, which is `Sync`, without the lifetime.
unsafe impl<A: Atomics> Send for Reader<A> {}
// SAFETY: as above.
unsafe impl<A: Atomics> Sync for Reader<A> {}

impl<A: Atomics> Reader<A> {
    #[inline(always)]
    fn record<'a>(&self, domain: &'a Domain<A>) -> &'a Record<A> {
        debug_assert!(domain.records.iter().any(|record| core::ptr::eq(&record.0, self.record.as_ptr())));
        // SAFETY: the record lies in the domain's vector, which is never resized, and a reader is used with the domain
        // that gave it and no other: a handle keeps both, and its reference cannot name another VM (`VmRef` is sealed).
        unsafe { self.record.as_ref() }
    }
}

/// Proof of standing inside: what was reachable when the section began, or since, stays allocated until it is dropped.
pub(crate) struct Section<'a, A: Atomics> {
    domain: &'a Domain<A>,
    record: &'a Record<A>,
    reader: &'a mut Reader<A>,
}

/// The same as a value to hand on: for as long as the section is borrowed.
pub(crate) struct Inside<'s, A: Atomics>(PhantomData<&'s Section<'s, A>>);

impl<A: Atomics> Clone for Inside<'_, A> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<A: Atomics> Copy for Inside<'_, A> {}

impl<'a, A: Atomics> Section<'a, A> {
    /// The proof, for whom the section itself is not to be handed to: a reference would keep it in memory.
    #[inline(always)]
    pub(crate) fn inside(&self) -> Inside<'_, A> {
        Inside(PhantomData)
    }

    /// What the section's owner counts in.
    #[inline(always)]
    pub(crate) fn tally(&self) -> &'a Tally<A> {
        &self.record.tally
    }

    /// The right to the section's record.
    pub(crate) fn reader(&mut self) -> &mut Reader<A> {
        self.reader
    }

    /// Does `work` outside, and comes in again: nothing that was read before counts any more, which the exclusive borrow
    /// enforces.
    pub(crate) fn outside<T>(&mut self, work: impl FnOnce(&mut Reader<A>) -> T) -> T {
        self.record.end();
        let done = work(self.reader);
        self.record.begin(self.domain);
        done
    }
}

impl<A: Atomics> Drop for Section<'_, A> {
    #[inline(always)]
    fn drop(&mut self) {
        self.record.end();
    }
}

impl<A: Atomics> Record<A> {
    #[inline(always)]
    fn begin(&self, domain: &Domain<A>) {
        let epoch = domain.epoch.load(Ordering::Relaxed);
        // An exchange rather than a store: on x86 it is the full barrier that the fence then need not be.
        self.section.swap(epoch, Ordering::AcqRel);
        // Either a scan in `advance` sees this section, or this section sees all that was unlinked before that scan.
        A::full_fence_after_rmw();
    }

    #[inline(always)]
    fn end(&self) {
        // Release: everything read inside happens before a scan that finds the record idle. Pairs with `advance`.
        self.section.store(0, Ordering::Release);
    }
}

impl<A: Atomics> Domain<A> {
    /// A domain for at most `readers` readers at a time.
    pub(crate) fn new(readers: usize) -> Result<Self, OutOfMemory> {
        let record = || {
            Padded(Record {
                section: A::Word::new(0),
                tally: Tally::new(),
                claimed: A::Word::new(FREE),
                left: A::Word::new(0),
                limbo: UnsafeCell::new(Limbo::new()),
            })
        };
        Ok(Self { epoch: Padded(A::Word::new(1)), records: vec_with(readers, record)? })
    }

    /// Claims a record; `None` when all are taken. One that is only borrowed is waited for: its borrower is at work.
    pub(crate) fn join(&self) -> Option<Reader<A>> {
        loop {
            if let Some(reader) = (0..self.records.len()).find_map(|index| self.claim(index, OWNED)) {
                return Some(reader);
            }
            let is_owned = |record: &Padded<Record<A>>| record.claimed.load(Ordering::Relaxed) == OWNED;
            if self.records.iter().all(is_owned) {
                return None;
            }
            A::spin_hint();
        }
    }

    fn claim(&self, index: usize, state: u64) -> Option<Reader<A>> {
        let record = &self.records[index].0;
        let claimed = &record.claimed;
        let free = claimed.load(Ordering::Relaxed) == FREE
            // Acquire: pairs with the Release in `leave`, for the limbo that the former owner left.
            && claimed.compare_exchange(FREE, state, Ordering::Acquire, Ordering::Relaxed).is_ok();
        free.then(|| Reader { record: NonNull::from(record) })
    }

    /// Gives the record back; the reader is not used any more.
    pub(crate) fn leave(&self, reader: &mut Reader<A>) {
        let left = self.limbo(reader).len() as u64;
        let record = reader.record(self);
        record.left.store(left, Ordering::Relaxed);
        record.claimed.store(FREE, Ordering::Release);
    }

    /// Calls `work` with every record that no handle owns and whose last owner left something.
    pub(crate) fn for_each_abandoned(&self, mut work: impl FnMut(&mut Reader<A>)) {
        for index in 0..self.records.len() {
            if self.records[index].left.load(Ordering::Relaxed) == 0 {
                continue;
            }
            if let Some(mut reader) = self.claim(index, BORROWED) {
                work(&mut reader);
                self.leave(&mut reader);
            }
        }
    }

    /// Begins a section. One per reader at a time, which the borrow of the reader enforces.
    #[inline(always)]
    pub(crate) fn enter<'a>(&'a self, reader: &'a mut Reader<A>) -> Section<'a, A> {
        let record = reader.record(self);
        record.begin(self);
        Section { domain: self, record, reader }
    }

    /// What this reader counts in.
    #[inline(always)]
    pub(crate) fn tally(&self, reader: &Reader<A>) -> &Tally<A> {
        &reader.record(self).tally
    }

    /// What all readers count in, and those that are gone counted in.
    pub(crate) fn tallies(&self) -> impl Iterator<Item = &Tally<A>> {
        self.records.iter().map(|record| &record.tally)
    }

    /// What this reader unlinked and has not yet freed.
    pub(crate) fn limbo<'a>(&'a self, reader: &'a mut Reader<A>) -> &'a mut Limbo {
        // SAFETY: the exclusive borrow of the record's only `Reader` (see `Sync` above) covers the result's lifetime.
        unsafe { &mut *reader.record(self).limbo.get() }
    }

    /// All limbos, for a VM that nobody else uses any more.
    pub(crate) fn limbos(&mut self) -> impl Iterator<Item = &mut Limbo> {
        self.records.iter_mut().map(|record| record.0.limbo.get_mut())
    }

    /// The epoch that what was unlinked before this call waits for.
    pub(crate) fn tag(&self) -> Epoch {
        // Orders the unlinking before the read of the epoch; pairs with the fence in `enter`.
        A::full_fence();
        Epoch(self.epoch.load(Ordering::Relaxed))
    }

    /// Whether every section that could have seen what was tagged is over. Moves the epoch on where it can; waits for
    /// nobody.
    pub(crate) fn is_over(&self, tag: Epoch) -> bool {
        while self.epoch.load(Ordering::Acquire) < tag.0 + 2 * STEP {
            if !self.advance() {
                return false;
            }
        }
        true
    }

    fn advance(&self) -> bool {
        let epoch = self.epoch.load(Ordering::Relaxed);
        // Pairs with the fence in `enter`: a section that this scan does not see will see what was unlinked.
        A::full_fence();
        for record in &self.records {
            let section = record.section.load(Ordering::Relaxed);
            if section != 0 && section != epoch {
                return false;
            }
        }
        // The sections that were seen to be over happen before what is freed now.
        A::acquire_fence();
        // Failure means that another thread moved the epoch: just as good.
        let _ = self.epoch.compare_exchange(epoch, epoch + STEP, Ordering::AcqRel, Ordering::Relaxed);
        true
    }
}

#[cfg(test)]
mod tests;
