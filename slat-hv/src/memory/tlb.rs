//! TLB maintenance, by the instructions that reach all CPUs; and mistakes in it that a run can ask for.

use core::str::FromStr;

use slat::addr::Gpa;
use slat::host::{Flush, Hint, Tlb, VcpuId};
use slat_arch::aarch64::instructions;
use slat_arch::aarch64::tlbi::{self, Operation, Plan, Scope};

pub(crate) use slat_arch::aarch64::features::Features;

use super::Memory;
use super::format::LAYOUT;
use crate::cpu;

/// A mistake made on purpose, to see that the suite sees it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Plant {
    /// None.
    Nothing,
    /// Nothing is flushed.
    NoFlush,
    /// Stage 2 alone is flushed: combined entries stay.
    NoStageOne,
    /// Only the CPU that changes something flushes.
    LocalOnly,
}

impl FromStr for Plant {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        match text {
            "nothing" => Ok(Self::Nothing),
            "no-flush" => Ok(Self::NoFlush),
            "no-stage-one" => Ok(Self::NoStageOne),
            "local-only" => Ok(Self::LocalOnly),
            _ => Err(()),
        }
    }
}

impl Memory {
    /// What a mistake makes of a flush.
    #[cold]
    fn flush_badly(&self, flush: Flush) {
        let plan = Plan::new(flush, LAYOUT, &self.features);
        // SAFETY: as in `flush`; too little is invalidated, which is what is to be seen.
        unsafe {
            match self.plant {
                Plant::Nothing | Plant::NoFlush => {}
                Plant::LocalOnly => instructions::invalidate(plan, Scope::Local),
                Plant::NoStageOne => {
                    let stage2 =
                        plan.filter(|operation| matches!(operation, Operation::Ipa(_) | Operation::IpaRange(_)));
                    instructions::invalidate(stage2, Scope::All);
                }
            }
        }
    }
}

impl Tlb for Memory {
    type Pending = ();

    fn flush(&self, flush: Flush) {
        // The instructions are for the VMID that this CPU has loaded.
        assert!(instructions::loaded_root().1 == self.vmid, "a flush on a CPU that has not loaded this VM");
        if self.plant != Plant::Nothing {
            return self.flush_badly(flush);
        }
        // SAFETY: in EL2, where HCR_EL2.{E2H, TGE} are clear; the features are the CPU's.
        unsafe { instructions::invalidate(Plan::new(flush, LAYOUT, &self.features), Scope::All) }
    }

    /// The barrier behind the instructions has waited already.
    fn wait(&self, (): ()) {}

    #[inline(always)]
    fn flush_local(&self, _vcpu: VcpuId, page: Gpa, level: Hint) {
        // SAFETY: as in `flush`; a vCPU faults on the CPU that runs it.
        unsafe { instructions::invalidate_leaf_here(tlbi::leaf_operand(page, level, LAYOUT, &self.features)) }
    }

    #[inline(always)]
    fn published(&self) {
        instructions::published();
    }

    #[inline(always)]
    fn relax(&self) {
        cpu::relax();
    }
}
