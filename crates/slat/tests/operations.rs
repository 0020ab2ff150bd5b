//! The range operations beside faults: looking up, prefaulting, collapsing, ageing.

mod common;

use common::*;
use slat::addr::{Hpa, Level};
use slat::format::Kind;
use slat::host::{Access, Exposed, Flush, MemoryType, Permissions, SlotId, Translation};
use slat::vm::*;
use std::sync::{Arc, Mutex};

const BASE: u64 = 0x4000_0000;
const ALL: Budget = Budget::UNLIMITED;
const ONE: Level = Level::new(1);

fn pages_only(vm: &TestVm) {
    vm.host().translate_with(|_, request| Translation::Run(slat::host::Run { largest: Level::PAGE, ..run(request) }));
}

/// Two blocks; the first was split under a log that is off again, with page 0 writable.
fn split() -> (Arc<TestVm>, Worker<Arc<TestVm>>, Vcpu<Arc<TestVm>>) {
    let (vm, mut worker, mut vcpu) = vm_with_slot(BASE, 2 * BLOCK);
    assert!(matches!(vcpu.fault(gpa(BASE), Access::Read), Outcome::Mapped { level: ONE, .. }));
    set_flags(&mut worker, LOGGED);
    assert_eq!(vcpu.fault(gpa(BASE), Access::Write), Outcome::Relaxed { level: Level::PAGE });
    set_flags(&mut worker, PLAIN);
    vm.host().take_flushes();
    (vm, worker, vcpu)
}

#[test]
fn a_lookup_says_size_and_permissions_and_changes_nothing() {
    let (vm, mut worker, mut vcpu) = split();
    let said = |mapping: Option<Mapping>| mapping.map(|mapping| (mapping.level(), mapping.permissions));
    assert_eq!(said(vcpu.lookup(gpa(BASE + 5))), Some((Level::PAGE, Permissions::ALL)));
    assert_eq!(said(worker.lookup(gpa(BASE + PAGE))), Some((Level::PAGE, Permissions::READ_EXECUTE)));
    assert_eq!(vcpu.lookup(gpa(BASE + BLOCK)), None);
    assert_eq!(vcpu.lookup(gpa(u64::MAX)), None);
    let _ = vcpu.fault(gpa(BASE + BLOCK), Access::Read);
    assert_eq!(vcpu.lookup(gpa(BASE + BLOCK + 7 * PAGE)).map(|mapping| mapping.level()), Some(ONE));
    assert!(vm.host().take_flushes().is_empty());
}

#[test]
fn r7_a_table_collapses_in_place_behind_one_flush() {
    let (vm, mut worker, mut vcpu) = split();
    let kinds = Arc::new(Mutex::new(Vec::new()));
    let (seen, weak) = (kinds.clone(), Arc::downgrade(&vm));
    vm.host().on_flush(move |_, _| seen.lock().unwrap().extend(weak.upgrade().map(|vm| entry(&vm, BASE).2)));
    let progress = worker.collapse(range(BASE, 2 * BLOCK), Collapse::InPlace, ALL).unwrap();
    assert_eq!((progress.changed, progress.next), (1, None));
    assert_eq!(*kinds.lock().unwrap(), [Kind::Locked], "the parent is locked until the flush is over");
    assert_eq!(vm.host().take_flushes(), [Flush::Tables { range: range(BASE, BLOCK) }]);
    assert_eq!(mapping(&vm, BASE), Some((Hpa::new(FRAMES), ONE, false)), "permissions are intersected");
    assert_eq!(vm.statistics().leaves[..2], [0, 1]);
    assert_eq!(vcpu.fault(gpa(BASE), Access::Write), Outcome::Relaxed { level: ONE }, "may-write is kept");
    assert_eq!(worker.reclaim(ALL).awaiting, 0);
    let mut again = || worker.collapse(range(BASE, 2 * BLOCK), Collapse::InPlace, ALL).unwrap();
    assert_eq!(again().changed, 0, "nothing is left to do");
    assert!(vm.host().take_flushes().is_empty(), "and nothing to flush");
}

