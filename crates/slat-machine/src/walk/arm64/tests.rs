//! The walker against the manual's tables, over every combination of the bits that they speak of.

use slat::host::Access;

use super::*;
use crate::walk::sparse::Sparse;
use crate::walk::translate;

const ACCESSES: [Access; 3] = [Access::Read, Access::Write, Access::Execute];
const LEVEL: [Level; 4] = [Level::new(3), Level::new(2), Level::new(1), Level::new(0)];

fn walker(bits: u32) -> Stage2 {
    Stage2::new(Vtcr::for_ipa_bits(bits).unwrap())
}

fn fault<T>(kind: FaultKind, manual_level: usize) -> Result<T, Fault> {
    Err(Fault::at(LEVEL[manual_level], kind))
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    Invalid,
    Block,
    Table,
    Page,
}

/// Bits 1:0 (columns) at each of the manual's levels (rows).
const KINDS: [[Kind; 4]; 4] = {
    use Kind::*;
    [
        [Invalid, Invalid, Invalid, Table],
        [Invalid, Block, Invalid, Table],
        [Invalid, Block, Invalid, Table],
        [Invalid, Invalid, Invalid, Page],
    ]
};

/// S2AP: read, write.
const S2AP: [(bool, bool); 4] = [(false, false), (true, false), (false, true), (true, true)];

/// MemAttr[3:0]. A zero lower half of Normal memory is reserved; the walker takes it as not cacheable.
const MEM_ATTR: [Memory; 16] = {
    use Memory::{Device as Dv, NonCacheable as Nc, WriteBack as Wb, WriteThrough as Wt};
    [Dv, Dv, Dv, Dv, Nc, Nc, Nc, Nc, Nc, Nc, Wt, Wt, Nc, Nc, Wt, Wb]
};

/// Bits that mean nothing to an access: nG or nT (11, 16), shareability (9:8), contiguous (52), software's (58:55), and
/// implementation-defined ones (62:59).
const NOISE: [u64; 3] = [0, 1 << 11 | 0b11 << 8 | 1 << 52 | 0b1111 << 55, 0b1111 << 59 | 1 << 8];

#[test]
fn every_combination_of_attributes_at_every_level_is_what_the_manual_says() {
    let address = 0x0000_9280_4020_1000;
    let own = [0, 0x0000_9280_4000_0000, 0x0000_9280_4020_0000, 0x0000_9280_4020_1000];
    for bits in 0..1u64 << 10 {
        let (low, mem_attr, s2ap) = (bits & 0b11, bits >> 2 & 0b1111, bits >> 6 & 0b11);
        let (accessed, execute_never) = (bits >> 8 & 1, bits >> 9 & 1);
        let descriptor = address | low | mem_attr << 2 | s2ap << 6 | accessed << 10 | execute_never << 54;
        for (level, noise) in (0..4).flat_map(|level| NOISE.map(|noise| (level, noise))) {
            let kind = KINDS[level][low as usize];
            for ha in [false, true] {
                let walker = Stage2::new(Vtcr { ha, ..Vtcr::for_ipa_bits(48).unwrap() });
                let step = walker.resolve(descriptor | noise, LEVEL[level]);
                let memory = MEM_ATTR[mem_attr as usize];
                let (read, write) = S2AP[s2ap as usize];
                let execute = execute_never == 0 && memory != Memory::Device;
                let translation = Translation {
                    output: Hpa::new(own[level]),
                    level: LEVEL[level],
                    permissions: Permissions::new(read, write, execute),
                    memory,
                    dirty: true,
                    set_bits: if noise >> 52 & 1 == 1 { 4 } else { 0 },
                };
                let expected = match kind {
                    Kind::Invalid => Step::Fault(FaultKind::Translation),
                    Kind::Table => {
                        Step::Table { table: Hpa::new(address), permissions: Permissions::ALL, update: None }
                    }
                    _ if accessed == 0 && !ha => Step::Fault(FaultKind::AccessFlag),
                    _ => {
                        let update = (accessed == 0).then_some(descriptor | noise | 1 << 10);
                        Step::Leaf { translation, update }
                    }
                };
                assert_eq!(step, expected, "descriptor {descriptor:#x} at the manual's level {level}, HA {ha}");
            }
        }
    }
}

