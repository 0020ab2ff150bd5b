//! The `slat` command: counterparts of KVM's performance tests, on the software machine.

#![forbid(unsafe_code)]

mod arguments;
mod dirty_log;
mod failure;
mod formats;
mod locking;
mod progress;
mod size;

use clap::Parser;
use clap::error::ErrorKind;
use std::process::ExitCode;

use arguments::{Arguments, Command};
use failure::Failure;

fn main() -> ExitCode {
    let wants_json = std::env::args().any(|argument| argument == "--json");
    let (command, result) = match Arguments::try_parse() {
        Ok(Arguments { command: Command::DirtyLog(options) }) => ("dirty-log", dirty_log::run(&options)),
        Err(error) if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) => error.exit(),
        Err(error) => ("dirty-log", Err(Failure::Input(error.render().to_string().trim_end().to_owned()))),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(command, wants_json),
    }
}
