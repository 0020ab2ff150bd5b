//! What faults map, and what they answer.

mod common;

use common::*;
use slat::addr::{GpaRange, HostAddress, Hpa, Level};
use slat::format::{Format, Kind};
use slat::host::{Access, Permissions, SlotId, Translation};
use slat::vm::{NewSlot, Outcome, SlotError, Vcpu};
use std::sync::atomic::Ordering;

const BASE: u64 = 0x4000_0000;

#[test]
fn maps_the_largest_size_that_slot_alignment_and_backing_allow() {
    let (vm, _worker, mut vcpu) = vm_with_slot(BASE, 8 * BLOCK);
    assert_eq!(vcpu.fault(gpa(BASE + 5), Access::Read), Outcome::Mapped { level: Level::new(1), writable: true });
    assert_eq!(mapping(&vm, BASE + 0x7000), Some((Hpa::new(FRAMES + 0x7000), Level::new(1), true)));
    assert_eq!(vm.statistics().leaves[1], 1);
}

#[test]
fn maps_pages_where_the_slot_is_not_aligned_with_its_backing() {
    let vm = vm();
    let mut worker = slat::vm::Worker::new(vm.clone()).unwrap();
    let slot = NewSlot { range: range(BASE + PAGE, 2 * BLOCK), host: HostAddress::new(0), flags: PLAIN };
    worker.create_slot(SlotId(0), slot).unwrap();
    let mut vcpu = vcpu(&vm, 0);
    assert_eq!(vcpu.fault(gpa(BASE + BLOCK), Access::Read), Outcome::Mapped { level: Level::PAGE, writable: true });
    assert_eq!(mapping(&vm, BASE + BLOCK), Some((Hpa::new(FRAMES + BLOCK - PAGE), Level::PAGE, true)));
}

#[test]
fn maps_pages_at_the_ends_of_a_slot() {
    let (vm, _worker, mut vcpu) = vm_with_slot(BASE, BLOCK + PAGE);
    assert_eq!(vcpu.fault(gpa(BASE), Access::Read), Outcome::Mapped { level: Level::new(1), writable: true });
    assert_eq!(vcpu.fault(gpa(BASE + BLOCK), Access::Read), Outcome::Mapped { level: Level::PAGE, writable: true });
    assert_eq!(vcpu.fault(gpa(BASE + BLOCK + PAGE), Access::Read), Outcome::NoSlot);
    assert_eq!(mapping(&vm, BASE + BLOCK + PAGE), None);
}

#[test]
fn a_gibibyte_is_mapped_by_one_leaf_where_everything_allows_it() {
    let (vm, _worker, mut vcpu) = vm_with_slot(BASE, GIB);
    vm.host().translate_with(|_, request| Translation::Run(slat::host::Run { largest: Level::new(2), ..run(request) }));
    assert_eq!(vcpu.fault(gpa(BASE + 12345), Access::Write), Outcome::Mapped { level: Level::new(2), writable: true });
    assert_eq!(mapping(&vm, BASE + 0x1234_5000), Some((Hpa::new(FRAMES + 0x1234_5000), Level::new(2), true)));
}

#[test]
fn addresses_without_memory_are_told_apart() {
    let (vm, mut worker, mut vcpu) = vm_with_slot(BASE, BLOCK);
    assert_eq!(vcpu.fault(gpa(0), Access::Read), Outcome::NoSlot);
    assert_eq!(vcpu.fault(gpa(1 << 40), Access::Read), Outcome::OutOfRange);
    set_flags(&mut worker, READ_ONLY);
    assert_eq!(vcpu.fault(gpa(BASE), Access::Write), Outcome::Mmio);
    assert_eq!(vcpu.fault(gpa(BASE), Access::Read), Outcome::Mapped { level: Level::new(1), writable: false });
    assert_eq!(vcpu.fault(gpa(BASE), Access::Write), Outcome::Mmio);
    vm.host().translate_with(|_, _| Translation::Denied);
    assert_eq!(vcpu.fault(gpa(BASE + PAGE), Access::Execute), Outcome::Spurious);
    while !worker.unmap(range(BASE, BLOCK), slat::vm::Budget::UNLIMITED).unwrap().is_done() {}
    assert_eq!(vcpu.fault(gpa(BASE + PAGE), Access::Execute), Outcome::Denied);
}