#[test]
fn permission_faults_name_the_level_of_the_leaf() {
    // 39 bits: the root is one table of the manual's level 1.
    let leaf = |s2ap: u64, execute_never: u64| s2ap << 6 | execute_never << 54 | 0xf << 2 | 1 << 10;
    for (s2ap, execute_never, access) in
        (0..4).flat_map(|s2ap| (0..2).flat_map(move |never| ACCESSES.map(|access| (s2ap, never, access))))
    {
        let allowed = match access {
            Access::Read => s2ap & 1 != 0,
            Access::Write => s2ap & 2 != 0,
            Access::Execute => execute_never == 0,
        };
        let bits = leaf(s2ap, execute_never);
        let memory = Sparse::with(&[
            (0x10_0000, 0x8000_0000 | bits | 0b01),
            (0x10_0008, 0x11_0000 | 0b11),
            (0x11_0000, 0x4020_0000 | bits | 0b01),
            (0x11_0008, 0x12_0000 | 0b11),
            (0x12_0000, 0x4000_1000 | bits | 0b11),
        ]);
        for (gpa, output, level) in [(0x1000, 0x8000_0000, 1), (1 << 30, 0x4020_0000, 2), (0x4020_0000, 0x4000_1000, 3)]
        {
            let found = translate(&walker(39), &memory, Hpa::new(0x10_0000), Gpa::new(gpa), access);
            match allowed {
                true => assert_eq!(found.map(|t| (t.output.get(), t.level)), Ok((output, LEVEL[level]))),
                false => assert_eq!(
                    found.map_err(|fault| (fault.kind, fault.level)),
                    Err((FaultKind::Permission, LEVEL[level]))
                ),
            }
        }
    }
}

/// The manual's table of start levels for this granule: SL0, the level, and the sizes of input address it may have.
const STARTS: [(u8, usize, std::ops::RangeInclusive<u32>); 3] = [(0, 2, 22..=34), (1, 1, 31..=43), (2, 0, 40..=48)];

#[test]
fn start_levels_are_consistent_with_the_input_size_or_fault() {
    for (sl0, level, sizes) in STARTS {
        for bits in 16..=52 {
            let walker = Stage2::new(Vtcr { t0sz: (64 - bits) as u8, sl0, ..Vtcr::for_ipa_bits(48).unwrap() });
            let expected = if sizes.contains(&bits) { Ok(LEVEL[level]) } else { fault(FaultKind::Translation, 0) };
            assert_eq!(walker.start(Gpa::new(0)), expected, "SL0 {sl0}, {bits} bits");
        }
    }
}

#[test]
fn addresses_past_the_input_size_fault_before_the_walk() {
    for bits in 32..=48 {
        let walker = walker(bits);
        assert!(walker.start(Gpa::new((1 << bits) - 1)).is_ok());
        for gpa in [1 << bits, 1 << 52, u64::MAX] {
            assert_eq!(walker.start(Gpa::new(gpa)), fault(FaultKind::Translation, 0));
        }
    }
}

#[test]
fn hypervisors_start_as_far_down_as_sixteen_root_tables_allow() {
    // Input bits; the manual's start level; tables in the root.
    let shapes = [(32, 2, 4), (33, 2, 8), (34, 2, 16), (35, 1, 1), (39, 1, 1), (40, 1, 2), (41, 1, 4), (42, 1, 8)];
    for (bits, level, tables) in shapes.into_iter().chain([(43, 1, 16), (44, 0, 1), (48, 0, 1)]) {
        let walker = walker(bits);
        let last = Gpa::new((1 << bits) - 1);
        assert_eq!(walker.start(last), Ok(LEVEL[level]));
        let entry = walker.descriptor(Hpa::new(0x100_0000), LEVEL[level], last).get();
        assert_eq!((entry - 0x100_0000) / 4096, tables - 1, "{bits} bits end in the root's last table");
    }
    for bits in [0, 31, 49, 64] {
        assert_eq!(Vtcr::for_ipa_bits(bits), Err(IpaBits(bits)));
    }
}

