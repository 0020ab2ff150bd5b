//! A core over tables made by hand. Most of these show that the oracle can fail: what an engine forgets is seen.

use std::sync::atomic::Ordering::{Acquire, Release};

use slat::host::{Flush, Hint, Permissions, TableMemory, Tlb};

use super::*;
use crate::testing::*;

const AT: u64 = 0x40_0000;
const NEXT: u64 = AT + 0x1000;

fn fault<T>(kind: FaultKind, level: slat::addr::Level) -> Result<T, Exit> {
    // What is denied in these tests is writing.
    let permissions = if kind == FaultKind::Permission { Permissions::READ_EXECUTE } else { Permissions::NONE };
    Err(Exit::Fault(Fault { kind, level, permissions }))
}

fn flush(bench: &Bench, flush: Flush) {
    bench.machine.wait(bench.machine.flush(flush));
}

fn page(at: u64) -> Flush {
    Flush::Leaves { range: range(at, 0x1000), level: Hint::Level(PAGE) }
}

#[test]
fn a_guest_reads_what_it_wrote_through_pages_and_blocks() {
    let bench = Bench::new();
    bench.map_page(AT, 0x3000, OPEN);
    bench.map_block(0x60_0000, TWO_MEBIBYTES, OPEN);
    let mut cpu = bench.cpu(0);
    for (at, offset) in [(AT + 0x10, 0x3010), (0x60_0000 + 0x12_3458, TWO_MEBIBYTES + 0x12_3458)] {
        cpu.store(gpa(at), 7).unwrap();
        assert_eq!((cpu.load(gpa(at)), cpu.fetch(gpa(at))), (Ok(7), Ok(7)));
        assert_eq!(bench.machine.memory().load(offset), 7);
    }
    assert_eq!(cpu.counts(), CpuCounts { accesses: 6, walks: 2 });
}

#[test]
fn what_the_tables_do_not_allow_does_not_happen() {
    let bench = Bench::new();
    bench.map_page(AT, 0, READ_ONLY);
    bench.map_page(NEXT, 0, OPEN & !ACCESSED);
    let mut cpu = bench.cpu(0);
    assert_eq!(cpu.store(gpa(AT), 1), fault(FaultKind::Permission, PAGE));
    assert_eq!(cpu.load(gpa(NEXT)), fault(FaultKind::AccessFlag, PAGE));
    assert_eq!(cpu.load(gpa(AT + 0x2000)), fault(FaultKind::Translation, PAGE));
    assert_eq!(cpu.load(gpa(1 << 30)), fault(FaultKind::Translation, slat::addr::Level::new(2)));
    assert_eq!((cpu.load(gpa(AT)), bench.machine.memory().load(0)), (Ok(0), 0));
}

#[test]
fn faults_without_a_translation_are_not_cached() {
    let bench = Bench::new();
    bench.map_page(AT, 0, OPEN & !ACCESSED);
    let mut cpu = bench.cpu(0);
    assert_eq!(cpu.load(gpa(AT)), fault(FaultKind::AccessFlag, PAGE));
    assert_eq!(cpu.load(gpa(NEXT)), fault(FaultKind::Translation, PAGE));
    bench.map_page(AT, 0, OPEN);
    bench.map_page(NEXT, 0x1000, OPEN);
    assert_eq!((cpu.load(gpa(AT)), cpu.load(gpa(NEXT))), (Ok(0), Ok(0)));
}

#[test]
fn planted_unmapping_without_a_flush_leaves_the_guest_its_page() {
    let bench = Bench::new();
    bench.map_page(AT, 0, OPEN);
    let mut cpu = bench.cpu(0);
    cpu.store(gpa(AT), 1).unwrap();
    bench.entry(AT, PAGE).store(0, Release);
    assert_eq!(cpu.store(gpa(AT), 2), Ok(()), "the stale translation is still there");
    flush(&bench, page(AT));
    assert_eq!(cpu.store(gpa(AT), 3), fault(FaultKind::Translation, PAGE));
    assert_eq!(bench.machine.memory().load(0), 2);
}

