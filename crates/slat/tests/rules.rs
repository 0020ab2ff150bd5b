//! The rules of the design, one by one, on a host that writes down what the engine does and interferes at its seams.
//!
//! The interleavings between seams are model-checked in `slat-model`.

mod common;

use common::*;
use slat::addr::{Hpa, Level};
use slat::format::Kind;
use slat::host::{Access, Flush, Hint, SlotId, Translation, VcpuId};
use slat::vm::*;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};

const BASE: u64 = 0x4000_0000;
const ALL: Budget = Budget::UNLIMITED;
const READ: Access = Access::Read;
const WRITE: Access = Access::Write;
const BLOCK_MAPPED: Outcome = Outcome::Mapped { level: Level::new(1), writable: true };
const PAGE_MAPPED: Outcome = Outcome::Mapped { level: Level::PAGE, writable: true };

/// Makes the backing allow pages only.
fn pages_only(vm: &TestVm) {
    vm.host().translate_with(|_, request| Translation::Run(slat::host::Run { largest: Level::PAGE, ..run(request) }));
}

fn pages(first: u64, count: u64) -> Pages {
    Pages { first, count }
}

#[test]
fn r1_an_entry_is_invalid_while_its_break_is_flushed() {
    let (vm, mut worker, mut vcpu) = vm_with_slot(BASE, 2 * BLOCK);
    assert_eq!(vcpu.fault(gpa(BASE), READ), BLOCK_MAPPED);
    set_flags(&mut worker, LOGGED);
    let kinds = Arc::new(Mutex::new(Vec::new()));
    let (seen, machine) = (kinds.clone(), Arc::downgrade(&vm));
    vm.host().on_flush(move |_, _| seen.lock().unwrap().extend(machine.upgrade().map(|vm| entry(&vm, BASE).2)));
    vm.host().take_flushes();
    assert_eq!(vcpu.fault(gpa(BASE), WRITE), Outcome::Relaxed { level: Level::PAGE });
    assert_eq!(*kinds.lock().unwrap(), [Kind::Locked], "broken, then flushed, then made");
    let level = Hint::Level(Level::new(1));
    assert_eq!(vm.host().take_flushes(), [Flush::Leaves { range: range(BASE, BLOCK), level }]);
    assert_eq!(mapping(&vm, BASE), Some((Hpa::new(FRAMES), Level::PAGE, true)));
    assert_eq!(mapping(&vm, BASE + PAGE), Some((Hpa::new(FRAMES + PAGE), Level::PAGE, false)), "populated");
    assert_eq!(vm.statistics().leaves[..2], [512, 0]);
}

#[test]
fn r2_a_table_is_freed_after_its_flush_and_after_those_who_may_see_it() {
    let (vm, mut worker, mut vcpu) = vm_with_slot(BASE, BLOCK);
    pages_only(&vm);
    assert_eq!(vcpu.fault(gpa(BASE), WRITE), PAGE_MAPPED);

    // Another vCPU stands inside the engine while the table is cut off.
    let (entered, inside) = mpsc::channel();
    let (leave, left) = mpsc::channel::<()>();
    let left = Mutex::new(left);
    vm.host().translate_with(move |_, _| {
        entered.send(()).unwrap();
        left.lock().unwrap().recv().unwrap();
        Translation::Denied
    });
    let mut other = self::vcpu(&vm, 1);
    let thread = std::thread::spawn(move || other.fault(gpa(BASE + PAGE), WRITE));
    inside.recv().unwrap();

    vm.host().take_flushes();
    let tables = vm.host().live_tables();
    assert!(worker.unmap(range(BASE, BLOCK), ALL).unwrap().is_done());
    assert_eq!(vm.host().take_flushes(), [Flush::Tables { range: range(BASE, BLOCK) }], "walk caches included");
    assert_eq!(mapping(&vm, BASE), None);
    assert_eq!(worker.reclaim(ALL), Reclaim { visited: 0, awaiting: 1 }, "somebody may still see it");
    assert_eq!(vm.statistics().awaiting, 1);

    leave.send(()).unwrap();
    assert_eq!(thread.join().unwrap(), Outcome::Denied);
    assert_eq!(worker.reclaim(ALL).awaiting, 0);
    drop(worker);
    assert!(vm.host().live_tables() < tables);
    assert_eq!(vm.statistics().leaves[0], 0);
    assert_eq!(vm.statistics().awaiting, 0);
}

