//! One entry, and the only ways through its states.
//!
//! Every change is one compare-and-swap from the value seen. Who changed an entry to `Locked` owns it until its token is
//! used up: [`Claimed`] for an entry that was empty, [`Broken`] for one that was valid and has to be flushed before
//! anything new is stored.

use core::mem;

use crate::format::Format;
use crate::sync::{Atomics, Ordering, Word};
use crate::tlb::Flushed;

/// An entry of a table that cannot be freed during `'s`.
pub(crate) struct Entry<'s, A: Atomics> {
    word: &'s A::Word,
}

impl<A: Atomics> Clone for Entry<'_, A> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<A: Atomics> Copy for Entry<'_, A> {}

impl<'s, A: Atomics> Entry<'s, A> {
    #[inline(always)]
    pub(crate) fn new(word: &'s A::Word) -> Self {
        Self { word }
    }

    /// The value now. Acquire: pairs with the Release of whoever linked a table or published a leaf.
    #[inline(always)]
    pub(crate) fn load(self) -> u64 {
        self.word.load(Ordering::Acquire)
    }

    /// Changes the value from `seen` to `new`; the error is the value found instead.
    ///
    /// For changes within a kind, and for linking a table where there was nothing.
    #[inline(always)]
    pub(crate) fn change(self, seen: u64, new: u64) -> Result<(), u64> {
        self.word.compare_exchange(seen, new, Ordering::AcqRel, Ordering::Acquire).map(drop)
    }

    /// Locks an entry seen empty, and orders the locking before all that follows (R4).
    #[inline(always)]
    pub(crate) fn claim<F: Format>(self, seen: u64) -> Result<Claimed<'s, A>, u64> {
        self.change(seen, F::LOCKED)?;
        A::full_fence_after_rmw();
        Ok(Claimed { entry: self, old: seen })
    }

    /// Locks an entry seen valid (R1), and orders the locking before all that follows.
    #[inline]
    pub(crate) fn break_valid<F: Format>(self, seen: u64) -> Result<Broken<'s, A>, u64> {
        self.hold(seen, F::LOCKED)
    }

    /// The same with `held`, a word that is locked to software alone: hardware goes on with it.
    #[inline]
    pub(crate) fn hold(self, seen: u64, held: u64) -> Result<Broken<'s, A>, u64> {
        self.change(seen, held)?;
        A::full_fence_after_rmw();
        Ok(Broken { entry: self, old: seen })
    }

    /// Empties an entry that this thread locked to remove it: `left` is 0 or an annotation. The proof is that of a flush of
    /// all that the entry covered, completed after the locking: empty means that nothing is cached (R8).
    #[inline(always)]
    pub(crate) fn emptied(self, _flushed: &Flushed, left: u64) {
        self.store(left);
    }

    /// Gives an entry back that this thread froze, under a parent that it still has locked.
    pub(crate) fn thawed(self, raw: u64) {
        self.store(raw);
    }

    /// Only the owner of a locked entry stores. Release: pairs with `load`.
    #[inline(always)]
    pub(super) fn store(self, new: u64) {
        self.word.store(new, Ordering::Release);
    }
}

/// An entry that was empty and is now this thread's. Nothing of it is cached anywhere: no flush is needed.
#[must_use = "a locked entry has to be published or restored"]
pub(crate) struct Claimed<'s, A: Atomics> {
    entry: Entry<'s, A>,
    old: u64,
}

impl<A: Atomics> Claimed<'_, A> {
    /// Makes the entry valid.
    #[inline(always)]
    pub(crate) fn publish(self, new: u64) {
        self.entry.store(new);
        mem::forget(self);
    }

    /// Gives the entry back as it was.
    #[inline]
    pub(crate) fn restore(self) {
        self.entry.store(self.old);
        mem::forget(self);
    }
}

impl<A: Atomics> Drop for Claimed<'_, A> {
    fn drop(&mut self) {
        self.entry.store(self.old);
        debug_assert!(false, "a locked entry was dropped half way");
    }
}

/// A valid entry that was broken, or is held: invalid now, at least to software, and perhaps still cached.
#[must_use = "a broken entry has to be flushed and made, or restored"]
pub(crate) struct Broken<'s, A: Atomics> {
    entry: Entry<'s, A>,
    old: u64,
}

impl<A: Atomics> Broken<'_, A> {
    /// Makes the entry anew. The proof is that of a flush of its whole span, completed after the breaking.
    pub(crate) fn make(self, _flushed: &Flushed, new: u64) {
        self.entry.store(new);
        mem::forget(self);
    }

    /// Makes the entry anew where the format says that the change needs no break.
    pub(crate) fn replace_unflushed(self, new: u64) {
        self.entry.store(new);
        mem::forget(self);
    }

    /// Lets hardware go on with `held`, which is locked to software still.
    pub(crate) fn hold(&self, held: u64) {
        self.entry.store(held);
    }

    /// Gives the entry back as it was: what may be cached is what it says again.
    pub(crate) fn restore(self) {
        self.entry.store(self.old);
        mem::forget(self);
    }
}

impl<A: Atomics> Drop for Broken<'_, A> {
    fn drop(&mut self) {
        self.entry.store(self.old);
        debug_assert!(false, "a broken entry was dropped half way");
    }
}