#[test]
fn the_root_is_aligned_to_its_tables() {
    assert_eq!(walker(40).root(Hpa::new(0x10_3000)), Ok(Hpa::new(0x10_2000)));
    assert_eq!(walker(34).root(Hpa::new(0x12_3000)), Ok(Hpa::new(0x12_0000)));
    assert_eq!(walker(39).root(Hpa::new(0x12_3000)), Ok(Hpa::new(0x12_3000)));
}

#[test]
fn addresses_past_the_output_size_fault_at_the_level_that_names_them() {
    let sizes = [32, 36, 40, 42, 44, 48];
    for (ps, bits) in sizes.into_iter().enumerate() {
        let walker = Stage2::new(Vtcr { ps: ps as u8, ..Vtcr::for_ipa_bits(48).unwrap() });
        let step = |address: u64, low: u64, level: usize| walker.resolve(address | low | 1 << 10, LEVEL[level]);
        for (low, level) in [(0b11, 0), (0b11, 1), (0b11, 2), (0b01, 1), (0b01, 2), (0b11, 3)] {
            assert!(!matches!(step(1 << (bits - 1), low, level), Step::Fault(_)));
            if bits < 48 {
                assert_eq!(step(1 << bits, low, level), Step::Fault(FaultKind::AddressSize));
                assert_eq!(walker.root(Hpa::new(1 << bits)), fault(FaultKind::AddressSize, 0));
            }
        }
    }
    // The address size comes before the access flag.
    let walker = Stage2::new(Vtcr { ps: 0, ..Vtcr::for_ipa_bits(40).unwrap() });
    assert_eq!(walker.resolve(1 << 32 | 0b11, LEVEL[3]), Step::Fault(FaultKind::AddressSize));
}

#[test]
fn hardware_sets_the_access_flag_where_it_is_told_to_and_looks_again_when_the_descriptor_changed() {
    let page = 0x4000_0000 | 0b11 << 6 | 0xf << 2 | 0b11;
    let memory = || Sparse::with(&[(0x10_0000, 0x11_0000 | 0b11), (0x11_0000, 0x12_0000 | 0b11), (0x12_0000, page)]);
    let read = |walker: &Stage2, memory: &Sparse| {
        translate(walker, memory, Hpa::new(0x10_0000), Gpa::new(0), Access::Read).map(|found| found.output.get())
    };
    let walker = walker(39);
    let managed = Stage2::new(Vtcr { ha: true, ..walker.vtcr });

    let untouched = memory();
    assert_eq!(read(&walker, &untouched), fault(FaultKind::AccessFlag, 3));
    assert_eq!(untouched.get(0x12_0000), page);

    let touched = memory();
    assert_eq!(read(&managed, &touched), Ok(0x4000_0000));
    assert_eq!(touched.get(0x12_0000), page | 1 << 10);

    let raced = memory();
    raced.interference.set(Some(page + 0x1000));
    assert_eq!(read(&managed, &raced), Ok(0x4000_1000));
    assert_eq!(raced.get(0x12_0000), (page + 0x1000) | 1 << 10);

    let unmapped = memory();
    unmapped.interference.set(Some(0));
    assert_eq!(read(&managed, &unmapped), fault(FaultKind::Translation, 3));
}

/// Formats of descriptors: granule, DS, PS, and the levels that have blocks, of the manual's.
const FORMATS: [(Granule, bool, u8, &[i32]); 6] = [
    (Granule::Four, false, 5, &[1, 2]),
    (Granule::Four, true, 6, &[0, 1, 2]),
    (Granule::Sixteen, false, 5, &[2]),
    (Granule::Sixteen, true, 6, &[1, 2]),
    (Granule::SixtyFour, false, 5, &[2]),
    (Granule::SixtyFour, false, 6, &[1, 2]),
];

