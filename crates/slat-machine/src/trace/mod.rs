//! Tracing the engine: a family of atomics that writes down what it does, and a machine whose calls are written down.
//!
//! An operation on a table's word, and the note of it, are one step under one lock: the trace has the order of
//! execution. Between steps threads interleave as the host lets them, helped by yields at random.

pub mod file;
pub mod lines;
pub(crate) mod plain;
mod watched;
#[allow(unsafe_code)]
mod word;

use std::fmt;
use std::panic::Location;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};

use slat::addr::Hpa;

pub use self::lines::Lines;
pub use self::watched::{Entry, Watched};
pub(crate) use self::word::update_by_hardware;
use self::word::{Current, Effect};
pub use self::word::{Traced, TracedWord};
use crate::checker::{Checker, Discipline, Event, Finding, How, Thread};

/// What is written down of one VM.
pub struct Recorder {
    book: Mutex<Book>,
    /// What has to be added to the address of a table's word to make it physical, and where tables lie.
    tables: OnceLock<Tables>,
    dice: AtomicU64,
    /// One of so many steps is preceded by a yield; 0: none is.
    yields: u64,
}

#[derive(Clone, Copy)]
struct Tables {
    start: usize,
    end: usize,
    base: Hpa,
}

/// What there is so far.
struct Book {
    checker: Option<Checker>,
    /// The whole trace, if it is kept.
    trace: Option<Vec<Event>>,
    lines: Option<Lines>,
    flushes: u64,
}

/// What a recorder keeps.
#[derive(Clone, Debug, Default)]
pub struct Keep {
    /// Check each event as it comes.
    pub checked_by: Option<Discipline>,
    /// Keep the whole trace.
    pub trace: bool,
    /// Keep the cache lines that each thread reads and writes.
    pub lines: bool,
    /// Yield before one of so many steps.
    pub yields: u64,
}

impl Recorder {
    /// A recorder with nothing in it.
    pub fn new(keep: Keep) -> Arc<Self> {
        let book = Book {
            checker: keep.checked_by.map(Checker::new),
            trace: keep.trace.then(Vec::new),
            lines: keep.lines.then(Lines::default),
            flushes: 0,
        };
        Arc::new(Self { book: Mutex::new(book), tables: OnceLock::new(), dice: AtomicU64::new(1), yields: keep.yields })
    }

    /// From now on, until the guard is dropped, what this thread does is recorded as thread `thread`'s.
    pub fn enter(self: &Arc<Self>, thread: Thread) -> Entered {
        Entered(word::replace_current(Some((self.clone(), thread))))
    }

    /// Writes an event down.
    pub fn note(&self, event: Event) {
        self.lock().note(event);
    }

    /// A call into the engine, by this thread.
    pub fn call<R>(call: impl FnOnce() -> R) -> R {
        let Some((recorder, thread)) = word::current() else { return call() };
        recorder.note(Event::Called { thread });
        let result = call();
        recorder.note(Event::Returned { thread });
        result
    }

    /// A stay of this thread's vCPU out of its guest: any number of calls.
    pub fn stay<R>(stay: impl FnOnce() -> R) -> R {
        let Some((recorder, thread)) = word::current() else { return stay() };
        recorder.note(Event::Left { thread });
        let result = stay();
        recorder.note(Event::Entered { thread });
        result
    }

    /// What the checker has found so far.
    pub fn findings(&self) -> Vec<Finding> {
        self.lock().checker.as_ref().map_or_else(Vec::new, |checker| checker.findings().to_vec())
    }

    /// How many events were checked.
    pub fn events(&self) -> usize {
        self.lock().checker.as_ref().map_or(0, Checker::events)
    }

    /// The trace that was kept; empty from now on.
    pub fn take_trace(&self) -> Vec<Event> {
        self.lock().trace.as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// The lines that were kept; none from now on.
    pub fn take_lines(&self) -> Lines {
        self.lock().lines.as_mut().map(std::mem::take).unwrap_or_default()
    }

    fn lock(&self) -> MutexGuard<'_, Book> {
        // Who panicked while holding it has left a whole book: events are added last.
        self.book.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// A table's words lie at `words`; all tables are neighbours of it, in so many bytes.
    fn set_tables(&self, table: Hpa, base: Hpa, words: usize, bytes: usize) {
        let start = words - (table.get() - base.get()) as usize;
        let end = start + bytes;
        self.tables.get_or_init(|| Tables { start, end, base });
    }

    /// The physical address of a table's word; `None` for any other word.
    fn physical(&self, address: usize) -> Option<Hpa> {
        let tables = self.tables.get()?;
        let inside = (tables.start..tables.end).contains(&address);
        inside.then(|| Hpa::new(tables.base.get() + (address - tables.start) as u64))
    }

    /// One operation on a word, and the note of it.
    fn operation<R>(
        &self,
        thread: Thread,
        address: usize,
        caller: &'static Location<'static>,
        operation: impl FnOnce() -> (R, Effect),
    ) -> R {
        self.maybe_yield();
        let at = self.physical(address);
        let mut book = self.lock();
        let (result, effect) = operation();
        if let Some(lines) = &mut book.lines {
            lines.add(address, caller, !matches!(effect, Effect::Read(_)));
        }
        match (at, effect) {
            (None, _) => {}
            (Some(at), Effect::Read(value) | Effect::Kept(value)) => book.note(Event::Read { thread, at, value }),
            (Some(at), Effect::Wrote(old, new, how)) => {
                book.note(Event::Wrote { thread, at, old, new, how });
                if how == How::Exchange {
                    book.note(Event::Read { thread, at, value: old });
                }
            }
        }
        result
    }

    /// A change by the hardware of the core that `thread` drives, and the note of it.
    fn update(&self, thread: Thread, at: Hpa, update: impl FnOnce() -> Result<u64, u64>, new: u64) -> Result<u64, u64> {
        self.maybe_yield();
        let mut book = self.lock();
        let result = update();
        if let Ok(old) = result {
            book.note(Event::Updated { thread, at, old, new });
        }
        result
    }

    fn maybe_yield(&self) {
        if self.yields == 0 {
            return;
        }
        let rolled = self.dice.fetch_add(0x9e37_79b9_7f4a_7c15, Relaxed);
        let mixed = (rolled ^ rolled >> 31).wrapping_mul(0xbf58_476d_1ce4_e5b9) >> 33;
        if mixed.is_multiple_of(self.yields) {
            std::thread::yield_now();
        }
    }
}

impl Book {
    fn note(&mut self, event: Event) {
        if let Some(checker) = &mut self.checker {
            checker.step(&event);
        }
        if let Some(trace) = &mut self.trace {
            trace.push(event);
        }
    }

    fn next_flush(&mut self) -> u64 {
        self.flushes += 1;
        self.flushes
    }
}

impl fmt::Debug for Recorder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Recorder").finish_non_exhaustive()
    }
}

/// As long as it lives, its thread is recorded.
#[derive(Debug)]
#[must_use = "the thread is recorded as long as this lives"]
pub struct Entered(Option<Current>);

impl Drop for Entered {
    fn drop(&mut self) {
        word::replace_current(self.0.take());
    }
}
