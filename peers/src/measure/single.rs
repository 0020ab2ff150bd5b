//! One thread: CPU time of mapping 1 GiB page by page, in an empty table, its tables' allocation and zeroing included.

use std::hint::black_box;
use std::thread;
use std::time::Duration;

use serde::Serialize;

use super::{Repeats, Series};
use crate::clock;
use crate::frames;
use crate::subject::aarch64_paging::Aarch64Paging;
use crate::subject::axaddrspace::Axaddrspace;
use crate::subject::floor::Floor;
use crate::subject::generic::Generic;
use crate::subject::multiarch::Multiarch;
use crate::subject::ours::{Outside, Slat};
use crate::subject::x86::X86;
use crate::subject::{GIB_PAGES, Table};

/// What a page costs on one thread.
#[derive(Serialize)]
pub(crate) struct Row {
    pub(crate) who: &'static str,
    pub(crate) what: &'static str,
    pub(crate) sequential_ns: f64,
    pub(crate) random_ns: f64,
    /// The quietest of the sequential passes.
    pub(crate) quietest_ns: f64,
    pub(crate) discarded: usize,
}

/// One thread's figures.
#[derive(Serialize)]
pub(crate) struct Single {
    pub(crate) rows: Vec<Row>,
    /// Zeroing a table: 512 pages share one.
    pub(crate) zeroing_a_table_ns: f64,
}

type Pass = fn(usize, Order) -> Option<f64>;

/// What is judged of slat: a vCPU that faults has left its guest, and has paid for that there.
pub(crate) const FAULT: &str = "whole fault";
/// Floor of every table that several threads may change: a compare-and-swap an entry, with nothing round it.
pub(crate) const FLOOR: &str = "one compare-and-swap";

const SUBJECTS: [(&str, &str, Pass); 8] = [
    ("slat", FAULT, pass::<Outside>),
    ("slat", "whole fault, and leaving the guest", pass::<Slat>),
    ("control", FLOOR, pass::<Floor>),
    ("page_table_multiarch", "bare map", pass::<Multiarch>),
    ("page-table-generic", "bare map", pass::<Generic>),
    ("axaddrspace", "its fault", pass::<Axaddrspace>),
    ("aarch64-paging, live", "bare map", pass::<Aarch64Paging>),
    ("x86_64", "bare map", pass::<X86>),
];

#[derive(Clone, Copy, PartialEq)]
enum Order {
    Sequential,
    Random,
}

pub(crate) fn measure(repeats: Repeats, cpu: usize) -> Single {
    let mut measured = SUBJECTS.map(|_| [Series::new(), Series::new()]);
    let mut zeroing = Series::new();
    for _ in 0..repeats.passes {
        for ((_, _, pass), [sequential, random]) in SUBJECTS.iter().zip(&mut measured) {
            sequential.add(|| pass(cpu, Order::Sequential));
            random.add(|| pass(cpu, Order::Random));
        }
        zeroing.add(|| zeroing_pass(cpu));
    }
    let row = |((who, what, _), [sequential, random]): ((_, _, Pass), [Series<f64>; 2])| Row {
        who,
        what,
        sequential_ns: sequential.median(|ns| *ns),
        random_ns: random.median(|ns| *ns),
        quietest_ns: sequential.least(|ns| *ns),
        discarded: sequential.discarded + random.discarded,
    };
    let rows = SUBJECTS.into_iter().zip(measured).map(row).collect();
    Single { rows, zeroing_a_table_ns: zeroing.median(|ns| *ns) }
}

/// One pass over an empty table, on a thread of its own that holds the first list of frames.
fn pass<T: Table>(cpu: usize, order: Order) -> Option<f64> {
    let free = frames::free_frames();
    let time = alone(cpu, || {
        let mut table = T::new();
        let time = undisturbed(|| match order {
            Order::Sequential => table.map_all(0..GIB_PAGES),
            Order::Random => table.map_all((0..GIB_PAGES).map(scattered)),
        });
        drop(table);
        time
    });
    assert_eq!(frames::free_frames(), free, "a table was not given back");
    Some(time?.as_nanos() as f64 / GIB_PAGES as f64)
}

/// Zeroing the tables of 1 GiB, one by one.
fn zeroing_pass(cpu: usize) -> Option<f64> {
    const TABLES: usize = 514;
    let time = alone(cpu, || {
        let taken: Vec<usize> = (0..TABLES).map_while(|_| frames::take()).collect();
        let time = undisturbed(|| taken.iter().for_each(|&frame| frames::zero(black_box(frame))));
        taken.into_iter().for_each(frames::give);
        time
    });
    Some(time?.as_nanos() as f64 / TABLES as f64)
}

fn alone<T: Send>(cpu: usize, work: impl FnOnce() -> T + Send) -> T {
    let work = || {
        clock::pin(cpu);
        frames::hold(0);
        work()
    };
    thread::scope(|scope| scope.spawn(work).join().expect("a subject panicked"))
}

/// The thread's CPU time for `work`, unless another thread took its place meanwhile.
fn undisturbed(work: impl FnOnce()) -> Option<Duration> {
    let (interruptions, start) = (clock::interruptions(), clock::thread_time());
    work();
    let time = clock::thread_time() - start;
    (clock::interruptions() == interruptions).then_some(time)
}

/// All pages, each once, in no order: every step can be undone, modulo 2^18.
#[inline(always)]
fn scattered(page: u64) -> u64 {
    const MASK: u64 = GIB_PAGES - 1;
    let mixed = page.wrapping_mul(0x2_c1b5) & MASK;
    let mixed = (mixed ^ (mixed >> 9)).wrapping_mul(0x1_9e3d) & MASK;
    mixed ^ (mixed >> 9)
}
