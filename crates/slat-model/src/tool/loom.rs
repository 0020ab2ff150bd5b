//! loom: every interleaving up to a number of preemptions, and every value that C11's acquire, release and fences allow.
//!
//! loom 0.7 remembers one last access of each object, whoever made it. A thread that loads a word and then changes it, as
//! every user of compare-and-swap does, hides the loads of all others: that its change could have come before one of
//! them is never tried (tokio-rs/loom issues 166 and 392). [`Readers`] gives the loads of each thread an object of
//! their own.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use loom::cell::UnsafeCell;
use loom::sync::atomic::AtomicU64;
use loom::thread::JoinHandle;
use slat::sync::Ordering;

use super::{Life, Raw, Search, Tool};

/// Operations in one execution: a scenario that needs more is waiting for something that does not come.
const BRANCHES: usize = 6_000;
/// Machine words of a thread's stack.
const STACK: usize = 0x8000;

/// The tool for orderings.
#[derive(Debug)]
pub struct Loom;

/// A word that loom tracks.
#[derive(Debug)]
pub struct LoomWord {
    word: AtomicU64,
    /// Words with the same number share the notes of who has loaded them.
    number: usize,
}

impl LoomWord {
    /// Before a change: it depends on what all others have loaded.
    fn changing(&self) -> &AtomicU64 {
        Readers::note(self.number, |thread, me| thread != me);
        &self.word
    }
}

impl Raw for LoomWord {
    fn new(value: u64) -> Self {
        Self { word: AtomicU64::new(value), number: Readers::next_number() }
    }

    fn load(&self, order: Ordering) -> u64 {
        Readers::note(self.number, |thread, me| thread == me);
        self.word.load(order)
    }

    fn store(&self, value: u64, order: Ordering) {
        self.changing().store(value, order);
    }

    fn compare_exchange(&self, seen: u64, new: u64, success: Ordering, failure: Ordering) -> Result<u64, u64> {
        self.changing().compare_exchange(seen, new, success, failure)
    }

    fn swap(&self, value: u64, order: Ordering) -> u64 {
        self.changing().swap(value, order)
    }

    fn fetch_add(&self, value: u64, order: Ordering) -> u64 {
        self.changing().fetch_add(value, order)
    }

    fn fetch_sub(&self, value: u64, order: Ordering) -> u64 {
        self.changing().fetch_sub(value, order)
    }

    fn fetch_or(&self, bits: u64, order: Ordering) -> u64 {
        self.changing().fetch_or(bits, order)
    }

    fn fetch_and(&self, bits: u64, order: Ordering) -> u64 {
        self.changing().fetch_and(bits, order)
    }
}

/// Which threads have loaded which words: for each number a word of each thread's. Its owner changes it before a load,
/// all others change it before they change a word of that number: loom sees that the two depend on each other.
struct Readers {
    noted: Vec<[AtomicU64; THREADS]>,
    numbers: Cell<usize>,
    /// Threads that were started and are not yet joined.
    running: Cell<usize>,
    started: Cell<usize>,
}

/// Threads of a scenario, the first one included.
const THREADS: usize = 4;
/// More words than these share their notes, which costs executions and misses none.
const NUMBERS: usize = 32;

thread_local! {
    static READERS: RefCell<Option<Rc<Readers>>> = const { RefCell::new(None) };
}

loom::thread_local! {
    static ME: Cell<usize> = Cell::new(0);
}

impl Readers {
    /// The notes of a new execution; by its first thread, before it makes any word.
    fn begin() {
        let noted = (0..NUMBERS).map(|_| std::array::from_fn(|_| AtomicU64::new(0))).collect();
        let readers = Self { noted, numbers: Cell::new(0), running: Cell::new(0), started: Cell::new(0) };
        READERS.set(Some(Rc::new(readers)));
    }

    fn current() -> Rc<Self> {
        READERS.with_borrow(|readers| readers.clone()).expect("an execution has begun")
    }

    fn next_number() -> usize {
        let readers = Self::current();
        let number = readers.numbers.get();
        readers.numbers.set(number + 1);
        number % NUMBERS
    }

    /// Changes the notes of those threads that `whose` names. While only one thread runs there is nothing to note.
    fn note(number: usize, whose: impl Fn(usize, usize) -> bool) {
        let readers = Self::current();
        if readers.running.get() == 0 {
            return;
        }
        let me = ME.with(Cell::get);
        for thread in (0..=readers.started.get()).filter(|thread| whose(*thread, me)) {
            readers.noted[number][thread].fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Counts a thread in, and gives it its number.
    fn start() -> usize {
        let readers = Self::current();
        readers.running.set(readers.running.get() + 1);
        readers.started.set(readers.started.get() + 1);
        readers.started.get()
    }

    /// Counts a joined thread out.
    fn joined() {
        let readers = Self::current();
        readers.running.set(readers.running.get() - 1);
    }
}

/// A cell that loom tracks: uses are reads of it, its end is a write, and a race between them is an error in whatever
/// order the two came.
#[derive(Debug)]
pub struct LoomLife(UnsafeCell<()>);

// SAFETY: the cell holds nothing, and all threads of an execution are coroutines of one thread: its bookkeeping is never
// reached by two at once.
unsafe impl Send for LoomLife {}
// SAFETY: as above.
unsafe impl Sync for LoomLife {}

impl Life for LoomLife {
    fn begin() -> Self {
        Self(UnsafeCell::new(()))
    }

    fn touch(&self) {
        self.0.with(|_| ());
    }

    fn end(&self) {
        self.0.with_mut(|_| ());
    }
}

fn spawn<R: Send + 'static>(body: impl FnOnce() -> R + Send + 'static) -> JoinHandle<R> {
    loom::thread::Builder::new().stack_size(STACK).spawn(body).expect("a coroutine can be made")
}

impl Tool for Loom {
    const NAME: &'static str = "loom";
    const SEES_ALL: bool = false;
    type Raw = LoomWord;
    type Life = LoomLife;
    type Handle<R: Send + 'static> = JoinHandle<R>;

    fn fence(order: Ordering) {
        loom::sync::atomic::fence(order);
    }

    fn yield_now() {
        loom::thread::yield_now();
    }

    fn me() -> usize {
        ME.with(Cell::get)
    }

    fn begin<R: Send + 'static>(body: impl FnOnce() -> R + Send + 'static) -> R {
        Readers::begin();
        let first = spawn(body).join();
        READERS.take();
        first.expect("threads of a model catch their panics")
    }

    fn spawn<R: Send + 'static>(body: impl FnOnce() -> R + Send + 'static) -> JoinHandle<R> {
        let number = Readers::start();
        spawn(move || {
            ME.with(|me| me.set(number));
            body()
        })
    }

    fn join<R: Send + 'static>(handle: JoinHandle<R>) -> R {
        let result = handle.join();
        Readers::joined();
        result.expect("threads of a model catch their panics")
    }

    fn explore(search: Search, body: impl Fn() + Send + Sync + 'static) {
        let Search::Bounded(preemptions) = search else { panic!("loom does not sample: {search:?}") };
        let mut builder = loom::model::Builder::new();
        builder.max_branches = BRANCHES;
        builder.preemption_bound = Some(preemptions);
        builder.check(body);
    }
}
