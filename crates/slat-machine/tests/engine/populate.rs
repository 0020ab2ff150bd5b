//! vCPUs touch memory for the first time, all at once: every leaf is mapped once, and nothing is flushed for it.

use super::common::*;
use slat::addr::Gpa;
use slat::host::SlotId;
use slat_machine::memory::Source;
use slat_machine::program::{Action, Order, Program};
use slat_machine::vcpu::RunnerCounts;

const BASE: u64 = 1 << 30;
/// A vCPU's part of the memory: a block at least.
const PART: u64 = if BLOCK > 8 * MIB { BLOCK } else { 8 * MIB };

fn program(vcpus: u32, bytes_per_vcpu: u64, overlap: bool) -> Program {
    let base = Gpa::new(BASE);
    Program { base, page_size: PAGE_SIZE, vcpus, bytes_per_vcpu, overlap, order: Order::Random, write_percent: 50, seed: 1 }
}

fn run_all(vm: &TestVm<'_>, program: &Program, pass: u64) -> RunnerCounts {
    std::thread::scope(|scope| {
        let run = |id| {
            let mut vcpu = vcpu(vm, id);
            vcpu.execute(program, id, pass, None).unwrap();
            vcpu.counts()
        };
        let threads: Vec<_> = (0..program.vcpus).map(|id| scope.spawn(move || run(id))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).fold(RunnerCounts::default(), |sum, one| sum + one)
    })
}

#[test]
fn every_vcpu_finds_its_own_partition_and_nothing_is_flushed() {
    for (source, level, leaf, group) in [
        (Source::Anonymous, 0, PAGE_SIZE, group()),
        (Source::Shmem, 0, PAGE_SIZE, group()),
        (Source::AnonymousThp, 1, BLOCK, 1),
    ] {
        for vcpus in [1, BLOCKS as u32] {
            let machine = machine(PART * u64::from(vcpus), source, vcpus);
            let vm = vm_with_memory(&machine, BASE);
            let program = program(vcpus, PART, false).populate();
            let counts = run_all(&vm, &program, 0);
            for vcpu in 0..vcpus {
                for step in program.pass(vcpu, 0) {
                    assert_eq!(step.action, Action::Write(machine.memory().load(step.gpa.get() - BASE)));
                }
            }
            let leaves = machine.memory().len() / leaf;
            assert_eq!((counts.mapped, vm.statistics().leaves[level]), (leaves / group, leaves));
            assert_eq!(vm.statistics().leaves.iter().sum::<u64>(), leaves);
            assert_eq!(machine.flushes(), Default::default(), "mapping what was not mapped needs no flush");
            assert_tables_agree(&vm);
        }
    }
}

#[test]
fn vcpus_that_share_their_memory_map_each_leaf_once() {
    for (source, level, leaf, group) in [(Source::Anonymous, 0, PAGE_SIZE, group()), (Source::AnonymousThp, 1, BLOCK, 1)]
    {
        let machine = machine(2 * PART, source, 4);
        let vm = vm_with_memory(&machine, BASE);
        let counts = run_all(&vm, &program(4, 2 * PART, true).populate(), 0);
        let leaves = 2 * PART / leaf;
        assert_eq!(vm.statistics().leaves[level], leaves);
        // Of two vCPUs that meet in a group that is not there yet, one may map its page alone.
        assert!((leaves / group..=leaves).contains(&counts.mapped), "{counts:?}");
        assert!(group > 1 || counts.mapped == leaves, "{counts:?}");
        let flushes = machine.flushes();
        assert_eq!((flushes.leaves, flushes.tables, flushes.all), (0, 0, 0));
        assert_tables_agree(&vm);
    }
}

#[test]
fn memory_that_is_mapped_costs_no_further_faults() {
    let machine = machine(16 * MIB, Source::Anonymous, 2);
    let vm = vm_with_memory(&machine, BASE);
    let program = program(2, 8 * MIB, false);
    run_all(&vm, &program.populate(), 0);
    let counts = run_all(&vm, &program, 1);
    assert_eq!((counts.faults, counts.accesses), (0, 2 * 2048));
}

/// Slots whose guest and host addresses are not congruent, or whose ends cut a block, get pages there.
#[test]
fn blocks_are_used_only_where_addresses_allow() {
    let all = BLOCKS * BLOCK;
    let machine = machine(all, Source::AnonymousThp, 1);
    for (start, bytes, offset, blocks) in [
        (BASE, all, 0, BLOCKS),
        (BASE + PAGE_SIZE, all - BLOCK, 0, 0),
        (BASE, all - BLOCK, PAGE_SIZE, 0),
        (BASE + PAGE_SIZE, all - 2 * PAGE_SIZE, PAGE_SIZE, BLOCKS - 2),
        (BASE, BLOCK + 3 * PAGE_SIZE, 0, 1),
    ] {
        let vm = vm(&machine);
        worker(&vm).create_slot(SlotId(0), slot(start, bytes, offset)).unwrap();
        let mut vcpu = vcpu(&vm, 0);
        for page in 0..bytes / PAGE_SIZE {
            vcpu.store(page_gpa(start, page), page).unwrap();
        }
        assert!((0..bytes / PAGE_SIZE).all(|page| machine.memory().load(offset + page * PAGE_SIZE) == page));
        let leaves = vm.statistics().leaves;
        let pages = bytes / PAGE_SIZE - blocks * BLOCK_PAGES;
        assert_eq!((leaves[1], leaves[0]), (blocks, pages), "{start:#x} {bytes:#x} {offset:#x}");
    }
}

#[test]
fn a_shortage_of_tables_is_reported_and_passes() {
    let machine = machine(4 * MIB, Source::Anonymous, 1);
    let vm = vm_with_memory(&machine, BASE);
    let mut vcpu = vcpu(&vm, 0);
    machine.inject_allocation(|_| true);
    assert!(matches!(vcpu.store(Gpa::new(BASE), 1), Err(slat_machine::GuestError::OutOfTables(_))));
    machine.clear_injections();
    vcpu.store(Gpa::new(BASE), 2).unwrap();
    assert_eq!(machine.memory().load(0), 2);
}
