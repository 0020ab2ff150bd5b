//! Slots that move and go while guests use them.

use alloc::format;
use core::sync::atomic::{AtomicU64, Ordering};

use slat::addr::Gpa;
use slat::host::Access;
use slat::vm::SlotError;

use super::Verdict;
use crate::cpu;
use crate::memory::Unit;
use crate::payload::Program;
use crate::stage::{BLOCK, DATA, DATA_GPA, PAGE, STEP, Settings, Stage, ensure};
use crate::vcpu::Guest;

const BYTES: u64 = 1024 * PAGE;
const PLACES: [u64; 3] = [DATA_GPA, 0xc000_0000, 0xe000_0000];

/// Guests follow a slot that moves back and forth, and lose nothing that they wrote.
pub(super) fn moves(settings: Settings) -> Verdict {
    let stage = Stage::new(settings, Unit::PAGE, BYTES)?;
    let place = AtomicU64::new(DATA_GPA);
    // A program that finds nothing at its old place goes on at the new one.
    let follow = |guest: &mut Guest<'_>, _gpa: Gpa, _access: Access| {
        let (old, new) = (guest.registers.x[0], place.load(Ordering::Acquire));
        guest.registers.x[0] = new;
        guest.registers.x[7] = guest.registers.x[7] - old + new;
        cpu::relax();
        true
    };
    let mut worker = stage.worker();
    stage.churn(&follow, || {
        for round in 1..=9 {
            stage.wait_for_passes(1);
            let to = PLACES[round % PLACES.len()];
            while !worker.move_slot(DATA, Gpa::new(to), STEP).map_err(|error| format!("moving: {error}"))?.is_done() {}
            place.store(to, Ordering::Release);
        }
        stage.wait_for_passes(1);
        Ok(())
    })?;
    drop(worker);
    stage.finish()
}

/// A slot that is deleted is gone for its guests, at once and for all.
pub(super) fn goes(settings: Settings) -> Verdict {
    let stage = Stage::new(settings, Unit::BLOCK, 2 * BLOCK)?;
    stage.pass(stage.all(Program::Write, 3))?;
    let mut worker = stage.worker();
    while !worker.delete_slot(DATA, STEP).map_err(|error| format!("deleting: {error}"))?.is_done() {}
    ensure!(matches!(worker.delete_slot(DATA, STEP), Err(SlotError::NoSuchSlot)), "the slot is still there");
    let seen = stage.pass(stage.all(Program::Check, 3));
    ensure!(seen.is_err_and(|error| error.contains("Unmapped")), "guests still reach a slot that was deleted");
    drop(worker);
    stage.finish()
}
