//! A VM is torn down beside those who are still inside the engine (R2, R11).

use slat::vm::Outcome;

use crate::book;
use crate::plant::Plant;
use crate::run::{Scenario, both};
use crate::stage::{ALL, PLAIN, READ, Stage, WRITE, tear_down};
use crate::tool::{Loom, Shuttle, Tool};
use crate::world::{REGION, Setup, pages};

/// Teardown beside a fault that maps a page where a table is.
pub const FAULT: Scenario = Scenario::new("teardown_fault/fault", fault::<Loom>, fault::<Shuttle>);

/// Teardown beside a fault that links a table.
pub const LINK: Scenario = Scenario::new("teardown_fault/link", link::<Loom>, link::<Shuttle>);

/// Teardown beside another worker's unmapping.
pub const UNMAP: Scenario = Scenario::new("teardown_fault/unmap", with_unmap::<Loom>, with_unmap::<Shuttle>);

/// Two workers tear the VM down.
pub const TWICE: Scenario = Scenario::new("teardown_fault/twice", twice::<Loom>, twice::<Shuttle>);

fn fault<T: Tool>() {
    beside_fault::<T>(0, 1);
}

fn link<T: Tool>() {
    beside_fault::<T>(1, REGION + 1);
}

fn beside_fault<T: Tool>(vcpu: u32, page: u64) {
    let (stage, mut worker) = Stage::<T>::new(Setup::pages(2 * REGION), PLAIN);
    stage.guest(0).reach(0, READ);
    let mut guest = stage.guest(vcpu);
    let (outcome, worker) = both::<T, _, _>(
        move || {
            if Plant::GuestStillRuns.is_planted() {
                guest.try_access(0, READ);
            }
            guest.fault(page, WRITE)
        },
        move || {
            tear_down(&mut worker);
            worker
        },
    );
    if !matches!(outcome, Outcome::Mapped { .. } | Outcome::Gone | Outcome::Retry) {
        book::report(format_args!("a fault beside a teardown: {outcome:?}"));
    }
    stage.tear_down(worker);
}

fn twice<T: Tool>() {
    let (stage, mut worker) = Stage::<T>::new(Setup::pages(REGION), PLAIN);
    stage.guest(0).reach(0, READ);
    let mut second = stage.worker();
    let (_, worker) = both::<T, _, _>(
        move || tear_down(&mut second),
        move || {
            tear_down(&mut worker);
            worker
        },
    );
    stage.tear_down(worker);
}

fn with_unmap<T: Tool>() {
    let (stage, mut worker) = Stage::<T>::new(Setup::pages(REGION), PLAIN);
    let mut guest = stage.guest(0);
    guest.reach(0, READ);
    drop(guest);
    let mut second = stage.worker();
    let (_, worker) = both::<T, _, _>(
        move || {
            // Whatever comes of it: the tree may be gone.
            let _ = second.unmap(pages(0, REGION), ALL);
        },
        move || {
            tear_down(&mut worker);
            worker
        },
    );
    stage.tear_down(worker);
}
