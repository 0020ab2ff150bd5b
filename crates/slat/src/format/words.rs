//! Words, bit by bit as the manuals draw them, for every combination of attributes. The machine's walkers say what such
//! words do; here is which ones they are, software's bits included.

use super::*;

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
        assert_eq!((table, format.kept(table, Level::new(1))), (TABLE | 0b11, TABLE | 0b11 | 1 << 56));
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
    assert_eq!((Arm64::LOCKED, Arm64::FROZEN, format.annotation(5)), (1 << 2, 1 << 3, 5 << 12 | 1 << 4));
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
        assert_eq!(format.kept(table, Level::new(1)), table | 1 << 59);
        let annotation = format.annotation(5);
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
        assert_eq!((table, format.kept(table, Level::new(1))), (TABLE | 0b10_0111, TABLE | 0b10_0111 | 1 << 10));
        assert_eq!(format.annotation(5), 5 << 12 | 1 << 6);
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
        assert_eq!((table, format.kept(table, Level::new(1))), (TABLE >> 2 | 1, TABLE >> 2 | 1 | 1 << 9));
        assert_eq!(format.annotation(5), 5 << 10 | 1 << 7);
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
