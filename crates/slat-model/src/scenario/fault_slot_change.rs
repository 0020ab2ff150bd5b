//! A slot changes beside a fault (R4, R6): what began before the change publishes nothing after it.

use crate::run::{Scenario, all_three, both};
use crate::stage::{
    LOGGED, MARKED, ModelWorker, PLAIN, READ, READ_ONLY, SLOT, Stage, WRITE, delete_slot, harvest, move_slot_to,
    set_flags, write_protect,
};
use crate::tool::{Loom, Shuttle, Tool};
use crate::world::Setup;

/// A slot is deleted while a guest maps a page of it and writes to another through what it has cached.
pub const DELETE: Scenario = Scenario::new("fault_slot_change/delete", delete::<Loom>, delete::<Shuttle>);

/// A slot is deleted and made anew with other memory, while a guest maps a page of it.
pub const MOVE: Scenario =
    Scenario::new("fault_slot_change/move", move_slot::<Loom>, move_slot::<Shuttle>).with_preemptions(1);

/// The slot moves to other addresses beside a fault at the old ones, where nothing may be left.
pub const MOVE_AWAY: Scenario =
    Scenario::new("fault_slot_change/move_away", move_away::<Loom>, move_away::<Shuttle>).with_preemptions(1);

/// The log is turned on while a guest maps a page and writes to another through what it has cached: every later write
/// is in the log.
pub const LOG_ON: Scenario = Scenario::new("fault_slot_change/log_on", log_on::<Loom>, log_on::<Shuttle>);

/// As [`LOG_ON`], all pages marked from the start: nothing is protected before a harvest takes the marks.
pub const LOG_ON_MARKED: Scenario =
    Scenario::new("fault_slot_change/log_on_marked", log_on_marked::<Loom>, log_on_marked::<Shuttle>);

/// The log is turned on while a fault gives write permission back.
pub const LOG_ON_RELAX: Scenario =
    Scenario::new("fault_slot_change/log_on_relax", log_on_relax::<Loom>, log_on_relax::<Shuttle>);

/// As [`LOG_ON_RELAX`], for a block: no block is writable under the log without marks for all of it.
pub const LOG_ON_RELAX_BLOCK: Scenario =
    Scenario::new("fault_slot_change/log_on_relax_block", log_on_relax_block::<Loom>, log_on_relax_block::<Shuttle>);

/// Two workers turn the log on: it is on for either when it returns.
pub const LOG_ON_TWICE: Scenario =
    Scenario::new("fault_slot_change/log_on_twice", log_on_twice::<Loom>, log_on_twice::<Shuttle>).with_preemptions(1);

/// Two workers delete the slot: it is gone for either when it returns.
pub const DELETE_TWICE: Scenario =
    Scenario::new("fault_slot_change/delete_twice", delete_twice::<Loom>, delete_twice::<Shuttle>).with_preemptions(1);

/// The log is turned off and on again while a fault gives write permission back: it marks the log that counts.
pub const LOG_AGAIN: Scenario = Scenario::new("fault_slot_change/log_again", log_again::<Loom>, log_again::<Shuttle>);

/// A slot is made read-only while a fault gives write permission back, and another maps a page.
pub const READ_ONLY_RELAX: Scenario =
    Scenario::new("fault_slot_change/read_only_relax", read_only_relax::<Loom>, read_only_relax::<Shuttle>);

const COUNT: u64 = 2;

/// A guest that has page 0 in its TLB maps page 1, and uses both, while `change` is made.
fn beside_mapping<T: Tool>(
    change: impl FnOnce(&Stage<T>, &mut ModelWorker<T>) + Send + 'static,
) -> (Stage<T>, ModelWorker<T>) {
    let (stage, mut worker) = Stage::<T>::new(Setup::pages(COUNT), PLAIN);
    let mut guest = stage.guest(0);
    guest.reach(0, WRITE);
    let (_, (stage, worker)) = both::<T, _, _>(
        move || {
            guest.fault_once(1, WRITE);
            guest.try_access(0, WRITE);
        },
        move || {
            change(&stage, &mut worker);
            (stage, worker)
        },
    );
    (stage, worker)
}

fn delete<T: Tool>() {
    let (stage, worker) = beside_mapping::<T>(|stage, worker| {
        delete_slot(worker);
        stage.world.slot_is_gone();
    });
    stage.world.poke(READ);
    stage.close(worker);
}

fn move_slot<T: Tool>() {
    let (stage, mut worker) = Stage::<T>::new(Setup::pages(1), PLAIN);
    let mut guest = stage.guest(0);
    let (_, (stage, worker)) = both::<T, _, _>(
        move || guest.fault_once(0, WRITE),
        move || {
            delete_slot(&mut worker);
            worker.create_slot(SLOT, stage.slot(PLAIN, 1)).expect("a free place");
            stage.world.declare(|oracle| oracle.taken(stage.world.setup.slot(), 1));
            (stage, worker)
        },
    );
    stage.world.poke(READ);
    stage.close(worker);
}

