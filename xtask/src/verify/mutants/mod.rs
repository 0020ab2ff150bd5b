//! `cargo mutants`: small changes of the source, each of which a test has to catch.
//!
//! A group of files is given to the tests that are to catch its mutants, the quickest first; what survives goes on to the
//! next ones. Who survives all of them is explained in a list, or is a finding.

mod explained;

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, ensure};
use serde::Deserialize;

use self::explained::{Explained, Mutant};
use super::report::{Mutants, Report};
use crate::tools::{self, cargo, root, target};

/// Files, and who catches their mutants.
struct Group {
    name: &'static str,
    package: &'static str,
    /// Under the package's `src`.
    files: &'static [&'static str],
    stages: &'static [Stage],
}

/// Tests, as cargo's arguments name them, of one package.
struct Stage {
    package: &'static str,
    tests: &'static [&'static str],
    /// Those of these names only, if there are any.
    only: &'static [&'static str],
    /// Seconds after which they do not end.
    patience: u64,
}

const UNITS: Stage = Stage::new("slat", &["--lib"], 20);
const RULES: Stage = Stage::new("slat", &["--test", "rules", "--test", "host_memory"], 30);
const ENGINE: Stage = Stage::new("slat", &["--tests"], 120);
const ALLOCATIONS: Stage = Stage::new("slat-machine", &["--test", "allocations"], 60);
const WALKERS: Stage = Stage::new("slat-machine", &["--test", "format"], 60);
/// The checker's own cases, of formats that have few leaves, and of those where leaves come in sets and sizes double.
const CASES: Stage = Stage { only: &QUICK, ..Stage::new("slat-machine", &["--test", "verify"], 60) };
/// The checker's unit tests: the other ones of the machine take longer.
const MACHINE: Stage = Stage::new("slat-machine", &["--lib", "checker::"], 20);
const SETS: Stage = Stage { only: &LONG, ..Stage::new("slat-machine", &["--test", "verify"], 180) };
const VERIFY: Stage = Stage::new("slat-machine", &["--test", "verify"], 900);

const QUICK: [&str; 5] = [
    "cases::every_verdict::arm64",
    "cases::every_verdict::arm64_hd",
    "cases::every_verdict::ept",
    "cases::every_verdict::ept_ad",
    "cases::every_verdict::npt_ad",
];
const LONG: [&str; 3] = [
    "cases::every_verdict::arm64_bbm2",
    "cases::every_verdict::arm64_contiguous",
    "cases::every_verdict::sv48x4_napot",
];

const GROUPS: [Group; 6] = [
    Group::new("shards", "slat", &["addr.rs", "tlb/*.rs", "space/shard.rs"], &[UNITS, RULES, ENGINE]),
    Group::new("slots", "slat", &["vm/slots/*.rs"], &[UNITS, RULES, ENGINE, ALLOCATIONS]),
    Group::new("reclaim", "slat", &["reclaim/*.rs"], &[UNITS, RULES, ENGINE, ALLOCATIONS]),
    Group::new("formats", "slat", &FORMATS, &[UNITS, WALKERS]),
    Group::new("checker", "slat-machine", &CHECKER, &[CASES, MACHINE, SETS, VERIFY]),
    Group::new("replay", "slat-machine", &REPLAY, &[CASES, MACHINE, SETS, VERIFY]),
];

/// All but the exemplar, which is a test.
const FORMATS: [&str; 8] = [
    "format/arm64/*.rs",
    "format/ept.rs",
    "format/fake.rs",
    "format/fields.rs",
    "format/geometry.rs",
    "format/mod.rs",
    "format/npt.rs",
    "format/riscv.rs",
];

/// What judges while the engine runs.
const CHECKER: [&str; 5] =
    ["checker/discipline.rs", "checker/frames.rs", "checker/may_tlb.rs", "checker/online.rs", "checker/online/*.rs"];

/// What judges a trace.
const REPLAY: [&str; 4] = ["checker/history.rs", "checker/history/*.rs", "checker/replay.rs", "checker/replay/*.rs"];

/// How they are compiled.
const PROFILE: &str = "mutants";

/// Where the list of the explained lies.
const EXPLAINED: &str = "proofs/mutants/explained.txt";

/// What cargo-mutants writes of a run, as far as it is read here.
#[derive(Deserialize)]
struct Outcomes {
    outcomes: Vec<Outcome>,
}

#[derive(Deserialize)]
struct Outcome {
    scenario: Scenario,
    summary: Summary,
}

#[derive(Deserialize)]
enum Scenario {
    Baseline,
    Mutant(Found),
}

#[derive(Deserialize, PartialEq, Eq)]
enum Summary {
    Success,
    Failure,
    CaughtMutant,
    MissedMutant,
    Timeout,
    Unviable,
}

/// A mutant, as cargo-mutants names it.
#[derive(Deserialize)]
struct Found {
    name: String,
    file: PathBuf,
    span: Span,
}