#[test]
fn r10_a_shortage_says_how_many_tables_are_missing_and_changes_nothing() {
    let (vm, _worker, vcpu) = vm_with_slot(BASE, BLOCK);
    drop(vcpu);
    vm.host().translate_with(|_, request| Translation::Run(slat::host::Run { largest: Level::PAGE, ..run(request) }));
    let mut vcpu = Vcpu::new(vm.clone(), slat::host::VcpuId(1)).unwrap();
    let before = vm.statistics();
    assert_eq!(vcpu.fault(gpa(BASE), Access::Write), Outcome::NeedTables(2));
    vcpu.top_up(1).unwrap();
    assert_eq!(vcpu.fault(gpa(BASE), Access::Write), Outcome::NeedTables(2));
    assert_eq!(entry(&vm, BASE).0, vm.format().geometry().root_level(), "nothing was linked");
    assert_eq!(vm.statistics().mapped, before.mapped);
    vcpu.top_up(2).unwrap();
    assert_eq!(vcpu.fault(gpa(BASE), Access::Write), Outcome::Mapped { level: Level::PAGE, writable: true });
}

#[test]
fn r10_an_allocation_that_fails_leaks_nothing() {
    for allowed in 0..6 {
        let (vm, _worker, vcpu) = vm_with_slot(BASE, BLOCK);
        drop(vcpu);
        vm.host().allowed.store(allowed, Ordering::Relaxed);
        let mut vcpu = Vcpu::new(vm.clone(), slat::host::VcpuId(0)).unwrap();
        assert_eq!(vcpu.top_up(5).is_ok(), allowed >= 5);
        let _ = vcpu.fault(gpa(BASE), Access::Write);
        drop(vcpu);
        assert_eq!(vm.statistics().tables, vm.host().live_tables() as u64);
    }
}

#[test]
fn r12_the_entry_decides_not_what_the_hardware_reported() {
    let (vm, mut worker, mut vcpu) = vm_with_slot(BASE, BLOCK);
    let _ = vcpu.fault(gpa(BASE), Access::Read);
    let translations = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let seen = translations.clone();
    vm.host().translate_with(move |_, request| {
        seen.fetch_add(1, Ordering::Relaxed);
        Translation::Run(run(request))
    });
    for access in [Access::Read, Access::Write, Access::Execute] {
        assert_eq!(vcpu.fault(gpa(BASE + PAGE), access), Outcome::Spurious);
    }
    assert_eq!(vm.host().local.load(Ordering::Relaxed), 3, "this CPU's stale copy was dropped");
    while !worker.write_protect(range(BASE, BLOCK), slat::vm::Budget::UNLIMITED).unwrap().is_done() {}
    assert_eq!(vcpu.fault(gpa(BASE), Access::Write), Outcome::Relaxed { level: Level::new(1) });
    assert_eq!(translations.load(Ordering::Relaxed), 0, "neither needed a translation");
}

#[test]
fn a_missing_accessed_flag_is_set() {
    let (vm, _worker, mut vcpu) = vm_with_slot(BASE, BLOCK);
    let _ = vcpu.fault(gpa(BASE), Access::Read);
    let format = vm.format();
    let (level, raw, _) = entry(&vm, BASE);
    let mut old = format.decode(raw, level);
    old.accessed = false;
    let above = word(&vm, vm.root().unwrap(), 1).load(Ordering::Relaxed);
    let table = format.table_address(above, Level::new(2));
    word(&vm, table, 0).store(format.leaf(old, level), Ordering::Relaxed);
    assert_eq!(vcpu.fault(gpa(BASE), Access::Read), Outcome::Accessed { level });
    assert_eq!(entry(&vm, BASE).1, raw);
}

#[test]
fn memory_that_was_mapped_read_only_moves_when_it_is_written() {
    // Copy on write: the host shows a shared frame for reading, another one for writing.
    let (vm, _worker, mut vcpu) = vm_with_slot(BASE, BLOCK);
    vm.host().translate_with(|_, request| {
        let mut run = run(request);
        run.largest = Level::PAGE;
        if request.access == Access::Write {
            run.hpa = Hpa::new(run.hpa.get() + GIB);
        } else {
            run.permissions = Permissions::READ_EXECUTE;
        }
        Translation::Run(run)
    });
    assert_eq!(vcpu.fault(gpa(BASE), Access::Read), Outcome::Mapped { level: Level::PAGE, writable: false });
    vm.host().on_flush(|_, _| {});
    assert_eq!(vcpu.fault(gpa(BASE), Access::Write), Outcome::Mapped { level: Level::PAGE, writable: true });
    assert_eq!(mapping(&vm, BASE), Some((Hpa::new(FRAMES + GIB), Level::PAGE, true)));
    assert_eq!(vm.host().take_flushes().len(), 1, "another frame needs a break (R1)");
    assert_eq!(vm.statistics().leaves[0], 1);
}

