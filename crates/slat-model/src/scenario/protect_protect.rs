//! Two protections of one page (R8): who finds nothing to change returns only when the other's change is flushed.

use slat::vm::Pages;

use crate::run::{Scenario, all_three};
use crate::stage::{ALL, LOGGED, PLAIN, SLOT, Stage, WRITE, write_protect};
use crate::tool::{Loom, Shuttle, Tool};
use crate::world::Setup;

/// Two workers write-protect the page that a guest writes to through its TLB.
pub const RANGE: Scenario = Scenario::new("protect_protect/range", range::<Loom>, range::<Shuttle>);

/// One worker write-protects a page, another clears its mark: no write outlives the clearing unreported.
pub const CLEAR: Scenario = Scenario::new("protect_protect/clear", clear::<Loom>, clear::<Shuttle>);

fn range<T: Tool>() {
    let (stage, mut worker) = Stage::<T>::new(Setup::pages(1), PLAIN);
    let (mut guest, mut second) = (stage.guest(0), stage.worker());
    guest.reach(0, WRITE);
    let (world, other_world) = (stage.world.clone(), stage.world.clone());
    let (_, _, worker) = all_three::<T, _, _, _>(
        // Hardware alone: no fault gives the permission back.
        move || {
            guest.try_access(0, WRITE);
            guest.try_access(0, WRITE);
        },
        move || {
            write_protect(&mut second, 0, 1);
            other_world.read_only_begins();
        },
        move || {
            write_protect(&mut worker, 0, 1);
            world.read_only_begins();
            worker
        },
    );
    stage.world.poke(WRITE);
    stage.close(worker);
}

fn clear<T: Tool>() {
    let (stage, mut worker) = Stage::<T>::new(Setup::pages(1), LOGGED);
    let (mut guest, mut second) = (stage.guest(0), stage.worker());
    guest.reach(0, WRITE);
    let world = stage.world.clone();
    let (_, _, mut worker) = all_three::<T, _, _, _>(
        move || guest.try_access(0, WRITE),
        move || write_protect(&mut second, 0, 1),
        move || {
            let page = Pages { first: 0, count: 1 };
            let progress = worker.clear_dirty(SLOT, page, &[1], ALL).expect("a logged slot");
            assert!(progress.is_done(), "an unlimited budget is enough");
            // The mark is gone and the page is copied: a write from now on has to fault first.
            world.copied(page, 1);
            worker
        },
    );
    stage.last_harvest(&mut worker);
    stage.close(worker);
}
