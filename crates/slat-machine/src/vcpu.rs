//! A vCPU: a core of the machine and the engine's vCPU, on the thread that runs the guest.

use std::ops::{Add, Sub};
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;

use slat::OutOfMemory;
use slat::addr::{Gpa, Hpa};
use slat::host::{Access, VcpuId};
use slat::vm::{Outcome, Vcpu, VmRef};

use crate::cpu::{Cpu, Exit};
use crate::machine::Machine;
use crate::program::{Action, Program};
use crate::walk::Fault;

/// The way from a guest's fault into the engine. Locking policies wrap it.
pub trait FaultEntry {
    /// Serves a fault.
    fn fault(&mut self, gpa: Gpa, access: Access) -> Outcome;

    /// Carries at least `tables` tables from now on.
    fn top_up(&mut self, tables: usize) -> Result<(), OutOfMemory>;
}

impl<R: VmRef> FaultEntry for Vcpu<R> {
    #[inline]
    fn fault(&mut self, gpa: Gpa, access: Access) -> Outcome {
        Vcpu::fault(self, gpa, access)
    }

    fn top_up(&mut self, tables: usize) -> Result<(), OutOfMemory> {
        Vcpu::top_up(self, tables)
    }
}

/// Runs guest accesses on one core, faulting into the engine as often as it takes.
#[derive(Debug)]
pub struct Runner<'m, E> {
    cpu: Cpu<'m>,
    entry: E,
    counts: RunnerCounts,
}

/// What a vCPU has done.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct RunnerCounts {
    /// Guest accesses that took place.
    pub accesses: u64,
    /// Walks of the tables, for want of a translation in the TLB.
    pub walks: u64,
    /// Calls into the engine: the sum of the outcomes below, of `needed_tables`, and of those that ended in an error.
    pub faults: u64,
    /// Faults that mapped memory.
    pub mapped: u64,
    /// Faults that gave write permission back.
    pub relaxed: u64,
    /// Faults that set an accessed flag.
    pub accessed: u64,
    /// Faults that found nothing to do.
    pub spurious: u64,
    /// Faults that were sent back to the guest.
    pub retries: u64,
    /// Faults that wanted more tables.
    pub needed_tables: u64,
}

impl RunnerCounts {
    fn combine(self, other: Self, with: impl Fn(u64, u64) -> u64) -> Self {
        Self {
            accesses: with(self.accesses, other.accesses),
            walks: with(self.walks, other.walks),
            faults: with(self.faults, other.faults),
            mapped: with(self.mapped, other.mapped),
            relaxed: with(self.relaxed, other.relaxed),
            accessed: with(self.accessed, other.accessed),
            spurious: with(self.spurious, other.spurious),
            retries: with(self.retries, other.retries),
            needed_tables: with(self.needed_tables, other.needed_tables),
        }
    }
}

impl Add for RunnerCounts {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        self.combine(other, |one, other| one + other)
    }
}

impl Sub for RunnerCounts {
    type Output = Self;

    fn sub(self, earlier: Self) -> Self {
        self.combine(earlier, |now, earlier| now - earlier)
    }
}

/// What a pass of a program came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Pass {
    /// Words read.
    pub reads: u64,
    /// Words written.
    pub writes: u64,
    /// Whether it was stopped before its end.
    pub stopped: bool,
}