/// Runs `interfere` on another worker between a fault's translation and its publication.
fn interfere(vm: &Arc<TestVm>, interfere: impl Fn(&mut Worker<Arc<TestVm>>) + Send + Sync + 'static) {
    let worker = Mutex::new(Worker::new(vm.clone()).unwrap());
    vm.host().translate_with(move |_, request| {
        interfere(&mut worker.lock().unwrap());
        Translation::Run(slat::host::Run { largest: Level::PAGE, ..run(request) })
    });
}

#[test]
fn r4_an_invalidation_between_translation_and_publication_refuses_the_fault() {
    let (vm, worker, mut vcpu) = vm_with_slot(BASE, BLOCK);
    drop(worker);
    interfere(&vm, |worker| drop(worker.invalidate(range(BASE, PAGE)).unwrap()));
    assert_eq!(vcpu.fault(gpa(BASE), WRITE), Outcome::Retry);
    assert_eq!(mapping(&vm, BASE), None, "the entry is as it was");
    assert_eq!(entry(&vm, BASE).2, Kind::Empty);
    interfere(&vm, |worker| {
        let _ = worker.unmap(range(BASE, PAGE), ALL).unwrap();
    });
    assert_eq!(vcpu.fault(gpa(BASE), WRITE), Outcome::Retry, "the one-shot form counts, too");
    vm.host().translate_with(|_, _| Translation::Denied); // lets go of the worker
}

#[test]
fn r4_a_fault_retries_while_an_invalidation_is_open_and_only_in_its_range() {
    let (_vm, mut worker, mut vcpu) = vm_with_slot(BASE, 4 * BLOCK);
    let open = worker.invalidate(range(BASE + BLOCK, BLOCK)).unwrap();
    assert_eq!(vcpu.fault(gpa(BASE + BLOCK + PAGE), READ), Outcome::Retry);
    assert_eq!(vcpu.fault(gpa(BASE), READ), BLOCK_MAPPED, "a neighbour is not disturbed");
    assert_eq!(vcpu.fault(gpa(BASE + 2 * BLOCK), READ), BLOCK_MAPPED);
    drop(open);
    assert_eq!(vcpu.fault(gpa(BASE + BLOCK + PAGE), READ), BLOCK_MAPPED);
}

#[test]
fn r4_a_busy_neighbour_starves_nobody_until_it_is_forgotten() {
    let (vm, worker, mut vcpu) = vm_with_slot(BASE, 4 * BLOCK);
    drop(worker);
    let outcome_after = |vcpu: &mut Vcpu<_>, page: u64, events: u64| {
        let worker = Mutex::new(Worker::new(vm.clone()).unwrap());
        vm.host().translate_with(move |_, request| {
            for _ in 0..events {
                let _ = worker.lock().unwrap().unmap(range(BASE + BLOCK, PAGE), ALL).unwrap();
            }
            Translation::Run(slat::host::Run { largest: Level::PAGE, ..run(request) })
        });
        vcpu.fault(gpa(BASE + page * PAGE), READ)
    };
    assert_eq!(outcome_after(&mut vcpu, 0, 1), PAGE_MAPPED);
    assert_eq!(outcome_after(&mut vcpu, 1, 16), PAGE_MAPPED);
    assert_eq!(outcome_after(&mut vcpu, 2, 17), Outcome::Retry, "more events than are remembered");
    vm.host().translate_with(|_, _| Translation::Denied);
}

