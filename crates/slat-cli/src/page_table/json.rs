//! The JSON object.

use serde::Serialize;

use super::plan::Plan;
use super::stages::{Run, Staged};
use crate::failure::Failure;
use crate::harness::json::{Common, Object};

#[derive(Serialize)]
struct Parameters<'a> {
    bytes: u64,
    collapse: &'static str,
    #[serde(flatten)]
    common: Common<'a>,
}

#[derive(Serialize)]
struct RunObject {
    vcpus: u32,
    locking: &'static str,
    format: &'static str,
    piece_bytes: u64,
    create: StageObject,
    enable_s: f64,
    update: StageObject,
    dirty_pages: u64,
    disable_s: f64,
    collapse: Option<StageObject>,
    adjust: StageObject,
    blocks_possible: u64,
    blocks_after_adjust: u64,
    verified: Option<bool>,
    splits: u64,
    collapses: u64,
    tlb_flushes: u64,
    tables_peak: u64,
    tables_after_teardown: u64,
    retries: u64,
}

#[derive(Serialize)]
struct StageObject {
    time_s: f64,
    leaves: Vec<LeavesObject>,
}

#[derive(Serialize)]
struct LeavesObject {
    bytes: u64,
    count: u64,
}

/// All runs as one object.
pub(crate) fn text(plan: &Plan, runs: &[Run]) -> Result<String, Failure> {
    let common = Common::of(&plan.setting);
    let parameters = Parameters { bytes: plan.setting.bytes, collapse: plan.collapse.name(), common };
    Object::text("page-table", parameters, runs.iter().map(|run| run_object(plan, run)).collect())
}

fn run_object(plan: &Plan, run: &Run) -> RunObject {
    let (possible, blocks) = run.blocks();
    let measured = &run.measured;
    RunObject {
        vcpus: run.vcpus,
        locking: run.locking.name(),
        format: run.format,
        piece_bytes: run.layout.piece,
        create: stage_object(&measured.create),
        enable_s: measured.enable.as_secs_f64(),
        update: stage_object(&measured.update),
        dirty_pages: measured.dirty_pages,
        disable_s: measured.disable.as_secs_f64(),
        collapse: measured.collapse.as_ref().map(stage_object),
        adjust: stage_object(&measured.adjust),
        blocks_possible: possible,
        blocks_after_adjust: blocks,
        verified: plan.setting.verify.then_some(true),
        splits: run.footprint.splits,
        collapses: run.footprint.collapses,
        tlb_flushes: run.footprint.tlb_flushes,
        tables_peak: run.footprint.tables_peak,
        tables_after_teardown: run.footprint.tables_after_teardown,
        retries: run.footprint.retries,
    }
}

fn stage_object(staged: &Staged) -> StageObject {
    let leaves = staged.leaves.by_size().map(|(bytes, count)| LeavesObject { bytes, count }).collect();
    StageObject { time_s: staged.time.as_secs_f64(), leaves }
}
