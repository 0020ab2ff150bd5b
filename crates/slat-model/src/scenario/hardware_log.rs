//! The dirty log that hardware keeps in the entries, beside those who take entries away (R5): nothing is lost.

use slat::vm::SlotFlags;

use crate::run::{Scenario, both};
use crate::stage::{
    BY_HARDWARE, Guest, ModelWorker, PLAIN, READ, SLOT, Stage, WRITE, harvest, set_flags, two_workers, unmap,
};
use crate::tool::{Loom, Shuttle, Tool};
use crate::world::{REGION, Setup, World};

/// A guest writes to a clean page, without a fault, while a harvest runs.
pub const HARVEST: Scenario = Scenario::new("hardware_log/harvest", with_harvest::<Loom>, with_harvest::<Shuttle>);

/// As [`HARVEST`], beside an unmapping of the page.
pub const UNMAP: Scenario = Scenario::new("hardware_log/unmap", with_unmap::<Loom>, with_unmap::<Shuttle>);

/// As [`UNMAP`], of the table round the page.
pub const CUT: Scenario = Scenario::new("hardware_log/cut", cut::<Loom>, cut::<Shuttle>);

/// A written page is unmapped by one worker, the table round it by another; the last harvest follows. Two looks at an entry
/// where one was due once lost the page, which two preemptions do not show.
pub const UNMAP_TWICE: Scenario =
    Scenario::new("hardware_log/unmap_twice", unmap_twice::<Loom>, unmap_twice::<Shuttle>).with_preemptions(3);

/// The table round a written page is unmapped while a harvest runs; if that one is complete, nothing is left.
pub const CUT_HARVEST: Scenario =
    Scenario::new("hardware_log/cut_harvest", cut_harvest::<Loom>, cut_harvest::<Shuttle>);

/// One worker makes marks of what hardware has noted while another harvests; if that one is complete, nothing is left.
pub const GET: Scenario = Scenario::new("hardware_log/get", get::<Loom>, get::<Shuttle>);

/// The log is turned on while a guest writes through what it has cached.
pub const ENABLING: Scenario = Scenario::new("hardware_log/enabling", enabling::<Loom>, enabling::<Shuttle>);

/// Two workers turn the log on; a guest writes as soon as it is on for one of them: the other's walk loses nothing.
pub const ENABLING_TWICE: Scenario =
    Scenario::new("hardware_log/enabling_twice", enabling_twice::<Loom>, enabling_twice::<Shuttle>);

/// Write permission is withdrawn from a written page while a harvest runs.
pub const READ_ONLY: Scenario = Scenario::new("hardware_log/read_only", read_only::<Loom>, read_only::<Shuttle>);

const COUNT: u64 = 2;

/// A slot whose page 0 is mapped, writable and clean.
fn clean<T: Tool>(count: u64) -> (Stage<T>, ModelWorker<T>, Guest<T>) {
    let (stage, mut worker) = Stage::<T>::new(Setup::pages(count).with_hardware_dirty(), BY_HARDWARE);
    let mut guest = stage.guest(0);
    guest.reach(0, WRITE);
    harvest(&stage.world, &mut worker, stage.world.all_pages());
    (stage, worker, guest)
}

/// A write that needs no fault, as often as its walk is overtaken.
fn write<T: Tool>(guest: &mut Guest<T>) {
    guest.try_access(0, WRITE);
}

/// Harvests until one is complete, with all guests at rest: nothing may be unreported. No further writes are tried, as
/// [`Stage::last_harvest`] does: here they would need no fault, and put right what was lost.
pub(super) fn check<T: Tool>(stage: Stage<T>, mut worker: ModelWorker<T>) {
    let complete = (0..8).any(|_| harvest(&stage.world, &mut worker, stage.world.all_pages()));
    assert!(complete, "harvests of a guest that does nothing are complete at some time");
    stage.world.check_reported();
    stage.close(worker);
}

