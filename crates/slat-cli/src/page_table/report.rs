//! What people read: lines that users of KVM's test know for one run, a table with ratios for several.

use std::collections::BTreeSet;

use super::plan::Plan;
use super::stages::{Run, Staged};
use crate::arguments::Collapse;
use crate::formats;
use crate::harness::compare::{self, Row};
use crate::harness::time::seconds;
use crate::output::say;
use crate::size;

/// All runs.
pub(crate) fn print(plan: &Plan, runs: &[Run]) {
    match runs {
        [run] => single(plan, run),
        _ => several(plan, runs),
    }
}

fn single(plan: &Plan, run: &Run) {
    let (setting, measured) = (&plan.setting, &run.measured);
    let bits = formats::address_bits(run.format).unwrap_or_default();
    say!("Testing format: {}, {bits} bits of guest physical address, locking: {}", run.format, run.locking.name());
    say!("Testing memory backing: {}, in pieces of {:#x}", setting.source, run.layout.piece);
    say!("Testing memory size: {:#x}", setting.bytes);
    let memory = run.layout.memory;
    say!("guest physical test memory: [{:#x}, {:#x})", memory.start().get(), memory.end().get());
    say!("Number of testing vCPUs: {}\n", run.vcpus);
    stage("CREATE", &measured.create);
    say!("Enabling dirty logging time: {}", seconds(measured.enable));
    stage("UPDATE", &measured.update);
    say!("Dirty pages: {}", measured.dirty_pages);
    say!("Disabling dirty logging time: {}", seconds(measured.disable));
    if let Some(staged) = &measured.collapse {
        say!("Collapsing time ({}): {}", plan.collapse.name(), seconds(staged.time));
        say!("  leaves: {}", staged.leaves);
    }
    stage("ADJUST", &measured.adjust);
    if let (possible @ 1.., blocks) = run.blocks() {
        say!("Blocks after adjusting: {blocks} of {possible}");
    }
    say!("Leaves split: {}, tables collapsed in place: {}", run.footprint.splits, run.footprint.collapses);
    say!("{}", run.footprint);
    if setting.verify {
        say!("Verified after each stage: the guest's memory, and the leaves by the machine's own walker.");
    }
}

fn stage(name: &str, staged: &Staged) {
    say!("{name}_MAPPINGS: total execution time: {}", seconds(staged.time));
    say!("  leaves: {}", staged.leaves);
}

/// One row for each run.
fn several(plan: &Plan, runs: &[Run]) {
    let setting = &plan.setting;
    let pieces: BTreeSet<_> = runs.iter().map(|run| run.layout.piece).collect();
    let pieces: Vec<_> = pieces.into_iter().map(size::show).collect();
    say!(
        "{} shared by all vCPUs, {} in pieces of {}; seconds, median of {}",
        size::show(setting.bytes),
        setting.source,
        pieces.join(", "),
        setting.repeat
    );
    let rows: Vec<Row> = runs.iter().map(row).collect();
    let phases: &[&str] = match plan.collapse {
        Collapse::ByFaults => &["create", "update", "adjust"],
        Collapse::InPlace | Collapse::Lazily => &["create", "update", "collapse", "adjust"],
    };
    say!("{}", compare::table(setting, phases, &rows));
    let all = runs.len();
    let (possible, blocks) = runs.iter().fold((0, 0), |(possible, blocks), run| {
        let (p, b) = run.blocks();
        (possible + p, blocks + b)
    });
    if possible > 0 {
        say!("Blocks after adjusting, in all runs: {blocks} of {possible}.");
    }
    if setting.verify {
        say!("Verified: {all} of {all} runs, memory and leaves after each stage.");
    }
    say!("{}", compare::tables(&rows));
}

fn row(run: &Run) -> Row {
    let measured = &run.measured;
    let mut times = vec![measured.create.time, measured.update.time];
    times.extend(measured.collapse.as_ref().map(|staged| staged.time));
    times.push(measured.adjust.time);
    Row { format: run.format, vcpus: run.vcpus, locking: run.locking, times, footprint: run.footprint }
}
