//! Grace periods (R2): what was replaced or unlinked is freed when nobody can see it any more, and not before.

use slat::host::SlotId;
use slat::vm::NewSlot;

use crate::run::{Scenario, Thread};
use crate::stage::{ALL, LOGGED, PLAIN, READ, Stage, WRITE, set_flags, slot, unmap};
use crate::tool::{Loom, Shuttle, Tool};
use crate::world::{REGION, Setup, pages};

/// Slots are replaced, and the log of one is freed, while a fault marks it.
pub const SNAPSHOT: Scenario = Scenario::new("reclaim/snapshot", snapshot::<Loom>, snapshot::<Shuttle>);

/// A table is freed while another worker walks in it.
pub const TABLE: Scenario = Scenario::new("reclaim/table", table::<Loom>, table::<Shuttle>);

/// Two workers free tables of their own at once, beside a fault: both move the epoch.
pub const TWO_RECLAIMERS: Scenario =
    Scenario::new("reclaim/two_reclaimers", two_reclaimers::<Loom>, two_reclaimers::<Shuttle>).with_preemptions(1);

fn snapshot<T: Tool>() {
    let (stage, mut worker) = Stage::<T>::with_slot(Setup::PLAIN, 1, LOGGED);
    let mut guest = stage.guest(0);
    guest.reach(0, READ);
    let marking = Thread::<T, _>::spawn(move || guest.reach(0, WRITE));
    set_flags(&mut worker, PLAIN);
    // Whoever changes slots next frees what was replaced before, if its grace period is over.
    let second = NewSlot { range: pages(2, 3), ..slot(1, PLAIN) };
    worker.create_slot(SlotId(1), second).expect("a free place");
    marking.join();
    drop(worker);
    stage.close();
}

fn table<T: Tool>() {
    let (stage, mut worker) = Stage::<T>::with_slot(Setup::PLAIN, REGION, PLAIN);
    let mut guest = stage.guest(0);
    guest.reach(0, WRITE);
    drop(guest);
    let mut second = stage.worker();
    let walking = Thread::<T, _>::spawn(move || {
        assert!(second.write_protect(pages(0, 2), ALL).expect("a good range").is_done());
    });
    unmap(&mut worker, 0, REGION);
    let _ = worker.reclaim(ALL);
    drop(worker);
    walking.join();
    let worker = stage.worker();
    stage.tear_down(worker);
}

fn two_reclaimers<T: Tool>() {
    let (stage, mut worker) = Stage::<T>::with_slot(Setup::PLAIN, 2 * REGION, PLAIN);
    let mut guest = stage.guest(0);
    guest.reach(0, WRITE);
    guest.reach(REGION, WRITE);
    let mut second = stage.worker();
    unmap(&mut second, REGION, 2 * REGION);
    let reclaiming = Thread::<T, _>::spawn(move || {
        let _ = second.reclaim(ALL);
    });
    let mapping = Thread::<T, _>::spawn(move || guest.fault_once(1, READ));
    unmap(&mut worker, 0, REGION);
    let _ = worker.reclaim(ALL);
    drop(worker);
    reclaiming.join();
    mapping.join();
    let worker = stage.worker();
    stage.tear_down(worker);
}