/// A consistent value for the format, with 48 bits of input.
fn vtcr((granule, ds, ps, _): (Granule, bool, u8, &[i32]), ha: bool, hd: bool) -> Vtcr {
    Vtcr { t0sz: 16, sl0: 2, sl2: false, sh0: 0b11, granule, ps, ha, hd, ds }
}

/// MemAttr under FEAT_S2FWB: 0b0110 and 0b0111 are write-back here, 0b0101 is not cacheable, the rest is Device.
const FORCED: [Memory; 16] = {
    use Memory::{Device as Dv, NonCacheable as Nc, WriteBack as Wb};
    [Dv, Dv, Dv, Dv, Dv, Nc, Wb, Wb, Dv, Dv, Dv, Dv, Dv, Dv, Dv, Dv]
};

/// XN[1:0]: whether fetches are allowed at EL1 and at EL0.
const XN: [(bool, bool); 4] = [(true, true), (false, true), (false, false), (true, false)];

/// Every combination of validity, type, MemAttr, S2AP, AF, XN and DBM; every format of descriptors, with forced write-back
/// or not, for each kind of fetch, with each kind of hardware management: 3 million verdicts for each access.
#[test]
fn every_combination_in_every_format_and_under_every_control_is_what_the_manual_says() {
    for (format, controls) in FORMATS.into_iter().flat_map(|format| (0..8u32).map(move |bits| (format, bits))) {
        let (forced, ha, hd) = (controls & 1 != 0, controls & 2 != 0, controls & 4 != 0);
        for fetches in [Fetches::All, Fetches::El1, Fetches::El0] {
            let walker = Stage2::new(vtcr(format, ha, hd)).with_fetches(fetches);
            let walker = if forced { walker.with_forced_write_back() } else { walker };
            for bits in 0..1u64 << 12 {
                let descriptor = bits & 0xff | (bits >> 8 & 1) << 10 | (bits >> 9 & 3) << 53 | (bits >> 11) << 51;
                for level in 0..4 {
                    check(format, walker, descriptor, level);
                }
            }
        }
    }
}

fn check(format: (Granule, bool, u8, &[i32]), walker: Stage2, descriptor: u64, level: i32) {
    let bit = |number: u32| descriptor >> number & 1 != 0;
    let is_leaf = if level == 3 { bit(1) } else { !bit(1) && format.3.contains(&level) };
    let step = walker.resolve(descriptor, LEVEL[level as usize]);
    if !bit(0) || (!is_leaf && (level == 3 || !bit(1))) {
        return assert_eq!(step, Step::Fault(FaultKind::Translation));
    }
    if !is_leaf {
        return assert!(matches!(step, Step::Table { permissions: Permissions::ALL, update: None, .. }));
    }
    if !bit(10) && !walker.vtcr.ha {
        return assert_eq!(step, Step::Fault(FaultKind::AccessFlag));
    }
    let Step::Leaf { translation, update } = step else { panic!("{descriptor:#x} at {level} is a leaf") };
    assert_eq!(update, (!bit(10)).then_some(descriptor | 1 << 10));
    let attributes = (descriptor >> 2 & 0b1111) as usize;
    let memory = if walker.forced_write_back { FORCED[attributes] } else { MEM_ATTR[attributes] };
    let xn = XN[(descriptor >> 53 & 3) as usize];
    let fetches = match walker.fetches {
        Fetches::All => !bit(54),
        Fetches::El1 => xn.0,
        Fetches::El0 => xn.1,
    };
    let is_clean = bit(51) && !bit(7) && walker.vtcr.ha && walker.vtcr.hd;
    let permissions = Permissions::new(bit(6), bit(7) || is_clean, fetches && memory != Memory::Device);
    assert_eq!((translation.memory, translation.permissions, translation.dirty), (memory, permissions, !is_clean));
}