#[derive(Deserialize)]
struct Span {
    start: Place,
}

#[derive(Deserialize)]
struct Place {
    line: usize,
}

/// Runs all groups, or those, and the files of others, that have one of `names`.
pub(super) fn run(names: &[String], report: &mut Report) {
    const NAME: &str = "mutants of the source";
    if !cargo(&["mutants", "--version"]).output().is_ok_and(|output| output.status.success()) {
        return report.skip(NAME, "cargo-mutants is not installed (cargo install --locked cargo-mutants)");
    }
    let (mut mutants, mut idle) = (Mutants::default(), Vec::new());
    report.check(NAME, || {
        idle = run_groups(names, &mut mutants)?;
        Ok(())
    });
    println!("   {mutants}");
    report.findings.extend(mutants.unexplained.iter().map(|name| format!("a mutant survives: {name}")));
    report.findings.extend(idle.into_iter().map(|mutant| format!("explained, but caught or gone: {mutant:?}")));
    report.mutants = Some(mutants);
}

/// Gives back what the list explains in vain.
fn run_groups(names: &[String], mutants: &mut Mutants) -> anyhow::Result<Vec<Mutant>> {
    let unknown = names.iter().find(|name| GROUPS.iter().all(|group| group.asked_for(&[(*name).clone()]).is_empty()));
    ensure!(unknown.is_none(), "no group is {unknown:?}, or has that file");
    let list = std::fs::read_to_string(root().join(EXPLAINED)).context(EXPLAINED)?;
    let mut explained = Explained::read(&list).context(EXPLAINED)?;
    for (group, files) in GROUPS.iter().map(|group| (group, group.asked_for(names))) {
        if !files.is_empty() {
            run_group(group, &files, &mut explained, mutants).with_context(|| group.name)?;
        }
    }
    let was_run = |mutant: &Mutant| mutant.name.split_once(": ").is_some_and(|(file, _)| mutants.files.contains(file));
    Ok(explained.rest().filter(was_run).collect())
}

/// Runs one group's stages on these of its files, each on what has survived the one before.
fn run_group(group: &Group, files: &[String], explained: &mut Explained, mutants: &mut Mutants) -> anyhow::Result<()> {
    let mut survivors: Vec<Found> = Vec::new();
    for (number, stage) in group.stages.iter().enumerate() {
        let is_first = number == 0;
        if survivors.is_empty() && !is_first {
            break;
        }
        let out = target().join(format!("verify/mutants/{}-{}", group.name, number + 1));
        let outcomes = stage.run(group, files, &survivors, &out)?;
        let asked = std::mem::take(&mut survivors);
        for Outcome { scenario, summary } in outcomes {
            let Scenario::Mutant(found) = scenario else { continue };
            if is_first {
                mutants.tried += 1;
                mutants.files.insert(found.file_of_package());
            } else if asked.iter().all(|asked| asked.name != found.name) {
                continue; // fields of structures come along, whatever is asked for
            }
            match summary {
                Summary::CaughtMutant => mutants.caught += 1,
                Summary::Timeout => mutants.timed_out += 1,
                Summary::Unviable => mutants.unviable += 1,
                Summary::MissedMutant => survivors.push(found),
                Summary::Success | Summary::Failure => anyhow::bail!("{}: neither caught nor missed", found.name),
            }
        }
    }
    for found in survivors {
        match explained.take(&found.named()?) {
            Some(why) => mutants.explained.push((found.name, why)),
            None => mutants.unexplained.push(found.name),
        }
    }
    Ok(())
}

impl Group {
    const fn new(
        name: &'static str,
        package: &'static str,
        files: &'static [&'static str],
        stages: &'static [Stage],
    ) -> Self {
        Self { name, package, files, stages }
    }

    /// Its files, if it is asked for by name or nothing is; else those that are.
    fn asked_for(&self, names: &[String]) -> Vec<String> {
        if names.is_empty() || names.iter().any(|name| name == self.name) {
            return self.files.iter().map(|&files| files.to_owned()).collect();
        }
        let has = |name: &String| self.files.iter().any(|files| matches(files, name));
        names.iter().filter(|name| has(name)).cloned().collect()
    }
}

