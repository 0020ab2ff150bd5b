//! The family of atomics whose operations are written down.

use std::cell::RefCell;
use std::panic::Location;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use slat::addr::Hpa;
use slat::sync::{Atomics, Core, Ordering, Word};

use super::Recorder;
use crate::checker::{How, Thread};

/// The family. Threads that have entered a [`Recorder`] are traced; to others these are plain atomics.
#[derive(Debug)]
pub struct Traced;

impl Atomics for Traced {
    type Word = TracedWord;
    type Statistic = TracedWord;

    fn full_fence() {
        Core::full_fence();
    }

    fn acquire_fence() {
        Core::acquire_fence();
    }

    fn spin_hint() {
        Core::spin_hint();
    }
}

/// A word, as large as the engine's own.
#[derive(Debug)]
#[repr(transparent)]
pub struct TracedWord(AtomicU64);

/// What an operation did to a word.
#[derive(Clone, Copy)]
pub(super) enum Effect {
    Read(u64),
    Wrote(u64, u64, How),
    /// A read-modify-write that left the value as it was: it takes the line all the same.
    Kept(u64),
}

/// The recorder of a thread, and its number there.
pub(super) type Current = (Arc<Recorder>, Thread);

thread_local! {
    static CURRENT: RefCell<Option<Current>> = const { RefCell::new(None) };
}

/// Makes `current` this thread's recorder; the one before.
pub(super) fn replace_current(current: Option<Current>) -> Option<Current> {
    CURRENT.replace(current)
}

/// What this thread records to.
pub(super) fn current() -> Option<Current> {
    CURRENT.with_borrow(Clone::clone)
}

/// Hardware replaces the word at `at` of a table, if it is `current`.
pub(crate) fn update_by_hardware(word: &AtomicU64, at: Hpa, current: u64, new: u64) -> Result<u64, u64> {
    let update = || word.compare_exchange(current, new, Ordering::AcqRel, Ordering::Acquire);
    CURRENT.with_borrow(|recorder| match recorder {
        Some((recorder, thread)) => recorder.update(*thread, at, update, new),
        None => update(),
    })
}

impl TracedWord {
    /// The words of a table.
    pub(super) fn of(words: &[AtomicU64]) -> &[Self] {
        // SAFETY: the wrapper is transparent: both slices have one layout, and the same atomics in it.
        unsafe { &*(std::ptr::from_ref(words) as *const [Self]) }
    }

    fn address(&self) -> usize {
        std::ptr::from_ref(self).addr()
    }

    #[inline]
    #[track_caller]
    fn traced<R>(&self, operation: impl FnOnce(&AtomicU64) -> R, effect: impl FnOnce(&R) -> Effect) -> R {
        let caller = Location::caller();
        CURRENT.with_borrow(|current| match current {
            Some((recorder, thread)) => recorder.operation(*thread, self.address(), caller, || {
                let result = operation(&self.0);
                let effect = effect(&result);
                (result, effect)
            }),
            None => operation(&self.0),
        })
    }

    #[track_caller]
    fn modified(&self, operation: impl FnOnce(&AtomicU64) -> u64, new: impl Fn(u64) -> u64) -> u64 {
        let effect = |old: &u64| match new(*old) {
            same if same == *old => Effect::Kept(same),
            new => Effect::Wrote(*old, new, How::Exchange),
        };
        self.traced(operation, effect)
    }
}

impl Word for TracedWord {
    fn new(value: u64) -> Self {
        Self(AtomicU64::new(value))
    }

    #[track_caller]
    fn load(&self, order: Ordering) -> u64 {
        self.traced(|word| word.load(order), |value| Effect::Read(*value))
    }

    #[track_caller]
    fn store(&self, value: u64, order: Ordering) {
        let store = |word: &AtomicU64| {
            let old = word.load(Ordering::Relaxed);
            word.store(value, order);
            old
        };
        self.traced(store, |old| Effect::Wrote(*old, value, How::Store));
    }

    #[track_caller]
    fn compare_exchange(&self, current: u64, new: u64, success: Ordering, failure: Ordering) -> Result<u64, u64> {
        let effect = |result: &Result<u64, u64>| match *result {
            Ok(old) => Effect::Wrote(old, new, How::Swap),
            Err(found) => Effect::Kept(found),
        };
        self.traced(|word| word.compare_exchange(current, new, success, failure), effect)
    }

    #[track_caller]
    fn swap(&self, value: u64, order: Ordering) -> u64 {
        self.modified(|word| word.swap(value, order), |_| value)
    }

    #[track_caller]
    fn fetch_add(&self, value: u64, order: Ordering) -> u64 {
        self.modified(|word| word.fetch_add(value, order), |old| old.wrapping_add(value))
    }

    #[track_caller]
    fn fetch_sub(&self, value: u64, order: Ordering) -> u64 {
        self.modified(|word| word.fetch_sub(value, order), |old| old.wrapping_sub(value))
    }

    #[track_caller]
    fn fetch_or(&self, bits: u64, order: Ordering) -> u64 {
        self.modified(|word| word.fetch_or(bits, order), |old| old | bits)
    }

    #[track_caller]
    fn fetch_and(&self, bits: u64, order: Ordering) -> u64 {
        self.modified(|word| word.fetch_and(bits, order), |old| old & bits)
    }
}
