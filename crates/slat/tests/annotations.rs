//! Notes in the place of memory: stored high, divided where a part goes, kept through everything else (R4, R7).

mod common;

use std::sync::{Arc, Mutex};

use common::*;
use slat::addr::Level;
use slat::format::{Arm64, Format, Kind};
use slat::host::{Access, SlotId, Translation};
use slat::vm::*;

const BASE: u64 = 0x4000_0000;
const ALL: Budget = Budget::UNLIMITED;
const ONE: Level = Level::new(1);
const TWO: Level = Level::new(2);
const NOTE: u64 = 0x2a;

fn annotated(level: Level) -> Outcome {
    Outcome::Annotated { level }
}

fn pages_only(vm: &TestVm) {
    vm.host().translate_with(|_, request| Translation::Run(slat::host::Run { largest: Level::PAGE, ..run(request) }));
}

#[test]
fn an_annotation_takes_the_place_of_what_was_mapped_behind_one_flush() {
    let (vm, mut worker, mut vcpu) = vm_with_slot(BASE, 2 * BLOCK);
    let _ = vcpu.fault(gpa(BASE), Access::Write);
    vm.host().take_flushes();
    assert_eq!(worker.annotate(range(BASE, BLOCK), NOTE, ALL).unwrap().changed, 1);
    assert_eq!(vm.host().take_flushes().len(), 1);
    assert_eq!(vcpu.fault(gpa(BASE + 5 * PAGE), Access::Read), annotated(ONE));
    assert_eq!((vcpu.annotation(gpa(BASE)), worker.annotation(gpa(BASE + BLOCK))), (Some(NOTE), None));
    assert!(matches!(vcpu.fault(gpa(BASE + BLOCK), Access::Read), Outcome::Mapped { .. }), "the neighbour is served");
    assert_eq!(worker.annotate(range(BASE, BLOCK), NOTE, ALL).unwrap().changed, 0, "it says so already");
    assert!(vm.host().take_flushes().is_empty(), "nothing was cached of it");
}

#[test]
fn an_annotation_stands_in_as_few_entries_as_there_can_be() {
    let (vm, mut worker, mut vcpu) = vm_with_slot(BASE, GIB);
    pages_only(&vm);
    (0..3).for_each(|block| _ = vcpu.fault(gpa(BASE + block * BLOCK), Access::Write));
    assert_eq!(worker.annotate(range(BASE, GIB), NOTE, ALL).unwrap().changed, 1, "the table above goes as a whole");
    assert_eq!(vcpu.fault(gpa(BASE + GIB - 1), Access::Read), annotated(TWO));
    assert_eq!(worker.reclaim(ALL).awaiting, 0);
    assert_eq!(vm.statistics().leaves[0], 0);
}

#[test]
fn a_part_of_a_block_is_split_and_the_rest_stays_mapped() {
    let (vm, mut worker, mut vcpu) = vm_with_slot(BASE, BLOCK);
    let _ = vcpu.fault(gpa(BASE), Access::Write);
    assert_eq!(worker.annotate(range(BASE + 3 * PAGE, 2 * PAGE), NOTE, ALL).unwrap().changed, 2);
    assert_eq!(vm.statistics().leaves[..2], [510, 0]);
    assert_eq!(vcpu.fault(gpa(BASE + 2 * PAGE), Access::Write), Outcome::Spurious);
    assert_eq!(vcpu.fault(gpa(BASE + 4 * PAGE), Access::Write), annotated(Level::PAGE));
}

#[test]
fn r7_unmapping_keeps_annotations() {
    let (vm, mut worker, mut vcpu) = vm_with_slot(BASE, 2 * BLOCK);
    pages_only(&vm);
    (0..8).for_each(|page| _ = vcpu.fault(gpa(BASE + page * PAGE), Access::Write));
    assert!(worker.annotate(range(BASE + 3 * PAGE, PAGE), NOTE, ALL).unwrap().is_done());
    assert!(worker.unmap(range(0, 512 * GIB), ALL).unwrap().is_done());
    assert_eq!(vm.statistics().leaves[0], 0);
    assert_eq!(vcpu.fault(gpa(BASE + 3 * PAGE), Access::Read), annotated(Level::PAGE));
    while !worker.delete_slot(SlotId(0), ALL).unwrap().is_done() {}
    assert_eq!(vcpu.annotation(gpa(BASE + 3 * PAGE)), Some(NOTE), "it belongs to the address, not to the slot");
}

