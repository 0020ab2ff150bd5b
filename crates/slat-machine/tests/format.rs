//! Each format held against the walker that was written from the same architecture's manual: two readings of it that
//! share no line have to agree.

use std::collections::HashMap;
use std::ops::RangeInclusive;

use proptest::prelude::*;
use slat::addr::{Gpa, Hpa, Level};
use slat::format::{
    Arm64, Arm64_16k, Arm64_16kLpa2, Arm64_64k, Arm64Fwb, Arm64Lpa2, Change, Format, Kind, Leaf, Stage2,
};
use slat::host::{Access, MemoryType, Permissions};
use slat_machine::walk::{
    Abort, DescriptorMemory, Fault, FaultKind, Memory, Step, Translation, Walker, arm64, ept, riscv, translate,
};

const ACCESSES: [Access; 3] = [Access::Read, Access::Write, Access::Execute];

/// A format and its walker.
trait Pair {
    type Format: Format;

    /// Bits of guest physical address that the format can be made for.
    const BITS: RangeInclusive<u32>;

    fn format(bits: u32) -> Self::Format;
    fn walker(bits: u32) -> Box<dyn Walker>;

    /// Both for the largest address.
    fn both() -> (Self::Format, Box<dyn Walker>) {
        (Self::format(*Self::BITS.end()), Self::walker(*Self::BITS.end()))
    }
}

/// arm64 stage 2, walked under the very value of VTCR_EL2 that the format gives, for fetches of each kind.
macro_rules! arm64 {
    ($($name:ident: $format:ty, $bits:expr, $made:ident $(($levels:literal))?, $fwb:literal, $fetches:ident;)*) => {
        $(struct $name;

        impl Pair for $name {
            type Format = $format;

            const BITS: RangeInclusive<u32> = $bits;

            fn format(bits: u32) -> Self::Format {
                Self::Format::$made(bits $(, $levels)?).unwrap()
            }

            fn walker(bits: u32) -> Box<dyn Walker> {
                let vtcr = arm64::Vtcr::decode(Self::format(bits).vtcr(6, false, false)).unwrap();
                let walker = arm64::Stage2::new(vtcr).with_fetches(arm64::Fetches::$fetches);
                Box::new(if $fwb { walker.with_forced_write_back() } else { walker })
            }
        })*
    };
}

arm64! {
    Arm4k: Arm64, 32..=48, new, false, All;
    Arm4kEl1: Arm64, 48..=48, new, false, El1;
    Arm4kEl0: Arm64, 48..=48, new, false, El0;
    Arm4kFwb: Arm64Fwb, 40..=40, new, true, All;
    Arm4kLpa2: Arm64Lpa2, 32..=52, new, false, All;
    Arm4kFiveLevels: Arm64Lpa2, 49..=52, with_levels(5), false, All;
    Arm4kFourLevels: Arm64, 40..=48, with_levels(4), false, All;
    Arm16k: Arm64_16k, 32..=48, new, false, All;
    Arm16kFwb: Stage2<14, true, true>, 47..=52, new, true, All;
    Arm16kLpa2: Arm64_16kLpa2, 32..=52, new, false, All;
    Arm16kFourLevels: Arm64_16kLpa2, 48..=52, with_levels(4), false, All;
    Arm64k: Arm64_64k, 32..=52, new, false, All;
    Arm64kFwb: Stage2<16, false, true>, 40..=52, new, true, El1;
}

/// x86 EPT, on the processor that allows least and has the widest addresses, for fetches of each kind.
macro_rules! ept {
    ($($name:ident: $format:ident, $bits:literal, $levels:ident, $fetches:ident;)*) => {
        $(struct $name;

        impl Pair for $name {
            type Format = slat::format::$format;

            const BITS: RangeInclusive<u32> = $bits..=$bits;

            fn format(_: u32) -> Self::Format {
                slat::format::$format::new()
            }

            fn walker(_: u32) -> Box<dyn Walker> {
                let processor = ept::Processor { physical_bits: 52, execute_only: false, ..Default::default() };
                Box::new(ept::Ept::of(processor, false).$levels().with_fetches(ept::Fetches::$fetches))
            }
        })*
    };
}

ept! {
    Ept: Ept, 48, with_four_levels, All;
    EptOfSupervisors: Ept, 48, with_four_levels, Supervisor;
    EptOfUsers: Ept, 48, with_four_levels, User;
    Ept5: Ept5, 57, with_five_levels, All;
}

