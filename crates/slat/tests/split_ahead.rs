//! Splitting ahead of faults: what stays, what is flushed, what it costs, and what it does without memory.

mod common;

use common::*;
use slat::addr::{Hpa, Level};
use slat::format::{Arm64, Arm64Contiguous, Format, Kind};
use slat::host::{Access, Flush, Hint, SlotId, Translation};
use slat::vm::*;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

const BASE: u64 = 0x4000_0000;
const ALL: Budget = Budget::UNLIMITED;
const ONE: Level = Level::new(1);
const TWO: Level = Level::new(2);
/// Blocks split behind one flush.
const BATCH: u64 = 32;

/// So many blocks, all mapped.
fn blocks(count: u64) -> (Arc<TestVm>, Worker<Arc<TestVm>>, Vcpu<Arc<TestVm>>) {
    let (vm, worker, mut vcpu) = vm_with_slot(BASE, count * BLOCK);
    for block in 0..count {
        vcpu.top_up(8).unwrap();
        assert!(matches!(vcpu.fault(gpa(BASE + block * BLOCK), Access::Read), Outcome::Mapped { level: ONE, .. }));
    }
    vm.host().take_flushes();
    (vm, worker, vcpu)
}

#[test]
fn what_is_mapped_stays_as_it_is() {
    let (vm, mut worker, mut vcpu) = blocks(3);
    set_flags(&mut worker, LOGGED);
    let _ = vcpu.fault(gpa(BASE + BLOCK), Access::Write); // one is a table already
    let before: Vec<_> = (0..3 * 512).map(|page| mapping(&vm, BASE + page * PAGE)).collect();
    let progress = worker.split(range(BASE, 3 * BLOCK), Level::PAGE, ALL).unwrap();
    assert_eq!((progress.changed, progress.next, progress.widened), (2, None, false));
    for (page, before) in (0..).zip(before) {
        let (hpa, _, writable) = before.unwrap();
        assert_eq!(mapping(&vm, BASE + page * PAGE), Some((hpa, Level::PAGE, writable)), "page {page}");
    }
    assert_eq!((vm.statistics().leaves[..2].to_vec(), vm.statistics().splits), (vec![3 * 512, 0], 3));
    assert_eq!(vcpu.fault(gpa(BASE), Access::Write), Outcome::Relaxed { level: Level::PAGE }, "may-write is kept");
    vm.host().take_flushes();
    assert_eq!(worker.split(range(BASE, 3 * BLOCK), Level::PAGE, ALL).unwrap().changed, 0, "nothing is left");
    assert!(vm.host().take_flushes().is_empty(), "and nothing to flush");
}

#[test]
fn r8_many_blocks_share_one_flush_and_are_locked_until_it_is_over() {
    let (vm, mut worker, _) = blocks(BATCH + 1);
    let locked = Arc::new(Mutex::new(Vec::new()));
    let (seen, weak) = (locked.clone(), Arc::downgrade(&vm));
    vm.host().on_flush(move |_, _| {
        let is_locked = |vm: &Arc<TestVm>, block: &u64| entry(vm, BASE + block * BLOCK).2 == Kind::Locked;
        let count = weak.upgrade().map(|vm| (0..=BATCH).filter(|block| is_locked(&vm, block)).count());
        seen.lock().unwrap().extend(count);
    });
    assert_eq!(worker.split(range(BASE, (BATCH + 1) * BLOCK), Level::PAGE, ALL).unwrap().changed, BATCH + 1);
    let leaves = |start, blocks| Flush::Leaves { range: range(start, blocks * BLOCK), level: Hint::Level(ONE) };
    assert_eq!(vm.host().take_flushes(), [leaves(BASE, BATCH), leaves(BASE + BATCH * BLOCK, 1)]);
    assert_eq!(*locked.lock().unwrap(), [BATCH as usize, 1]);
}

#[test]
fn r9_a_budget_stops_it_between_blocks_and_it_goes_on_from_there() {
    let (vm, mut worker, _) = blocks(5);
    let whole = range(BASE, 5 * BLOCK);
    let mut next = Some(whole.start());
    let mut steps = 0;
    while let Some(at) = next {
        let progress = worker.split(whole.from(at), Level::PAGE, Budget::entries(1)).unwrap();
        assert!(progress.changed <= 1);
        next = progress.next;
        steps += 1;
    }
    assert_eq!((vm.statistics().splits, vm.statistics().leaves[1]), (5, 0));
    assert_eq!(steps, 6, "one call fetches tables, each other one splits a block");
}

#[test]
fn what_a_range_covers_in_part_is_split_and_nothing_beside_it() {
    let (vm, mut worker, _) = blocks(4);
    let progress = worker.split(range(BASE + BLOCK + PAGE, BLOCK), Level::PAGE, ALL).unwrap();
    assert_eq!(progress.changed, 2);
    let levels: Vec<_> = (0..4).map(|block| entry(&vm, BASE + block * BLOCK).0).collect();
    assert_eq!(levels, [ONE, Level::PAGE, Level::PAGE, ONE]);
}

