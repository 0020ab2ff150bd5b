//! The fake format, with bugs to plant, and words at the wrong level reported rather than panicked about.

use slat::addr::{Hpa, Level};
use slat::format::{AnnotationField, Change, Fake, Format, Geometry, Kind, Leaf};
use slat::host::{Access, Trust};

use crate::book;
use crate::plant::Plant;

/// Bits of a word that name the level it was made for, under the bit that makes it valid.
const LEVEL: u64 = 0b111;
const VALID: u64 = 1 << 3;

/// The level that a valid word was made for.
pub fn level_of(raw: u64) -> Level {
    if raw & VALID == 0 { Level::PAGE } else { Level::new((raw & LEVEL) as u8) }
}

/// The state that a word says, at the level it was made for.
pub fn kind_of(raw: u64) -> Kind {
    Fake::new(4).kind(raw, level_of(raw))
}

/// Pages in a contiguous group, as a power of two, in models that have groups: two groups make a table.
pub const GROUP_BITS: u32 = 1;

/// The format of every model.
#[derive(Clone, Copy, Debug)]
pub struct ModelFormat(Fake);

impl ModelFormat {
    /// A tree of `levels` levels.
    pub fn new(levels: u8) -> Self {
        Self(Fake::new(levels))
    }

    /// The same with contiguous groups of pages.
    #[must_use]
    pub fn with_groups(self) -> Self {
        Self(self.0.with_groups(GROUP_BITS))
    }

    /// The same for hardware that notes what it writes to.
    #[must_use]
    pub fn with_hardware_dirty(self) -> Self {
        Self(self.0.with_hardware_dirty())
    }

    /// The same for hardware that may have cached leaves of two sizes for one address.
    #[must_use]
    pub fn with_overlaps(self) -> Self {
        Self(self.0.with_overlaps())
    }
}

impl Format for ModelFormat {
    const NAME: &'static str = "model";
    #[allow(unsafe_code)]
    // SAFETY: it is the fake format but for planted bugs, whose harm the model's tables report rather than suffer.
    const TRUST: Trust<Self> = unsafe { Trust::new() };
    const LOCKED: u64 = Fake::LOCKED;
    const FROZEN: u64 = Fake::FROZEN;
    const ANNOTATION: AnnotationField = Fake::ANNOTATION;
    const KEPT: u64 = Fake::KEPT;
    const SHARDS: usize = Fake::SHARDS;
    const REMEMBERED: usize = Fake::REMEMBERED;

    fn geometry(&self) -> Geometry {
        let real = self.0.geometry();
        if Plant::SmallShards.is_planted() {
            let root = real.root_level();
            return Geometry::new(12, 2, root, 2, real.largest_leaf(), 12 + 2 * real.largest_leaf().get() - 1);
        }
        real
    }

    fn output_bits(&self) -> u32 {
        self.0.output_bits()
    }

    fn kind(&self, raw: u64, level: Level) -> Kind {
        if raw == Self::LOCKED && Plant::LockedLooksEmpty.is_planted() {
            return Kind::Empty;
        }
        if raw == Self::FROZEN && Plant::FrozenLooksEmpty.is_planted() {
            return Kind::Empty;
        }
        if raw & VALID != 0 && level_of(raw) != level {
            book::report(format_args!("an entry made for {} was used at {level}", level_of(raw)));
            return Kind::Empty;
        }
        self.0.kind(raw, level)
    }

    fn is_kept(&self, raw: u64) -> bool {
        !Plant::NoteForgotten.is_planted() && self.0.is_kept(raw)
    }

    fn table(&self, table: Hpa, level: Level) -> u64 {
        self.0.table(table, level)
    }

    fn table_address(&self, raw: u64, level: Level) -> Hpa {
        self.0.table_address(raw, level)
    }

    fn leaf(&self, leaf: Leaf, level: Level) -> u64 {
        self.0.leaf(leaf, level)
    }

    fn decode(&self, raw: u64, level: Level) -> Leaf {
        let leaf = self.0.decode(raw, level);
        match Plant::DecodesWritable.is_planted() {
            true => Leaf { permissions: leaf.permissions.with_write(true), may_write: true, ..leaf },
            false => leaf,
        }
    }

    fn permits(&self, raw: u64, level: Level, access: Access) -> bool {
        self.0.permits(raw, level, access)
    }

    fn is_writable(&self, raw: u64, level: Level) -> bool {
        self.0.is_writable(raw, level)
    }

    fn may_write(&self, raw: u64, level: Level) -> bool {
        self.0.may_write(raw, level)
    }

    fn made_writable(&self, raw: u64, level: Level) -> u64 {
        self.0.made_writable(raw, level)
    }

    fn made_accessed(&self, raw: u64, level: Level) -> u64 {
        self.0.made_accessed(raw, level)
    }

    fn made_old(&self, raw: u64, level: Level) -> u64 {
        self.0.made_old(raw, level)
    }

    fn write_protected(&self, raw: u64, level: Level) -> u64 {
        if Plant::UnprotectedLevel(level.get()).is_planted() { raw } else { self.0.write_protected(raw, level) }
    }

    fn write_revoked(&self, raw: u64, level: Level) -> u64 {
        if Plant::RevokedMayReturn.is_planted() {
            return self.0.write_protected(raw, level);
        }
        self.0.write_revoked(raw, level)
    }

    fn group_bits(&self, level: Level) -> u32 {
        self.0.group_bits(level)
    }

    fn is_grouped(&self, raw: u64, level: Level) -> bool {
        if raw & VALID != 0 && level_of(raw) != level {
            return false; // reported by `kind`
        }
        !Plant::MemberTakenForLeaf.is_planted() && self.0.is_grouped(raw, level)
    }

    fn grouped(&self, raw: u64, level: Level) -> u64 {
        self.0.grouped(raw, level)
    }

    fn ungrouped(&self, raw: u64, level: Level, member: usize) -> u64 {
        self.0.ungrouped(raw, level, member)
    }

    fn hardware_dirty(&self) -> bool {
        self.0.hardware_dirty()
    }

    fn is_dirty(&self, raw: u64, level: Level) -> bool {
        !Plant::WrittenForgotten.is_planted() && self.0.is_dirty(raw, level)
    }

    fn made_clean(&self, raw: u64, level: Level) -> u64 {
        self.0.made_clean(raw, level)
    }

    fn change(&self, old: u64, new: u64, level: Level) -> Change {
        match (self.0.change(old, new, level), Plant::current()) {
            (_, Plant::NothingBreaks) => Change::Free,
            (Change::Overlap, Plant::EverythingBreaks) => Change::Break,
            (change, _) => change,
        }
    }

    fn overlaps(&self) -> bool {
        !Plant::SizesFlushedByAddress.is_planted() && self.0.overlaps()
    }

    fn held(&self, raw: u64, level: Level) -> u64 {
        if Plant::NothingHeld.is_planted() { raw } else { self.0.held(raw, level) }
    }

    fn frozen(&self, raw: u64, level: Level) -> u64 {
        if Plant::NothingFrozen.is_planted() { raw } else { self.0.frozen(raw, level) }
    }
}
