//! `cargo xtask verify`: everything that the proof consists of, one step after another, and a report of it.
//!
//! Tests print what they counted in lines of fields between bars (`museum|…`, `conflicts|…`); the steps run them, and the
//! report is made of those lines. A step that this machine cannot run is skipped, loudly, and the report says why.

mod mutants;
mod page;
mod report;
mod steps;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use clap::Args;

use self::report::Report;
use crate::tools::{cargo, run as run_command, target};

/// How long, and what beyond the usual.
#[derive(Args, Debug)]
pub(crate) struct Options {
    /// Minutes of random operations by several threads under the checker
    #[arg(long, default_value_t = 30)]
    minutes: u64,
    /// Preemptions that the bounded searches of models allow (their own numbers, mostly 2, unless given)
    #[arg(long)]
    bound: Option<usize>,
    /// Run `cargo mutants`, too, over these groups of files (shards, slots, reclaim, formats), these files of groups, or all: hours
    #[arg(long, value_name = "GROUP", num_args = 0..)]
    mutants: Option<Vec<String>>,
    /// Do nothing but look at the trace in this file, which a failure has left, with both evaluators of the checker
    #[arg(long, value_name = "FILE")]
    replay: Option<PathBuf>,
}

/// Runs all steps and writes the report. Fails when a step did.
pub(crate) fn run(options: &Options) -> anyhow::Result<ExitCode> {
    if let Some(file) = &options.replay {
        return replay(file);
    }
    let mut report = Report::default();
    steps::run(options, &mut report);
    let folder = target().join("verify");
    std::fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
    std::fs::write(folder.join("verify.json"), serde_json::to_string_pretty(&report)?)?;
    std::fs::write(folder.join("index.html"), page::render(&report))?;
    println!("\n{}", report.summary());
    println!("the report is in {}", folder.join("index.html").display());
    Ok(if report.is_good() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Looks at a trace again.
fn replay(file: &Path) -> anyhow::Result<ExitCode> {
    let file = file.canonicalize().with_context(|| file.display().to_string())?;
    let test = ["test", "--quiet", "--profile", "checked", "--package", "slat-machine", "--test", "verify"];
    let name = ["--", "--exact", "files::replay_a_file", "--ignored", "--nocapture"];
    run_command(cargo(&[&test[..], &name].concat()).env("SLAT_TRACE", file))?;
    Ok(ExitCode::SUCCESS)
}

/// Runs the mutants of these groups and files, or of all, and nothing else. Fails when one survives that nobody has explained.
pub(crate) fn run_mutants(groups: &[String]) -> ExitCode {
    let mut report = Report::default();
    mutants::run(groups, &mut report);
    report.findings.iter().for_each(|finding| println!("   {finding}"));
    if report.has_findings() { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}