#[test]
fn r4_more_open_invalidations_than_are_listed_stay_safe() {
    let (vm, worker, mut vcpu) = vm_with_slot(BASE, 16 * BLOCK);
    drop(worker);
    let mut workers: Vec<_> = (0..6).map(|_| Worker::new(vm.clone()).unwrap()).collect();
    let open: Vec<_> = workers
        .iter_mut()
        .enumerate()
        .map(|(i, worker)| worker.invalidate(range(BASE + i as u64 * BLOCK, BLOCK)).unwrap())
        .collect();
    for block in 0..6 {
        assert_eq!(vcpu.fault(gpa(BASE + block * BLOCK), READ), Outcome::Retry);
    }
    assert_eq!(vcpu.fault(gpa(BASE + 8 * BLOCK), READ), Outcome::Retry, "unlisted ones may be anywhere");
    drop(open);
    for block in 0..9 {
        assert_eq!(vcpu.fault(gpa(BASE + block * BLOCK), READ), BLOCK_MAPPED);
    }
}

#[test]
fn r4_invalidations_wider_than_a_region_are_seen_in_each() {
    let (_vm, mut worker, mut vcpu) = vm_with_slot(0, 100 * GIB);
    let open = worker.invalidate(range(GIB / 2, 80 * GIB)).unwrap();
    for at in [GIB, 40 * GIB, 80 * GIB] {
        assert_eq!(vcpu.fault(gpa(at), READ), Outcome::Retry);
    }
    drop(open);
    for at in [GIB, 40 * GIB, 80 * GIB, 99 * GIB] {
        assert_eq!(vcpu.fault(gpa(at), READ), BLOCK_MAPPED);
    }
}

#[test]
fn r5_writes_are_reported_once_and_again_after_the_next_write() {
    let (vm, mut worker, mut vcpu) = vm_with_slot(BASE, 2 * BLOCK);
    pages_only(&vm);
    set_flags(&mut worker, LOGGED);
    assert_eq!(vcpu.fault(gpa(BASE + 3 * PAGE), READ), Outcome::Mapped { level: Level::PAGE, writable: false });
    assert_eq!(vcpu.fault(gpa(BASE + 3 * PAGE), WRITE), Outcome::Relaxed { level: Level::PAGE });
    assert_eq!(vcpu.fault(gpa(BASE + 600 * PAGE), WRITE), PAGE_MAPPED);
    let (dirty, result) = harvest(&mut worker, pages(0, 1024));
    assert_eq!(dirty, [3, 600]);
    assert_eq!(result, Harvest { next: None, dirty: 2, complete: true, widened: false });
    assert!(!mapping(&vm, BASE + 3 * PAGE).unwrap().2 && !mapping(&vm, BASE + 600 * PAGE).unwrap().2);
    assert_eq!(harvest(&mut worker, pages(0, 1024)).0, []);
    assert_eq!(vcpu.fault(gpa(BASE + 3 * PAGE), WRITE), Outcome::Relaxed { level: Level::PAGE });
    assert_eq!(harvest(&mut worker, pages(0, 1024)).0, [3]);
}

#[test]
fn r5_what_is_marked_while_a_harvest_flushes_is_not_called_complete() {
    let (vm, mut worker, mut vcpu) = vm_with_slot(BASE, BLOCK);
    pages_only(&vm);
    set_flags(&mut worker, LOGGED);
    let _ = vcpu.fault(gpa(BASE), WRITE);
    let late = Mutex::new(self::vcpu(&vm, 1));
    vm.host().on_flush(move |_, _| {
        let _ = late.lock().unwrap().fault(gpa(BASE + 7 * PAGE), WRITE);
    });
    let (dirty, result) = harvest(&mut worker, pages(0, 512));
    assert_eq!((dirty, result.complete), (vec![0], false));
    vm.host().on_flush(|_, _| {});
    let (dirty, result) = harvest(&mut worker, pages(0, 512));
    assert_eq!((dirty, result.complete), (vec![7], true));
}

#[test]
fn r5_no_block_becomes_writable_under_the_log() {
    let (vm, mut worker, mut vcpu) = vm_with_slot(BASE, 2 * BLOCK);
    set_flags(&mut worker, LOGGED);
    assert_eq!(vcpu.fault(gpa(BASE), READ), Outcome::Mapped { level: Level::new(1), writable: false });
    assert_eq!(vcpu.fault(gpa(BASE), WRITE), Outcome::Relaxed { level: Level::PAGE });
    assert_eq!(vcpu.fault(gpa(BASE + BLOCK), WRITE), PAGE_MAPPED);
    assert_eq!(vm.statistics().leaves[1], 0);
    assert_eq!(harvest(&mut worker, pages(0, 1024)).0, [0, 512]);
}