#[test]
fn r7_what_does_not_fit_is_thawed_and_stays() {
    let (vm, mut worker, mut vcpu) = split();
    assert!(worker.unmap(range(BASE + 511 * PAGE, PAGE), ALL).unwrap().is_done());
    let before: Vec<_> = (0..512).map(|page| entry(&vm, BASE + page * PAGE)).collect();
    vm.host().take_flushes();
    let progress = worker.collapse(range(BASE, 2 * BLOCK), Collapse::InPlace, ALL).unwrap();
    assert_eq!(progress.changed, 0, "a page is missing");
    assert!((0..512).all(|page| entry(&vm, BASE + page * PAGE) == before[page as usize]), "every child is as it was");
    assert!(vm.host().take_flushes().is_empty());

    // The missing page comes back from other memory.
    let moved = |request| slat::host::Run { largest: Level::PAGE, hpa: Hpa::new(FRAMES + GIB), ..run(request) };
    vm.host().translate_with(move |_, request| Translation::Run(moved(request)));
    assert!(matches!(vcpu.fault(gpa(BASE + 511 * PAGE), Access::Read), Outcome::Mapped { .. }));
    vm.host().translate_with(|_, request| Translation::Run(run(request)));
    assert_eq!(worker.collapse(range(BASE, BLOCK), Collapse::InPlace, ALL).unwrap().changed, 0, "one frame differs");
}

#[test]
fn r7_logged_slots_and_small_backing_are_not_collapsed() {
    let (vm, mut worker, _vcpu) = split();
    set_flags(&mut worker, LOGGED);
    assert_eq!(worker.collapse(range(BASE, BLOCK), Collapse::InPlace, ALL).unwrap().changed, 0);
    set_flags(&mut worker, PLAIN);
    pages_only(&vm);
    assert_eq!(worker.collapse(range(BASE, BLOCK), Collapse::InPlace, ALL).unwrap().changed, 0);
    assert_eq!(worker.collapse(range(BASE, BLOCK), Collapse::Lazily, ALL).unwrap().changed, 0);
    vm.host().translate_with(|_, request| Translation::Run(run(request)));
    assert_eq!(worker.collapse(range(BASE, BLOCK - PAGE), Collapse::InPlace, ALL).unwrap().changed, 0, "not covered");
    assert_eq!(vm.statistics().leaves[..2], [512, 0]);
}

#[test]
fn a_lazy_collapse_leaves_the_block_to_the_next_fault() {
    let (vm, mut worker, mut vcpu) = split();
    assert_eq!(worker.collapse(range(BASE, 2 * BLOCK), Collapse::Lazily, ALL).unwrap().changed, 1);
    assert_eq!(vm.host().take_flushes(), [Flush::Tables { range: range(BASE, BLOCK) }]);
    assert_eq!(mapping(&vm, BASE), None);
    assert!(matches!(vcpu.fault(gpa(BASE), Access::Write), Outcome::Mapped { level: ONE, writable: true }));
}

#[test]
fn a_write_after_the_log_is_off_collapses_its_table() {
    let (vm, _worker, mut vcpu) = split();
    assert_eq!(vcpu.fault(gpa(BASE + PAGE), Access::Write), Outcome::Relaxed { level: Level::PAGE });
    assert_eq!(mapping(&vm, BASE), Some((Hpa::new(FRAMES), ONE, false)));
    assert_eq!(vm.statistics().collapses, 1);
    assert_eq!(vcpu.fault(gpa(BASE + PAGE), Access::Write), Outcome::Relaxed { level: ONE });
    assert_eq!(vm.statistics().awaiting, 0, "the vCPU takes apart what it collapsed");
}

#[test]
fn a_gibibyte_collapses_from_blocks() {
    let (vm, mut worker, mut vcpu) = vm_with_slot(BASE, GIB);
    let whole = |request| slat::host::Run { largest: Level::new(2), ..run(request) };
    (0..512).for_each(|block| _ = vcpu.fault(gpa(BASE + block * BLOCK), Access::Write));
    vm.host().translate_with(move |_, request| Translation::Run(whole(request)));
    set_flags(&mut worker, LOGGED);
    worker.top_up(1).unwrap();
    assert!(worker.unmap(range(BASE, PAGE), ALL).unwrap().is_done());
    set_flags(&mut worker, PLAIN);
    assert!(worker.prefault(range(BASE, PAGE), Access::Read, ALL).unwrap().is_done());
    assert_eq!(worker.collapse(range(BASE, GIB), Collapse::InPlace, ALL).unwrap().changed, 2, "the block, then all");
    assert_eq!(vm.statistics().leaves[..3], [0, 0, 1]);
}