/// RISC-V's G-stage, on a hart that sets no flags itself: (levels, bits).
macro_rules! g_stage {
    ($($name:ident, $bits:literal;)*) => {
        $(struct $name;

        impl Pair for $name {
            type Format = slat::format::$name;

            const BITS: RangeInclusive<u32> = $bits..=$bits;

            fn format(_: u32) -> Self::Format {
                slat::format::$name::new()
            }

            fn walker(_: u32) -> Box<dyn Walker> {
                Box::new(riscv::GStage::new(riscv::Mode::$name))
            }
        })*
    };
}

g_stage!(Sv39x4, 41; Sv48x4, 50; Sv57x4, 59;);

/// The tests, for one pair.
macro_rules! hold {
    ($name:ident, $pair:ty, [$($test:ident),* $(,)?]) => {
        mod $name {
            $(#[test]
            fn $test() {
                super::$test::<$pair>();
            })*

            proptest::proptest! {
                #[test]
                fn what_is_mapped_at_an_address_is_found_at_it(
                    bits in <$pair as super::Pair>::BITS,
                    at in proptest::prelude::any::<u64>(),
                    frame in 0u64..1 << 26,
                    level in 0u8..3,
                    inside in proptest::prelude::any::<u64>(),
                ) {
                    super::what_is_mapped_is_found::<$pair>(bits, at, frame, level, inside)?;
                }
            }
        }
    };
}

macro_rules! hold_each {
    ($($name:ident: $pair:ty,)*) => {
        $(hold!($name, $pair, [
            the_hardware_does_through_a_leaf_what_the_format_says_it_does,
            every_change_of_a_leaf_does_to_the_hardware_what_its_name_says,
            a_leaf_that_was_made_old_is_what_it_was_once_it_is_accessed,
            a_change_that_needs_no_flush_leaves_nothing_in_a_tlb_that_the_new_entry_forbids,
            a_table_restricts_nothing_below_it_and_notes_of_software_change_nothing,
            states_of_software_are_invalid_to_the_hardware_at_every_level,
            the_hardware_never_takes_an_annotation_for_an_entry,
            the_shape_of_the_tree_is_the_same_for_every_address_size,
        ]);)*
    };
}

hold_each! {
    arm_4k: super::Arm4k,
    arm_4k_el1: super::Arm4kEl1,
    arm_4k_el0: super::Arm4kEl0,
    arm_4k_fwb: super::Arm4kFwb,
    arm_4k_lpa2: super::Arm4kLpa2,
    arm_4k_five_levels: super::Arm4kFiveLevels,
    arm_4k_four_levels: super::Arm4kFourLevels,
    arm_16k: super::Arm16k,
    arm_16k_fwb: super::Arm16kFwb,
    arm_16k_lpa2: super::Arm16kLpa2,
    arm_16k_four_levels: super::Arm16kFourLevels,
    arm_64k: super::Arm64k,
    arm_64k_fwb: super::Arm64kFwb,
    ept_4: super::Ept,
    ept_of_supervisors: super::EptOfSupervisors,
    ept_of_users: super::EptOfUsers,
    ept_5: super::Ept5,
    sv39x4: super::Sv39x4,
    sv48x4: super::Sv48x4,
    sv57x4: super::Sv57x4,
}

fn levels(format: impl Format) -> impl Iterator<Item = Level> {
    (0..=format.geometry().root_level().get()).map(Level::new)
}

fn leaf_levels(format: impl Format) -> impl Iterator<Item = Level> {
    (0..=format.geometry().largest_leaf().get()).map(Level::new)
}

/// Every combination of attributes.
fn leaves(hpa: u64) -> impl Iterator<Item = Leaf> {
    (0..32u32).flat_map(move |bits| {
        [MemoryType::Normal, MemoryType::NonCacheable, MemoryType::Device].map(move |memory| Leaf {
            hpa: Hpa::new(hpa),
            permissions: Permissions::new(bits & 1 != 0, bits & 2 != 0, bits & 4 != 0),
            may_write: bits & 8 != 0,
            memory,
            accessed: bits & 16 != 0,
        })
    })
}

