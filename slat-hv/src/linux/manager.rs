//! What happens to Linux's memory while it runs: logging comes and goes, harvests twice a second, tables are collapsed, memory
//! moves.

use alloc::vec;
use alloc::vec::Vec;
use core::sync::atomic::Ordering;

use slat::addr::{Gpa, GpaRange, Level};
use slat::vm::{Budget, Collapse, LogMode, Pages, SlotFlags, Worker};

use super::{Linux, MEMORY, MEMORY_GPA};
use crate::memory::{GuestVm, Unit};
use crate::{cpu, interrupts};

/// What was done.
#[derive(Default)]
pub(super) struct Journal {
    /// Dirty pages of each harvest.
    pub(super) dirty: Vec<u64>,
    /// How often logging was turned on.
    pub(super) enabled: u64,
    /// Blocks split ahead of the guest's writes.
    pub(super) split: u64,
    /// Tables collapsed.
    pub(super) collapsed: u64,
    /// Units that were moved.
    pub(super) moved: u64,
}

/// Steps a second.
const RATE: u64 = 4;
/// Steps of one round: logging is on in the first of them.
const ROUND: u64 = 8;
const LOGGED: u64 = 6;
/// Bytes that are moved at a time.
const MOVED: u64 = 4 << 20;
/// Entries looked at, at a time.
const STEP: Budget = Budget::entries(8192);

/// What is left where memory was moved away from.
const SCRUBBED: u64 = 0xdead_dead_dead_dead;

/// Manages the memory until the guest powers off; then sleeps.
pub(super) fn manage(linux: &'static Linux) -> ! {
    let mut manager = Manager::new(linux);
    let mut step = 0;
    while !linux.ending.load(Ordering::Acquire) {
        interrupts::sleep_for(cpu::tick_rate() / RATE);
        manager.step(step);
        step += 1;
    }
    linux.managed.store(true, Ordering::Release);
    loop {
        cpu::wait_for_interrupt();
    }
}

struct Manager {
    linux: &'static Linux,
    worker: Worker<&'static GuestVm>,
    bitmap: Vec<u64>,
    /// Chooses what is moved.
    random: u64,
}

impl Manager {
    fn new(linux: &'static Linux) -> Self {
        let worker = Worker::new(&linux.vm).unwrap_or_else(|error| panic!("a worker: {error}"));
        let words = (linux.range.len() / Unit::PAGE.bytes()).div_ceil(64) as usize;
        Self { linux, worker, bitmap: vec![0; words], random: 0x2545_f491_4f6c_dd1d }
    }

    fn step(&mut self, step: u64) {
        match step % ROUND {
            0 => {
                self.set_log(Some(LogMode::Protect));
                // Every other time; else the guest's writes split.
                if step.is_multiple_of(2 * ROUND) {
                    self.split();
                }
            }
            at if at < LOGGED && at.is_multiple_of(2) => self.harvest(step),
            LOGGED => {
                self.harvest(step);
                self.set_log(None);
                self.collapse();
            }
            _ => self.move_some(),
        }
        let _ = self.worker.reclaim(STEP);
    }

    fn set_log(&mut self, log: Option<LogMode>) {
        self.linux.journal.lock().enabled += u64::from(log.is_some());
        let flags = SlotFlags { log, ..SlotFlags::default() };
        let mut done = false;
        while !done {
            let progress = self.worker.set_flags(MEMORY, flags, STEP);
            done = progress.unwrap_or_else(|error| panic!("flags: {error}")).is_done();
        }
    }

    /// Takes the log: in one operation, or in KVM's two.
    fn harvest(&mut self, step: u64) {
        let pages = Pages { first: 0, count: self.linux.range.len() / Unit::PAGE.bytes() };
        self.worker.top_up(16).unwrap_or_else(|error| panic!("tables: {error}"));
        self.bitmap.fill(0);
        let dirty = if step % (2 * ROUND) < ROUND {
            let harvest = self.worker.harvest(MEMORY, pages, &mut self.bitmap, Budget::UNLIMITED);
            harvest.unwrap_or_else(|error| panic!("harvest: {error}")).dirty
        } else {
            let dirty = self.worker.get_dirty(MEMORY, pages, &mut self.bitmap);
            let cleared = self.worker.clear_dirty(MEMORY, pages, &self.bitmap, Budget::UNLIMITED);
            assert!(cleared.unwrap_or_else(|error| panic!("clear: {error}")).is_done());
            dirty.unwrap_or_else(|error| panic!("get: {error}"))
        };
        self.linux.journal.lock().dirty.push(dirty);
    }

    fn split(&mut self) {
        let split = self.worker.split(self.linux.range, Level::PAGE, Budget::UNLIMITED);
        self.linux.journal.lock().split += split.unwrap_or_else(|error| panic!("split: {error}")).changed;
    }

    fn collapse(&mut self) {
        let mut next = Some(self.linux.range.start());
        while let Some(at) = next {
            let progress = self.worker.collapse(self.linux.range.from(at), Collapse::InPlace, STEP);
            let progress = progress.unwrap_or_else(|error| panic!("collapse: {error}"));
            self.linux.journal.lock().collapsed += progress.changed;
            next = progress.next;
            let _ = self.worker.reclaim(STEP);
        }
    }

    /// Takes memory from under the guest, here and there, and gives it other memory with the same contents.
    fn move_some(&mut self) {
        let unit = self.linux.unit.bytes();
        for _ in 0..MOVED / unit {
            let index = self.next_random() % (self.linux.range.len() / unit);
            let range = GpaRange::with_len(Gpa::new(MEMORY_GPA + index * unit), unit).unwrap_or_default();
            let mut invalidation = self.worker.invalidate(range).unwrap_or_else(|error| panic!("invalidate: {error}"));
            while !invalidation.unmap(STEP).is_done() {}
            let moved = self.linux.vm.host().backed.move_unit(MEMORY, index as usize, SCRUBBED);
            drop(invalidation);
            self.linux.journal.lock().moved += u64::from(moved.is_some());
        }
    }

    /// Marsaglia's xorshift.
    fn next_random(&mut self) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random >> 8
    }
}
