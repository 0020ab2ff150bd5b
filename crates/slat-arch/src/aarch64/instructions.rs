//! The instructions. All of them are EL2's; at a lower level they are undefined.

use core::arch::asm;

use slat::addr::Hpa;

use super::features::{Features, Registers};
use super::tlbi::{Operation, Scope};

/// Reads what the CPU says about itself. Allowed at EL1 and above.
pub fn features() -> Features {
    let (isar0, mmfr0, mmfr1, mmfr2, ctr);
    // SAFETY: reading identification registers changes nothing.
    unsafe {
        asm!("mrs {}, id_aa64isar0_el1", out(reg) isar0, options(nomem, nostack, preserves_flags));
        asm!("mrs {}, id_aa64mmfr0_el1", out(reg) mmfr0, options(nomem, nostack, preserves_flags));
        asm!("mrs {}, id_aa64mmfr1_el1", out(reg) mmfr1, options(nomem, nostack, preserves_flags));
        asm!("mrs {}, id_aa64mmfr2_el1", out(reg) mmfr2, options(nomem, nostack, preserves_flags));
        asm!("mrs {}, ctr_el0", out(reg) ctr, options(nomem, nostack, preserves_flags));
    }
    Features::new(Registers { isar0, mmfr0, mmfr1, mmfr2, ctr })
}

/// Writes VTCR_EL2 and VTTBR_EL2, with the barrier after which the CPU goes by them (B2.6.2, D19.1.2.2).
///
/// # Safety
///
/// At EL2. No guest runs on this CPU meanwhile; `vttbr` names a root that stays allocated while it is loaded, in the
/// format that `vtcr` says.
pub unsafe fn load_stage2(vtcr: u64, vttbr: u64) {
    // SAFETY: the caller's promise.
    unsafe {
        asm!("msr vtcr_el2, {}", "msr vttbr_el2, {}", "isb", in(reg) vtcr, in(reg) vttbr,
            options(nostack, preserves_flags));
    }
}

/// Executes the operations of a [`Plan`](super::tlbi::Plan) for the VMID in VTTBR_EL2: earlier writes to the tables become
/// visible first, then the operations, then the wait for them (D8.14.4).
///
/// # Safety
///
/// At EL2, with HCR_EL2.{E2H, TGE} = {0, 0} or {1, 0}; the CPU can do what the plan's features say.
#[inline]
pub unsafe fn invalidate(plan: impl Iterator<Item = Operation>, scope: Scope) {
    // SAFETY: the caller's promise; invalidating more than is needed costs time only.
    unsafe {
        match scope {
            Scope::All => {
                asm!("dsb ishst", options(nostack, preserves_flags));
                plan.for_each(|operation| invalidate_everywhere(operation));
                asm!("dsb ish", "isb", options(nostack, preserves_flags));
            }
            Scope::Local => {
                asm!("dsb nshst", options(nostack, preserves_flags));
                plan.for_each(|operation| invalidate_here(operation));
                asm!("dsb nsh", "isb", options(nostack, preserves_flags));
            }
        }
    }
}

/// The same on this CPU for one leaf, by its [operand](super::tlbi::leaf_operand): after its permissions were relaxed.
///
/// # Safety
///
/// As [`invalidate`].
#[inline(always)]
pub unsafe fn invalidate_leaf_here(operand: u64) {
    // SAFETY: the caller's promise.
    unsafe {
        asm!("dsb nshst", "tlbi ipas2e1, {}", "dsb nsh", "tlbi vmalle1", "dsb nsh", "isb", in(reg) operand,
            options(nostack, preserves_flags));
    }
}

