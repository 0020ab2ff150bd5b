//! Two threads beside one: the same shares of 1 GiB, first each alone on its CPU, then both at once.
//!
//! A share keeps its size and its core, so the caches that a share finds are the same alone and in company.

use std::hint::black_box;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::thread;
use std::time::Instant;

use serde::Serialize;
use slat::vm::LogMode;

use super::{Repeats, Series};
use crate::clock;
use crate::frames;
use crate::locked::Lock;
use crate::subject::multiarch::Multiarch;
use crate::subject::ours::{self, Faulting, Managing};
use crate::subject::{GIB_PAGES, PER_TABLE, Table};

const SHARE: u64 = GIB_PAGES / 2;

/// What two threads get done.
#[derive(Serialize)]
pub(crate) struct Row {
    pub(crate) who: &'static str,
    pub(crate) operation: &'static str,
    pub(crate) layout: Layout,
    /// Wall time of a page, one thread alone.
    pub(crate) one_ns: f64,
    /// Wall time of a page, two threads at work.
    pub(crate) two_ns: f64,
    /// How many times the work of one thread two do in the same time: the median over repeats.
    pub(crate) speedup: f64,
    /// The same of the quietest pass of each.
    pub(crate) quietest_speedup: f64,
    /// Repeats with an involuntary context switch.
    pub(crate) discarded: usize,
}

/// Which 2 MiB regions of the GiB a thread works in.
#[derive(Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Layout {
    /// One the lower half, the other the upper one.
    Halves,
    /// Every other region.
    Interleaved,
}

/// The part of one thread.
#[derive(Clone, Copy)]
pub(crate) struct Share {
    layout: Layout,
    thread: u64,
}

impl Share {
    /// The pages of each region.
    fn regions(self) -> impl Iterator<Item = Range<u64>> {
        let regions = SHARE / PER_TABLE;
        let (first, stride) = match self.layout {
            Layout::Halves => (self.thread * regions, 1),
            Layout::Interleaved => (self.thread, 2),
        };
        (0..regions).map(move |region| first + region * stride).map(|at| at * PER_TABLE..(at + 1) * PER_TABLE)
    }

    #[inline(always)]
    fn each(self, mut work: impl FnMut(u64)) {
        self.regions().flatten().for_each(&mut work);
    }
}

/// What a thread does: something that is not measured, then something that is.
trait Work: Send {
    fn prepare(&mut self, _: Share) {}
    fn work(&mut self, share: Share);
}

struct Mapping(Faulting);

impl Work for Mapping {
    fn work(&mut self, share: Share) {
        share.each(|page| black_box(&mut self.0).map(page));
    }
}

struct Spurious(Faulting);

impl Work for Spurious {
    fn prepare(&mut self, share: Share) {
        share.each(|page| self.0.map(page));
    }

    fn work(&mut self, share: Share) {
        share.each(|page| black_box(&mut self.0).fault_in_vain(page));
    }
}

/// The thread takes the log of its own share, so that the entries lie in its own core's cache.
struct Relaxing(Faulting, Managing);

impl Work for Relaxing {
    fn prepare(&mut self, share: Share) {
        share.each(|page| self.0.map(page));
        share.regions().for_each(|pages| self.1.harvest(pages));
    }

    fn work(&mut self, share: Share) {
        share.each(|page| black_box(&mut self.0).relax(page));
    }
}

struct Locked<L>(Arc<L>);

impl<L: Lock<Multiarch>> Work for Locked<L> {
    fn work(&mut self, share: Share) {
        share.each(|page| black_box(&self.0).with(|table| table.map(page)));
    }
}

/// The control: what a fault that maps asks of the memory at least, in words that only this thread knows.
#[repr(align(128))]
struct Private {
    section: AtomicU64,
    entries: Vec<AtomicU64>,
}

impl Private {
    const fn new() -> Self {
        Self { section: AtomicU64::new(0), entries: Vec::new() }
    }
}

impl Work for Private {
    fn prepare(&mut self, _: Share) {
        self.entries.extend((0..SHARE).map(|_| AtomicU64::new(0)));
    }

    fn work(&mut self, share: Share) {
        for (page, entry) in share.regions().flatten().zip(&self.entries) {
            self.section.swap(page, Ordering::AcqRel);
            let _ = black_box(entry).compare_exchange(0, 1, Ordering::AcqRel, Ordering::Acquire);
            entry.store(page, Ordering::Release);
            self.section.store(0, Ordering::Release);
        }
    }
}

type Pair = fn([usize; 2], Layout) -> Option<Times>;

/// Words that nobody shares: what two threads can reach on this machine.
pub(crate) const CONTROL: &str = "control";

