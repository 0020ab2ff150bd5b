//! The contract of [`Format`], in code: what every format has to satisfy.
//!
//! [`check`] holds a format to it over every level and every combination of attributes; a new format calls it from its
//! tests, and the machine's walkers then hold it against the architecture's manual.

use super::{Change, Format, Kind, Leaf};
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
    for number in 0..=format.geometry().root_level().get() {
        let level = Level::new(number);
        assert_eq!(format.kind(0, level), Kind::Empty, "the zero word is empty at every level");
        assert_eq!(format.kind(F::LOCKED, level), Kind::Locked, "LOCKED is locked at every level");
        assert_eq!(format.kind(F::FROZEN, level), Kind::Frozen, "FROZEN is frozen at every level");
        for &frame in frames {
            if level > Level::PAGE {
                table(format, Hpa::new(frame), level);
            }
            if level <= format.geometry().largest_leaf() {
                leaves(format, Hpa::new(frame), level);
            }
        }
    }
}

fn table<F: Format>(format: F, hpa: Hpa, level: Level) {
    let raw = format.table(hpa, level);
    assert_eq!(format.kind(raw, level), Kind::Table, "a table entry is one");
    assert_eq!(format.table_address(raw, level), hpa, "a table's address comes back");
}

fn leaves<F: Format>(format: F, hpa: Hpa, level: Level) {
    for bits in 0..64u32 {
        let on = |bit: u32| bits & 1 << bit != 0;
        for memory in [MemoryType::Normal, MemoryType::NonCacheable, MemoryType::Device] {
            let permissions = Permissions { read: on(0), write: on(1), execute: on(2) && memory != MemoryType::Device };
            let leaf = Leaf { hpa, permissions, may_write: on(3), memory, accessed: on(4) };
            one_leaf(format, leaf, level);
        }
    }
}

fn one_leaf<F: Format>(format: F, leaf: Leaf, level: Level) {
    let raw = format.leaf(leaf, level);
    assert_eq!(format.kind(raw, level), Kind::Leaf, "a leaf is one");
    assert_eq!(format.decode(raw, level), leaf, "a leaf comes back as it went in");
    for access in [Access::Read, Access::Write, Access::Execute] {
        let expected = leaf.accessed && leaf.permissions.allow(access);
        assert_eq!(format.permits(raw, level, access), expected, "permits() is the decoded permission and accessed");
    }
    assert_eq!(format.is_writable(raw, level), leaf.permissions.write);
    assert_eq!(format.may_write(raw, level), leaf.may_write);

    let with_write = |write| Permissions { write, ..leaf.permissions };
    let writable = format.made_writable(raw, level);
    let expected = Leaf { permissions: with_write(true), accessed: true, ..leaf };
    assert_eq!(format.decode(writable, level), expected, "made_writable() sets write and accessed, nothing else");
    let accessed = format.made_accessed(raw, level);
    assert_eq!(format.decode(accessed, level), Leaf { accessed: true, ..leaf });
    let protected = format.write_protected(raw, level);
    assert_eq!(format.decode(protected, level), Leaf { permissions: with_write(false), ..leaf });
    let revoked = format.write_revoked(raw, level);
    assert_eq!(format.decode(revoked, level), Leaf { permissions: with_write(false), may_write: false, ..leaf });

    assert_eq!(format.change(raw, raw, level), Change::Free, "no change needs nothing");
    assert_eq!(format.change(raw, writable, level), Change::Free, "relaxing needs nothing");
    let expected = if leaf.permissions.write { Change::Flush } else { Change::Free };
    assert_eq!(format.change(raw, protected, level), expected, "withholding a permission needs a flush");
    let moved =
        Leaf { hpa: Hpa::new(leaf.hpa.get() ^ format.geometry().size(format.geometry().largest_leaf())), ..leaf };
    assert_ne!(format.change(raw, format.leaf(moved, level), level), Change::Free, "another frame is never free");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::{Arm64, Fake};

    #[test]
    fn every_format_keeps_the_contract() {
        for bits in 32..=48 {
            check(Arm64::new(bits).unwrap(), &[0, 1 << 30, 0x0000_ffff_c000_0000]);
        }
        for levels in 2..=4 {
            check(Fake::new(levels), &[0, 1 << 20, 0x7f << 20]);
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
            assert!(Arm64::new(bits).is_err());
        }
    }
}