/// # Safety
///
/// As [`invalidate`].
#[inline(always)]
unsafe fn invalidate_everywhere(operation: Operation) {
    // SAFETY: the caller's promise.
    unsafe {
        match operation {
            Operation::Ipa(operand) => {
                asm!("tlbi ipas2e1is, {}", in(reg) operand, options(nostack, preserves_flags))
            }
            // TLBI RIPAS2E1IS (C5.5.30), by its encoding: assemblers know it from Armv8.4 on.
            Operation::IpaRange(operand) => {
                asm!("sys #4, c8, c0, #2, {}", in(reg) operand, options(nostack, preserves_flags))
            }
            Operation::StageOne => asm!("dsb ish", "tlbi vmalle1is", options(nostack, preserves_flags)),
            Operation::Everything => asm!("tlbi vmalls12e1is", options(nostack, preserves_flags)),
        }
    }
}

/// # Safety
///
/// As [`invalidate`].
#[inline(always)]
unsafe fn invalidate_here(operation: Operation) {
    // SAFETY: the caller's promise.
    unsafe {
        match operation {
            Operation::Ipa(operand) => asm!("tlbi ipas2e1, {}", in(reg) operand, options(nostack, preserves_flags)),
            // TLBI RIPAS2E1 (C5.5.29).
            Operation::IpaRange(operand) => {
                asm!("sys #4, c8, c4, #2, {}", in(reg) operand, options(nostack, preserves_flags))
            }
            Operation::StageOne => asm!("dsb nsh", "tlbi vmalle1", options(nostack, preserves_flags)),
            Operation::Everything => asm!("tlbi vmalls12e1", options(nostack, preserves_flags)),
        }
    }
}

/// Makes earlier writes to tables visible to walkers; the exception return that follows does the rest (D8.2.6).
#[inline(always)]
pub fn published() {
    // SAFETY: a barrier.
    unsafe { asm!("dsb ishst", options(nostack, preserves_flags)) }
}

/// Cleans the data cache line at `address` to the point of coherency (DC CVAC, C5.3.3).
///
/// # Safety
///
/// `address` is mapped at EL2.
#[inline(always)]
pub unsafe fn clean_data(address: u64) {
    // SAFETY: the caller's promise; cleaning changes no value.
    unsafe { asm!("dc cvac, {}", in(reg) address, options(nostack, preserves_flags)) }
}

/// Waits for cache maintenance by this CPU (D7.5.9).
#[inline(always)]
pub fn finish_maintenance() {
    // SAFETY: barriers.
    unsafe { asm!("dsb ish", "isb", options(nostack, preserves_flags)) }
}

/// Invalidates all instruction caches, on all CPUs (IC IALLUIS, C5.3.10): the guest's addresses for a page are not
/// known, so that an invalidation by address would not do where caches are indexed by virtual addresses.
#[inline(always)]
pub fn invalidate_instructions() {
    // SAFETY: invalidating instruction caches costs time only.
    unsafe { asm!("ic ialluis", options(nostack, preserves_flags)) }
}

/// Translates a guest's virtual address by its own tables, for reading at EL1, into PAR_EL1's form (AT S1E1R, C5.4.10;
/// see [`super::abort::translated_address`]). PAR_EL1 is as it was afterwards.
///
/// # Safety
///
/// At EL2, with the guest's registers loaded.
#[inline]
pub unsafe fn translate(address: u64) -> u64 {
    let par;
    // SAFETY: the caller's promise; the guest's PAR_EL1 is put back.
    unsafe {
        asm!(
            "mrs {saved}, par_el1",
            "at s1e1r, {address}",
            "isb",
            "mrs {par}, par_el1",
            "msr par_el1, {saved}",
            saved = out(reg) _,
            address = in(reg) address,
            par = out(reg) par,
            options(nostack, preserves_flags)
        );
    }
    par
}

/// The root and VMID that this CPU has loaded (VTTBR_EL2).
#[inline]
pub fn loaded_root() -> (Hpa, u16) {
    let vttbr: u64;
    // SAFETY: reading the register changes nothing.
    unsafe { asm!("mrs {}, vttbr_el2", out(reg) vttbr, options(nomem, nostack, preserves_flags)) }
    super::control::root_and_vmid(vttbr)
}
