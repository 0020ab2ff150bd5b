//! The model checkers, behind one trait: a scenario is written once and runs under each.

mod loom;
mod shuttle;

pub use self::loom::Loom;
pub use self::shuttle::Shuttle;

use slat::sync::Ordering;

/// A model checker: its atomics, its threads, and its way through the interleavings.
///
/// All threads of an execution run on one operating-system thread, as coroutines that switch only at a tracked
/// operation. What lies between two tracked operations is one step: plain state needs no lock there.
pub trait Tool: Sized + Send + Sync + 'static {
    /// The tool's name, as tables show it.
    const NAME: &'static str;
    /// Whether a thread sees all that was done before in time. If not, a call that begins after another has returned may
    /// not know of it.
    const SEES_ALL: bool;
    /// A word whose operations are tracked, and may be preceded by a switch.
    type Raw: Raw;
    /// The life of an object: whether its uses happen before its end.
    type Life: Life;
    /// A thread that can be joined.
    type Handle<R: Send + 'static>: Send;

    /// A fence.
    fn fence(order: Ordering);
    /// Lets others run: the caller waits for one of them.
    fn yield_now();
    /// The number of the thread that runs: the first one's is 0.
    fn me() -> usize;
    /// Runs the first thread of an execution to its end, on a stack that is large enough. Every word is made by it or
    /// by those that it starts.
    fn begin<R: Send + 'static>(body: impl FnOnce() -> R + Send + 'static) -> R;
    /// Starts a thread.
    fn spawn<R: Send + 'static>(body: impl FnOnce() -> R + Send + 'static) -> Self::Handle<R>;
    /// Waits for a thread.
    fn join<R: Send + 'static>(handle: Self::Handle<R>) -> R;
    /// Runs `body` once for every interleaving that `search` asks for. Panics as soon as `body` does.
    fn explore(search: Search, body: impl Fn() + Send + Sync + 'static);
}

/// A tracked atomic word: `core`'s `AtomicU64` as a trait.
#[allow(missing_docs)]
pub trait Raw: Send + Sync + 'static {
    fn new(value: u64) -> Self;
    fn load(&self, order: Ordering) -> u64;
    fn store(&self, value: u64, order: Ordering);
    fn compare_exchange(&self, current: u64, new: u64, success: Ordering, failure: Ordering) -> Result<u64, u64>;
    fn swap(&self, value: u64, order: Ordering) -> u64;
    fn fetch_add(&self, value: u64, order: Ordering) -> u64;
    fn fetch_sub(&self, value: u64, order: Ordering) -> u64;
    fn fetch_or(&self, bits: u64, order: Ordering) -> u64;
    fn fetch_and(&self, bits: u64, order: Ordering) -> u64;
}

/// Whether every use of an object happens before its end. Not a scheduling point.
pub trait Life: Send + Sync + 'static {
    /// An object comes to life.
    fn begin() -> Self;
    /// It is used. Panics when its end does not happen after this.
    fn touch(&self);
    /// It ends. Panics when a use does not happen before this.
    fn end(&self);
}

/// Which interleavings to look at.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Search {
    /// All that take at most this many preemptions, and all values that the memory model allows (loom).
    Bounded(usize),
    /// This many, at random (shuttle).
    Random(usize),
    /// This many, by random priorities that change at up to three points (shuttle).
    Priorities(usize),
}

impl Search {
    /// The bounded search that tests make: as many preemptions as `SLAT_MODEL_BOUND` says, but no more than `most`, or
    /// `default`.
    pub fn bounded(default: usize, most: usize) -> Self {
        Self::Bounded(from_environment("SLAT_MODEL_BOUND", default).min(most))
    }

    /// The random searches that tests make: as many executions as `SLAT_MODEL_ITERATIONS` says, or `default`.
    pub fn sampled(default: usize) -> [Self; 2] {
        let executions = from_environment("SLAT_MODEL_ITERATIONS", default);
        [Self::Random(executions), Self::Priorities(executions)]
    }
}

/// The seed of the random searches: `SLAT_MODEL_SEED`, or one that is always the same.
pub fn seed() -> u64 {
    from_environment("SLAT_MODEL_SEED", 0x51a7)
}

fn from_environment<T: std::str::FromStr>(name: &str, default: T) -> T {
    match std::env::var(name) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{name}={text} is not a number")),
        Err(_) => default,
    }
}
