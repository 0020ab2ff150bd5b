//! Two faults at once.

use slat::vm::Outcome;

use crate::book;
use crate::run::{Scenario, Thread};
use crate::stage::{PLAIN, READ, Stage, WRITE};
use crate::tool::{Loom, Shuttle, Tool};
use crate::world::Setup;

/// Two faults on one page whose table is there: one entry, mapped once.
pub const ONE_ENTRY: Scenario = Scenario::new("fault_fault_one_entry", one_entry::<Loom>, one_entry::<Shuttle>);

/// Two faults that need the same missing table: one is linked, the loser keeps its own.
pub const MISSING_TABLE: Scenario =
    Scenario::new("fault_fault_missing_table", missing_table::<Loom>, missing_table::<Shuttle>);

fn one_entry<T: Tool>() {
    let (stage, worker) = Stage::<T>::with_slot(Setup::PLAIN, 4, PLAIN);
    let (mut one, mut other) = (stage.guest(0), stage.guest(1));
    one.reach(0, READ);
    let thread = Thread::<T, _>::spawn(move || {
        let outcome = one.fault(1, READ);
        one.reach(1, READ);
        outcome
    });
    let outcome = other.fault(1, WRITE);
    other.reach(1, WRITE);
    let outcomes = [outcome, thread.join()];
    let mapped = outcomes.iter().filter(|outcome| matches!(outcome, Outcome::Mapped { .. })).count();
    let others = outcomes.iter().filter(|outcome| matches!(outcome, Outcome::Spurious | Outcome::Retry)).count();
    if (mapped, others) != (1, 1) {
        book::report(format_args!("S1: two faults on one page: {outcomes:?}"));
    }
    drop(other);
    let leaves = stage.vm.statistics().leaves;
    assert_eq!(leaves[..2], [2, 0], "one leaf a page");
    drop(worker);
    stage.close();
}

fn missing_table<T: Tool>() {
    let (stage, worker) = Stage::<T>::with_slot(Setup::PLAIN, 4, PLAIN);
    let (mut one, mut other) = (stage.guest(0), stage.guest(1));
    let thread = Thread::<T, _>::spawn(move || one.reach(0, WRITE));
    other.reach(1, WRITE);
    thread.join();
    drop((other, worker));
    let statistics = stage.vm.statistics();
    assert_eq!(statistics.leaves[..2], [2, 0]);
    assert_eq!(statistics.tables, 2, "M3: the root and one table; the loser's went back with its handle");
    stage.close();
}