#[test]
fn planted_write_protection_without_a_flush_lets_the_guest_write() {
    let bench = Bench::new();
    bench.map_page(AT, 0, OPEN);
    let (mut writer, mut other) = (bench.cpu(0), bench.cpu(1));
    writer.store(gpa(AT), 1).unwrap();
    bench.map_page(AT, 0, READ_ONLY);
    assert_eq!(other.store(gpa(AT), 9), fault(FaultKind::Permission, PAGE), "a core that had nothing cached walks");
    assert_eq!(writer.store(gpa(AT), 2), Ok(()));
    flush(&bench, page(AT));
    assert_eq!(writer.store(gpa(AT), 3), fault(FaultKind::Permission, PAGE));
    assert_eq!(bench.machine.memory().load(0), 2);
}

#[test]
fn planted_relaxation_without_a_local_flush_stops_the_guest() {
    let bench = Bench::new();
    bench.map_page(AT, 0, READ_ONLY);
    let mut cpu = bench.cpu(0);
    assert_eq!(cpu.store(gpa(AT), 1), fault(FaultKind::Permission, PAGE));
    bench.map_page(AT, 0, OPEN);
    assert_eq!(cpu.store(gpa(AT), 1), fault(FaultKind::Permission, PAGE), "hardware may keep what did not suffice");
    bench.machine.flush_local(VcpuId(1), gpa(AT), Hint::Unknown);
    assert_eq!(cpu.store(gpa(AT), 1), fault(FaultKind::Permission, PAGE), "that was the other core's");
    bench.machine.flush_local(VcpuId(0), gpa(AT), Hint::Level(PAGE));
    assert_eq!(cpu.store(gpa(AT), 1), Ok(()));
}

#[test]
fn planted_wrong_level_hint_drops_nothing() {
    let bench = Bench::new();
    bench.map_block(AT, 0, OPEN);
    let mut cpu = bench.cpu(0);
    cpu.store(gpa(AT), 1).unwrap();
    bench.map_block(AT, 0, READ_ONLY);
    flush(&bench, Flush::Leaves { range: range(AT, TWO_MEBIBYTES), level: Hint::Level(PAGE) });
    assert_eq!(cpu.store(gpa(AT), 2), Ok(()));
    flush(&bench, Flush::Leaves { range: range(AT, TWO_MEBIBYTES), level: Hint::Level(BLOCK) });
    assert_eq!(cpu.store(gpa(AT), 3), fault(FaultKind::Permission, BLOCK));
}

#[test]
fn planted_flush_that_is_too_short_spares_the_rest() {
    let bench = Bench::new();
    for at in [AT, NEXT] {
        bench.map_page(at, 0, OPEN);
    }
    let mut cpu = bench.cpu(0);
    for at in [AT, NEXT] {
        cpu.load(gpa(at)).unwrap();
        bench.entry(at, PAGE).store(0, Release);
    }
    flush(&bench, page(AT));
    assert_eq!((cpu.load(gpa(AT)), cpu.load(gpa(NEXT))), (fault(FaultKind::Translation, PAGE), Ok(0)));
}

#[test]
fn planted_block_to_table_without_break_keeps_the_block() {
    let bench = Bench::new();
    bench.map_block(AT, 0, OPEN);
    let mut cpu = bench.cpu(0);
    cpu.load(gpa(AT)).unwrap();
    bench.entry(AT, BLOCK).store(0, Release);
    bench.map_page(AT, 0x5000, READ_ONLY);
    assert_eq!(cpu.store(gpa(AT), 1), Ok(()), "the block's translation is still used");
}

#[test]
fn planted_table_to_block_without_break_is_a_conflict() {
    let bench = Bench::new();
    bench.map_page(AT, 0, OPEN);
    let mut cpu = bench.cpu(0);
    cpu.load(gpa(AT)).unwrap();
    bench.map_block(AT, 0, OPEN);
    // Only the walk caches are told: another page of the block is walked to, and now both sizes are cached.
    flush(&bench, Flush::Tables { range: range(AT + 0x10_0000, 0x1000) });
    assert_eq!(cpu.load(gpa(AT + 0x10_0000)), Ok(0));
    assert_eq!(cpu.load(gpa(AT)), Err(Exit::Conflict));
}

