//! Taking memory back by the host's own addresses, through the slots (R4).

mod common;

use common::*;
use slat::addr::{HostAddress, HostRange};
use slat::host::{Access, Flush, SlotId};
use slat::vm::*;
use std::sync::Arc;

const ALL: Budget = Budget::UNLIMITED;
/// Two slots show the same memory.
const FIRST: u64 = 0x4000_0000;
const SECOND: u64 = 0x1_0000_0000;
const MEMORY: u64 = 16 * BLOCK;

fn memory(start: u64, len: u64) -> HostRange {
    HostRange::with_len(HostAddress::new(start), len).unwrap()
}

fn slot_at(start: u64, len: u64, host: u64) -> NewSlot {
    NewSlot { host: HostAddress::new(host), ..slot(start, len) }
}

/// Slot 0 has two blocks of memory, slot 1 the second of them; slot 2 lies elsewhere.
fn shared() -> (Arc<TestVm>, Worker<Arc<TestVm>>, Vcpu<Arc<TestVm>>) {
    let vm = vm();
    let mut worker = Worker::new(vm.clone()).unwrap();
    worker.create_slot(SlotId(0), slot_at(FIRST, 2 * BLOCK, MEMORY)).unwrap();
    worker.create_slot(SlotId(1), slot_at(SECOND, BLOCK, MEMORY + BLOCK)).unwrap();
    worker.create_slot(SlotId(2), slot_at(0, BLOCK, 0)).unwrap();
    let vcpu = vcpu(&vm, 0);
    (vm, worker, vcpu)
}

#[test]
fn r4_all_that_lies_before_the_memory_is_unmapped_and_kept_out() {
    let (vm, mut worker, mut vcpu) = shared();
    vcpu.top_up(20).unwrap();
    for at in [FIRST, FIRST + BLOCK, SECOND, 0] {
        assert!(matches!(vcpu.fault(gpa(at), Access::Write), Outcome::Mapped { .. }));
    }
    vm.host().take_flushes();
    worker.top_up(4).unwrap();
    let mut open = worker.invalidate_host(memory(MEMORY + BLOCK + 5, 1)).unwrap();
    let progress = open.unmap(ALL);
    assert_eq!((progress.changed, progress.next), (2, None), "the page round the byte, in both slots");
    assert_eq!((mapping(&vm, FIRST + BLOCK), mapping(&vm, SECOND)), (None, None));
    assert!(mapping(&vm, FIRST + BLOCK + PAGE).is_some() && mapping(&vm, SECOND + PAGE).is_some());
    for at in [FIRST + BLOCK, SECOND] {
        assert_eq!(vcpu.fault(gpa(at), Access::Read), Outcome::Retry);
    }
    assert_eq!(vcpu.fault(gpa(0), Access::Write), Outcome::Spurious, "others are not disturbed");
    drop(open);
    assert!(matches!(vcpu.fault(gpa(SECOND), Access::Read), Outcome::Mapped { .. }));
    assert!(matches!(vcpu.fault(gpa(FIRST + BLOCK), Access::Read), Outcome::Mapped { .. }));
}

#[test]
fn r8_an_invalidation_of_memory_that_nobody_mapped_flushes_nothing() {
    let (vm, mut worker, _vcpu) = shared();
    for memory in [memory(MEMORY, 2 * BLOCK), memory(1 << 40, PAGE), memory(MEMORY, 0)] {
        assert_eq!(worker.invalidate_host(memory).unwrap().unmap(ALL).changed, 0);
    }
    assert_eq!(vm.host().take_flushes(), [] as [Flush; 0]);
}

