//! The host takes guest memory back at random, under guests that write to it: some ranges move, others are lost and come
//! back as zeros, as after a balloon or a hole punched into a file.
//!
//! Each vCPU has a word of its own in every page and knows what it has to hold. A page that is lost gets a new
//! *generation*, counted when its old frame is poisoned and before its invalidation ends: who reads a new generation
//! before an access sees nothing of what was there before.

use std::ops::Range;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{Acquire, Release};

use slat::host::SlotId;
use slat::vm::Worker;
use slat_machine::Machine;
use slat_machine::machine::Maintenance;
use slat_machine::memory::{Replacement, Source};

use super::common::*;
use super::dice::{Dice, seeds};
use super::stage::Stage;

const BASE: u64 = (3 << 30) - 2 * BLOCK;
const SLOT: SlotId = SlotId(0);
const VCPUS: u32 = 3;
/// Three blocks, unless they are too large to be moved about: then pages alone.
const BYTES: u64 = if HAS_BLOCKS { 3 * BLOCK } else { 6 * MIB };
const HAS_BLOCKS: bool = PAGE_SIZE <= 16 << 10;
const PAGES: u64 = BYTES / PAGE_SIZE;
/// Pages that are taken back together, now and then.
const PIECE: u64 = if HAS_BLOCKS { BLOCK_PAGES } else { 512 };
const MEMORY: u64 = 2 * BYTES;
const ROUNDS: u64 = rounds(100);
/// What the guests do between two rounds.
const ACTS: u64 = 100;

/// How often each page was lost.
struct Generations(Vec<AtomicU64>);

impl Generations {
    fn new() -> Self {
        Self((0..PAGES).map(|_| AtomicU64::new(0)).collect())
    }

    fn of(&self, page: u64) -> u64 {
        self.0[page as usize].load(Acquire)
    }

    /// The host alone counts.
    fn count(&self, page: u64) {
        self.0[page as usize].fetch_add(1, Release);
    }
}

/// What a vCPU knows of its word in one page.
#[derive(Clone, Copy, Default)]
struct Known {
    value: u64,
    /// The page was lost while the value was written, before it or after it.
    or_zero: bool,
    /// As of this generation.
    generation: u64,
}

impl Known {
    fn after_store(value: u64, before: u64, after: u64) -> Self {
        Self { value, or_zero: before != after, generation: after }
    }

    /// Judges a word that was read while the page's generation went from `before` to `after`.
    fn after_load(self, found: u64, before: u64, after: u64) -> Self {
        let lost = before != self.generation;
        let may_be_lost = lost || after != before || self.or_zero;
        let holds = !lost && found == self.value;
        assert!(
            holds || (may_be_lost && found == 0),
            "{found:#x} after {before} to {after}; known: {:#x} as of {}",
            self.value,
            self.generation
        );
        // What was counted meanwhile is over now.
        let value = if after == before { found } else { 0 };
        Self { value, or_zero: false, generation: after }
    }
}

/// A vCPU's program.
struct Owner {
    id: u32,
    dice: Dice,
    known: Vec<Known>,
    written: u64,
}

impl Owner {
    fn new(id: u32, seed: u64) -> Self {
        let known = vec![Known::default(); PAGES as usize];
        Self { id, dice: Dice(seed.wrapping_mul(977) ^ u64::from(id) << 40), known, written: 0 }
    }

    fn act(&mut self, vcpu: &mut TestVcpu<'_, '_>, generations: &Generations) {
        let page = self.dice.below(PAGES);
        let gpa = page_gpa(BASE, page).checked_add(8 * u64::from(self.id)).unwrap();
        let before = generations.of(page);
        let known = &mut self.known[page as usize];
        if self.dice.below(2) == 0 {
            let found = vcpu.load(gpa).unwrap_or_else(|error| panic!("vCPU {}: {error}", self.id));
            *known = known.after_load(found, before, generations.of(page));
        } else {
            self.written += 1;
            let value = self.written << 8 | u64::from(self.id + 1);
            vcpu.store(gpa, value).unwrap_or_else(|error| panic!("vCPU {}: {error}", self.id));
            *known = Known::after_store(value, before, generations.of(page));
        }
    }
}

