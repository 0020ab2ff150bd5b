//! The worst fault while another thread write-protects 1 GiB of pages in one call.
//!
//! One thread maps fresh pages in the next GiB of the same slot, whose tables are there, and reads the tick counter
//! between two of them. A trial does not count if another thread took either one's place, or if the faulting CPU took an
//! interrupt: the timer's alone takes microseconds. A hypervisor's interruptions cannot be told apart: the second row is
//! the control, in which the other thread only waits.

use std::hint::black_box;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::{Repeats, Series};
use crate::clock;
use crate::frames;
use crate::locked::Lock;
use crate::subject::generic::Generic;
use crate::subject::multiarch::Multiarch;
use crate::subject::ours::{self, Faulting, Managing};
use crate::subject::x86::X86;
use crate::subject::{GIB_PAGES, PER_TABLE, Protect};

/// How long faults take meanwhile: medians over the trials.
#[derive(Serialize)]
pub(crate) struct Row {
    pub(crate) who: &'static str,
    /// The protecting call.
    pub(crate) call_us: f64,
    /// Faults done by the other thread during the call.
    pub(crate) faults: f64,
    /// The median fault, reading of the counter included.
    pub(crate) median_ns: f64,
    pub(crate) worst_us: f64,
    /// The part of all calls' time that the other thread spent in faults of more than 1 µs.
    pub(crate) stalled: f64,
    pub(crate) discarded: usize,
}

/// One trial, in ticks.
struct Sample {
    call: u64,
    faults: usize,
    median: u64,
    worst: u64,
    /// All of the other thread's time, and what of it went to long faults.
    faulting: u64,
    stalled: u64,
}

type Trial = fn([usize; 2], u32) -> Option<Sample>;

/// slat's faults while nothing is protected.
pub(crate) const CONTROL: &str = "slat, the other thread waits";

const SUBJECTS: [(&str, Trial); 8] = [
    ("slat", slat),
    (CONTROL, control),
    ("page_table_multiarch in parking_lot::Mutex", locked::<Multiarch, parking_lot::Mutex<_>>),
    ("page_table_multiarch in spin::Mutex", locked::<Multiarch, spin::Mutex<_>>),
    ("page-table-generic in parking_lot::Mutex", locked::<Generic, parking_lot::Mutex<_>>),
    ("page-table-generic in spin::Mutex", locked::<Generic, spin::Mutex<_>>),
    ("x86_64 in parking_lot::Mutex", locked::<X86, parking_lot::Mutex<_>>),
    ("x86_64 in spin::Mutex", locked::<X86, spin::Mutex<_>>),
];

pub(crate) fn measure(repeats: Repeats, cpus: [usize; 2], tick: f64) -> Vec<Row> {
    let mut measured = SUBJECTS.map(|_| Series::new());
    for _ in 0..repeats.trials {
        for ((_, trial), series) in SUBJECTS.iter().zip(&mut measured) {
            series.add(|| trial(cpus, (1000.0 / tick) as u32));
        }
    }
    let rows = SUBJECTS.iter().zip(&measured).map(|((who, _), series)| Row {
        who,
        call_us: series.median(|sample| sample.call as f64) * tick / 1000.0,
        faults: series.median(|sample| sample.faults as f64),
        median_ns: series.median(|sample| sample.median as f64) * tick,
        worst_us: series.median(|sample| sample.worst as f64) * tick / 1000.0,
        stalled: series.sum(|sample| sample.stalled) / series.sum(|sample| sample.faulting),
        discarded: series.discarded,
    });
    rows.collect()
}

fn slat(cpus: [usize; 2], long: u32) -> Option<Sample> {
    let vm = ours::vm(None);
    let (mut vcpu, mut worker) = (Faulting::new(&vm, 0), Managing::new(&vm));
    prepare(|page| vcpu.map(page));
    run(cpus, long, |page| vcpu.map(page), || worker.protect(0..GIB_PAGES))
}

