//! Calls to the firmware (PSCI, Arm DEN 0022) and to the emulator (semihosting, Arm's own specification of it).

use core::arch::asm;

use crate::vectors::Registers;

/// PSCI's functions, by their numbers.
pub(crate) mod function {
    /// CPU_ON for 64-bit callers.
    pub(crate) const CPU_ON: u64 = 0xc400_0003;
    /// CPU_SUSPEND for 64-bit callers.
    pub(crate) const CPU_SUSPEND: u64 = 0xc400_0001;
    /// CPU_OFF.
    pub(crate) const CPU_OFF: u64 = 0x8400_0002;
    /// SYSTEM_OFF.
    pub(crate) const SYSTEM_OFF: u64 = 0x8400_0008;
    /// SYSTEM_RESET.
    pub(crate) const SYSTEM_RESET: u64 = 0x8400_0009;
}

/// "Not supported".
pub(crate) const NOT_SUPPORTED: u64 = -1i64 as u64;
/// "Invalid parameters".
pub(crate) const INVALID: u64 = -2i64 as u64;

/// Calls the firmware.
fn call(function: u64, arguments: [u64; 3]) -> u64 {
    let result;
    // SAFETY: the firmware changes x0 to x17 at most (Arm DEN 0028), and no memory of ours.
    unsafe {
        asm!("smc #0", inlateout("x0") function => result, inlateout("x1") arguments[0] => _,
            inlateout("x2") arguments[1] => _, inlateout("x3") arguments[2] => _, clobber_abi("C"), options(nostack));
    }
    result
}

/// Passes a guest's call on, as it is.
pub(crate) fn pass_on(registers: &mut Registers) {
    registers.x[0] = call(registers.x[0], [registers.x[1], registers.x[2], registers.x[3]]);
}

unsafe extern "C" {
    /// See `boot`.
    static secondary_start: u8;
}

/// Turns another CPU on: it goes to `secondary_main` with its number.
pub(crate) fn turn_on(cpu: usize) -> Result<(), u64> {
    match call(function::CPU_ON, [cpu as u64, &raw const secondary_start as u64, 0]) {
        0 => Ok(()),
        error => Err(error),
    }
}

/// Turns this CPU off.
pub(crate) fn turn_off() -> ! {
    loop {
        call(function::CPU_OFF, [0; 3]);
    }
}

const SYS_EXIT_EXTENDED: u64 = 0x20;
const STOPPED_APPLICATION_EXIT: u64 = 0x2_0026;

/// Powers the machine off. The emulator ends with `status`.
pub(crate) fn power_off(status: u64) -> ! {
    let block = [STOPPED_APPLICATION_EXIT, status];
    // SAFETY: the emulator reads the block and ends.
    unsafe { asm!("dsb sy", "hlt #0xf000", in("x0") SYS_EXIT_EXTENDED, in("x1") &block, options(nostack)) }
    loop {
        call(function::SYSTEM_OFF, [0; 3]);
    }
}