#[test]
fn r7_a_table_with_an_annotation_does_not_collapse() {
    let (vm, mut worker, mut vcpu) = vm_with_slot(BASE, 2 * BLOCK);
    let _ = vcpu.fault(gpa(BASE), Access::Write);
    assert!(worker.annotate(range(BASE + 3 * PAGE, PAGE), NOTE, ALL).unwrap().is_done());
    for how in [Collapse::InPlace, Collapse::Lazily] {
        assert_eq!(worker.collapse(range(BASE, BLOCK), how, ALL).unwrap().changed, 0);
    }
    assert_eq!(vm.statistics().leaves[..2], [511, 0], "and loses nothing by it");
    assert_eq!(worker.clear_annotations(range(0, 512 * GIB), ALL).unwrap().changed, 1);
    let _ = vcpu.fault(gpa(BASE + 3 * PAGE), Access::Write);
    assert_eq!(worker.collapse(range(BASE, BLOCK), Collapse::InPlace, ALL).unwrap().changed, 1);
}

#[test]
fn a_part_of_a_large_annotation_is_cleared_and_the_rest_stays() {
    let (vm, mut worker, mut vcpu) = vm_with_slot(BASE, GIB);
    assert!(worker.annotate(range(BASE, GIB), NOTE, ALL).unwrap().is_done());
    assert_eq!(worker.clear_annotations(range(BASE + BLOCK + PAGE, PAGE), ALL).unwrap().changed, 1);
    assert!(matches!(vcpu.fault(gpa(BASE + BLOCK + PAGE), Access::Read), Outcome::Mapped { level: Level::PAGE, .. }));
    assert_eq!(vcpu.fault(gpa(BASE + BLOCK), Access::Read), annotated(Level::PAGE));
    assert_eq!(vcpu.fault(gpa(BASE), Access::Read), annotated(ONE));
    assert!(vm.host().take_flushes().is_empty());
    assert!(worker.unmap(range(BASE, GIB), ALL).unwrap().is_done());
    assert_eq!(vcpu.fault(gpa(BASE + BLOCK), Access::Read), annotated(Level::PAGE), "the divided table is kept, too");
}

#[test]
fn a_shortage_of_tables_is_reported_and_the_call_can_be_repeated() {
    let (vm, mut worker, mut vcpu) = vm_with_slot(BASE, 2 * BLOCK);
    let _ = vcpu.fault(gpa(BASE), Access::Write);
    vm.host().allowed.store(0, std::sync::atomic::Ordering::Relaxed);
    let part = range(BASE + PAGE, BLOCK);
    assert_eq!(worker.annotate(part, NOTE, ALL), Err(AnnotateError::OutOfMemory));
    assert_eq!(mapping(&vm, BASE).map(|(_, level, write)| (level, write)), Some((ONE, true)), "the block is as it was");
    vm.host().allowed.store(1, std::sync::atomic::Ordering::Relaxed);
    assert_eq!(worker.annotate(part, NOTE, ALL), Err(AnnotateError::OutOfMemory), "the second end takes another one");
    vm.host().allowed.store(9, std::sync::atomic::Ordering::Relaxed);
    assert!(worker.annotate(part, NOTE, ALL).unwrap().is_done());
    assert_eq!(mapping(&vm, BASE).map(|(_, level, _)| level), Some(Level::PAGE));
    assert_eq!(worker.annotation(gpa(BASE + BLOCK)), Some(NOTE));
    assert_eq!(worker.annotation(gpa(BASE + BLOCK + PAGE)), None);
    vm.host().allowed.store(0, std::sync::atomic::Ordering::Relaxed);
    assert!(worker.annotate(range(BASE + GIB, GIB), NOTE, ALL).unwrap().is_done(), "whole entries take none");
    assert_eq!(worker.clear_annotations(range(BASE + GIB, PAGE), ALL), Err(AnnotateError::OutOfMemory));
    assert_eq!(worker.annotation(gpa(BASE + GIB)), Some(NOTE));
}

#[test]
fn bad_annotations_are_refused_with_a_reason() {
    let (_vm, mut worker, mut vcpu) = vm_with_slot(BASE, BLOCK);
    let bits = Arm64::ANNOTATION.bits;
    let refused = worker.annotate(range(BASE, PAGE), 1 << bits, ALL);
    assert_eq!(refused, Err(AnnotateError::TooLarge { bits }));
    assert!(refused.unwrap_err().to_string().contains(&bits.to_string()));
    let unaligned = Err(AnnotateError::Range(RangeError::Unaligned));
    assert_eq!(worker.annotate(range(BASE + 1, PAGE), 1, ALL), unaligned);
    assert_eq!(worker.clear_annotations(range(BASE + 1, PAGE), ALL), unaligned);
    let outside = worker.annotate(range(1 << 40, PAGE), 1, ALL);
    assert_eq!(outside, Err(AnnotateError::Range(RangeError::OutOfRange)));
    let most = (1 << bits) - 1;
    for note in [0, most] {
        assert!(worker.annotate(range(BASE, PAGE), note, ALL).unwrap().is_done());
        assert_eq!(vcpu.annotation(gpa(BASE)), Some(note));
    }
    assert_eq!(vcpu.annotation(gpa(u64::MAX)), None);
}

