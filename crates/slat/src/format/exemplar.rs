//! The contract of [`Format`], in code: what every format has to satisfy.
//!
//! [`check`] holds a format to it over every level and every combination of attributes; a new format calls it from its
//! tests, and the machine's walkers then hold it against the architecture's manual.

use super::{Change, Format, Kind, Leaf, MOST_MEMBERS};
use crate::addr::{Hpa, Level};
use crate::host::{Access, MemoryType, Permissions};

/// Checks that `format` keeps the contract at every level, for tables and leaves at `frames` (multiples of the largest
/// leaf's size that the format can express).
///
/// # Panics
///
/// When the format breaks a clause; the message names it.
pub fn check<F: Format>(format: F, frames: &[u64]) {
    assert_eq!(format.kind(0, Level::PAGE), Kind::Empty, "the zero word is empty");
    annotations(format);
    for number in 0..=format.geometry().root_level().get() {
        let level = Level::new(number);
        assert_eq!(format.kind(0, level), Kind::Empty, "the zero word is empty at every level");
        assert_eq!(format.kind(F::LOCKED, level), Kind::Locked, "LOCKED is locked at every level");
        assert_eq!(format.kind(F::FROZEN, level), Kind::Frozen, "FROZEN is frozen at every level");
        [0, F::LOCKED, F::FROZEN].into_iter().for_each(|raw| no_leaf(format, raw, level));
        for &frame in frames {
            if level > Level::PAGE {
                table(format, Hpa::new(frame), level);
            }
            if level <= format.geometry().largest_leaf() {
                leaves(format, Hpa::new(frame), level);
            }
        }
        groups(format, level);
    }
}

fn annotations<F: Format>(format: F) {
    for annotation in [0, 1, 0x5555_5555_5555_5555, u64::MAX] {
        let annotation = annotation & ((1 << F::ANNOTATION.bits) - 1);
        let raw = F::ANNOTATION.word(annotation);
        assert_ne!(raw, 0, "an annotation is not the zero word");
        assert_eq!(F::ANNOTATION.read(raw), annotation, "an annotation comes back");
        for number in 0..=format.geometry().root_level().get() {
            let level = Level::new(number);
            assert_eq!(format.kind(raw, level), Kind::Empty, "an annotated entry is empty");
            no_leaf(format, raw, level);
        }
    }
}

/// What is asked of leaves is denied of everything else.
fn no_leaf<F: Format>(format: F, raw: u64, level: Level) {
    for access in [Access::Read, Access::Write, Access::Execute] {
        assert!(!format.permits(raw, level, access), "permits() is false of what is no leaf");
    }
    assert!(!format.is_writable(raw, level), "is_writable() is false of what is no leaf");
    assert!(!format.may_write(raw, level), "may_write() is false of what is no leaf");
    assert!(!format.is_grouped(raw, level), "is_grouped() is false of what is no leaf");
    assert_eq!(format.is_table(raw, level), format.kind(raw, level) == Kind::Table, "is_table() is what kind() says");
}

fn table<F: Format>(format: F, hpa: Hpa, level: Level) {
    let raw = format.table(hpa, level);
    assert_eq!(format.kind(raw, level), Kind::Table, "a table entry is one");
    assert_eq!(format.table_address(raw, level), hpa, "a table's address comes back");
    assert!(!format.is_kept(raw), "a new table holds no annotations");
    no_leaf(format, raw, level);
    let kept = raw | F::KEPT;
    assert!(format.is_kept(kept) && format.kind(kept, level) == Kind::Table, "the bit changes nothing else");
    assert_eq!(format.table_address(kept, level), hpa, "the bit changes nothing else");
    no_leaf(format, kept, level);
    if format.overlaps() {
        [raw, kept].into_iter().for_each(|raw| is_owned(format, format.held(raw, level), level, Kind::Locked));
    }
}