#[test]
fn planted_unlinking_with_a_flush_of_leaves_only_is_seen_through_the_walk_cache() {
    let bench = Bench::new();
    bench.map_page(AT, 0, OPEN);
    let mut cpu = bench.cpu(0);
    cpu.load(gpa(AT)).unwrap();
    let table = bench.table(AT, BLOCK);
    bench.entry(AT, BLOCK).store(0, Release);
    flush(&bench, Flush::Leaves { range: range(AT, TWO_MEBIBYTES), level: Hint::Unknown });
    assert_eq!(cpu.load(gpa(AT)), Ok(0), "the walk goes on in a table that is linked nowhere");
    assert_eq!(cpu.load(gpa(NEXT)), fault(FaultKind::Translation, PAGE));

    bench.machine.physical().tables().free(table, 1);
    flush(&bench, page(AT));
    assert_eq!(cpu.load(gpa(AT)), Err(Exit::External(table)), "the table is freed");
    assert_eq!(bench.machine.allocate(1), Some(table));
    assert_eq!(cpu.load(gpa(AT)), Err(Exit::External(table)), "the table is another's");
    flush(&bench, Flush::Tables { range: range(AT, TWO_MEBIBYTES) });
    assert_eq!(cpu.load(gpa(AT)), fault(FaultKind::Translation, BLOCK));
}

#[test]
fn planted_freeing_of_a_linked_table_is_an_external_abort() {
    let bench = Bench::new();
    bench.map_page(AT, 0, OPEN);
    let table = bench.table(AT, BLOCK);
    bench.machine.physical().tables().free(table, 1);
    let mut cpu = bench.cpu(0);
    assert!(matches!(cpu.load(gpa(AT)), Err(Exit::External(hpa)) if hpa.align_down(4096) == table));
    bench.entry(NEXT + TWO_MEBIBYTES, PAGE).store(0x1000 | OPEN | TABLE_OR_PAGE, Release);
    assert_eq!(cpu.load(gpa(NEXT + TWO_MEBIBYTES)), Err(Exit::External(Hpa::new(0x1000))), "no memory is there");
}

#[test]
fn a_flush_of_everything_leaves_nothing() {
    let bench = Bench::new();
    bench.map_page(AT, 0, OPEN);
    let mut cpu = bench.cpu(0);
    cpu.load(gpa(AT)).unwrap();
    bench.entry(AT, slat::addr::Level::new(2)).store(0, Release);
    assert_eq!(cpu.load(gpa(AT)), Ok(0));
    flush(&bench, Flush::All);
    assert_eq!(cpu.load(gpa(AT)), fault(FaultKind::Translation, slat::addr::Level::new(2)));
}

/// After a flush has completed, no core writes through what it covered: the heart of dirty logging.
#[test]
fn no_write_is_late_after_a_completed_flush() {
    let bench = Bench::new();
    bench.map_page(AT, 0, OPEN);
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        for core in 0..2 {
            let (bench, stop) = (&bench, &stop);
            scope.spawn(move || {
                let mut cpu = bench.cpu(core);
                let mut value = 0;
                while !stop.load(Acquire) {
                    value += 1;
                    match cpu.store(gpa(AT), value) {
                        Ok(()) => {}
                        Err(_) => bench.machine.flush_local(VcpuId(core), gpa(AT), Hint::Unknown),
                    }
                }
            });
        }
        for _ in 0..300 {
            bench.map_page(AT, 0, READ_ONLY);
            flush(&bench, page(AT));
            let frozen = bench.machine.memory().load(0);
            for _ in 0..50 {
                std::hint::spin_loop();
                assert_eq!(bench.machine.memory().load(0), frozen, "a write after the flush was complete");
            }
            bench.map_page(AT, 0, OPEN);
            std::thread::yield_now();
        }
        stop.store(true, Release);
    });
    assert!(bench.machine.memory().load(0) > 0);
}
