//! A VM with as many slots as KVM allows: how long it takes to make them, and what a fault pays that has to search.

use std::cell::RefCell;
use std::hint::black_box;
use std::time::Duration;

use criterion::Criterion;
use slat::addr::{Gpa, Level};
use slat::host::Access;
use slat::vm::Outcome;
use slat_bench::stage::{BLOCK, PAGE, Stage, range};

use crate::clock::{rounds, shuffled, time};

const SLOTS: u64 = 32_764;
/// For the time of making slots.
const FEW_SLOTS: u64 = 1024;
/// From one slot, a page long, to the next: the page between belongs to none.
const STRIDE: u64 = 2 * PAGE;

/// Times them all, and returns their names. The slots are made and mapped once.
pub(crate) fn bench(criterion: &mut Criterion) -> Vec<&'static str> {
    let stage = RefCell::new(None);
    let numbers = shuffled(SLOTS);
    let make = || stage_with_slots(SLOTS);
    criterion.bench_function("map_4k_32764_slots", |bencher| {
        let mut stage = stage.borrow_mut();
        let stage = stage.get_or_insert_with(make);
        bencher.iter_custom(|count| map_over(stage, &numbers, count));
    });
    criterion.bench_function("slot_search_32764_slots", |bencher| {
        let mut stage = stage.borrow_mut();
        let stage = stage.get_or_insert_with(make);
        bencher.iter_custom(|count| search(stage, &numbers, count));
    });
    criterion.bench_function("create_1024_slots", |bencher| bencher.iter_custom(create));
    vec!["map_4k_32764_slots", "slot_search_32764_slots", "create_1024_slots"]
}

fn stage_with_slots(slots: u64) -> Stage {
    let mut stage = Stage::empty(Level::PAGE);
    let took = time(|| add_slots(&mut stage, slots));
    println!("{slots} slots made, one by one, in {:.2} s", took.as_secs_f64());
    for slot in 0..slots {
        stage.vcpu.top_up(4).expect("memory");
        stage.fault(slot * STRIDE, Access::Write);
    }
    unmap_pages(&mut stage);
    stage
}

fn add_slots(stage: &mut Stage, slots: u64) {
    (0..slots).for_each(|slot| stage.create_slot(slot as u32, range(slot * STRIDE, PAGE), None));
}

/// Unmaps all pages. No call covers a table, so they stay.
fn unmap_pages(stage: &mut Stage) {
    for table in 0..(SLOTS * STRIDE).div_ceil(BLOCK) {
        stage.unmap_range(range(table * BLOCK, BLOCK - PAGE));
    }
}

/// Making this many slots, one by one, in an empty VM.
fn create(count: u64) -> Duration {
    rounds(count, 1, |_| {
        let mut stage = Stage::empty(Level::PAGE);
        time(|| add_slots(&mut stage, FEW_SLOTS))
    })
}

/// Whole faults that map, each in another slot than the one before it.
fn map_over(stage: &mut Stage, numbers: &[u64], count: u64) -> Duration {
    rounds(count, SLOTS, |count| {
        let now = &numbers[..count as usize];
        let took = time(|| now.iter().for_each(|slot| black_box(&mut *stage).fault(slot * STRIDE, Access::Write)));
        unmap_pages(stage);
        took
    })
}

/// Faults between the slots: nothing but a walk that finds nothing, and a search that finds nothing.
fn search(stage: &mut Stage, numbers: &[u64], count: u64) -> Duration {
    let gaps: Vec<Gpa> = numbers.iter().map(|number| Gpa::new(number * STRIDE + PAGE)).collect();
    rounds(count, SLOTS, |count| {
        time(|| {
            for &gap in &gaps[..count as usize] {
                let outcome = black_box(&mut stage.vcpu).fault(gap, Access::Write);
                assert_eq!(outcome, Outcome::NoSlot);
            }
        })
    })
}