#[test]
fn copy_on_write_of_a_page_in_a_block_keeps_its_neighbours_mapped() {
    let (vm, _worker, mut vcpu) = vm_with_slot(BASE, BLOCK);
    vm.host().translate_with(|_, request| {
        let mut run = run(request);
        if request.access == Access::Write {
            run.largest = Level::PAGE;
            run.hpa = Hpa::new(run.hpa.get() + GIB);
        } else {
            run.permissions = Permissions::READ_EXECUTE;
        }
        Translation::Run(run)
    });
    let _ = vcpu.fault(gpa(BASE), Access::Read);
    assert_eq!(vcpu.fault(gpa(BASE + PAGE), Access::Write), Outcome::Mapped { level: Level::PAGE, writable: true });
    assert_eq!(mapping(&vm, BASE), Some((Hpa::new(FRAMES), Level::PAGE, false)));
    assert_eq!(mapping(&vm, BASE + PAGE), Some((Hpa::new(FRAMES + GIB + PAGE), Level::PAGE, true)));
    assert_eq!(mapping(&vm, BASE + BLOCK - PAGE), Some((Hpa::new(FRAMES + BLOCK - PAGE), Level::PAGE, false)));
}

#[test]
fn a_translation_that_would_block_is_asked_for_outside() {
    let (vm, mut worker, mut vcpu) = vm_with_slot(BASE, BLOCK);
    vm.host().translate_with(|_, request| match request.may_block {
        true => Translation::Run(run(request)),
        false => Translation::WouldBlock,
    });
    assert_eq!(vcpu.fault(gpa(BASE), Access::Read), Outcome::Mapped { level: Level::new(1), writable: true });
    vm.host().translate_with(|_, _| Translation::WouldBlock);
    while !worker.unmap(range(BASE, BLOCK), slat::vm::Budget::UNLIMITED).unwrap().is_done() {}
    assert_eq!(vcpu.fault(gpa(BASE), Access::Read), Outcome::Retry, "a host that always would block ends the fault");
    vm.host().translate_with(|_, _| Translation::Retry);
    assert_eq!(vcpu.fault(gpa(BASE), Access::Read), Outcome::Retry);
}

#[test]
fn a_run_that_does_not_cover_the_page_is_refused() {
    let (vm, _worker, mut vcpu) = vm_with_slot(BASE, BLOCK);
    vm.host().translate_with(|_, request| {
        Translation::Run(slat::host::Run { guest: GpaRange::with_len(request.gpa, 100).unwrap(), ..run(request) })
    });
    assert_eq!(vcpu.fault(gpa(BASE), Access::Read), Outcome::Denied);
    vm.host()
        .translate_with(|_, request| Translation::Run(slat::host::Run { hpa: Hpa::new(FRAMES + 12), ..run(request) }));
    assert_eq!(vcpu.fault(gpa(BASE), Access::Read), Outcome::Denied);
    assert_eq!(entry(&vm, BASE).2, Kind::Empty);
}

#[test]
fn bad_slots_are_refused_with_a_reason_and_change_nothing() {
    let (vm, mut worker, mut vcpu) = vm_with_slot(BASE, BLOCK);
    let mut create = |id, start, len, host| {
        let slot = NewSlot { range: range(start, len), host: HostAddress::new(host), flags: PLAIN };
        worker.create_slot(SlotId(id), slot)
    };
    assert_eq!(create(0, 0, PAGE, 0), Err(SlotError::Exists));
    assert_eq!(create(1, BASE + BLOCK - PAGE, BLOCK, 0), Err(SlotError::Overlaps(SlotId(0))));
    assert_eq!(create(1, 0, 0, 0), Err(SlotError::Unaligned));
    assert_eq!(create(1, 100, PAGE, 0), Err(SlotError::Unaligned));
    assert_eq!(create(1, 0, PAGE + 1, 0), Err(SlotError::Unaligned));
    assert_eq!(create(1, 0, PAGE, 8), Err(SlotError::Unaligned));
    assert_eq!(create(1, (1 << 40) - PAGE, 2 * PAGE, 0), Err(SlotError::OutOfRange));
    assert_eq!(create(1, (1 << 40) - PAGE, PAGE, 0), Ok(()));
    assert_eq!(vcpu.fault(gpa((1 << 40) - 1), Access::Write), Outcome::Mapped { level: Level::PAGE, writable: true });
    assert_eq!(worker.delete_slot(SlotId(9), slat::vm::Budget::UNLIMITED), Err(SlotError::NoSuchSlot));
    assert_eq!(worker.set_flags(SlotId(9), PLAIN, slat::vm::Budget::UNLIMITED), Err(SlotError::NoSuchSlot));
    drop(vm);
}