#[test]
fn a_gibibyte_of_blocks_is_dropped_whole() {
    let (vm, mut worker, mut vcpu) = vm_with_slot(BASE, GIB);
    (0..3).for_each(|block| _ = vcpu.fault(gpa(BASE + block * BLOCK), Access::Write));
    let whole = |request| slat::host::Run { largest: Level::new(2), ..run(request) };
    vm.host().translate_with(move |_, request| Translation::Run(whole(request)));
    assert_eq!(worker.collapse(range(BASE, GIB), Collapse::Lazily, ALL).unwrap().changed, 1);
    assert_eq!(vm.host().take_flushes(), [Flush::Tables { range: range(BASE, GIB) }]);
    assert!(matches!(vcpu.fault(gpa(BASE), Access::Write), Outcome::Mapped { level, .. } if level == Level::new(2)));
}

#[test]
fn prefaulting_fills_whole_tables_and_single_pages() {
    let (vm, mut worker, mut vcpu) = vm_with_slot(BASE, 4 * BLOCK);
    pages_only(&vm);
    let progress = worker.prefault(range(BASE + PAGE, 2 * BLOCK), Access::Write, ALL).unwrap();
    assert_eq!((progress.changed, progress.next), (511 + 1 + 1, None), "pages, a whole table, a page");
    assert_eq!(vm.statistics().leaves[0], 1024);
    for page in [1, 511, 512, 700, 1023, 1024] {
        let at = BASE + page * PAGE;
        assert_eq!(mapping(&vm, at), Some((Hpa::new(FRAMES + page * PAGE), Level::PAGE, true)), "page {page}");
        assert_eq!(vcpu.fault(gpa(at), Access::Write), Outcome::Spurious);
    }
    assert_eq!(mapping(&vm, BASE), None);
    assert_eq!(mapping(&vm, BASE + 1025 * PAGE), None);
    assert!(vm.host().take_flushes().is_empty());
}

#[test]
fn r5_prefaulting_with_write_access_marks_what_it_maps() {
    let (vm, mut worker, mut vcpu) = vm_with_slot(BASE, 2 * BLOCK);
    pages_only(&vm);
    set_flags(&mut worker, LOGGED);
    assert!(worker.prefault(range(BASE, BLOCK), Access::Read, ALL).unwrap().is_done());
    assert!(worker.prefault(range(BASE + BLOCK, BLOCK), Access::Write, ALL).unwrap().is_done());
    let (dirty, _) = harvest(&mut worker, Pages { first: 0, count: 1024 });
    assert_eq!(dirty, (512..1024).collect::<Vec<_>>());
    assert_eq!(vcpu.fault(gpa(BASE), Access::Write), Outcome::Relaxed { level: Level::PAGE }, "the rest waits for it");
}

#[test]
fn r4_prefaulting_beside_an_invalidation_publishes_nothing() {
    let (vm, mut worker, _vcpu) = vm_with_slot(BASE, BLOCK);
    pages_only(&vm);
    let mut other = Worker::new(vm.clone()).unwrap();
    let guard = other.invalidate(range(BASE + 9 * PAGE, PAGE)).unwrap();
    let progress = worker.prefault(range(BASE, BLOCK), Access::Write, ALL).unwrap();
    assert_eq!((progress.changed, progress.next), (0, Some(gpa(BASE))), "it asks to be called again");
    assert_eq!(mapping(&vm, BASE), None);
    drop(guard);
    assert!(worker.prefault(range(BASE, BLOCK), Access::Write, ALL).unwrap().is_done());
    assert_eq!(vm.statistics().leaves[0], 512);
}

#[test]
fn prefaulting_says_where_it_is_refused_and_survives_a_shortage() {
    let (vm, mut worker, _vcpu) = vm_with_slot(BASE, BLOCK);
    pages_only(&vm);
    let refused = worker.prefault(range(BASE, 2 * BLOCK), Access::Read, ALL);
    assert_eq!(refused, Err(PrefaultError::Refused(gpa(BASE + BLOCK), Outcome::NoSlot)));
    assert_eq!(vm.statistics().leaves[0], 512, "what was mapped stays");
    let (vm, mut worker, _vcpu) = vm_with_slot(BASE, BLOCK);
    vm.host().allowed.store(0, std::sync::atomic::Ordering::Relaxed);
    pages_only(&vm);
    assert_eq!(worker.prefault(range(BASE, BLOCK), Access::Read, ALL), Err(PrefaultError::OutOfMemory));
    assert_eq!(vm.statistics().leaves[0], 0);
    let unaligned = worker.prefault(range(BASE + 1, BLOCK), Access::Read, ALL);
    assert_eq!(unaligned, Err(PrefaultError::Range(RangeError::Unaligned)));
}

