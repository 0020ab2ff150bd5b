//! Words, bit by bit as the manuals draw them, for every combination of attributes. The machine's walkers say what such
//! words do; here is which ones they are, software's bits included.

use super::*;
use crate::host::Access;

/// An address with a one in every hexadecimal digit, aligned to the largest leaf.
const AT: u64 = 0x0000_1111_4000_0000;
const TABLE: u64 = 0x0000_1111_1111_0000;

/// The word with these values at these bits, of which no two overlap.
fn word<const N: usize>(fields: [(u32, u64); N]) -> u64 {
    fields.into_iter().fold(0, |word, (low, value)| {
        let field = value << low;
        assert!(word & field == 0 && field >> low == value, "bit {low}");
        word | field
    })
}

/// Every combination of attributes.
fn leaves() -> impl Iterator<Item = Leaf> {
    (0..32u32).flat_map(|bits| {
        let on = move |bit: u32| bits >> bit & 1 == 1;
        [MemoryType::Normal, MemoryType::NonCacheable, MemoryType::Device].map(move |memory| Leaf {
            hpa: Hpa::new(AT),
            permissions: Permissions::new(on(0), on(1), on(2)),
            may_write: on(3),
            memory,
            accessed: on(4),
        })
    })
}

/// Holds all leaves of the three lowest levels against what is expected of read, write, execute, may-write and accessed.
fn hold(format: impl Format, expected: impl Fn(&Leaf, Level, [u64; 5]) -> u64) {
    for (leaf, level) in leaves().flat_map(|leaf| [0, 1, 2].map(|level| (leaf, Level::new(level)))) {
        let permissions = leaf.permissions;
        let execute = permissions.execute() && leaf.memory == MemoryType::Normal;
        let bits = [permissions.read(), permissions.write(), execute, leaf.may_write, leaf.accessed].map(u64::from);
        let found = format.leaf(leaf, level);
        assert_eq!(found, expected(&leaf, level, bits), "{leaf:?} at {level}: {found:#x}");
        for access in [Access::Read, Access::Write, Access::Execute] {
            let allowed = format.permits(format.made_accessed(found, level), level, access);
            assert!(!allowed || permissions.allow(access), "{access:?} through {leaf:?}, accessed");
        }
    }
}

fn memory<T>(leaf: &Leaf, [normal, non_cacheable, device]: [T; 3]) -> T {
    match leaf.memory {
        MemoryType::Normal => normal,
        MemoryType::NonCacheable => non_cacheable,
        MemoryType::Device => device,
    }
}

#[test]
fn arm64_descriptors_are_as_the_manual_draws_them() {
    fn descriptors<const LPA2: bool, const FWB: bool, const HD: bool>() {
        let format = Stage2::<12, LPA2, FWB, HD>::new(48).unwrap();
        hold(format, |leaf, level, [read, write, execute, may_write, accessed]| {
            let [attributes, shareable] =
                memory(leaf, [[if FWB { 0b0110 } else { 0b1111 }, 0b11], [0b0101, 0b11], [0b0001, 0b00]]);
            let shareable = if LPA2 { 0 } else { shareable };
            let [writable, modifier] = if HD { [0, write] } else { [write, 0] };
            let page = u64::from(level == Level::PAGE);
            word([(0, 1), (1, page), (2, attributes), (6, read), (7, writable), (8, shareable), (10, accessed)])
                | word([(0, AT), (51, modifier), (54, 1 - execute), (55, may_write)])
        });
        let table = format.table(Hpa::new(TABLE), Level::new(1));
        assert_eq!((table, Arm64::KEPT), (TABLE | 0b11, 1 << 56));
    }
    descriptors::<false, false, false>();
    descriptors::<false, true, false>();
    descriptors::<false, false, true>();
    descriptors::<true, false, false>();
    let moved = |format: &dyn Fn(Hpa, Level) -> u64| format(Hpa::new(0x000d_0000_0001_0000), Level::new(1));
    assert_eq!(moved(&|at, level| Arm64Lpa2::new(52).unwrap().table(at, level)), 0x0001_0000_0001_0303);
    assert_eq!(moved(&|at, level| Arm64_16kLpa2::new(52).unwrap().table(at, level)), 0x0001_0000_0001_0303);
    assert_eq!(moved(&|at, level| Arm64_64k::new(52).unwrap().table(at, level)), 0x0000_0000_0001_d003);
    let format = Stage2::<12, false, false, true, true>::new(48).unwrap();
    let leaf = leaves().last().unwrap();
    let raw = format.leaf(leaf, Level::PAGE);
    assert_eq!(format.grouped(raw, Level::PAGE), raw | 1 << 52);
    let written = format.made_writable(raw, Level::PAGE);
    assert_eq!(written, raw | 1 << 7 | 1 << 10 | 1 << 51);
    assert_eq!(
        format.write_protected(written, Level::PAGE),
        written & !(1 << 7 | 1 << 51) | 1 << 57,
        "a note of it stays"
    );
    assert_eq!((Arm64::LOCKED, Arm64::FROZEN, Arm64::ANNOTATION.word(5)), (1 << 2, 1 << 3, 5 << 12 | 1 << 4));
}

