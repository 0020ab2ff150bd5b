//! shuttle: interleavings at random, every operation sequentially consistent. For scenarios too large for loom.

use std::cell::Cell;

use shuttle::scheduler::{PctScheduler, RandomScheduler};
use shuttle::sync::atomic::AtomicU64;
use shuttle::thread::JoinHandle;
use shuttle::{Config, FailurePersistence, MaxSteps, Runner};
use slat::sync::Ordering;

use super::{Life, Raw, Search, Tool, seed};

/// Bytes of a thread's stack.
const STACK: usize = 0x4_0000;
/// Operations in one execution: a scenario that needs more is waiting for something that does not come.
const STEPS: usize = 50_000;
/// Points at which a search by priorities changes them.
const DEPTH: usize = 3;

/// The tool for size.
#[derive(Debug)]
pub struct Shuttle;

/// A word that shuttle tracks.
#[derive(Debug)]
pub struct ShuttleWord(AtomicU64);

impl Raw for ShuttleWord {
    fn new(value: u64) -> Self {
        Self(AtomicU64::new(value))
    }

    fn load(&self, order: Ordering) -> u64 {
        self.0.load(order)
    }

    fn store(&self, value: u64, order: Ordering) {
        self.0.store(value, order);
    }

    fn compare_exchange(&self, seen: u64, new: u64, success: Ordering, failure: Ordering) -> Result<u64, u64> {
        self.0.compare_exchange(seen, new, success, failure)
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

shuttle::thread_local! {
    static ME: Cell<usize> = Cell::new(0);
}

std::thread_local! {
    static STARTED: Cell<usize> = const { Cell::new(0) };
}

/// shuttle knows no causality: an object's end is found by those who use it afterwards.
#[derive(Debug)]
pub struct ShuttleLife;

impl Life for ShuttleLife {
    fn begin() -> Self {
        Self
    }

    fn touch(&self) {}

    fn end(&self) {}
}

impl Tool for Shuttle {
    const NAME: &'static str = "shuttle";
    const SEES_ALL: bool = true;
    type Raw = ShuttleWord;
    type Life = ShuttleLife;
    type Handle<R: Send + 'static> = JoinHandle<R>;

    fn fence(order: Ordering) {
        shuttle::sync::atomic::fence(order);
    }

    fn yield_now() {
        shuttle::thread::yield_now();
    }

    fn me() -> usize {
        ME.with(Cell::get)
    }

    fn begin<R: Send + 'static>(body: impl FnOnce() -> R + Send + 'static) -> R {
        STARTED.set(0);
        body()
    }

    fn spawn<R: Send + 'static>(body: impl FnOnce() -> R + Send + 'static) -> JoinHandle<R> {
        STARTED.set(STARTED.get() + 1);
        let number = STARTED.get();
        shuttle::thread::spawn(move || {
            ME.with(|me| me.set(number));
            body()
        })
    }

    fn join<R: Send + 'static>(handle: JoinHandle<R>) -> R {
        handle.join().expect("threads of a model catch their panics")
    }

    fn explore(search: Search, body: impl Fn() + Send + Sync + 'static) {
        let mut config = Config::new();
        config.stack_size = STACK;
        config.max_steps = MaxSteps::FailAfter(STEPS);
        config.failure_persistence = FailurePersistence::None;
        config.silence_warnings = true;
        match search {
            Search::Random(executions) => {
                Runner::new(RandomScheduler::new_from_seed(seed(), executions), config).run(body);
            }
            Search::Priorities(executions) => {
                Runner::new(PctScheduler::new_from_seed(seed(), DEPTH, executions), config).run(body);
            }
            Search::Bounded(_) => panic!("shuttle does not search exhaustively"),
        }
    }
}
