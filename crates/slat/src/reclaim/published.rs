//! A value that readers see whole, replaced by pointer, freed behind a grace period.

use alloc::boxed::Box;
use core::marker::PhantomData;
use core::ops::Deref;
use core::ptr::{self, NonNull};

use super::boxes::{OutOfMemory, try_box};
use super::{Domain, Epoch, Inside};
use crate::sync::{Atomics, Ordering, Word};

/// The current version of a `T`. Readers borrow it for the length of their section; a writer replaces it.
pub(crate) struct Published<T, A: Atomics> {
    /// The address of a leaked `Box<Version<T>>`.
    pointer: A::Word,
    owns: PhantomData<T>,
}

/// The right to replace the versions of one [`Published`], which came with it.
pub(crate) struct Publisher {
    /// The number of the last version.
    number: u64,
}

/// A `T` that does not change any more.
pub(crate) struct Version<T> {
    /// What no other version has: the first one has 1, each later one a higher number.
    number: u64,
    value: T,
}

impl<T> Deref for Version<T> {
    type Target = T;

    #[inline(always)]
    fn deref(&self) -> &T {
        &self.value
    }
}

/// A part of a version, remembered from one section to the next: found again without a search, as long as the version is
/// the same. For one reader, who reads versions of one [`Published`].
pub(crate) struct Remembered<P> {
    /// 0 for none.
    version: u64,
    part: NonNull<P>,
}

// SAFETY: it gives out `&P` only, and only to who borrows the version that has the part: as for `&P`.
unsafe impl<P: Sync> Send for Remembered<P> {}
// SAFETY: as above.
unsafe impl<P: Sync> Sync for Remembered<P> {}

impl<P> Clone for Remembered<P> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<P> Copy for Remembered<P> {}

impl<P> Default for Remembered<P> {
    /// Nothing yet.
    fn default() -> Self {
        Self { version: 0, part: NonNull::dangling() }
    }
}

impl<T> Version<T> {
    /// The part that was remembered, if it is this version's.
    #[inline(always)]
    pub(crate) fn recall<P>(&self, remembered: Remembered<P>) -> Option<&P> {
        if remembered.version != self.number {
            return None;
        }
        // SAFETY: no other version has the number, so the part is what `remember` was given of this one: borrowed for any
        // lifetime that the version can be borrowed for, and the version, which nobody changes, is borrowed now.
        Some(unsafe { remembered.part.as_ref() })
    }

    /// Finds a part, and remembers it if there is one.
    pub(crate) fn remember<P>(
        &self,
        remembered: &mut Remembered<P>,
        find: impl FnOnce(&T) -> Option<&P>,
    ) -> Option<&P> {
        let part = find(&self.value)?;
        *remembered = Remembered { version: self.number, part: NonNull::from(part) };
        Some(part)
    }
}

/// A version that is not published yet.
pub(crate) struct Prepared<T>(Box<Version<T>>);

impl<T> Prepared<T> {
    pub(crate) fn new(value: T) -> Result<Self, OutOfMemory> {
        try_box(Version { number: 0, value }).map(Self)
    }
}

/// A version that was replaced; readers may still use it until its grace period is over.
#[must_use = "a version that was replaced is kept until its grace period is over"]
pub(crate) struct Retired<T> {
    /// From a leaked box; not a box, since readers may still borrow what it points to.
    version: NonNull<Version<T>>,
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
        drop(unsafe { Box::from_raw(self.version.as_ptr()) });
    }
}

impl<T: Send + Sync, A: Atomics> Published<T, A> {
    /// The first version, and the right to replace it.
    pub(crate) fn new(value: T) -> Result<(Self, Publisher), OutOfMemory> {
        let mut publisher = Publisher { number: 0 };
        let pointer = A::Word::new(publisher.address_of(Prepared::new(value)?));
        Ok((Self { pointer, owns: PhantomData }, publisher))
    }

    /// The version of now, for the length of the section.
    #[inline(always)]
    pub(crate) fn read<'s>(&self, _section: Inside<'s, A>) -> &'s Version<T> {
        // Acquire: pairs with the Release in `replace`.
        let pointer = self.pointer.load(Ordering::Acquire);
        // SAFETY: the pointer came from a `Box` by `address_of`. Whoever replaced it frees it only when the domain says
        // that every section that could have loaded it is over, and this one is not. `&self` cannot be dropped while
        // sections of the same VM run: both are borrowed from it.
        unsafe { &*ptr::with_exposed_provenance(pointer as usize) }
    }

    /// Replaces the version; allocates nothing.
    pub(crate) fn replace(&self, version: Prepared<T>, publisher: &mut Publisher, domain: &Domain<A>) -> Retired<T> {
        let new = publisher.address_of(version);
        // Release: the contents before the pointer. Pairs with the Acquire in `read`.
        let old = self.pointer.swap(new, Ordering::AcqRel);
        // SAFETY: `old` is the address of a leaked box: never null.
        let version = unsafe { NonNull::new_unchecked(ptr::with_exposed_provenance_mut(old as usize)) };
        Retired { version, tag: domain.tag() }
    }
}

impl Publisher {
    /// Numbers the version, and leaks its box.
    fn address_of<T>(&mut self, Prepared(mut version): Prepared<T>) -> u64 {
        self.number += 1;
        version.number = self.number;
        Box::into_raw(version).expose_provenance() as u64
    }
}

impl<T, A: Atomics> Drop for Published<T, A> {
    fn drop(&mut self) {
        let pointer = self.pointer.load(Ordering::Acquire);
        // SAFETY: as in `replace`; `&mut self` means that no section can read it any more.
        drop(unsafe { Box::<Version<T>>::from_raw(ptr::with_exposed_provenance_mut(pointer as usize)) });
    }
}