#[test]
fn r5_any_page_range_can_be_read_cleared_and_taken() {
    let (vm, mut worker, mut vcpu) = vm_with_slot(BASE + 77 * PAGE, 1000 * PAGE);
    pages_only(&vm);
    set_flags(&mut worker, LOGGED);
    for page in [0, 1, 99, 434, 435, 436, 998, 999] {
        assert_eq!(vcpu.fault(gpa(BASE + (77 + page) * PAGE), WRITE), PAGE_MAPPED);
    }
    let mut bitmap = [u64::MAX; 1];
    assert_eq!(worker.get_dirty(SlotId(0), pages(434, 3), &mut bitmap), Ok(3));
    assert_eq!(bitmap, [0b111]);
    assert!(worker.clear_dirty(SlotId(0), pages(434, 3), &[0b101], ALL).unwrap().is_done());
    assert!(!mapping(&vm, BASE + (77 + 434) * PAGE).unwrap().2, "cleared, so protected");
    assert!(mapping(&vm, BASE + (77 + 435) * PAGE).unwrap().2, "not named, so left alone");
    assert_eq!(harvest(&mut worker, pages(1, 998)).0, [1, 99, 435, 998]);
    assert_eq!(harvest(&mut worker, pages(0, 1000)).0, [0, 999]);
}

#[test]
fn r5_an_initially_set_log_names_everything_and_protects_nothing_before_it_is_cleared() {
    let (vm, mut worker, mut vcpu) = vm_with_slot(BASE, BLOCK + 3 * PAGE);
    assert_eq!(vcpu.fault(gpa(BASE), WRITE), BLOCK_MAPPED);
    vm.host().take_flushes();
    set_flags(&mut worker, INITIALLY_SET);
    assert_eq!(vm.host().take_flushes(), []);
    assert!(mapping(&vm, BASE).unwrap().2);
    let mut bitmap = [0; 9];
    assert_eq!(worker.get_dirty(SlotId(0), pages(0, 515), &mut bitmap), Ok(515));
    // Clearing a part of a block splits it; the rest stays writable and marked.
    worker.top_up(1).unwrap();
    assert!(worker.clear_dirty(SlotId(0), pages(0, 64), &[u64::MAX], ALL).unwrap().is_done());
    assert_eq!(mapping(&vm, BASE), Some((Hpa::new(FRAMES), Level::PAGE, false)));
    assert_eq!(mapping(&vm, BASE + 64 * PAGE), Some((Hpa::new(FRAMES + 64 * PAGE), Level::PAGE, true)));
    assert_eq!(worker.get_dirty(SlotId(0), pages(0, 515), &mut bitmap), Ok(515 - 64));
    assert_eq!(vcpu.fault(gpa(BASE), WRITE), Outcome::Relaxed { level: Level::PAGE });
    assert_eq!(worker.get_dirty(SlotId(0), pages(0, 515), &mut bitmap), Ok(515 - 63));
}

#[test]
fn r5_bad_requests_of_the_log_are_refused_with_a_reason() {
    let (_vm, mut worker, _vcpu) = vm_with_slot(BASE, BLOCK);
    let mut bitmap = [0; 8];
    assert_eq!(worker.get_dirty(SlotId(0), pages(0, 512), &mut bitmap), Err(LogError::NotLogged));
    set_flags(&mut worker, LOGGED);
    assert_eq!(worker.get_dirty(SlotId(3), pages(0, 512), &mut bitmap), Err(LogError::NoSuchSlot));
    let out = Err(LogError::OutOfRange { slot_pages: 512 });
    assert_eq!(worker.get_dirty(SlotId(0), pages(1, 512), &mut bitmap), out);
    assert_eq!(worker.get_dirty(SlotId(0), pages(u64::MAX, 2), &mut bitmap), out);
    let short = LogError::BitmapTooShort { words: 8 };
    assert_eq!(worker.get_dirty(SlotId(0), pages(0, 450), &mut bitmap[..7]), Err(short));
    assert_eq!(worker.clear_dirty(SlotId(0), pages(0, 450), &bitmap[..7], ALL), Err(short));
    assert_eq!(worker.harvest(SlotId(0), pages(0, 450), &mut bitmap[..7], ALL), Err(short));
    assert_eq!(worker.get_dirty(SlotId(0), pages(512, 0), &mut []), Ok(0));
    assert_eq!(worker.harvest(SlotId(0), pages(512, 0), &mut [], ALL).unwrap().dirty, 0);
}

