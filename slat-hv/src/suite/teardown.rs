//! The end of a VM whose tree is in every state at once.

use alloc::format;

use slat::addr::{Gpa, GpaRange};
use slat::vm::{Budget, LogMode};

use super::Verdict;
use crate::memory::Unit;
use crate::payload::{Program, Task};
use crate::stage::{BLOCK, DATA_GPA, PAGE, Settings, Stage, ensure};

const BYTES: u64 = 8 * BLOCK;

/// Blocks, split blocks, pages, holes, protected leaves, tables that await their grace period: nothing is left of any.
pub(super) fn leaves_nothing(settings: Settings) -> Verdict {
    for unit in [Unit::PAGE, Unit::BLOCK] {
        let stage = Stage::new(settings, unit, BYTES)?;
        stage.pass(stage.all(Program::Write, 1))?;
        let mut worker = stage.worker();
        worker.top_up(8).map_err(|error| format!("tables: {error}"))?;
        stage.set_log(&mut worker, Some(LogMode::Protect))?;
        let all = stage.all(Program::Write, 2);
        stage.pass(|vcpu| Task { pages: BYTES / PAGE / 1500, stride: 1500 * PAGE, ..all(vcpu) })?;
        let hole = |start, pages| GpaRange::with_len(Gpa::new(DATA_GPA + start), pages * PAGE).unwrap_or_default();
        for hole in [hole(0, 5), hole(2 * BLOCK, BLOCK / PAGE), hole(4 * BLOCK + 7 * PAGE, 3)] {
            let progress = worker.unmap(hole, Budget::UNLIMITED).map_err(|error| format!("unmapping: {error}"))?;
            ensure!(progress.is_done() && progress.changed > 0, "unmapping {hole:?}: {progress:?}");
        }
        let before = stage.vm.statistics();
        ensure!(before.tables > 3 && before.leaves[0] > 0, "nothing to tear down: {before:?}");
        drop(worker);
        stage.finish()?;
    }
    Ok(())
}