#[test]
fn r4_what_was_looked_up_before_an_annotation_is_not_published_after_its_end() {
    let (vm, worker, mut vcpu) = vm_with_slot(BASE, BLOCK);
    let worker = Mutex::new(worker);
    vm.host().translate_with(move |_, request| {
        let mut worker = worker.lock().unwrap();
        assert!(worker.annotate(range(BASE, PAGE), NOTE, ALL).unwrap().is_done());
        assert!(worker.clear_annotations(range(BASE, PAGE), ALL).unwrap().is_done());
        Translation::Run(slat::host::Run { largest: Level::PAGE, ..run(request) })
    });
    assert_eq!(vcpu.fault(gpa(BASE), Access::Write), Outcome::Retry);
    assert_eq!(entry(&vm, BASE).2, Kind::Empty);
    vm.host().translate_with(|_, _| Translation::Denied); // lets go of the worker
}

#[test]
fn r8_a_removed_leaf_stays_locked_until_its_flush_is_over_then_says_the_annotation() {
    let (vm, mut worker, mut vcpu) = vm_with_slot(BASE, BLOCK);
    let _ = vcpu.fault(gpa(BASE), Access::Write);
    let kinds = Arc::new(Mutex::new(Vec::new()));
    let (seen, weak) = (kinds.clone(), Arc::downgrade(&vm));
    vm.host().on_flush(move |_, _| seen.lock().unwrap().extend(weak.upgrade().map(|vm| entry(&vm, BASE).2)));
    assert!(worker.annotate(range(BASE, BLOCK), NOTE, ALL).unwrap().is_done());
    assert_eq!(*kinds.lock().unwrap(), [Kind::Locked]);
    assert_eq!(vcpu.annotation(gpa(BASE)), Some(NOTE));
}

#[test]
fn r11_annotations_cost_nothing_after_teardown() {
    let (vm, mut worker, mut vcpu) = vm_with_slot(BASE, GIB);
    let _ = vcpu.fault(gpa(BASE), Access::Write);
    assert!(worker.annotate(range(BASE + PAGE, GIB), NOTE, ALL).unwrap().is_done());
    drop(vcpu);
    while worker.teardown(Budget::entries(100)) != Teardown::Done {}
    drop(worker);
    assert_eq!((vm.host().live_tables(), vm.statistics().leaves), (0, [0; Level::COUNT]));
}

/// Random operations on a few blocks, beside a list of what each page has to say.
#[test]
fn random_annotations_agree_with_a_list_of_pages() {
    const PAGES: u64 = 4 * 512;
    for seed in 1..40_u64 {
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mut random = move |below: u64| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state % below
        };
        let (vm, mut worker, mut vcpu) = vm_with_slot(BASE, PAGES * PAGE);
        let mut notes = vec![None; PAGES as usize];
        for _ in 0..60 {
            let (first, unit) = (random(PAGES), [1, 1, 64, 512][random(4) as usize]);
            let first = first / unit * unit;
            let count = (random(3 * unit) + 1).min(PAGES - first);
            let pages = range(BASE + first * PAGE, count * PAGE);
            let meant = first as usize..(first + count) as usize;
            let budget = Budget::entries(1 + random(600));
            match random(6) {
                0 | 1 => {
                    let note = random(3);
                    let mut rest = pages;
                    while let Some(next) = worker.annotate(rest, note, budget).unwrap().next {
                        rest = slat::addr::GpaRange::new(next, pages.end()).unwrap();
                    }
                    notes[meant].fill(Some(note));
                }
                2 => {
                    let mut rest = pages;
                    while let Some(next) = worker.clear_annotations(rest, budget).unwrap().next {
                        rest = slat::addr::GpaRange::new(next, pages.end()).unwrap();
                    }
                    notes[meant].fill(None);
                }
                3 => assert!(worker.unmap(pages, ALL).unwrap().is_done()),
                4 => {
                    let how = [Collapse::InPlace, Collapse::Lazily][random(2) as usize];
                    assert!(worker.collapse(pages, how, ALL).unwrap().is_done());
                }
                _ => {
                    vcpu.top_up(8).unwrap();
                    let _ = vcpu.fault(pages.start(), Access::Write);
                }
            }
            let _ = worker.reclaim(ALL);
        }
        for page in 0..PAGES {
            let at = gpa(BASE + page * PAGE);
            assert_eq!(vcpu.annotation(at), notes[page as usize], "seed {seed}, page {page}");
            vcpu.top_up(8).unwrap();
            let outcome = vcpu.fault(at, Access::Write);
            assert_eq!(matches!(outcome, Outcome::Annotated { .. }), notes[page as usize].is_some(), "seed {seed}");
        }
        drop(vcpu);
        while worker.teardown(ALL) != Teardown::Done {}
        drop(worker);
        assert_eq!((vm.host().live_tables(), vm.statistics().leaves), (0, [0; Level::COUNT]), "seed {seed}");
    }
}
