//! Everything at once, by seed: guests that know what they wrote, and workers that take it all away from under them.

use std::sync::Mutex;

use slat::addr::GpaRange;
use slat::host::{Access, SlotId, Translation};
use slat::vm::{Budget, Collapse, Pages, PrefaultError, SlotError, Worker};
use slat_machine::copy::Destination;
use slat_machine::memory::Source;
use slat_machine::{GuestError, Machine};

use super::common::*;
use super::dice::{Dice, seeds};
use super::stage::Stage;

const BASE: u64 = (3 << 30) - 2 * BLOCK;
const SLOT: SlotId = SlotId(0);
const VCPUS: u32 = 3;
const BYTES: u64 = 6 * MIB;
const PAGES: u64 = BYTES / PAGE_SIZE;
/// The same where blocks are split and collapsed: one at least.
const BYTES_OF_BLOCKS: u64 = if BLOCK > BYTES { BLOCK } else { BYTES };
const STEPS: u64 = 100;
/// What the guests do between two steps of a worker.
const ACTS: u64 = 60;

/// A guest that writes and reads its own pages, every third one, and knows what each has to hold.
struct Owner {
    id: u32,
    dice: Dice,
    written: Vec<u64>,
}

impl Owner {
    fn new(id: u32, seed: u64, bytes: u64) -> Self {
        let own = bytes / PAGE_SIZE / u64::from(VCPUS);
        Self { id, dice: Dice(seed ^ u64::from(id) << 32), written: vec![0; own as usize] }
    }

    fn page(&self, index: usize) -> u64 {
        index as u64 * u64::from(VCPUS) + u64::from(self.id)
    }

    /// One access. `excused` are the errors that may keep it from happening.
    fn act(&mut self, vcpu: &mut TestVcpu<'_, '_>, excused: impl Fn(&GuestError) -> bool) {
        let index = self.dice.below(self.written.len() as u64) as usize;
        let gpa = page_gpa(BASE, self.page(index));
        let value = self.written[index] + 1 + self.dice.below(1 << 20);
        let done = match self.dice.below(3) {
            0 => vcpu.load(gpa).map(|found| assert_eq!(found, self.written[index], "{gpa} in vCPU {}", self.id)),
            _ => vcpu.store(gpa, value).map(|()| self.written[index] = value),
        };
        if let Err(error) = done {
            assert!(excused(&error), "vCPU {}: {error}", self.id);
        }
    }
}

/// One operation of a worker on a random part of the slot.
fn disturb(worker: &mut TestWorker<'_, '_>, dice: &mut Dice, destination: &Mutex<Destination>, machine: &Machine) {
    // Locked, so that of two copies of a page the later one was read later.
    let copy = |first, bitmap: &[u64]| destination.lock().unwrap().copy_named(machine.memory(), first, bitmap);
    let first = dice.below(PAGES);
    let most = 1 + dice.below(PAGES);
    let count = 1 + dice.below(most.min(PAGES - first));
    let (pages, part) = (Pages { first, count }, range(BASE + first * PAGE_SIZE, count * PAGE_SIZE));
    let budget = dice.budget();
    match dice.below(9) {
        0 => _ = step_over(part, |part| worker.unmap(part, budget)),
        1 => _ = step_over(part, |part| worker.write_protect(part, budget)),
        2 | 3 => {
            let mut bitmap = bitmap_for(pages);
            harvest(worker, SLOT, pages, &mut bitmap, budget).unwrap();
            copy(first, &bitmap);
        }
        4 => {
            let mut bitmap = bitmap_for(pages);
            worker.get_dirty(SLOT, pages, &mut bitmap).unwrap();
            clear_dirty(worker, SLOT, pages, &bitmap, budget).unwrap();
            copy(first, &bitmap);
        }
        5 => _ = worker.top_up(dice.below(20) as usize),
        6 => prefault(worker, dice, part, budget),
        7 => _ = worker.age(part, budget).unwrap(),
        _ => _ = worker.reclaim(budget),
    }
}