/// A word that one owner changes while hardware uses it.
fn is_owned<F: Format>(format: F, raw: u64, level: Level, kind: Kind) {
    assert_eq!(format.kind(raw, level), kind, "software finds it locked, or frozen");
    assert!(!format.is_table(raw, level), "is_table() is what kind() says");
    assert!(!format.is_writable(raw, level), "nobody protects what is another's");
    assert!(!format.may_write(raw, level), "nobody relaxes what is another's");
    assert!(!format.is_grouped(raw, level) && !format.is_dirty(raw, level), "nobody changes what is another's");
}

/// A leaf that becomes a table of the same memory, or comes of one.
fn sizes<F: Format>(format: F, raw: u64, level: Level) {
    let table = format.table(Hpa::new(0), level);
    let changes = [format.change(raw, table, level), format.change(table, raw, level)];
    for change in changes {
        let expected = if format.overlaps() { [Change::Overlap, Change::Break] } else { [Change::Break; 2] };
        assert!(expected.contains(&change), "a change of size needs break-before-make, or leaves to be held");
    }
    if changes[1] == Change::Overlap {
        is_owned(format, format.held(raw, level), level, Kind::Locked);
    }
}

/// A leaf whose table may become one leaf of `above` without a break.
fn frozen<F: Format>(format: F, leaf: Leaf, level: Level, above: Level) {
    let whole = format.leaf(Leaf { hpa: Hpa::new(0), ..leaf }, above);
    if format.change(format.table(Hpa::new(0), above), whole, above) == Change::Overlap {
        is_owned(format, format.frozen(format.leaf(leaf, level), level), level, Kind::Frozen);
    }
}

fn leaves<F: Format>(format: F, hpa: Hpa, level: Level) {
    for bits in 0..32u32 {
        let on = |bit: u32| bits & 1 << bit != 0;
        for memory in [MemoryType::Normal, MemoryType::NonCacheable, MemoryType::Device] {
            let permissions = Permissions::new(on(0), on(1), on(2));
            let leaf = Leaf { hpa, permissions, may_write: on(3), memory, accessed: on(4) };
            if let Some(granted) = granted(format, leaf, level) {
                one_leaf(format, granted, level);
            }
        }
    }
}

/// What the format makes of a leaf: never more than was asked for, and all of it where it must be. `None` for what
/// cannot be read: a format need not express it.
fn granted<F: Format>(format: F, asked: Leaf, level: Level) -> Option<Leaf> {
    let granted = format.decode(format.leaf(asked, level), level);
    assert_eq!(granted.permissions.and(asked.permissions), granted.permissions, "no permission that was not asked for");
    assert!(asked.may_write || !granted.may_write, "no writing that was not asked for");
    let executable = asked.permissions.execute() && asked.memory == MemoryType::Normal;
    assert!(executable || !granted.permissions.execute(), "memory that is not normal is not executed");
    let permissions = asked.permissions.with_execute(executable);
    asked.permissions.read().then(|| {
        assert_eq!(granted, Leaf { permissions, ..asked }, "what can be read comes back as it went in");
        granted
    })
}

