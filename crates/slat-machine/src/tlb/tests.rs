use slat::host::Permissions;

use super::*;
use crate::testing::{BLOCK, PAGE, TWO_MEBIBYTES, gpa, range};
use crate::walk::Memory;
use crate::walk::arm64::{Stage2, Vtcr};

const GIB: Level = Level::new(2);

fn tlb() -> Tlb {
    Tlb::new(&Stage2::new(Vtcr::for_ipa_bits(48).unwrap()), TlbSize { pages: 16, blocks: 8, sets: 8, tables: 8 })
}

fn translation(output: u64, level: Level) -> Translation {
    Translation {
        output: Hpa::new(output),
        level,
        permissions: Permissions::ALL,
        memory: Memory::WriteBack,
        dirty: true,
        set_bits: 0,
    }
}

fn path(table: u64, level: Level) -> TablePath {
    TablePath { table: Hpa::new(table), level, permissions: Permissions::READ }
}

fn filled(entries: &[(u64, Level)]) -> Tlb {
    let mut tlb = tlb();
    for &(at, level) in entries {
        tlb.fill(gpa(at), translation(at, level));
    }
    tlb
}

fn holds(tlb: &Tlb, at: u64) -> bool {
    tlb.lookup(gpa(at)) != Lookup::Miss
}

fn leaves(start: u64, bytes: u64, level: Hint) -> Flush {
    Flush::Leaves { range: range(start, bytes), level }
}

#[test]
fn an_entry_covers_its_leaf_and_no_more() {
    for (level, size) in [(PAGE, 0x1000), (BLOCK, TWO_MEBIBYTES), (GIB, 1 << 30)] {
        let start = 4u64 << 30;
        let tlb = filled(&[(start, level)]);
        assert_eq!(tlb.lookup(gpa(start + size - 1)), Lookup::Hit(translation(start, level)));
        assert!(!holds(&tlb, start - 1) && !holds(&tlb, start + size));
    }
}

#[test]
fn a_full_cache_forgets_what_was_in_the_same_place() {
    let mut tlb = filled(&[(0x1000, PAGE), (0x2000, PAGE)]);
    tlb.fill(gpa(0x1_1000), translation(0, PAGE));
    assert!(!holds(&tlb, 0x1000) && holds(&tlb, 0x2000) && holds(&tlb, 0x1_1000));
}

#[test]
fn two_sizes_for_one_address_conflict() {
    let tlb = filled(&[(TWO_MEBIBYTES + 0x1000, PAGE), (TWO_MEBIBYTES, BLOCK)]);
    assert_eq!(tlb.lookup(gpa(TWO_MEBIBYTES + 0x1008)), Lookup::Conflict);
    assert_eq!(tlb.lookup(gpa(TWO_MEBIBYTES)), Lookup::Hit(translation(TWO_MEBIBYTES, BLOCK)));
}

fn mixing() -> Tlb {
    Tlb::new(&Stage2::new(Vtcr::for_ipa_bits(48).unwrap()).with_mixed_sizes(), TlbSize::default())
}

#[test]
fn two_sizes_for_one_address_are_no_conflict_where_sizes_mix_and_the_memory_is_the_same() {
    let (at, output) = (TWO_MEBIBYTES + 0x5008, Hpa::new(TWO_MEBIBYTES + 0x5000));
    let page = translation(output.get(), PAGE);
    let others = [
        Translation { output: Hpa::new(output.get() + 0x1000), ..page },
        Translation { memory: Memory::NonCacheable, ..page },
    ];
    for (page, conflicts) in [(page, false), (others[0], true), (others[1], true)] {
        let mut tlb = mixing();
        tlb.fill(gpa(at), translation(TWO_MEBIBYTES, BLOCK));
        tlb.fill(gpa(at), page);
        assert_eq!(tlb.lookup(gpa(at)) == Lookup::Conflict, conflicts, "{page:?}");
        assert_ne!(tlb.lookup(gpa(at + 0x1000)), Lookup::Miss, "the block's");
    }
}

#[test]
fn nothing_less_than_everything_is_sure_to_drop_both_of_two_sizes() {
    let block = leaves(TWO_MEBIBYTES, TWO_MEBIBYTES, Hint::Unknown);
    for (flush, is_left) in [(block, true), (Flush::Tables { range: range(0, 1 << 30) }, true), (Flush::All, false)] {
        let mut tlb = mixing();
        tlb.fill(gpa(TWO_MEBIBYTES), translation(TWO_MEBIBYTES, BLOCK));
        tlb.fill(gpa(TWO_MEBIBYTES), translation(TWO_MEBIBYTES, PAGE));
        tlb.flush(flush);
        assert_eq!(holds(&tlb, TWO_MEBIBYTES), is_left, "{flush:?}");
    }
    let mut tlb = mixing();
    tlb.fill(gpa(TWO_MEBIBYTES), translation(TWO_MEBIBYTES, BLOCK));
    tlb.flush(block);
    assert!(!holds(&tlb, TWO_MEBIBYTES), "a block alone goes");
}