#[test]
fn hardware_makes_dirty_what_is_written_and_may_be() {
    let walker = Stage2::new(Vtcr { ha: true, hd: true, ..Vtcr::for_ipa_bits(39).unwrap() });
    let clean = 0x4000_0000 | 1 << 51 | 1 << 10 | 0b01 << 6 | 0xf << 2 | 0b11;
    let look = |walker: &Stage2, access| {
        let memory = Sparse::with(&[(0x10_0000, 0x11_0003), (0x11_0000, 0x12_0003), (0x12_0000, clean)]);
        let found = translate(walker, &memory, Hpa::new(0x10_0000), Gpa::new(0), access);
        (found.is_ok_and(|found| found.dirty), memory.get(0x12_0000))
    };
    assert_eq!(look(&walker, Access::Read), (false, clean));
    assert_eq!(look(&walker, Access::Write), (true, clean | 1 << 7));
    let without = Stage2::new(Vtcr { hd: false, ..walker.vtcr });
    assert_eq!(look(&without, Access::Write), (false, clean), "a permission fault");
}

/// The manual's start levels by SL0 for the other granules, and the sizes of input address that each may have: with
/// addresses of 48 bits, and of 52.
type Starts = [(u8, usize, std::ops::RangeInclusive<u32>, std::ops::RangeInclusive<u32>); 4];

const SIXTEEN: Starts =
    [(0, 3, 15..=29, 15..=29), (1, 2, 26..=40, 26..=40), (2, 1, 37..=48, 37..=51), (3, 0, 0..=0, 48..=52)];
const SIXTY_FOUR: Starts =
    [(0, 3, 17..=33, 17..=33), (1, 2, 30..=46, 30..=46), (2, 1, 43..=52, 43..=52), (3, 0, 0..=0, 0..=0)];

#[test]
fn start_levels_of_the_other_granules() {
    let start = |granule, ds, sl0, bits: u32| {
        let vtcr =
            Vtcr { t0sz: (64 - bits) as u8, sl0, sl2: false, sh0: 0b11, granule, ps: 5, ha: false, hd: false, ds };
        Stage2::new(vtcr).start(Gpa::new(0))
    };
    for (granule, starts) in [(Granule::Sixteen, SIXTEEN), (Granule::SixtyFour, SIXTY_FOUR)] {
        for (sl0, level, narrow, wide) in starts {
            for bits in 15..=56 {
                let expected = |sizes: &std::ops::RangeInclusive<u32>| match sizes.contains(&bits) {
                    true => Ok(LEVEL[level]),
                    false => fault(FaultKind::Translation, 0),
                };
                assert_eq!(start(granule, false, sl0, bits), expected(&narrow), "{granule:?}, SL0 {sl0}, {bits} bits");
                if granule == Granule::Sixteen {
                    assert_eq!(start(granule, true, sl0, bits), expected(&wide), "{granule:?}, DS, {sl0}, {bits}");
                }
            }
        }
    }
}

/// 4 KiB with DS: level -1 for more than 48 bits, or level 0 with concatenated tables.
#[test]
fn the_extra_start_level_resolves_up_to_52_bits() {
    for bits in 40..=56 {
        let of = |sl0, sl2, ds| {
            let vtcr = Vtcr { t0sz: (64 - bits) as u8, sl0, sl2, ds, ps: 6, ..Vtcr::for_ipa_bits(48).unwrap() };
            Stage2::new(vtcr).start(Gpa::new(0)).ok()
        };
        assert_eq!(of(0, true, true), (49..=52).contains(&bits).then_some(Level::new(4)), "{bits} bits");
        assert_eq!(of(2, false, true), (40..=52).contains(&bits).then_some(Level::new(3)), "{bits} bits");
        assert_eq!((of(0, true, false), of(1, true, true), of(2, true, true)), (None, None, None));
    }
}