#[test]
fn memory_is_exposed_before_the_guest_sees_it_and_what_is_not_normal_is_not_executed() {
    let (vm, mut worker, mut vcpu) = vm_with_slot(BASE, 4 * BLOCK);
    let exposed = || std::mem::take(&mut *vm.host().exposed.lock().unwrap());
    let memory = MemoryType::Normal;
    let whole = |hpa, len| Exposed { hpa: Hpa::new(hpa), len, permissions: Permissions::ALL, memory };
    let _ = vcpu.fault(gpa(BASE), Access::Execute);
    assert_eq!(exposed(), [whole(FRAMES, BLOCK)], "a block");
    pages_only(&vm);
    let _ = vcpu.fault(gpa(BASE + BLOCK), Access::Read);
    let _ = vcpu.fault(gpa(BASE + BLOCK + PAGE), Access::Read);
    assert_eq!(exposed(), [whole(FRAMES + BLOCK, PAGE), whole(FRAMES + BLOCK + PAGE, PAGE)], "pages, either path");
    assert!(worker.prefault(range(BASE + 2 * BLOCK, BLOCK), Access::Read, ALL).unwrap().is_done());
    assert_eq!(exposed(), [whole(FRAMES + 2 * BLOCK, BLOCK)], "a table");
    let _ = (vcpu.fault(gpa(BASE), Access::Write), vcpu.fault(gpa(BASE + BLOCK), Access::Write));
    assert_eq!(exposed(), [], "what is seen already");

    for memory in [MemoryType::Device, MemoryType::NonCacheable] {
        let (vm, _worker, mut vcpu) = vm_with_slot(BASE, BLOCK);
        vm.host().translate_with(move |_, request| Translation::Run(slat::host::Run { memory, ..run(request) }));
        assert_eq!(vcpu.fault(gpa(BASE), Access::Execute), Outcome::Denied);
        assert!(matches!(vcpu.fault(gpa(BASE), Access::Write), Outcome::Mapped { .. }));
        assert_eq!(vcpu.lookup(gpa(BASE)).map(|mapping| mapping.permissions), Some(Permissions::READ_WRITE));
    }
}

#[test]
fn ageing_finds_what_was_used_since() {
    let (vm, mut worker, mut vcpu) = split();
    let _ = vcpu.fault(gpa(BASE + BLOCK), Access::Read);
    let all = range(BASE, 2 * BLOCK);
    assert_eq!(worker.test_young(all, ALL).unwrap(), Aged { next: None, young: 513 });
    assert_eq!(worker.age(all, ALL).unwrap().young, 513, "testing takes nothing");
    assert_eq!(worker.age(all, ALL).unwrap().young, 0);
    assert!(vm.host().take_flushes().is_empty(), "ageing flushes nothing");
    assert_eq!(vcpu.fault(gpa(BASE + 2 * PAGE), Access::Read), Outcome::Accessed { level: Level::PAGE });
    assert_eq!(vcpu.fault(gpa(BASE + BLOCK), Access::Read), Outcome::Accessed { level: ONE });
    assert_eq!(worker.age(all, ALL).unwrap().young, 2);
    let first = worker.age(all, Budget::entries(10)).unwrap();
    assert_eq!(first, Aged { next: Some(gpa(BASE + 10 * PAGE)), young: 0 }, "it keeps to its budget");
}