/// What the walker makes of a word, `access` included.
fn verdict(walker: &dyn Walker, raw: u64, level: Level, access: Access) -> Result<Translation, FaultKind> {
    match walker.resolve(raw, level) {
        Step::Leaf { translation, .. } => translation.check(access).map_err(|fault| fault.kind),
        Step::Fault(kind) => {
            assert!(
                matches!(kind, FaultKind::Translation | FaultKind::AccessFlag),
                "{raw:#x} at {level} is no well-formed entry: {kind:?}"
            );
            Err(kind)
        }
        Step::Table { table, .. } => panic!("{raw:#x} at {level} leads to a table at {table}"),
    }
}

fn kind_of(memory: Memory) -> MemoryType {
    match memory {
        Memory::WriteBack => MemoryType::Normal,
        Memory::NonCacheable => MemoryType::NonCacheable,
        Memory::Device => MemoryType::Device,
        other => panic!("the engine maps nothing as {other:?}"),
    }
}

fn the_hardware_does_through_a_leaf_what_the_format_says_it_does<P: Pair>() {
    let (format, walker) = P::both();
    for level in leaf_levels(format) {
        let highest = (1 << format.output_bits()) - (1 << 30);
        for leaf in leaves(0x0000_7f40_0000_0000).chain(leaves(highest)) {
            let raw = format.leaf(leaf, level);
            for access in ACCESSES {
                let verdict = verdict(&*walker, raw, level, access);
                let permits = format.permits(raw, level, access);
                assert_eq!(verdict.is_ok(), permits, "{access:?} through {leaf:?} at {level}");
                if let Ok(found) = verdict {
                    assert!(leaf.permissions.allow(access) && leaf.accessed);
                    assert_eq!((found.output, found.level, kind_of(found.memory)), (leaf.hpa, level, leaf.memory));
                } else if leaf.permissions.read() && leaf.memory == MemoryType::Normal {
                    assert!(!leaf.accessed || !leaf.permissions.allow(access), "{access:?} through {leaf:?}");
                }
            }
            if leaf.accessed {
                let writable = verdict(&*walker, raw, level, Access::Write).is_ok();
                assert_eq!(format.is_writable(raw, level), writable);
            }
        }
    }
}

fn every_change_of_a_leaf_does_to_the_hardware_what_its_name_says<P: Pair>() {
    let (format, walker) = P::both();
    let verdict = |raw, level, access| verdict(&*walker, raw, level, access);
    for level in leaf_levels(format) {
        for leaf in leaves(0x4000_0000) {
            let raw = format.leaf(leaf, level);
            if format.may_write(raw, level) {
                assert!(verdict(format.made_writable(raw, level), level, Access::Write).is_ok());
            }
            let fresh = format.leaf(Leaf { accessed: true, ..leaf }, level);
            for access in ACCESSES {
                assert_eq!(verdict(format.made_accessed(raw, level), level, access), verdict(fresh, level, access));
            }
            for protected in [format.write_protected(raw, level), format.write_revoked(raw, level)] {
                assert!(verdict(protected, level, Access::Write).is_err());
                for access in [Access::Read, Access::Execute] {
                    let expected = verdict(raw, level, access)
                        .map(|found| Translation { permissions: found.permissions.with_write(false), ..found });
                    assert_eq!(verdict(protected, level, access), expected);
                }
            }
        }
    }
}

fn a_leaf_that_was_made_old_is_what_it_was_once_it_is_accessed<P: Pair>() {
    let (format, walker) = P::both();
    for level in leaf_levels(format) {
        for leaf in leaves(0x4000_0000).filter(|leaf| leaf.accessed) {
            let raw = format.leaf(leaf, level);
            let old = format.made_old(raw, level);
            for access in ACCESSES {
                assert!(verdict(&*walker, old, level, access).is_err(), "{access:?} through an old {leaf:?}");
            }
            assert_eq!(format.made_accessed(old, level), raw);
            let protected = format.made_accessed(format.write_protected(old, level), level);
            assert_eq!(protected, format.write_protected(raw, level));
        }
    }
}

