//! A table is collapsed into a block beside what else changes it (R7).

use slat::vm::{Budget, Collapse};

use crate::run::{Scenario, all_three, both};
use crate::stage::{
    BY_HARDWARE, LOGGED, ModelWorker, PLAIN, READ, READ_ONLY, Stage, WRITE, harvest, set_flags, two_workers, unmap,
};
use crate::tool::{Loom, Shuttle, Tool};
use crate::world::{REGION, Setup, World, pages};

use super::hardware_log;

/// A write to a page whose table is being collapsed.
pub const WRITE_BESIDE: Scenario = Scenario::new("collapse_fault/write", write::<Loom>, write::<Shuttle>);

/// Two writes, each of which collapses the table by itself.
pub const BY_FAULTS: Scenario = Scenario::new("collapse_fault/by_faults", by_faults::<Loom>, by_faults::<Shuttle>);

/// Logging is turned on while the table is collapsed; a write comes after.
pub const ENABLING: Scenario = Scenario::new("collapse_fault/enabling", enabling::<Loom>, enabling::<Shuttle>);

/// As [`ENABLING`], of a log that hardware keeps: no table may become a block under it, whose pages hardware would not tell
/// apart.
pub const ENABLING_BY_HARDWARE: Scenario =
    Scenario::new("collapse_fault/enabling_by_hardware", enabling_by_hardware::<Loom>, enabling_by_hardware::<Shuttle>);

/// The log is turned on and harvested while the table is collapsed and a guest writes.
pub const HARVEST: Scenario =
    Scenario::new("collapse_fault/harvest", with_harvest::<Loom>, with_harvest::<Shuttle>).with_preemptions(1);

/// The pages are unmapped while their table is collapsed.
pub const UNMAP: Scenario = Scenario::new("collapse_fault/unmap", with_unmap::<Loom>, with_unmap::<Shuttle>);

/// Some of the pages are unmapped, and their memory taken, while their table is collapsed.
pub const UNMAP_PART: Scenario =
    Scenario::new("collapse_fault/unmap_part", with_unmap_of_part::<Loom>, with_unmap_of_part::<Shuttle>);

/// Write permission is withdrawn from a page while its table is collapsed.
pub const PROTECT: Scenario =
    Scenario::new("collapse_fault/protect", with_protection::<Loom>, with_protection::<Shuttle>).with_preemptions(1);

/// The table is dropped, for faults to map the block, while a guest writes through it.
pub const LAZILY: Scenario = Scenario::new("collapse_fault/lazily", lazily::<Loom>, lazily::<Shuttle>);

/// A block that was split under a log which is off again; page 0 is writable.
pub(super) fn split<T: Tool>() -> (Stage<T>, ModelWorker<T>) {
    split_in::<T>(Setup::block())
}

/// The same in a world of this kind.
pub(super) fn split_in<T: Tool>(setup: Setup) -> (Stage<T>, ModelWorker<T>) {
    let (stage, mut worker) = Stage::<T>::new(setup, LOGGED);
    let mut guest = stage.guest(0);
    guest.reach(1, READ);
    guest.reach(0, WRITE);
    stage.last_harvest(&mut worker);
    stage.world.log_ends();
    set_flags(&mut worker, PLAIN);
    drop(guest);
    (stage, worker)
}

pub(super) fn collapse_in_place<T: Tool>(_: &World<T>, worker: &mut ModelWorker<T>) {
    collapse(worker, Collapse::InPlace);
}

fn collapse<T: Tool>(worker: &mut ModelWorker<T>, how: Collapse) {
    let _ = worker.collapse(pages(0, 4), how, Budget::UNLIMITED);
}

fn write<T: Tool>() {
    let (stage, mut worker) = split::<T>();
    let mut guest = stage.guest(1);
    let (worker, _) = both::<T, _, _>(
        move || {
            collapse(&mut worker, Collapse::InPlace);
            worker
        },
        move || guest.reach(2, WRITE),
    );
    stage.close(worker);
}

fn by_faults<T: Tool>() {
    let (stage, worker) = split::<T>();
    let (mut one, mut other) = (stage.guest(0), stage.guest(1));
    both::<T, _, _>(move || one.fault_once(1, WRITE), move || other.fault_once(2, WRITE));
    stage.close(worker);
}

fn enabling<T: Tool>() {
    let (stage, worker) = split::<T>();
    let mut guest = stage.guest(1);
    let mut worker = two_workers(&stage, worker, |_, worker| set_flags(worker, LOGGED), collapse_in_place);
    stage.world.log_begins();
    guest.reach(2, WRITE);
    drop(guest);
    stage.last_harvest(&mut worker);
    stage.close(worker);
}

fn enabling_by_hardware<T: Tool>() {
    let (stage, mut worker) = Stage::<T>::new(Setup::block().with_hardware_dirty(), LOGGED);
    let mut guest = stage.guest(0);
    (0..REGION).for_each(|page| guest.reach(page, WRITE));
    stage.world.log_ends();
    set_flags(&mut worker, PLAIN);
    let worker = two_workers(&stage, worker, |_, worker| set_flags(worker, BY_HARDWARE), collapse_in_place);
    stage.world.log_begins();
    guest.reach(2, WRITE);
    drop(guest);
    hardware_log::check(stage, worker);
}

fn with_harvest<T: Tool>() {
    let (stage, mut worker) = split::<T>();
    let (mut guest, mut other) = (stage.guest(1), stage.worker());
    let world = stage.world.clone();
    let (mut worker, ..) = all_three::<T, _, _, _>(
        move || {
            set_flags(&mut worker, LOGGED);
            world.log_begins();
            harvest(&world, &mut worker, world.all_pages());
            worker
        },
        move || {
            collapse(&mut other, Collapse::InPlace);
            crate::stage::reclaim_and_drop(other);
        },
        move || guest.fault_once(2, WRITE),
    );
    stage.last_harvest(&mut worker);
    stage.close(worker);
}

fn with_unmap<T: Tool>() {
    let (stage, worker) = split::<T>();
    let worker = two_workers(&stage, worker, collapse_in_place, |_, other| unmap(other, 0, 4));
    stage.close(worker);
}

fn with_unmap_of_part<T: Tool>() {
    let (stage, worker) = split::<T>();
    let worker = two_workers(&stage, worker, collapse_in_place, |world, other| {
        world.change_backing(0);
        unmap(other, 0, 2);
        world.take_old_pages(0, 2);
    });
    stage.world.poke(READ);
    stage.close(worker);
}

fn with_protection<T: Tool>() {
    let (stage, worker) = split::<T>();
    let worker = two_workers(&stage, worker, collapse_in_place, |_, other| set_flags(other, READ_ONLY));
    let slot = stage.world.setup.slot();
    stage.world.declare(|oracle| oracle.read_only = slot);
    stage.world.poke(WRITE);
    stage.close(worker);
}

fn lazily<T: Tool>() {
    let (stage, mut worker) = split::<T>();
    let mut guest = stage.guest(1);
    let (worker, _) = both::<T, _, _>(
        move || {
            collapse(&mut worker, Collapse::Lazily);
            worker
        },
        move || guest.reach(2, WRITE),
    );
    stage.close(worker);
}
