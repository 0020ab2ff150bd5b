//! `slat dirty-log`: the counterpart of KVM's dirty_log_perf_test.

mod guest;
pub(crate) mod json;
mod manager;
mod phases;
mod plan;
mod report;
mod verify;

use crate::arguments::DirtyLog;
use crate::failure::Failure;
use crate::formats;
use crate::progress::Progress;

use phases::{OneRun, Run};
use plan::Plan;

/// Runs the command.
pub(crate) fn run(options: &DirtyLog) -> Result<(), Failure> {
    if options.format == "list" {
        if options.json {
            println!("{}", json::formats(&formats::NAMES)?);
        } else {
            formats::NAMES.iter().for_each(|name| println!("{name}"));
        }
        return Ok(());
    }
    let plan = Plan::new(options)?;
    pin_main_thread(&plan);
    if !options.json {
        report::introduction(&plan);
    }
    let runs = run_all(&plan, options.json)?;
    if options.json {
        println!("{}", json::object(&plan, &runs)?);
    } else {
        report::print(&plan, &runs);
    }
    Ok(())
}

/// All runs; where each is repeated, kinds of locking take turns, so that a disturbance hits them alike.
fn run_all(plan: &Plan, quiet: bool) -> Result<Vec<Run>, Failure> {
    let progress = Progress::new(plan.vcpus.len() * plan.lockings.len() * plan.repeat as usize, quiet);
    let mut medians = Vec::new();
    for &vcpus in &plan.vcpus {
        let mut repeats = vec![Vec::new(); plan.lockings.len()];
        for _ in 0..plan.repeat {
            for (&locking, runs) in plan.lockings.iter().zip(&mut repeats) {
                let run = OneRun { plan, vcpus, locking, progress: &progress };
                runs.push(formats::with(&plan.format, run)?);
                progress.next();
            }
        }
        medians.extend(repeats.into_iter().filter_map(Run::median));
    }
    Ok(medians)
}

/// As in KVM's tests, a CPU named beyond the vCPUs' is the main thread's.
fn pin_main_thread(plan: &Plan) {
    let most = plan.vcpus.iter().copied().max().unwrap_or(0) as usize;
    if let Some(&id) = plan.pins.get(most) {
        core_affinity::set_for_current(core_affinity::CoreId { id });
    }
}
