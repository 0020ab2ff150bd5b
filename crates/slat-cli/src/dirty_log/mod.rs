//! `slat dirty-log`: the counterpart of KVM's dirty_log_perf_test.

mod json;
mod phases;
mod plan;
mod report;
mod verify;

use crate::arguments::DirtyLog;
use crate::failure::Failure;
use crate::harness::{compare, runs};
use crate::output::say;

use phases::{Phases, Run};
use plan::Plan;

/// Runs the command.
pub(crate) fn run(options: &DirtyLog) -> Result<(), Failure> {
    let plan = Plan::new(options)?;
    let as_json = options.common.json;
    plan.setting.pin_main_thread();
    if !as_json {
        say!("{}", compare::introduction(&plan.setting));
    }
    let runs = runs::all(&plan.setting, as_json, |case| Phases::run(&plan, case), Run::median)?;
    if as_json {
        say!("{}", json::text(&plan, &runs)?);
    } else {
        report::print(&plan, &runs);
    }
    Ok(())
}
