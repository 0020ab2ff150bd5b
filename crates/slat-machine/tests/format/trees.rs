//! Trees: what is mapped at an address by the format's shape and words is what the walker finds there.

use std::cell::RefCell;
use std::collections::HashMap;

use proptest::prelude::*;
use slat::addr::{Gpa, Hpa, Level};
use slat::format::{Format, Leaf};
use slat::host::{Access, MemoryType, Permissions};
use slat_machine::walk::{Abort, DescriptorMemory, Fault, FaultKind, translate};

use super::Pair;
use super::words::*;

/// The value of the root register that a format gives leads the walker that was made for it to the root.
pub(super) fn the_root_register_leads_to_the_root<P: Pair>() {
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
        self.put(format, gpa, format.leaf(leaf, level), level);
    }

    /// Maps the group of `level` around `gpa`, from its first leaf on.
    fn map_group(&mut self, format: impl Format, gpa: Gpa, first: Leaf, level: Level) {
        for place in places(format).into_iter().filter(|place| place.level == level && place.member.is_some()) {
            let at = Gpa::new(gpa.get() + place.offset(format));
            self.put(format, at, place.word(format, place.leaf(format, first)), level);
        }
    }

    /// Makes `raw` the entry of `level` over `gpa`.
    fn put(&mut self, format: impl Format, gpa: Gpa, raw: u64, level: Level) {
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
        self.words.get_mut().insert(table + 8 * index as u64, raw);
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

pub(super) fn the_shape_of_the_tree_is_the_same_for_every_address_size<P: Pair>() {
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

pub(super) fn both_ends_of_the_address_space_are_mapped_as_any_other_address<P: Pair>() {
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

pub(super) fn what_hardware_notes_of_a_write_is_what_the_format_takes_for_one<P: Pair>() {
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

/// The levels that have groups, with the bytes of a group.
fn group_levels(format: impl Format) -> impl Iterator<Item = (Level, u64)> {
    let bytes = move |level| format.geometry().size(level) << format.group_bits(level);
    leaf_levels(format).filter(move |&level| format.group_bits(level) > 0).map(move |level| (level, bytes(level)))
}

pub(super) fn a_group_maps_what_its_leaves_would_at_both_ends_of_the_address_space<P: Pair>() {
    for bits in P::BITS {
        let (format, walker) = (P::format(bits), P::walker(bits));
        let end = format.geometry().address_space().end().get();
        for (level, bytes) in group_levels(format) {
            let mut tables = Built::default();
            let (low, high) = (0x40_0000_0000, (1 << format.output_bits()) - bytes);
            tables.map_group(format, Gpa::new(0), open(Hpa::new(low)), level);
            tables.map_group(format, Gpa::new(end - bytes), open(Hpa::new(high)), level);
            let look = |gpa| {
                translate(&*walker, &tables, walker.register(Hpa::new(ROOT)), Gpa::new(gpa), Access::Write)
                    .map(|found| (found.output.get(), found.set_bits))
            };
            for offset in (0..bytes).step_by(format.geometry().size(level) as usize) {
                let set_bits = format.group_bits(level);
                assert_eq!(look(offset), Ok((low + offset, set_bits)), "{bits} bits, {level}, {offset:#x}");
                assert_eq!(
                    look(end - bytes + offset),
                    Ok((high + offset, set_bits)),
                    "{bits} bits, {level}, {offset:#x}"
                );
            }
            assert!(look(bytes).is_err() && look(end - bytes - 1).is_err() && look(end).is_err());
        }
    }
}

pub(super) fn what_hardware_notes_of_a_write_to_a_group_is_found_in_one_of_its_members<P: Pair>() {
    let (format, walker) = P::both();
    for (level, bytes) in group_levels(format) {
        let mut tables = Built::default();
        tables.map_group(format, Gpa::new(0), open(Hpa::new(0x40_0000_0000)), level);
        let access = |offset, access| {
            let register = walker.register(Hpa::new(ROOT));
            translate(&*walker, &tables, register, Gpa::new(offset), access).expect("it is mapped");
            let words = tables.words.borrow();
            words.values().filter(|raw| format.is_grouped(**raw, level) && format.is_dirty(**raw, level)).count()
        };
        assert_eq!((access(0, Access::Read), access(bytes - 1, Access::Execute)), (0, 0), "only writes are noted");
        assert_eq!(access(bytes - 1, Access::Write), usize::from(format.hardware_dirty()), "a write at {level}");
    }
}

pub(super) fn what_is_mapped_is_found<P: Pair>(
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
