//! Linux's calls to the firmware (PSCI): turning CPUs on goes by way of the hypervisor.

use core::sync::atomic::{AtomicU64, Ordering};

use super::{Linux, report};
use crate::cpu::{self, CPUS};
use crate::firmware::{self, function};
use crate::vectors::Registers;

/// Where CPUs begin that the guest turns on: an address and what it gets in x0.
pub(super) struct Starts([(AtomicU64, AtomicU64); CPUS]);

impl Starts {
    pub(super) fn new() -> Self {
        Self(core::array::from_fn(|_| (AtomicU64::new(0), AtomicU64::new(0))))
    }

    fn put(&self, cpu: usize, entry: u64, context: u64) {
        self.0[cpu].1.store(context, Ordering::Relaxed);
        self.0[cpu].0.store(entry, Ordering::Release);
    }

    /// What the CPU was turned on with.
    pub(super) fn taken(&self, cpu: usize) -> (u64, u64) {
        let entry = self.0[cpu].0.load(Ordering::Acquire);
        (entry, self.0[cpu].1.load(Ordering::Relaxed))
    }
}

/// Serves one call, whose answer is in x0 afterwards.
pub(super) fn serve(linux: &Linux, registers: &mut Registers) {
    match registers.x[0] {
        function::CPU_ON => registers.x[0] = turn_on(linux, registers),
        // A CPU that is suspended would come back at EL2.
        function::CPU_SUSPEND => registers.x[0] = firmware::NOT_SUPPORTED,
        function::SYSTEM_OFF => end(linux, 0),
        function::SYSTEM_RESET => end(linux, 1),
        _ => firmware::pass_on(registers),
    }
}

fn turn_on(linux: &Linux, registers: &Registers) -> u64 {
    let [_, target, entry, context, ..] = registers.x;
    let cpu = (target & 0xff) as usize;
    if target >> 8 != 0 || cpu >= linux.vcpus {
        return firmware::INVALID;
    }
    linux.starts.put(cpu, entry, context);
    firmware::turn_on(cpu).err().unwrap_or(0)
}

/// The guest's end: what was seen, then the machine's.
fn end(linux: &Linux, status: u64) -> ! {
    linux.ending.store(true, Ordering::Release);
    while !linux.managed.load(Ordering::Acquire) {
        cpu::relax();
    }
    report::print(linux);
    firmware::power_off(status)
}
