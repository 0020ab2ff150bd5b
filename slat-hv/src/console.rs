//! The machine's serial port, a PL011: a line at a time, whichever CPU speaks.

use core::fmt::{self, Write};
use core::ptr::with_exposed_provenance_mut;
use core::sync::atomic::{AtomicUsize, Ordering};

use crate::lock::Lock;

/// Where its registers are; 0 until the device tree has said so.
static BASE: AtomicUsize = AtomicUsize::new(0);
static LINE: Lock<()> = Lock::new(());

const DATA: usize = 0x00;
const FLAGS: usize = 0x18;
const TRANSMIT_FULL: u32 = 1 << 5;

/// Says where the serial port is.
pub(crate) fn set_base(base: usize) {
    BASE.store(base, Ordering::Relaxed);
}

struct Port(usize);

impl Port {
    fn put(&mut self, byte: u8) {
        let register = |offset| with_exposed_provenance_mut::<u32>(self.0 + offset);
        // SAFETY: the device tree says that a PL011 is there; its registers are mapped as a device.
        unsafe {
            while register(FLAGS).read_volatile() & TRANSMIT_FULL != 0 {}
            register(DATA).write_volatile(byte.into());
        }
    }
}

impl Write for Port {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        text.bytes().for_each(|byte| {
            if byte == b'\n' {
                self.put(b'\r');
            }
            self.put(byte);
        });
        Ok(())
    }
}

/// Prints one line.
pub(crate) fn print(line: fmt::Arguments<'_>) {
    let _line = LINE.lock();
    print_unlocked(line);
}

/// Prints one line, whoever else does: where there are no locks.
pub(crate) fn print_unlocked(line: fmt::Arguments<'_>) {
    let base = BASE.load(Ordering::Relaxed);
    if base != 0 {
        // The port never fails.
        let _ = writeln!(Port(base), "{line}");
    }
}

/// Prints one line, formatted.
macro_rules! say {
    ($($argument:tt)*) => { $crate::console::print(format_args!($($argument)*)) };
}

pub(crate) use say;
