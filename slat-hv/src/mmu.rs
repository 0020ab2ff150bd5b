//! EL2's own translation: everything at its own address, the first GiB as devices, the rest as cacheable memory, without
//! which atomic operations would mean nothing.

use core::arch::asm;

/// One root table of blocks of 1 GiB: 39 bits of address.
#[repr(C, align(4096))]
struct Root([u64; 512]);

const VALID: u64 = 1 << 0;
const ATTRIBUTES_DEVICE: u64 = 1 << 2;
const READ_WRITE: u64 = 1 << 6;
const INNER_SHAREABLE: u64 = 0b11 << 8;
const ACCESSED: u64 = 1 << 10;
const EXECUTE_NEVER: u64 = 1 << 54;

static ROOT: Root = Root(identity());

const fn identity() -> [u64; 512] {
    let mut entries = [0; 512];
    entries[0] = VALID | READ_WRITE | ACCESSED | ATTRIBUTES_DEVICE | EXECUTE_NEVER;
    let mut gibibyte = 1;
    while gibibyte < 512 {
        entries[gibibyte] = (gibibyte as u64) << 30 | VALID | READ_WRITE | ACCESSED | INNER_SHAREABLE;
        gibibyte += 1;
    }
    entries
}

/// Index 0: write-back memory; index 1: device-nGnRnE.
const MAIR: u64 = 0xff;
/// RES1, 40-bit physical addresses, cached inner-shareable walks, 39 bits of input.
const TCR: u64 = 1 << 31 | 1 << 23 | 2 << 16 | 0b11 << 12 | 0b01 << 10 | 0b01 << 8 | 25;
/// RES1, instruction cache, data cache, MMU.
const SCTLR: u64 = 0x30c5_0830 | 1 << 12 | 1 << 2 | 1;

/// Turns on this CPU's translation. Called once a CPU, before anything else.
pub(crate) extern "C" fn enable() {
    // SAFETY: every address means afterwards what it meant before; the table is never changed.
    unsafe {
        asm!(
            "msr mair_el2, {mair}",
            "msr tcr_el2, {tcr}",
            "msr ttbr0_el2, {root}",
            "isb",
            "tlbi alle2",
            "ic iallu",
            "dsb nsh",
            "isb",
            "msr sctlr_el2, {sctlr}",
            "isb",
            mair = in(reg) MAIR,
            tcr = in(reg) TCR,
            root = in(reg) &raw const ROOT,
            sctlr = in(reg) SCTLR,
            options(nostack)
        );
    }
}
