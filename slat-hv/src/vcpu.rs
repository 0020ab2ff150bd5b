//! A vCPU: runs its guest, and has slat serve its faults.

use slat::addr::{Gpa, Level};
use slat::host::{Access, VcpuId};
use slat::vm::{Outcome, Vcpu};
use slat_arch::aarch64::abort::{self, Abort};
use slat_arch::aarch64::instructions;
use slat_arch::aarch64::tlbi::{Operation, Scope};

use crate::counts::{Counts, Kind, Live};
use crate::cpu::{self, read_register};
use crate::memory::GuestVm;
use crate::vectors::{Reason, Registers, run_guest};

/// Why a guest's run ended, for now. The guest goes on where it was when it is run again.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Exit {
    /// It called the hypervisor, with this number.
    Call(u64),
    /// It called the firmware.
    Firmware,
    /// It accessed an address that no slot has.
    Unmapped(Gpa, Access),
    /// A fault that slat refused, or that is no fault of stage 2's.
    Failed(Failure),
}

/// What cannot be gone on from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Failure {
    /// slat's answer to a fault.
    Refused(Gpa, Access, Outcome),
    /// There is no memory for tables.
    NoTables,
    /// An exception that nobody expected, by ESR_EL2.
    Unexpected(u64),
    /// A system error.
    SystemError,
}

/// One vCPU, on the CPU that runs it.
pub(crate) struct Guest<'v> {
    vcpu: Vcpu<&'v GuestVm>,
    /// Its general registers.
    pub(crate) registers: Registers,
    live: &'static Live,
    /// Whether faults are timed: reading the counter costs an emulator more than the fault.
    timed: bool,
}

impl<'v> Guest<'v> {
    /// vCPU `number` of `vm`, which this CPU has loaded, with the tables of its first faults.
    pub(crate) fn new(vm: &'v GuestVm, number: usize) -> Self {
        let mut vcpu = Vcpu::new(vm, VcpuId(number as u32)).unwrap_or_else(|error| panic!("vCPU {number}: {error}"));
        let tables = vcpu.tables_per_fault();
        vcpu.top_up(tables).unwrap_or_else(|error| panic!("vCPU {number}: {error}"));
        Self { vcpu, registers: Registers::default(), live: Live::of_this_cpu(), timed: false }
    }

    /// The same, with its faults timed.
    pub(crate) fn timed(self) -> Self {
        Self { timed: true, ..self }
    }

    /// Runs the guest until something happens that is not slat's to settle.
    pub(crate) fn run(&mut self) -> Exit {
        loop {
            // SAFETY: in EL2, with this VM's stage 2 loaded.
            let exit = match unsafe { run_guest(&mut self.registers) } {
                Reason::Synchronous => self.synchronous(),
                Reason::Interrupt => {
                    crate::interrupts::acknowledge();
                    None
                }
                Reason::SystemError => Some(Exit::Failed(Failure::SystemError)),
            };
            if let Some(exit) = exit {
                return exit;
            }
        }
    }

    #[inline(always)]
    fn synchronous(&mut self) -> Option<Exit> {
        let syndrome = read_register!("esr_el2");
        match Abort::decode(syndrome) {
            Some(abort) => self.abort(abort, syndrome),
            None => Some(other(syndrome)),
        }
    }

    /// The address first, then slat; the guest tries again in any case but those that slat cannot settle.
    #[inline(always)]
    fn abort(&mut self, abort: Abort, syndrome: u64) -> Option<Exit> {
        match abort.cause {
            abort::Cause::Other(_) => return Some(Exit::Failed(Failure::Unexpected(syndrome))),
            abort::Cause::Conflict => return forget_everything(),
            _ => {}
        }
        let begun = if self.timed { cpu::ticks() } else { 0 };
        let gpa = address(abort)?;
        let outcome = self.vcpu.fault(gpa, abort.access);
        let (exit, kind) = self.settle(gpa, abort.access, outcome);
        if self.timed {
            self.live.note(cpu::ticks().wrapping_sub(begun), kind);
        }
        exit
    }

    /// Acts on slat's answer, and says what kind of answer it was.
    #[inline(always)]
    fn settle(&mut self, gpa: Gpa, access: Access, outcome: Outcome) -> (Option<Exit>, Kind) {
        let live = self.live;
        let goes_on = |kind, level| {
            live.count(kind, level);
            (None, kind)
        };
        match outcome {
            Outcome::Relaxed { level } => goes_on(Kind::Relaxed, level),
            Outcome::Mapped { level, .. } => goes_on(Kind::Mapped, level),
            Outcome::Accessed { level } => goes_on(Kind::Accessed, level),
            Outcome::Spurious => goes_on(Kind::Spurious, Level::PAGE),
            Outcome::Retry => goes_on(Kind::Retried, Level::PAGE),
            Outcome::NeedTables(tables) => {
                live.count(Kind::Refilled, Level::PAGE);
                (self.refill(tables.into()), Kind::Refilled)
            }
            Outcome::NoSlot => (Some(Exit::Unmapped(gpa, access)), Kind::Refused),
            refused => (Some(Exit::Failed(Failure::Refused(gpa, access, refused))), Kind::Refused),
        }
    }

    /// Its faults so far.
    pub(crate) fn counts(&self) -> Counts {
        self.live.counts()
    }

    /// Gets at least `tables` tables, and some more while it is at it; the guest faults again.
    #[cold]
    fn refill(&mut self, tables: usize) -> Option<Exit> {
        let most = tables.max(TABLES_AT_ONCE);
        match self.vcpu.top_up(most).or_else(|_| self.vcpu.top_up(tables)) {
            Ok(()) => None,
            Err(_) => Some(Exit::Failed(Failure::NoTables)),
        }
    }
}

/// Of two sizes for one address, only this is sure to drop both; the guest tries again.
#[cold]
fn forget_everything() -> Option<Exit> {
    // SAFETY: in EL2, where HCR_EL2.{E2H, TGE} are clear, with this VM's stage 2 loaded.
    unsafe { instructions::invalidate(core::iter::once(Operation::Everything), Scope::Local) };
    None
}

/// Tables got at a time.
const TABLES_AT_ONCE: usize = 8;

/// The guest physical address of the abort; `None` if the guest's own tables have changed meanwhile.
#[inline(always)]
fn address(abort: Abort) -> Option<Gpa> {
    let far = read_register!("far_el2");
    if abort.has_address() {
        return Some(abort::faulting_address(read_register!("hpfar_el2"), far));
    }
    // SAFETY: in EL2, the guest's registers are loaded.
    abort::translated_address(unsafe { instructions::translate(far) }, far)
}

/// Calls, and what nobody expects.
#[cold]
fn other(syndrome: u64) -> Exit {
    match syndrome >> 26 & 0x3f {
        0x16 => Exit::Call(syndrome & 0xffff),
        0x17 => {
            cpu::skip_instruction();
            Exit::Firmware
        }
        _ => Exit::Failed(Failure::Unexpected(syndrome)),
    }
}
