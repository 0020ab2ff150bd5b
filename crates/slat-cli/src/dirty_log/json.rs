//! The JSON object.

use serde::Serialize;
use slat_machine::program::Order;
use std::time::Duration;

use super::phases::{Iteration, Run};
use super::plan::Plan;
use crate::failure::Failure;
use crate::harness::json::{Common, Object};

#[derive(Serialize)]
struct Parameters<'a> {
    bytes_per_vcpu: u64,
    slots: u32,
    iterations: u32,
    random: bool,
    write_percent: u32,
    seed: u64,
    overlap: bool,
    manual_protect: bool,
    eager_page_split: bool,
    hardware_log: bool,
    run_while_disabling: bool,
    #[serde(flatten)]
    common: Common<'a>,
}

#[derive(Serialize)]
struct RunObject {
    vcpus: u32,
    locking: &'static str,
    format: &'static str,
    populate_s: f64,
    enable_s: f64,
    split_s: Option<f64>,
    iterations: Vec<IterationObject>,
    disable_s: f64,
    verified: Option<bool>,
    verified_pages_copied: Option<u64>,
    tlb_flushes: u64,
    tables_peak: u64,
    tables_after_teardown: u64,
    retries: u64,
}

#[derive(Serialize)]
struct IterationObject {
    dirty_s: f64,
    get_s: f64,
    clear_s: Option<f64>,
    dirty_pages: u64,
}

/// All runs as one object.
pub(crate) fn text(plan: &Plan, runs: &[Run]) -> Result<String, Failure> {
    let parameters = Parameters {
        bytes_per_vcpu: plan.setting.bytes,
        slots: plan.slots,
        iterations: plan.iterations,
        random: plan.order == Order::Random,
        write_percent: plan.write_percent,
        seed: plan.seed,
        overlap: plan.overlap,
        manual_protect: plan.manual,
        eager_page_split: plan.splits_ahead,
        hardware_log: plan.by_hardware,
        run_while_disabling: plan.run_while_disabling,
        common: Common::of(&plan.setting),
    };
    Object::text("dirty-log", parameters, runs.iter().map(run_object).collect())
}

fn run_object(run: &Run) -> RunObject {
    RunObject {
        vcpus: run.vcpus,
        locking: run.locking.name(),
        format: run.format,
        populate_s: run.populate.as_secs_f64(),
        enable_s: run.enable.as_secs_f64(),
        split_s: run.split.as_ref().map(Duration::as_secs_f64),
        iterations: run.iterations.iter().map(iteration_object).collect(),
        disable_s: run.disable.as_secs_f64(),
        verified: run.verified.map(|_| true),
        verified_pages_copied: run.verified,
        tlb_flushes: run.footprint.tlb_flushes,
        tables_peak: run.footprint.tables_peak,
        tables_after_teardown: run.footprint.tables_after_teardown,
        retries: run.footprint.retries,
    }
}

fn iteration_object(iteration: &Iteration) -> IterationObject {
    IterationObject {
        dirty_s: iteration.dirty.as_secs_f64(),
        get_s: iteration.get.as_secs_f64(),
        clear_s: iteration.clear.as_ref().map(Duration::as_secs_f64),
        dirty_pages: iteration.dirty_pages,
    }
}
