//! The `slat` command: counterparts of KVM's performance tests, on the software machine.

#![forbid(unsafe_code)]

mod arguments;
mod dirty_log;
mod failure;
mod formats;
mod generate;
mod harness;
mod locking;
mod output;
mod page_table;
mod progress;
mod size;

use clap::error::ErrorKind;
use clap::{CommandFactory, Parser};
use std::process::ExitCode;

use arguments::{Arguments, Command, Common};
use failure::Failure;
use output::say;

fn main() -> ExitCode {
    let wants_json = std::env::args().any(|argument| argument == "--json");
    let (name, result) = match Arguments::try_parse() {
        Ok(Arguments { command }) => (command.name().to_owned(), run(&command)),
        Err(error) if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) => error.exit(),
        Err(error) => (intended(), Err(Failure::Input(error.render().to_string().trim_end().to_owned()))),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(&name, wants_json),
    }
}

fn run(command: &Command) -> Result<(), Failure> {
    match command {
        Command::DirtyLog(options) if lists(&options.common) => list(command, &options.common),
        Command::DirtyLog(options) => dirty_log::run(options),
        Command::PageTable(options) if lists(&options.common) => list(command, &options.common),
        Command::PageTable(options) => page_table::run(options),
        Command::Completions { shell } => {
            generate::completions(*shell);
            Ok(())
        }
        Command::Man { command } => generate::man(command.as_deref()),
    }
}

fn lists(options: &Common) -> bool {
    options.formats == ["list"]
}

/// `--format list`.
fn list(command: &Command, options: &Common) -> Result<(), Failure> {
    if options.json {
        say!("{}", harness::json::formats(command.name(), formats::NAMES)?);
    } else {
        formats::NAMES.iter().for_each(|name| say!("{name}"));
    }
    Ok(())
}

/// The command that a line which could not be understood was meant for, as far as that can be told.
fn intended() -> String {
    let is_command = |word: &String| Arguments::command().find_subcommand(word).is_some();
    std::env::args().skip(1).find(is_command).unwrap_or_else(|| "slat".to_owned())
}
