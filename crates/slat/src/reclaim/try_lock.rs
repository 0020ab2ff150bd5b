//! A lock that is tried, never waited for: one writer at a time, the others are told.

use core::cell::UnsafeCell;
use core::ops::{Deref, DerefMut};

use crate::sync::{Atomics, Ordering, Word};

/// A value that one thread at a time may use.
pub(crate) struct TryLock<T, A: Atomics> {
    /// 1 while held.
    held: A::Word,
    value: UnsafeCell<T>,
}

// SAFETY: the value is reached through a guard, and `held` admits one guard at a time; Acquire on taking it and Release
// on giving it back order the accesses of successive holders.
unsafe impl<T: Send, A: Atomics> Sync for TryLock<T, A> {}

/// The exclusive right to the value.
pub(crate) struct TryLockGuard<'a, T, A: Atomics> {
    lock: &'a TryLock<T, A>,
}

impl<T, A: Atomics> TryLock<T, A> {
    pub(crate) fn new(value: T) -> Self {
        Self { held: A::Word::new(0), value: UnsafeCell::new(value) }
    }

    /// The guard, or `None` when another thread has it.
    pub(crate) fn try_lock(&self) -> Option<TryLockGuard<'_, T, A>> {
        // Acquire: pairs with the Release in the guard's drop.
        self.held.compare_exchange(0, 1, Ordering::Acquire, Ordering::Relaxed).ok().map(|_| TryLockGuard { lock: self })
    }

    pub(crate) fn get_mut(&mut self) -> &mut T {
        self.value.get_mut()
    }
}

impl<T, A: Atomics> Deref for TryLockGuard<'_, T, A> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: this guard is the only one (see `Sync` above).
        unsafe { &*self.lock.value.get() }
    }
}

impl<T, A: Atomics> DerefMut for TryLockGuard<'_, T, A> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: this guard is the only one, and is borrowed exclusively.
        unsafe { &mut *self.lock.value.get() }
    }
}

impl<T, A: Atomics> Drop for TryLockGuard<'_, T, A> {
    fn drop(&mut self) {
        self.lock.held.store(0, Ordering::Release);
    }
}
