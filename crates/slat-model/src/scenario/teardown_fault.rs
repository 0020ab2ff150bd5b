//! A VM is torn down beside a vCPU that is still inside a fault (R2, R11).

use slat::vm::Outcome;

use crate::book;
use crate::plant::Plant;
use crate::run::{Scenario, Thread};
use crate::stage::{PLAIN, READ, Stage, WRITE, tear_down};
use crate::tool::{Loom, Shuttle, Tool};
use crate::world::{REGION, Setup};

/// Teardown beside a fault that maps a page where a table is.
pub const FAULT: Scenario = Scenario::new("teardown_fault/fault", fault::<Loom>, fault::<Shuttle>);

/// Teardown beside a fault that links a table.
pub const LINK: Scenario = Scenario::new("teardown_fault/link", link::<Loom>, link::<Shuttle>);

/// Teardown beside another worker's unmapping.
pub const UNMAP: Scenario = Scenario::new("teardown_fault/unmap", with_unmap::<Loom>, with_unmap::<Shuttle>);

fn fault<T: Tool>() {
    beside_fault::<T>(0, 1);
}

fn link<T: Tool>() {
    beside_fault::<T>(1, REGION + 1);
}

fn beside_fault<T: Tool>(vcpu: u32, page: u64) {
    let (stage, mut worker) = Stage::<T>::with_slot(Setup::PLAIN, 2 * REGION, PLAIN);
    stage.guest(0).reach(0, READ);
    let mut guest = stage.guest(vcpu);
    let faulting = Thread::<T, _>::spawn(move || {
        if Plant::GuestStillRuns.is_planted() {
            guest.try_access(0, READ);
        }
        guest.fault(page, WRITE)
    });
    tear_down(&mut worker);
    let outcome = faulting.join();
    if !matches!(outcome, Outcome::Mapped { .. } | Outcome::Gone | Outcome::Retry) {
        book::report(format_args!("a fault beside a teardown: {outcome:?}"));
    }
    drop(worker);
    stage.close_after_teardown();
}

fn with_unmap<T: Tool>() {
    let (stage, mut worker) = Stage::<T>::with_slot(Setup::PLAIN, 4, PLAIN);
    let mut guest = stage.guest(0);
    guest.reach(0, READ);
    drop(guest);
    let mut second = stage.worker();
    let unmapping = Thread::<T, _>::spawn(move || {
        let _ = second.unmap(crate::stage::region(0), crate::stage::ALL);
    });
    tear_down(&mut worker);
    unmapping.join();
    // What the other worker had unlinked waits in its record, for whoever comes next.
    tear_down(&mut worker);
    drop(worker);
    stage.close_after_teardown();
}
