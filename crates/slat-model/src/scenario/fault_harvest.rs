//! The dirty log beside those who write (R5): nothing is lost.

use slat::vm::Pages;

use crate::run::{Scenario, all_three, both};
use crate::stage::{Guest, LOGGED, ModelWorker, READ, Stage, WRITE, harvest, unmap};
use crate::tool::{Loom, Shuttle, Tool};
use crate::world::Setup;

/// A guest gets write permission back and writes, while a harvest runs.
pub const RELAX: Scenario = Scenario::new("fault_harvest/relax", relax::<Loom>, relax::<Shuttle>);

/// A guest writes through what it has cached, and faults again when it may not, while a harvest takes the page.
pub const CACHED: Scenario = Scenario::new("fault_harvest/cached", cached::<Loom>, cached::<Shuttle>);

/// A guest maps a page for writing whose old mark is still there, while a harvest takes the mark.
pub const REMAP: Scenario = Scenario::new("fault_harvest/remap", remap::<Loom>, remap::<Shuttle>);

/// A guest marks a page under a summary bit that another word's mark has set, while a harvest clears it.
pub const SUMMARY: Scenario = Scenario::new("fault_harvest/summary", summary::<Loom>, summary::<Shuttle>);

/// Two harvesters and a guest that writes.
pub const TWO_HARVESTERS: Scenario =
    Scenario::new("fault_harvest/two_harvesters", two_harvesters::<Loom>, two_harvesters::<Shuttle>)
        .with_preemptions(1);

/// One harvester takes a part of the marks beside another that takes all: if that one says that it is complete, nothing
/// is left (every vCPU is out of its faults).
pub const COMPLETE: Scenario = Scenario::new("fault_harvest/complete", complete::<Loom>, complete::<Shuttle>);

const COUNT: u64 = 2;

/// One harvest of everything beside what a guest does, then the last ones.
fn beside_harvest<T: Tool>(
    stage: Stage<T>,
    mut worker: ModelWorker<T>,
    mut guest: Guest<T>,
    work: impl FnOnce(&mut Guest<T>) + Send + 'static,
) {
    let world = stage.world.clone();
    let (_, mut worker) = both::<T, _, _>(
        move || work(&mut guest),
        move || {
            harvest(&world, &mut worker, world.all_pages());
            worker
        },
    );
    stage.last_harvest(&mut worker);
    stage.close(worker);
}

fn relax<T: Tool>() {
    let (stage, worker) = Stage::<T>::new(Setup::pages(COUNT), LOGGED);
    let mut guest = stage.guest(0);
    guest.reach(0, READ);
    beside_harvest(stage, worker, guest, |guest| guest.reach(0, WRITE));
}

fn cached<T: Tool>() {
    let (stage, worker) = Stage::<T>::new(Setup::pages(COUNT), LOGGED);
    let mut guest = stage.guest(0);
    guest.reach(0, WRITE);
    beside_harvest(stage, worker, guest, |guest| {
        guest.reach(0, WRITE);
        guest.reach(0, WRITE);
    });
}

fn remap<T: Tool>() {
    let (stage, mut worker) = Stage::<T>::new(Setup::pages(COUNT), LOGGED);
    let mut guest = stage.guest(0);
    guest.reach(1, READ);
    guest.reach(0, WRITE);
    unmap(&mut worker, 0, 1);
    beside_harvest(stage, worker, guest, |guest| guest.reach(0, WRITE));
}

fn summary<T: Tool>() {
    // Two pages whose marks lie in two words of one region.
    let setup = Setup { levels: 4, first: 63, ..Setup::pages(COUNT) };
    let (stage, worker) = Stage::<T>::new(setup, LOGGED);
    let mut guest = stage.guest(0);
    guest.reach(63, READ);
    guest.top_up(3);
    guest.reach(64, WRITE);
    beside_harvest(stage, worker, guest, |guest| guest.reach(63, WRITE));
}

fn two_harvesters<T: Tool>() {
    let (stage, mut worker) = Stage::<T>::new(Setup::pages(COUNT), LOGGED);
    let (mut guest, mut second) = (stage.guest(0), stage.worker());
    guest.reach(0, WRITE);
    let (world, other_world) = (stage.world.clone(), stage.world.clone());
    let (_, _, mut worker) = all_three::<T, _, _, _>(
        move || guest.fault_once(0, WRITE),
        move || harvest(&other_world, &mut second, other_world.all_pages()),
        move || {
            harvest(&world, &mut worker, world.all_pages());
            worker
        },
    );
    stage.last_harvest(&mut worker);
    stage.close(worker);
}

fn complete<T: Tool>() {
    let (stage, mut worker) = Stage::<T>::new(Setup::pages(COUNT), LOGGED);
    let (mut guest, mut second) = (stage.guest(0), stage.worker());
    guest.reach(0, WRITE);
    guest.reach(1, WRITE);
    drop(guest);
    let (world, other_world) = (stage.world.clone(), stage.world.clone());
    let (_, (complete, worker)) = both::<T, _, _>(
        move || harvest(&other_world, &mut second, Pages { first: 0, count: 1 }),
        move || (harvest(&world, &mut worker, world.all_pages()), worker),
    );
    if complete {
        stage.world.check_reported();
    }
    stage.close(worker);
}
