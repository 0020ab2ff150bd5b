//! Contiguous groups beside those who change them, whole or in part (R1): one leaf in two entries.

use slat::addr::Level;
use slat::vm::{Collapse, Pages};

use crate::book::{self, Event};
use crate::oracle::PageSet;
use crate::run::{Scenario, all_three, both};
use crate::stage::{
    ALL, LOGGED, MARKED, ModelWorker, PLAIN, READ, SLOT, Stage, WRITE, harvest, reclaim_and_drop, set_flags, unmap,
    write_protect,
};
use crate::tool::{Loom, Shuttle, Tool};
use crate::world::{Setup, World, pages};

/// Two faults on two pages of one group that is not there yet.
pub const FAULTS: Scenario = Scenario::new("groups/faults", faults::<Loom>, faults::<Shuttle>);

/// A fault makes a group, of which another thread takes one page's memory back.
pub const INVALIDATE: Scenario = Scenario::new("groups/invalidate", invalidate::<Loom>, invalidate::<Shuttle>);

/// A page of a group is taken back while a guest uses both through what it has cached.
pub const UNMAP_PART: Scenario = Scenario::new("groups/unmap_part", unmap_part::<Loom>, unmap_part::<Shuttle>);

/// Two workers unmap one page each.
pub const UNMAP_PARTS: Scenario = Scenario::new("groups/unmap_parts", unmap_parts::<Loom>, unmap_parts::<Shuttle>);

/// Under the log two guests write to two pages of a protected group.
pub const WRITES: Scenario = Scenario::new("groups/writes", writes::<Loom>, writes::<Shuttle>);

/// Under the log a guest writes to a page of a protected group, while another unmaps the other page.
pub const WRITE_UNMAP: Scenario = Scenario::new("groups/write_unmap", write_unmap::<Loom>, write_unmap::<Shuttle>);

/// As [`WRITES`], by one guest, while a harvest runs.
pub const HARVEST: Scenario = Scenario::new("groups/harvest", with_harvest::<Loom>, with_harvest::<Shuttle>);

/// The mark of one page of a writable group is cleared while a guest writes to both.
pub const CLEAR: Scenario = Scenario::new("groups/clear", clear::<Loom>, clear::<Shuttle>);

/// The log is turned on while a guest has the whole group made writable.
pub const ENABLING: Scenario = Scenario::new("groups/enabling", enabling::<Loom>, enabling::<Shuttle>);

/// One worker protects a group, another one page of it, while a guest writes through what it has cached.
pub const PROTECT_PART: Scenario =
    Scenario::new("groups/protect_part", protect_part::<Loom>, protect_part::<Shuttle>).with_preemptions(1);

/// A table with a group is collapsed while one of its pages is unmapped.
pub const COLLAPSE: Scenario = Scenario::new("groups/collapse", collapse::<Loom>, collapse::<Shuttle>);

/// A slot whose pages 0 and 1 are a group, writable, and cached by both vCPUs.
fn mapped<T: Tool>() -> (Stage<T>, ModelWorker<T>) {
    let (stage, worker) = Stage::<T>::new(Setup::groups(), PLAIN);
    stage.guest(0).reach(1, WRITE);
    stage.world.poke(WRITE);
    assert_eq!(stage.vm.statistics().groups, 1, "a fault makes a group");
    (stage, worker)
}

/// The same, protected for a log.
fn protected<T: Tool>() -> (Stage<T>, ModelWorker<T>) {
    let (stage, mut worker) = mapped::<T>();
    set_flags(&mut worker, LOGGED);
    stage.world.log_begins();
    stage.world.poke(READ);
    (stage, worker)
}

fn faults<T: Tool>() {
    let (stage, worker) = Stage::<T>::new(Setup::groups(), PLAIN);
    let (mut one, mut other) = (stage.guest(0), stage.guest(1));
    one.reach(2, READ);
    both::<T, _, _>(move || one.reach(0, WRITE), move || other.reach(1, WRITE));
    if stage.vm.statistics().leaves[Level::PAGE.index()] != 4 {
        book::report("S1: two faults map two pages of their group");
    }
    stage.world.poke(WRITE);
    stage.close(worker);
}

fn invalidate<T: Tool>() {
    let (stage, mut worker) = Stage::<T>::new(Setup::groups(), PLAIN);
    let mut guest = stage.guest(0);
    guest.reach(2, READ);
    let world = stage.world.clone();
    let (_, worker) = both::<T, _, _>(
        move || guest.fault_once(0, WRITE),
        move || {
            take_back(&world, &mut worker, 1);
            worker
        },
    );
    stage.world.poke(READ);
    stage.close(worker);
}

/// The host takes the memory of one page back.
fn take_back<T: Tool>(world: &World<T>, worker: &mut ModelWorker<T>, page: u64) {
    let mut open = worker.invalidate(pages(page, page + 1)).expect("few invalidations");
    while !open.unmap(ALL).is_done() {}
    world.change_backing(0);
    world.declare(|oracle| oracle.taken(PageSet::range(page, page + 1), 1));
    book::note(Event::Note("the old memory of a page is taken"));
    drop(open);
}

