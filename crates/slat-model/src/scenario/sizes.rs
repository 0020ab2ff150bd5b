//! Leaves that change their size under the guest's eyes (FEAT_BBML2): hardware may hold both sizes, and no guest faults.

use slat::host::VcpuId;
use slat::vm::Pages;

use super::collapse_fault::{collapse_in_place, split_in};
use crate::run::{Scenario, all_three, both};
use crate::stage::{
    ALL, LOGGED, MARKED, ModelWorker, PLAIN, READ, SLOT, Stage, WRITE, reclaim_and_drop, set_flags, split, two_workers,
    unmap,
};
use crate::tool::{Loom, Shuttle, Tool};
use crate::world::{Kind, REGION, Setup, World};

/// A write splits the block that another guest reads, which never faults.
pub const SPLIT_READ: Scenario = Scenario::new("sizes/split_read", split_read::<Loom>, split_read::<Shuttle>);

/// A write splits the block that another vCPU has cached, whose hardware walks ahead.
pub const SPLIT_AHEAD: Scenario = Scenario::new("sizes/split_ahead", split_ahead::<Loom>, split_ahead::<Shuttle>);

/// Two workers split a writable block to clear a page's mark each; a guest writes to the second page once that is done, if it
/// can through what it has cached.
pub const CLEARS: Scenario = Scenario::new("sizes/clears", clears::<Loom>, clears::<Shuttle>);

/// The tables above a block are cut off, and its memory taken, while a write splits it and hardware walks ahead.
pub const CUT: Scenario = Scenario::new("sizes/cut", cut::<Loom>, cut::<Shuttle>).with_preemptions(1);

/// A table is collapsed while a guest reads, which never faults.
pub const COLLAPSE_READ: Scenario =
    Scenario::new("sizes/collapse_read", collapse_read::<Loom>, collapse_read::<Shuttle>);

/// A write to a page whose table is being collapsed.
pub const COLLAPSE_WRITE: Scenario =
    Scenario::new("sizes/collapse_write", collapse_write::<Loom>, collapse_write::<Shuttle>);

/// Some of the pages are unmapped, and their memory taken, while their table is collapsed.
pub const COLLAPSE_UNMAP: Scenario =
    Scenario::new("sizes/collapse_unmap", collapse_unmap::<Loom>, collapse_unmap::<Shuttle>);

/// The log is turned on while the table is collapsed; a write comes after.
pub const COLLAPSE_ENABLING: Scenario =
    Scenario::new("sizes/collapse_enabling", collapse_enabling::<Loom>, collapse_enabling::<Shuttle>);

/// The log is turned on while a worker splits ahead the block that a guest has cached as writable, whose hardware walks ahead:
/// the guest writes as soon as the log is on, if it can.
pub const SPLIT_ENABLING: Scenario =
    Scenario::new("sizes/split_enabling", split_enabling::<Loom>, split_enabling::<Shuttle>);

const BLOCK: Setup = Setup::block().with_overlaps();

fn split_read<T: Tool>() {
    let (stage, mut worker) = Stage::<T>::new(BLOCK, LOGGED);
    let (mut one, other) = (stage.guest_without_tables(0), stage.guest_without_tables(1));
    one.reach(1, READ);
    both::<T, _, _>(move || one.reach(0, WRITE), move || [2, 3].into_iter().for_each(|page| other.keeps(page, READ)));
    stage.last_harvest(&mut worker);
    stage.close(worker);
}

fn split_ahead<T: Tool>() {
    let (stage, mut worker) = Stage::<T>::new(BLOCK, LOGGED);
    let (mut one, mut other) = (stage.guest_without_tables(0), stage.guest_without_tables(1));
    other.reach(1, READ);
    let ahead = move || {
        other.walk_ahead(2);
        other.keeps(2, READ);
        other.walk_ahead(2);
    };
    both::<T, _, _>(move || one.reach(0, WRITE), ahead);
    stage.last_harvest(&mut worker);
    stage.close(worker);
}

/// Clears the mark of one page, for which its block has to be split, and copies it.
fn clear<T: Tool>(world: &World<T>, worker: &mut ModelWorker<T>, page: u64) {
    let page = Pages { first: page, count: 1 };
    let progress = worker.clear_dirty(SLOT, page, &[1], ALL).expect("a logged slot");
    assert!(progress.is_done(), "an unlimited budget is enough");
    world.copied(page, 1);
}

