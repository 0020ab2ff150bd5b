//! This CPU: its number, its counters, its waits, and the registers that a guest runs with.

use core::arch::asm;

use crate::memory::FORCES_WRITE_BACK;

/// Most CPUs that the hypervisor runs on.
pub(crate) const CPUS: usize = 16;

/// Reads a system register.
macro_rules! read_register {
    ($register:literal) => {{
        let value: u64;
        // SAFETY: reading this register changes nothing.
        unsafe { core::arch::asm!(concat!("mrs {}, ", $register), out(reg) value, options(nomem, nostack, preserves_flags)) }
        value
    }};
}

/// Writes a system register.
macro_rules! write_register {
    ($register:literal, $value:expr) => {{
        let value: u64 = $value;
        // SAFETY: the register is the guest's or a counter's; EL2's own code and data do not depend on it.
        unsafe { core::arch::asm!(concat!("msr ", $register, ", {}"), in(reg) value, options(nostack, preserves_flags)) }
    }};
}

pub(crate) use {read_register, write_register};

/// This CPU's number, below [`CPUS`].
#[inline(always)]
pub(crate) fn number() -> usize {
    read_register!("tpidr_el2") as usize
}

/// The machine's counter, in ticks.
#[inline(always)]
pub(crate) fn ticks() -> u64 {
    read_register!("cntpct_el0")
}

/// Ticks a second.
pub(crate) fn tick_rate() -> u64 {
    read_register!("cntfrq_el0")
}

/// One turn of a wait. Emulators that run one CPU at a time change to another one here.
#[inline(always)]
pub(crate) fn relax() {
    // SAFETY: a hint.
    unsafe { asm!("yield", options(nomem, nostack, preserves_flags)) }
}

/// Waits until an interrupt is pending.
pub(crate) fn wait_for_interrupt() {
    // SAFETY: a hint; earlier writes are complete before the CPU sleeps.
    unsafe { asm!("dsb sy", "wfi", options(nostack, preserves_flags)) }
}

/// What the last exception into EL2 says: ESR, FAR, and where it came from.
pub(crate) fn exception() -> (u64, u64, u64) {
    (read_register!("esr_el2"), read_register!("far_el2"), read_register!("elr_el2"))
}

/// How a guest is run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    /// A payload: the hypervisor gets the interrupts.
    Payload,
    /// An operating system that has timers and interrupts for itself.
    Whole,
}

const HCR_VM: u64 = 1 << 0;
const HCR_SWIO: u64 = 1 << 1;
const HCR_FMO_IMO_AMO: u64 = 0b111 << 3;
const HCR_TSC: u64 = 1 << 19;
const HCR_RW: u64 = 1 << 31;
const HCR_APK_API: u64 = 0b11 << 40;
const HCR_FWB: u64 = 1 << 46;

/// Sets up what a guest runs under: stage 2 on, nothing trapped but calls to firmware.
pub(crate) fn prepare_for(kind: Kind) {
    let interrupts = if kind == Kind::Payload { HCR_FMO_IMO_AMO } else { 0 };
    let cacheable = if FORCES_WRITE_BACK { HCR_FWB } else { 0 };
    write_register!("hcr_el2", HCR_VM | HCR_SWIO | HCR_TSC | HCR_RW | HCR_APK_API | interrupts | cacheable);
    write_register!("cptr_el2", 0x32ff); // RES1 bits: nothing of floating point or vectors is trapped
    write_register!("hstr_el2", 0);
    write_register!("cnthctl_el2", 0b11); // the guest reads the physical counter and timer
    write_register!("cntvoff_el2", 0);
    write_register!("vpidr_el2", read_register!("midr_el1"));
    write_register!("vmpidr_el2", read_register!("mpidr_el1"));
    let counters = (read_register!("pmcr_el0") >> 11) & 0x1f;
    write_register!("mdcr_el2", counters); // all event counters are everybody's
    write_register!("cpacr_el1", 0b11 << 20);
    write_register!("sctlr_el1", 0x30d0_0800); // as after reset: MMU and caches off
}

/// EL1 with its own stack pointer, interrupts masked.
const EL1H_MASKED: u64 = 0x3c5;

/// Where the guest begins, at EL1.
pub(crate) fn start_guest_at(entry: u64) {
    write_register!("elr_el2", entry);
    write_register!("spsr_el2", EL1H_MASKED);
}

/// Steps over the instruction that trapped.
pub(crate) fn skip_instruction() {
    write_register!("elr_el2", read_register!("elr_el2") + 4);
}
