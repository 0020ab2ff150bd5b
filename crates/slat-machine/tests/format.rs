//! `slat::format::Arm64` held against the walker that was written from the manual: two readings of it that share no
//! line have to agree.

use std::collections::HashMap;

use proptest::prelude::*;
use slat::addr::{Gpa, Hpa, Level};
use slat::format::{Arm64, Change, Format, Leaf};
use slat::host::{Access, MemoryType, Permissions};
use slat_machine::walk::arm64::{Stage2, Vtcr};
use slat_machine::walk::{Abort, DescriptorMemory, Fault, FaultKind, Memory, Step, Translation, Walker, translate};

const ACCESSES: [Access; 3] = [Access::Read, Access::Write, Access::Execute];

fn format(bits: u32) -> Arm64 {
    Arm64::new(bits).unwrap()
}

fn walker(bits: u32) -> Stage2 {
    Stage2::new(Vtcr::for_ipa_bits(bits).unwrap())
}

fn levels(format: Arm64) -> impl Iterator<Item = Level> {
    (0..=format.geometry().root_level().get()).map(Level::new)
}

fn leaf_levels(format: Arm64) -> impl Iterator<Item = Level> {
    (0..=format.geometry().largest_leaf().get()).map(Level::new)
}

/// Every combination of attributes.
fn leaves(hpa: u64) -> impl Iterator<Item = Leaf> {
    (0..32u32).flat_map(move |bits| {
        [MemoryType::Normal, MemoryType::NonCacheable, MemoryType::Device].map(move |memory| Leaf {
            hpa: Hpa::new(hpa),
            permissions: Permissions { read: bits & 1 != 0, write: bits & 2 != 0, execute: bits & 4 != 0 },
            may_write: bits & 8 != 0,
            memory,
            accessed: bits & 16 != 0,
        })
    })
}

/// What the walker makes of a word, `access` included.
fn verdict(raw: u64, level: Level, access: Access) -> Result<Translation, FaultKind> {
    match walker(48).resolve(raw, level) {
        Step::Leaf { translation, .. } => translation.check(access).map_err(|fault| fault.kind),
        Step::Fault(kind) => Err(kind),
        Step::Table(table) => panic!("{raw:#x} at {level} leads to a table at {table}"),
    }
}

fn kind_of(memory: Memory) -> MemoryType {
    match memory {
        Memory::WriteBack => MemoryType::Normal,
        Memory::NonCacheable => MemoryType::NonCacheable,
        Memory::Device => MemoryType::Device,
        Memory::WriteThrough => panic!("the engine maps nothing as write-through"),
    }
}

#[test]
fn the_hardware_does_through_a_leaf_what_the_format_says_it_does() {
    let format = format(48);
    for level in leaf_levels(format) {
        for leaf in leaves(0x0000_7f40_0000_0000) {
            let raw = format.leaf(leaf, level);
            for access in ACCESSES {
                let verdict = verdict(raw, level, access);
                assert_eq!(
                    verdict.is_ok(),
                    format.permits(raw, level, access),
                    "{access:?} through {leaf:?} at {level}"
                );
                if let Ok(found) = verdict {
                    assert_eq!((found.output, found.level, kind_of(found.memory)), (leaf.hpa, level, leaf.memory));
                }
                if !leaf.accessed {
                    assert_eq!(verdict, Err(FaultKind::AccessFlag));
                }
            }
            let writable = matches!(walker(48).resolve(format.made_accessed(raw, level), level),
                Step::Leaf { translation, .. } if translation.permissions.write);
            assert_eq!(format.is_writable(raw, level), writable);
        }
    }
}