fn control(cpus: [usize; 2], long: u32) -> Option<Sample> {
    let vm = ours::vm(None);
    let mut vcpu = Faulting::new(&vm, 0);
    prepare(|page| vcpu.map(page));
    let wait = || {
        let start = Instant::now();
        while start.elapsed() < Duration::from_millis(2) {}
    };
    run(cpus, long, |page| vcpu.map(page), wait)
}

fn locked<T: Protect + Send, L: Lock<T>>(cpus: [usize; 2], long: u32) -> Option<Sample> {
    let mut table = T::new();
    prepare(|page| table.map(page));
    let lock = L::new(table);
    run(cpus, long, |page| lock.with(|table| table.map(page)), || lock.with(|table| table.protect(0..GIB_PAGES)))
}

/// Maps the first GiB, and links the tables of the second one by the last page of each.
fn prepare(mut map: impl FnMut(u64)) {
    (0..GIB_PAGES).for_each(&mut map);
    (1..=GIB_PAGES / PER_TABLE).for_each(|table| map(GIB_PAGES + table * PER_TABLE - 1));
}

/// The `number`-th page that [`prepare`] left out.
#[inline(always)]
fn fresh(number: u64) -> u64 {
    let per_table = PER_TABLE - 1;
    GIB_PAGES + number / per_table * PER_TABLE + number % per_table
}

/// Faults on one thread while the other one makes its call. `long` is 1 µs.
fn run(cpus: [usize; 2], long: u32, mut fault: impl FnMut(u64) + Send, call: impl FnOnce() + Send) -> Option<Sample> {
    let (ready, done) = (AtomicUsize::new(2), AtomicBool::new(false));
    let start = |cpu: usize, list: usize| {
        clock::pin(cpu);
        frames::hold(list);
        let interruptions = clock::interruptions();
        ready.fetch_sub(1, Ordering::AcqRel);
        while ready.load(Ordering::Acquire) > 0 {
            std::hint::spin_loop();
        }
        interruptions
    };
    let faulting = || {
        let most = GIB_PAGES / PER_TABLE * (PER_TABLE - 1);
        let mut took: Vec<u32> = vec![1; most as usize];
        took.clear(); // the memory stays, and was touched
        let (interrupts, sleeps) = (clock::interrupts(cpus[0]), clock::sleeps());
        let interruptions = start(cpus[0], 0);
        let mut last = clock::ticks();
        for number in 0..most {
            black_box(&mut fault)(fresh(number));
            let now = clock::ticks();
            took.push(u32::try_from(now - last).unwrap_or(u32::MAX));
            last = now;
            if done.load(Ordering::Acquire) {
                break;
            }
        }
        // Who slept at a lock was woken by an interrupt.
        let is_awake = clock::sleeps() == sleeps;
        let had_interrupt = is_awake && clock::interrupts(cpus[0]) != interrupts;
        (took, had_interrupt || clock::interruptions() != interruptions)
    };
    let calling = || {
        let interruptions = start(cpus[1], 1);
        let begin = clock::ticks();
        call();
        let took = clock::ticks() - begin;
        done.store(true, Ordering::Release);
        (took, clock::interruptions() != interruptions)
    };
    let ((mut took, interrupted), (call, call_interrupted)) = thread::scope(|scope| {
        let faulting = scope.spawn(faulting);
        let call = scope.spawn(calling).join().expect("a subject panicked");
        (faulting.join().expect("a subject panicked"), call)
    });
    if interrupted || call_interrupted {
        return None;
    }
    took.sort_unstable();
    let (faults, median, worst) = (took.len(), took[took.len() / 2], took[took.len() - 1]);
    let sum = |took: &[u32]| took.iter().copied().map(u64::from).sum();
    let (faulting, stalled) = (sum(&took), sum(&took[took.partition_point(|&fault| fault <= long)..]));
    Some(Sample { call, faults, median: median.into(), worst: worst.into(), faulting, stalled })
}