fn unmap_part<T: Tool>() {
    let (stage, mut worker) = mapped::<T>();
    let mut guest = stage.guest(0);
    let world = stage.world.clone();
    let (_, worker) = both::<T, _, _>(
        move || {
            guest.try_access(0, READ);
            guest.fault_once(1, WRITE);
        },
        move || {
            take_back(&world, &mut worker, 0);
            worker
        },
    );
    stage.world.poke(READ);
    stage.close(worker);
}

fn unmap_parts<T: Tool>() {
    let (stage, mut worker) = mapped::<T>();
    let mut other = stage.worker();
    let (_, worker) = both::<T, _, _>(
        move || {
            unmap(&mut other, 1, 2);
            reclaim_and_drop(other);
        },
        move || {
            unmap(&mut worker, 0, 1);
            worker
        },
    );
    if stage.vm.statistics().leaves[0] != 0 {
        book::report("S1: both pages are unmapped");
    }
    stage.close(worker);
}

fn writes<T: Tool>() {
    let (stage, mut worker) = protected::<T>();
    let (mut one, mut other) = (stage.guest(0), stage.guest(1));
    both::<T, _, _>(move || one.reach(0, WRITE), move || other.reach(1, WRITE));
    stage.last_harvest(&mut worker);
    stage.close(worker);
}

fn write_unmap<T: Tool>() {
    let (stage, mut worker) = protected::<T>();
    let mut guest = stage.guest(0);
    let (_, mut worker) = both::<T, _, _>(
        move || guest.fault_once(0, WRITE),
        move || {
            unmap(&mut worker, 1, 2);
            worker
        },
    );
    stage.last_harvest(&mut worker);
    stage.close(worker);
}

fn with_harvest<T: Tool>() {
    let (stage, mut worker) = protected::<T>();
    let mut guest = stage.guest(0);
    let world = stage.world.clone();
    let (_, mut worker) = both::<T, _, _>(
        move || {
            guest.fault_once(0, WRITE);
            guest.try_access(1, WRITE);
        },
        move || {
            harvest(&world, &mut worker, world.all_pages());
            worker
        },
    );
    stage.last_harvest(&mut worker);
    stage.close(worker);
}

fn clear<T: Tool>() {
    let (stage, mut worker) = mapped::<T>();
    set_flags(&mut worker, MARKED);
    stage.world.log_begins();
    let mut guest = stage.guest(0);
    let world = stage.world.clone();
    let (mut guest, mut worker) = both::<T, _, _>(
        move || {
            guest.fault_once(1, WRITE);
            guest.try_access(0, WRITE);
            guest
        },
        move || {
            let page = Pages { first: 0, count: 1 };
            assert!(worker.clear_dirty(SLOT, page, &[1], ALL).expect("a logged slot").is_done());
            world.copied(page, 1);
            worker
        },
    );
    // Page 1 may be writable still: what it brings into the TLB must not serve page 0.
    guest.fault_once(1, WRITE);
    guest.try_access(0, WRITE);
    drop(guest);
    stage.last_harvest(&mut worker);
    stage.close(worker);
}

fn enabling<T: Tool>() {
    let (stage, mut worker) = mapped::<T>();
    write_protect(&mut worker, 0, 4);
    let mut guest = stage.guest(0);
    let world = stage.world.clone();
    let (_, mut worker) = both::<T, _, _>(
        move || {
            guest.fault_once(0, WRITE);
            guest.try_access(1, WRITE);
        },
        move || {
            set_flags(&mut worker, LOGGED);
            world.log_begins();
            worker
        },
    );
    stage.last_harvest(&mut worker);
    stage.close(worker);
}

fn protect_part<T: Tool>() {
    let (stage, mut worker) = mapped::<T>();
    let (guest, mut second) = (stage.guest(0), stage.worker());
    let world = stage.world.clone();
    let (_, _, worker) = all_three::<T, _, _, _>(
        // Hardware alone: no fault gives the permission back.
        move || {
            guest.try_access(1, WRITE);
            guest.try_access(0, WRITE);
        },
        move || write_protect(&mut second, 0, 2),
        move || {
            write_protect(&mut worker, 0, 1);
            world.declare(|oracle| oracle.read_only = PageSet::range(0, 1));
            worker
        },
    );
    stage.world.poke(WRITE);
    stage.close(worker);
}

fn collapse<T: Tool>() {
    let (stage, mut worker) = Stage::<T>::new(Setup { groups: true, ..Setup::block() }, PLAIN);
    let mut guest = stage.guest(0);
    guest.reach(0, WRITE);
    worker.top_up(1).expect("there is memory");
    unmap(&mut worker, 3, 4);
    guest.reach(3, WRITE);
    drop(guest);
    stage.world.poke(WRITE);
    let mut other = stage.worker();
    other.top_up(1).expect("there is memory");
    let (_, worker) = both::<T, _, _>(
        move || {
            unmap(&mut other, 1, 2);
            reclaim_and_drop(other);
        },
        move || {
            let _ = worker.collapse(pages(0, 4), Collapse::InPlace, ALL);
            worker
        },
    );
    stage.world.poke(WRITE);
    stage.close(worker);
}