fn beside_write<T: Tool>(
    (stage, mut worker, mut guest): (Stage<T>, ModelWorker<T>, Guest<T>),
    work: impl FnOnce(&mut ModelWorker<T>) + Send + 'static,
) {
    let (_, worker) = both::<T, _, _>(
        move || {
            write(&mut guest);
            write(&mut guest);
        },
        move || {
            work(&mut worker);
            worker
        },
    );
    check(stage, worker);
}

fn with_harvest<T: Tool>() {
    let set = clean::<T>(COUNT);
    let world = set.0.world.clone();
    beside_write(set, move |worker| _ = harvest(&world, worker, world.all_pages()));
}

fn with_unmap<T: Tool>() {
    beside_write(clean::<T>(COUNT), |worker| unmap(worker, 0, 1));
}

fn cut<T: Tool>() {
    beside_write(clean::<T>(REGION), |worker| unmap(worker, 0, REGION));
}

/// Page 0 was written, without a fault; then two workers, and what is left.
fn beside_worker<T: Tool>(
    count: u64,
    one: impl FnOnce(&World<T>, &mut ModelWorker<T>) + Send + 'static,
    another: impl FnOnce(&World<T>, &mut ModelWorker<T>) + Send + 'static,
) {
    let (stage, worker, mut guest) = clean::<T>(count);
    write(&mut guest);
    drop(guest);
    let worker = two_workers(&stage, worker, one, another);
    check(stage, worker);
}

/// A harvest that, if it is complete, leaves nothing.
fn harvest_and_check<T: Tool>(world: &World<T>, worker: &mut ModelWorker<T>) {
    if harvest(world, worker, world.all_pages()) {
        world.check_reported();
    }
}

fn unmap_twice<T: Tool>() {
    let unmap_and_harvest = |world: &World<T>, worker: &mut _| {
        unmap(worker, 0, REGION);
        harvest_and_check(world, worker);
    };
    beside_worker::<T>(REGION, unmap_and_harvest, |_, other| unmap(other, 0, 1));
}

fn cut_harvest<T: Tool>() {
    beside_worker::<T>(REGION, harvest_and_check, |_, other| unmap(other, 0, REGION));
}

fn get<T: Tool>() {
    beside_worker::<T>(COUNT, harvest_and_check, |world, other| {
        other.get_dirty(SLOT, world.all_pages(), &mut [0]).expect("a logged slot");
    });
}

fn enabling<T: Tool>() {
    let (stage, mut worker) = Stage::<T>::new(Setup::pages(COUNT).with_hardware_dirty(), PLAIN);
    let mut guest = stage.guest(0);
    guest.reach(0, WRITE);
    guest.reach(1, READ);
    let world = stage.world.clone();
    let (mut guest, worker) = both::<T, _, _>(
        move || {
            write(&mut guest);
            write(&mut guest);
            guest
        },
        move || {
            set_flags(&mut worker, BY_HARDWARE);
            world.log_begins();
            worker
        },
    );
    write(&mut guest);
    drop(guest);
    check(stage, worker);
}

fn enabling_twice<T: Tool>() {
    let (stage, worker) = Stage::<T>::new(Setup::pages(COUNT).with_hardware_dirty(), PLAIN);
    let mut guest = stage.guest(0);
    guest.reach(0, WRITE);
    let enable_and_write = move |world: &World<T>, worker: &mut ModelWorker<T>| {
        set_flags(worker, BY_HARDWARE);
        world.log_begins();
        write(&mut guest);
    };
    let worker = two_workers(&stage, worker, enable_and_write, |_, other| set_flags(other, BY_HARDWARE));
    check(stage, worker);
}

fn read_only<T: Tool>() {
    beside_worker::<T>(
        COUNT,
        |world, worker| _ = harvest(world, worker, world.all_pages()),
        |_, other| set_flags(other, SlotFlags { read_only: true, ..BY_HARDWARE }),
    );
}
