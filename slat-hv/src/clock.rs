//! Times by the machine's counter, and instructions by the CPU's.

use core::fmt;
use core::sync::atomic::{AtomicBool, Ordering};

use crate::cpu::{self, read_register, write_register};

/// A time, in ticks of the machine's counter.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Debug)]
pub(crate) struct Ticks(pub(crate) u64);

impl Ticks {
    /// Does `work`, and says how long it took.
    pub(crate) fn of<T>(work: impl FnOnce() -> T) -> (Self, T) {
        let begun = cpu::ticks();
        let value = work();
        (Self(cpu::ticks() - begun), value)
    }

    /// In nanoseconds.
    pub(crate) fn nanoseconds(self) -> u64 {
        (u128::from(self.0) * 1_000_000_000 / u128::from(cpu::tick_rate())) as u64
    }
}

impl fmt::Display for Ticks {
    /// Seconds, as KVM's tests print them.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nanoseconds = self.nanoseconds();
        write!(f, "{}.{:09}s", nanoseconds / 1_000_000_000, nanoseconds % 1_000_000_000)
    }
}

/// INST_RETIRED (D13.11.3).
const INSTRUCTIONS: u64 = 0x08;
/// Counts at EL2, not at EL1 and EL0.
const EL2_ONLY: u64 = 1 << 27 | 1 << 31 | 1 << 30;

/// Whether instructions are to be counted. Only some emulators' ways of running count them, and others pay for it.
static COUNTING: AtomicBool = AtomicBool::new(false);

/// From now on CPUs count when they are asked to.
pub(crate) fn allow_counting() {
    COUNTING.store(true, Ordering::Relaxed);
}

/// Counts instructions that this CPU executes in EL2, from now on, if that was allowed.
pub(crate) fn start_counting() {
    if !COUNTING.load(Ordering::Relaxed) {
        return;
    }
    write_register!("pmevtyper0_el0", INSTRUCTIONS | EL2_ONLY);
    write_register!("pmevcntr0_el0", 0);
    write_register!("pmcntenset_el0", 1);
    write_register!("pmcr_el0", read_register!("pmcr_el0") | 1);
}

/// Instructions so far; 0 where nothing is counted. The counter may have 32 bits: differences are to be taken as such.
#[inline(always)]
pub(crate) fn instructions() -> u32 {
    if COUNTING.load(Ordering::Relaxed) { read_register!("pmevcntr0_el0") as u32 } else { 0 }
}
