//! Operands decoded again, by the field tables of the manual rather than by the functions that made them.

use super::*;
use crate::aarch64::features::Registers;
use proptest::prelude::*;
use std::vec;
use std::vec::Vec;

const PAGE: u64 = 4096;
const K4: Layout = Layout::PAGES_4K;

fn features(ranges: bool, hints: bool) -> Features {
    let isar0 = if ranges { 2 << 56 } else { 0 };
    let mmfr2 = if hints { 1 << 48 } else { 0 };
    Features::new(Registers { isar0, mmfr2, ..Registers::default() })
}

fn pages(first: u64, count: u64) -> GpaRange {
    GpaRange::with_len(Gpa::new(first * PAGE), count * PAGE).unwrap()
}

/// What an operation names: first page, pages, level (3 to 1; 0 if it names none).
fn named(operation: Operation) -> (u64, u64, u64) {
    let bits = |value: u64, high: u32, low: u32| (value >> low) & ((1 << (high - low + 1)) - 1);
    match operation {
        Operation::Ipa(operand) => {
            let ttl = bits(operand, 47, 44);
            assert!(ttl == 0 || ttl >> 2 == 0b01, "a level without the 4 KiB granule");
            assert_eq!(bits(operand, 63, 48), 0, "NS and reserved bits");
            (bits(operand, 35, 0), 1, ttl & 3)
        }
        Operation::IpaRange(operand) => {
            assert_eq!(bits(operand, 47, 46), 0b01, "TG: 4 KiB");
            assert_eq!(bits(operand, 63, 48), 0);
            let (num, scale) = (bits(operand, 43, 39), bits(operand, 45, 44));
            (bits(operand, 36, 0), (num + 1) << (5 * scale + 1), bits(operand, 38, 37))
        }
        other => panic!("{other:?} names no address"),
    }
}

/// All but the last, which has to be the one for stage 1.
fn by_address(plan: Plan) -> Vec<(u64, u64, u64)> {
    let operations: Vec<_> = plan.collect();
    let (last, rest) = operations.split_last().expect("an operation");
    assert_eq!(*last, Operation::StageOne, "combined entries would stay");
    rest.iter().map(|&operation| named(operation)).collect()
}

#[test]
fn everything_is_one_operation() {
    let plan: Vec<_> = Plan::new(Flush::All, K4, &features(true, true)).collect();
    assert_eq!(plan, [Operation::Everything]);
}

#[test]
fn a_page_is_named_with_its_level_where_the_cpu_takes_hints() {
    let flush = Flush::Leaves { range: pages(0x4_0123, 1), level: Hint::Level(Level::PAGE) };
    assert_eq!(by_address(Plan::new(flush, K4, &features(true, true))), [(0x4_0123, 1, 3)]);
    assert_eq!(by_address(Plan::new(flush, K4, &features(true, false))), [(0x4_0123, 1, 0)]);
}

#[test]
fn blocks_take_one_operation_each() {
    let flush = Flush::Leaves { range: pages(0x600, 3 * 512), level: Hint::Level(Level::new(1)) };
    assert_eq!(by_address(Plan::new(flush, K4, &features(false, true))), [(0x600, 1, 2), (0x800, 1, 2), (0xa00, 1, 2)]);
}

#[test]
fn one_leaf_is_named_as_a_plan_names_it() {
    for hints in [false, true] {
        for level in 0..3 {
            let (features, block) = (features(false, hints), 512u64.pow(level.into()));
            let hint = Hint::Level(Level::new(level));
            let plan = Plan::new(Flush::Leaves { range: pages(5 * block, block), level: hint }, K4, &features);
            let operand = leaf_operand(Gpa::new(5 * block * PAGE), hint, K4, &features);
            assert_eq!(by_address(plan), [named(Operation::Ipa(operand))]);
        }
    }
    let features = features(true, true);
    assert_eq!(named(Operation::Ipa(leaf_operand(Gpa::new(7 * PAGE), Hint::Unknown, K4, &features))), (7, 1, 0));
}

#[test]
fn a_table_is_dropped_without_a_hint() {
    let flush = Flush::Tables { range: pages(512, 512) };
    for (first, count, level) in by_address(Plan::new(flush, K4, &features(true, true))) {
        assert_eq!((first, count, level), (512, 512, 0));
    }
}

#[test]
fn too_many_pages_without_range_operations_drop_everything() {
    let flush = |count| Flush::Leaves { range: pages(0, count), level: Hint::Unknown };
    let plan = |count| Plan::new(flush(count), K4, &features(false, true)).collect::<Vec<_>>();
    assert_eq!(plan(MOST_OPERATIONS + 1), [Operation::Everything]);
    assert_eq!(plan(MOST_OPERATIONS).len() as u64, MOST_OPERATIONS + 1);
}

#[test]
fn more_than_ranges_can_name_drops_everything() {
    let flush = Flush::Leaves { range: pages(0, RANGE_PAGES), level: Hint::Unknown };
    assert_eq!(Plan::new(flush, K4, &features(true, true)).collect::<Vec<_>>(), [Operation::Everything]);
    let flush = Flush::Leaves { range: pages(0, RANGE_PAGES - 1), level: Hint::Unknown };
    assert_eq!(by_address(Plan::new(flush, K4, &features(true, true))).len(), 5, "a page and four scales");
}

#[test]
fn nothing_takes_nothing() {
    let flush = Flush::Leaves { range: GpaRange::default(), level: Hint::Unknown };
    assert_eq!(Plan::new(flush, K4, &features(true, true)).count(), 0);
}