#[test]
fn a_flush_drops_the_entries_of_its_range_and_level() {
    let everything =
        [(TWO_MEBIBYTES, PAGE), (TWO_MEBIBYTES + 0x1000, PAGE), (2 * TWO_MEBIBYTES, BLOCK), (1 << 30, GIB)];
    let left = |flush| {
        let mut tlb = filled(&everything);
        tlb.flush(flush);
        everything.map(|(at, _)| holds(&tlb, at))
    };
    assert_eq!(left(leaves(TWO_MEBIBYTES, 0x1000, Hint::Level(PAGE))), [false, true, true, true]);
    assert_eq!(left(leaves(0, 1 << 36, Hint::Level(PAGE))), [false, false, true, true]);
    assert_eq!(left(leaves(0, 1 << 36, Hint::Level(BLOCK))), [true, true, false, true]);
    assert_eq!(left(leaves(0, 1 << 36, Hint::Level(GIB))), [true, true, true, false]);
    assert_eq!(left(leaves(0, 1 << 36, Hint::Unknown)), [false; 4]);
    assert_eq!(left(leaves(0, 0, Hint::Unknown)), [true; 4]);
    assert_eq!(left(Flush::Tables { range: range(TWO_MEBIBYTES, TWO_MEBIBYTES) }), [false, false, true, true]);
    assert_eq!(left(Flush::All), [false; 4]);
}

#[test]
fn a_flush_of_one_page_in_a_block_drops_the_block() {
    let mut tlb = filled(&[(0, BLOCK)]);
    tlb.flush(leaves(0x1000, 0x1000, Hint::Level(PAGE)));
    assert!(holds(&tlb, 0), "not with a hint that says page");
    tlb.flush(leaves(0x1000, 1, Hint::Unknown));
    assert!(!holds(&tlb, 0));
}

/// Memory in which every table has a generation that tests may change.
struct Tables(u32);

impl DescriptorMemory for Tables {
    fn read(&self, hpa: Hpa) -> Result<u64, crate::walk::Abort> {
        Err(crate::walk::Abort { hpa })
    }

    fn update(&self, hpa: Hpa, _: u64, _: u64) -> Result<Result<u64, u64>, crate::walk::Abort> {
        Err(crate::walk::Abort { hpa })
    }

    fn generation(&self, _: Hpa) -> Option<u32> {
        Some(self.0)
    }
}

#[test]
fn walk_caches_know_the_lowest_table_and_are_dropped_by_flushes_of_tables_only() {
    let mut tlb = tlb();
    let memory = Tables(0);
    let (low, high) = (path(0x1000, PAGE), path(0x2000, BLOCK));
    tlb.walks().fill(&memory, gpa(TWO_MEBIBYTES), high);
    tlb.walks().fill(&memory, gpa(TWO_MEBIBYTES), low);
    let known = |tlb: &mut Tlb, at| tlb.walks().lookup(&memory, gpa(at), Level::new(3)).unwrap();
    assert_eq!(known(&mut tlb, TWO_MEBIBYTES + 0x5000), Some(low));
    assert_eq!(known(&mut tlb, 0), Some(high));
    assert_eq!(known(&mut tlb, 1 << 30), None);

    tlb.flush(leaves(0, 1 << 36, Hint::Unknown));
    assert_eq!(known(&mut tlb, TWO_MEBIBYTES), Some(low));
    tlb.flush(Flush::Tables { range: range(1 << 30, 1 << 30) });
    assert_eq!(known(&mut tlb, TWO_MEBIBYTES), Some(low));
    tlb.flush(Flush::Tables { range: range(TWO_MEBIBYTES, 0x1000) });
    assert_eq!(known(&mut tlb, TWO_MEBIBYTES), None, "every table on the path to what was flushed");
}

#[test]
fn a_cached_table_that_was_given_to_another_use_is_an_external_abort() {
    let mut tlb = tlb();
    let path = path(0x1000, PAGE);
    tlb.walks().fill(&Tables(1), gpa(0), path);
    let found = tlb.walks().lookup(&Tables(2), gpa(0), Level::new(3));
    assert_eq!(found, Err(Fault::at(PAGE, FaultKind::External(path.table))));
}

#[test]
fn a_set_is_found_at_each_of_its_pages_and_dropped_by_a_flush_of_any() {
    let set = Translation { set_bits: 4, ..translation(0x7_5000, PAGE) };
    for dropped in [0x2_0000, 0x2_5000, 0x2_f000] {
        let mut tlb = tlb();
        tlb.fill(gpa(0x2_5000), set);
        for at in (0x2_0000..0x3_0000).step_by(0x1000) {
            let Lookup::Hit(found) = tlb.lookup(gpa(at)) else { panic!("{at:#x} is in the set") };
            assert_eq!((found.output, found.level), (Hpa::new(at + 0x5_0000), PAGE));
        }
        assert!(!holds(&tlb, 0x1_f000) && !holds(&tlb, 0x3_0000));
        tlb.flush(leaves(0x3_0000, 0x1000, Hint::Unknown));
        tlb.flush(leaves(dropped, 0x1000, Hint::Level(BLOCK)));
        assert!(holds(&tlb, dropped), "another place, another level");
        tlb.flush(leaves(dropped, 0x1000, Hint::Level(PAGE)));
        assert!(!holds(&tlb, 0x2_5000));
    }
}

#[test]
fn a_set_and_a_page_of_it_are_a_conflict() {
    let mut tlb = filled(&[(0x2_5000, PAGE)]);
    tlb.fill(gpa(0x2_0000), Translation { set_bits: 4, ..translation(0x2_0000, PAGE) });
    assert_eq!(tlb.lookup(gpa(0x2_5000)), Lookup::Conflict);
    assert!(matches!(tlb.lookup(gpa(0x2_6000)), Lookup::Hit(_)));
}