/// Why the guest cannot go on.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum GuestError {
    /// No slot is there.
    #[error("the guest accessed {0}, where there is no slot")]
    NoSlot(Gpa),
    /// A write to a read-only slot.
    #[error("the guest wrote to {0}, in a read-only slot")]
    Mmio(Gpa),
    /// The backing refused.
    #[error("the backing refused the guest's access to {0} ({1:?})")]
    Denied(Gpa, Access),
    /// The embedder has noted something in the place of memory.
    #[error("the guest accessed {0}, where its hypervisor has put an annotation")]
    Annotated(Gpa),
    /// The address is not a guest physical address at all.
    #[error("the guest accessed {0}, outside of its address space")]
    OutOfRange(Gpa),
    /// The VM was torn down.
    #[error("the VM was torn down while its guest ran")]
    Gone,
    /// There is no memory for the tables that a fault needs.
    #[error("there is no memory for {0} more page tables")]
    OutOfTables(usize),
    /// The engine gave an outcome that this runner does not know.
    #[error("the fault at {0} had the outcome {1:?}, which this machine does not know")]
    Unknown(Gpa, Outcome),
    /// The engine says again and again that the guest may go on, and the guest cannot.
    #[error("the guest cannot go on at {gpa} ({access:?}): {faults} faults in a row were served without effect")]
    Stuck {
        /// Where.
        gpa: Gpa,
        /// What the guest wants to do.
        access: Access,
        /// How often the engine said that it can.
        faults: u32,
    },
    /// The core's TLB held translations of two sizes for one address: break-before-make was not kept.
    #[error("TLB conflict at {0}: the tables were changed without break-before-make")]
    Conflict(Gpa),
    /// The tables, or the root register, hold what the architecture reserves (x86: EPT misconfiguration).
    #[error("misconfiguration met by the guest's access to {gpa}: {fault:?}")]
    Misconfiguration {
        /// What the guest accessed.
        gpa: Gpa,
        /// What the walk found.
        fault: Fault,
    },
    /// An access or a walk went to a physical address where there is nothing, or nothing any more.
    #[error("external abort for the guest's access to {gpa}: there is nothing at {hpa:?} (any more)")]
    ExternalAbort {
        /// What the guest accessed.
        gpa: Gpa,
        /// Where it led.
        hpa: Hpa,
    },
}

/// How many tables a vCPU carries once it needs one.
const CARRIED: usize = 8;
/// How often in a row the engine may say that the guest can go on where it cannot. Another thread that takes away what
/// each fault gave may be fast, but is not this fast.
const PATIENCE: u32 = 100_000;

impl<'m, E: FaultEntry> Runner<'m, E> {
    /// The vCPU with number `id`: core `id` of `machine` walking the tables at `root`, faulting into `entry`.
    ///
    /// # Panics
    ///
    /// When there is no such core, or another thread drives it.
    pub fn new(machine: &'m Machine, id: VcpuId, root: Hpa, entry: E) -> Self {
        Self { cpu: Cpu::new(machine, id, root), entry, counts: RunnerCounts::default() }
    }

    /// Reads the word at `gpa`, a multiple of 8.
    #[inline]
    pub fn load(&mut self, gpa: Gpa) -> Result<u64, GuestError> {
        self.access(gpa, Access::Read, |cpu| cpu.load(gpa))
    }

    /// Writes the word at `gpa`, a multiple of 8.
    #[inline]
    pub fn store(&mut self, gpa: Gpa, value: u64) -> Result<(), GuestError> {
        self.access(gpa, Access::Write, |cpu| cpu.store(gpa, value))
    }

    /// Fetches the word at `gpa`, a multiple of 8, as an instruction.
    #[inline]
    pub fn fetch(&mut self, gpa: Gpa) -> Result<u64, GuestError> {
        self.access(gpa, Access::Execute, |cpu| cpu.fetch(gpa))
    }

    /// Whether the vCPU stays in its guest from one access to the next ([`Cpu::remain_in_guest`]).
    pub fn remain_in_guest(&mut self, remain: bool) {
        self.cpu.remain_in_guest(remain);
    }

    /// Runs what `program` has for `vcpu` in pass number `pass`, until it is over or `stop` is set.
    ///
    /// The vCPU stays in its guest all the while, but for faults and interrupts.
    pub fn execute(
        &mut self,
        program: &Program,
        vcpu: u32,
        pass: u64,
        stop: Option<&AtomicBool>,
    ) -> Result<Pass, GuestError> {
        self.remain_in_guest(true);
        let result = self.steps(program, vcpu, pass, stop);
        self.remain_in_guest(false);
        result
    }

