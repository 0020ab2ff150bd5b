//! The one door to atomics.
//!
//! The engine never names an atomic type: it asks the host's [`Atomics`] family for words and fences. Embedders write
//! `type Atomics = slat::sync::Core`; model checkers and traced machines bring families of their own, in one program,
//! with no `cfg` in the engine.

use core::sync::atomic::AtomicU64;
pub use core::sync::atomic::Ordering;

/// A family of atomics: a 64-bit word, a word for statistics, fences and a spin hint.
pub trait Atomics: Sized + Send + Sync + 'static {
    /// The word that protocols are built on. Table entries are made of it.
    type Word: Word;
    /// The word that counters are built on: one writer, read by anybody, ordering nothing. A model checker may make it
    /// a plain cell, so that counting adds no interleavings.
    type Statistic: Word;

    /// A sequentially consistent fence.
    fn full_fence();

    /// A sequentially consistent fence whose last atomic operation in program order is a read-modify-write by the same
    /// thread. Where such an operation is a full barrier already (x86: Intel SDM volume 3, 9.2.3.9; AMD APM volume 2,
    /// 7.4.2), only the compiler has to be told.
    #[inline(always)]
    fn full_fence_after_rmw() {
        Self::full_fence();
    }

    /// An acquire fence.
    fn acquire_fence();

    /// Tells the processor (or the model's scheduler) that the caller is spinning.
    fn spin_hint();
}

/// An atomic 64-bit word.
pub trait Word: Sized + Send + Sync + 'static {
    /// A word holding `value`.
    fn new(value: u64) -> Self;
    /// Reads the word.
    fn load(&self, order: Ordering) -> u64;
    /// Writes the word.
    fn store(&self, value: u64, order: Ordering);
    /// Replaces `current` by `new`; the error is the value that was there instead. Never fails spuriously.
    fn compare_exchange(&self, current: u64, new: u64, success: Ordering, failure: Ordering) -> Result<u64, u64>;
    /// Replaces the value, returning the old one.
    fn swap(&self, value: u64, order: Ordering) -> u64;
    /// Adds, wrapping, returning the old value.
    fn fetch_add(&self, value: u64, order: Ordering) -> u64;
    /// Subtracts, wrapping, returning the old value.
    fn fetch_sub(&self, value: u64, order: Ordering) -> u64;
    /// Sets bits, returning the old value.
    fn fetch_or(&self, bits: u64, order: Ordering) -> u64;
    /// Keeps only `bits`, returning the old value.
    fn fetch_and(&self, bits: u64, order: Ordering) -> u64;
}

/// The family of `core::sync::atomic`: what an embedder uses.
#[derive(Debug)]
pub struct Core;

impl Atomics for Core {
    type Word = AtomicU64;
    type Statistic = AtomicU64;

    #[inline(always)]
    fn full_fence() {
        core::sync::atomic::fence(Ordering::SeqCst);
    }

    #[inline(always)]
    fn full_fence_after_rmw() {
        if cfg!(target_arch = "x86_64") {
            core::sync::atomic::compiler_fence(Ordering::SeqCst);
        } else {
            Self::full_fence();
        }
    }

    #[inline(always)]
    fn acquire_fence() {
        core::sync::atomic::fence(Ordering::Acquire);
    }

    #[inline(always)]
    fn spin_hint() {
        core::hint::spin_loop();
    }
}

/// Implements [`Word`] for an atomic type whose methods have the names and signatures of `core`'s `AtomicU64`.
#[macro_export]
macro_rules! forward_word {
    ($type:ty, $new:expr) => {
        impl $crate::sync::Word for $type {
            #[inline(always)]
            fn new(value: u64) -> Self {
                $new(value)
            }
            #[inline(always)]
            #[track_caller]
            fn load(&self, order: $crate::sync::Ordering) -> u64 {
                self.load(order)
            }
            #[inline(always)]
            #[track_caller]
            fn store(&self, value: u64, order: $crate::sync::Ordering) {
                self.store(value, order)
            }
            #[inline(always)]
            #[track_caller]
            fn compare_exchange(
                &self,
                current: u64,
                new: u64,
                success: $crate::sync::Ordering,
                failure: $crate::sync::Ordering,
            ) -> Result<u64, u64> {
                self.compare_exchange(current, new, success, failure)
            }
            #[inline(always)]
            #[track_caller]
            fn swap(&self, value: u64, order: $crate::sync::Ordering) -> u64 {
                self.swap(value, order)
            }
            #[inline(always)]
            #[track_caller]
            fn fetch_add(&self, value: u64, order: $crate::sync::Ordering) -> u64 {
                self.fetch_add(value, order)
            }
            #[inline(always)]
            #[track_caller]
            fn fetch_sub(&self, value: u64, order: $crate::sync::Ordering) -> u64 {
                self.fetch_sub(value, order)
            }
            #[inline(always)]
            #[track_caller]
            fn fetch_or(&self, bits: u64, order: $crate::sync::Ordering) -> u64 {
                self.fetch_or(bits, order)
            }
            #[inline(always)]
            #[track_caller]
            fn fetch_and(&self, bits: u64, order: $crate::sync::Ordering) -> u64 {
                self.fetch_and(bits, order)
            }
        }
    };
}

forward_word!(AtomicU64, AtomicU64::new);

/// A value alone in its cache lines: 128 bytes, since adjacent-line prefetchers move lines in pairs.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct Padded<T>(pub T);

impl<T> core::ops::Deref for Padded<T> {
    type Target = T;

    #[inline(always)]
    fn deref(&self) -> &T {
        &self.0
    }
}
