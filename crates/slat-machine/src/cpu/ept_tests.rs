//! A core of an x86 machine over tables made by hand: what it keeps, and what makes it forget.

use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};

use slat::addr::Level;
use slat::host::{Flush, Hint, Tlb};

use super::*;
use crate::machine::MachineConfig;
use crate::memory::{PAGE_SIZE, Replacement};
use crate::testing::*;

const AT: u64 = 0x40_0000;
const NEXT: u64 = AT + 0x1000;

fn flush(bench: &Bench, flush: Flush) {
    bench.machine.wait(bench.machine.flush(flush));
}

fn page(at: u64) -> Flush {
    Flush::Leaves { range: range(at, 0x1000), level: Hint::Level(PAGE) }
}

fn kind<T: std::fmt::Debug>(result: Result<T, Exit>) -> FaultKind {
    match result {
        Err(Exit::Fault(fault) | Exit::Misconfiguration(fault)) => fault.kind,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_guest_reads_what_it_wrote() {
    let bench = Bench::ept(false);
    bench.map_ept_page(AT, 0x3000, EPT_OPEN);
    bench.entry(0x60_0000, BLOCK).store((1 << 40) | TWO_MEBIBYTES | EPT_OPEN | 1 << 7, Release);
    let mut cpu = bench.cpu(0);
    for (at, offset) in [(AT + 0x10, 0x3010), (0x60_0000 + 0x12_3458, TWO_MEBIBYTES + 0x12_3458)] {
        cpu.store(gpa(at), 7).unwrap();
        assert_eq!((cpu.load(gpa(at)), bench.machine.memory().load(offset)), (Ok(7), 7));
        assert_eq!(kind(cpu.fetch(gpa(at))), FaultKind::Permission);
    }
}

#[test]
fn rights_of_the_tables_above_are_kept_with_a_cached_table() {
    let bench = Bench::ept(false);
    for at in [AT, NEXT] {
        bench.map_ept_page(at, 0, EPT_OPEN);
    }
    bench.entry(AT, Level::new(2)).fetch_and(!0b010, Release);
    let mut cpu = bench.cpu(0);
    assert_eq!(cpu.load(gpa(AT)), Ok(0));
    // The walk begins at the page table, whose address is cached with what the PDPTE does not allow.
    assert_eq!(kind(cpu.store(gpa(NEXT), 1)), FaultKind::Permission);
}

#[test]
fn a_violation_drops_what_caused_it() {
    let bench = Bench::ept(false);
    bench.map_ept_page(AT, 0, EPT_READ_ONLY);
    let mut cpu = bench.cpu(0);
    assert_eq!(cpu.load(gpa(AT)), Ok(0));
    bench.map_ept_page(AT, 0, EPT_OPEN);
    assert_eq!(kind(cpu.store(gpa(AT), 1)), FaultKind::Permission, "what is cached refuses");
    assert_eq!(cpu.store(gpa(AT), 1), Ok(()), "without any flush");
}

#[test]
fn planted_unmapping_without_a_flush_leaves_the_guest_its_page_until_any_flush_drops_everything() {
    let bench = Bench::ept(false);
    for at in [AT, NEXT] {
        bench.map_ept_page(at, 0, EPT_OPEN);
    }
    let mut cpu = bench.cpu(0);
    for at in [AT, NEXT] {
        cpu.load(gpa(at)).unwrap();
        bench.entry(at, PAGE).store(0, Release);
        assert_eq!(cpu.store(gpa(at), 9), Ok(()));
    }
    flush(&bench, page(0));
    for at in [AT, NEXT] {
        assert_eq!(kind(cpu.load(gpa(at))), FaultKind::Translation, "INVEPT has no address");
    }
}

#[test]
fn planted_unlinking_without_a_flush_is_seen_through_the_cached_table() {
    let bench = Bench::ept(false);
    bench.map_ept_page(AT, 0, EPT_OPEN);
    let mut cpu = bench.cpu(0);
    cpu.load(gpa(AT)).unwrap();
    let table = bench.entry(AT, BLOCK).swap(0, Release) & !0xfff;
    bench.machine.physical().tables().free(Hpa::new(table), 1);
    assert_eq!(cpu.load(gpa(NEXT)), Err(Exit::External(Hpa::new(table))));
    flush(&bench, Flush::Tables { range: range(AT, TWO_MEBIBYTES) });
    assert_eq!(kind(cpu.load(gpa(NEXT))), FaultKind::Translation);
}

#[test]
fn planted_memory_that_is_taken_back_without_a_flush_is_gone() {
    let config = MachineConfig { movable: Some(16), ..Bench::config() };
    let bench = Bench::ept_of(config, false);
    let machine = &bench.machine;
    bench.map_ept_page(AT, 0x3000, EPT_OPEN);
    let mut cpu = bench.cpu(0);
    cpu.store(gpa(AT), 5).unwrap();
    let places = machine.places().unwrap();
    places.replace(machine.memory(), 3..4, Replacement::Move).unwrap();
    let old = Hpa::new((1 << 40) + 0x3000);
    assert_eq!((cpu.load(gpa(AT)), cpu.store(gpa(AT), 6)), (Err(Exit::External(old)), Err(Exit::External(old))));
    bench.map_ept_page(AT, places.frame(3) * PAGE_SIZE, EPT_OPEN);
    flush(&bench, page(AT));
    assert_eq!(cpu.load(gpa(AT)), Ok(5));
}

#[test]
fn a_reserved_value_is_no_fault_that_the_engine_is_asked_about() {
    let bench = Bench::ept(false);
    bench.map_ept_page(AT, 0, EPT_OPEN & !1);
    let mut cpu = bench.cpu(0);
    let fault = Fault::at(PAGE, FaultKind::Misconfiguration);
    assert_eq!(cpu.load(gpa(AT)), Err(Exit::Misconfiguration(fault)));
    // Neither is a root register that a VM entry does not take.
    let mut cpu = Cpu::new(&bench.machine, VcpuId(1), Hpa::new(bench.root.get() | 1 << 7));
    assert_eq!(kind(cpu.load(gpa(AT))), FaultKind::Root);
}

#[test]
fn the_first_write_through_a_cached_translation_sets_the_dirty_flag() {
    const ACCESSED: u64 = 1 << 8;
    const DIRTY: u64 = 1 << 9;
    let bench = Bench::ept(true);
    bench.map_ept_page(AT, 0, EPT_OPEN);
    let flags = || bench.entry(AT, PAGE).load(Acquire) & (ACCESSED | DIRTY);
    let mut cpu = bench.cpu(0);
    cpu.load(gpa(AT)).unwrap();
    assert_eq!(flags(), ACCESSED);
    for walks in [2, 2] {
        cpu.store(gpa(AT), 1).unwrap();
        assert_eq!((flags(), cpu.counts().walks), (ACCESSED | DIRTY, walks));
    }
    bench.entry(AT, PAGE).fetch_and(!DIRTY, Release);
    cpu.store(gpa(AT), 2).unwrap();
    assert_eq!(flags(), ACCESSED, "whoever clears the flag has to flush");
}

/// A core that stays in its guest is asked out; after the flush, nothing is written through what was cached.
#[test]
fn no_write_is_late_after_a_completed_flush() {
    let bench = Bench::ept(false);
    bench.map_ept_page(AT, 0, EPT_OPEN);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for core in 0..2 {
            let (bench, stop) = (&bench, &stop);
            scope.spawn(move || {
                let mut cpu = bench.cpu(core);
                cpu.remain_in_guest(core == 0);
                let mut value = 0;
                while !stop.load(Acquire) {
                    value += 1;
                    let _ = cpu.store(gpa(AT), value);
                }
            });
        }
        for _ in 0..200 {
            bench.map_ept_page(AT, 0, EPT_READ_ONLY);
            flush(&bench, page(AT));
            let frozen = bench.machine.memory().load(0);
            for _ in 0..50 {
                std::hint::spin_loop();
                assert_eq!(bench.machine.memory().load(0), frozen, "a write after the flush was complete");
            }
            bench.map_ept_page(AT, 0, EPT_OPEN);
            std::thread::yield_now();
        }
        stop.store(true, Relaxed);
    });
    assert!(bench.machine.memory().load(0) > 0);
    let counts = bench.machine.requests();
    assert_eq!(counts.sent + counts.skipped, 400, "each of two cores, each time");
    assert!(counts.invalidations > 0 && counts.acknowledged <= counts.sent, "{counts:?}");
}