#[test]
fn a_gigabyte_is_split_to_blocks_or_on_to_pages() {
    for (largest, splits, leaves) in [(TWO, 0, [0, 0, 1]), (ONE, 1, [0, 512, 0]), (Level::PAGE, 513, [512 * 512, 0, 0])]
    {
        let (vm, mut worker, mut vcpu) = vm_with_slot(GIB, GIB);
        vm.host().translate_with(|_, request| Translation::Run(slat::host::Run { largest: TWO, ..run(request) }));
        assert!(matches!(vcpu.fault(gpa(GIB), Access::Read), Outcome::Mapped { level: TWO, .. }));
        let progress = worker.split(range(GIB, GIB), largest, ALL).unwrap();
        assert_eq!((progress.changed, progress.next), (splits, None), "{largest:?}");
        assert_eq!(vm.statistics().leaves[..3], leaves, "{largest:?}");
        let last = mapping(&vm, GIB + GIB - PAGE).map(|(hpa, ..)| hpa);
        assert_eq!(last, Some(Hpa::new(FRAMES + GIB - PAGE)), "{largest:?}");
    }
}

#[test]
fn a_block_that_changed_meanwhile_is_split_as_it_is_now() {
    let (vm, mut worker, mut vcpu) = blocks(2);
    let mut other = Worker::new(vm.clone()).unwrap();
    // Both tables are filled, nothing is locked yet.
    set_hook(move |op| match op {
        Op::CompareExchange(_, Arm64::LOCKED) => {
            assert_eq!(other.write_protect(range(BASE + BLOCK, BLOCK), ALL).unwrap().changed, 1);
            false
        }
        _ => true,
    });
    let progress = worker.split(range(BASE, 2 * BLOCK), Level::PAGE, ALL).unwrap();
    assert_eq!((progress.changed, progress.next), (2, None));
    assert_eq!(mapping(&vm, BASE).map(|(.., writable)| writable), Some(true));
    assert_eq!(mapping(&vm, BASE + BLOCK).map(|(.., writable)| writable), Some(false), "what was withheld stays so");
    assert_eq!(vcpu.fault(gpa(BASE + BLOCK), Access::Write), Outcome::Relaxed { level: Level::PAGE });
}

#[test]
fn r10_without_memory_it_says_so_and_what_was_split_stays() {
    let (vm, mut worker, _) = blocks(4);
    vm.host().allowed.store(3, Ordering::Relaxed);
    let whole = range(BASE, 4 * BLOCK);
    assert_eq!(worker.split(whole, Level::PAGE, ALL), Err(SplitError::OutOfMemory));
    assert_eq!((vm.statistics().splits, vm.statistics().leaves[..2].to_vec()), (3, vec![3 * 512, 1]));
    let last = range(BASE + 3 * BLOCK, BLOCK);
    assert_eq!(worker.split(last, Level::PAGE, Budget::entries(1)), Err(SplitError::OutOfMemory), "at any budget");
    vm.host().allowed.store(usize::MAX, Ordering::Relaxed);
    assert_eq!(worker.split(whole, Level::PAGE, ALL).unwrap().changed, 1);
}

#[test]
fn ranges_that_make_no_sense_are_refused() {
    let (_vm, mut worker, _) = blocks(1);
    let refused = |range| worker.split(range, Level::PAGE, ALL);
    let errors = [range(BASE + 1, PAGE), range(1 << 40, PAGE)].map(refused);
    assert_eq!(errors, [RangeError::Unaligned, RangeError::OutOfRange].map(|error| Err(SplitError::Range(error))));
    assert_eq!(worker.split(range(BASE, BLOCK), Level::new(4), ALL).map(|progress| progress.changed), Ok(0));
    while worker.teardown(ALL) == Teardown::More {}
    assert_eq!(worker.split(range(BASE, BLOCK), Level::PAGE, ALL), Err(SplitError::Range(RangeError::Gone)));
}

#[test]
fn r1_a_group_of_blocks_is_dissolved_first() {
    let vm = Arc::new(Vm::new(TestHost::new(), Arm64Contiguous::new(40).unwrap(), Config::default()).unwrap());
    let mut worker = Worker::new(vm.clone()).unwrap();
    worker.create_slot(SlotId(0), slot(BASE, 32 * BLOCK)).unwrap();
    let mut vcpu = vcpu(&vm, 0);
    assert!(matches!(vcpu.fault(gpa(BASE), Access::Read), Outcome::Mapped { .. }));
    assert_eq!((vm.statistics().groups, vm.statistics().leaves[1]), (1, 16));
    let progress = worker.split(range(BASE + 3 * BLOCK, BLOCK), Level::PAGE, ALL).unwrap();
    assert_eq!((progress.changed, progress.next), (1, None));
    assert_eq!((vm.statistics().dissolutions, vm.statistics().leaves[..2].to_vec()), (1, vec![512, 15]));
    for block in 0..16 {
        let hpa = mapping(&vm, BASE + block * BLOCK).map(|(hpa, ..)| hpa);
        assert_eq!(hpa, Some(Hpa::new(FRAMES + block * BLOCK)), "block {block}");
    }
}
