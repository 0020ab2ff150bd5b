//! `cargo xtask instructions`: instructions an operation, counted by callgrind, beside those that the repository keeps.
//!
//! What is counted is the operation as an embedder calls it, without the embedder's own translation and the allocation of
//! tables. Callgrind repeats exactly for the same binary; another compiler gives other counts.

use anyhow::{Context, bail, ensure};
use std::collections::BTreeMap;
use std::process::Command;

use crate::tools::{cargo, root, run, target};

/// What is counted: an operation, and the two counts whose difference is taken.
const OPERATIONS: [(&str, u64, u64); 15] = [
    ("map_4k", 1000, 3000),
    ("map_4k_random", 1000, 3000),
    ("map_4k_logged", 1000, 3000),
    ("spurious", 1000, 3000),
    ("relax_dirty", 1000, 3000),
    ("lookup", 1000, 3000),
    ("protect_leaf", 1024, 5120),
    ("unmap_leaf", 100, 500),
    ("range_map_leaf", 512, 4608),
    ("split_block", 2, 10),
    ("split_ahead", 2, 10),
    ("collapse_block", 2, 10),
    ("create_slot_32", 8, 24),
    ("create_slot_1024", 64, 128),
    ("create_slot_32764", 64, 128),
];

/// Where the counts are kept.
const KEPT: &str = "crates/slat-bench/instructions.json";

/// What was kept before that.
const PREVIOUS: &str = "crates/slat-bench/instructions.previous.json";

/// More than the kept count by this factor is a regression.
const TOLERANCE: f64 = 1.05;

type Counts = BTreeMap<String, f64>;

/// Counts; prints a table or one object; keeps the counts if asked to, else fails on a regression.
pub(crate) fn count(as_json: bool, keep: bool) -> anyhow::Result<()> {
    ensure!(is_available(), "valgrind is not installed (Debian: apt-get install valgrind)");
    run(&mut cargo(&["build", "--quiet", "--release", "--package", "slat-bench"]))?;
    let counts: Counts = OPERATIONS
        .into_iter()
        .map(|(operation, few, many)| {
            let difference = instructions(operation, many)? - instructions(operation, few)?;
            Ok((operation.to_owned(), (difference as f64 / (many - few) as f64 * 10.0).round() / 10.0))
        })
        .collect::<anyhow::Result<_>>()?;
    let path = root().join(KEPT);
    let kept: Counts =
        std::fs::read(&path).ok().map(|text| serde_json::from_slice(&text)).transpose()?.unwrap_or_default();
    if as_json {
        println!("{}", serde_json::to_string_pretty(&counts)?);
    } else {
        for (operation, count) in &counts {
            let before = kept.get(operation).map_or("-".to_owned(), |before| format!("{before:.1}"));
            println!("{operation:<16} {count:>10.1}   kept {before:>10}");
        }
    }
    if keep {
        std::fs::write(root().join(PREVIOUS), serde_json::to_string_pretty(&kept)? + "\n")?;
        std::fs::write(&path, serde_json::to_string_pretty(&counts)? + "\n")?;
        return Ok(());
    }
    let worse = regressions(&counts, &kept);
    if worse.is_empty() { Ok(()) } else { bail!("more instructions than are kept in {KEPT}: {}", worse.join(", ")) }
}

/// Whether this machine can count.
pub(crate) fn is_available() -> bool {
    Command::new("valgrind").arg("--version").output().is_ok_and(|output| output.status.success())
}

fn regressions(counts: &Counts, kept: &Counts) -> Vec<String> {
    let is_worse = |(name, count): &(&String, &f64)| kept.get(*name).is_some_and(|kept| **count > kept * TOLERANCE);
    counts.iter().filter(is_worse).map(|(name, count)| format!("{name} {count:.1}")).collect()
}

fn instructions(operation: &str, count: u64) -> anyhow::Result<u64> {
    let mut valgrind = Command::new("valgrind");
    valgrind.args(["--tool=callgrind", "--callgrind-out-file=/dev/null"]);
    // Collecting begins in the operation and pauses in the embedder's translation.
    valgrind.args(["--toggle-collect=slat_bench::measured::*", "--toggle-collect=*translate*"]);
    valgrind.arg(target().join("release/slat-bench")).arg(operation).arg(count.to_string());
    let output = valgrind.output().context("valgrind does not start")?;
    let text = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{operation}: {text}");
    let line = text.lines().find_map(|line| line.split_once("Collected : ")).context("callgrind says no count")?;
    Ok(line.1.trim().parse()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_regression_is_found_and_an_improvement_is_not() {
        let counts = |map: f64| Counts::from([("map_4k".to_owned(), map), ("new".to_owned(), 1.0)]);
        let kept = Counts::from([("map_4k".to_owned(), 100.0)]);
        assert_eq!(regressions(&counts(104.0), &kept), Vec::<String>::new());
        assert_eq!(regressions(&counts(80.0), &kept), Vec::<String>::new());
        assert_eq!(regressions(&counts(106.0), &kept), ["map_4k 106.0"]);
    }
}