/// A page, a few, or whole blocks; now and then with ragged ends.
fn draw_pages(dice: &mut Dice) -> Range<u64> {
    let (start, count) = match dice.below(4) {
        0 => (dice.below(PAGES), 1),
        1 => (dice.below(PAGES), 1 + dice.below(40)),
        2 => (dice.below(PAGES / PIECE) * PIECE, PIECE),
        _ => (dice.below(PAGES), 1 + dice.below(PAGES)),
    };
    start..(start + count).min(PAGES)
}

fn replace(machine: &Machine, worker: &mut TestWorker<'_, '_>, dice: &mut Dice, generations: &Generations) {
    let places = machine.places().unwrap();
    let pages = draw_pages(dice);
    let how = if dice.below(2) == 0 { Replacement::Move } else { Replacement::Discard };
    let budget = dice.budget();
    let bytes = (pages.end - pages.start) * PAGE_SIZE;
    let mut invalidation = worker.invalidate(range(BASE + pages.start * PAGE_SIZE, bytes)).unwrap();
    while !invalidation.unmap(budget).is_done() {}
    places.replace(machine.memory(), pages.clone(), how).unwrap();
    if how == Replacement::Discard {
        pages.for_each(|page| generations.count(page));
    }
}

fn guests_keep_what_the_host_keeps(source: Source, seed: u64, remain: bool) {
    let machine = machine_that_moves(MEMORY, BYTES, source, VCPUS);
    let vm = vm(&machine);
    worker(&vm).create_slot(SLOT, slot(BASE, BYTES, 0)).unwrap();
    let (stage, generations) = (Stage::default(), Generations::new());
    std::thread::scope(|scope| {
        let (_curtain, generations) = (stage.curtain(), &generations);
        for id in 0..VCPUS {
            let mut owner = Owner::new(id, seed);
            stage.guest(scope, &vm, id, move |vcpu| {
                vcpu.remain_in_guest(remain);
                owner.act(vcpu, generations);
            });
        }
        let (mut worker, mut dice) = (worker(&vm), Dice(seed));
        for _ in 0..ROUNDS {
            stage.let_guests_act(ACTS);
            replace(&machine, &mut worker, &mut dice, generations);
            if dice.below(8) == 0 {
                worker.top_up(8).unwrap();
                worker.reclaim(dice.budget());
            }
        }
    });
    machine.places().unwrap().check(machine.memory()).unwrap();
    if remain && machine.walker().maintenance() == Maintenance::Request {
        let requests = machine.requests();
        assert!(requests.sent > 0 && requests.acknowledged > 0 && requests.invalidations > 0, "{requests:?}");
    }
    let mut worker = Worker::new(&vm).unwrap();
    assert_tables_agree(&vm);
    tear_down(&mut worker, Dice(!seed).budget());
    drop(worker);
    assert_nothing_held(vm.statistics(), &machine);
}

#[test]
fn pages_that_are_taken_back_are_moved_or_lost_and_nothing_else() {
    seeds().for_each(|seed| guests_keep_what_the_host_keeps(Source::Anonymous, seed, false));
}

#[test]
fn blocks_that_are_taken_back_are_moved_or_lost_and_nothing_else() {
    seeds().for_each(|seed| guests_keep_what_the_host_keeps(Source::AnonymousThp, seed, false));
}

/// vCPUs that leave their guest for faults and interrupts only: where flushes are requested, they have to be asked.
#[test]
fn guests_that_never_rest_keep_what_the_host_keeps() {
    for source in [Source::Anonymous, Source::AnonymousThp] {
        seeds().for_each(|seed| guests_keep_what_the_host_keeps(source, seed, true));
    }
}
