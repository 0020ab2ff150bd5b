//! The dirty log beside those who write (R5): nothing is lost.

use slat::vm::Pages;

use crate::run::{Scenario, Thread};
use crate::stage::{LOGGED, READ, Stage, WRITE, harvest, unmap};
use crate::tool::{Loom, Shuttle, Tool};
use crate::world::Setup;

/// A guest gets write permission back and writes, while a harvest runs.
pub const RELAX: Scenario = Scenario::new("fault_harvest/relax", relax::<Loom>, relax::<Shuttle>);

/// A guest writes through what it has cached, and faults again when it may not, while a harvest takes the page.
pub const CACHED: Scenario = Scenario::new("fault_harvest/cached", cached::<Loom>, cached::<Shuttle>);

/// A guest maps a page for writing whose old mark is still there, while a harvest takes the mark.
pub const REMAP: Scenario = Scenario::new("fault_harvest/remap", remap::<Loom>, remap::<Shuttle>);

/// Two guests mark pages under one summary bit, while a harvest clears it.
pub const SUMMARY: Scenario = Scenario::new("fault_harvest/summary", summary::<Loom>, summary::<Shuttle>);

/// Two harvesters and a guest that writes.
pub const TWO_HARVESTERS: Scenario =
    Scenario::new("fault_harvest/two_harvesters", two_harvesters::<Loom>, two_harvesters::<Shuttle>);

const COUNT: u64 = 2;
const BOTH: Pages = Pages { first: 0, count: COUNT };

fn relax<T: Tool>() {
    let (stage, mut worker) = Stage::<T>::with_slot(Setup::PLAIN, COUNT, LOGGED);
    let mut guest = stage.guest(0);
    guest.reach(0, READ);
    let writing = Thread::<T, _>::spawn(move || guest.reach(0, WRITE));
    harvest(&stage.world, &mut worker, BOTH);
    writing.join();
    stage.last_harvest(&mut worker, COUNT);
    drop(worker);
    stage.close();
}

fn cached<T: Tool>() {
    let (stage, mut worker) = Stage::<T>::with_slot(Setup::PLAIN, COUNT, LOGGED);
    let mut guest = stage.guest(0);
    guest.reach(0, WRITE);
    let writing = Thread::<T, _>::spawn(move || {
        guest.reach(0, WRITE);
        guest.reach(0, WRITE);
    });
    harvest(&stage.world, &mut worker, BOTH);
    writing.join();
    stage.last_harvest(&mut worker, COUNT);
    drop(worker);
    stage.close();
}

fn remap<T: Tool>() {
    let (stage, mut worker) = Stage::<T>::with_slot(Setup::PLAIN, COUNT, LOGGED);
    let mut guest = stage.guest(0);
    guest.reach(1, READ);
    guest.reach(0, WRITE);
    unmap(&mut worker, 0, 1);
    let writing = Thread::<T, _>::spawn(move || guest.reach(0, WRITE));
    harvest(&stage.world, &mut worker, BOTH);
    writing.join();
    stage.last_harvest(&mut worker, COUNT);
    drop(worker);
    stage.close();
}

fn summary<T: Tool>() {
    let (stage, mut worker) = Stage::<T>::with_slot(Setup::PLAIN, COUNT, LOGGED);
    let (mut one, mut other) = (stage.guest(0), stage.guest(1));
    one.reach(0, READ);
    other.reach(1, WRITE);
    let first = Thread::<T, _>::spawn(move || one.reach(0, WRITE));
    let second = Thread::<T, _>::spawn(move || other.reach(1, WRITE));
    // Of one page only: what is left of the other has to keep the summary's bit.
    harvest(&stage.world, &mut worker, Pages { first: 0, count: 1 });
    first.join();
    second.join();
    stage.last_harvest(&mut worker, COUNT);
    drop(worker);
    stage.close();
}

fn two_harvesters<T: Tool>() {
    let (stage, mut worker) = Stage::<T>::with_slot(Setup::PLAIN, COUNT, LOGGED);
    let mut guest = stage.guest(0);
    guest.reach(0, WRITE);
    let mut second = stage.worker();
    let world = stage.world.clone();
    let harvesting = Thread::<T, _>::spawn(move || {
        harvest(&world, &mut second, BOTH);
    });
    let writing = Thread::<T, _>::spawn(move || guest.reach(0, WRITE));
    harvest(&stage.world, &mut worker, BOTH);
    harvesting.join();
    writing.join();
    stage.last_harvest(&mut worker, COUNT);
    drop(worker);
    stage.close();
}
