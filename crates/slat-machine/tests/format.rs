//! Each format held against the walker that was written from the same architecture's manual: two readings of it that
//! share no line have to agree.

use std::cell::RefCell;
use std::collections::HashMap;
use std::ops::RangeInclusive;

use proptest::prelude::*;
use slat::addr::{Gpa, Hpa, Level};
use slat::format::{
    Arm64, Arm64_16k, Arm64_16kLpa2, Arm64_64k, Arm64Bbm2, Arm64Fwb, Arm64Hd, Arm64Lpa2, Change, Ept, Ept5, Ept5Ad,
    EptAd, Format, Kind, Leaf, Npt, Npt5, NptAd, Stage2, Sv39x4, Sv48x4, Sv48x4Adu, Sv48x4Napot, Sv57x4,
};
use slat::host::{Access, MemoryType, Permissions};
use slat_machine::walk::{
    Abort, DescriptorMemory, Fault, FaultKind, Memory, Step, Translation, Walker, arm64, ept, npt, riscv, translate,
};

const ACCESSES: [Access; 3] = [Access::Read, Access::Write, Access::Execute];

/// A format and its walker.
trait Pair {
    type Format: Format;

    /// Bits of guest physical address that the format can be made for.
    const BITS: RangeInclusive<u32>;

    fn format(bits: u32) -> Self::Format;
    fn walker(bits: u32) -> Box<dyn Walker>;
    /// The root register's value by the format, for the tables at this address.
    fn register(bits: u32, root: Hpa) -> Hpa;

    /// Both for the largest address.
    fn both() -> (Self::Format, Box<dyn Walker>) {
        (Self::format(*Self::BITS.end()), Self::walker(*Self::BITS.end()))
    }
}

/// Pairs, each in a line: the format and its sizes of address; how a value of it is made, the walker for that value, and
/// the value of the root register. All tests hold for all of them.
macro_rules! pairs {
    ($($name:ident: $format:ty, $bits:expr, $make:expr, $walker:expr, $register:expr;)+) => {
        $(mod $name {
            use super::*;

            struct This;

            impl Pair for This {
                type Format = $format;

                const BITS: RangeInclusive<u32> = $bits;

                fn format(bits: u32) -> Self::Format {
                    let make: fn(u32) -> Self::Format = $make;
                    make(bits)
                }

                fn walker(bits: u32) -> Box<dyn Walker> {
                    Box::new($walker(Self::format(bits)))
                }

                fn register(bits: u32, root: Hpa) -> Hpa {
                    let register: fn(Self::Format, Hpa) -> u64 = $register;
                    Hpa::new(register(Self::format(bits), root))
                }
            }

            hold!(
                the_hardware_does_through_a_leaf_what_the_format_says_it_does,
                every_change_of_a_leaf_does_to_the_hardware_what_its_name_says,
                a_leaf_that_was_made_old_is_what_it_was_once_it_is_accessed,
                a_change_that_needs_no_flush_leaves_nothing_in_a_tlb_that_the_new_entry_forbids,
                a_table_restricts_nothing_below_it_and_notes_of_software_change_nothing,
                states_of_software_are_invalid_to_the_hardware_at_every_level,
                words_that_are_held_or_frozen_are_to_the_hardware_what_they_were,
                the_hardware_never_takes_an_annotation_for_an_entry,
                the_shape_of_the_tree_is_the_same_for_every_address_size,
                the_root_register_leads_to_the_root,
                both_ends_of_the_address_space_are_mapped_as_any_other_address,
                what_hardware_notes_of_a_write_is_what_the_format_takes_for_one,
            );

            proptest! {
                #[test]
                fn what_is_mapped_at_an_address_is_found_at_it(
                    bits in This::BITS,
                    at in any::<u64>(),
                    frame in 0u64..1 << 26,
                    level in 0u8..3,
                    inside in any::<u64>(),
                ) {
                    what_is_mapped_is_found::<This>(bits, at, frame, level, inside)?;
                }
            }
        })+
    };
}

macro_rules! hold {
    ($($test:ident),+ $(,)?) => {
        $(#[test]
        fn $test() {
            super::$test::<This>();
        })+
    };
}