const OPERATIONS: [(&str, &str, Pair); 6] = [
    (CONTROL, "private words", |cpus, layout| repeat(cpus, layout, || [Private::new(), Private::new()])),
    ("slat", "map", |cpus, layout| {
        repeat(cpus, layout, || {
            let vm = ours::vm(None);
            [0, 1].map(|thread| Mapping(Faulting::new(&vm, thread)))
        })
    }),
    ("slat", "spurious", |cpus, layout| {
        repeat(cpus, layout, || {
            let vm = ours::vm(None);
            [0, 1].map(|thread| Spurious(Faulting::new(&vm, thread)))
        })
    }),
    ("slat", "relax and mark", |cpus, layout| {
        repeat(cpus, layout, || {
            let vm = ours::vm(Some(LogMode::Protect));
            [0, 1].map(|thread| Relaxing(Faulting::new(&vm, thread), Managing::new(&vm)))
        })
    }),
    ("page_table_multiarch in parking_lot::Mutex", "map", |cpus, layout| {
        repeat(cpus, layout, locked::<parking_lot::Mutex<Multiarch>>)
    }),
    ("page_table_multiarch in spin::Mutex", "map", |cpus, layout| {
        repeat(cpus, layout, locked::<spin::Mutex<Multiarch>>)
    }),
];

fn locked<L: Lock<Multiarch>>() -> [Locked<L>; 2] {
    let table = Arc::new(L::new(Multiarch::new()));
    [Locked(Arc::clone(&table)), Locked(table)]
}

/// One repeat: nanoseconds of each share alone, and of both.
struct Times {
    alone: [f64; 2],
    both: f64,
}

impl Times {
    /// What one thread takes for both shares.
    fn one(&self) -> f64 {
        self.alone.iter().sum()
    }
}

pub(crate) fn measure(repeats: Repeats, cpus: [usize; 2]) -> Vec<Row> {
    let layouts = [Layout::Halves, Layout::Interleaved];
    let mut measured = OPERATIONS.map(|_| layouts.map(|_| Series::new()));
    for _ in 0..repeats.passes {
        for ((_, _, pair), series) in OPERATIONS.iter().zip(&mut measured) {
            for (layout, series) in layouts.into_iter().zip(series) {
                series.add(|| pair(cpus, layout));
            }
        }
    }
    let rows = OPERATIONS.iter().zip(&measured).flat_map(|((who, operation, _), series)| {
        layouts.into_iter().zip(series).map(|(layout, series)| Row {
            who,
            operation,
            layout,
            one_ns: series.median(|times| times.one() / GIB_PAGES as f64),
            two_ns: series.median(|times| times.both / GIB_PAGES as f64),
            speedup: series.median(|times| times.one() / times.both),
            quietest_speedup: series.least(Times::one) / series.least(|times| times.both),
            discarded: series.discarded,
        })
    });
    rows.collect()
}

fn repeat<W: Work>(cpus: [usize; 2], layout: Layout, make: impl Fn() -> [W; 2]) -> Option<Times> {
    let at = |only: Option<usize>| {
        let mut work = make();
        let threads = (0..2).zip(&mut work).filter(|(thread, _)| only.is_none_or(|only| only == *thread));
        together(threads.map(|(thread, work)| (thread, cpus[thread], work)).collect(), layout)
    };
    Some(Times { alone: [at(Some(0))?, at(Some(1))?], both: at(None)? })
}

/// Lets the threads go at once. Wall nanoseconds from the first one's start to the last one's end, unless one of them was
/// interrupted.
fn together<W: Work>(threads: Vec<(usize, usize, &mut W)>, layout: Layout) -> Option<f64> {
    let ready = AtomicUsize::new(threads.len());
    let one = |(thread, cpu, work): (usize, usize, &mut W)| {
        clock::pin(cpu);
        frames::hold(thread);
        let share = Share { layout, thread: thread as u64 };
        work.prepare(share);
        let interruptions = clock::interruptions();
        ready.fetch_sub(1, Ordering::AcqRel);
        while ready.load(Ordering::Acquire) > 0 {
            std::hint::spin_loop();
        }
        let start = Instant::now();
        work.work(share);
        (start, Instant::now(), clock::interruptions() != interruptions)
    };
    let times: Vec<_> = thread::scope(|scope| {
        let threads: Vec<_> = threads.into_iter().map(|thread| scope.spawn(move || one(thread))).collect();
        threads.into_iter().map(|thread| thread.join().expect("a subject panicked")).collect()
    });
    let start = times.iter().map(|time| time.0).min()?;
    let end = times.iter().map(|time| time.1).max()?;
    let disturbed = times.iter().any(|time| time.2);
    (!disturbed).then(|| (end - start).as_nanos() as f64)
}