#[test]
fn r6_a_fault_begun_before_logging_does_not_publish_after() {
    let (vm, worker, mut vcpu) = vm_with_slot(BASE, BLOCK);
    drop(worker);
    interfere(&vm, |worker| {
        let _ = worker.set_flags(SlotId(0), LOGGED, ALL);
    });
    assert_eq!(vcpu.fault(gpa(BASE), WRITE), Outcome::Retry);
    assert_eq!(mapping(&vm, BASE), None);
    assert_eq!(vcpu.fault(gpa(BASE), WRITE), PAGE_MAPPED, "the next one is logged");
    vm.host().translate_with(|_, _| Translation::Denied);
    let mut worker = Worker::new(vm.clone()).unwrap();
    assert_eq!(harvest(&mut worker, pages(0, 512)).0, [0]);
}

#[test]
fn r6_narrowing_a_slot_takes_write_permission_for_good() {
    let (vm, mut worker, mut vcpu) = vm_with_slot(BASE, BLOCK);
    let _ = vcpu.fault(gpa(BASE), WRITE);
    set_flags(&mut worker, READ_ONLY);
    assert!(!mapping(&vm, BASE).unwrap().2);
    assert_eq!(vcpu.fault(gpa(BASE), WRITE), Outcome::Mmio, "not relaxed");
    set_flags(&mut worker, PLAIN);
    assert_eq!(vcpu.fault(gpa(BASE), WRITE), BLOCK_MAPPED);
    assert!(mapping(&vm, BASE).unwrap().2);
    assert_eq!(vm.statistics().leaves[1], 1);
}

#[test]
fn r6_changes_are_carried_on_in_steps_and_keep_others_out() {
    let (vm, mut worker, mut vcpu) = vm_with_slot(BASE, 8 * BLOCK);
    pages_only(&vm);
    vcpu.top_up(16).unwrap();
    (0..8).for_each(|block| assert_eq!(vcpu.fault(gpa(BASE + block * BLOCK), WRITE), PAGE_MAPPED));
    let mut bitmap = [0; 64];
    assert!(!worker.set_flags(SlotId(0), LOGGED, Budget::entries(1)).unwrap().is_done());
    assert_eq!(worker.set_flags(SlotId(0), READ_ONLY, ALL), Err(SlotError::Unfinished));
    assert_eq!(worker.get_dirty(SlotId(0), pages(0, 1), &mut bitmap), Err(LogError::Unfinished));
    let mut calls = 1;
    while !worker.set_flags(SlotId(0), LOGGED, Budget::entries(600)).unwrap().is_done() {
        calls += 1;
    }
    assert!(calls > 3, "{calls}");
    assert!((0..8).all(|block| !mapping(&vm, BASE + block * BLOCK).unwrap().2));

    assert!(!worker.delete_slot(SlotId(0), Budget::entries(1)).unwrap().is_done());
    assert_eq!(vcpu.fault(gpa(BASE + BLOCK + PAGE), READ), Outcome::NoSlot);
    assert_eq!(worker.create_slot(SlotId(0), slot(0, PAGE)), Err(SlotError::Unfinished));
    assert_eq!(worker.create_slot(SlotId(1), slot(BASE, PAGE)), Err(SlotError::Overlaps(SlotId(0))));
    assert_eq!(worker.set_flags(SlotId(0), PLAIN, ALL), Err(SlotError::NoSuchSlot));
    while !worker.delete_slot(SlotId(0), Budget::entries(1)).unwrap().is_done() {}
    assert_eq!(worker.create_slot(SlotId(0), slot(BASE, BLOCK)), Ok(()));
    assert_eq!(mapping(&vm, BASE), None);
}

