//! A table is cut off beside those who walk in it, in software and in hardware (R2, R7).

use slat::vm::Budget;

use crate::book::{self, Event};
use crate::run::{Scenario, all_three, both};
use crate::stage::{Guest, ModelWorker, PLAIN, READ, Stage, WRITE, reclaim_and_drop, unmap};
use crate::tool::{Loom, Shuttle, Tool};
use crate::world::{REGION, Setup, pages};

/// A table is cut off, taken apart and freed while a guest maps a page inside it.
pub const CUT: Scenario = Scenario::new("unlink_walk/cut", cut::<Loom>, cut::<Shuttle>);

/// As [`CUT`], while hardware walks through the table, from the middle of a walk that it has cached.
pub const CUT_WALKED: Scenario = Scenario::new("unlink_walk/cut_walked", cut_walked::<Loom>, cut_walked::<Shuttle>);

/// As both, and the memory behind the table goes to somebody else as soon as the unmapping returns.
pub const CUT_AND_TAKE: Scenario =
    Scenario::new("unlink_walk/cut_and_take", cut_and_take::<Loom>, cut_and_take::<Shuttle>);

/// As [`CUT`]; the guest's vCPU faults twice between leaving its guest and entering it again.
pub const CUT_OUTSIDE: Scenario = Scenario::new("unlink_walk/cut_outside", cut_outside::<Loom>, cut_outside::<Shuttle>);

/// Two workers cut the same table, one of them an entry at a time.
pub const CUT_TWICE: Scenario =
    Scenario::new("unlink_walk/cut_twice", cut_twice::<Loom>, cut_twice::<Shuttle>).with_preemptions(1);

/// A subtree of two levels is cut off while a guest builds more of it.
pub const CUT_DEEP: Scenario = Scenario::new("unlink_walk/cut_deep", cut_deep::<Loom>, cut_deep::<Shuttle>);

/// Two workers unmap ranges that overlap, and lock leaves of both: neither waits for the other for ever.
pub const OVERLAPPING: Scenario = Scenario::new("unlink_walk/overlapping", overlapping::<Loom>, overlapping::<Shuttle>);

/// A worker cuts off and frees the tables of `regions` beside what a guest does, and is gone.
fn beside_cut<T: Tool>(
    stage: Stage<T>,
    mut worker: ModelWorker<T>,
    mut guest: Guest<T>,
    regions: u64,
    work: impl FnOnce(&mut Guest<T>) + Send + 'static,
) {
    both::<T, _, _>(
        move || work(&mut guest),
        move || {
            unmap(&mut worker, 0, regions * REGION);
            reclaim_and_drop(worker);
        },
    );
    let worker = stage.worker();
    stage.tear_down(worker);
}

fn cut<T: Tool>() {
    let (stage, worker) = Stage::<T>::new(Setup::pages(REGION), PLAIN);
    let mut guest = stage.guest(0);
    guest.reach(0, READ);
    beside_cut(stage, worker, guest, 1, |guest| guest.fault_once(1, WRITE));
}

fn cut_outside<T: Tool>() {
    let (stage, worker) = Stage::<T>::new(Setup::pages(REGION), PLAIN);
    let mut guest = stage.guest(0);
    guest.reach(0, READ);
    beside_cut(stage, worker, guest, 1, |guest| {
        guest.faults_outside(&[1, 2], WRITE);
        guest.try_access(1, WRITE);
    });
}

fn cut_walked<T: Tool>() {
    let (stage, worker) = Stage::<T>::new(Setup::pages(REGION), PLAIN);
    let mut guest = stage.guest(0);
    guest.reach(0, READ);
    guest.reach(1, READ);
    beside_cut(stage, worker, guest, 1, |guest| {
        guest.try_access(2, READ);
        guest.try_access(1, READ);
    });
}

fn cut_deep<T: Tool>() {
    let (stage, worker) = Stage::<T>::new(Setup { levels: 3, ..Setup::pages(2 * REGION) }, PLAIN);
    let mut guest = stage.guest(0);
    guest.reach(0, READ);
    guest.top_up(2);
    // A table is linked, and a page mapped, inside what is being cut.
    beside_cut(stage, worker, guest, 4, |guest| {
        guest.fault_once(REGION, WRITE);
        guest.fault_once(1, WRITE);
    });
}

fn cut_and_take<T: Tool>() {
    let (stage, mut worker) = Stage::<T>::new(Setup::pages(REGION), PLAIN);
    let (mut one, mut other) = (stage.guest(0), stage.guest(1));
    one.reach(0, READ);
    other.reach(0, READ);
    let world = stage.world.clone();
    let (_, _, worker) = all_three::<T, _, _, _>(
        move || {
            one.fault_once(1, WRITE);
            one.try_access(0, WRITE);
        },
        move || other.try_access(0, READ),
        move || {
            world.change_backing(0);
            unmap(&mut worker, 0, REGION);
            world.take_old_memory(0);
            book::note(Event::Note("the old memory is taken"));
            worker
        },
    );
    stage.world.poke(READ);
    stage.tear_down(worker);
}

fn cut_twice<T: Tool>() {
    let (stage, mut worker) = Stage::<T>::new(Setup::pages(REGION), PLAIN);
    let mut guest = stage.guest(0);
    guest.reach(0, WRITE);
    guest.reach(1, WRITE);
    drop(guest);
    let mut second = stage.worker();
    both::<T, _, _>(
        move || {
            let mut next = Some(pages(0, 3));
            while let Some(range) = next {
                let progress = second.unmap(range, Budget::entries(1)).expect("a good range");
                next = progress.next.map(|at| range.from(at));
            }
            reclaim_and_drop(second);
        },
        move || {
            unmap(&mut worker, 0, REGION);
            reclaim_and_drop(worker);
        },
    );
    let worker = stage.worker();
    stage.tear_down(worker);
}

fn overlapping<T: Tool>() {
    let (stage, mut worker) = Stage::<T>::new(Setup::pages(2 * REGION), PLAIN);
    let mut guest = stage.guest(0);
    for page in [2, 3, REGION] {
        guest.top_up(1);
        guest.reach(page, WRITE);
    }
    let mut second = stage.worker();
    let (_, worker) = both::<T, _, _>(
        move || unmap(&mut second, 3, REGION + 2),
        move || {
            unmap(&mut worker, 2, REGION + 1);
            worker
        },
    );
    drop(guest);
    stage.tear_down(worker);
}
