//! Blocks under the dirty log: a write splits its block, and only the page written is reported.

use slat::addr::{Gpa, Level};
use slat::host::SlotId;
use slat::vm::{Budget, Collapse};
use slat_machine::memory::Source;

use super::common::*;
use super::stage::Stage;

const BASE: u64 = 4 << 30;
const SLOT: SlotId = SlotId(0);

#[test]
fn a_write_splits_its_block_and_marks_its_page() {
    const PAGES: u64 = BLOCKS * BLOCK_PAGES;
    let machine = machine(BLOCKS * BLOCK, Source::AnonymousThp, 1);
    let vm = vm_with_memory(&machine, BASE);
    let mut vcpu = vcpu(&vm, 0);
    for page in 0..PAGES {
        vcpu.store(page_gpa(BASE, page), page).unwrap();
    }
    assert_eq!(vm.statistics().leaves[..2], [0, BLOCKS]);
    let mut worker = worker(&vm);
    assert_eq!(set_flags(&mut worker, SLOT, LOGGED, Budget::UNLIMITED), BLOCKS, "one entry a block");

    vcpu.store(page_gpa(BASE, 700), 7).unwrap();
    assert_eq!(vm.statistics().leaves[..2], [BLOCK_PAGES, BLOCKS - 1]);
    assert_eq!(vm.statistics().splits, 1);
    for page in 0..PAGES {
        assert_eq!(vcpu.load(page_gpa(BASE, page)), Ok(if page == 700 { 7 } else { page }));
    }
    assert_eq!(vm.statistics().splits, 1, "reading splits nothing");

    let mut bitmap = bitmap_for(all_pages(&machine));
    assert_eq!(worker.get_dirty(SLOT, all_pages(&machine), &mut bitmap), Ok(1));
    assert!(is_set(&bitmap, 700));
    let mut bitmap = bitmap_for(all_pages(&machine));
    assert_eq!(harvest(&mut worker, SLOT, all_pages(&machine), &mut bitmap, Budget::UNLIMITED), Ok(true));
    assert!((0..PAGES).all(|page| is_set(&bitmap, page) == (page == 700)));
}

#[test]
fn a_page_is_marked_once_a_round_and_faults_once_a_round() {
    let machine = machine(BLOCK, Source::AnonymousThp, 1);
    let vm = vm_with_memory(&machine, BASE);
    let (mut vcpu, mut worker) = (vcpu(&vm, 0), worker(&vm));
    set_flags(&mut worker, SLOT, LOGGED, Budget::UNLIMITED);
    for round in 0..5 {
        let before = vcpu.counts();
        for value in 0..3 {
            vcpu.store(page_gpa(BASE, 5), 10 * round + value).unwrap();
        }
        let faults = vcpu.counts() - before;
        let first = u64::from(round == 0);
        assert_eq!((faults.relaxed, faults.mapped), (1 - first, first), "round {round}: {faults:?}");
        let mut bitmap = bitmap_for(all_pages(&machine));
        let complete = harvest(&mut worker, SLOT, all_pages(&machine), &mut bitmap, Budget::UNLIMITED);
        assert_eq!((complete, bitmap[0]), (Ok(true), 1 << 5));
        assert!(bitmap[1..].iter().all(|&word| word == 0), "no other page");
    }
}

#[test]
fn initially_set_costs_nothing_until_it_is_cleared() {
    const PAGES: u64 = 2 * BLOCK_PAGES;
    let machine = machine(2 * BLOCK, Source::AnonymousThp, 1);
    let vm = vm_with_memory(&machine, BASE);
    let (mut vcpu, mut worker) = (vcpu(&vm, 0), worker(&vm));
    for page in 0..PAGES {
        vcpu.store(page_gpa(BASE, page), page).unwrap();
    }
    let flushes = machine.flushes();
    assert_eq!(set_flags(&mut worker, SLOT, LOGGED_INITIALLY_SET, Budget::UNLIMITED), 0);
    let before = vcpu.counts();
    for page in 0..PAGES {
        vcpu.store(page_gpa(BASE, page), page + 1).unwrap();
    }
    assert_eq!((vcpu.counts() - before).faults, 0, "still writable, marked already");
    assert_eq!(machine.flushes(), flushes);
    let mut bitmap = bitmap_for(all_pages(&machine));
    assert_eq!(worker.get_dirty(SLOT, all_pages(&machine), &mut bitmap), Ok(PAGES));
    clear_dirty(&mut worker, SLOT, all_pages(&machine), &bitmap, Budget::UNLIMITED).unwrap();
    assert_eq!(worker.get_dirty(SLOT, all_pages(&machine), &mut bitmap), Ok(0));
    vcpu.store(page_gpa(BASE, 9), 0).unwrap();
    assert_eq!(worker.get_dirty(SLOT, all_pages(&machine), &mut bitmap), Ok(1));
}

