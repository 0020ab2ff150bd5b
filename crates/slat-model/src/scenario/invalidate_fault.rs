//! The host takes memory back beside faults (R4): none publishes what it was told before.

use std::sync::Arc;

use crate::book::{self, Event};
use crate::plant::Plant;
use crate::run::{Scenario, Thread};
use crate::stage::{ALL, ModelWorker, PLAIN, READ, Stage, WRITE, unmap};
use crate::tool::{Loom, Shuttle, Tool};
use crate::world::{REGION, Setup, World, pages};

/// A guarded invalidation of a page that is mapped, beside a fault on it.
pub const GUARD: Scenario = Scenario::new("invalidate_fault/guard", guard::<Loom>, guard::<Shuttle>);

/// As [`GUARD`], beside a fault on a page that is not mapped yet and one who uses what it has cached of the other.
pub const GUESTS: Scenario = Scenario::new("invalidate_fault/guests", guests::<Loom>, guests::<Shuttle>);

/// As [`GUARD`], in a region without a table.
pub const MISSING_TABLE: Scenario =
    Scenario::new("invalidate_fault/missing_table", missing_table::<Loom>, missing_table::<Shuttle>);

/// The one-shot form: the host's tables change, then the page is unmapped.
pub const ONE_SHOT: Scenario = Scenario::new("invalidate_fault/one_shot", one_shot::<Loom>, one_shot::<Shuttle>);

/// Two invalidations that overlap, by two workers, beside a fault.
pub const OVERLAPPING: Scenario =
    Scenario::new("invalidate_fault/overlapping", overlapping::<Loom>, overlapping::<Shuttle>).with_preemptions(1);

/// A fault that asks the host outside of the engine, since the answer would block.
pub const BLOCKING: Scenario = Scenario::new("invalidate_fault/blocking", blocking::<Loom>, blocking::<Shuttle>);

/// A fault in the same region, outside of the invalidation's range: it is not turned away for long.
pub const NEIGHBOUR: Scenario = Scenario::new("invalidate_fault/neighbour", neighbour::<Loom>, neighbour::<Shuttle>);

/// One invalidation of pages `first..end` of region 0: the memory behind the region moves, the old one is taken.
fn invalidate<T: Tool>(world: &Arc<World<T>>, worker: &mut ModelWorker<T>, first: u64, end: u64) {
    let mut open = worker.invalidate(pages(first, end)).expect("few invalidations");
    book::note(Event::Note("an invalidation begins"));
    if Plant::TakenTooEarly.is_planted() {
        world.change_backing(0);
        world.take_old_memory(0);
    }
    while !open.unmap(ALL).is_done() {}
    if Plant::EndsTooEarly.is_planted() {
        drop(open);
        world.change_backing(0);
        world.take_old_memory(0);
        return;
    }
    if !Plant::TakenTooEarly.is_planted() {
        world.change_backing(0);
        world.take_old_memory(0);
    }
    book::note(Event::Note("an invalidation ends"));
    drop(open);
}

fn guard<T: Tool>() {
    let (stage, mut worker) = Stage::<T>::with_slot(Setup::PLAIN, 2, PLAIN);
    let mut guest = stage.guest(0);
    guest.reach(0, WRITE);
    let faulting = Thread::<T, _>::spawn(move || guest.fault_once(0, WRITE));
    invalidate(&stage.world, &mut worker, 0, 2);
    faulting.join();
    stage.poke(2, READ);
    drop(worker);
    stage.close();
}

fn guests<T: Tool>() {
    let (stage, mut worker) = Stage::<T>::with_slot(Setup::PLAIN, 2, PLAIN);
    let (mut one, mut other) = (stage.guest(0), stage.guest(1));
    one.reach(0, WRITE);
    let using = Thread::<T, _>::spawn(move || one.try_access(0, WRITE));
    let faulting = Thread::<T, _>::spawn(move || other.fault_once(1, READ));
    invalidate(&stage.world, &mut worker, 0, 2);
    using.join();
    faulting.join();
    stage.poke(2, READ);
    drop(worker);
    stage.close();
}

fn missing_table<T: Tool>() {
    let (stage, mut worker) = Stage::<T>::with_slot(Setup::PLAIN, 2, PLAIN);
    let mut guest = stage.guest(0);
    let mapping = Thread::<T, _>::spawn(move || guest.fault_once(0, WRITE));
    invalidate(&stage.world, &mut worker, 0, REGION);
    mapping.join();
    stage.poke(2, READ);
    drop(worker);
    stage.close();
}

fn one_shot<T: Tool>() {
    let (stage, mut worker) = Stage::<T>::with_slot(Setup::PLAIN, 2, PLAIN);
    let mut guest = stage.guest(0);
    guest.reach(1, READ);
    let mapping = Thread::<T, _>::spawn(move || guest.fault_once(0, WRITE));
    if !Plant::ChangedTooLate.is_planted() {
        stage.world.change_backing(0);
    }
    unmap(&mut worker, 0, 2);
    if Plant::ChangedTooLate.is_planted() {
        stage.world.change_backing(0);
    }
    stage.world.take_old_memory(0);
    mapping.join();
    stage.poke(2, READ);
    drop(worker);
    stage.close();
}

fn overlapping<T: Tool>() {
    let (stage, mut worker) = Stage::<T>::with_slot(Setup::PLAIN, 2, PLAIN);
    let mut guest = stage.guest(0);
    let mut second = stage.worker();
    // Nothing is mapped: what matters is who is open when.
    let other = Thread::<T, _>::spawn(move || drop(second.invalidate(pages(0, 1)).expect("few invalidations")));
    let mapping = Thread::<T, _>::spawn(move || guest.fault_once(0, WRITE));
    invalidate(&stage.world, &mut worker, 0, 2);
    other.join();
    mapping.join();
    stage.poke(2, READ);
    drop(worker);
    stage.close();
}

fn blocking<T: Tool>() {
    let (stage, mut worker) = Stage::<T>::with_slot(Setup { blocking: true, ..Setup::PLAIN }, 2, PLAIN);
    let mut guest = stage.guest(0);
    guest.reach(1, READ);
    let mapping = Thread::<T, _>::spawn(move || guest.fault_once(0, WRITE));
    invalidate(&stage.world, &mut worker, 0, 2);
    mapping.join();
    stage.poke(2, READ);
    drop(worker);
    stage.close();
}

fn neighbour<T: Tool>() {
    let (stage, mut worker) = Stage::<T>::with_slot(Setup::PLAIN, REGION, PLAIN);
    let mut guest = stage.guest(0);
    guest.reach(0, WRITE);
    let faulting = Thread::<T, _>::spawn(move || guest.reach(3, WRITE));
    let mut open = worker.invalidate(pages(0, 2)).expect("few invalidations");
    while !open.unmap(ALL).is_done() {}
    drop(open);
    faulting.join();
    drop(worker);
    stage.close();
}
