//! Splitting and collapsing under guests that access what is split and collapsed.

use alloc::format;
use alloc::vec;

use slat::addr::{Gpa, GpaRange, Level};
use slat::vm::{Budget, Collapse, LogMode, Pages, Worker};

use super::Verdict;
use crate::memory::{GuestVm, Unit};
use crate::payload::Program;
use crate::stage::{BLOCK, DATA, DATA_GPA, PAGE, STEP, Settings, Stage, ensure};

const BYTES: u64 = 4 * BLOCK;

/// The log comes and goes: blocks are split by writes, and made again.
pub(super) fn split_and_collapse(settings: Settings) -> Verdict {
    let stage = Stage::new(settings, Unit::BLOCK, BYTES)?;
    let mut worker = stage.worker();
    stage.churn(&|_, _, _| false, || {
        for round in 0..4 {
            stage.wait_for_passes(1);
            stage.set_log(&mut worker, Some(LogMode::Protect))?;
            stage.wait_for_passes(1);
            let mut bitmap = vec![0; (BYTES / PAGE / 64) as usize];
            let pages = Pages { first: 0, count: BYTES / PAGE };
            let harvest = worker.harvest(DATA, pages, &mut bitmap, Budget::UNLIMITED);
            ensure!(harvest.map_err(|error| format!("harvest: {error}"))?.is_done(), "the harvest is not done");
            stage.set_log(&mut worker, None)?;
            let how = if round % 2 == 0 { Collapse::InPlace } else { Collapse::Lazily };
            collapse(&stage, &mut worker, how)?;
            let _ = worker.reclaim(STEP);
        }
        stage.wait_for_passes(2);
        Ok(())
    })?;
    // What was unlinked counts until it is taken apart.
    while worker.reclaim(Budget::UNLIMITED).awaiting > 0 {}
    let statistics = stage.vm.statistics();
    ensure!(statistics.splits >= 4, "{} splits", statistics.splits);
    ensure!(statistics.collapses > 0, "no table was collapsed in place");
    // The last round was lazy: faults have made blocks of everything.
    let [pages, blocks, ..] = statistics.leaves;
    ensure!(pages == 0 && blocks == 1 + BYTES / BLOCK, "{pages} pages and {blocks} blocks after collapsing");
    stage.pass(stage.all(Program::Read, 0))?;
    drop(worker);
    stage.finish()
}

/// Blocks are split ahead of the writes to them, under a log, beside guests that write; no write splits one then.
pub(super) fn split_ahead(settings: Settings) -> Verdict {
    let stage = Stage::new(settings, Unit::BLOCK, BYTES)?;
    let mut worker = stage.worker();
    stage.churn(&|_, _, _| false, || {
        for _ in 0..3 {
            // A pass from its beginning: all that was collapsed is mapped by blocks again.
            stage.wait_for_passes(2);
            stage.set_log(&mut worker, Some(LogMode::InitiallySet))?;
            let split = worker.split(stage.range(), Level::PAGE, Budget::UNLIMITED);
            let split = split.map_err(|error| format!("split: {error}"))?;
            ensure!(split.is_done() && split.changed == BYTES / BLOCK, "of {} blocks: {split:?}", BYTES / BLOCK);
            let before = stage.vm.statistics().splits;
            stage.wait_for_passes(1);
            let mut bitmap = vec![0; (BYTES / PAGE / 64) as usize];
            let pages = Pages { first: 0, count: BYTES / PAGE };
            let harvest = worker.harvest(DATA, pages, &mut bitmap, Budget::UNLIMITED);
            ensure!(harvest.map_err(|error| format!("harvest: {error}"))?.is_done(), "the harvest is not done");
            stage.wait_for_passes(1);
            ensure!(stage.vm.statistics().splits == before, "a write split a block that was split ahead");
            stage.set_log(&mut worker, None)?;
            collapse(&stage, &mut worker, Collapse::Lazily)?;
            let _ = worker.reclaim(STEP);
        }
        Ok(())
    })?;
    drop(worker);
    stage.finish()
}

/// Collapses all tables, to the end.
fn collapse(stage: &Stage, worker: &mut Worker<&GuestVm>, how: Collapse) -> Verdict {
    let mut next = Some(stage.range().start());
    while let Some(at) = next {
        next = worker.collapse(stage.range().from(at), how, STEP).map_err(|error| format!("{error}"))?.next;
    }
    Ok(())
}

/// Write protection of single pages inside blocks, beside guests that write to them.
pub(super) fn protect_parts(settings: Settings) -> Verdict {
    let stage = Stage::new(settings, Unit::BLOCK, BYTES)?;
    let mut worker = stage.worker();
    stage.churn(&|_, _, _| false, || {
        stage.wait_for_passes(1);
        for block in 0..BYTES / BLOCK {
            worker.top_up(4).map_err(|error| format!("tables: {error}"))?;
            let start = Gpa::new(DATA_GPA + block * BLOCK + 5 * PAGE);
            let part = GpaRange::with_len(start, 7 * PAGE).unwrap_or_default();
            let progress = worker.write_protect(part, Budget::UNLIMITED).map_err(|error| format!("{error}"))?;
            ensure!(progress.is_done() && !progress.widened, "protecting seven pages: {progress:?}");
            let level = worker.lookup(start).map(|mapping| mapping.level());
            ensure!(level.is_none_or(|level| level <= Level::new(1)), "a leaf of level {level:?}");
        }
        stage.wait_for_passes(2);
        Ok(())
    })?;
    ensure!(stage.vm.statistics().splits > 0, "no block was split");
    drop(worker);
    stage.finish()
}
