//! Two faults at once (R10, R12): one of them maps, and nothing is leaked.

use slat::vm::Outcome;

use crate::book;
use crate::run::{Scenario, both};
use crate::stage::{PLAIN, READ, Stage, WRITE};
use crate::tool::{Loom, Shuttle, Tool};
use crate::world::{Kind, Setup};

/// Two faults on one page whose table is there: one entry, mapped once.
pub const ONE_ENTRY: Scenario = Scenario::new("fault_fault/one_entry", one_entry::<Loom>, one_entry::<Shuttle>);

/// Two faults that need the same missing table: one is linked, the loser keeps its own.
pub const MISSING_TABLE: Scenario =
    Scenario::new("fault_fault/missing_table", missing_table::<Loom>, missing_table::<Shuttle>);

/// Two faults that need the same two missing tables, one under the other.
pub const MISSING_TABLES: Scenario =
    Scenario::new("fault_fault/missing_tables", missing_tables::<Loom>, missing_tables::<Shuttle>);

/// A write to a page that the host gave read-only is served with other memory (break-before-make), while another guest
/// reads the page, through its TLB and anew.
pub const REPLACE: Scenario = Scenario::new("fault_fault/replace", replace::<Loom>, replace::<Shuttle>);

fn one_entry<T: Tool>() {
    let (stage, worker) = Stage::<T>::new(Setup::pages(4), PLAIN);
    let (mut one, mut other) = (stage.guest(0), stage.guest(1));
    one.reach(0, READ);
    let outcomes = both::<T, _, _>(
        move || {
            let outcome = one.fault(1, READ);
            one.reach(1, READ);
            outcome
        },
        move || {
            let outcome = other.fault(1, WRITE);
            other.reach(1, WRITE);
            outcome
        },
    );
    match outcomes {
        (Outcome::Mapped { .. }, Outcome::Spurious | Outcome::Retry) => {}
        (Outcome::Spurious | Outcome::Retry, Outcome::Mapped { .. }) => {}
        _ => book::report(format_args!("S1: two faults on one page: {outcomes:?}")),
    }
    assert_eq!(stage.vm.statistics().leaves[..2], [2, 0], "one leaf a page");
    stage.close(worker);
}

fn missing_table<T: Tool>() {
    missing::<T>(Setup::pages(4));
}

fn missing_tables<T: Tool>() {
    missing::<T>(Setup { levels: 3, ..Setup::pages(4) });
}

fn missing<T: Tool>(setup: Setup) {
    let (stage, worker) = Stage::<T>::new(setup, PLAIN);
    let (mut one, mut other) = (stage.guest_without_tables(0), stage.guest_without_tables(1));
    both::<T, _, _>(move || one.reach(0, WRITE), move || other.reach(1, WRITE));
    let statistics = stage.vm.statistics();
    let left = (statistics.leaves[0], statistics.tables);
    if left != (2, u64::from(setup.levels)) {
        book::report(format_args!("M3: leaves and tables of two faults: {left:?}"));
    }
    stage.close(worker);
}

fn replace<T: Tool>() {
    let (stage, worker) = Stage::<T>::new(Setup::pages(1).backed(Kind::CopyOnWrite), PLAIN);
    let (mut one, mut other) = (stage.guest(0), stage.guest(1));
    one.reach(0, READ);
    other.reach(0, READ);
    let world = stage.world.clone();
    both::<T, _, _>(
        move || {
            one.reach(0, WRITE);
            // The guest goes on with the copy: who still reads the old memory misses the write.
            world.declare(|oracle| oracle.taken(world.setup.slot(), 1));
            book::note(book::Event::Note("the page is copied"));
        },
        move || {
            other.try_access(0, READ);
            other.fault_once(0, READ);
        },
    );
    stage.world.poke(READ);
    stage.close(worker);
}
