//! Whatever was mapped, split and removed: in the end nothing is held.

use slat::addr::Gpa;
use slat::format::Format;
use slat::host::SlotId;
use slat::vm::{Budget, Worker};
use slat_machine::GuestError;
use slat_machine::memory::Source;

use super::common::*;

const BASE: u64 = 1 << 30;

fn touch_everything(vm: &TestVm<'_>) {
    let mut vcpu = vcpu(vm, 0);
    for page in 0..vm.host().memory().pages() {
        vcpu.store(page_gpa(BASE, page), page).unwrap();
    }
}

#[test]
fn teardown_returns_every_count_to_zero() {
    for source in [Source::Anonymous, Source::AnonymousThp] {
        for budget in [Budget::entries(1), Budget::entries(100), Budget::UNLIMITED] {
            let machine = machine(16 * MIB, source, 1);
            let vm = vm_with_memory(&machine, BASE);
            touch_everything(&vm);
            let mut worker = worker(&vm);
            set_flags(&mut worker, SlotId(0), LOGGED, Budget::UNLIMITED);
            touch_everything(&vm);
            assert!(machine.tables_now() > 8);
            tear_down(&mut worker, budget);
            assert_eq!(vm.root(), None);
            drop(worker);
            assert_nothing_held(vm.statistics(), &machine);
        }
    }
}

#[test]
fn a_vm_that_is_dropped_gives_everything_back() {
    let machine = machine(16 * MIB, Source::Anonymous, 1);
    let vm = vm_with_memory(&machine, BASE);
    touch_everything(&vm);
    let _ = worker(&vm).unmap(range(BASE, 4 * MIB), Budget::UNLIMITED).unwrap();
    assert!(machine.tables_now() > 0);
    drop(vm);
    assert_eq!(machine.tables_now(), 0);
}

#[test]
fn several_workers_tear_down_together() {
    let machine = machine(64 * MIB, Source::Anonymous, 1);
    let vm = vm_with_memory(&machine, BASE);
    touch_everything(&vm);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let mut worker = Worker::new(&vm).unwrap();
                tear_down(&mut worker, Budget::entries(64));
            });
        }
    });
    tear_down(&mut Worker::new(&vm).unwrap(), Budget::UNLIMITED);
    assert_nothing_held(vm.statistics(), &machine);
}

#[test]
fn faults_after_teardown_find_the_vm_gone() {
    let machine = machine(4 * MIB, Source::Anonymous, 1);
    let vm = vm_with_memory(&machine, BASE);
    let mut entry = slat::vm::Vcpu::new(&vm, slat::host::VcpuId(0)).unwrap();
    let mut worker = Worker::new(&vm).unwrap();
    let _ = worker.teardown(Budget::UNLIMITED);
    assert_eq!(entry.fault(Gpa::new(BASE), slat::host::Access::Read), slat::vm::Outcome::Gone);
    drop(entry);
    tear_down(&mut worker, Budget::UNLIMITED);
    drop(worker);
    assert_nothing_held(vm.statistics(), &machine);
}

#[test]
fn unmapping_everything_leaves_the_root_alone() {
    for source in [Source::Anonymous, Source::AnonymousThp] {
        let machine = machine(16 * MIB, source, 1);
        let vm = vm_with_memory(&machine, BASE);
        touch_everything(&vm);
        let mut worker = Worker::new(&vm).unwrap();
        let everything = vm.format().geometry().address_space();
        step_over(everything, |part| worker.unmap(part, Budget::entries(10)));
        while worker.reclaim(Budget::entries(100)).awaiting > 0 {}
        let statistics = vm.statistics();
        assert!(statistics.leaves.iter().all(|&leaves| leaves == 0), "{statistics:?}");
        assert_eq!(statistics.awaiting, 0);
        drop(worker);
        assert_eq!(machine.tables_now(), vm.format().geometry().root_tables() as u64);
        assert_tables_agree(&vm);
        let mut vcpu = vcpu(&vm, 0);
        assert_eq!(vcpu.load(page_gpa(BASE, 3)), Ok(3), "the memory is still there");
        assert!(matches!(vcpu.load(Gpa::new(0)), Err(GuestError::NoSlot(_))));
    }
}
