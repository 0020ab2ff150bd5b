//! Atomics that call a hook of the current thread before each operation: a test steps in between any two of them.

use std::cell::RefCell;
use std::sync::atomic::{AtomicU64, Ordering, fence};

use slat::sync::{Atomics, Word};

/// What is about to be done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Op {
    /// The host is asked for a table's words: one step of a walk.
    Words,
    Load,
    Store,
    /// From, to.
    CompareExchange(u64, u64),
    Swap,
    Add(u64),
    Sub,
    Or,
    /// What is kept.
    And(u64),
}

type Hook = Box<dyn FnMut(Op) -> bool>;

thread_local! {
    static HOOK: RefCell<Option<Hook>> = const { RefCell::new(None) };
}

/// Calls `hook` before each operation of this thread (none of its own), until it returns false.
pub fn set_hook(hook: impl FnMut(Op) -> bool + 'static) {
    HOOK.with(|cell| *cell.borrow_mut() = Some(Box::new(hook)));
}

pub fn hook(op: Op) {
    let Some(mut hook) = HOOK.with(|cell| cell.borrow_mut().take()) else { return };
    if hook(op) {
        HOOK.with(|cell| *cell.borrow_mut() = Some(hook));
    }
}

/// See the module.
pub struct Hooked;

#[repr(transparent)]
pub struct HookedWord(AtomicU64);

impl HookedWord {
    pub fn load(&self, order: Ordering) -> u64 {
        self.0.load(order)
    }

    pub fn store(&self, value: u64, order: Ordering) {
        self.0.store(value, order);
    }
}

impl Word for HookedWord {
    fn new(value: u64) -> Self {
        Self(AtomicU64::new(value))
    }

    fn load(&self, order: Ordering) -> u64 {
        hook(Op::Load);
        self.0.load(order)
    }

    fn store(&self, value: u64, order: Ordering) {
        hook(Op::Store);
        self.0.store(value, order);
    }

    fn compare_exchange(&self, current: u64, new: u64, success: Ordering, failure: Ordering) -> Result<u64, u64> {
        hook(Op::CompareExchange(current, new));
        self.0.compare_exchange(current, new, success, failure)
    }

    fn swap(&self, value: u64, order: Ordering) -> u64 {
        hook(Op::Swap);
        self.0.swap(value, order)
    }

    fn fetch_add(&self, value: u64, order: Ordering) -> u64 {
        hook(Op::Add(value));
        self.0.fetch_add(value, order)
    }

    fn fetch_sub(&self, value: u64, order: Ordering) -> u64 {
        hook(Op::Sub);
        self.0.fetch_sub(value, order)
    }

    fn fetch_or(&self, bits: u64, order: Ordering) -> u64 {
        hook(Op::Or);
        self.0.fetch_or(bits, order)
    }

    fn fetch_and(&self, bits: u64, order: Ordering) -> u64 {
        hook(Op::And(bits));
        self.0.fetch_and(bits, order)
    }
}

impl Atomics for Hooked {
    type Word = HookedWord;
    type Statistic = AtomicU64;

    fn full_fence() {
        fence(Ordering::SeqCst);
    }

    fn acquire_fence() {
        fence(Ordering::Acquire);
    }

    fn spin_hint() {}
}