/// A stale translation may stay only where its user loses nothing by it and gains nothing.
fn a_change_that_needs_no_flush_leaves_nothing_in_a_tlb_that_the_new_entry_forbids<P: Pair>() {
    let (format, walker) = P::both();
    let cached = |raw, level| match walker.resolve(raw, level) {
        Step::Leaf { translation, .. } => Some(translation),
        _ => None,
    };
    for level in leaf_levels(format) {
        let words: Vec<_> = leaves(0).chain(leaves(1 << 30)).map(|leaf| format.leaf(leaf, level)).collect();
        for (&old, &new) in words.iter().flat_map(|old| words.iter().map(move |new| (old, new))) {
            let Some(stale) = cached(old, level) else { continue };
            let fresh = cached(new, level);
            let same_place = fresh.is_none_or(|fresh| (fresh.output, fresh.memory) == (stale.output, stale.memory));
            let allows = |translation: Translation, access| translation.check(access).is_ok();
            let widens = ACCESSES
                .iter()
                .all(|&access| !allows(stale, access) || fresh.is_some_and(|fresh| allows(fresh, access)));
            match format.change(old, new, level) {
                Change::Free => assert!(same_place && widens, "{old:#x} to {new:#x} at {level}"),
                Change::Flush => assert!(same_place, "{old:#x} to {new:#x} at {level}"),
                Change::Break => {}
            }
        }
    }
}

fn a_table_restricts_nothing_below_it_and_notes_of_software_change_nothing<P: Pair>() {
    let (format, walker) = P::both();
    let table = Hpa::new(0x7f40_1234_0000);
    let expected = Step::Table { table, permissions: Permissions::ALL, update: None };
    for level in levels(format).filter(|&level| level > Level::PAGE) {
        let raw = format.table(table, level);
        assert_eq!(walker.resolve(raw, level), expected);
        assert_eq!(walker.resolve(format.kept(raw, level), level), expected);
    }
}

fn states_of_software_are_invalid_to_the_hardware_at_every_level<P: Pair>() {
    let (format, walker) = P::both();
    for level in levels(format) {
        for word in [0, P::Format::LOCKED, P::Format::FROZEN] {
            assert_eq!(walker.resolve(word, level), Step::Fault(FaultKind::Translation));
        }
    }
}

fn the_hardware_never_takes_an_annotation_for_an_entry<P: Pair>() {
    let (format, walker) = P::both();
    let most = (1 << P::Format::ANNOTATION_BITS) - 1;
    let each_bit = (0..P::Format::ANNOTATION_BITS).map(|bit| 1 << bit);
    for annotation in [0, most, 0x1234_5678_9abc_def0 & most].into_iter().chain(each_bit) {
        let word = format.annotation(annotation);
        for level in levels(format) {
            assert_eq!(walker.resolve(word, level), Step::Fault(FaultKind::Translation));
            assert_eq!((format.kind(word, level), format.annotated(word)), (Kind::Empty, annotation));
        }
    }
}

/// Virtualization exceptions are suppressed in all but the zero word, which software does not choose.
#[test]
fn nothing_that_the_engine_writes_lets_a_guest_see_a_violation() {
    let format = slat::format::Ept::new();
    for level in leaf_levels(format) {
        for raw in leaves(1 << 30).map(|leaf| format.leaf(leaf, level)) {
            let changed = [
                format.made_writable(raw, level),
                format.made_accessed(raw, level),
                format.made_old(raw, level),
                format.write_protected(raw, level),
                format.write_revoked(raw, level),
            ];
            assert!(changed.into_iter().chain([raw]).all(|raw| !ept::Ept::is_convertible(raw)), "{raw:#x}");
        }
    }
    for raw in [slat::format::Ept::LOCKED, slat::format::Ept::FROZEN, format.annotation(7)] {
        assert!(!ept::Ept::is_convertible(raw));
    }
    assert!(ept::Ept::is_convertible(0));
}

/// The values of control registers that a format gives are those that the walker was made for, and lead to the root.
#[test]
fn root_registers_lead_to_the_root() {
    let root = Hpa::new(0x7f40_1234_0000);
    let leads = |walker: Box<dyn Walker>, register: u64| assert_eq!(walker.root(Hpa::new(register)), Ok(root));
    for vmid in [0, 1, 0xffff] {
        leads(Arm4k::both().1, Arm4k::format(48).vttbr(root, vmid));
        leads(Arm4kFiveLevels::both().1, Arm4kFiveLevels::format(52).vttbr(root, vmid));
        leads(Arm64k::both().1, Arm64k::format(52).vttbr(root, vmid));
        let highest = Hpa::new(0x000f_7f40_1234_0000);
        assert_eq!(Arm16kLpa2::both().1.root(Hpa::new(Arm16kLpa2::format(52).vttbr(highest, vmid))), Ok(highest));
    }
    leads(Ept::both().1, Ept::format(48).eptp(root));
    leads(Ept5::both().1, Ept5::format(57).eptp(root));
    for vmid in [0, 1, 0x3fff] {
        leads(Sv39x4::both().1, Sv39x4::format(41).hgatp(root, vmid));
        leads(Sv48x4::both().1, Sv48x4::format(50).hgatp(root, vmid));
        leads(Sv57x4::both().1, Sv57x4::format(59).hgatp(root, vmid));
    }
}

