//! What people read: KVM's lines for one run, a table with ratios for several.

use comfy_table::{CellAlignment, Table, presets};
use std::time::Duration;

use super::phases::Run;
use super::plan::Plan;
use crate::formats;
use crate::locking::Locking;
use crate::size;

/// Said before anything is run.
pub(crate) fn introduction(plan: &Plan) {
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    if plan.is_default {
        println!("No options: comparing both kinds of locking on small guests, verified. See --help for more.");
    }
    println!("Measured on the software machine (TLBs and page walks are modelled), OS threads on {cpus} CPUs.");
    if let Some(most) = plan.vcpus.iter().max().filter(|most| **most as usize > cpus) {
        println!("Note: {most} vCPUs share {cpus} CPUs: threads take turns, and times grow by that alone.");
    }
    println!();
}

/// All runs.
pub(crate) fn print(plan: &Plan, runs: &[Run]) {
    match runs {
        [run] => single(plan, run),
        _ => several(plan, runs),
    }
}

/// The lines of KVM's test, and what it does not say.
fn single(plan: &Plan, run: &Run) {
    println!("Test iterations: {}", plan.iterations);
    let bits = formats::address_bits(&plan.format).unwrap_or_default();
    println!("Testing format: {}, {bits} bits of guest physical address, locking: {}", plan.format, run.locking.name());
    println!("guest physical test memory: [{:#x}, {:#x})", run.memory.0, run.memory.1);
    println!("Populate memory time: {}", seconds(run.populate));
    println!("Enabling dirty logging time: {}\n", seconds(run.enable));
    for (number, iteration) in run.iterations.iter().enumerate().map(|(index, iteration)| (index + 1, iteration)) {
        println!("Iteration {number} dirty memory time: {}", seconds(iteration.dirty));
        println!("Iteration {number} get dirty log time: {}", seconds(iteration.get));
        if let Some(clear) = iteration.clear {
            println!("Iteration {number} clear dirty log time: {}", seconds(clear));
        }
        println!("Iteration {number} dirty pages: {}", iteration.dirty_pages);
    }
    println!("Disabling dirty logging time: {}", seconds(run.disable));
    total("Get", run.iterations.iter().map(|iteration| iteration.get).collect());
    total("Clear", run.iterations.iter().filter_map(|iteration| iteration.clear).collect());
    println!(
        "TLB flushes: {}, page tables at most: {}, after teardown: {}, faults retried: {}",
        run.tlb_flushes, run.tables_peak, run.tables_after_teardown, run.retries
    );
    if let Some(pages) = run.verified {
        println!("Verified: the copy made by the dirty log alone ({pages} pages) equals the guest's memory.");
    }
}

fn total(what: &str, times: Vec<Duration>) {
    let (sum, count) = (times.iter().sum::<Duration>(), times.len() as u32);
    if count > 0 {
        let average = seconds(sum / count);
        println!("{what} dirty log over {count} iterations took {}. (Avg {average}/iteration)", seconds(sum));
    }
}

/// One row for each number of vCPUs; populate and the last iteration's dirty time for each kind of locking.
fn several(plan: &Plan, runs: &[Run]) {
    let per_vcpu = if plan.overlap { "shared by all vCPUs" } else { "a vCPU" };
    println!(
        "{}, {} {per_vcpu}, {}, slots: {}, iteration {} of {}; seconds, median of {}",
        plan.format,
        size::show(plan.bytes_per_vcpu),
        plan.source,
        plan.slots,
        plan.iterations,
        plan.iterations,
        plan.repeat
    );
    let mut table = Table::new();
    table.load_preset(presets::ASCII_MARKDOWN);
    let mut header = vec!["vCPUs".to_owned()];
    for phase in ["populate", "dirty", "get + clear"] {
        header.extend(plan.lockings.iter().map(|locking| format!("{phase}\n{}", locking.name())));
        header.extend(ratio_name(&plan.lockings));
    }
    table.set_header(header);
    for &vcpus in &plan.vcpus {
        let row: Vec<&Run> = runs.iter().filter(|run| run.vcpus == vcpus).collect();
        let mut cells = vec![vcpus.to_string()];
        cells.extend(phase_cells(&row, |run| run.populate));
        cells.extend(phase_cells(&row, |run| last(run, |iteration| iteration.dirty)));
        cells.extend(phase_cells(&row, |run| last(run, |it| it.get + it.clear.unwrap_or_default())));
        table.add_row(cells);
    }
    table.column_iter_mut().for_each(|column| column.set_cell_alignment(CellAlignment::Right));
    println!("{table}");
    summary(runs);
}

fn last(run: &Run, time: impl Fn(&super::phases::Iteration) -> Duration) -> Duration {
    run.iterations.last().map(time).unwrap_or_default()
}

fn ratio_name(lockings: &[Locking]) -> Option<String> {
    (lockings.len() == 2).then(|| "ratio".to_owned())
}

/// The times of one phase, and the first's ratio to the second's where there are two.
fn phase_cells(runs: &[&Run], time: impl Fn(&Run) -> Duration) -> Vec<String> {
    let mut cells: Vec<String> = runs.iter().map(|run| format!("{:.4}", time(run).as_secs_f64())).collect();
    if let [first, second] = runs {
        cells.push(format!("{:.2}", time(first).as_secs_f64() / time(second).as_secs_f64().max(f64::MIN_POSITIVE)));
    }
    cells
}

fn summary(runs: &[Run]) {
    let verified = runs.iter().filter(|run| run.verified.is_some()).count();
    if verified > 0 {
        let pages: u64 = runs.iter().filter_map(|run| run.verified).sum();
        println!(
            "Verified: {verified} of {} runs; {pages} pages copied by the dirty log alone, no page lost.",
            runs.len()
        );
    }
    let (peak, left) =
        runs.iter().fold((0, 0), |(peak, left), run| (run.tables_peak.max(peak), run.tables_after_teardown + left));
    println!("Page tables at most: {peak}; after teardown: {left}.");
}

/// Seconds as KVM's tests print them: nine digits.
fn seconds(time: Duration) -> String {
    format!("{}.{:09}s", time.as_secs(), time.subsec_nanos())
}