#[test]
fn ept_entries_are_as_the_manual_draws_them() {
    fn entries<const AD: bool>() {
        let format = ExtendedPageTables::<4, AD>::new();
        hold(format, |leaf, _, [read, write, execute, may_write, accessed]| {
            let permissions = read * word([(0, 1), (1, write), (2, execute)]);
            let usable = permissions | (read * execute) << 10;
            let state = match (accessed, AD) {
                (1, true) => usable | 1 << 8,
                (1, false) | (_, true) => usable,
                _ => permissions << 52 | 1 << 55,
            };
            let kind = word([(3, memory(leaf, [6, 1, 0])), (6, 1), (7, 1), (11, 1), (56, read * may_write), (63, 1)]);
            AT | kind | state
        });
        let table = format.table(Hpa::new(TABLE), Level::new(1));
        assert_eq!(table, TABLE | 0b111 | 1 << 10 | u64::from(AD) << 8);
        assert_eq!(Ept::KEPT, 1 << 59);
        let annotation = Ept::ANNOTATION.word(5);
        assert_eq!(annotation, 5 << 12 | 1 << 5 | 1 << 63);
        let written = format.made_writable(format.leaf(leaves().last().unwrap(), Level::PAGE), Level::PAGE);
        assert_eq!((written >> 9 & 1 == 1, format.made_clean(written, Level::PAGE) >> 9 & 1), (AD, 0));
    }
    entries::<false>();
    entries::<true>();
    assert_eq!((Ept::LOCKED, Ept::FROZEN), (1 << 63 | 1 << 3, 1 << 63 | 1 << 4));
}

#[test]
fn npt_entries_are_as_the_manual_draws_them() {
    fn entries<const AD: bool>() {
        let format = NestedPageTables::<4, AD>::new();
        hold(format, |leaf, level, [read, write, execute, may_write, accessed]| {
            let [present, used, written] = if AD { [1, accessed, 0] } else { [accessed, 1, 1] };
            let type_bits = memory(leaf, [0b00, 0b10, 0b11]);
            word([(0, read * present), (1, read * write), (2, 1), (3, type_bits), (5, used), (6, written)])
                | word([(7, u64::from(level > Level::PAGE)), (9, 1), (11, read * may_write), (52, read)])
                | word([(0, AT), (63, 1 - read * execute)])
        });
        let table = format.table(Hpa::new(TABLE), Level::new(1));
        assert_eq!((table, Npt::KEPT), (TABLE | 0b10_0111, 1 << 10));
        assert_eq!(Npt::ANNOTATION.word(5), 5 << 12 | 1 << 6);
    }
    entries::<false>();
    entries::<true>();
    assert_eq!((Npt::LOCKED, Npt::FROZEN, NESTED_CONTROL), (1 << 3, 1 << 4, 1));
}

