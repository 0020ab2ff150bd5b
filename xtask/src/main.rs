//! The project's own chores: `cargo xtask --help`.

mod hv;
mod instructions;
mod layers;
mod no_std;
mod test;
mod tools;
mod verify;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

#[derive(Parser)]
#[command(about = "slat's chores", bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    chore: Chore,
}

#[derive(Subcommand)]
enum Chore {
    /// Runs everything that must pass; ends with one line `N passed, N failed, N skipped`
    Test {
        /// Only what the inner loop needs: formatting, lints, floors, unit tests
        #[arg(long)]
        quick: bool,
    },
    /// Checks the house: imports against the floors, atomics and `unsafe` outside of their rooms, files that are too long
    Layers,
    /// Counts instructions an operation with callgrind; fails if they are more than the repository keeps
    Instructions {
        /// Print one object
        #[arg(long)]
        json: bool,
        /// Keep these counts in the repository
        #[arg(long)]
        keep: bool,
    },
    /// Builds and runs the bare-metal hypervisor on an emulated machine
    #[command(subcommand)]
    Hv(hv::Command),
    /// Runs all that the proof consists of, and writes target/verify/index.html and verify.json
    Verify(verify::Options),
    /// Runs `cargo mutants` alone, as `verify --mutants` does
    Mutants {
        /// Groups of files: shards, slots, reclaim, formats; or files of theirs, such as format/ept.rs; all unless given
        groups: Vec<String>,
    },
    /// Builds the engine without `std`, looks at what it needs from outside, links it and runs it
    NoStd,
}

fn main() -> anyhow::Result<ExitCode> {
    match Arguments::parse().chore {
        Chore::Test { quick } => test::run(quick),
        Chore::Layers => layers::check().map(|()| ExitCode::SUCCESS),
        Chore::Instructions { json, keep } => instructions::count(json, keep).map(|()| ExitCode::SUCCESS),
        Chore::Hv(command) => hv::run(&command),
        Chore::Verify(options) => verify::run(&options),
        Chore::Mutants { groups } => Ok(verify::run_mutants(&groups)),
        Chore::NoStd => no_std::check().map(|()| ExitCode::SUCCESS),
    }
}
