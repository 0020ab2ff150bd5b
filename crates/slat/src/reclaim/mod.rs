//! Grace periods without thread-locals, and what waits for them.
//!
//! Every handle owns a [`Record`] and marks it while it stands inside the engine (a [`Section`]). Memory that was made
//! unreachable is freed when every section that could have seen it is over. A vCPU that runs its guest is outside.
//!
//! The epochs: a section notes the domain's epoch when it begins. The epoch moves from `e` to `e + 1` only when no
//! section that began under another epoch than `e` is running. What was unlinked, and tagged with the epoch read after
//! a full fence, is free at tag + 2. `ARCHITECTURE.md`, "Grace periods", has the argument.

mod boxes;
mod published;
mod subtree;
mod try_lock;

pub use boxes::OutOfMemory;
pub(crate) use boxes::{Shared, vec_with};
pub(crate) use published::{Published, Retired};
pub(crate) use subtree::{Limbo, Subtree, drain_exclusive, take_apart_now};
pub(crate) use try_lock::{TryLock, TryLockGuard};

use alloc::vec::Vec;
use core::cell::UnsafeCell;

use crate::sync::{Atomics, Ordering, Padded, Word};

/// A point in the sequence of grace periods.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Epoch(u64);

/// The readers of one VM, and the epoch they agree on.
pub(crate) struct Domain<A: Atomics> {
    epoch: Padded<A::Word>,
    records: Vec<Padded<Record<A>>>,
}

const FREE: u64 = 0;
const OWNED: u64 = 1;
const BORROWED: u64 = 2;

struct Record<A: Atomics> {
    /// 0 outside; inside, the epoch noted, shifted up by one, and bit 0.
    section: A::Word,
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

/// The right to use one record: one per handle.
#[derive(Debug)]
pub(crate) struct Reader {
    index: usize,
}

impl Reader {
    /// The record's number in the domain.
    pub(crate) fn index(&self) -> usize {
        self.index
    }
}

/// Proof of standing inside: what was reachable when the section began, or since, stays allocated until it is dropped.
pub(crate) struct Section<'a, A: Atomics> {
    record: &'a Record<A>,
}

impl<A: Atomics> Drop for Section<'_, A> {
    #[inline(always)]
    fn drop(&mut self) {
        // Release: everything read inside happens before a scan that finds the record idle. Pairs with `advance`.
        self.record.section.store(0, Ordering::Release);
    }
}

impl<A: Atomics> Domain<A> {
    /// A domain for at most `readers` readers at a time.
    pub(crate) fn new(readers: usize) -> Result<Self, OutOfMemory> {
        let record = || {
            Padded(Record {
                section: A::Word::new(0),
                claimed: A::Word::new(FREE),
                left: A::Word::new(0),
                limbo: UnsafeCell::new(Limbo::new()),
            })
        };
        Ok(Self { epoch: Padded(A::Word::new(0)), records: vec_with(readers, record)? })
    }

    /// Claims a record; `None` when all are taken. One that is only borrowed is waited for: its borrower is at work.
    pub(crate) fn join(&self) -> Option<Reader> {
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

    fn claim(&self, index: usize, state: u64) -> Option<Reader> {
        let claimed = &self.records[index].claimed;
        let free = claimed.load(Ordering::Relaxed) == FREE
            // Acquire: pairs with the Release in `leave`, for the limbo that the former owner left.
            && claimed.compare_exchange(FREE, state, Ordering::Acquire, Ordering::Relaxed).is_ok();
        free.then_some(Reader { index })
    }

    /// Gives the record back; the reader is not used any more.
    pub(crate) fn leave(&self, reader: &mut Reader) {
        let left = self.limbo(reader).len() as u64;
        let record = &self.records[reader.index];
        record.left.store(left, Ordering::Relaxed);
        record.claimed.store(FREE, Ordering::Release);
    }

    /// Calls `work` with every record that no handle owns and whose last owner left something.
    pub(crate) fn for_each_abandoned(&self, mut work: impl FnMut(&mut Reader)) {
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
    pub(crate) fn enter<'a>(&'a self, reader: &'a mut Reader) -> Section<'a, A> {
        let record = &self.records[reader.index].0;
        let epoch = self.epoch.load(Ordering::Relaxed);
        // An exchange rather than a store: on x86 it is the full barrier that the fence then need not be.
        record.section.swap(epoch << 1 | 1, Ordering::AcqRel);
        // Either a scan in `advance` sees this section, or this section sees all that was unlinked before that scan.
        A::full_fence_after_rmw();
        Section { record }
    }

    /// What this reader unlinked and has not yet freed.
    pub(crate) fn limbo<'a>(&'a self, reader: &'a mut Reader) -> &'a mut Limbo {
        // SAFETY: the exclusive borrow of the record's only `Reader` (see `Sync` above) covers the result's lifetime.
        unsafe { &mut *self.records[reader.index].limbo.get() }
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
        while self.epoch.load(Ordering::Acquire) < tag.0 + 2 {
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
        let current = epoch << 1 | 1;
        for record in &self.records {
            let section = record.section.load(Ordering::Relaxed);
            if section != 0 && section != current {
                return false;
            }
        }
        // The sections that were seen to be over happen before what is freed now.
        A::acquire_fence();
        // Failure means that another thread moved the epoch: just as good.
        let _ = self.epoch.compare_exchange(epoch, epoch + 1, Ordering::AcqRel, Ordering::Relaxed);
        true
    }
}