#[test]
fn g_stage_entries_are_as_the_manual_draws_them() {
    fn entries<const ADU: bool>() {
        let format = GStage::<4, ADU, true>::new();
        hold(format, |leaf, _, [read, write, execute, may_write, accessed]| {
            let dirty = if ADU { 0 } else { read * write };
            let flags =
                [(0, read | execute), (1, read), (2, read * write), (3, execute), (4, 1), (6, accessed), (7, dirty)];
            word(flags) | word([(8, read * may_write), (10, AT >> 12), (61, memory(leaf, [0, 1, 2]))])
        });
        let table = format.table(Hpa::new(TABLE), Level::new(1));
        assert_eq!((table, Sv39x4::KEPT), (TABLE >> 2 | 1, 1 << 9));
        assert_eq!(Sv39x4::ANNOTATION.word(5), 5 << 10 | 1 << 7);
        let raw = format.leaf(leaves().last().unwrap(), Level::PAGE);
        let member = format.grouped(raw | 0b0101 << 10, Level::PAGE);
        assert_eq!(member, raw | 0b1000 << 10 | 1 << 63, "the set of sixteen");
        assert_eq!(format.ungrouped(member, Level::PAGE, 3), raw | 3 << 10);
        let written = format.made_writable(raw, Level::PAGE);
        assert_eq!(written, raw | 1 << 2 | 1 << 6 | 1 << 7);
    }
    entries::<false>();
    entries::<true>();
    assert_eq!((Sv39x4::LOCKED, Sv39x4::FROZEN), (1 << 5, 1 << 6));
}

/// D8.17.2: with level 2 of FEAT_BBM a block and its table take each other's place, the one in use until then.
#[test]
fn sizes_change_without_a_break_where_the_cpu_can_and_keeps_no_dirty_state() {
    fn sizes<const HD: bool, const BBM2: bool>([splits_what_is_read, splits_what_is_written, collapses]: [bool; 3]) {
        let format = Stage2::<12, false, false, HD, false, BBM2>::new(48).unwrap();
        let level = Level::new(1);
        let [table, other] = [TABLE, TABLE + 0x1000].map(|at| format.table(Hpa::new(at), level));
        let expected = |overlaps: bool| if overlaps { Change::Overlap } else { Change::Break };
        for leaf in leaves() {
            let block = format.leaf(leaf, level);
            let splits = if leaf.permissions.write() { splits_what_is_written } else { splits_what_is_read };
            assert_eq!(format.change(block, table, level), expected(splits), "{leaf:?} is split");
            assert_eq!(format.change(table, block, level), expected(collapses), "{leaf:?} comes of a table");
            let moved = format.leaf(Leaf { hpa: Hpa::new(AT + (1 << 30)), ..leaf }, level);
            assert_eq!(format.change(block, moved, level), Change::Break, "{leaf:?} is moved");
        }
        assert_eq!(format.change(table, other, level), Change::Break, "another table");
        assert_eq!(format.overlaps(), BBM2);
    }
    sizes::<false, false>([false, false, false]);
    sizes::<true, false>([false, false, false]);
    sizes::<false, true>([true, true, true]);
    sizes::<true, true>([true, false, false]);
}

#[test]
fn arm64_words_that_are_held_or_frozen_have_a_mark_of_software() {
    let (level, format) = (Level::new(1), Arm64Bbm2::new(48).unwrap());
    let table = format.table(Hpa::new(TABLE), level);
    assert_eq!((table, format.held(table, level)), (TABLE | 1 << 58 | 0b11, TABLE | 0b11));
    for leaf in leaves() {
        let raw = format.leaf(leaf, level);
        let owned = raw & !(1 << 55) | 1 << 56;
        assert_eq!((format.held(raw, level), format.frozen(raw, level)), (owned | 1 << 57, owned), "{leaf:?}");
        assert_eq!(Arm64::new(48).unwrap().held(raw, level), 1 << 2, "nothing is held without FEAT_BBML2");
        assert_eq!(Arm64::new(48).unwrap().frozen(raw, level), 1 << 3, "nor frozen");
    }
    assert!(!Ept::new().overlaps() && !Npt::new().overlaps() && !Sv39x4::new().overlaps());
    assert_eq!([Ept::new().held(table, level), Ept::new().frozen(table, level)], [Ept::LOCKED, Ept::FROZEN]);
}

