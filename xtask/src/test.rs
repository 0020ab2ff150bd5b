//! `cargo xtask test`: everything that must pass, one step after another, counted.

use std::io::{BufRead, BufReader};
use std::process::{Command, ExitCode, Stdio};

/// What the steps came to.
#[derive(Default)]
struct Counts {
    passed: u64,
    failed: u64,
    skipped: u64,
    failures: Vec<String>,
}

/// Runs all steps, or the quick ones.
pub(crate) fn run(quick: bool) -> anyhow::Result<ExitCode> {
    let mut counts = Counts::default();
    counts.check("formatting", &["fmt", "--all", "--check"]);
    counts.check("lints", &["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]);
    counts.tests("tests", &["test", "--workspace", "--no-fail-fast"]);
    if !quick {
        counts.check("the smallest embedder", &["run", "--package", "slat", "--example", "embed"]);
    }
    for failure in &counts.failures {
        println!("failed: {failure}");
    }
    println!("{} passed, {} failed, {} skipped", counts.passed, counts.failed, counts.skipped);
    Ok(if counts.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

impl Counts {
    /// A step that is one check.
    fn check(&mut self, name: &str, arguments: &[&str]) {
        println!("== {name}");
        match cargo(arguments).status() {
            Ok(status) if status.success() => self.passed += 1,
            _ => self.fail(name),
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
        if !ended_well && self.failed == before {
            self.fail(name);
        } else if self.failed > before {
            self.failures.push(name.to_owned());
        }
    }

    fn add_result(&mut self, line: &str) {
        let Some(rest) = line.strip_prefix("test result: ") else { return };
        let number = |what: &str| {
            let before = rest.split(what).next()?.trim_end().rsplit(' ').next()?;
            before.parse::<u64>().ok()
        };
        self.passed += number("passed").unwrap_or(0);
        self.failed += number("failed").unwrap_or(0);
        self.skipped += number("ignored").unwrap_or(0);
    }

    fn fail(&mut self, name: &str) {
        self.failed += 1;
        self.failures.push(name.to_owned());
    }
}

fn cargo(arguments: &[&str]) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(arguments);
    command
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
}
