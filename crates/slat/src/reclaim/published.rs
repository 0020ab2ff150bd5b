//! A value that readers see whole, replaced by pointer, freed behind a grace period.

use alloc::boxed::Box;
use core::marker::PhantomData;
use core::ptr::{self, NonNull};

use super::boxes::{OutOfMemory, try_box};
use super::{Domain, Epoch, Inside};
use crate::sync::{Atomics, Ordering, Word};

/// The current version of a `T`. Readers borrow it for the length of their section; a writer replaces it.
pub(crate) struct Published<T, A: Atomics> {
    /// The address of a leaked `Box<T>`.
    pointer: A::Word,
    owns: PhantomData<T>,
}

/// A version that is not published yet.
pub(crate) struct Prepared<T>(Box<T>);

impl<T> Prepared<T> {
    pub(crate) fn new(value: T) -> Result<Self, OutOfMemory> {
        try_box(value).map(Self)
    }
}

/// A version that was replaced; readers may still use it until its grace period is over.
#[must_use = "a version that was replaced is kept until its grace period is over"]
pub(crate) struct Retired<T> {
    /// From a leaked `Box<T>`; not a box, since readers may still borrow what it points to.
    value: NonNull<T>,
    tag: Epoch,
}

// SAFETY: a `Retired` is the only owner of its T, beside readers that share it: as for a box whose contents are borrowed
// by other threads, T has to be `Send` to be dropped elsewhere and `Sync` to be shared.
unsafe impl<T: Send + Sync> Send for Retired<T> {}

impl<T> Retired<T> {
    /// Frees the version when no reader can hold it any more, else gives it back.
    pub(crate) fn try_free<A: Atomics>(self, domain: &Domain<A>) -> Result<(), Self> {
        if domain.is_over(self.tag) {
            self.free();
            Ok(())
        } else {
            Err(self)
        }
    }

    /// Frees the version at once: nobody else uses the domain any more.
    pub(crate) fn free_exclusive<A: Atomics>(self, _domain: &mut Domain<A>) {
        self.free();
    }

    fn free(self) {
        // SAFETY: the pointer came from a `Box` and is owned here; both callers have made sure that no reader is left.
        drop(unsafe { Box::from_raw(self.value.as_ptr()) });
    }
}

impl<T: Send + Sync, A: Atomics> Published<T, A> {
    pub(crate) fn new(value: T) -> Result<Self, OutOfMemory> {
        Ok(Self { pointer: A::Word::new(address(try_box(value)?)), owns: PhantomData })
    }

    /// The version of now, for the length of the section.
    #[inline(always)]
    pub(crate) fn read<'s>(&self, _section: Inside<'s, A>) -> &'s T {
        // Acquire: pairs with the Release in `replace`.
        let pointer = self.pointer.load(Ordering::Acquire);
        // SAFETY: the pointer came from a `Box` by `address`. Whoever replaced it frees it only when the domain says
        // that every section that could have loaded it is over, and this one is not. `&self` cannot be dropped while
        // sections of the same VM run: both are borrowed from it.
        unsafe { &*ptr::with_exposed_provenance(pointer as usize) }
    }

    /// Replaces the version; allocates nothing. Only one writer at a time: its own lock sees to that.
    pub(crate) fn replace(&self, version: Prepared<T>, domain: &Domain<A>) -> Retired<T> {
        let new = address(version.0);
        // Release: the contents before the pointer. Pairs with the Acquire in `read`.
        let old = self.pointer.swap(new, Ordering::AcqRel);
        // SAFETY: `old` is the address of a leaked box: never null.
        let value = unsafe { NonNull::new_unchecked(ptr::with_exposed_provenance_mut(old as usize)) };
        Retired { value, tag: domain.tag() }
    }
}

impl<T, A: Atomics> Drop for Published<T, A> {
    fn drop(&mut self) {
        let pointer = self.pointer.load(Ordering::Acquire);
        // SAFETY: as in `replace`; `&mut self` means that no section can read it any more.
        drop(unsafe { Box::<T>::from_raw(ptr::with_exposed_provenance_mut(pointer as usize)) });
    }
}

fn address<T>(value: Box<T>) -> u64 {
    Box::into_raw(value).expose_provenance() as u64
}