#[test]
fn every_change_of_a_leaf_does_to_the_hardware_what_its_name_says() {
    let format = format(48);
    for level in leaf_levels(format) {
        for leaf in leaves(0x4000_0000) {
            let raw = format.leaf(leaf, level);
            assert!(verdict(format.made_writable(raw, level), level, Access::Write).is_ok());
            let accessed = format.made_accessed(raw, level);
            for access in ACCESSES {
                assert_ne!(verdict(accessed, level, access), Err(FaultKind::AccessFlag));
            }
            for protected in [format.write_protected(raw, level), format.write_revoked(raw, level)] {
                assert!(verdict(protected, level, Access::Write).is_err());
                assert_eq!(
                    verdict(protected, level, Access::Read),
                    verdict(raw, level, Access::Read).map(|found| {
                        Translation { permissions: Permissions { write: false, ..found.permissions }, ..found }
                    })
                );
            }
        }
    }
}

/// A stale translation may stay only where its user loses nothing by it and gains nothing.
#[test]
fn a_change_that_needs_no_flush_leaves_nothing_in_a_tlb_that_the_new_entry_forbids() {
    let format = format(48);
    let cached = |raw, level| match walker(48).resolve(raw, level) {
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

#[test]
fn states_of_software_are_invalid_to_the_hardware_at_every_level() {
    for level in levels(format(48)) {
        for word in [0, Arm64::LOCKED, Arm64::FROZEN] {
            assert_eq!(walker(48).resolve(word, level), Step::Fault(FaultKind::Translation));
        }
    }
}

#[test]
fn the_hardware_never_takes_an_annotation_for_an_entry() {
    // Bits 1:0 clear is all that invalid entries keep to.
    for word in [0xffff_ffff_ffff_fffc, 0x1234_5678_9abc_def0] {
        for level in levels(format(48)) {
            assert_eq!(walker(48).resolve(word, level), Step::Fault(FaultKind::Translation));
        }
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
    fn map(&mut self, format: Arm64, gpa: Gpa, leaf: Leaf, level: Level) {
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

#[test]
fn the_shape_of_the_tree_is_the_same_for_every_address_size() {
    for bits in 32..=48 {
        let (format, walker) = (format(bits), walker(bits));
        let geometry = format.geometry();
        let last = Gpa::new((1 << bits) - 1);
        assert_eq!(walker.start(last), Ok(geometry.root_level()), "{bits} bits");
        assert!(walker.start(Gpa::new(1 << bits)).is_err());
        assert_eq!(geometry.address_space().end(), Gpa::new(1 << bits));
        // The format's root is aligned to its tables; the walker ignores no bit of such an address.
        let root = Hpa::new(geometry.root_tables() as u64 * geometry.table_bytes());
        assert_eq!(walker.root(root), Ok(root));
        let entry = walker.descriptor(Hpa::new(ROOT), geometry.root_level(), last);
        assert_eq!((entry.get() - ROOT) / 8, geometry.root_entries() as u64 - 1);
        for level in levels(format) {
            assert_eq!(walker.shift(level), geometry.shift(level));
        }
    }
}

proptest! {
    #[test]
    fn what_is_mapped_at_an_address_is_found_at_it(
        bits in 32u32..=48,
        at in any::<u64>(),
        frame in 0u64..1 << 18,
        level in 0u8..3,
        inside in any::<u64>(),
    ) {
        let format = format(bits);
        let geometry = format.geometry();
        let level = Level::new(level).min(geometry.largest_leaf());
        let gpa = Gpa::new(at & ((1 << bits) - 1)).align_down(geometry.size(level));
        let hpa = Hpa::new(frame << 30 | (at & 0x3fff_f000)).align_down(geometry.size(level));
        let mut tables = Built::default();
        tables.map(format, gpa, open(hpa), level);

        let touched = Gpa::new(gpa.get() + inside % geometry.size(level));
        let found = translate(&walker(bits), &tables, Hpa::new(ROOT), touched, Access::Write).unwrap();
        prop_assert_eq!((found.output, found.level), (hpa, level));

        let beside = Gpa::new(gpa.get() ^ geometry.size(level));
        let missing = translate(&walker(bits), &tables, Hpa::new(ROOT), beside, Access::Read);
        prop_assert_eq!(missing, Err(Fault { kind: FaultKind::Translation, level }));
    }
}