/// Maps a range as far as it goes: tables may be short, and the backing busy.
fn prefault(worker: &mut TestWorker<'_, '_>, dice: &mut Dice, part: GpaRange, budget: Budget) {
    let access = if dice.below(2) == 0 { Access::Read } else { Access::Write };
    let mapped = worker.prefault(part, access, budget);
    assert!(matches!(mapped, Ok(_) | Err(PrefaultError::OutOfMemory)), "{mapped:?}");
}

/// Outside of any log: splits by taking parts away, and collapses again.
fn split_and_collapse(worker: &mut TestWorker<'_, '_>, dice: &mut Dice) {
    const PAGES: u64 = BYTES_OF_BLOCKS / PAGE_SIZE;
    let first = dice.below(PAGES);
    let part = range(BASE + first * PAGE_SIZE, (1 + dice.below(PAGES - first)) * PAGE_SIZE);
    let all = range(BASE, BYTES_OF_BLOCKS);
    let budget = dice.budget();
    match dice.below(8) {
        0 => _ = step_over(part, |part| worker.unmap(part, budget)),
        1 | 2 => _ = step_over(part, |part| worker.write_protect(part, budget)),
        3 => prefault(worker, dice, part, budget),
        4 => _ = worker.age(part, budget).unwrap(),
        5 => _ = worker.collapse(all, Collapse::InPlace, Budget::UNLIMITED).unwrap(),
        6 => _ = worker.collapse(part, Collapse::Lazily, budget).unwrap(),
        _ => _ = (worker.top_up(8), worker.reclaim(budget)),
    }
}

#[test]
fn blocks_are_split_and_collapsed_under_guests() {
    for seed in seeds() {
        let machine = machine(BYTES_OF_BLOCKS, Source::AnonymousThp, VCPUS);
        let vm = vm_with_memory(&machine, BASE);
        let stage = Stage::default();
        std::thread::scope(|scope| {
            let _curtain = stage.curtain();
            for id in 0..VCPUS {
                let mut owner = Owner::new(id, seed, BYTES_OF_BLOCKS);
                stage.guest(scope, &vm, id, move |vcpu| {
                    owner.act(vcpu, |error| matches!(error, GuestError::OutOfTables(_)));
                });
            }
            let (mut worker, mut dice) = (Worker::new(&vm).unwrap(), Dice(seed));
            for _ in 0..STEPS {
                stage.let_guests_act(ACTS);
                split_and_collapse(&mut worker, &mut dice);
            }
        });
        assert!(vm.statistics().collapses > 0);
        assert_tables_agree(&vm);
        let mut worker = Worker::new(&vm).unwrap();
        tear_down(&mut worker, Budget::entries(100));
        drop(worker);
        assert_nothing_held(vm.statistics(), &machine);
    }
}

/// Allocations that fail, and a backing that is busy or would block, now and then.
fn inject_trouble(machine: &Machine, seed: u64) {
    let dice = Mutex::new(Dice(seed));
    machine.inject_allocation(move |tables| tables == 1 && dice.lock().unwrap().below(3) == 0);
    let dice = Mutex::new(Dice(!seed));
    machine.inject_translation(move |request| match dice.lock().unwrap().below(4) {
        0 => Some(Translation::Retry),
        1 if !request.may_block => Some(Translation::WouldBlock),
        _ => None,
    });
}

