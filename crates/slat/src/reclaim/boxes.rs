//! Memory outside of the fault path, allocated fallibly.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::alloc::Layout;
use core::fmt;
use core::ops::Deref;
use core::ptr::NonNull;

use crate::sync::{Atomics, Ordering, Word};

/// There was no memory for it; nothing was changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OutOfMemory;

impl fmt::Display for OutOfMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("out of memory")
    }
}

impl core::error::Error for OutOfMemory {}

/// An empty vector with room for `len` elements.
pub(crate) fn vec_for<T>(len: usize) -> Result<Vec<T>, OutOfMemory> {
    let mut vec = Vec::new();
    vec.try_reserve_exact(len).map_err(|_| OutOfMemory)?;
    Ok(vec)
}

/// A vector of `len` elements made by `make`, or no change.
pub(crate) fn vec_with<T>(len: usize, mut make: impl FnMut() -> T) -> Result<Vec<T>, OutOfMemory> {
    let mut vec = vec_for(len)?;
    vec.resize_with(len, &mut make);
    Ok(vec)
}

/// A power of two of elements, into which every number is folded.
pub(crate) struct Folded<T> {
    items: Vec<T>,
    mask: usize,
}

impl<T> Folded<T> {
    /// `len` elements, a power of two, made by `make`.
    pub(crate) fn new(len: usize, make: impl FnMut() -> T) -> Result<Self, OutOfMemory> {
        assert!(len.is_power_of_two(), "numbers fold into a power of two");
        Ok(Self { items: vec_with(len, make)?, mask: len - 1 })
    }

    /// The element of `number`.
    #[inline(always)]
    pub(crate) fn at(&self, number: usize) -> &T {
        // SAFETY: the mask is one less than the number of elements, and neither changes.
        unsafe { self.items.get_unchecked(number & self.mask) }
    }
}

/// `Box::new` that can fail.
pub(crate) fn try_box<T>(value: T) -> Result<Box<T>, OutOfMemory> {
    let layout = Layout::new::<T>();
    if layout.size() == 0 {
        return Ok(Box::new(value)); // allocates nothing
    }
    // SAFETY: the layout's size is not zero.
    let memory = NonNull::new(unsafe { alloc::alloc::alloc(layout) }).ok_or(OutOfMemory)?.cast::<T>();
    // SAFETY: the memory was just allocated by the global allocator with T's layout, and is ours alone.
    unsafe { memory.write(value) };
    // SAFETY: it now holds a T, and a `Box<T>` frees with the same allocator and layout.
    Ok(unsafe { Box::from_raw(memory.as_ptr()) })
}

/// A shared value, counted by those who keep it. Readers inside a section borrow it through what keeps it and touch no
/// count.
pub(crate) struct Shared<T, A: Atomics> {
    inner: NonNull<Inner<T, A>>,
}

struct Inner<T, A: Atomics> {
    owners: A::Word,
    value: T,
}

// SAFETY: a `Shared` gives out `&T` only, and the last owner, on whichever thread, drops the T: as for `Arc`, T has to be
// both `Send` and `Sync`. The count is an atomic.
unsafe impl<T: Send + Sync, A: Atomics> Send for Shared<T, A> {}
// SAFETY: as above.
unsafe impl<T: Send + Sync, A: Atomics> Sync for Shared<T, A> {}

impl<T, A: Atomics> Shared<T, A> {
    pub(crate) fn new(value: T) -> Result<Self, OutOfMemory> {
        let inner = try_box(Inner { owners: A::Word::new(1), value })?;
        Ok(Self { inner: NonNull::from(Box::leak(inner)) })
    }

    fn inner(&self) -> &Inner<T, A> {
        // SAFETY: the count says that this owner keeps the value; it is freed by the last one's drop only.
        unsafe { self.inner.as_ref() }
    }
}

impl<T, A: Atomics> Clone for Shared<T, A> {
    fn clone(&self) -> Self {
        self.inner().owners.fetch_add(1, Ordering::Relaxed);
        Self { inner: self.inner }
    }
}

impl<T, A: Atomics> Deref for Shared<T, A> {
    type Target = T;

    #[inline(always)]
    fn deref(&self) -> &T {
        &self.inner().value
    }
}

impl<T, A: Atomics> Drop for Shared<T, A> {
    fn drop(&mut self) {
        // Release and the fence: every owner's use happens before the last one frees.
        if self.inner().owners.fetch_sub(1, Ordering::Release) == 1 {
            A::acquire_fence();
            // SAFETY: the count reached zero: this was the last owner, and the memory came from a `Box`.
            drop(unsafe { Box::from_raw(self.inner.as_ptr()) });
        }
    }
}