/// Where an operation begins and how much it names, in bytes, and its level, for any layout.
fn extent(operation: Operation, layout: Layout) -> (u64, u64, u64) {
    let bits = |value: u64, high: u32, low: u32| (value >> low) & ((1 << (high - low + 1)) - 1);
    let granule = match layout.page_shift {
        12 => 0b01,
        14 => 0b10,
        _ => 0b11,
    };
    match operation {
        Operation::Ipa(operand) => {
            let ttl = bits(operand, 47, 44);
            assert!(ttl == 0 || ttl >> 2 == granule, "a level with another granule");
            (bits(operand, 39, 0) << 12, 1 << layout.page_shift, ttl & 3)
        }
        Operation::IpaRange(operand) => {
            assert_eq!(bits(operand, 47, 46), granule, "TG");
            let (num, scale) = (bits(operand, 43, 39), bits(operand, 45, 44));
            let base_shift = if layout.wide { 16 } else { layout.page_shift };
            let bytes = ((num + 1) << (5 * scale + 1)) << layout.page_shift;
            (bits(operand, 36, 0) << base_shift, bytes, bits(operand, 38, 37))
        }
        other => panic!("{other:?} names no address"),
    }
}

const LAYOUTS: [Layout; 5] = [
    Layout { page_shift: 12, wide: false },
    Layout { page_shift: 12, wide: true },
    Layout { page_shift: 14, wide: false },
    Layout { page_shift: 14, wide: true },
    Layout { page_shift: 16, wide: false },
];

proptest! {
    /// Ranges cover what they should, each page once, in few operations.
    #[test]
    fn ranges_name_every_page_once(first in 0u64..1 << 35, count in 2u64..RANGE_PAGES) {
        let flush = Flush::Leaves { range: pages(first, count), level: Hint::Unknown };
        let operations = by_address(Plan::new(flush, K4, &features(true, true)));
        let mut page = first;
        for &(at, pages, level) in &operations {
            prop_assert_eq!((at, level), (page, 0));
            page += pages;
        }
        prop_assert_eq!(page, first + count);
        prop_assert!(operations.len() <= 5);
    }

    /// With a level, each operation begins at a leaf of it (the low address bits are then reserved).
    #[test]
    fn ranges_of_blocks_begin_at_blocks(first in 0u64..1 << 17, count in 2u64..2_000, level in 1u8..3) {
        let block = 512u64.pow(level.into());
        prop_assume!(count * block < RANGE_PAGES);
        let flush = Flush::Leaves { range: pages(first * block, count * block), level: Hint::Level(Level::new(level)) };
        let mut page = first * block;
        for (at, pages, named) in by_address(Plan::new(flush, K4, &features(true, true))) {
            prop_assert_eq!((at, named), (page, 3 - u64::from(level)));
            prop_assert!(at % block == 0 && pages % block == 0);
            page += pages;
        }
        prop_assert_eq!(page, (first + count) * block);
    }

    /// Without range operations: one a leaf, or everything.
    #[test]
    fn single_operations_name_every_leaf_once(first in 0u64..1 << 17, count in 1u64..100, level in 0u8..3) {
        let block = 512u64.pow(level.into());
        let flush = Flush::Leaves { range: pages(first * block, count * block), level: Hint::Level(Level::new(level)) };
        let plan = Plan::new(flush, K4, &features(false, false));
        if count > MOST_OPERATIONS {
            prop_assert_eq!(plan.collect::<Vec<_>>(), vec![Operation::Everything]);
        } else {
            let named: Vec<_> = by_address(plan).into_iter().map(|(at, _, _)| at).collect();
            prop_assert_eq!(named, (first..first + count).map(|leaf| leaf * block).collect::<Vec<_>>());
        }
    }

    /// All granules: what is to be dropped is named, from its first byte to its last, or everything is.
    #[test]
    fn every_granule_names_every_page_once(
        layout in 0usize..5,
        first in 0u64..1 << 30,
        count in 1u64..RANGE_PAGES,
        ranges: bool,
    ) {
        let layout = LAYOUTS[layout];
        let range = GpaRange::with_len(Gpa::new(first << layout.page_shift), count << layout.page_shift).unwrap();
        let flush = Flush::Leaves { range, level: Hint::Level(Level::PAGE) };
        let operations: Vec<_> = Plan::new(flush, layout, &features(ranges, true)).collect();
        if operations == [Operation::Everything] {
            prop_assert!(count > MOST_OPERATIONS);
            prop_assert!(!ranges || layout.wide, "ranges were there, and nothing kept from using them");
        } else {
            let (last, rest) = operations.split_last().unwrap();
            prop_assert_eq!(*last, Operation::StageOne);
            let mut at = range.start().get();
            for &operation in rest {
                let (start, bytes, level) = extent(operation, layout);
                prop_assert_eq!((start, level), (at, 3));
                at += bytes;
            }
            prop_assert_eq!(at, range.end().get());
        }
    }

    /// Blocks of the other granules are named by their level, and each operation begins at one.
    #[test]
    fn blocks_of_every_granule_begin_at_blocks(layout in 0usize..5, first in 0u64..1 << 10, count in 1u64..60, ranges: bool) {
        let layout = LAYOUTS[layout];
        let block = 1u64 << (2 * layout.page_shift - 3);
        let range = GpaRange::with_len(Gpa::new(first * block), count * block).unwrap();
        let flush = Flush::Leaves { range, level: Hint::Level(Level::new(1)) };
        let operations: Vec<_> = Plan::new(flush, layout, &features(ranges, true)).collect();
        let mut at = range.start().get();
        for &operation in &operations[..operations.len() - 1] {
            let (start, bytes, level) = extent(operation, layout);
            prop_assert_eq!((start, level), (at, 2));
            at += bytes.max(block);
        }
        prop_assert_eq!(at, range.end().get());
    }
}
