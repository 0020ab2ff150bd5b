//! The host takes memory back beside faults (R4): none publishes what it was told before.

use slat::addr::{HostAddress, HostRange};

use crate::book::{self, Event};
use crate::plant::Plant;
use crate::run::{Scenario, all_three, both};
use crate::stage::{
    ALL, Guest, ModelWorker, PLAIN, READ, Stage, WRITE, create_slot, delete_slot, reclaim_and_drop, unmap,
};
use crate::tool::{Loom, Shuttle, Tool};
use crate::world::{Kind, REGION, Setup, World, pages};

/// A guarded invalidation of a page that is mapped, beside a fault on it.
pub const GUARD: Scenario = Scenario::new("invalidate_fault/guard", guard::<Loom>, guard::<Shuttle>);

/// As [`GUARD`], beside a fault on a page that is not mapped yet and one who uses what it has cached of the other.
pub const GUESTS: Scenario =
    Scenario::new("invalidate_fault/guests", guests::<Loom>, guests::<Shuttle>).with_preemptions(1);

/// As [`GUARD`], in a region without a table.
pub const MISSING_TABLE: Scenario =
    Scenario::new("invalidate_fault/missing_table", missing_table::<Loom>, missing_table::<Shuttle>);

/// As [`GUARD`], beside a fault that asks the host outside of the engine, since the answer would block.
pub const BLOCKING: Scenario = Scenario::new("invalidate_fault/blocking", blocking::<Loom>, blocking::<Shuttle>);

/// A block is taken back, of which a fault maps another page.
pub const BLOCK: Scenario = Scenario::new("invalidate_fault/block", block::<Loom>, block::<Shuttle>);

/// A write to a page that was read-only is served with a copy, while the original is taken back.
pub const REPLACE: Scenario = Scenario::new("invalidate_fault/replace", replace::<Loom>, replace::<Shuttle>);

/// The one-shot form: the host's tables change, then the page is unmapped.
pub const ONE_SHOT: Scenario = Scenario::new("invalidate_fault/one_shot", one_shot::<Loom>, one_shot::<Shuttle>);

/// Two invalidations that overlap, by two workers, beside a fault; each takes what the other left.
pub const OVERLAPPING: Scenario =
    Scenario::new("invalidate_fault/overlapping", overlapping::<Loom>, overlapping::<Shuttle>).with_preemptions(1);

/// A fault in the same region, outside of the invalidation's range: it is not turned away for long.
pub const NEIGHBOUR: Scenario = Scenario::new("invalidate_fault/neighbour", neighbour::<Loom>, neighbour::<Shuttle>);

/// The memory is taken back by its host address, while a slot that has it behind it appears and a guest faults there.
pub const HOST_NEW_SLOT: Scenario =
    Scenario::new("invalidate_fault/host_new_slot", host_new_slot::<Loom>, host_new_slot::<Shuttle>);

/// As [`GUARD`], by the host address of the memory.
pub const HOST: Scenario = Scenario::new("invalidate_fault/host", host::<Loom>, host::<Shuttle>);

/// One invalidation of pages `first..end` of region 0: the memory behind the region moves, the old one is taken.
fn invalidate<T: Tool>(world: &World<T>, worker: &mut ModelWorker<T>, first: u64, end: u64) {
    let take = || {
        world.change_backing(0);
        world.take_old_memory(0);
        book::note(Event::Note("the old memory is taken"));
    };
    let mut open = worker.invalidate(pages(first, end)).expect("few invalidations");
    book::note(Event::Note("an invalidation begins"));
    if Plant::TakenTooEarly.is_planted() {
        take();
    }
    while !open.unmap(ALL).is_done() {}
    if Plant::EndsTooEarly.is_planted() {
        drop(open);
        return take();
    }
    if !Plant::TakenTooEarly.is_planted() {
        take();
    }
    drop(open);
    book::note(Event::Note("an invalidation has ended"));
}

/// One invalidation of pages `0..end` beside what a guest does; then nobody may reach the old memory.
fn beside_guest<T: Tool>(
    stage: Stage<T>,
    worker: ModelWorker<T>,
    guest: Guest<T>,
    end: u64,
    work: impl FnOnce(&mut Guest<T>) + Send + 'static,
) {
    beside_guest_by(stage, worker, guest, move |world, worker| invalidate(world, worker, 0, end), work);
}

/// As [`beside_guest`], by an invalidation of any kind.
fn beside_guest_by<T: Tool>(
    stage: Stage<T>,
    mut worker: ModelWorker<T>,
    mut guest: Guest<T>,
    invalidate: impl FnOnce(&World<T>, &mut ModelWorker<T>) + Send + 'static,
    work: impl FnOnce(&mut Guest<T>) + Send + 'static,
) {
    let world = stage.world.clone();
    let (_, worker) = both::<T, _, _>(
        move || work(&mut guest),
        move || {
            invalidate(&world, &mut worker);
            worker
        },
    );
    stage.world.poke(READ);
    stage.close(worker);
}

fn guard<T: Tool>() {
    let (stage, worker) = Stage::<T>::new(Setup::pages(2), PLAIN);
    let mut guest = stage.guest(0);
    guest.reach(0, WRITE);
    beside_guest(stage, worker, guest, 2, |guest| guest.fault_once(0, WRITE));
}