/// Tables built by the format's geometry and words, to be read by the walker.
#[derive(Default)]
struct Built {
    words: HashMap<u64, u64>,
    next: u64,
}

const ROOT: u64 = 0x1000_0000;

impl Built {
    /// Maps the leaf of `level` around `gpa`, as the engine would lay it out.
    fn map(&mut self, format: impl Format, gpa: Gpa, leaf: Leaf, level: Level) {
        let geometry = format.geometry();
        let (mut table, mut index, mut above) = (ROOT, geometry.root_index(gpa), geometry.root_level());
        while above > level {
            self.next += geometry.table_bytes();
            let fresh = ROOT + 0x10_0000 + self.next;
            let word =
                self.words.entry(table + 8 * index as u64).or_insert_with(|| format.table(Hpa::new(fresh), above));
            table = format.table_address(*word, above).get();
            above = above.below().unwrap();
            index = geometry.index(gpa, above);
        }
        self.words.insert(table + 8 * index as u64, format.leaf(leaf, level));
    }
}

impl DescriptorMemory for Built {
    fn read(&self, hpa: Hpa) -> Result<u64, Abort> {
        Ok(self.words.get(&hpa.get()).copied().unwrap_or(0))
    }

    fn update(&self, hpa: Hpa, _: u64, _: u64) -> Result<Result<u64, u64>, Abort> {
        Err(Abort { hpa })
    }

    fn generation(&self, _: Hpa) -> Option<u32> {
        Some(0)
    }
}

fn open(hpa: Hpa) -> Leaf {
    Leaf { hpa, permissions: Permissions::ALL, may_write: true, memory: MemoryType::Normal, accessed: true }
}

fn the_shape_of_the_tree_is_the_same_for_every_address_size<P: Pair>() {
    for bits in P::BITS {
        let (format, walker) = (P::format(bits), P::walker(bits));
        let geometry = format.geometry();
        let last = Gpa::new((1 << bits) - 1);
        assert_eq!(walker.start(last), Ok(geometry.root_level()), "{bits} bits");
        assert!(walker.start(Gpa::new(1 << bits)).is_err());
        assert_eq!(geometry.address_space().end(), Gpa::new(1 << bits));
        // The format's root is aligned to its tables; the walker ignores no bit of such an address.
        let root = Hpa::new(geometry.root_tables() as u64 * geometry.table_bytes());
        assert_eq!(walker.root(walker.register(root)), Ok(root));
        let entry = walker.descriptor(Hpa::new(ROOT), geometry.root_level(), last);
        assert_eq!((entry.get() - ROOT) / 8, geometry.root_entries() as u64 - 1);
        for level in levels(format) {
            assert_eq!(walker.shift(level), geometry.shift(level));
        }
    }
}

fn what_is_mapped_is_found<P: Pair>(
    bits: u32,
    at: u64,
    frame: u64,
    level: u8,
    inside: u64,
) -> Result<(), TestCaseError> {
    let (format, walker) = (P::format(bits), P::walker(bits));
    let geometry = format.geometry();
    let level = Level::new(level).min(geometry.largest_leaf());
    let gpa = Gpa::new(at & ((1 << bits) - 1)).align_down(geometry.size(level));
    let expressible = (1 << format.output_bits()) - 1;
    let hpa = Hpa::new((frame << 30 | (at & 0x3fff_f000)) & expressible).align_down(geometry.size(level));
    let mut tables = Built::default();
    tables.map(format, gpa, open(hpa), level);

    let look = |gpa, access| translate(&*walker, &tables, walker.register(Hpa::new(ROOT)), gpa, access);
    let touched = Gpa::new(gpa.get() + inside % geometry.size(level));
    let found = look(touched, Access::Write).unwrap();
    prop_assert_eq!((found.output, found.level), (hpa, level));
    let beside = Gpa::new(gpa.get() ^ geometry.size(level));
    prop_assert_eq!(look(beside, Access::Read), Err(Fault::at(level, FaultKind::Translation)));
    Ok(())
}