impl Stage {
    const fn new(package: &'static str, tests: &'static [&'static str], patience: u64) -> Self {
        Self { package, tests, only: &[], patience }
    }

    /// Tries `only` these mutants, or all of the files'.
    fn run(&self, group: &Group, files: &[String], only: &[Found], out: &Path) -> anyhow::Result<Vec<Outcome>> {
        std::fs::create_dir_all(out).with_context(|| out.display().to_string())?;
        let built = target().join("verify/mutants/target");
        // To cargo, what was built of a mutant that survived is newer than these sources, and theirs.
        let stale = ["clean", "--quiet", "--profile", PROFILE, "--package", group.package];
        tools::run(cargo(&stale).env("CARGO_TARGET_DIR", &built))?;
        // cargo-mutants would try these tests without a mutant in the package of the mutants alone.
        let without = ["test", "--quiet", "--profile", PROFILE, "--package", self.package];
        tools::run(cargo(&[&without, self.tests, &self.of_tests()].concat()).env("CARGO_TARGET_DIR", &built))?;
        let mut command = self.command(group, files, only, out);
        let status = command.env("CARGO_TARGET_DIR", &built).status()?;
        // 2: some were missed. 3: some hung.
        ensure!(matches!(status.code(), Some(0 | 2 | 3)), "cargo mutants ended with {status}");
        let outcomes = std::fs::read(out.join("mutants.out/outcomes.json"))?;
        Ok(serde_json::from_slice::<Outcomes>(&outcomes).context("what cargo-mutants found")?.outcomes)
    }

    fn command(&self, group: &Group, files: &[String], only: &[Found], out: &Path) -> Command {
        let mut command = cargo(&["mutants", "--package", group.package, "--profile", PROFILE, "--jobs", "1"]);
        command.args(["--test-package", self.package, "--baseline", "skip", "--timeout", &self.patience.to_string()]);
        let file = |file: &String| ["--file".to_owned(), format!("crates/{}/src/{file}", group.package)];
        command.args(files.iter().flat_map(file)).arg("--output").arg(out);
        command.args(only.iter().map(|found| format!("--re=^{}$", escaped(&found.name))));
        // For cargo-mutants, what comes after `--` is not for building: it would build every test.
        command.args(self.tests.iter().map(|test| format!("--cargo-arg={test}")));
        command.arg("--").args(self.of_tests());
        command
    }

    /// What the tests are told themselves.
    fn of_tests(&self) -> Vec<&'static str> {
        let exactly: &[_] = if self.only.is_empty() { &[] } else { &["--", "--exact"] };
        [exactly, self.only].concat()
    }
}

impl Found {
    /// The file, under its package's `src`.
    fn file_of_package(&self) -> String {
        let of_package = self.file.components().skip_while(|part| part.as_os_str() != "src").skip(1);
        of_package.collect::<PathBuf>().display().to_string()
    }

    /// The name that outlives changes of other lines.
    fn named(&self) -> anyhow::Result<Mutant> {
        let source = std::fs::read_to_string(root().join(&self.file))?;
        let line = source.lines().nth(self.span.start.line - 1).context("a line of the source")?;
        let (_, change) = self.name.split_once(": ").context("a place and a change")?;
        Ok(Mutant { name: format!("{}: {change}", self.file_of_package()), line: line.trim().to_owned() })
    }
}

/// The regular expression for just this text.
fn escaped(text: &str) -> String {
    const SPECIAL: &str = r"\.+*?()|[]{}^$#&-~";
    text.chars().flat_map(|c| SPECIAL.contains(c).then_some('\\').into_iter().chain([c])).collect()
}

/// Whether these files, of which `*` is some of one folder's, have this one among them.
fn matches(files: &str, file: &str) -> bool {
    let Some((before, after)) = files.split_once('*') else { return files == file };
    let some = file.strip_prefix(before).and_then(|rest| rest.strip_suffix(after));
    some.is_some_and(|some| !some.is_empty() && !some.contains('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_or_one_of_its_files_can_be_asked_for() {
        let asked_for = |names: &[&str]| {
            let names: Vec<_> = names.iter().map(|&name| name.to_owned()).collect();
            GROUPS.iter().flat_map(|group| group.asked_for(&names)).collect::<Vec<_>>()
        };
        assert_eq!(asked_for(&[]).len(), GROUPS.iter().map(|group| group.files.len()).sum::<usize>());
        assert_eq!(asked_for(&["shards"]), ["addr.rs", "tlb/*.rs", "space/shard.rs"]);
        assert_eq!(asked_for(&["format/arm64/mod.rs", "format/ept.rs"]), ["format/arm64/mod.rs", "format/ept.rs"]);
        assert_eq!(asked_for(&["formats", "format/ept.rs"]).len(), FORMATS.len());
        assert!(asked_for(&["format/arm64/", "format/arm64/a/b.rs", "format/exemplar.rs", "*"]).is_empty());
    }

    #[test]
    fn every_file_of_a_group_is_there() {
        for (group, files) in GROUPS.iter().flat_map(|group| group.files.iter().map(move |files| (group, files))) {
            let sources = root().join(format!("crates/{}/src", group.package));
            let folder = sources.join(files).parent().expect("a folder").to_owned();
            let pattern = files.rsplit('/').next().expect("a name");
            let found = std::fs::read_dir(folder).unwrap();
            assert!(
                found.map(|entry| entry.unwrap().file_name()).any(|name| matches(pattern, &name.to_string_lossy())),
                "{files}"
            );
        }
    }
}
