//! The dirty log that hardware keeps, where it keeps it of contiguous groups (R1, R5): what is noted in one member is said of
//! all pages, whatever becomes of the group.

use slat::vm::Pages;

use super::hardware_log::check;
use crate::run::{Scenario, both};
use crate::stage::{
    ALL, BY_HARDWARE, Guest, ModelWorker, PLAIN, SLOT, Stage, WRITE, harvest, set_flags, two_workers, unmap,
    write_protect,
};
use crate::tool::{Loom, Shuttle, Tool};
use crate::world::{REGION, Setup, World};

/// A guest writes to both pages of a group while a harvest runs; its faults dissolve the group.
pub const HARVEST: Scenario = Scenario::new("group_log/harvest", with_harvest::<Loom>, with_harvest::<Shuttle>);

/// As [`HARVEST`], beside an unmapping of one page, which dissolves the group, too.
pub const UNMAP_PART: Scenario = Scenario::new("group_log/unmap_part", unmap_part::<Loom>, unmap_part::<Shuttle>);

/// As [`HARVEST`], beside an unmapping of the table round the group.
pub const CUT: Scenario = Scenario::new("group_log/cut", cut::<Loom>, cut::<Shuttle>);

/// A page is written to and read by [`get_dirty`](slat::vm::Worker::get_dirty), then its mark is cleared while a guest
/// writes to it and to its neighbour.
pub const CLEAR: Scenario = Scenario::new("group_log/clear", clear::<Loom>, clear::<Shuttle>);

/// The log is turned on while a guest writes through what it has cached of a group: what hardware notes in one member, it
/// does not note in the other.
pub const ENABLING: Scenario = Scenario::new("group_log/enabling", enabling::<Loom>, enabling::<Shuttle>);

/// The log is turned on while a guest has the whole group made writable.
pub const ENABLING_RELAX: Scenario =
    Scenario::new("group_log/enabling_relax", enabling_relax::<Loom>, enabling_relax::<Shuttle>);

/// The log is turned on while another worker unmaps one page of a group that is being written to.
pub const ENABLING_UNMAP: Scenario =
    Scenario::new("group_log/enabling_unmap", enabling_unmap::<Loom>, enabling_unmap::<Shuttle>);

/// A slot whose pages 0 and 1 are a group that has been written to; one vCPU has cached the group, the other its pages.
fn mapped<T: Tool>() -> (Stage<T>, ModelWorker<T>, Guest<T>) {
    let (stage, worker) = Stage::<T>::new(Setup::groups().with_hardware_dirty(), PLAIN);
    let mut guest = stage.guest(0);
    guest.reach(1, WRITE);
    stage.world.poke(WRITE);
    assert_eq!(stage.vm.statistics().groups, 1, "a fault makes a group");
    (stage, worker, guest)
}

/// The same under a log.
fn logged<T: Tool>() -> (Stage<T>, ModelWorker<T>, Guest<T>) {
    let (stage, mut worker, guest) = mapped::<T>();
    set_flags(&mut worker, BY_HARDWARE);
    stage.world.log_begins();
    (stage, worker, guest)
}

/// Hardware alone: the first write may bring the group into the TLB as written to, for the second.
fn write_by_hardware<T: Tool>(guest: &mut Guest<T>) {
    guest.try_access(0, WRITE);
    guest.try_access(1, WRITE);
}

fn write<T: Tool>(guest: &mut Guest<T>) {
    guest.fault_once(1, WRITE);
    guest.fault_once(0, WRITE);
}

/// `write` beside `work`, then hardware alone; then nothing may be lost.
fn beside<T: Tool>(
    (stage, mut worker, mut guest): (Stage<T>, ModelWorker<T>, Guest<T>),
    write: fn(&mut Guest<T>),
    work: impl FnOnce(&World<T>, &mut ModelWorker<T>) + Send + 'static,
) {
    let world = stage.world.clone();
    let (mut guest, worker) = both::<T, _, _>(
        move || {
            write(&mut guest);
            guest
        },
        move || {
            work(&world, &mut worker);
            worker
        },
    );
    write_by_hardware(&mut guest);
    drop(guest);
    check(stage, worker);
}

fn with_harvest<T: Tool>() {
    beside(logged::<T>(), write, |world, worker| _ = harvest(world, worker, world.all_pages()));
}

fn unmap_part<T: Tool>() {
    beside(logged::<T>(), write, |_, worker| unmap(worker, 0, 1));
}

fn cut<T: Tool>() {
    beside(logged::<T>(), write, |_, worker| unmap(worker, 0, REGION));
}

fn clear<T: Tool>() {
    let (stage, mut worker, mut guest) = logged::<T>();
    guest.reach(0, WRITE);
    let all = stage.world.all_pages();
    assert_eq!(worker.get_dirty(SLOT, all, &mut [0]), Ok(1), "a page that is written to leaves its group");
    beside((stage, worker, guest), write, |world, worker| {
        let page = Pages { first: 0, count: 1 };
        assert!(worker.clear_dirty(SLOT, page, &[1], ALL).expect("a logged slot").is_done());
        world.copied(page, 1);
    });
}

fn enabling<T: Tool>() {
    beside(mapped::<T>(), write_by_hardware, |world, worker| {
        set_flags(worker, BY_HARDWARE);
        world.log_begins();
    });
}

fn enabling_relax<T: Tool>() {
    let (stage, mut worker, guest) = mapped::<T>();
    write_protect(&mut worker, 0, REGION);
    beside((stage, worker, guest), write, |world, worker| {
        set_flags(worker, BY_HARDWARE);
        world.log_begins();
    });
}

fn enabling_unmap<T: Tool>() {
    let (stage, worker, mut guest) = mapped::<T>();
    let worker = two_workers(
        &stage,
        worker,
        |world, worker| {
            set_flags(worker, BY_HARDWARE);
            world.log_begins();
        },
        |_, other| unmap(other, 0, 1),
    );
    write_by_hardware(&mut guest);
    drop(guest);
    check(stage, worker);
}
