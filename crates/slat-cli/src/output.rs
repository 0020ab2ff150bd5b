//! Standard output, whose reader may have gone.

use std::fmt::Arguments;
use std::io::{ErrorKind, Write, stdout};

/// Prints a line.
macro_rules! say {
    ($($argument:tt)*) => { crate::output::line(format_args!($($argument)*)) };
}
pub(crate) use say;

/// Prints a line. When nobody reads any more (`slat … | head`), the program ends as if it had been read.
pub(crate) fn line(text: Arguments<'_>) {
    end_if_unread(writeln!(stdout().lock(), "{text}"));
}

/// Prints `bytes` as they are.
pub(crate) fn raw(bytes: &[u8]) {
    let mut out = stdout().lock();
    end_if_unread(out.write_all(bytes).and_then(|()| out.flush()));
}

fn end_if_unread(result: std::io::Result<()>) {
    match result {
        Ok(()) => {}
        Err(error) if error.kind() == ErrorKind::BrokenPipe => std::process::exit(0),
        Err(error) => {
            eprintln!("error: standard output cannot be written: {error}");
            std::process::exit(3);
        }
    }
}