fn one_leaf<F: Format>(format: F, leaf: Leaf, level: Level) {
    let raw = format.leaf(leaf, level);
    assert_eq!(format.kind(raw, level), Kind::Leaf, "a leaf is one");
    assert_eq!(format.decode(raw, level), leaf, "a leaf comes back as it went in");
    for access in [Access::Read, Access::Write, Access::Execute] {
        let expected = (leaf.accessed || format.hardware_accessed()) && leaf.permissions.allow(access);
        assert_eq!(format.permits(raw, level, access), expected, "permits() is the decoded permission and accessed");
    }
    if leaf.accessed {
        assert_eq!(format.is_writable(raw, level), leaf.permissions.write());
    }
    assert!(!format.is_table(raw, level), "is_table() is what kind() says");
    assert_eq!(format.may_write(raw, level), leaf.may_write);

    let with_write = |write| leaf.permissions.with_write(write);
    let writable = format.made_writable(raw, level);
    let expected = Leaf { permissions: with_write(true), accessed: true, ..leaf };
    assert_eq!(format.decode(writable, level), expected, "made_writable() sets write and accessed, nothing else");
    let accessed = format.made_accessed(raw, level);
    assert_eq!(format.decode(accessed, level), Leaf { accessed: true, ..leaf });
    let old = format.made_old(raw, level);
    assert_eq!(format.decode(old, level), Leaf { accessed: false, ..leaf }, "made_old() takes accessed, nothing else");
    assert_eq!(format.made_accessed(old, level), accessed, "and it can be given back");
    assert_eq!(format.kind(old, level), Kind::Leaf, "a leaf that is not accessed is one");
    let protected = format.write_protected(raw, level);
    assert_eq!(format.decode(protected, level), Leaf { permissions: with_write(false), ..leaf });
    let revoked = format.write_revoked(raw, level);
    assert_eq!(format.decode(revoked, level), Leaf { permissions: with_write(false), may_write: false, ..leaf });

    for change in changes::<F>() {
        let changed = change(&format, raw, level);
        assert_eq!(
            change(&format, changed, level),
            changed,
            "what is changed twice is what it was after the first time"
        );
    }
    dirty(format, raw, level);
    if level > Level::PAGE {
        sizes(format, raw, level);
    }
    if let Some(above) = level.above().filter(|&above| above <= format.geometry().largest_leaf()) {
        frozen(format, leaf, level, above);
    }

    assert_eq!(format.change(raw, raw, level), Change::Free, "no change needs nothing");
    assert_eq!(format.change(raw, writable, level), Change::Free, "relaxing needs nothing");
    let expected = if leaf.permissions.write() { Change::Flush } else { Change::Free };
    if leaf.accessed {
        assert_eq!(format.change(raw, protected, level), expected, "withholding a permission needs a flush");
    }
    members(format, leaf, level);
    let moved =
        Leaf { hpa: Hpa::new(leaf.hpa.get() ^ format.geometry().size(format.geometry().largest_leaf())), ..leaf };
    assert_ne!(format.change(raw, format.leaf(moved, level), level), Change::Free, "another frame is never free");
}

/// The shape of a level's groups: inside a table, and inside a region that invalidations are counted by.
fn groups<F: Format>(format: F, level: Level) {
    let (geometry, bits) = (format.geometry(), format.group_bits(level));
    if bits > 0 {
        assert!(level <= geometry.largest_leaf(), "a group is one of leaves");
        let is_root = level == geometry.root_level();
        let entries = if is_root { geometry.root_entries().min(geometry.entries()) } else { geometry.entries() };
        assert!(1 << bits <= entries.min(MOST_MEMBERS), "a group lies in one table");
        assert!(geometry.shift(level) + bits <= geometry.shard_shift(), "a group lies in a shard's region");
    }
}

/// What is done to leaf words, wherever they stand.
fn changes<F: Format>() -> [fn(&F, u64, Level) -> u64; 6] {
    [F::made_writable, F::made_accessed, F::made_old, F::made_clean, F::write_protected, F::write_revoked]
}