#[test]
fn without_the_log_blocks_are_writable_again_as_they_are() {
    let machine = machine(BLOCK, Source::AnonymousThp, 1);
    let vm = vm_with_memory(&machine, BASE);
    let (mut vcpu, mut worker) = (vcpu(&vm, 0), worker(&vm));
    vcpu.store(Gpa::new(BASE), 1).unwrap();
    set_flags(&mut worker, SLOT, LOGGED, Budget::UNLIMITED);
    set_flags(&mut worker, SLOT, UNLOGGED, Budget::UNLIMITED);
    vcpu.store(Gpa::new(BASE), 2).unwrap();
    assert_eq!(vm.statistics().leaves[..2], [0, 1], "nothing to split for");
}

/// Pages that differ in all that may differ, and at first one that is missing.
#[test]
fn a_table_of_any_size_collapses_in_place_once_all_of_it_fits() {
    let machine = machine(BLOCK, Source::AnonymousThp, 1);
    let vm = vm_with_memory(&machine, BASE);
    let (mut vcpu, mut worker, all) = (vcpu(&vm, 0), worker(&vm), range(BASE, BLOCK));
    (0..BLOCK_PAGES).for_each(|page| vcpu.store(page_gpa(BASE, page), page).unwrap());
    set_flags(&mut worker, SLOT, LOGGED, Budget::UNLIMITED);
    (0..BLOCK_PAGES).step_by(3).for_each(|page| vcpu.store(page_gpa(BASE, page), page + 1).unwrap());
    set_flags(&mut worker, SLOT, UNLOGGED, Budget::UNLIMITED);
    let _ = worker.age(range(BASE, 100 * PAGE_SIZE), Budget::UNLIMITED).unwrap();
    let last = range(BASE + BLOCK - PAGE_SIZE, PAGE_SIZE);
    assert!(worker.unmap(last, Budget::UNLIMITED).unwrap().is_done());
    // Everything, where leaves of two sizes may be cached.
    let flushed = || machine.flushes().tables + machine.flushes().all;
    let collapse = |worker: &mut TestWorker<'_, '_>| {
        let flushes = flushed();
        let changed = worker.collapse(all, Collapse::InPlace, Budget::UNLIMITED).unwrap().changed;
        (changed, flushed() - flushes, vm.statistics().leaves[..2].to_vec())
    };
    assert_eq!(collapse(&mut worker), (0, 0, vec![BLOCK_PAGES - 1, 0]), "a page is missing");
    let faults = vcpu.counts().faults;
    (0..BLOCK_PAGES).for_each(|page| _ = vcpu.load(page_gpa(BASE, page)).unwrap());
    assert_eq!(vcpu.counts().mapped, 2, "the block, and the page that was missing: all others are as they were");
    assert!(vcpu.counts().faults - faults <= 101, "and those that had been aged");
    assert_eq!(collapse(&mut worker), (1, 1, vec![0, 1]));
    let faults = vcpu.counts().faults;
    for page in 0..BLOCK_PAGES {
        assert_eq!(vcpu.load(page_gpa(BASE, page)), Ok(page + u64::from(page % 3 == 0)));
    }
    assert_eq!(vcpu.counts().faults, faults, "the guest takes no fault for it");
    vcpu.store(Gpa::new(BASE), 9).unwrap();
    assert_eq!(vm.statistics().leaves[..2], [0, 1], "may-write is kept");
}

#[test]
fn vcpus_that_split_one_block_together_lose_no_write() {
    const VCPUS: u32 = 4;
    const PAGES: u64 = 2 * BLOCK_PAGES;
    for round in 0..rounds(30) {
        let machine = machine(2 * BLOCK, Source::AnonymousThp, VCPUS);
        let vm = vm_with_memory(&machine, BASE);
        let mut worker = worker(&vm);
        vcpu(&vm, 0).store(Gpa::new(BASE), 0).unwrap();
        vcpu(&vm, 0).store(Gpa::new(BASE + BLOCK), 0).unwrap();
        set_flags(&mut worker, SLOT, LOGGED, Budget::UNLIMITED);
        std::thread::scope(|scope| {
            for id in 0..VCPUS {
                let vm = &vm;
                scope.spawn(move || {
                    let mut vcpu = vcpu(vm, id);
                    for page in (u64::from(id)..PAGES).step_by(VCPUS as usize) {
                        vcpu.store(page_gpa(BASE, page), page + round).unwrap();
                    }
                });
            }
        });
        assert!((0..PAGES).all(|page| machine.memory().load(page * PAGE_SIZE) == page + round));
        assert_eq!((vm.statistics().splits, vm.statistics().leaves[0]), (2, PAGES));
        let mut bitmap = bitmap_for(all_pages(&machine));
        assert_eq!(worker.get_dirty(SLOT, all_pages(&machine), &mut bitmap), Ok(PAGES), "every page was written");
    }
}

