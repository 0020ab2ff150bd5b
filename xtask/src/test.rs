//! `cargo xtask test`: everything that must pass, one step after another, counted.

use anyhow::ensure;
use std::io::{BufRead, BufReader};
use std::process::{ExitCode, Stdio};
use std::time::Instant;

use crate::hv::{self, Done};
use crate::tools::{cargo, output, run as run_command};
use crate::{layers, no_std};

/// Packages whose tests want optimised code with every debug assertion: threads, model checkers.
const CHECKED: [&str; 3] = ["slat-spec", "slat-machine", "slat-model"];

/// What the steps came to.
#[derive(Default)]
struct Counts {
    passed: u64,
    failed: u64,
    skipped: u64,
    failures: Vec<String>,
}

/// Runs all steps, or the quick ones. Goes on after a failure; the last line says how many there were.
pub(crate) fn run(quick: bool) -> anyhow::Result<ExitCode> {
    let mut counts = Counts::default();
    counts.with_component("formatting", "fmt", &["fmt", "--all", "--check"]);
    counts.with_component(
        "lints",
        "clippy",
        &["clippy", "--quiet", "--workspace", "--all-targets", "--", "-D", "warnings"],
    );
    counts.step("floors", layers::check);
    counts.tests("the engine's tests", &["test", "--package", "slat", "--package", "xtask", "--no-fail-fast"]);
    if !quick {
        counts.full();
    }
    println!();
    for failure in &counts.failures {
        println!("failed: {failure}");
    }
    println!("{} passed, {} failed, {} skipped", counts.passed, counts.failed, counts.skipped);
    Ok(if counts.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

impl Counts {
    fn full(&mut self) {
        let packages = CHECKED.map(|package| ["--package", package]).concat();
        let checked = [&["test", "--profile", "checked", "--no-fail-fast"], &packages[..]].concat();
        self.tests("the machine's tests, the models", &checked);
        self.tests("the command's tests", &["test", "--release", "--package", "slat-cli", "--no-fail-fast"]);
        self.step("documentation", || {
            let arguments = ["doc", "--quiet", "--workspace", "--no-deps", "--document-private-items"];
            run_command(cargo(&arguments).env("RUSTDOCFLAGS", "-D warnings"))
        });
        self.step("the smallest embedder", || {
            run_command(&mut cargo(&["run", "--quiet", "--package", "slat", "--example", "embed"]))
        });
        self.step("the engine without std", no_std::check);
        self.may_skip("a real MMU: lints", hv::check_lints);
        self.may_skip("a real MMU: the suite, planted mistakes", hv::check_suite);
        self.may_skip("a real MMU: Linux", hv::check_linux);
        self.may_skip("a real MMU: instructions", hv::check_instructions);
        for locking in ["lock-free", "shared-fault", "shared-relax", "exclusive"] {
            self.step(&format!("slat dirty-log --verify, {locking}"), || dirty_log_verifies(locking));
        }
        for collapse in ["by-faults", "in-place", "lazily"] {
            self.step(&format!("slat page-table --verify, {collapse}"), || page_table_verifies(collapse));
        }
    }

    /// A step that is one check.
    fn step(&mut self, name: &str, check: impl FnOnce() -> anyhow::Result<()>) {
        println!("== {name}");
        let begun = Instant::now();
        match check() {
            Ok(()) => {
                self.passed += 1;
                println!("   ok, {:.0?}", begun.elapsed());
            }
            Err(error) => self.fail(&format!("{name}: {error:#}")),
        }
    }

    /// A step that needs more than every machine has.
    fn may_skip(&mut self, name: &str, check: impl FnOnce() -> anyhow::Result<Done>) {
        println!("== {name}");
        let begun = Instant::now();
        match check() {
            Ok(Done::Yes) => {
                self.passed += 1;
                println!("   ok, {:.0?}", begun.elapsed());
            }
            Ok(Done::Skipped(what)) => {
                self.skipped += 1;
                println!("   SKIPPED: {what}");
            }
            Err(error) => self.fail(&format!("{name}: {error:#}")),
        }
    }

    /// A step that needs a component of the toolchain, which not every machine has.
    fn with_component(&mut self, name: &str, component: &str, arguments: &[&str]) {
        if cargo(&[component, "--version"]).output().is_ok_and(|output| output.status.success()) {
            self.step(name, || run_command(&mut cargo(arguments)));
        } else {
            println!("== {name}\n   SKIPPED: this toolchain has no cargo {component}");
            self.skipped += 1;
        }
    }

    /// A step that runs tests: sums what the test harness prints.
    fn tests(&mut self, name: &str, arguments: &[&str]) {
        println!("== {name}");
        let Ok(mut child) = cargo(arguments).stdout(Stdio::piped()).spawn() else { return self.fail(name) };
        let before = self.failed;
        for line in child.stdout.take().into_iter().flat_map(|out| BufReader::new(out).lines()).map_while(Result::ok) {
            println!("{line}");
            self.add_result(&line);
        }
        let ended_well = child.wait().is_ok_and(|status| status.success());
        if self.failed > before {
            self.failures.push(name.to_owned());
        } else if !ended_well {
            self.fail(name);
        }
    }

    fn add_result(&mut self, line: &str) {
        let Some(rest) = line.strip_prefix("test result: ") else { return };
        let number = |what: &str| rest.split(what).next()?.trim_end().rsplit(' ').next()?.parse::<u64>().ok();
        self.passed += number("passed").unwrap_or(0);
        self.failed += number("failed").unwrap_or(0);
        self.skipped += number("ignored").unwrap_or(0);
    }

    fn fail(&mut self, what: &str) {
        println!("   FAILED");
        self.failed += 1;
        self.failures.push(what.to_owned());
    }
}

/// The command as users run it: its own word that nothing was lost, and that nothing was left.
fn dirty_log_verifies(locking: &str) -> anyhow::Result<()> {
    let arguments = ["run", "--quiet", "--release", "--package", "slat-cli", "--", "dirty-log"];
    let options = ["-b", "32M", "-v", "1,2,4", "-x", "2", "--verify", "--json", "--locking", locking];
    let object: serde_json::Value = serde_json::from_slice(&output(&mut cargo(&[&arguments[..], &options].concat()))?)?;
    let runs = object["runs"].as_array().map_or(&[][..], Vec::as_slice);
    ensure!(runs.len() == 3, "3 runs were asked for: {object}");
    for run in runs {
        ensure!(run["verified"] == true && run["tables_after_teardown"] == 0, "not verified: {run}");
    }
    Ok(())
}

/// The same for blocks that are split and become blocks again.
fn page_table_verifies(collapse: &str) -> anyhow::Result<()> {
    let arguments = ["run", "--quiet", "--release", "--package", "slat-cli", "--", "page-table"];
    let options = ["-b", "32M", "--verify", "--json", "--collapse", collapse];
    let object: serde_json::Value = serde_json::from_slice(&output(&mut cargo(&[&arguments[..], &options].concat()))?)?;
    let runs = object["runs"].as_array().map_or(&[][..], Vec::as_slice);
    ensure!(!runs.is_empty(), "nothing was run: {object}");
    for run in runs {
        ensure!(run["verified"] == true && run["tables_after_teardown"] == 0, "not verified: {run}");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_of_the_harness_are_summed() {
        let mut counts = Counts::default();
        counts.add_result(
            "test result: FAILED. 26 passed; 1 failed; 2 ignored; 0 measured; 0 filtered out; finished in 0.02s",
        );
        counts.add_result("test result: ok. 3 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out");
        counts.add_result("running 3 tests");
        assert_eq!((counts.passed, counts.failed, counts.skipped), (29, 1, 2));
    }

    #[test]
    fn a_step_that_was_skipped_is_no_failure_and_no_pass() {
        let mut counts = Counts::default();
        counts.may_skip("there", || Ok(Done::Yes));
        counts.may_skip("not there", || Ok(Done::Skipped("a machine".to_owned())));
        counts.may_skip("bad", || anyhow::bail!("because"));
        assert_eq!((counts.passed, counts.failed, counts.skipped), (1, 1, 1));
    }

    #[test]
    fn a_step_that_fails_is_counted_and_named() {
        let mut counts = Counts::default();
        counts.step("good", || Ok(()));
        counts.step("bad", || anyhow::bail!("because"));
        assert_eq!((counts.passed, counts.failed), (1, 1));
        assert_eq!(counts.failures, ["bad: because"]);
    }
}