#[test]
fn r8_nothing_is_flushed_when_nothing_was_changed() {
    let (vm, mut worker, mut vcpu) = vm_with_slot(BASE, 8 * BLOCK);
    assert!(worker.unmap(range(BASE, 8 * BLOCK), ALL).unwrap().is_done());
    assert!(worker.write_protect(range(BASE, 8 * BLOCK), ALL).unwrap().is_done());
    let _ = vcpu.fault(gpa(BASE), READ);
    assert!(worker.write_protect(range(BASE, 8 * BLOCK), ALL).unwrap().is_done());
    assert_eq!(vm.host().take_flushes().len(), 1);
    assert!(worker.write_protect(range(BASE, 8 * BLOCK), ALL).unwrap().is_done());
    assert_eq!(vm.host().take_flushes(), [], "already protected, and flushed by whoever did it");
}

#[test]
fn r8_what_the_log_withholds_already_is_made_read_only_without_a_flush() {
    let (vm, mut worker, mut vcpu) = vm_with_slot(BASE, 3 * BLOCK);
    assert_eq!(vcpu.fault(gpa(BASE + 2 * BLOCK), WRITE), BLOCK_MAPPED);
    pages_only(&vm);
    (0..4).for_each(|page| assert_eq!(vcpu.fault(gpa(BASE + page * PAGE), WRITE), PAGE_MAPPED));
    set_flags(&mut worker, LOGGED);
    assert_eq!(vcpu.fault(gpa(BASE + 2 * PAGE), WRITE), Outcome::Relaxed { level: Level::PAGE });
    let _ = worker.age(range(BASE, 3 * BLOCK), ALL).unwrap();
    vm.host().take_flushes();
    set_flags(&mut worker, READ_ONLY);
    let page = Flush::Leaves { range: range(BASE + 2 * PAGE, PAGE), level: Hint::Level(Level::PAGE) };
    assert_eq!(vm.host().take_flushes(), [page], "only what may be written to now, accessed or not");
    for at in [BASE, BASE + 2 * PAGE, BASE + 2 * BLOCK] {
        assert_eq!(vcpu.fault(gpa(at), WRITE), Outcome::Mmio, "what was withheld does not come back: {at:#x}");
    }
}

#[test]
fn r8_one_flush_of_the_exact_extent_a_batch() {
    let (vm, mut worker, mut vcpu) = vm_with_slot(BASE, 8 * BLOCK);
    let _ = (vcpu.fault(gpa(BASE + 2 * BLOCK), READ), vcpu.fault(gpa(BASE + 5 * BLOCK), READ));
    assert!(worker.write_protect(range(BASE, 8 * BLOCK), ALL).unwrap().is_done());
    let level = Hint::Level(Level::new(1));
    let exact = Flush::Leaves { range: range(BASE + 2 * BLOCK, 4 * BLOCK), level };
    assert_eq!(vm.host().take_flushes(), [exact]);
    pages_only(&vm);
    let _ = vcpu.fault(gpa(BASE), READ);
    assert!(worker.unmap(range(BASE, 3 * BLOCK), ALL).unwrap().is_done());
    assert_eq!(vm.host().take_flushes(), [Flush::Tables { range: range(BASE, 3 * BLOCK) }]);
}

#[test]
fn r8_long_extents_are_flushed_as_everything() {
    let (vm, mut worker, mut vcpu) = vm_with_slot(0, 4 * GIB);
    let _ = (vcpu.fault(gpa(0), READ), vcpu.fault(gpa(3 * GIB), READ));
    assert!(worker.write_protect(range(0, 4 * GIB), ALL).unwrap().is_done());
    assert_eq!(vm.host().take_flushes(), [Flush::All]);
    assert_eq!(vm.statistics().flushes_all, 1);
}