/// Readers and writers of one block while it is protected, split, unmapped and mapped as a block again.
#[test]
fn a_guest_sees_its_memory_whatever_size_of_leaf_maps_it() {
    const VCPUS: u32 = 3;
    let machine = machine(2 * BLOCK, Source::AnonymousThp, VCPUS);
    let vm = vm_with_memory(&machine, BASE);
    let stage = Stage::default();
    std::thread::scope(|scope| {
        let _curtain = stage.curtain();
        stage.writers(scope, &vm, (BASE, 2 * BLOCK_PAGES), (VCPUS, 31));
        let mut worker = worker(&vm);
        for _ in 0..rounds(100) {
            set_flags(&mut worker, SLOT, LOGGED, Budget::entries(1));
            stage.let_guests_act(2);
            let mut bitmap = bitmap_for(all_pages(&machine));
            harvest(&mut worker, SLOT, all_pages(&machine), &mut bitmap, Budget::UNLIMITED).unwrap();
            set_flags(&mut worker, SLOT, UNLOGGED, Budget::UNLIMITED);
            stage.let_guests_act(2);
            step_over(range(BASE, 2 * BLOCK), |part| worker.unmap(part, Budget::UNLIMITED));
            worker.reclaim(Budget::UNLIMITED);
            worker.top_up(8).unwrap();
        }
    });
}

/// As a migration begins: the log is turned on, and no write waits for a table.
#[test]
fn blocks_split_ahead_leave_faults_nothing_to_split() {
    const PAGES: u64 = BLOCKS * BLOCK_PAGES;
    let machine = machine(BLOCKS * BLOCK, Source::AnonymousThp, 1);
    let vm = vm_with_memory(&machine, BASE);
    let (mut vcpu, mut worker) = (vcpu(&vm, 0), worker(&vm));
    (0..PAGES).for_each(|page| vcpu.store(page_gpa(BASE, page), page).unwrap());
    set_flags(&mut worker, SLOT, LOGGED, Budget::UNLIMITED);
    assert_eq!(worker.split(range(BASE, BLOCKS * BLOCK), Level::PAGE, Budget::UNLIMITED).unwrap().changed, BLOCKS);
    assert_eq!(vm.statistics().leaves[..2], [PAGES, 0]);
    assert_tables_agree(&vm);
    let before = (vm.statistics().splits, vcpu.counts());
    for page in 0..PAGES {
        assert_eq!(vcpu.load(page_gpa(BASE, page)), Ok(page));
        vcpu.store(page_gpa(BASE, page), page + 1).unwrap();
    }
    let faults = vcpu.counts() - before.1;
    assert_eq!((faults.relaxed, faults.faults, vm.statistics().splits), (PAGES, PAGES, before.0));
    let mut bitmap = bitmap_for(all_pages(&machine));
    assert_eq!(worker.get_dirty(SLOT, all_pages(&machine), &mut bitmap), Ok(PAGES));
}

/// A worker splits in steps while guests write, another one harvests, and a third one makes blocks of it all again.
#[test]
fn guests_go_on_while_blocks_are_split_ahead() {
    const VCPUS: u32 = 2;
    let machine = machine(BLOCKS * BLOCK, Source::AnonymousThp, VCPUS);
    let vm = vm_with_memory(&machine, BASE);
    let stage = Stage::default();
    std::thread::scope(|scope| {
        let _curtain = stage.curtain();
        stage.writers(scope, &vm, (BASE, BLOCKS * BLOCK_PAGES), (VCPUS, BLOCK_PAGES / 14));
        let mut splitter = worker(&vm);
        let split = scope.spawn({
            let stage = &stage;
            move || {
                let mut split = 0;
                while stage.goes_on() {
                    split += splitter.split(range(BASE, BLOCKS * BLOCK), Level::PAGE, Budget::UNLIMITED).unwrap().changed;
                    splitter.reclaim(Budget::UNLIMITED);
                }
                split
            }
        });
        let mut worker = worker(&vm);
        for _ in 0..rounds(60) {
            set_flags(&mut worker, SLOT, LOGGED, Budget::UNLIMITED);
            stage.let_guests_act(1);
            let mut bitmap = bitmap_for(all_pages(&machine));
            harvest(&mut worker, SLOT, all_pages(&machine), &mut bitmap, Budget::UNLIMITED).unwrap();
            set_flags(&mut worker, SLOT, UNLOGGED, Budget::UNLIMITED);
            step_over(range(BASE, BLOCKS * BLOCK), |part| worker.collapse(part, Collapse::Lazily, Budget::UNLIMITED));
            worker.reclaim(Budget::UNLIMITED);
            stage.let_guests_act(1);
        }
        drop(_curtain);
        assert!(split.join().unwrap() > 0);
    });
    assert_tables_agree(&vm);
}
