//! Into the guest and out of it: the exception vectors of EL2, and what is saved on the way.
//!
//! Only general registers change hands. The guest's system registers stay loaded, since each vCPU has a CPU to itself;
//! floating point does, since this program has none; ELR_EL2 and SPSR_EL2 do, since nothing interrupts EL2.

use core::arch::global_asm;

/// A guest's general registers.
#[derive(Clone, Copy, Default, Debug)]
#[repr(C)]
pub(crate) struct Registers {
    /// x0 to x30.
    pub(crate) x: [u64; 31],
    /// Keeps the size even, for pairs.
    _unused: u64,
}

/// Why a guest came back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Reason {
    /// An exception of its own: ESR_EL2 says which.
    Synchronous,
    /// An interrupt for the hypervisor.
    Interrupt,
    /// A system error.
    SystemError,
}

/// Runs the guest whose system registers, ELR_EL2 and SPSR_EL2 are loaded until it comes back.
///
/// # Safety
///
/// In EL2; what is loaded is a guest that stage 2 confines.
#[inline(always)]
pub(crate) unsafe fn run_guest(registers: &mut Registers) -> Reason {
    // SAFETY: the caller's promise.
    match unsafe { enter_guest(registers) } {
        0 => Reason::Synchronous,
        1 => Reason::Interrupt,
        _ => Reason::SystemError,
    }
}

unsafe extern "C" {
    /// As [`run_guest`]; the number is the vector's, below.
    fn enter_guest(registers: &mut Registers) -> u64;
}

global_asm!(
    ".section .text.vectors, \"ax\"",
    ".macro to_hypervisor reason",
    "    .balign 0x80",
    "    stp  x0, x1, [sp, #-16]!",
    "    mov  x1, #\\reason",
    "    b    leave_guest",
    ".endm",
    ".macro fatal reason",
    "    .balign 0x80",
    "    mov  x0, #\\reason",
    "    b    {fatal}",
    ".endm",
    ".balign 0x800",
    ".global exception_vectors",
    "exception_vectors:",
    "    fatal 0", // from EL2 with SP_EL0
    "    fatal 1",
    "    fatal 1",
    "    fatal 2",
    "    fatal 0", // from EL2
    "    fatal 1",
    "    fatal 1",
    "    fatal 2",
    "    to_hypervisor 0", // from a guest
    "    to_hypervisor 1",
    "    to_hypervisor 1",
    "    to_hypervisor 2",
    "    fatal 0", // from a 32-bit guest: there are none
    "    fatal 1",
    "    fatal 1",
    "    fatal 2",
    "",
    ".global enter_guest",
    "enter_guest:",
    "    stp  x19, x20, [sp, #-112]!",
    "    stp  x21, x22, [sp, #16]",
    "    stp  x23, x24, [sp, #32]",
    "    stp  x25, x26, [sp, #48]",
    "    stp  x27, x28, [sp, #64]",
    "    stp  x29, x30, [sp, #80]",
    "    str  x0, [sp, #96]",
    "    ldp  x2, x3, [x0, #16]",
    "    ldp  x4, x5, [x0, #32]",
    "    ldp  x6, x7, [x0, #48]",
    "    ldp  x8, x9, [x0, #64]",
    "    ldp  x10, x11, [x0, #80]",
    "    ldp  x12, x13, [x0, #96]",
    "    ldp  x14, x15, [x0, #112]",
    "    ldp  x16, x17, [x0, #128]",
    "    ldp  x18, x19, [x0, #144]",
    "    ldp  x20, x21, [x0, #160]",
    "    ldp  x22, x23, [x0, #176]",
    "    ldp  x24, x25, [x0, #192]",
    "    ldp  x26, x27, [x0, #208]",
    "    ldp  x28, x29, [x0, #224]",
    "    ldr  x30, [x0, #240]",
    "    ldp  x0, x1, [x0]",
    "    eret",
    "    dsb  nsh", // nothing is fetched past the return
    "    isb",
    "",
    "leave_guest:", // x0, x1 on the stack, the reason in x1
    "    ldr  x0, [sp, #112]",
    "    stp  x2, x3, [x0, #16]",
    "    stp  x4, x5, [x0, #32]",
    "    stp  x6, x7, [x0, #48]",
    "    stp  x8, x9, [x0, #64]",
    "    stp  x10, x11, [x0, #80]",
    "    stp  x12, x13, [x0, #96]",
    "    stp  x14, x15, [x0, #112]",
    "    stp  x16, x17, [x0, #128]",
    "    stp  x18, x19, [x0, #144]",
    "    stp  x20, x21, [x0, #160]",
    "    stp  x22, x23, [x0, #176]",
    "    stp  x24, x25, [x0, #192]",
    "    stp  x26, x27, [x0, #208]",
    "    stp  x28, x29, [x0, #224]",
    "    str  x30, [x0, #240]",
    "    ldp  x2, x3, [sp], #16",
    "    stp  x2, x3, [x0]",
    "    mov  x0, x1",
    "    ldp  x21, x22, [sp, #16]",
    "    ldp  x23, x24, [sp, #32]",
    "    ldp  x25, x26, [sp, #48]",
    "    ldp  x27, x28, [sp, #64]",
    "    ldp  x29, x30, [sp, #80]",
    "    ldp  x19, x20, [sp], #112",
    "    ret",
    fatal = sym fatal,
);

/// An exception in the hypervisor itself: its end.
extern "C" fn fatal(reason: u64) -> ! {
    let (syndrome, address, at) = crate::cpu::exception();
    panic!("exception {reason} in EL2: ESR {syndrome:#x}, FAR {address:#x}, at {at:#x}")
}
