//! Two invalidations, a cut, a collapse and a fault on one region (R2, R4, R7, R8).

use slat::vm::{Budget, Collapse};

use super::collapse_fault::split;
use crate::run::{Scenario, all_three};
use crate::stage::{ModelWorker, READ, WRITE};
use crate::tool::{Loom, Shuttle, Tool};
use crate::world::{REGION, World, pages};

/// One worker takes a page's memory back; another collapses the table around it, then takes the whole region's memory back,
/// which cuts off whatever table is there; a guest writes to a third page.
pub const REGION_UNDER_ALL: Scenario =
    Scenario::new("together/region", region::<Loom>, region::<Shuttle>).with_preemptions(1);

/// One invalidation of pages `first..end`: their memory moves, the old one is taken.
fn invalidate<T: Tool>(world: &World<T>, worker: &mut ModelWorker<T>, first: u64, end: u64) {
    let mut open = worker.invalidate(pages(first, end)).expect("few invalidations");
    while !open.unmap(Budget::UNLIMITED).is_done() {}
    world.change_backing(0);
    world.take_old_pages(first, end);
}

fn region<T: Tool>() {
    let (stage, mut worker) = split::<T>();
    let (mut guest, mut second) = (stage.guest(1), stage.worker());
    let (world, other_world) = (stage.world.clone(), stage.world.clone());
    let (_, _, worker) = all_three::<T, _, _, _>(
        move || guest.fault_once(2, WRITE),
        move || {
            invalidate(&other_world, &mut second, 0, 1);
            crate::stage::reclaim_and_drop(second);
        },
        move || {
            let _ = worker.collapse(pages(0, REGION), Collapse::InPlace, Budget::UNLIMITED);
            invalidate(&world, &mut worker, 0, REGION);
            worker
        },
    );
    stage.world.poke(READ);
    stage.close(worker);
}