pairs! {
    arm_4k: Arm64, 32..=48, |bits| Arm64::new(bits).unwrap(), stage2, vttbr;
    arm_4k_el1: Arm64, 48..=48, |bits| Arm64::new(bits).unwrap(), stage2_el1, vttbr;
    arm_4k_el0: Arm64, 48..=48, |bits| Arm64::new(bits).unwrap(), stage2_el0, vttbr;
    arm_4k_hd: Arm64Hd, 40..=48, |bits| Arm64Hd::new(bits).unwrap(), stage2, vttbr;
    arm_4k_bbm2: Arm64Bbm2, 32..=48, |bits| Arm64Bbm2::new(bits).unwrap(), stage2, vttbr;
    arm_4k_hd_bbm2: Stage2<12, false, false, true, false, true>, 40..=48, |bits| Stage2::new(bits).unwrap(), stage2, vttbr;
    arm_4k_four_levels: Arm64, 40..=48, |bits| Arm64::with_levels(bits, 4).unwrap(), stage2, vttbr;
    arm_4k_fwb: Arm64Fwb, 40..=40, |bits| Arm64Fwb::new(bits).unwrap(), stage2, vttbr;
    arm_4k_lpa2: Arm64Lpa2, 32..=52, |bits| Arm64Lpa2::new(bits).unwrap(), stage2, vttbr;
    arm_4k_five_levels: Arm64Lpa2, 49..=52, |bits| Arm64Lpa2::with_levels(bits, 5).unwrap(), stage2, vttbr;
    arm_16k: Arm64_16k, 32..=48, |bits| Arm64_16k::new(bits).unwrap(), stage2, vttbr;
    arm_16k_fwb: Stage2<14, true, true>, 47..=52, |bits| Stage2::new(bits).unwrap(), stage2, vttbr;
    arm_16k_lpa2: Arm64_16kLpa2, 32..=52, |bits| Arm64_16kLpa2::new(bits).unwrap(), stage2, vttbr;
    arm_16k_four_levels: Arm64_16kLpa2, 48..=52, |bits| Arm64_16kLpa2::with_levels(bits, 4).unwrap(), stage2, vttbr;
    arm_64k: Arm64_64k, 32..=52, |bits| Arm64_64k::new(bits).unwrap(), stage2, vttbr;
    arm_64k_fwb: Stage2<16, false, true>, 40..=52, |bits| Stage2::new(bits).unwrap(), stage2_el1, vttbr;
    ept_4: Ept, 48..=48, |_| Ept::new(), |_| ept_walker(), |ept, root| ept.eptp(root);
    ept_of_supervisors: Ept, 48..=48, |_| Ept::new(), |_| ept_walker().with_fetches(ept::Fetches::Supervisor), |ept, root| ept.eptp(root);
    ept_of_users: Ept, 48..=48, |_| Ept::new(), |_| ept_walker().with_fetches(ept::Fetches::User), |ept, root| ept.eptp(root);
    ept_4_ad: EptAd, 48..=48, |_| EptAd::new(), |_| ept_walker_with(true), |ept, root| ept.eptp(root);
    ept_5_ad: Ept5Ad, 57..=57, |_| Ept5Ad::new(), |_| ept_walker_with(true).with_five_levels(), |ept, root| ept.eptp(root);
    ept_5: Ept5, 57..=57, |_| Ept5::new(), |_| ept_walker().with_five_levels(), |ept, root| ept.eptp(root);
    npt_4: Npt, 48..=48, |_| Npt::new(), |_| npt_walker(), |npt, root| npt.nested_cr3(root);
    npt_4_ad: NptAd, 48..=48, |_| NptAd::new(), |_| npt_walker(), |npt, root| npt.nested_cr3(root);
    npt_5: Npt5, 57..=57, |_| Npt5::new(), |_| npt_walker().with_five_levels(), |npt, root| npt.nested_cr3(root);
    sv39x4: Sv39x4, 41..=41, |_| Sv39x4::new(), |_| riscv::GStage::new(riscv::Mode::Sv39x4), |stage, root| stage.hgatp(root, 0x3fff);
    sv48x4: Sv48x4, 50..=50, |_| Sv48x4::new(), |_| riscv::GStage::new(riscv::Mode::Sv48x4), |stage, root| stage.hgatp(root, 1);
    sv48x4_adu: Sv48x4Adu, 50..=50, |_| Sv48x4Adu::new(), |_| svadu(riscv::Mode::Sv48x4), |stage, root| stage.hgatp(root, 1);
    sv48x4_napot: Sv48x4Napot, 50..=50, |_| Sv48x4Napot::new(), |_| svnapot(riscv::Mode::Sv48x4), |stage, root| stage.hgatp(root, 1);
    sv57x4: Sv57x4, 59..=59, |_| Sv57x4::new(), |_| riscv::GStage::new(riscv::Mode::Sv57x4), |stage, root| stage.hgatp(root, 0);
}

