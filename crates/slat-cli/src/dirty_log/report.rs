//! What people read: KVM's lines for one run, a table with ratios for several.

use std::time::Duration;

use super::phases::{Iteration, Run};
use super::plan::Plan;
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

/// The lines of KVM's test, and what it does not say.
fn single(plan: &Plan, run: &Run) {
    say!("Test iterations: {}", plan.iterations);
    let bits = formats::address_bits(run.format).unwrap_or_default();
    say!("Testing format: {}, {bits} bits of guest physical address, locking: {}", run.format, run.locking.name());
    say!("guest physical test memory: [{:#x}, {:#x})", run.memory.start().get(), run.memory.end().get());
    say!("Populate memory time: {}", seconds(run.populate));
    say!("Enabling dirty logging time: {}", seconds(run.enable));
    if let Some(split) = run.split {
        say!("Splitting blocks time: {}", seconds(split));
    }
    say!("");
    for (number, iteration) in run.iterations.iter().enumerate().map(|(index, iteration)| (index + 1, iteration)) {
        say!("Iteration {number} dirty memory time: {}", seconds(iteration.dirty));
        say!("Iteration {number} get dirty log time: {}", seconds(iteration.get));
        if let Some(clear) = iteration.clear {
            say!("Iteration {number} clear dirty log time: {}", seconds(clear));
        }
        say!("Iteration {number} dirty pages: {}", iteration.dirty_pages);
    }
    say!("Disabling dirty logging time: {}", seconds(run.disable));
    total("Get", run.iterations.iter().map(|iteration| iteration.get).collect());
    total("Clear", run.iterations.iter().filter_map(|iteration| iteration.clear).collect());
    say!("{}", run.footprint);
    if let Some(pages) = run.verified {
        say!("Verified: the copy made by the dirty log alone ({pages} pages) equals the guest's memory.");
    }
}

fn total(what: &str, times: Vec<Duration>) {
    let (sum, count) = (times.iter().sum::<Duration>(), times.len() as u32);
    if count > 0 {
        let average = seconds(sum / count);
        say!("{what} dirty log over {count} iterations took {}. (Avg {average}/iteration)", seconds(sum));
    }
}

/// One row for each run: populate, and the last iteration's times.
fn several(plan: &Plan, runs: &[Run]) {
    let (setting, last) = (&plan.setting, plan.iterations);
    let per_vcpu = if plan.overlap { "shared by all vCPUs" } else { "a vCPU" };
    say!(
        "{} {per_vcpu}, {}, slots: {}, iteration {last} of {last}; seconds, median of {}",
        size::show(setting.bytes),
        setting.source,
        plan.slots,
        setting.repeat
    );
    let rows: Vec<Row> = runs.iter().map(row).collect();
    say!("{}", compare::table(setting, &["populate", "dirty", "get + clear"], &rows));
    let verified = runs.iter().filter(|run| run.verified.is_some()).count();
    if verified > 0 {
        let pages: u64 = runs.iter().filter_map(|run| run.verified).sum();
        let all = runs.len();
        say!("Verified: {verified} of {all} runs; {pages} pages copied by the dirty log alone, no page lost.");
    }
    say!("{}", compare::tables(&rows));
}

fn row(run: &Run) -> Row {
    let last = |time: fn(&Iteration) -> Duration| run.iterations.last().map(time).unwrap_or_default();
    let taken = last(|iteration| iteration.get + iteration.clear.unwrap_or_default());
    let times = vec![run.populate, last(|iteration| iteration.dirty), taken];
    Row { format: run.format, vcpus: run.vcpus, locking: run.locking, times, footprint: run.footprint }
}
