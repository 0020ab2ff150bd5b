//! The project's own chores: `cargo xtask test`.

mod test;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

#[derive(Parser)]
#[command(about = "slat's chores")]
struct Arguments {
    #[command(subcommand)]
    chore: Chore,
}

#[derive(Subcommand)]
enum Chore {
    /// Runs everything that must pass; ends with one line `N passed, N failed, N skipped`.
    Test {
        /// Only what the inner loop needs: formatting, lints, unit tests.
        #[arg(long)]
        quick: bool,
    },
}

fn main() -> anyhow::Result<ExitCode> {
    match Arguments::parse().chore {
        Chore::Test { quick } => test::run(quick),
    }
}
