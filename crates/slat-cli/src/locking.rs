//! The locking round a VM: a policy of this program, not of the engine. It shows what the engine replaces.
//!
//! The locks are parking_lot's: they spin for a moment, then sleep. A lock that is let go goes to whoever comes first, so
//! that waiters can be overtaken; a waiting writer keeps new readers out. Linux's `rwlock_t`, which KVM takes, never sleeps
//! and queues all waiters.

use clap::ValueEnum;
use parking_lot::{Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard};
use slat::OutOfMemory;
use slat::addr::{Gpa, Level};
use slat::host::Access;
use slat::vm::{Outcome, Vcpu, VmRef};
use slat_machine::FaultEntry;
use std::sync::atomic::{AtomicBool, Ordering};

/// Who may be inside the engine beside whom.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum Locking {
    /// No lock at all: the engine as it is
    LockFree,
    /// A readers-writer lock: faults share it, every other operation has it alone
    SharedFault,
    /// The same, but only faults that give write permission back to a logged page share it
    SharedRelax,
    /// A mutex round every operation
    Exclusive,
}

impl Locking {
    /// The name that options and reports use.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::LockFree => "lock-free",
            Self::SharedFault => "shared-fault",
            Self::SharedRelax => "shared-relax",
            Self::Exclusive => "exclusive",
        }
    }
}

/// The policy at work in one run.
pub(crate) struct Gate {
    locking: Locking,
    mutex: Mutex<()>,
    readers_writer: RwLock<()>,
    logging: Apart<AtomicBool>,
}

/// On cache lines of its own: what is nearly always read is not to suffer from the locks beside it.
#[repr(align(128))]
struct Apart<T>(T);

/// Held while inside the engine.
pub(crate) struct Inside<'g>(#[expect(dead_code, reason = "held for its drop")] Held<'g>);

#[expect(dead_code, reason = "held for their drop")]
enum Held<'g> {
    Nothing,
    Mutex(MutexGuard<'g, ()>),
    Shared(RwLockReadGuard<'g, ()>),
    Alone(RwLockWriteGuard<'g, ()>),
}

impl Gate {
    pub(crate) fn new(locking: Locking) -> Self {
        let logging = Apart(AtomicBool::new(false));
        Self { locking, mutex: Mutex::new(()), readers_writer: RwLock::new(()), logging }
    }

    /// For a fault; `relaxes` says whether it asks for no more than write permission to a page that is mapped.
    #[inline]
    pub(crate) fn fault(&self, relaxes: impl FnOnce() -> bool) -> Inside<'_> {
        match self.locking {
            Locking::SharedFault => self.share(),
            Locking::SharedRelax if self.logging.0.load(Ordering::Relaxed) && relaxes() => self.share(),
            Locking::LockFree | Locking::SharedRelax | Locking::Exclusive => self.operation(),
        }
    }

    /// For every other operation.
    #[inline]
    pub(crate) fn operation(&self) -> Inside<'_> {
        Inside(match self.locking {
            Locking::LockFree => Held::Nothing,
            Locking::Exclusive => Held::Mutex(self.mutex.lock()),
            Locking::SharedFault | Locking::SharedRelax => Held::Alone(self.readers_writer.write()),
        })
    }

    /// Told when the dirty log goes on and off: without it, a write to a read-only page is no mere relaxation.
    pub(crate) fn set_logging(&self, on: bool) {
        self.logging.0.store(on, Ordering::Relaxed);
    }

    fn share(&self) -> Inside<'_> {
        Inside(Held::Shared(self.readers_writer.read()))
    }
}

/// A vCPU whose faults go through a gate.
pub(crate) struct Gated<'g, R: VmRef> {
    pub(crate) gate: &'g Gate,
    pub(crate) vcpu: Vcpu<R>,
}

impl<R: VmRef> FaultEntry for Gated<'_, R> {
    #[inline]
    fn fault(&mut self, gpa: Gpa, access: Access) -> Outcome {
        let vcpu = &mut self.vcpu;
        // Hardware says in its syndrome what this has to look up; it is older than the lock there, too, and the engine
        // judges the entry anew in any case. Blocks do not count, which have to be split.
        let mut is_mapped_page = || vcpu.lookup(gpa).is_some_and(|mapping| mapping.level() == Level::PAGE);
        let _inside = self.gate.fault(|| access == Access::Write && is_mapped_page());
        self.vcpu.fault(gpa, access)
    }

    fn top_up(&mut self, tables: usize) -> Result<(), OutOfMemory> {
        self.vcpu.top_up(tables)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Who gets in while a fault is inside: another fault, and another operation.
    fn beside_a_fault(locking: Locking, relaxes: bool, logging: bool) -> (bool, bool) {
        let gate = Gate::new(locking);
        gate.set_logging(logging);
        let _inside = gate.fault(|| relaxes);
        let reader = gate.mutex.try_lock().is_some() && gate.readers_writer.try_read().is_some();
        let writer = gate.mutex.try_lock().is_some() && gate.readers_writer.try_write().is_some();
        (reader, writer)
    }

    #[test]
    fn each_kind_lets_in_whom_it_should() {
        for relaxes in [false, true] {
            assert_eq!(beside_a_fault(Locking::LockFree, relaxes, true), (true, true));
            assert_eq!(beside_a_fault(Locking::SharedFault, relaxes, true), (true, false));
            assert_eq!(beside_a_fault(Locking::SharedRelax, relaxes, true), (relaxes, false));
            assert_eq!(beside_a_fault(Locking::SharedRelax, relaxes, false), (false, false));
            assert_eq!(beside_a_fault(Locking::Exclusive, relaxes, true), (false, false));
        }
    }

    #[test]
    fn operations_are_alone_unless_there_is_no_lock() {
        for locking in [Locking::SharedFault, Locking::SharedRelax, Locking::Exclusive] {
            let gate = Gate::new(locking);
            let _inside = gate.operation();
            assert!(gate.mutex.try_lock().is_none() || gate.readers_writer.try_read().is_none());
        }
    }
}