/// Names say what a format has, in the order of its parameters.
#[test]
fn every_format_is_named_after_what_it_has() {
    fn arm64<const GRANULE: u8, const LPA2: bool>() {
        fn one<const GRANULE: u8, const LPA2: bool, const FWB: bool, const HD: bool, const GROUPS: bool>() {
            let size = match GRANULE {
                12 => "arm64-4k",
                14 => "arm64-16k",
                _ => "arm64-64k",
            };
            let parts = [(LPA2, "-lpa2"), (FWB, "-fwb"), (HD, "-hd"), (GROUPS, "-contiguous")];
            let has = parts.into_iter().filter(|(has, _)| *has).map(|(_, name)| name);
            assert!(
                core::iter::once(size)
                    .chain(has)
                    .flat_map(str::chars)
                    .eq(Stage2::<GRANULE, LPA2, FWB, HD, GROUPS>::NAME.chars())
            );
        }
        one::<GRANULE, LPA2, false, false, false>();
        one::<GRANULE, LPA2, false, false, true>();
        one::<GRANULE, LPA2, false, true, false>();
        one::<GRANULE, LPA2, false, true, true>();
        one::<GRANULE, LPA2, true, false, false>();
        one::<GRANULE, LPA2, true, false, true>();
        one::<GRANULE, LPA2, true, true, false>();
        one::<GRANULE, LPA2, true, true, true>();
    }
    arm64::<12, false>();
    arm64::<12, true>();
    arm64::<14, false>();
    arm64::<14, true>();
    arm64::<16, false>();
    assert_eq!([Ept::NAME, EptAd::NAME, Ept5::NAME, Ept5Ad::NAME], ["ept", "ept-ad", "ept-5", "ept-5-ad"]);
    assert_eq!([Npt::NAME, NptAd::NAME, Npt5::NAME, Npt5Ad::NAME], ["npt", "npt-ad", "npt-5", "npt-5-ad"]);
    assert_eq!([Sv39x4::NAME, Sv48x4::NAME, Sv57x4::NAME], ["sv39x4", "sv48x4", "sv57x4"]);
    assert_eq!([Sv39x4Adu::NAME, Sv48x4Adu::NAME, Sv57x4Adu::NAME], ["sv39x4-svadu", "sv48x4-svadu", "sv57x4-svadu"]);
    let grouped = [GStage::<3, false, true>::NAME, Sv48x4Napot::NAME, GStage::<5, false, true>::NAME];
    assert_eq!(grouped, ["sv39x4-svnapot", "sv48x4-svnapot", "sv57x4-svnapot"]);
    let both = [GStage::<3, true, true>::NAME, GStage::<4, true, true>::NAME, GStage::<5, true, true>::NAME];
    assert_eq!(both, ["sv39x4-svadu-svnapot", "sv48x4-svadu-svnapot", "sv57x4-svadu-svnapot"]);
    assert_eq!(Fake::NAME, "fake");
}

#[test]
fn hardware_keeps_the_flags_that_a_format_leaves_to_it() {
    fn keeps(format: impl Format) -> [bool; 2] {
        [format.hardware_accessed(), format.hardware_dirty()]
    }
    assert_eq!([keeps(Arm64::new(40).unwrap()), keeps(Arm64Hd::new(40).unwrap())], [[false; 2], [true; 2]]);
    assert_eq!([keeps(Ept::new()), keeps(EptAd::new())], [[false; 2], [true; 2]]);
    assert_eq!([keeps(Npt::new()), keeps(NptAd::new())], [[false; 2], [true; 2]]);
    assert_eq!([keeps(Sv39x4::new()), keeps(Sv39x4Adu::new())], [[false; 2], [true; 2]]);
    assert_eq!([keeps(Fake::new(3)), keeps(Fake::new(3).with_hardware_dirty())], [[false; 2], [false, true]]);
}

