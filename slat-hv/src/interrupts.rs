//! The interrupt controller (GICv3, Arm IHI 0069), as far as the hypervisor itself wants it: CPUs wake one another, and a
//! timer wakes the CPU that manages memory.

use core::ptr::with_exposed_provenance_mut;
use core::sync::atomic::{AtomicU64, Ordering};

use crate::cpu::{self, read_register, write_register};

static REDISTRIBUTORS: AtomicU64 = AtomicU64::new(0);

/// The distributor's control register: affinity routing, group 1.
const DISTRIBUTOR_ON: u32 = 1 << 4 | 1 << 1;
/// A redistributor's two frames.
const REDISTRIBUTOR: u64 = 0x2_0000;
const WAKER: u64 = 0x14;
const WAKER_SLEEP: u32 = 1 << 1;
const WAKER_CHILDREN_ASLEEP: u32 = 1 << 2;
const GROUP: u64 = 0x1_0080;
const ENABLE: u64 = 0x1_0100;
const PRIORITY: u64 = 0x1_0400;
/// What CPUs wake one another with.
const CALL: u32 = 0;
/// EL2's physical timer.
const TIMER: u32 = 26;
/// Interrupt numbers from here on mean "nothing".
const SPECIAL: u64 = 1020;

fn register(address: u64) -> *mut u32 {
    with_exposed_provenance_mut(address as usize)
}

/// Turns the distributor on. Once.
pub(crate) fn start(distributor: u64, redistributors: u64) {
    REDISTRIBUTORS.store(redistributors, Ordering::Relaxed);
    // SAFETY: the device tree says that a GICv3's distributor is there; it is mapped as a device.
    unsafe { register(distributor).write_volatile(DISTRIBUTOR_ON) };
}

/// Lets this CPU get calls and its timer's interrupts.
pub(crate) fn start_cpu() {
    let base = REDISTRIBUTORS.load(Ordering::Relaxed) + cpu::number() as u64 * REDISTRIBUTOR;
    // SAFETY: this CPU's redistributor, as the device tree says; mapped as a device.
    unsafe {
        let waker = register(base + WAKER);
        waker.write_volatile(waker.read_volatile() & !WAKER_SLEEP);
        while waker.read_volatile() & WAKER_CHILDREN_ASLEEP != 0 {}
        register(base + GROUP).write_volatile(u32::MAX);
        (0..8).for_each(|word| register(base + PRIORITY + 4 * word).write_volatile(0x8080_8080));
        register(base + ENABLE).write_volatile(1 << CALL | 1 << TIMER);
    }
    allow_system_registers();
    write_register!("icc_pmr_el1", 0xff);
    write_register!("icc_igrpen1_el1", 1);
}

/// Lets EL2 and EL1 use the interrupt controller's system registers.
pub(crate) fn allow_system_registers() {
    write_register!("icc_sre_el2", 0xf);
    write_register!("icc_sre_el1", 0x7);
}

/// Wakes `cpu`.
pub(crate) fn call(cpu: usize) {
    // SAFETY: what was written before is seen by the one who wakes.
    unsafe { core::arch::asm!("dsb ishst", options(nostack, preserves_flags)) };
    write_register!("icc_sgi1r_el1", u64::from(CALL) << 24 | 1 << cpu);
}

/// Sleeps until another CPU calls or the timer ends. What is waited for has to be looked at again.
pub(crate) fn sleep() {
    cpu::wait_for_interrupt();
    acknowledge();
}

/// Takes all interrupts that are pending.
pub(crate) fn acknowledge() {
    loop {
        let interrupt = read_register!("icc_iar1_el1") & 0xff_ffff;
        if interrupt >= SPECIAL {
            return;
        }
        if interrupt == u64::from(TIMER) {
            write_register!("cnthp_ctl_el2", 0);
        }
        write_register!("icc_eoir1_el1", interrupt);
    }
}

/// Sleeps for as many ticks of the counter, at least.
pub(crate) fn sleep_for(ticks: u64) {
    let end = cpu::ticks() + ticks;
    while cpu::ticks() < end {
        write_register!("cnthp_cval_el2", end);
        write_register!("cnthp_ctl_el2", 1);
        sleep();
    }
    write_register!("cnthp_ctl_el2", 0);
}