#[test]
fn r8_a_removed_entry_stays_locked_until_it_is_flushed() {
    let (vm, mut worker, mut vcpu) = vm_with_slot(BASE, 2 * BLOCK);
    let _ = (vcpu.fault(gpa(BASE), READ), vcpu.fault(gpa(BASE + BLOCK), READ));
    let kinds = Arc::new(Mutex::new(Vec::new()));
    let (seen, machine) = (kinds.clone(), Arc::downgrade(&vm));
    vm.host().on_flush(move |_, _| {
        if let Some(vm) = machine.upgrade() {
            seen.lock().unwrap().extend([entry(&vm, BASE).2, entry(&vm, BASE + BLOCK).2]);
        }
    });
    assert!(worker.unmap(range(BASE, 2 * BLOCK), ALL).unwrap().is_done());
    assert_eq!(*kinds.lock().unwrap(), [Kind::Locked, Kind::Locked]);
    assert_eq!(entry(&vm, BASE).2, Kind::Empty);
}

#[test]
fn r9_each_leaf_is_visited_once_whatever_the_batch() {
    for budget in [1, 7, 512, 1000] {
        let (vm, mut worker, mut vcpu) = vm_with_slot(BASE, 4 * BLOCK);
        pages_only(&vm);
        vcpu.top_up(16).unwrap();
        for page in 0..2048 {
            assert_eq!(vcpu.fault(gpa(BASE + page * PAGE), READ), PAGE_MAPPED);
        }
        let (mut at, mut changed, mut calls) = (BASE, 0, 0);
        loop {
            let left = range(at, BASE + 4 * BLOCK - at);
            let progress = worker.write_protect(left, Budget::entries(budget)).unwrap();
            (changed, calls) = (changed + progress.changed, calls + 1);
            match progress.next {
                Some(next) => at = next.get(),
                None => break,
            }
        }
        assert_eq!(changed, 2048);
        assert!(calls >= 2048 / budget, "{calls} calls of {budget}");
        assert_eq!(
            vm.host().take_flushes().len() as u64,
            calls.min(2048),
            "one flush for each call that changed something"
        );
    }
}

#[test]
fn r9_a_block_covered_in_part_is_split_when_a_table_is_at_hand_else_taken_whole() {
    let (vm, mut worker, mut vcpu) = vm_with_slot(BASE, BLOCK);
    let _ = vcpu.fault(gpa(BASE), READ);
    let progress = worker.write_protect(range(BASE, PAGE), ALL).unwrap();
    assert!(progress.widened && !mapping(&vm, BASE + PAGE).unwrap().2);
    assert_eq!(vcpu.fault(gpa(BASE), WRITE), Outcome::Relaxed { level: Level::new(1) });
    worker.top_up(1).unwrap();
    let progress = worker.write_protect(range(BASE, PAGE), ALL).unwrap();
    assert!(!progress.widened);
    assert_eq!(mapping(&vm, BASE), Some((Hpa::new(FRAMES), Level::PAGE, false)));
    assert_eq!(mapping(&vm, BASE + PAGE), Some((Hpa::new(FRAMES + PAGE), Level::PAGE, true)));
    let progress = worker.unmap(range(BASE + PAGE, PAGE), ALL).unwrap();
    assert_eq!((progress.changed, progress.widened), (1, false));
    assert!(mapping(&vm, BASE).is_some() && mapping(&vm, BASE + PAGE).is_none());
}

#[test]
fn r9_unmapping_a_part_of_a_block_without_tables_unmaps_it_whole_and_says_so() {
    let (vm, mut worker, mut vcpu) = vm_with_slot(BASE, BLOCK);
    let _ = vcpu.fault(gpa(BASE), READ);
    let progress = worker.unmap(range(BASE + PAGE, PAGE), ALL).unwrap();
    assert_eq!(progress, Progress { next: None, changed: 1, widened: true });
    assert_eq!(mapping(&vm, BASE + 9 * PAGE), None);
    let level = Hint::Level(Level::new(1));
    assert_eq!(vm.host().take_flushes(), [Flush::Leaves { range: range(BASE, BLOCK), level }], "what was removed");
}

