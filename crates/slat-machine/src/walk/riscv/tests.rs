//! The walker against the manual's text, over every combination of the bits that it speaks of.

use super::*;
use crate::walk::sparse::Sparse;
use crate::walk::translate;

const ACCESSES: [Access; 3] = [Access::Read, Access::Write, Access::Execute];
const MODES: [Mode; 3] = [Mode::Sv39x4, Mode::Sv48x4, Mode::Sv57x4];
/// Aligned for leaves of every level below the root of Sv57x4.
const ADDRESS: u64 = 0x00a1_0000_0000_0000;
const FRAME: u64 = ADDRESS >> 2;

fn harts() -> impl Iterator<Item = Hart> {
    let hart = |bits| Hart {
        updates_flags: bits & 1 != 0,
        memory_types: bits & 2 != 0,
        naturally_aligned_sets: bits & 4 != 0,
    };
    (0..8).map(hart)
}

/// The manual's verdict on bits 7:0 and 62:61 of an entry at `level`, for one access.
fn verdict(low: u64, memory: u64, level: u8, hart: Hart, access: Access) -> Result<(), FaultKind> {
    let on = |bit: u32| low >> bit & 1 != 0;
    let (valid, read, write, execute, user, accessed, dirty) = (on(0), on(1), on(2), on(3), on(4), on(6), on(7));
    if !valid {
        return Err(FaultKind::Translation);
    }
    if write && !read {
        return Err(FaultKind::Misconfiguration);
    }
    if !read && !execute {
        let reserved = user || accessed || dirty || memory != 0;
        return Err(if reserved { FaultKind::Misconfiguration } else { FaultKind::Translation });
    }
    if memory == 3 || (memory != 0 && !hart.memory_types) {
        return Err(FaultKind::Misconfiguration);
    }
    assert!(level < 5);
    if !accessed && !hart.updates_flags {
        return Err(FaultKind::AccessFlag);
    }
    let allowed = match access {
        Access::Read => read,
        Access::Write => write && (dirty || hart.updates_flags),
        Access::Execute => execute,
    };
    if user && allowed { Ok(()) } else { Err(FaultKind::Permission) }
}

/// Bits 8, 9 are software's and bit 5 means nothing, whatever they are.
#[test]
fn every_combination_of_flags_is_what_the_manual_says() {
    for hart in harts() {
        let walker = GStage::of(Mode::Sv57x4, hart);
        for (low, memory) in (0..1u64 << 10).flat_map(|low| (0..4).map(move |memory| (low, memory))) {
            let entry = FRAME | low | memory << 61;
            for (level, access) in (0..5).flat_map(|level| ACCESSES.map(|access| (level, access))) {
                let found = match walker.resolve(entry, Level::new(level)) {
                    Step::Table { table, permissions, update } => {
                        assert_eq!((table, permissions, update), (Hpa::new(ADDRESS), Permissions::ALL, None));
                        assert!(level > 0 && low & 0b1101_1111 == 1);
                        continue;
                    }
                    Step::Fault(kind) => Err(kind),
                    Step::Leaf { translation, update } => {
                        assert_eq!((translation.output, translation.level), (Hpa::new(ADDRESS), Level::new(level)));
                        assert_eq!(update, (low >> 6 & 1 == 0).then_some(entry | 1 << 6));
                        assert_eq!(translation.dirty, low >> 7 & 1 != 0 || !hart.updates_flags);
                        translation.check(access).map(drop).map_err(|fault| fault.kind)
                    }
                };
                let expected = verdict(low, memory, level, hart, access);
                assert_eq!(found, expected, "{access:?} through {entry:#x} at {level} with {hart:?}");
            }
        }
    }
}

#[test]
fn reserved_bits_are_faults_in_entries_that_are_valid() {
    let walker = GStage::new(Mode::Sv48x4);
    for (bit, low) in (54..=60).chain([63]).flat_map(|bit| [0xdf, 0x01].map(|low| (bit, low))) {
        let step = |low: u64| walker.resolve(FRAME | low | 1 << bit, Level::new(1));
        assert_eq!(step(low), Step::Fault(FaultKind::Misconfiguration), "bit {bit}");
        assert_eq!(step(low & !1), Step::Fault(FaultKind::Translation), "bit {bit}");
    }
}

/// Svnapot: of the encodings with N, that of 64 KiB alone, in the leaf of a page alone, on a hart that has it.
#[test]
fn a_set_is_sixteen_pages_with_the_low_bits_of_the_guests_address() {
    let hart = Hart { naturally_aligned_sets: true, ..Hart::default() };
    let (with, without) = (GStage::of(Mode::Sv48x4, hart), GStage::new(Mode::Sv48x4));
    for low in 0..16 {
        let entry = 1 << 63 | FRAME | low << 10 | 0xdf;
        let found = with.resolve(entry, Level::PAGE);
        match (low, found) {
            (0b1000, Step::Leaf { translation, .. }) => {
                assert_eq!(translation.set_bits, 4);
                for page in 0..16 {
                    let gpa = Gpa::new(0x7_0000 + page * 0x1000 + 5);
                    assert_eq!(with.output_at(translation, gpa), Hpa::new(ADDRESS + page * 0x1000));
                }
            }
            (_, found) => assert_eq!(found, Step::Fault(FaultKind::Misconfiguration), "{low:#06b}"),
        }
        assert_eq!(with.resolve(entry, Level::new(1)), Step::Fault(FaultKind::Misconfiguration));
        assert_eq!(without.resolve(entry, Level::PAGE), Step::Fault(FaultKind::Misconfiguration));
    }
}

