//! A table is cut off beside those who walk in it, in software and in hardware (R2, R7).

use crate::book::{self, Event};
use crate::run::{Scenario, Thread};
use crate::stage::{ALL, PLAIN, READ, Stage, WRITE, unmap};
use crate::tool::{Loom, Shuttle, Tool};
use crate::world::{REGION, Setup};

/// A table is cut off, taken apart and freed while a guest maps a page inside it.
pub const CUT: Scenario = Scenario::new("unlink_walk/cut", cut::<Loom>, cut::<Shuttle>);

/// As [`CUT`], while hardware walks through the table, from the middle of a walk that it has cached.
pub const CUT_WALKED: Scenario = Scenario::new("unlink_walk/cut_walked", cut_walked::<Loom>, cut_walked::<Shuttle>);

/// As both, and the memory behind the table goes to somebody else as soon as the unmapping returns.
pub const CUT_AND_TAKE: Scenario =
    Scenario::new("unlink_walk/cut_and_take", cut_and_take::<Loom>, cut_and_take::<Shuttle>);

/// Two workers cut the same table.
pub const CUT_TWICE: Scenario = Scenario::new("unlink_walk/cut_twice", cut_twice::<Loom>, cut_twice::<Shuttle>);

/// A subtree of two levels is cut off while guests build more of it.
pub const CUT_DEEP: Scenario = Scenario::new("unlink_walk/cut_deep", cut_deep::<Loom>, cut_deep::<Shuttle>);

fn cut<T: Tool>() {
    let (stage, mut worker) = Stage::<T>::with_slot(Setup::PLAIN, REGION, PLAIN);
    let mut guest = stage.guest(0);
    guest.reach(0, READ);
    let mapping = Thread::<T, _>::spawn(move || guest.fault_once(1, WRITE));
    unmap(&mut worker, 0, REGION);
    let _ = worker.reclaim(ALL);
    drop(worker);
    mapping.join();
    let worker = stage.worker();
    stage.tear_down(worker);
}

fn cut_walked<T: Tool>() {
    let (stage, mut worker) = Stage::<T>::with_slot(Setup::PLAIN, REGION, PLAIN);
    let mut guest = stage.guest(0);
    guest.reach(0, READ);
    guest.reach(1, READ);
    let walking = Thread::<T, _>::spawn(move || {
        guest.try_access(2, READ);
        guest.try_access(1, READ);
    });
    unmap(&mut worker, 0, REGION);
    let _ = worker.reclaim(ALL);
    drop(worker);
    walking.join();
    let worker = stage.worker();
    stage.tear_down(worker);
}

fn cut_and_take<T: Tool>() {
    let (stage, mut worker) = Stage::<T>::with_slot(Setup::PLAIN, REGION, PLAIN);
    let (mut one, mut other) = (stage.guest(0), stage.guest(1));
    one.reach(0, READ);
    other.reach(0, READ);
    let mapping = Thread::<T, _>::spawn(move || {
        one.fault_once(1, WRITE);
        one.try_access(0, WRITE);
    });
    let walking = Thread::<T, _>::spawn(move || other.try_access(0, READ));
    stage.world.change_backing(0);
    unmap(&mut worker, 0, REGION);
    stage.world.take_old_memory(0);
    book::note(Event::Note("the old memory is taken"));
    mapping.join();
    walking.join();
    stage.poke(REGION, READ);
    stage.tear_down(worker);
}

fn cut_twice<T: Tool>() {
    let (stage, mut worker) = Stage::<T>::with_slot(Setup::PLAIN, REGION, PLAIN);
    let mut guest = stage.guest(0);
    guest.reach(0, WRITE);
    let mut second = stage.worker();
    let cutting = Thread::<T, _>::spawn(move || {
        unmap(&mut second, 0, REGION);
        let _ = second.reclaim(ALL);
    });
    unmap(&mut worker, 0, REGION);
    let _ = worker.reclaim(ALL);
    cutting.join();
    drop(guest);
    stage.tear_down(worker);
}

fn cut_deep<T: Tool>() {
    let setup = Setup { levels: 3, ..Setup::PLAIN };
    let (stage, mut worker) = Stage::<T>::with_slot(setup, 2 * REGION, PLAIN);
    let mut guest = stage.guest(0);
    guest.reach(0, READ);
    // A table is linked, and a page mapped, inside what is being cut.
    let building = Thread::<T, _>::spawn(move || {
        guest.fault_once(REGION, WRITE);
        guest.fault_once(1, WRITE);
    });
    unmap(&mut worker, 0, 4 * REGION);
    let _ = worker.reclaim(ALL);
    drop(worker);
    building.join();
    let worker = stage.worker();
    stage.tear_down(worker);
}