    fn steps(
        &mut self,
        program: &Program,
        vcpu: u32,
        pass: u64,
        stop: Option<&AtomicBool>,
    ) -> Result<Pass, GuestError> {
        let mut result = Pass::default();
        for step in program.pass(vcpu, pass) {
            if stop.is_some_and(|stop| stop.load(Relaxed)) {
                result.stopped = true;
                break;
            }
            match step.action {
                Action::Read => {
                    std::hint::black_box(self.load(step.gpa)?);
                    result.reads += 1;
                }
                Action::Write(value) => {
                    self.store(step.gpa, value)?;
                    result.writes += 1;
                }
            }
        }
        Ok(result)
    }

    /// What the vCPU has done so far.
    pub fn counts(&self) -> RunnerCounts {
        let core = self.cpu.counts();
        RunnerCounts { accesses: core.accesses, walks: core.walks, ..self.counts }
    }

    /// The way into the engine.
    pub fn entry(&mut self) -> &mut E {
        &mut self.entry
    }

    /// Stops the core; the way into the engine remains.
    pub fn into_entry(self) -> E {
        self.entry
    }

    #[inline]
    fn access<T>(
        &mut self,
        gpa: Gpa,
        access: Access,
        mut attempt: impl FnMut(&mut Cpu<'m>) -> Result<T, Exit>,
    ) -> Result<T, GuestError> {
        let mut served = 0;
        loop {
            match attempt(&mut self.cpu) {
                Ok(done) => return Ok(done),
                Err(Exit::Fault(_)) => self.fault(gpa, access, &mut served)?,
                Err(Exit::Conflict) => return Err(GuestError::Conflict(gpa)),
                Err(Exit::Misconfiguration(fault)) => return Err(GuestError::Misconfiguration { gpa, fault }),
                Err(Exit::External(hpa)) => return Err(GuestError::ExternalAbort { gpa, hpa }),
            }
        }
    }

    /// One fault; `served` counts those in a row after which the guest should have been able to go on.
    fn fault(&mut self, gpa: Gpa, access: Access, served: &mut u32) -> Result<(), GuestError> {
        self.counts.faults += 1;
        let count = match self.entry.fault(gpa, access) {
            Outcome::Mapped { .. } => &mut self.counts.mapped,
            Outcome::Relaxed { .. } => &mut self.counts.relaxed,
            Outcome::Accessed { .. } => &mut self.counts.accessed,
            Outcome::Spurious => &mut self.counts.spurious,
            Outcome::Retry => {
                self.counts.retries += 1;
                std::thread::yield_now();
                return Ok(());
            }
            Outcome::NeedTables(tables) => {
                self.counts.needed_tables += 1;
                return self.top_up(tables.into());
            }
            Outcome::NoSlot => return Err(GuestError::NoSlot(gpa)),
            Outcome::Mmio => return Err(GuestError::Mmio(gpa)),
            Outcome::Denied => return Err(GuestError::Denied(gpa, access)),
            Outcome::Annotated { .. } => return Err(GuestError::Annotated(gpa)),
            Outcome::OutOfRange => return Err(GuestError::OutOfRange(gpa)),
            Outcome::Gone => return Err(GuestError::Gone),
            other => return Err(GuestError::Unknown(gpa, other)),
        };
        *count += 1;
        *served += 1;
        if *served < PATIENCE { Ok(()) } else { Err(GuestError::Stuck { gpa, access, faults: *served }) }
    }

    /// Carries a few tables more than the fault asks for, if there are; else just those.
    fn top_up(&mut self, tables: usize) -> Result<(), GuestError> {
        let more = self.entry.top_up(tables.max(CARRIED));
        more.or_else(|_| self.entry.top_up(tables)).map_err(|_| GuestError::OutOfTables(tables))
    }
}

#[cfg(test)]
mod tests;