#[test]
fn r11_everything_returns_to_zero_after_teardown() {
    let (vm, mut worker, mut vcpu) = vm_with_slot(BASE, 8 * BLOCK);
    let _ = vcpu.fault(gpa(BASE), READ);
    pages_only(&vm);
    (1..4).for_each(|block| assert_eq!(vcpu.fault(gpa(BASE + block * BLOCK), READ), PAGE_MAPPED));
    assert!(worker.unmap(range(BASE + BLOCK, BLOCK), ALL).unwrap().is_done());
    assert_eq!(vm.statistics().tables as usize, vm.host().live_tables());
    let mut steps = 0;
    while worker.teardown(Budget::entries(100)) == Teardown::More {
        steps += 1;
    }
    assert!(steps > 10, "{steps}");
    assert_eq!(vcpu.fault(gpa(BASE), READ), Outcome::Gone);
    assert_eq!(worker.unmap(range(BASE, BLOCK), ALL), Err(RangeError::Gone));
    assert_eq!(worker.create_slot(SlotId(5), slot(0, PAGE)), Err(SlotError::Gone));
    drop((worker, vcpu));
    let statistics = vm.statistics();
    assert_eq!((statistics.tables, statistics.leaves, statistics.awaiting), (0, [0; Level::COUNT], 0));
    assert_eq!((vm.host().live_tables(), vm.root()), (0, None));
}

#[test]
fn r11_what_a_worker_left_behind_is_freed_by_teardown_or_with_the_vm() {
    for torn_down in [true, false] {
        let (vm, mut worker, mut vcpu) = vm_with_slot(BASE, BLOCK);
        pages_only(&vm);
        let _ = vcpu.fault(gpa(BASE), READ);
        let mut other = Worker::new(vm.clone()).unwrap();
        assert!(other.unmap(range(BASE, BLOCK), ALL).unwrap().is_done());
        drop((other, vcpu));
        assert_eq!(vm.statistics().awaiting, 1);
        if torn_down {
            while worker.teardown(ALL) == Teardown::More {}
            drop(worker);
            assert_eq!(vm.host().live_tables(), 0);
        } else {
            drop(worker);
            let vm = Arc::into_inner(vm).unwrap();
            let counts = Arc::new(AtomicUsize::new(0));
            counts.store(vm.host().live_tables(), Ordering::Relaxed);
            drop(vm); // the host asserts that each table is freed once; the sanitizers that none is lost
            assert!(counts.load(Ordering::Relaxed) > 0);
        }
    }
}

#[test]
fn r11_at_the_bound_of_waiting_subtrees_unlinking_stops_and_unmapping_goes_on() {
    let (vm, mut worker, mut vcpu) = vm_with_slot(0, 100 * BLOCK);
    pages_only(&vm);
    for block in 0..100 {
        vcpu.top_up(2).unwrap();
        assert_eq!(vcpu.fault(gpa(block * BLOCK), READ), PAGE_MAPPED);
    }
    assert!(worker.unmap(range(0, 100 * BLOCK), ALL).unwrap().is_done());
    assert!((0..100).all(|block| mapping(&vm, block * BLOCK).is_none()));
    assert_eq!(vm.statistics().awaiting, 63, "one place is kept for the root");
    while worker.reclaim(Budget::entries(64)).awaiting > 0 {}
    assert_eq!(vm.statistics().leaves, [0; Level::COUNT]);
    drop(worker);
    drop(vcpu);
}

#[test]
fn handles_are_bounded_and_their_places_reused() {
    let vm = Arc::new(
        Vm::new(
            TestHost::new(),
            slat::format::Arm64::new(32).unwrap(),
            Config { vcpus: 1, workers: 1, ..Config::default() },
        )
        .unwrap(),
    );
    assert_eq!(Vcpu::new(vm.clone(), VcpuId(1)).unwrap_err(), JoinError::NoSuchVcpu);
    let first = Vcpu::new(vm.clone(), VcpuId(0)).unwrap();
    let second = Worker::new(vm.clone()).unwrap();
    assert_eq!(Worker::new(vm.clone()).unwrap_err(), JoinError::Full);
    drop(first);
    let third = Worker::new(vm.clone()).unwrap();
    drop((second, third));
    for config in [Config { vcpus: 0, ..Config::default() }, Config { workers: 70_000, ..Config::default() }] {
        assert_eq!(Vm::new(TestHost::new(), vm.format(), config).unwrap_err(), VmError::Config);
    }
}