/// A leaf as each member of its group, and alone again.
fn members<F: Format>(format: F, leaf: Leaf, level: Level) {
    let bits = format.group_bits(level);
    let size = format.geometry().size(level);
    assert!(!format.is_grouped(format.leaf(leaf, level), level), "a leaf is made alone");
    let count = if bits > 0 { 1 << bits } else { 0 };
    for member in 0..count {
        let leaf = Leaf { hpa: Hpa::new(leaf.hpa.align_down(size << bits).get() + size * member as u64), ..leaf };
        let raw = format.leaf(leaf, level);
        let grouped = format.grouped(raw, level);
        assert_eq!(format.ungrouped(grouped, level, member), raw, "a member becomes the leaf that it was");
        assert_eq!(format.change(raw, grouped, level), Change::Break, "grouping needs break-before-make");
        assert_eq!(format.change(grouped, raw, level), Change::Break, "and so does the way back");
        assert_eq!(format.kind(grouped, level), Kind::Leaf, "a member is a leaf");
        let said = Leaf { hpa: leaf.hpa, ..format.decode(grouped, level) };
        assert_eq!(said, leaf, "a member says what the leaf does, but for where its memory lies");
        assert_eq!(format.grouped(grouped, level), grouped, "a member is made one once");
        for change in changes::<F>() {
            let changed = change(&format, grouped, level);
            assert!(format.is_grouped(changed, level), "what is changed in a member leaves it one");
            assert_eq!(changed, format.grouped(change(&format, raw, level), level), "and does what it does to a leaf");
        }
    }
}

