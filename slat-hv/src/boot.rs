//! The first instructions of each CPU: a stack, the EL2 tables, then Rust.

use core::arch::global_asm;

use crate::cpu::CPUS;

// One stack of 64 KiB for each CPU that the linker script has room for.
const _: () = assert!(CPUS == 16);

// `_start` is where the boot CPU begins, `secondary_start` where PSCI sends the others; both with caches and MMU off, in
// EL2. The CPU's number is Aff0: the machine has at most 16 CPUs in a cluster.
global_asm!(
    ".section .text.boot, \"ax\"",
    ".global _start",
    "_start:",
    "    ldr  x1, =__bss_start",
    "    ldr  x2, =__bss_end",
    "0:  cmp  x1, x2",
    "    b.hs 1f",
    "    stp  xzr, xzr, [x1], #16",
    "    b    0b",
    "1:  ldr  x20, ={boot_main}",
    "    b    2f",
    ".global secondary_start",
    "secondary_start:",
    "    ldr  x20, ={secondary_main}",
    "2:  msr  daifset, #0xf",
    "    msr  spsel, #1",
    "    mrs  x19, mpidr_el1",
    "    and  x19, x19, #0xff",
    "    ldr  x1, =__stacks",
    "    add  x2, x19, #1",
    "    add  x1, x1, x2, lsl #16",
    "    mov  sp, x1",
    "    msr  tpidr_el2, x19",
    "    adr  x1, exception_vectors",
    "    msr  vbar_el2, x1",
    "    bl   {enable_mmu}",
    "    mov  x0, x19",
    "    mov  x29, xzr",
    "    mov  x30, xzr",
    "    br   x20",
    boot_main = sym crate::boot_main,
    secondary_main = sym crate::secondary_main,
    enable_mmu = sym crate::mmu::enable,
);
