//! The embedder notes something in the place of memory, beside what else changes the tables (R4, R7).

use slat::vm::{Budget, Collapse};

use crate::book::{self, Event};
use crate::oracle::PageSet;
use crate::plant::Plant;
use crate::run::{Scenario, both};
use crate::stage::{ModelWorker, PLAIN, READ, Stage, WRITE, two_workers, unmap};
use crate::tool::{Loom, Shuttle, Tool};
use crate::world::{REGION, Setup, World, gpa, pages};

/// A page gets its note while a guest maps it.
pub const PAGE: Scenario = Scenario::new("annotate_fault/page", page::<Loom>, page::<Shuttle>);

/// A note comes and goes, and the memory changes with it, while a guest maps the page.
pub const AGAIN: Scenario = Scenario::new("annotate_fault/again", again::<Loom>, again::<Shuttle>);

/// A page gets its note while everything round it is unmapped.
pub const UNMAP: Scenario = Scenario::new("annotate_fault/unmap", with_unmap::<Loom>, with_unmap::<Shuttle>);

/// A page gets its note while its table is collapsed.
pub const COLLAPSE: Scenario = Scenario::new("annotate_fault/collapse", collapse::<Loom>, collapse::<Shuttle>);

/// A page gets its note while the table round it is dropped, for faults to map a block.
pub const DROP: Scenario = Scenario::new("annotate_fault/drop", dropped::<Loom>, dropped::<Shuttle>);

/// Two pages' notes are cleared by two workers out of one that covers their region.
pub const PART: Scenario = Scenario::new("annotate_fault/part", part::<Loom>, part::<Shuttle>);

const NOTE: u64 = 5;

/// Notes, to the end; from then on no access may reach the pages.
fn annotate<T: Tool>(world: &World<T>, worker: &mut ModelWorker<T>, first: u64, end: u64) {
    let progress = worker.annotate(pages(first, end), NOTE, Budget::UNLIMITED).expect("there is memory");
    assert!(progress.is_done(), "an unlimited budget is enough");
    world.declare(|oracle| oracle.forbidden = oracle.forbidden.and(PageSet::range(first, end)));
    book::note(Event::Note("the pages are annotated"));
}

fn clear<T: Tool>(world: &World<T>, worker: &mut ModelWorker<T>, first: u64, end: u64) {
    world.declare(|oracle| oracle.forbidden = oracle.forbidden.without(PageSet::range(first, end)));
    let progress = worker.clear_annotations(pages(first, end), Budget::UNLIMITED).expect("there is memory");
    assert!(progress.is_done(), "an unlimited budget is enough");
}

/// The note has to be there, and nothing else.
fn check<T: Tool>(stage: Stage<T>, mut worker: ModelWorker<T>, page: u64) {
    stage.world.poke(READ);
    if worker.annotation(gpa(page)) != Some(NOTE) {
        book::report(format_args!("R7: the note at page {page} is gone"));
    }
    stage.close(worker);
}

fn page<T: Tool>() {
    let (stage, mut worker) = Stage::<T>::new(Setup::pages(2), PLAIN);
    let mut guest = stage.guest(0);
    guest.reach(1, READ);
    let world = stage.world.clone();
    let (_, worker) = both::<T, _, _>(
        move || guest.fault_once(0, WRITE),
        move || {
            annotate(&world, &mut worker, 0, 1);
            worker
        },
    );
    check(stage, worker, 0);
}

fn again<T: Tool>() {
    let (stage, mut worker) = Stage::<T>::new(Setup::pages(2), PLAIN);
    let mut guest = stage.guest(0);
    guest.reach(1, READ);
    let world = stage.world.clone();
    let (_, worker) = both::<T, _, _>(
        move || guest.fault_once(0, WRITE),
        move || {
            if !Plant::ChangedTooLate.is_planted() {
                world.change_backing(0);
            }
            annotate(&world, &mut worker, 0, 2);
            if Plant::ChangedTooLate.is_planted() {
                world.change_backing(0);
            }
            world.take_old_memory(0);
            clear(&world, &mut worker, 0, 2);
            worker
        },
    );
    stage.world.poke(READ);
    stage.close(worker);
}

/// A note at page 1, beside what another worker does.
fn beside<T: Tool>(
    stage: Stage<T>,
    worker: ModelWorker<T>,
    work: impl FnOnce(&World<T>, &mut ModelWorker<T>) + Send + 'static,
) {
    let worker = two_workers(&stage, worker, |world, worker| annotate(world, worker, 1, 2), work);
    check(stage, worker, 1);
}

fn with_unmap<T: Tool>() {
    let (stage, worker) = Stage::<T>::new(Setup::pages(REGION), PLAIN);
    let mut guest = stage.guest(0);
    guest.reach(0, READ);
    drop(guest);
    beside(stage, worker, |_, other| unmap(other, 0, REGION));
}

/// A block whose pages are mapped by a table.
fn split<T: Tool>() -> (Stage<T>, ModelWorker<T>) {
    let (stage, mut worker) = Stage::<T>::new(Setup::block(), PLAIN);
    let mut guest = stage.guest(0);
    guest.reach(0, WRITE);
    worker.top_up(1).expect("there is memory");
    unmap(&mut worker, 1, 2);
    guest.reach(1, WRITE);
    (stage, worker)
}

fn collapse<T: Tool>() {
    let (stage, worker) = split::<T>();
    beside(stage, worker, |_, other| _ = other.collapse(pages(0, REGION), Collapse::InPlace, Budget::UNLIMITED));
}

fn dropped<T: Tool>() {
    let (stage, worker) = split::<T>();
    beside(stage, worker, |_, other| _ = other.collapse(pages(0, REGION), Collapse::Lazily, Budget::UNLIMITED));
}

fn part<T: Tool>() {
    let (stage, mut worker) = Stage::<T>::new(Setup::pages(REGION), PLAIN);
    annotate(&stage.world, &mut worker, 0, REGION);
    let worker = two_workers(
        &stage,
        worker,
        |world, worker| clear(world, worker, 1, 2),
        |world, other| clear(world, other, 3, 4),
    );
    let mut guest = stage.guest(0);
    guest.reach(1, WRITE);
    guest.reach(3, WRITE);
    drop(guest);
    check(stage, worker, 2);
}