/// arm64 stage 2 is walked under the very value of VTCR_EL2 that the format gives.
fn stage2<const GRANULE: u8, const LPA2: bool, const FWB: bool, const HD: bool, const BBM2: bool>(
    format: Stage2<GRANULE, LPA2, FWB, HD, false, BBM2>,
) -> arm64::Stage2 {
    let walker = arm64::Stage2::new(arm64::Vtcr::decode(format.vtcr(6, true, false)).unwrap());
    let walker = if FWB { walker.with_forced_write_back() } else { walker };
    if BBM2 { walker.with_mixed_sizes() } else { walker }
}

fn stage2_el1<const GRANULE: u8, const LPA2: bool, const FWB: bool, const HD: bool>(
    format: Stage2<GRANULE, LPA2, FWB, HD>,
) -> arm64::Stage2 {
    stage2(format).with_fetches(arm64::Fetches::El1)
}

fn stage2_el0<const GRANULE: u8, const LPA2: bool, const FWB: bool, const HD: bool>(
    format: Stage2<GRANULE, LPA2, FWB, HD>,
) -> arm64::Stage2 {
    stage2(format).with_fetches(arm64::Fetches::El0)
}

fn vttbr<const GRANULE: u8, const LPA2: bool, const FWB: bool, const HD: bool, const BBM2: bool>(
    format: Stage2<GRANULE, LPA2, FWB, HD, false, BBM2>,
    root: Hpa,
) -> u64 {
    format.vttbr(root, 0xabcd)
}

/// The processor that allows least and has the widest addresses.
fn ept_walker() -> ept::Ept {
    ept_walker_with(false)
}

fn ept_walker_with(accessed_dirty: bool) -> ept::Ept {
    let processor = ept::Processor { physical_bits: 52, execute_only: false, ..ept::Processor::default() };
    ept::Ept::of(processor, accessed_dirty)
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
                    assert!(leaf.permissions.allow(access) && (leaf.accessed || format.hardware_accessed()));
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
                    let expected = verdict(raw, level, access).map(|found| Translation {
                        permissions: found.permissions.with_write(false),
                        dirty: true,
                        ..found
                    });
                    let found = verdict(protected, level, access).map(|found| Translation { dirty: true, ..found });
                    assert_eq!(found, expected);
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
                let found = verdict(&*walker, old, level, access);
                // Hardware that sets the flag itself does not mind that it is clear.
                let expected =
                    if format.hardware_accessed() { verdict(&*walker, raw, level, access).ok() } else { None };
                assert_eq!(found.ok(), expected, "{access:?} through an old {leaf:?}");
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
                Change::Overlap => panic!("{old:#x} and {new:#x} are of one size"),
                Change::Break => {}
            }
        }
    }
}

/// A guest goes on through an entry that changes its size: what software marks in it is nothing to the hardware.
fn words_that_are_held_or_frozen_are_to_the_hardware_what_they_were<P: Pair>() {
    let (format, walker) = P::both();
    if !format.overlaps() {
        return;
    }
    let same =
        |marked, raw, level| assert_eq!(walker.resolve(marked, level), unmarked(walker.resolve(raw, level), marked));
    for level in leaf_levels(format).filter(|&level| level > Level::PAGE) {
        let table = format.table(Hpa::new(0x7f40_1234_0000), level);
        [table, format.kept(table, level)].into_iter().for_each(|raw| same(format.held(raw, level), raw, level));
        for leaf in leaves(0x4000_0000) {
            let raw = format.leaf(leaf, level);
            if format.change(table, raw, level) == Change::Overlap {
                same(format.held(raw, level), raw, level);
                let below = level.below().unwrap();
                let child = format.leaf(leaf, below);
                same(format.frozen(child, below), child, below);
            }
        }
    }
}