#[test]
fn a_slot_moves_with_its_memory_and_all_of_its_log_marked() {
    let (vm, mut worker, mut vcpu) = vm_with_slot(BASE, 2 * BLOCK);
    pages_only(&vm);
    set_flags(&mut worker, LOGGED);
    let _ = (vcpu.fault(gpa(BASE), Access::Write), vcpu.fault(gpa(BASE + BLOCK + PAGE), Access::Write));
    let to = BASE + BLOCK + PAGE; // overlaps the old place
    let first = worker.move_slot(SlotId(0), gpa(to), Budget::entries(1)).unwrap();
    assert!(!first.is_done());
    assert_eq!(vcpu.fault(gpa(BASE), Access::Write), Outcome::NoSlot, "gone from the first call on");
    assert_eq!(vcpu.fault(gpa(to + 2 * BLOCK - PAGE), Access::Read), Outcome::NoSlot, "and not yet there");
    assert_eq!(worker.move_slot(SlotId(0), gpa(BASE + GIB), ALL), Err(SlotError::Unfinished));
    let taken = worker.create_slot(SlotId(1), slot(BASE + 3 * BLOCK, BLOCK));
    assert_eq!(taken, Err(SlotError::Overlaps(SlotId(0))), "the new place is taken");
    while !worker.move_slot(SlotId(0), gpa(to), Budget::entries(1)).unwrap().is_done() {}
    assert_eq!(vcpu.fault(gpa(BASE), Access::Write), Outcome::NoSlot);
    assert_eq!(mapping(&vm, BASE + BLOCK + PAGE), None, "nothing of the old place is mapped");
    assert!(matches!(vcpu.fault(gpa(to), Access::Read), Outcome::Mapped { .. }));
    assert_eq!(mapping(&vm, to), Some((Hpa::new(FRAMES), Level::PAGE, false)), "the same memory");
    assert_eq!(harvest(&mut worker, Pages { first: 0, count: 1024 }).0.len(), 1024);
    assert!(worker.move_slot(SlotId(0), gpa(to), ALL).unwrap().is_done(), "it is there already");

    worker.create_slot(SlotId(1), slot(BASE + GIB, BLOCK)).unwrap();
    assert_eq!(worker.move_slot(SlotId(1), gpa(to - PAGE), ALL), Err(SlotError::Overlaps(SlotId(0))));
    assert_eq!(worker.move_slot(SlotId(1), gpa(to + 1), ALL), Err(SlotError::Unaligned));
    assert_eq!(worker.move_slot(SlotId(1), gpa(u64::MAX - PAGE + 1), ALL), Err(SlotError::OutOfRange));
    assert_eq!(worker.move_slot(SlotId(7), gpa(to), ALL), Err(SlotError::NoSuchSlot));
}

/// Seed 003's second complaint: a host that copies on write unmaps many small ranges under many vCPUs, most of which were
/// never mapped. Only what was mapped is flushed, each page once and exactly.
#[test]
fn r8_small_unmaps_under_many_vcpus_flush_what_was_mapped_and_nothing_else() {
    let (vm, mut worker, first) = vm_with_slot(BASE, BLOCK);
    drop(first);
    let mut vcpus: Vec<_> = (0..48).map(|id| vcpu(&vm, id)).collect();
    let shared =
        |request| slat::host::Run { largest: Level::PAGE, permissions: Permissions::READ_EXECUTE, ..run(request) };
    vm.host().translate_with(move |_, request| Translation::Run(shared(request)));
    for (vcpu, page) in vcpus.iter_mut().zip((0..512).step_by(10)) {
        assert!(matches!(vcpu.fault(gpa(BASE + page * PAGE), Access::Read), Outcome::Mapped { writable: false, .. }));
    }
    assert!(vm.host().take_flushes().is_empty(), "mapping flushes nothing");
    let hint = slat::host::Hint::Level(Level::PAGE);
    for page in 0..512 {
        let at = range(BASE + page * PAGE, PAGE);
        let mut invalidation = worker.invalidate(at).unwrap();
        assert!(invalidation.unmap(ALL).is_done());
        drop(invalidation);
        let mapped = page % 10 == 0 && page < 480;
        let expected = mapped.then_some(Flush::Leaves { range: at, level: hint });
        assert_eq!(vm.host().take_flushes(), Vec::from_iter(expected), "page {page}");
    }
    // The copy is there: one page replaced through one break.
    assert!(matches!(vcpus[0].fault(gpa(BASE), Access::Read), Outcome::Mapped { .. }));
    let copied = |request| slat::host::Run { largest: Level::PAGE, hpa: Hpa::new(FRAMES + GIB), ..run(request) };
    vm.host().translate_with(move |_, request| Translation::Run(copied(request)));
    assert!(matches!(vcpus[1].fault(gpa(BASE), Access::Write), Outcome::Mapped { writable: true, .. }));
    assert_eq!(vm.host().take_flushes(), [Flush::Leaves { range: range(BASE, PAGE), level: hint }]);
}
