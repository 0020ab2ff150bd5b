//! A block is split under the log (R1, R5): one break, a populated table, and nothing lost.

use slat::vm::Pages;

use crate::book;
use crate::run::{Scenario, all_three, both};
use crate::stage::{
    ALL, LOGGED, MARKED, ModelWorker, PLAIN, READ, SLOT, Stage, WRITE, harvest, set_flags, split, two_workers, unmap,
};
use crate::tool::{Loom, Shuttle, Tool};
use crate::world::{REGION, Setup, World};

/// A write splits the block that another guest reads.
pub const READ_BESIDE: Scenario = Scenario::new("split_fault/read", read_beside::<Loom>, read_beside::<Shuttle>);

/// Two writes split the same block.
pub const WRITE_BESIDE: Scenario = Scenario::new("split_fault/write", write_beside::<Loom>, write_beside::<Shuttle>);

/// Two writes split the same block, while a harvest runs.
pub const HARVEST: Scenario =
    Scenario::new("split_fault/harvest", with_harvest::<Loom>, with_harvest::<Shuttle>).with_preemptions(1);

/// A worker splits a writable block to clear one page's mark, while a guest writes to it.
pub const CLEAR: Scenario = Scenario::new("split_fault/clear", clear::<Loom>, clear::<Shuttle>);

/// A write splits the block of which a worker unmaps a part, splitting it, too.
pub const UNMAP: Scenario = Scenario::new("split_fault/unmap", with_unmap::<Loom>, with_unmap::<Shuttle>);

/// A worker splits ahead while a guest that has the block cached writes.
pub const AHEAD: Scenario = Scenario::new("split_fault/ahead", ahead::<Loom>, ahead::<Shuttle>);

/// A worker splits ahead two blocks, the second of which another one unmaps in part.
pub const AHEAD_UNMAP: Scenario =
    Scenario::new("split_fault/ahead_unmap", ahead_of_unmap::<Loom>, ahead_of_unmap::<Shuttle>);

/// A worker splits ahead while another one takes the log and a guest writes.
pub const AHEAD_HARVEST: Scenario =
    Scenario::new("split_fault/ahead_harvest", ahead_of_harvest::<Loom>, ahead_of_harvest::<Shuttle>);

/// Two workers split the same two blocks.
pub const AHEAD_TWICE: Scenario =
    Scenario::new("split_fault/ahead_twice", ahead_by_two::<Loom>, ahead_by_two::<Shuttle>);

fn read_beside<T: Tool>() {
    let (stage, mut worker) = Stage::<T>::new(Setup::block(), LOGGED);
    let (mut one, mut other) = (stage.guest_without_tables(0), stage.guest_without_tables(1));
    other.reach(1, READ);
    both::<T, _, _>(move || one.reach(0, WRITE), move || other.reach(2, READ));
    check_split_once(&stage);
    stage.last_harvest(&mut worker);
    stage.close(worker);
}

fn write_beside<T: Tool>() {
    let (stage, mut worker) = Stage::<T>::new(Setup::block(), LOGGED);
    let (mut one, mut other) = (stage.guest_without_tables(0), stage.guest_without_tables(1));
    other.reach(1, READ);
    both::<T, _, _>(move || one.reach(0, WRITE), move || other.reach(1, WRITE));
    check_split_once(&stage);
    stage.last_harvest(&mut worker);
    stage.close(worker);
}

fn check_split_once<T: Tool>(stage: &Stage<T>) {
    let statistics = stage.vm.statistics();
    let counted = (statistics.splits, statistics.leaves[0], statistics.leaves[1]);
    if counted != (1, 4, 0) {
        book::report(format_args!("S1: splits, pages and blocks, of one block: {counted:?}"));
    }
}

fn with_harvest<T: Tool>() {
    let (stage, mut worker) = Stage::<T>::new(Setup::block(), LOGGED);
    let (mut one, mut other) = (stage.guest(0), stage.guest(1));
    other.reach(1, READ);
    let world = stage.world.clone();
    let (_, _, mut worker) = all_three::<T, _, _, _>(
        move || one.fault_once(0, WRITE),
        move || other.fault_once(1, WRITE),
        move || {
            harvest(&world, &mut worker, world.all_pages());
            worker
        },
    );
    stage.last_harvest(&mut worker);
    stage.close(worker);
}