/// What hardware makes of a word, with its update of the access flag made to the `marked` one.
fn unmarked(step: Step, marked: u64) -> Step {
    match step {
        Step::Leaf { translation, update } => Step::Leaf { translation, update: update.map(|_| marked | 1 << 10) },
        other => other,
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

fn svnapot(mode: riscv::Mode) -> riscv::GStage {
    riscv::GStage::of(mode, riscv::Hart { naturally_aligned_sets: true, ..riscv::Hart::default() })
}

fn svadu(mode: riscv::Mode) -> riscv::GStage {
    riscv::GStage::of(mode, riscv::Hart { updates_flags: true, ..riscv::Hart::default() })
}

fn npt_walker() -> npt::Npt {
    npt::Npt::of(npt::Host { physical_bits: 52, ..npt::Host::default() })
}

/// Virtualization exceptions are suppressed in all but the zero word, which software does not choose.
#[test]
fn nothing_that_the_engine_writes_lets_a_guest_see_a_violation() {
    let format = Ept::new();
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
    for raw in [Ept::LOCKED, Ept::FROZEN, format.annotation(7)] {
        assert!(!ept::Ept::is_convertible(raw));
    }
    assert!(ept::Ept::is_convertible(0));
}

/// The value of the root register that a format gives leads the walker that was made for it to the root.
fn the_root_register_leads_to_the_root<P: Pair>() {
    for bits in P::BITS {
        let (format, walker) = (P::format(bits), P::walker(bits));
        let bytes = format.geometry().root_tables() as u64 * format.geometry().table_bytes();
        let highest = (1 << format.output_bits()) - bytes;
        for root in [bytes, 0x7f40_1230_0000, highest] {
            let root = Hpa::new(root);
            assert_eq!(walker.root(P::register(bits, root)), Ok(root), "{bits} bits");
        }
    }
}

/// Tables built by the format's geometry and words, to be read by the walker.
#[derive(Default)]
struct Built {
    words: RefCell<HashMap<u64, u64>>,
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
            let word = *self
                .words
                .get_mut()
                .entry(table + 8 * index as u64)
                .or_insert_with(|| format.table(Hpa::new(fresh), above));
            table = format.table_address(word, above).get();
            above = above.below().unwrap();
            index = geometry.index(gpa, above);
        }
        self.words.get_mut().insert(table + 8 * index as u64, format.leaf(leaf, level));
    }
}

impl DescriptorMemory for Built {
    fn read(&self, hpa: Hpa) -> Result<u64, Abort> {
        Ok(self.words.borrow().get(&hpa.get()).copied().unwrap_or(0))
    }

    fn update(&self, hpa: Hpa, current: u64, new: u64) -> Result<Result<u64, u64>, Abort> {
        let mut words = self.words.borrow_mut();
        let word = words.get_mut(&hpa.get()).ok_or(Abort { hpa })?;
        assert_eq!(*word, current, "nobody else is at work");
        *word = new;
        Ok(Ok(current))
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

fn both_ends_of_the_address_space_are_mapped_as_any_other_address<P: Pair>() {
    for (bits, level) in P::BITS.flat_map(|bits| leaf_levels(P::format(bits)).map(move |level| (bits, level))) {
        let (format, walker) = (P::format(bits), P::walker(bits));
        let (size, end) = (format.geometry().size(level), format.geometry().address_space().end().get());
        let mut tables = Built::default();
        let (low, high) = (Hpa::new(0x40_0000_0000), Hpa::new((1 << format.output_bits()) - size));
        tables.map(format, Gpa::new(0), open(low), level);
        tables.map(format, Gpa::new(end - size), open(high), level);
        let look = |gpa, access| {
            translate(&*walker, &tables, walker.register(Hpa::new(ROOT)), Gpa::new(gpa), access)
                .map(|found| found.output)
        };
        for access in ACCESSES {
            assert_eq!((look(0, access), look(size - 1, access)), (Ok(low), Ok(low)), "{bits} bits, {level}");
            assert_eq!((look(end - size, access), look(end - 1, access)), (Ok(high), Ok(high)), "{bits} bits, {level}");
            assert!(look(end, access).is_err() && look(size, access).is_err() && look(end - size - 1, access).is_err());
        }
    }
}

fn what_hardware_notes_of_a_write_is_what_the_format_takes_for_one<P: Pair>() {
    let (format, walker) = P::both();
    for level in leaf_levels(format) {
        let mut tables = Built::default();
        let gpa = Gpa::new(0);
        tables.map(format, gpa, open(Hpa::new(0x40_0000_0000)), level);
        let leaf = |tables: &Built| {
            let is_leaf = |word: &&u64| format.decode(**word, level).hpa == Hpa::new(0x40_0000_0000);
            *tables.words.borrow().values().find(is_leaf).expect("the leaf")
        };
        let access = |access| {
            translate(&*walker, &tables, walker.register(Hpa::new(ROOT)), gpa, access).expect("it is mapped");
            format.is_dirty(leaf(&tables), level)
        };
        let clean = leaf(&tables);
        assert!(!access(Access::Read) && !access(Access::Execute), "only writes are noted");
        assert_eq!(access(Access::Write), format.hardware_dirty(), "a write is noted at {level}");
        assert_eq!(format.made_clean(leaf(&tables), level), format.made_accessed(clean, level));
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