fn clears<T: Tool>() {
    let (stage, mut worker) = Stage::<T>::new(BLOCK, PLAIN);
    let (mut guest, mut other) = (stage.guest(0), stage.worker());
    guest.reach(0, WRITE);
    set_flags(&mut worker, MARKED);
    stage.world.log_begins();
    worker.top_up(1).expect("there is memory");
    let (world, other_world) = (stage.world.clone(), stage.world.clone());
    let (mut worker, _) = both::<T, _, _>(
        move || {
            clear(&world, &mut worker, 0);
            worker
        },
        move || {
            clear(&other_world, &mut other, 1);
            let _ = guest.try_access(1, WRITE);
            reclaim_and_drop(other);
        },
    );
    stage.last_harvest(&mut worker);
    stage.close(worker);
}

fn cut<T: Tool>() {
    let setup = Setup { levels: 3, ..Setup::pages(4 * REGION).backed(Kind::Blocks).with_overlaps() };
    let (stage, mut worker) = Stage::<T>::new(setup, LOGGED);
    let (mut one, mut other) = (stage.guest(0), stage.guest(1));
    other.reach(1, READ);
    let world = stage.world.clone();
    let (_, _, worker) = all_three::<T, _, _, _>(
        move || _ = one.fault(0, WRITE),
        move || other.walk_ahead(2),
        move || {
            world.change_backing(0);
            unmap(&mut worker, 0, 4 * REGION);
            world.take_old_memory(0);
            worker
        },
    );
    stage.world.poke(READ);
    stage.close(worker);
}

fn collapse_read<T: Tool>() {
    let (stage, mut worker) = split_in::<T>(BLOCK);
    let (guest, world) = (stage.guest(1), stage.world.clone());
    let (worker, _) = both::<T, _, _>(
        move || {
            collapse_in_place(&world, &mut worker);
            worker
        },
        move || [2, 2].into_iter().for_each(|page| guest.keeps(page, READ)),
    );
    stage.close(worker);
}

fn collapse_write<T: Tool>() {
    let (stage, mut worker) = split_in::<T>(BLOCK);
    let (mut guest, world) = (stage.guest(1), stage.world.clone());
    let (worker, _) = both::<T, _, _>(
        move || {
            collapse_in_place(&world, &mut worker);
            worker
        },
        move || {
            guest.walk_ahead(2);
            guest.reach(2, WRITE);
        },
    );
    stage.close(worker);
}

fn collapse_unmap<T: Tool>() {
    let (stage, worker) = split_in::<T>(BLOCK);
    let worker = two_workers(&stage, worker, collapse_in_place, |world, other| {
        world.change_backing(0);
        unmap(other, 0, 2);
        world.take_old_pages(0, 2);
    });
    stage.world.poke(READ);
    stage.close(worker);
}

fn collapse_enabling<T: Tool>() {
    let (stage, worker) = split_in::<T>(BLOCK);
    let mut guest = stage.guest(1);
    let mut worker = two_workers(&stage, worker, |_, worker| set_flags(worker, LOGGED), collapse_in_place);
    stage.world.log_begins();
    guest.reach(2, WRITE);
    drop(guest);
    stage.last_harvest(&mut worker);
    stage.close(worker);
}

fn split_enabling<T: Tool>() {
    let (stage, mut worker) = Stage::<T>::new(BLOCK, PLAIN);
    let (mut guest, mut other) = (stage.guest(0), stage.worker());
    guest.reach(0, WRITE);
    let (world, hardware) = (stage.world.clone(), stage.world.clone());
    let (mut worker, _, _) = all_three::<T, _, _, _>(
        move || {
            set_flags(&mut worker, LOGGED);
            world.log_begins();
            let _ = guest.try_access(1, WRITE);
            worker
        },
        move || {
            split(&mut other, 0, REGION);
            reclaim_and_drop(other);
        },
        move || hardware.walk_ahead(VcpuId(0), 1),
    );
    stage.last_harvest(&mut worker);
    stage.close(worker);
}