#[test]
fn r9_unmapping_stops_after_its_budget_and_goes_on() {
    let (vm, mut worker, mut vcpu) = shared();
    vm.host().translate_with(|_, request| {
        slat::host::Translation::Run(slat::host::Run { largest: slat::addr::Level::PAGE, ..run(request) })
    });
    vcpu.top_up(20).unwrap();
    for page in 0..8 {
        let _ = vcpu.fault(gpa(FIRST + BLOCK + page * PAGE), Access::Write);
        let _ = vcpu.fault(gpa(SECOND + page * PAGE), Access::Write);
    }
    let mut open = worker.invalidate_host(memory(MEMORY + BLOCK, 8 * PAGE)).unwrap();
    let mut calls = 0;
    let mut changed = 0;
    loop {
        let progress = open.unmap(Budget::entries(3));
        (calls, changed) = (calls + 1, changed + progress.changed);
        assert!(progress.changed <= 3);
        if progress.is_done() {
            break;
        }
    }
    assert_eq!(changed, 16);
    assert!(calls >= 6, "{calls}");
}

#[test]
fn r4_no_slot_comes_or_goes_with_memory_that_is_being_taken_back() {
    let (vm, mut worker, _vcpu) = shared();
    let mut other = Worker::new(vm.clone()).unwrap();
    let open = worker.invalidate_host(memory(MEMORY + BLOCK, PAGE)).unwrap();
    let new = slot_at(2 * SECOND, BLOCK, MEMORY + BLOCK);
    assert_eq!(other.create_slot(SlotId(3), new), Err(SlotError::Invalidated));
    other.create_slot(SlotId(4), slot_at(3 * SECOND, BLOCK, MEMORY)).unwrap();
    assert!(!other.delete_slot(SlotId(1), ALL).unwrap().is_done(), "it is there as long as somebody looks through it");
    assert!(!other.move_slot(SlotId(0), gpa(4 * SECOND), ALL).unwrap().is_done());
    assert!(other.delete_slot(SlotId(2), ALL).unwrap().is_done(), "other memory, other slots");
    drop(open);
    assert!(other.delete_slot(SlotId(1), ALL).unwrap().is_done());
    assert!(other.move_slot(SlotId(0), gpa(4 * SECOND), ALL).unwrap().is_done());
    other.create_slot(SlotId(3), new).unwrap();
}

#[test]
fn r4_invalidations_of_host_memory_overlap_and_nest() {
    let (vm, mut worker, mut vcpu) = shared();
    let mut other = Worker::new(vm.clone()).unwrap();
    let outer = worker.invalidate_host(memory(MEMORY, 2 * BLOCK)).unwrap();
    let inner = other.invalidate_host(memory(MEMORY, PAGE)).unwrap();
    drop(outer);
    assert_eq!(vcpu.fault(gpa(FIRST), Access::Read), Outcome::Retry);
    drop(inner);
    assert!(matches!(vcpu.fault(gpa(FIRST), Access::Read), Outcome::Mapped { .. }));
}

#[test]
fn guest_ranges_of_host_memory_are_found() {
    let (_vm, mut worker, _vcpu) = shared();
    let mut found = Vec::new();
    worker.for_each_guest_range(memory(MEMORY + BLOCK + 1, PAGE), |_, range| found.push(range));
    found.sort_by_key(|range| range.start());
    assert_eq!(found, [range(FIRST + BLOCK, 2 * PAGE), range(SECOND, 2 * PAGE)]);
}

#[test]
fn a_vm_that_is_gone_refuses() {
    let (_vm, mut worker, vcpu) = shared();
    drop(vcpu);
    while worker.teardown(ALL) != Teardown::Done {}
    let refused = worker.invalidate_host(memory(MEMORY, PAGE)).map(drop);
    assert_eq!(refused, Err(InvalidateError::Range(RangeError::Gone)));
}

/// Leaked guards never close: what is left for others is finite, and said so.
#[test]
fn leaked_guards_run_out() {
    let (_vm, mut worker, _vcpu) = shared();
    for _ in 0..Config::default().workers {
        std::mem::forget(worker.invalidate_host(memory(1 << 40, PAGE)).unwrap());
    }
    assert_eq!(worker.invalidate_host(memory(1 << 40, PAGE)).map(drop), Err(InvalidateError::TooMany));
}
