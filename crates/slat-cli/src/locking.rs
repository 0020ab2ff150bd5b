//! The locking round a VM: a policy of this program, not of the engine. It shows what the engine replaces.

use clap::ValueEnum;
use slat::OutOfMemory;
use slat::addr::Gpa;
use slat::host::Access;
use slat::vm::Outcome;
use slat_machine::FaultEntry;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Who may be inside the engine beside whom.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum Locking {
    /// Everybody beside everybody: the engine as it is.
    LockFree,
    /// One mutex round every operation: what a page-table crate with `&mut self` needs.
    Exclusive,
}

impl Locking {
    /// The name that options and reports use.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::LockFree => "lock-free",
            Self::Exclusive => "exclusive",
        }
    }
}

/// The policy at work in one run.
pub(crate) struct Gate {
    locking: Locking,
    mutex: Mutex<()>,
}

/// Held while inside the engine.
pub(crate) struct Inside<'g>(#[expect(dead_code, reason = "held for its drop")] Option<MutexGuard<'g, ()>>);

impl Gate {
    pub(crate) fn new(locking: Locking) -> Self {
        Self { locking, mutex: Mutex::new(()) }
    }

    /// For a fault.
    pub(crate) fn fault(&self) -> Inside<'_> {
        self.operation()
    }

    /// For every other operation.
    pub(crate) fn operation(&self) -> Inside<'_> {
        match self.locking {
            Locking::LockFree => Inside(None),
            Locking::Exclusive => Inside(Some(self.mutex.lock().unwrap_or_else(PoisonError::into_inner))),
        }
    }
}

/// A vCPU whose faults go through a gate.
pub(crate) struct Gated<'g, E> {
    pub(crate) gate: &'g Gate,
    pub(crate) entry: E,
}

impl<E: FaultEntry> FaultEntry for Gated<'_, E> {
    fn fault(&mut self, gpa: Gpa, access: Access) -> Outcome {
        let _inside = self.gate.fault();
        self.entry.fault(gpa, access)
    }

    fn top_up(&mut self, tables: usize) -> Result<(), OutOfMemory> {
        self.entry.top_up(tables)
    }
}
