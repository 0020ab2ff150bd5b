//! The steps.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::Instant;

use super::Options;
use super::mutants;
use super::report::{Report, Step};
use crate::tools::{cargo, root, target};

/// The models in Promela, and what each claims.
const PROMELA: [(&str, &str); 2] = [
    ("proofs/promela/fault-invalidate-remove.pml", "R4, R7 and R8 together"),
    ("proofs/promela/withheld.pml", "R13, which is not built yet"),
];

/// Runs them all.
pub(super) fn run(options: &Options, report: &mut Report) {
    let machine = ["test", "--profile", "checked", "--package", "slat-machine"];
    let model = ["test", "--profile", "checked", "--package", "slat-model"];
    let shown = ["--", "--nocapture"];
    let test = |package: &[&str], test: &str| cargo(&[package, &["--test", test], &shown].concat());
    report.step("the checker, histories, conflicts", &mut test(&machine, "verify"));
    report.step("allocations that fail", &mut test(&machine, "allocations"));
    report.step("operations and words by chance", &mut test(&machine, "fuzz"));
    let parsers = ["test", "--package", "slat-arch", "--package", "slat-cli", "any_"];
    report.step("command lines and registers by chance", &mut cargo(&[&parsers[..], &shown].concat()));
    report.step("the museum", &mut test(&model, "museum"));
    report.step("the rules, sentence by sentence", &mut test(&model, "rules"));
    let mut scenarios = test(&model, "scenarios");
    if let Some(bound) = options.bound {
        scenarios.env("SLAT_MODEL_BOUND", bound.to_string());
    }
    report.step("the models", &mut scenarios);
    promela(report);
    thread_sanitizer(report);
    soak(options, report);
    match &options.mutants {
        Some(groups) => mutants::run(groups, report),
        None => report.skip("mutants of the source", "only on demand: --mutants"),
    }
    let kept = std::fs::read_to_string(root().join("crates/slat-machine/tests/verify/conflicts.txt"));
    report.conflicts.exceptions = kept.unwrap_or_default().lines().map(str::to_owned).collect();
    report.finish();
}

impl Report {
    /// Runs a command, takes in what it prints, and counts it as a step.
    fn step(&mut self, name: &str, command: &mut Command) -> bool {
        self.timed(name, |report| report.listen(command).unwrap_or(false))
    }

    /// Does what is no single command, and counts it as a step.
    pub(super) fn check(&mut self, name: &str, work: impl FnOnce() -> anyhow::Result<()>) -> bool {
        self.timed(name, |_| work().inspect_err(|error| println!("   {error:#}")).is_ok())
    }

    fn timed(&mut self, name: &str, work: impl FnOnce(&mut Self) -> bool) -> bool {
        println!("== {name}");
        let begun = Instant::now();
        let passed = work(self);
        let seconds = begun.elapsed().as_secs();
        println!("   {}, {seconds} s", if passed { "ok" } else { "FAILED" });
        self.steps.push(Step { name: name.to_owned(), passed, seconds });
        passed
    }

    fn listen(&mut self, command: &mut Command) -> std::io::Result<bool> {
        let mut child = command.stdout(Stdio::piped()).spawn()?;
        for line in child.stdout.take().into_iter().flat_map(|out| BufReader::new(out).lines()).map_while(Result::ok) {
            // The harness begins a line that the test goes on with.
            let line = line.split_once(" ... ").map_or(line.as_str(), |(_, rest)| rest);
            self.take(line);
            if line.starts_with("test result") || line.contains("SURVIVED") || line.starts_with("finding|") {
                println!("   {line}");
            }
        }
        Ok(child.wait()?.success())
    }
}

/// Random operations by several threads, every step checked.
fn soak(options: &Options, report: &mut Report) {
    let arguments =
        ["test", "--profile", "checked", "--package", "slat-machine", "--test", "verify", "soak", "--", "--ignored"];
    let mut command = cargo(&[&arguments[..], &["--nocapture"]].concat());
    command.env("SLAT_SOAK_SECONDS", (options.minutes * 60).to_string());
    report.step(&format!("{} minutes of random operations", options.minutes), &mut command);
}

/// Whether a command can be started.
fn is_there(program: &str, argument: &str) -> bool {
    let tried = Command::new(program).arg(argument).stdout(Stdio::null()).stderr(Stdio::null()).status();
    tried.is_ok_and(|status| status.success())
}

/// Safety and liveness of the models in Promela, by spin and a C compiler.
fn promela(report: &mut Report) {
    if !is_there("spin", "-V") || !is_there("cc", "--version") {
        return report.skip("Promela", "spin or a C compiler is not installed (Debian: apt-get install spin gcc)");
    }
    let script = root().join("proofs/promela/check.sh");
    for (model, claim) in PROMELA {
        let mut command = Command::new("sh");
        command.arg(&script).arg(root().join(model)).current_dir(target());
        report.step(&format!("Promela: {claim}"), &mut command);
    }
}

/// The machine's own tests with threads (frames, flushes, cores), under ThreadSanitizer: needs a nightly toolchain.
fn thread_sanitizer(report: &mut Report) {
    const NAME: &str = "ThreadSanitizer";
    if !is_there("rustup", "--version") || !is_there("cargo", "+nightly") {
        return report.skip(NAME, "no nightly toolchain is installed");
    }
    let suppressions = root().join("proofs/sanitizer/suppressions.txt");
    let mut command = Command::new("cargo");
    command
        .args(["+nightly", "test", "--profile", "checked", "--package", "slat-machine", "--lib", "--target", &host()])
        .args(["--", "arena", "vcpu", "cpu::tests", "machine", "request::tests", "broadcast::tests"])
        .env("RUSTFLAGS", "-Zsanitizer=thread -Cunsafe-allow-abi-mismatch=sanitizer")
        .env("TSAN_OPTIONS", format!("suppressions={}", suppressions.display()))
        .env("CARGO_TARGET_DIR", target().join("sanitizer"))
        .env_remove("RUSTUP_TOOLCHAIN")
        .current_dir(root());
    report.step(NAME, &mut command);
}

/// The host's target triple, as the compiler names it.
fn host() -> String {
    let version = Command::new("rustc").arg("-vV").output().map(|output| output.stdout).unwrap_or_default();
    let version = String::from_utf8_lossy(&version).into_owned();
    let line = version.lines().find_map(|line| line.strip_prefix("host: "));
    line.unwrap_or("x86_64-unknown-linux-gnu").to_owned()
}
