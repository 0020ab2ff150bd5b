//! What is written down of the calls that threads make: when, and what each did to the pages that they meet at.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use slat::addr::{Gpa, GpaRange};
use slat::format::Format;
use slat::host::Access;
use slat::vm::{LogError, Outcome, Progress};
use slat_machine::memory::PAGE_SIZE;
use slat_spec::{Call, Fault, Operation, Place};

use super::History;
use crate::subject::{PAGE, Subject};

const BASE: u64 = 1 << 30;
pub(super) const BLOCK_PAGES: u64 = 512;
/// Pages that the threads meet at: neighbours, and the last one of the block.
pub(super) const MET: [u64; 4] = [0, 1, 2, 511];

pub(super) fn gpa(page: u64) -> Gpa {
    Gpa::new(BASE + page * PAGE_SIZE)
}

pub(super) fn range(first: u64, count: u64) -> GpaRange {
    GpaRange::with_len(gpa(first), count * PAGE_SIZE).unwrap()
}

/// The clock of all threads, and what each page has seen.
pub(super) struct Notes {
    /// Pages of a group, as a power of two.
    group_bits: u32,
    hardware_dirty: bool,
    clock: AtomicU64,
    calls: Mutex<History>,
}

impl Notes {
    pub(super) fn of<S: Subject>() -> Self {
        let (group_bits, hardware_dirty) = (S::format().group_bits(PAGE), S::format().hardware_dirty());
        Self { group_bits, hardware_dirty, clock: AtomicU64::new(0), calls: Mutex::default() }
    }

    pub(super) fn into_calls(self) -> History {
        self.calls.into_inner().unwrap()
    }

    /// A guest's step takes a hundredth of a worker's: each waits for the others, so that they go on side by side. Four
    /// threads tick twice in each step, so that who is last never waits.
    pub(super) fn go_on(&self, step: usize) {
        self.wait_for(7 * step as u64);
    }

    /// Waits until the clock says so.
    pub(super) fn wait_for(&self, time: u64) {
        while self.clock.load(Ordering::SeqCst) < time {
            std::thread::yield_now();
        }
    }

    fn now(&self) -> u64 {
        self.clock.fetch_add(1, Ordering::SeqCst)
    }

    /// Times a call, and notes what it did to each page.
    pub(super) fn call<R>(&self, call: impl FnOnce() -> R, operations: impl Fn(&R, u64) -> Vec<Operation>) -> R {
        let from = self.now();
        let result = call();
        let to = self.now();
        let mut calls = self.calls.lock().unwrap();
        for (page, calls) in MET.iter().zip(calls.iter_mut()) {
            calls.extend(operations(&result, *page).into_iter().map(|operation| Call { from, to, operation }));
        }
        result
    }

    fn place(&self, page: u64, seen_from: u64) -> Place {
        match page {
            _ if page == seen_from => Place::Here { grouped: self.group_bits > 0 },
            _ if self.group_bits > 0 && page >> self.group_bits == seen_from >> self.group_bits => Place::Group,
            _ => Place::Elsewhere,
        }
    }

    /// What a fault on page `faulted` that came to `outcome` did to `page`.
    pub(super) fn faulted(&self, faulted: u64, access: Access, outcome: Outcome, page: u64) -> Vec<Operation> {
        let fault = Fault { access, outcome, place: self.place(page, faulted) };
        fault.operations(|_| true).chain([Operation::Beside]).collect()
    }

    /// What a guest that wrote to `at`, or tried to, did to `page`.
    pub(super) fn written(&self, at: u64, did: bool, page: u64) -> Vec<Operation> {
        let noted = if self.hardware_dirty { vec![Operation::Noted] } else { Vec::new() };
        match self.place(page, at) {
            Place::Here { grouped } if did => vec![Operation::Written { grouped }],
            Place::Here { .. } | Place::Group => noted,
            Place::Elsewhere => Vec::new(),
        }
    }

    /// What became of `page` in a call that was meant for it or not: its group may have been dissolved.
    pub(super) fn on_range(
        &self,
        progress: &Progress,
        meant: bool,
        operation: fn(bool) -> Operation,
    ) -> Vec<Operation> {
        let is_met = meant || progress.widened;
        let met = is_met.then(|| [operation(meant)].into_iter().chain(self.if_noted(Operation::Moved)));
        let flushed = if meant { Operation::Flushed } else { Operation::Beside };
        met.into_iter().flatten().chain([flushed]).chain(self.dissolved()).collect()
    }

    /// What may have become of a page of a group of which only others were meant.
    pub(super) fn dissolved(&self) -> Option<Operation> {
        (self.group_bits > 0).then_some(Operation::Protected { meant: false })
    }

    /// What becomes of what hardware has noted, where it does.
    pub(super) fn if_noted(&self, operation: Operation) -> Option<Operation> {
        self.hardware_dirty.then_some(operation)
    }

    /// What a worker that read the log found of a page. Beside another that takes what hardware has noted it may miss some.
    pub(super) fn read(&self, dirty: bool, by: u8) -> Option<Operation> {
        (dirty || !self.hardware_dirty).then_some(Operation::Read { dirty, by })
    }
}

/// What a refusal says of the log.
pub(super) fn refused(error: LogError) -> Vec<Operation> {
    assert!(matches!(error, LogError::NotLogged | LogError::Unfinished), "{error}");
    vec![Operation::NotLogged]
}