#[test]
fn superpages_are_aligned_or_faults() {
    let walker = GStage::new(Mode::Sv57x4);
    for (level, bit) in (0..5u8).flat_map(|level| (12..56u32).map(move |bit| (level, bit))) {
        let entry = (1u64 << bit) >> 2 | 0xdf;
        let misaligned = bit < 12 + 9 * u32::from(level);
        let step = walker.resolve(entry, Level::new(level));
        assert_eq!(step == Step::Fault(FaultKind::Misconfiguration), misaligned, "bit {bit} at {level}");
    }
}

#[test]
fn addresses_and_roots_are_two_bits_wider_than_those_of_the_namesake() {
    for (mode, bits, levels) in [(MODES[0], 41, 3), (MODES[1], 50, 4), (MODES[2], 59, 5)] {
        let (walker, root) = (GStage::new(mode), Level::new(levels - 1));
        assert_eq!(walker.start(Gpa::new((1 << bits) - 1)), Ok(root));
        for gpa in [1 << bits, u64::MAX] {
            assert_eq!(walker.start(Gpa::new(gpa)), Err(Fault::at(root, FaultKind::Translation)));
        }
        let last = Gpa::new((1 << bits) - 1);
        assert_eq!(walker.descriptor(Hpa::new(0x4000), root, last), Hpa::new(0x7ff8), "2,048 entries");
        let below = root.below().unwrap();
        assert_eq!(walker.descriptor(Hpa::new(0x4000), below, last), Hpa::new(0x4ff8), "512 entries");
    }
}

#[test]
fn hgatp_names_the_mode_and_the_root() {
    for (mode, encoding) in MODES.into_iter().zip(8u64..) {
        let walker = GStage::new(mode);
        let root = |hgatp: u64| walker.root(Hpa::new(hgatp));
        assert_eq!(walker.register(Hpa::new(0x8_4000)), Hpa::new(encoding << 60 | 0x84));
        assert_eq!(root(encoding << 60 | 0x84), Ok(Hpa::new(0x8_4000)));
        assert_eq!(root(encoding << 60 | 0x3fff << 44 | 0x87), Ok(Hpa::new(0x8_4000)), "VMID, and two bits of zero");
        for other in (0..16).filter(|other| *other != encoding) {
            assert!(root(other << 60 | 0x84).is_err_and(|fault| fault.kind == FaultKind::Root));
        }
        for bit in [58, 59] {
            assert!(root(encoding << 60 | 1 << bit | 0x84).is_err());
        }
    }
}

const ROOT: u64 = 0x10_0000;
/// Indices 2, 3, 4 below the root of Sv39x4.
const AT: u64 = 2 << 30 | 3 << 21 | 4 << 12 | 0x568;
const LEAF: u64 = 0x80_0000_1000;

fn page(flags: u64) -> Sparse {
    let entry = |address: u64, flags: u64| address >> 2 | flags;
    Sparse::with(&[(ROOT + 16, entry(0x11_0000, 1)), (0x11_0018, entry(0x12_0000, 1)), (0x12_0020, entry(LEAF, flags))])
}

fn look(hart: Hart, memory: &Sparse, access: Access) -> Result<Hpa, Fault> {
    let walker = GStage::of(Mode::Sv39x4, hart);
    translate(&walker, memory, walker.register(Hpa::new(ROOT)), Gpa::new(AT), access).map(|found| found.output)
}

#[test]
fn a_hart_sets_the_flags_where_it_is_told_to() {
    let (faults, updates) = (Hart::default(), Hart { updates_flags: true, ..Hart::default() });
    let flags = 0b1_1111;
    for access in ACCESSES {
        let memory = page(flags);
        assert_eq!(look(faults, &memory, access).map_err(|fault| fault.kind), Err(FaultKind::AccessFlag));
        assert_eq!(memory.get(0x12_0020), LEAF >> 2 | flags);

        assert_eq!(look(updates, &memory, access), Ok(Hpa::new(LEAF)));
        let set = if access == Access::Write { 0b1100_0000 } else { 0b0100_0000 };
        assert_eq!(memory.get(0x12_0020), LEAF >> 2 | flags | set, "{access:?}");
    }
    // A write that is not allowed makes nothing dirty.
    let memory = page(0b1_1011);
    assert!(look(updates, &memory, Access::Write).is_err_and(|fault| fault.kind == FaultKind::Permission));
    assert_eq!(memory.get(0x12_0020), LEAF >> 2 | 0b101_1011);
    // A leaf that is not dirty is not written, where the hart does not make it so.
    assert!(look(faults, &page(0b101_1111), Access::Write).is_err());
    assert!(look(faults, &page(0b101_1111), Access::Read).is_ok());
}

#[test]
fn an_exception_says_what_was_tried() {
    let faults = [FaultKind::Translation, FaultKind::Permission, FaultKind::AccessFlag, FaultKind::Misconfiguration];
    for kind in faults {
        let causes = ACCESSES.map(|access| cause(Fault::at(Level::PAGE, kind), access));
        assert_eq!(causes, [Some(21), Some(23), Some(20)]);
    }
    let external = Fault::at(Level::PAGE, FaultKind::External(Hpa::new(0)));
    assert_eq!(ACCESSES.map(|access| cause(external, access)), [Some(5), Some(7), Some(1)]);
    assert_eq!(cause(Fault::at(Level::PAGE, FaultKind::Root), Access::Read), None);
}
