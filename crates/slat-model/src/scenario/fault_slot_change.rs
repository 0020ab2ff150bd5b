//! A slot changes beside a fault (R4, R6): what began before the change publishes nothing after it.

use crate::book::{self, Event};
use crate::oracle::PageSet;
use crate::run::{Scenario, Thread};
use crate::stage::{ALL, LOGGED, PLAIN, READ, READ_ONLY, Stage, WRITE, delete_slot, set_flags};
use crate::tool::{Loom, Shuttle, Tool};
use crate::world::{Setup, pages};

/// A slot is deleted while a guest maps a page of it and writes to another through what it has cached.
pub const DELETE: Scenario = Scenario::new("fault_slot_change/delete", delete::<Loom>, delete::<Shuttle>);

/// The log is turned on while a guest does the same: every later write is in the log.
pub const LOG_ON: Scenario = Scenario::new("fault_slot_change/log_on", log_on::<Loom>, log_on::<Shuttle>);

/// The log is turned on while a fault gives write permission back.
pub const LOG_ON_RELAX: Scenario =
    Scenario::new("fault_slot_change/log_on_relax", log_on_relax::<Loom>, log_on_relax::<Shuttle>);

/// A slot is made read-only while a fault gives write permission back.
pub const READ_ONLY_RELAX: Scenario =
    Scenario::new("fault_slot_change/read_only_relax", read_only_relax::<Loom>, read_only_relax::<Shuttle>);

const COUNT: u64 = 2;

fn delete<T: Tool>() {
    let (stage, mut worker) = Stage::<T>::with_slot(Setup::PLAIN, COUNT, PLAIN);
    let mut guest = stage.guest(0);
    guest.reach(0, WRITE);
    let faulting = Thread::<T, _>::spawn(move || {
        guest.fault_once(1, WRITE);
        guest.try_access(0, WRITE);
    });
    delete_slot(&mut worker);
    stage.world.declare(|oracle| oracle.forbidden = PageSet::range(0, COUNT));
    book::note(Event::Note("the slot is deleted"));
    faulting.join();
    stage.poke(COUNT, READ);
    drop(worker);
    stage.close();
}

fn log_on<T: Tool>() {
    let (stage, mut worker) = Stage::<T>::with_slot(Setup::PLAIN, COUNT, PLAIN);
    let mut guest = stage.guest(0);
    guest.reach(0, WRITE);
    let faulting = Thread::<T, _>::spawn(move || {
        guest.fault_once(1, WRITE);
        guest.try_access(0, WRITE);
    });
    set_flags(&mut worker, LOGGED);
    stage.log_all(COUNT);
    book::note(Event::Note("the log is on"));
    faulting.join();
    stage.last_harvest(&mut worker, COUNT);
    drop(worker);
    stage.close();
}

fn log_on_relax<T: Tool>() {
    let (stage, mut worker) = Stage::<T>::with_slot(Setup::PLAIN, COUNT, PLAIN);
    let mut guest = stage.guest(0);
    guest.reach(0, WRITE);
    assert!(worker.write_protect(pages(0, 1), ALL).expect("a good range").is_done());
    let relaxing = Thread::<T, _>::spawn(move || guest.reach(0, WRITE));
    set_flags(&mut worker, LOGGED);
    stage.log_all(COUNT);
    book::note(Event::Note("the log is on"));
    relaxing.join();
    stage.last_harvest(&mut worker, COUNT);
    drop(worker);
    stage.close();
}

fn read_only_relax<T: Tool>() {
    let (stage, mut worker) = Stage::<T>::with_slot(Setup::PLAIN, COUNT, PLAIN);
    let mut guest = stage.guest(0);
    guest.reach(0, WRITE);
    assert!(worker.write_protect(pages(0, 1), ALL).expect("a good range").is_done());
    let relaxing = Thread::<T, _>::spawn(move || {
        guest.access(0, WRITE);
        guest.access(1, WRITE);
    });
    set_flags(&mut worker, READ_ONLY);
    stage.world.declare(|oracle| oracle.read_only = PageSet::range(0, COUNT));
    book::note(Event::Note("the slot is read-only"));
    relaxing.join();
    stage.poke(COUNT, WRITE);
    drop(worker);
    stage.close();
}
