//! Memory that moves under guests: what they wrote stays, and nothing of the old place is ever seen again.

use alloc::format;

use slat::addr::{Gpa, GpaRange};

use super::Verdict;
use crate::memory::Unit;
use crate::payload::SCRUBBED;
use crate::stage::{BLOCK, DATA, DATA_GPA, PAGE, STEP, Settings, Stage, ensure};

/// Page by page: as many as a TLB holds, so that only a flush makes it forget them.
pub(super) fn pages(settings: Settings) -> Verdict {
    moves(settings, Unit::PAGE, 128 * PAGE, 400)
}

/// Block by block.
pub(super) fn blocks(settings: Settings) -> Verdict {
    moves(settings, Unit::BLOCK, 4 * BLOCK, 24)
}

fn moves(settings: Settings, unit: Unit, bytes: u64, moves: u64) -> Verdict {
    let stage = Stage::new(settings, unit, bytes)?;
    let mut worker = stage.worker();
    let units = bytes / unit.bytes();
    let ((), counts) = stage.churn(&|_, _, _| false, || {
        stage.wait_for_passes(1);
        for number in 0..moves {
            // A stride that has no factor in common with the number of units.
            let index = number * 37 % units;
            let range = GpaRange::with_len(Gpa::new(DATA_GPA + index * unit.bytes()), unit.bytes()).unwrap_or_default();
            let mut invalidation = worker.invalidate(range).map_err(|error| format!("{error}"))?;
            while !invalidation.unmap(STEP).is_done() {}
            let moved = stage.memory().backed.move_unit(DATA, index as usize, SCRUBBED);
            ensure!(moved.is_some(), "not enough memory in the machine");
            drop(invalidation);
            if number % 8 == 7 {
                stage.wait_for_passes(1);
            }
        }
        stage.wait_for_passes(1);
        Ok(())
    })?;
    let mapped = counts.mapped[unit.0.index()];
    ensure!(mapped > units + moves / 16, "{mapped} faults mapped something, of {units} units moved {moves} times");
    let scrubbed =
        stage.pages().find(|&page| stage.words(page).iter().any(|word| word.load(crate::stage::RELAXED) == SCRUBBED));
    ensure!(scrubbed.is_none(), "page {scrubbed:?} holds what was left behind");
    drop(worker);
    stage.finish()
}