#[test]
fn addresses_of_52_bits_lie_where_their_format_puts_them() {
    let high = 0x000f_0000_0000_0000u64;
    for (format, fields) in
        [(FORMATS[1], 0x0003_0000_0000_0300), (FORMATS[3], 0x0003_0000_0000_0300), (FORMATS[5], 0xf000)]
    {
        let walker = Stage2::new(vtcr(format, false, false));
        let Step::Table { table, .. } = walker.resolve(fields | 0b11, LEVEL[2]) else { panic!("a table") };
        assert_eq!(table, Hpa::new(high));
        for (level, kind) in [(3, 0b11), (2, 0b01)] {
            let Step::Leaf { translation, .. } = walker.resolve(fields | 1 << 10 | kind, LEVEL[level]) else {
                panic!("a leaf")
            };
            assert_eq!(translation.output, Hpa::new(high));
        }
        let smaller = Stage2::new(Vtcr { ps: 5, ..walker.vtcr });
        assert_eq!(smaller.resolve(fields | 0b11, LEVEL[2]), Step::Fault(FaultKind::AddressSize));

        let root = Hpa::new(high | 0x1234_0000);
        assert_eq!(walker.register(root), Hpa::new(0x1234_003c));
        assert_eq!(walker.root(Hpa::new(0xabcd << 48 | 0x1234_003c)), Ok(root), "the VMID is none of the walk's");
    }
    let narrow = Stage2::new(vtcr(FORMATS[0], false, false));
    assert_eq!(narrow.root(Hpa::new(0x1234_003c)), Ok(Hpa::new(0x1234_0000)));
}

#[test]
fn a_register_is_taken_apart_as_it_is_drawn() {
    let value = 1 << 33 | 1 << 32 | 1 << 31 | 1 << 22 | 1 << 21 | 6 << 16 | 0b10 << 14 | 0b10 << 12 | 0b11 << 6 | 12;
    let granule = Granule::Sixteen;
    let fields = Vtcr { t0sz: 12, sl0: 3, sl2: true, sh0: 0b10, granule, ps: 6, ha: true, hd: true, ds: true };
    assert_eq!(Vtcr::decode(value), Ok(fields));
    let granule = Granule::Four;
    let four = Vtcr { t0sz: 16, sl0: 2, sl2: false, sh0: 0b11, granule, ps: 5, ha: false, hd: false, ds: false };
    assert_eq!(Vtcr::decode(1 << 31 | 5 << 16 | 1 << 19 | 0x3500 | 2 << 6 | 16), Ok(four), "walks may be cached");
    assert_eq!(Vtcr::decode(1 << 31 | 0b01 << 14).map(|vtcr| vtcr.granule), Ok(Granule::SixtyFour));
    for value in [0b11 << 14 | 1 << 31, 0, 1 << 31 | 1 << 34, 1 << 31 | 1 << 63] {
        assert_eq!(Vtcr::decode(value), Err(NoVtcr(value)));
    }
}

#[test]
fn a_syndrome_names_the_fault_and_its_level() {
    let at = |kind, level| fault_status(Fault::at(Level::new(level), kind));
    for (kind, code) in [
        (FaultKind::AddressSize, 0b000000),
        (FaultKind::Translation, 0b000100),
        (FaultKind::AccessFlag, 0b001000),
        (FaultKind::Permission, 0b001100),
        (FaultKind::External(Hpa::new(0)), 0b010100),
    ] {
        // The manual's levels 3 to 0.
        assert_eq!([0, 1, 2, 3].map(|level| at(kind, level)), [3, 2, 1, 0].map(|level| Some(code | level)));
    }
    assert_eq!(at(FaultKind::Translation, 4), Some(0b101011));
    assert_eq!(at(FaultKind::AddressSize, 4), Some(0b101001));
    assert_eq!(at(FaultKind::External(Hpa::new(0)), 4), Some(0b010011));
    assert_eq!(
        (at(FaultKind::Misconfiguration, 0), at(FaultKind::Root, 3), at(FaultKind::Permission, 4)),
        (None, None, None)
    );
}