#[test]
fn united_leaves_allow_what_both_do() {
    for (one, other) in leaves().flat_map(|one| leaves().map(move |other| (one, other))) {
        let united = one.united(other);
        assert_eq!(united.permissions, one.permissions.and(other.permissions));
        assert_eq!(
            (united.may_write, united.accessed),
            (one.may_write & other.may_write, one.accessed | other.accessed)
        );
        assert_eq!((united.hpa, united.memory), (one.hpa, one.memory));
    }
}

#[test]
fn the_fake_formats_words_are_shifted_by_their_level() {
    const FRAME: u64 = 0x11_1111_1000;
    let format = Fake::new(4).with_overlaps();
    assert_eq!((format.output_bits(), format.overlaps(), Fake::new(4).overlaps()), (40, true, false));
    for (number, level) in (0..4).map(|number| (number, Level::new(number))) {
        let at = |bit: u32| 4 + 3 * u32::from(number) + bit;
        let tag = [(0, u64::from(number)), (3, 1), (at(12), FRAME >> 12)];
        let is_seen_as = |raw: u64| {
            assert_eq!((format.held(raw, level), format.frozen(raw, level)), (raw | 1 << at(10), raw | 1 << at(11)));
            for owned in [raw, format.held(raw, level), format.frozen(raw, level)] {
                assert_eq!(Fake::seen_by_hardware(owned), raw, "at {level}");
            }
        };
        for leaf in leaves().map(|leaf| Leaf { hpa: Hpa::new(FRAME), ..leaf }) {
            let permissions = leaf.permissions;
            let execute = permissions.execute() && leaf.memory == MemoryType::Normal;
            let bits = [permissions.read(), permissions.write(), execute, leaf.may_write, leaf.accessed].map(u64::from);
            let fields = [(0, 1), (1, bits[0]), (2, bits[1]), (3, bits[2]), (4, bits[3]), (5, bits[4])];
            let expected = word(tag) | word(fields.map(|(low, value)| (at(low), value)));
            let expected = expected | word([(at(6), memory(&leaf, [0, 1, 2]))]);
            assert_eq!(format.leaf(leaf, level), expected, "{leaf:?} at {level}");
            is_seen_as(expected);
        }
        assert_eq!(format.table(Hpa::new(FRAME), level), word(tag));
        [word(tag), word(tag) | Fake::KEPT].into_iter().for_each(is_seen_as);
    }
    assert_eq!(Fake::ANNOTATION.word(5), 5 << 12 | 1 << 5);
    for invalid in [0, Fake::LOCKED, Fake::FROZEN, Fake::ANNOTATION.word(5), 1 << 14 | 1 << 15] {
        assert_eq!(Fake::seen_by_hardware(invalid), invalid);
    }
}

#[test]
fn the_fake_format_changes_sizes_seamlessly_where_it_is_told_to() {
    let plain = Fake::new(3);
    let seamless = plain.with_overlaps();
    let level = Level::new(1);
    let table = plain.table(Hpa::new(TABLE), level);
    let kept = table | Fake::KEPT;
    assert_eq!((plain.change(table, kept, level), plain.change(kept, table, level)), (Change::Free, Change::Free));
    for leaf in leaves().map(|leaf| plain.leaf(Leaf { hpa: Hpa::new(0x11_1111_0000), ..leaf }, level)) {
        for (old, new) in [(leaf, table), (table, leaf)] {
            assert_eq!(seamless.change(old, new, level), Change::Overlap);
            assert_eq!(plain.change(old, new, level), Change::Break);
            assert_eq!(seamless.with_hardware_dirty().change(old, new, level), Change::Break);
        }
        let elsewhere = plain.leaf(Leaf { hpa: Hpa::new(0), ..plain.decode(leaf, level) }, level);
        assert_eq!(seamless.change(leaf, elsewhere, level), Change::Break, "of one size");
    }
}
