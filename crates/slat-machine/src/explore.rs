//! The machine's protocols under loom: every interleaving, and every value that fences, acquires and releases allow.

use std::sync::atomic::Ordering;

use loom::sync::atomic::AtomicU64;
use slat::sync::{Atomics, Word};

/// loom's atomics as the family that protocols are written for.
pub(crate) struct Model;

/// The same with a bug planted: full fences do nothing.
pub(crate) struct WithoutFences;

pub(crate) struct ModelWord(AtomicU64);

impl Atomics for Model {
    type Word = ModelWord;
    type Statistic = ModelWord;

    fn full_fence() {
        loom::sync::atomic::fence(Ordering::SeqCst);
    }

    fn acquire_fence() {
        loom::sync::atomic::fence(Ordering::Acquire);
    }

    fn spin_hint() {
        loom::thread::yield_now();
    }
}

impl Atomics for WithoutFences {
    type Word = ModelWord;
    type Statistic = ModelWord;

    fn full_fence() {}

    fn acquire_fence() {
        Model::acquire_fence();
    }

    fn spin_hint() {
        Model::spin_hint();
    }
}

impl Word for ModelWord {
    fn new(value: u64) -> Self {
        Self(AtomicU64::new(value))
    }

    fn load(&self, order: Ordering) -> u64 {
        self.0.load(order)
    }

    fn store(&self, value: u64, order: Ordering) {
        self.0.store(value, order);
    }

    fn compare_exchange(&self, current: u64, new: u64, success: Ordering, failure: Ordering) -> Result<u64, u64> {
        self.0.compare_exchange(current, new, success, failure)
    }

    fn swap(&self, value: u64, order: Ordering) -> u64 {
        self.0.swap(value, order)
    }

    fn fetch_add(&self, value: u64, order: Ordering) -> u64 {
        self.0.fetch_add(value, order)
    }

    fn fetch_sub(&self, value: u64, order: Ordering) -> u64 {
        self.0.fetch_sub(value, order)
    }

    fn fetch_or(&self, bits: u64, order: Ordering) -> u64 {
        self.0.fetch_or(bits, order)
    }

    fn fetch_and(&self, bits: u64, order: Ordering) -> u64 {
        self.0.fetch_and(bits, order)
    }
}

/// Tries every interleaving with at most so many preemptions.
pub(crate) fn explore(preemptions: usize, scenario: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.check(scenario);
}