/// What hardware notes of writes.
fn dirty<F: Format>(format: F, raw: u64, level: Level) {
    assert!(!format.is_dirty(raw, level), "a new leaf is clean");
    let written = format.made_writable(raw, level);
    assert_eq!(format.is_dirty(written, level), format.hardware_dirty(), "made_writable() makes dirty");
    let clean = format.made_clean(written, level);
    assert!(!format.is_dirty(clean, level), "made_clean() makes clean");
    assert_eq!(format.decode(clean, level), format.decode(written, level), "made_clean() changes nothing else");
    assert!(format.permits(clean, level, Access::Write), "hardware writes through a clean leaf without a fault");
    assert_eq!(format.change(clean, written, level), Change::Free);
    if format.hardware_dirty() {
        assert_eq!(format.change(written, clean, level), Change::Flush, "a dirty leaf may be cached as one");
        for kept in [F::write_protected, F::write_revoked, F::made_old] {
            assert!(format.is_dirty(kept(&format, written, level), level), "what is noted is kept");
            assert!(!format.is_dirty(kept(&format, clean, level), level), "and nothing else is noted");
        }
        let protected = format.write_protected(written, level);
        let twice = format.made_writable(protected, level);
        for kept in [F::write_protected, F::write_revoked] {
            assert!(format.is_dirty(kept(&format, twice, level), level), "what was noted twice is kept, too");
        }
        let again = format.made_clean(protected, level);
        assert!(!format.is_dirty(again, level) && !format.is_writable(again, level), "clean, and not writable");
        assert_eq!(format.decode(again, level), Leaf { accessed: true, ..format.decode(protected, level) });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::{
        Arm64, Arm64_16k, Arm64_16kContiguous, Arm64_16kFwb, Arm64_16kLpa2, Arm64_16kLpa2Fwb, Arm64_64k,
        Arm64_64kContiguous, Arm64_64kFwb, Arm64Bbm2, Arm64Contiguous, Arm64Fwb, Arm64Hd, Arm64Lpa2, Arm64Lpa2Fwb, Ept,
        Ept5, EptAd, Fake, Npt, Npt5, NptAd, Stage2, Sv39x4, Sv48x4, Sv48x4Adu, Sv48x4Napot, Sv57x4,
    };

    #[test]
    fn every_format_keeps_the_contract() {
        let frames = |most: u64| [0, 1 << 30, most & !0x3fff_ffff];
        for bits in 32..=48 {
            check(Arm64::new(bits).unwrap(), &frames((1 << 48) - 1));
            check(Arm64Contiguous::new(bits).unwrap(), &frames((1 << 48) - 1));
            check(Arm64Bbm2::new(bits).unwrap(), &frames((1 << 48) - 1));
            check(Stage2::<12, false, false, true, true, true>::new(bits).unwrap(), &frames((1 << 48) - 1));
            check(Arm64_16k::new(bits).unwrap(), &frames((1 << 48) - 1));
            check(Arm64_16kContiguous::new(bits).unwrap(), &frames((1 << 48) - 1));
            check(Arm64_16kFwb::new(bits).unwrap(), &frames((1 << 48) - 1));
            check(Stage2::<16, false, false, true, true>::new(bits).unwrap(), &frames((1 << 48) - 1));
        }
        for bits in 32..=52 {
            check(Arm64Lpa2::new(bits).unwrap(), &frames((1 << 52) - 1));
            check(Stage2::<12, true, true, false, true, true>::new(bits).unwrap(), &frames((1 << 52) - 1));
            check(Arm64_16kLpa2::new(bits).unwrap(), &frames((1 << 52) - 1));
            check(Arm64_64k::new(bits).unwrap(), &frames((1 << 52) - 1));
            check(Arm64_64kContiguous::new(bits).unwrap(), &frames((1 << 52) - 1));
        }
        check(Arm64Lpa2Fwb::new(52).unwrap(), &frames((1 << 52) - 1));
        check(Arm64_16kLpa2Fwb::new(52).unwrap(), &frames((1 << 52) - 1));
        check(Arm64Fwb::new(48).unwrap(), &frames((1 << 48) - 1));
        check(Arm64Lpa2::with_levels(52, 5).unwrap(), &frames((1 << 52) - 1));
        check(Arm64_64kFwb::new(52).unwrap(), &frames((1 << 52) - 1));
        check(Ept::new(), &frames((1 << 52) - 1));
        check(Ept5::new(), &frames((1 << 52) - 1));
        check(Npt::new(), &frames((1 << 52) - 1));
        check(EptAd::new(), &frames((1 << 52) - 1));
        check(NptAd::new(), &frames((1 << 52) - 1));
        check(Sv48x4Adu::new(), &frames((1 << 56) - 1));
        check(Sv48x4Napot::new(), &frames((1 << 56) - 1));
        check(Arm64Hd::new(48).unwrap(), &frames((1 << 48) - 1));
        check(Stage2::<16, false, true, true>::new(52).unwrap(), &frames((1 << 52) - 1));
        check(Npt5::new(), &frames((1 << 52) - 1));
        check(Sv39x4::new(), &frames((1 << 56) - 1));
        check(Sv48x4::new(), &frames((1 << 56) - 1));
        check(Sv57x4::new(), &frames((1 << 56) - 1));
        for levels in 2..=4 {
            for bits in 0..=2 {
                check(Fake::new(levels).with_groups(bits), &[0, 1 << 20, 0x7f << 20]);
                check(Fake::new(levels).with_groups(bits).with_overlaps(), &[0, 1 << 20, 0x7f << 20]);
                check(Fake::new(levels).with_groups(bits).with_hardware_dirty(), &[0, 1 << 20, 0x7f << 20]);
            }
        }
    }

    #[test]
    #[should_panic(expected = "was not made for")]
    fn the_fake_format_notices_a_level_mistake() {
        let fake = Fake::new(3);
        let raw = fake.table(Hpa::new(0x1000), Level::new(2));
        let _ = fake.kind(raw, Level::new(1));
    }

    #[test]
    fn address_sizes_outside_the_architecture_are_refused() {
        for bits in [0, 31, 49, 64] {
            assert!(Arm64::new(bits).is_err() && Arm64_16k::new(bits).is_err());
        }
        for bits in [0, 31, 53, 64] {
            assert!(
                Arm64Lpa2::new(bits).is_err() && Arm64_16kLpa2::new(bits).is_err() && Arm64_64k::new(bits).is_err()
            );
        }
        for (bits, levels) in [(52, 3), (48, 5), (48, 1), (53, 5), (32, 4), (52, 6)] {
            assert!(Arm64Lpa2::with_levels(bits, levels).is_err(), "{levels} levels for {bits} bits");
        }
        assert!(Arm64_16k::with_levels(48, 4).is_err() && Arm64_16kLpa2::with_levels(48, 4).is_ok());
    }
}
