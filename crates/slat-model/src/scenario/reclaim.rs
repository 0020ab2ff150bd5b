//! Grace periods (R2): what was replaced or unlinked is freed when nobody can see it any more, and not before.

use slat::host::SlotId;
use slat::vm::{NewSlot, Pages};

use crate::run::{Scenario, all_three, both};
use crate::stage::{ALL, LOGGED, PLAIN, READ, SLOT, Stage, WRITE, reclaim_and_drop, set_flags, unmap, write_protect};
use crate::tool::{Loom, Shuttle, Tool};
use crate::world::{REGION, Setup, pages};

/// Slots are replaced, and the log of one is freed, while a fault marks it.
pub const SNAPSHOT: Scenario = Scenario::new("reclaim/snapshot", snapshot::<Loom>, snapshot::<Shuttle>);

/// The log of a slot is turned off and freed while a harvest works with it.
pub const LOG: Scenario = Scenario::new("reclaim/log", log::<Loom>, log::<Shuttle>);

/// A table is freed while another worker walks in it.
pub const TABLE: Scenario = Scenario::new("reclaim/table", table::<Loom>, table::<Shuttle>);

/// Two workers free tables of their own at once, beside a fault: both move the epoch.
pub const TWO_RECLAIMERS: Scenario =
    Scenario::new("reclaim/two_reclaimers", two_reclaimers::<Loom>, two_reclaimers::<Shuttle>).with_preemptions(0);

/// A vCPU joins, in the last place that there is, beside a worker that reclaims what workers before it have left.
pub const JOIN: Scenario = Scenario::new("reclaim/join", join::<Loom>, join::<Shuttle>);

fn join<T: Tool>() {
    let (stage, mut worker) = Stage::<T>::new(Setup::pages(REGION), PLAIN);
    let mut guest = stage.guest(0);
    guest.reach(0, READ);
    let mut other = stage.worker();
    unmap(&mut other, 0, REGION);
    drop(other);
    let other = stage.worker();
    let (stage, worker) = both::<T, _, _>(
        move || {
            drop(stage.guest(1));
            stage
        },
        move || {
            let _ = worker.reclaim(ALL);
            worker
        },
    );
    drop((guest, other));
    stage.tear_down(worker);
}

fn snapshot<T: Tool>() {
    let (stage, mut worker) = Stage::<T>::new(Setup::pages(1), LOGGED);
    let mut guest = stage.guest(0);
    guest.reach(0, READ);
    let second = NewSlot { range: pages(2, 3), ..stage.slot(PLAIN, 0) };
    let (_, worker) = both::<T, _, _>(
        move || guest.fault_once(0, WRITE),
        move || {
            set_flags(&mut worker, PLAIN);
            // Whoever changes slots next frees what was replaced before, if its grace period is over.
            worker.create_slot(SlotId(1), second).expect("a free place");
            worker
        },
    );
    stage.close(worker);
}

fn log<T: Tool>() {
    let (stage, mut worker) = Stage::<T>::new(Setup::pages(1), LOGGED);
    let mut guest = stage.guest(0);
    guest.reach(0, WRITE);
    drop(guest);
    let mut second = stage.worker();
    let new = NewSlot { range: pages(2, 3), ..stage.slot(PLAIN, 0) };
    let (_, worker) = both::<T, _, _>(
        move || {
            // The slot may be logged or not by the time that this comes.
            let _ = second.harvest(SLOT, Pages { first: 0, count: 1 }, &mut [0], ALL);
        },
        move || {
            set_flags(&mut worker, PLAIN);
            worker.create_slot(SlotId(1), new).expect("a free place");
            worker
        },
    );
    stage.close(worker);
}

fn table<T: Tool>() {
    let (stage, mut worker) = Stage::<T>::new(Setup::pages(REGION), PLAIN);
    let mut guest = stage.guest(0);
    guest.reach(0, WRITE);
    drop(guest);
    let mut second = stage.worker();
    both::<T, _, _>(
        move || write_protect(&mut second, 0, 2),
        move || {
            unmap(&mut worker, 0, REGION);
            reclaim_and_drop(worker);
        },
    );
    let worker = stage.worker();
    stage.tear_down(worker);
}

fn two_reclaimers<T: Tool>() {
    let (stage, mut worker) = Stage::<T>::new(Setup::pages(2 * REGION), PLAIN);
    let mut guest = stage.guest(0);
    guest.reach(0, WRITE);
    guest.top_up(1);
    guest.reach(REGION, WRITE);
    let mut second = stage.worker();
    unmap(&mut second, REGION, 2 * REGION);
    all_three::<T, _, _, _>(
        move || {
            let _ = guest.fault(1, READ);
        },
        move || reclaim_and_drop(second),
        move || {
            unmap(&mut worker, 0, REGION);
            reclaim_and_drop(worker);
        },
    );
    let worker = stage.worker();
    stage.tear_down(worker);
}
