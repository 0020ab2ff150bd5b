//! A block is split under the log (R1, R5): one break, a populated table, and nothing lost.

use slat::vm::Pages;

use crate::run::{Scenario, Thread};
use crate::stage::{LOGGED, READ, Stage, WRITE, harvest, unmap};
use crate::tool::{Loom, Shuttle, Tool};
use crate::world::{REGION, Setup};

/// A write splits the block that another guest reads.
pub const READ_BESIDE: Scenario = Scenario::new("split_fault/read", read_beside::<Loom>, read_beside::<Shuttle>);

/// Two writes split the same block.
pub const WRITE_BESIDE: Scenario = Scenario::new("split_fault/write", write_beside::<Loom>, write_beside::<Shuttle>);

/// Two writes split the same block, while a harvest runs.
pub const HARVEST: Scenario = Scenario::new("split_fault/harvest", with_harvest::<Loom>, with_harvest::<Shuttle>);

/// A write splits the block of which a worker unmaps a part, splitting it, too.
pub const UNMAP: Scenario = Scenario::new("split_fault/unmap", with_unmap::<Loom>, with_unmap::<Shuttle>);

fn read_beside<T: Tool>() {
    let (stage, mut worker) = Stage::<T>::with_slot(Setup::BLOCKS, REGION, LOGGED);
    let (mut one, mut other) = (stage.guest(0), stage.guest(1));
    other.reach(1, READ);
    let reading = Thread::<T, _>::spawn(move || other.reach(2, READ));
    one.reach(0, WRITE);
    reading.join();
    drop(one);
    assert_eq!(stage.vm.statistics().leaves[..2], [4, 0], "four pages for one block");
    stage.last_harvest(&mut worker, REGION);
    drop(worker);
    stage.close();
}

fn write_beside<T: Tool>() {
    let (stage, mut worker) = Stage::<T>::with_slot(Setup::BLOCKS, REGION, LOGGED);
    let (mut one, mut other) = (stage.guest(0), stage.guest(1));
    other.reach(1, READ);
    let writing = Thread::<T, _>::spawn(move || other.reach(1, WRITE));
    one.reach(0, WRITE);
    writing.join();
    drop(one);
    let statistics = stage.vm.statistics();
    assert_eq!((&statistics.leaves[..2], statistics.splits), (&[4, 0][..], 1), "split once");
    stage.last_harvest(&mut worker, REGION);
    drop(worker);
    stage.close();
}

fn with_harvest<T: Tool>() {
    let (stage, mut worker) = Stage::<T>::with_slot(Setup::BLOCKS, REGION, LOGGED);
    let (mut one, mut other) = (stage.guest(0), stage.guest(1));
    other.reach(1, READ);
    let first = Thread::<T, _>::spawn(move || one.reach(0, WRITE));
    let second = Thread::<T, _>::spawn(move || other.reach(1, WRITE));
    harvest(&stage.world, &mut worker, Pages { first: 0, count: REGION });
    first.join();
    second.join();
    stage.last_harvest(&mut worker, REGION);
    drop(worker);
    stage.close();
}

fn with_unmap<T: Tool>() {
    let (stage, mut worker) = Stage::<T>::with_slot(Setup::BLOCKS, REGION, LOGGED);
    let mut guest = stage.guest(0);
    guest.reach(1, READ);
    worker.top_up(1).expect("there is memory");
    let writing = Thread::<T, _>::spawn(move || guest.reach(0, WRITE));
    unmap(&mut worker, 1, 2);
    writing.join();
    stage.last_harvest(&mut worker, REGION);
    drop(worker);
    stage.close();
}