fn stress(source: Source, seed: u64, workers: u64, trouble: bool) {
    let machine = machine(BYTES, source, VCPUS);
    let vm = vm_with_memory(&machine, BASE);
    let destination = Mutex::new(Destination::with_page_size(BYTES, PAGE_SIZE).unwrap());
    let flags = if seed.is_multiple_of(2) { LOGGED } else { LOGGED_INITIALLY_SET };
    set_flags(&mut Worker::new(&vm).unwrap(), SLOT, flags, Budget::entries(30));
    if trouble {
        inject_trouble(&machine, seed);
    }
    let stage = Stage::default();
    std::thread::scope(|scope| {
        let _curtain = stage.curtain();
        for id in 0..VCPUS {
            let mut owner = Owner::new(id, seed, BYTES);
            stage.guest(scope, &vm, id, move |vcpu| {
                owner.act(vcpu, |error| matches!(error, GuestError::OutOfTables(_)));
            });
        }
        let disturber = |number| {
            let _curtain = stage.curtain();
            let mut worker = Worker::new(&vm).unwrap();
            let mut dice = Dice(seed.wrapping_mul(31) + number);
            for _ in 0..STEPS {
                stage.let_guests_act(ACTS);
                disturb(&mut worker, &mut dice, &destination, &machine);
            }
        };
        let threads: Vec<_> = (0..workers).map(|number| scope.spawn(move || disturber(number))).collect();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
    });
    machine.clear_injections();
    nothing_is_lost_or_left(&machine, vm, &destination.into_inner().unwrap());
}

fn nothing_is_lost_or_left(machine: &Machine, vm: TestVm<'_>, destination: &Destination) {
    let mut worker = Worker::new(&vm).unwrap();
    let mut bitmap = bitmap_for(all_pages(machine));
    assert_eq!(harvest(&mut worker, SLOT, all_pages(machine), &mut bitmap, Budget::UNLIMITED), Ok(true));
    destination.copy_named(machine.memory(), 0, &bitmap);
    assert_eq!(destination.first_difference(machine.memory()), None, "a dirty page was lost");
    assert_tables_agree(&vm);
    tear_down(&mut worker, Budget::entries(100));
    drop(worker);
    assert_nothing_held(vm.statistics(), machine);
}

#[test]
fn one_worker_takes_pages_away() {
    seeds().for_each(|seed| stress(Source::Anonymous, seed, 1, false));
}

#[test]
fn one_worker_takes_blocks_away() {
    seeds().for_each(|seed| stress(Source::AnonymousThp, seed, 1, false));
}

#[test]
fn three_workers_take_everything_away() {
    seeds().for_each(|seed| stress(Source::AnonymousThp, seed, 3, false));
}

#[test]
fn with_failing_allocations_and_a_reluctant_backing() {
    seeds().for_each(|seed| stress(Source::AnonymousThp, seed, 2, true));
}

/// Logging is turned on and off, and the slot deleted and made again, under guests that count on their memory.
#[test]
fn flags_and_slots_that_change_all_the_time_lose_no_memory() {
    seeds().for_each(change_flags_and_slots);
}

fn change_flags_and_slots(seed: u64) {
    let machine = machine(BYTES, Source::AnonymousThp, VCPUS);
    let vm = vm_with_memory(&machine, BASE);
    let stage = Stage::default();
    std::thread::scope(|scope| {
        let _curtain = stage.curtain();
        for id in 0..VCPUS {
            let mut owner = Owner::new(id, seed, BYTES);
            stage.guest(scope, &vm, id, move |vcpu| {
                owner.act(vcpu, |error| matches!(error, GuestError::NoSlot(_)));
            });
        }
        let (mut worker, mut dice) = (worker(&vm), Dice(seed));
        for _ in 0..STEPS {
            stage.let_guests_act(ACTS);
            let budget = dice.budget();
            match dice.below(4) {
                0 => _ = set_flags(&mut worker, SLOT, LOGGED, budget),
                1 => _ = set_flags(&mut worker, SLOT, UNLOGGED, budget),
                2 => _ = set_flags(&mut worker, SLOT, LOGGED_INITIALLY_SET, budget),
                _ => {
                    delete_slot(&mut worker, SLOT, budget);
                    while let Err(error) = worker.create_slot(SLOT, slot(BASE, BYTES, 0)) {
                        assert_eq!(error, SlotError::Busy);
                    }
                }
            }
            worker.reclaim(Budget::UNLIMITED);
        }
    });
}