fn clear<T: Tool>() {
    beside_cached_write::<T>(0, |worker, world| {
        let page = Pages { first: 0, count: 1 };
        let progress = worker.clear_dirty(SLOT, page, &[1], ALL).expect("a logged slot");
        assert!(progress.is_done(), "an unlimited budget is enough");
        world.copied(page, 1);
    });
}

fn ahead<T: Tool>() {
    beside_cached_write::<T>(1, |worker, _| split(worker, 0, REGION));
}

/// A worker acts on a block that is marked and writable while a guest writes to its first page, as it has it cached, and to
/// another one.
fn beside_cached_write<T: Tool>(page: u64, act: fn(&mut ModelWorker<T>, &World<T>)) {
    let (stage, mut worker) = Stage::<T>::new(Setup::block(), PLAIN);
    let mut guest = stage.guest(0);
    guest.reach(0, WRITE);
    set_flags(&mut worker, MARKED);
    stage.world.log_begins();
    worker.top_up(1).expect("there is memory");
    let world = stage.world.clone();
    let (_, mut worker) = both::<T, _, _>(
        move || {
            guest.try_access(0, WRITE);
            guest.fault_once(page, WRITE);
        },
        move || {
            act(&mut worker, &world);
            worker
        },
    );
    check_split_once(&stage);
    stage.last_harvest(&mut worker);
    stage.close(worker);
}

fn with_unmap<T: Tool>() {
    let (stage, mut worker) = Stage::<T>::new(Setup::block(), LOGGED);
    let mut guest = stage.guest(0);
    guest.reach(1, READ);
    worker.top_up(1).expect("there is memory");
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

fn ahead_of_unmap<T: Tool>() {
    let (stage, worker) = two_blocks::<T>();
    let worker = two_workers(&stage, worker, split_both, |_, other| {
        other.top_up(1).expect("there is memory");
        unmap(other, REGION, REGION + 1);
    });
    stage.close(worker);
}

fn ahead_of_harvest<T: Tool>() {
    let (stage, mut worker) = Stage::<T>::new(Setup::block(), LOGGED);
    let (mut guest, mut splitter) = (stage.guest(0), stage.worker());
    guest.reach(1, READ);
    splitter.top_up(1).expect("there is memory");
    let world = stage.world.clone();
    let (_, splitter, mut worker) = all_three::<T, _, _, _>(
        move || guest.fault_once(0, WRITE),
        move || {
            split(&mut splitter, 0, REGION);
            splitter
        },
        move || {
            harvest(&world, &mut worker, world.all_pages());
            worker
        },
    );
    drop(splitter);
    check_split_once(&stage);
    stage.last_harvest(&mut worker);
    stage.close(worker);
}

fn ahead_by_two<T: Tool>() {
    let (stage, worker) = two_blocks::<T>();
    let worker = two_workers(&stage, worker, split_both, split_both);
    let statistics = stage.vm.statistics();
    let counted = (statistics.splits, statistics.leaves[0], statistics.leaves[1]);
    if counted != (2, 8, 0) {
        book::report(format_args!("S1: splits, pages and blocks, of two blocks: {counted:?}"));
    }
    stage.close(worker);
}

/// Two blocks that are mapped and cached, and a worker with tables for both.
fn two_blocks<T: Tool>() -> (Stage<T>, ModelWorker<T>) {
    let (stage, mut worker) = Stage::<T>::new(Setup { count: 2 * REGION, ..Setup::block() }, PLAIN);
    let mut guest = stage.guest(0);
    guest.reach(0, WRITE);
    guest.reach(REGION, WRITE);
    worker.top_up(2).expect("there is memory");
    (stage, worker)
}

fn split_both<T: Tool>(_: &World<T>, worker: &mut ModelWorker<T>) {
    split(worker, 0, 2 * REGION);
}
