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

/// Bits that mean nothing here: nG or nT (11, 16), shareability (9:8), contiguous (52), software's (58:55), and
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
            let walker = Stage2::new(Vtcr { t0sz: (64 - bits) as u8, sl0, ps: 5, ha: false });
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
