//! The JSON object.

use serde::Serialize;
use std::time::Duration;

use super::phases::{Iteration, Run};
use super::plan::{Plan, available_memory};
use crate::failure::{Failure, engine};

/// The name of this object's shape.
pub(crate) fn schema() -> &'static str {
    "slat.dirty-log/1"
}

#[derive(Serialize)]
struct Object<'a> {
    schema: &'static str,
    command: &'static str,
    kind: &'static str,
    machine: MachineObject,
    parameters: Parameters<'a>,
    runs: Vec<RunObject<'a>>,
}

#[derive(Serialize)]
struct Formats<'a> {
    schema: &'static str,
    command: &'static str,
    formats: &'a [&'a str],
}

/// The names of the formats as one object.
pub(crate) fn formats(names: &[&str]) -> Result<String, Failure> {
    let object = Formats { schema: schema(), command: "dirty-log", formats: names };
    serde_json::to_string_pretty(&object).map_err(engine)
}

#[derive(Serialize)]
struct MachineObject {
    cpus: usize,
    arch: &'static str,
    os: &'static str,
    memory_available: Option<u64>,
    second_stage: &'static str,
}

#[derive(Serialize)]
struct Parameters<'a> {
    bytes_per_vcpu: u64,
    source: String,
    slots: u32,
    iterations: u32,
    random: bool,
    write_percent: u32,
    seed: u64,
    overlap: bool,
    offset: Option<u64>,
    manual_protect: bool,
    run_while_disabling: bool,
    pins: &'a [usize],
    verify: bool,
    repeat: u32,
}

#[derive(Serialize)]
struct RunObject<'a> {
    vcpus: u32,
    locking: &'static str,
    format: &'a str,
    populate_s: f64,
    enable_s: f64,
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
pub(crate) fn object(plan: &Plan, runs: &[Run]) -> Result<String, Failure> {
    let machine = MachineObject {
        cpus: std::thread::available_parallelism().map_or(1, usize::from),
        arch: std::env::consts::ARCH,
        os: std::env::consts::OS,
        memory_available: available_memory(),
        second_stage: "software",
    };
    let parameters = Parameters {
        bytes_per_vcpu: plan.bytes_per_vcpu,
        source: plan.source.to_string(),
        slots: plan.slots,
        iterations: plan.iterations,
        random: plan.order == slat_machine::program::Order::Random,
        write_percent: plan.write_percent,
        seed: plan.seed,
        overlap: plan.overlap,
        offset: plan.offset,
        manual_protect: plan.manual,
        run_while_disabling: plan.run_while_disabling,
        pins: &plan.pins,
        verify: plan.verify,
        repeat: plan.repeat,
    };
    let runs = runs.iter().map(|run| run_object(plan, run)).collect();
    let object = Object { schema: schema(), command: "dirty-log", kind: "measured", machine, parameters, runs };
    serde_json::to_string_pretty(&object).map_err(engine)
}

fn run_object<'a>(plan: &'a Plan, run: &Run) -> RunObject<'a> {
    RunObject {
        vcpus: run.vcpus,
        locking: run.locking.name(),
        format: &plan.format,
        populate_s: run.populate.as_secs_f64(),
        enable_s: run.enable.as_secs_f64(),
        iterations: run.iterations.iter().map(iteration_object).collect(),
        disable_s: run.disable.as_secs_f64(),
        verified: run.verified.map(|_| true),
        verified_pages_copied: run.verified,
        tlb_flushes: run.tlb_flushes,
        tables_peak: run.tables_peak,
        tables_after_teardown: run.tables_after_teardown,
        retries: run.retries,
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
