//! `slat page-table`: the counterpart of KVM's kvm_page_table_test.

mod json;
mod leaves;
mod plan;
mod report;
mod stages;
mod touch;
mod verify;

use crate::arguments::PageTable;
use crate::failure::Failure;
use crate::harness::{compare, runs};
use crate::output::say;

use plan::Plan;
use stages::{Run, Stages};

/// Runs the command.
pub(crate) fn run(options: &PageTable) -> Result<(), Failure> {
    let plan = Plan::new(options)?;
    let as_json = options.common.json;
    plan.setting.pin_main_thread();
    if !as_json {
        say!("{}", compare::introduction(&plan.setting));
    }
    let runs = runs::all(&plan.setting, as_json, |case| Stages::run(&plan, case), Run::median)?;
    if as_json {
        say!("{}", json::text(&plan, &runs)?);
    } else {
        report::print(&plan, &runs);
    }
    Ok(())
}