fn move_away<T: Tool>() {
    let (stage, mut worker) = Stage::<T>::new(Setup::pages(1), PLAIN);
    let mut guest = stage.guest(0);
    let (_, (stage, worker)) = both::<T, _, _>(
        move || guest.fault_once(0, WRITE),
        move || {
            move_slot_to(&mut worker, 8);
            stage.world.slot_is_gone();
            (stage, worker)
        },
    );
    stage.world.poke(READ);
    stage.close(worker);
}

fn log_on<T: Tool>() {
    let (stage, mut worker) = beside_mapping::<T>(|stage, worker| {
        set_flags(worker, LOGGED);
        stage.world.log_begins();
    });
    stage.last_harvest(&mut worker);
    stage.close(worker);
}

fn log_on_marked<T: Tool>() {
    let (stage, mut worker) = beside_mapping::<T>(|stage, worker| {
        set_flags(worker, MARKED);
        stage.world.log_begins();
        harvest(&stage.world, worker, stage.world.all_pages());
    });
    stage.last_harvest(&mut worker);
    stage.close(worker);
}

fn log_on_relax<T: Tool>() {
    beside_relaxing::<T>(Setup::pages(COUNT));
}

fn log_on_relax_block<T: Tool>() {
    beside_relaxing::<T>(Setup::block());
}

/// A guest relaxes page 0, which is write-protected and not logged, while the log is turned on.
fn beside_relaxing<T: Tool>(setup: Setup) {
    let (stage, mut worker) = Stage::<T>::new(setup, PLAIN);
    let mut guest = stage.guest(0);
    guest.reach(0, WRITE);
    guest.top_up(1);
    write_protect(&mut worker, 0, setup.count);
    let (_, (stage, mut worker)) = both::<T, _, _>(
        move || {
            guest.fault_once(0, WRITE);
            guest.try_access(0, WRITE);
        },
        move || {
            set_flags(&mut worker, LOGGED);
            stage.world.log_begins();
            (stage, worker)
        },
    );
    stage.last_harvest(&mut worker);
    stage.close(worker);
}

fn log_on_twice<T: Tool>() {
    let (stage, mut worker) = Stage::<T>::new(Setup::pages(1), PLAIN);
    let (mut guest, mut second) = (stage.guest(0), stage.worker());
    guest.reach(0, WRITE);
    let world = stage.world.clone();
    let (_, _, (stage, mut worker)) = all_three::<T, _, _, _>(
        move || {
            guest.try_access(0, WRITE);
            guest.try_access(0, WRITE);
        },
        move || {
            set_flags(&mut second, LOGGED);
            world.log_begins();
        },
        move || {
            set_flags(&mut worker, LOGGED);
            stage.world.log_begins();
            (stage, worker)
        },
    );
    stage.last_harvest(&mut worker);
    stage.close(worker);
}

fn delete_twice<T: Tool>() {
    let (stage, mut worker) = Stage::<T>::new(Setup::pages(1), PLAIN);
    let (mut guest, mut second) = (stage.guest(0), stage.worker());
    guest.reach(0, WRITE);
    let world = stage.world.clone();
    let (_, _, (stage, worker)) = all_three::<T, _, _, _>(
        move || guest.try_access(0, WRITE),
        move || {
            delete_slot(&mut second);
            world.slot_is_gone();
        },
        move || {
            delete_slot(&mut worker);
            stage.world.slot_is_gone();
            (stage, worker)
        },
    );
    stage.world.poke(READ);
    stage.close(worker);
}

fn log_again<T: Tool>() {
    let (stage, mut worker) = Stage::<T>::new(Setup::pages(COUNT), LOGGED);
    let mut guest = stage.guest(0);
    guest.reach(0, READ);
    let (_, (stage, mut worker)) = both::<T, _, _>(
        move || {
            guest.fault_once(0, WRITE);
            guest.try_access(0, WRITE);
        },
        move || {
            stage.world.log_ends();
            set_flags(&mut worker, PLAIN);
            set_flags(&mut worker, LOGGED);
            stage.world.log_begins();
            (stage, worker)
        },
    );
    stage.last_harvest(&mut worker);
    stage.close(worker);
}

fn read_only_relax<T: Tool>() {
    let (stage, mut worker) = Stage::<T>::new(Setup::pages(COUNT), PLAIN);
    let mut guest = stage.guest(0);
    guest.reach(0, WRITE);
    write_protect(&mut worker, 0, 1);
    let (_, (stage, worker)) = both::<T, _, _>(
        move || {
            guest.fault_once(0, WRITE);
            guest.fault_once(1, WRITE);
        },
        move || {
            set_flags(&mut worker, READ_ONLY);
            stage.world.read_only_begins();
            (stage, worker)
        },
    );
    stage.world.poke(WRITE);
    stage.close(worker);
}