/// One invalidation of the memory that the slot has, or is to have: it moves, the old one is taken.
fn invalidate_host<T: Tool>(world: &World<T>, worker: &mut ModelWorker<T>) {
    let memory = HostRange::with_len(HostAddress::new(0), pages(0, world.setup.count).len()).expect("a small range");
    let mut open = worker.invalidate_host(memory).expect("few invalidations");
    while !open.unmap(ALL).is_done() {}
    world.change_backing(0);
    world.take_old_memory(0);
    book::note(Event::Note("the old memory is taken"));
    drop(open);
}

fn host<T: Tool>() {
    let (stage, worker) = Stage::<T>::new(Setup::pages(2), PLAIN);
    let mut guest = stage.guest(0);
    guest.reach(0, WRITE);
    beside_guest_by(stage, worker, guest, invalidate_host, |guest| guest.fault_once(0, WRITE));
}

fn host_new_slot<T: Tool>() {
    let (stage, mut worker) = Stage::<T>::new(Setup::pages(1), PLAIN);
    delete_slot(&mut worker);
    let (mut guest, mut other) = (stage.guest(0), stage.worker());
    let (world, slot) = (stage.world.clone(), stage.slot(PLAIN, 0));
    let (_, worker) = both::<T, _, _>(
        move || {
            create_slot(&mut other, slot);
            guest.fault_once(0, WRITE);
            reclaim_and_drop(other);
        },
        move || {
            invalidate_host(&world, &mut worker);
            worker
        },
    );
    stage.world.poke(READ);
    stage.close(worker);
}

fn missing_table<T: Tool>() {
    let (stage, worker) = Stage::<T>::new(Setup::pages(2), PLAIN);
    let guest = stage.guest(0);
    beside_guest(stage, worker, guest, REGION, |guest| guest.fault_once(0, WRITE));
}

fn blocking<T: Tool>() {
    let (stage, worker) = Stage::<T>::new(Setup::pages(2).backed(Kind::Blocking), PLAIN);
    let mut guest = stage.guest(0);
    guest.reach(1, READ);
    beside_guest(stage, worker, guest, 2, |guest| guest.fault_once(0, WRITE));
}

fn block<T: Tool>() {
    let (stage, worker) = Stage::<T>::new(Setup::block(), PLAIN);
    let mut guest = stage.guest(0);
    guest.reach(0, READ);
    // A part of the block: it goes as a whole, since the worker carries no table.
    beside_guest(stage, worker, guest, 2, |guest| guest.fault_once(3, WRITE));
}

fn replace<T: Tool>() {
    let (stage, worker) = Stage::<T>::new(Setup::pages(1).backed(Kind::CopyOnWrite), PLAIN);
    let mut guest = stage.guest(0);
    guest.reach(0, READ);
    beside_guest(stage, worker, guest, 1, |guest| guest.fault_once(0, WRITE));
}

fn guests<T: Tool>() {
    let (stage, mut worker) = Stage::<T>::new(Setup::pages(2), PLAIN);
    let (mut one, mut other) = (stage.guest(0), stage.guest(1));
    one.reach(0, WRITE);
    let world = stage.world.clone();
    let (_, _, worker) = all_three::<T, _, _, _>(
        move || one.try_access(0, WRITE),
        move || other.fault_once(1, READ),
        move || {
            invalidate(&world, &mut worker, 0, 2);
            worker
        },
    );
    stage.world.poke(READ);
    stage.close(worker);
}

fn one_shot<T: Tool>() {
    let (stage, mut worker) = Stage::<T>::new(Setup::pages(2), PLAIN);
    let mut guest = stage.guest(0);
    guest.reach(1, READ);
    let world = stage.world.clone();
    let (_, worker) = both::<T, _, _>(
        move || guest.fault_once(0, WRITE),
        move || {
            if !Plant::ChangedTooLate.is_planted() {
                world.change_backing(0);
            }
            unmap(&mut worker, 0, 2);
            if Plant::ChangedTooLate.is_planted() {
                world.change_backing(0);
            }
            world.take_old_memory(0);
            worker
        },
    );
    stage.world.poke(READ);
    stage.close(worker);
}

fn overlapping<T: Tool>() {
    let (stage, mut worker) = Stage::<T>::new(Setup::pages(2), PLAIN);
    let (mut guest, mut second) = (stage.guest(0), stage.worker());
    let (world, other_world) = (stage.world.clone(), stage.world.clone());
    // Nothing is mapped: what matters is who is open when.
    let (_, _, worker) = all_three::<T, _, _, _>(
        move || guest.fault_once(0, WRITE),
        move || invalidate(&other_world, &mut second, 0, 1),
        move || {
            invalidate(&world, &mut worker, 0, 2);
            worker
        },
    );
    stage.world.poke(READ);
    stage.close(worker);
}

fn neighbour<T: Tool>() {
    let (stage, mut worker) = Stage::<T>::new(Setup::pages(REGION), PLAIN);
    let mut guest = stage.guest(0);
    guest.reach(0, WRITE);
    let (_, worker) = both::<T, _, _>(
        move || guest.reach(3, WRITE),
        move || {
            let mut open = worker.invalidate(pages(0, 2)).expect("few invalidations");
            while !open.unmap(ALL).is_done() {}
            drop(open);
            worker
        },
    );
    stage.close(worker);
}
