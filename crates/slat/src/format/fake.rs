//! A format that no hardware has, for model checking: tables of four entries, and bits that are shifted by the level,
//! so that an entry used at the wrong level breaks at once.

use super::fields::{bit, bits, has, union, when};
use super::{AnnotationField, Change, Format, Geometry, Kind, Leaf};
use crate::addr::{Hpa, Level};
use crate::host::{Access, MemoryType, Permissions, Trust};

/// Set in every valid word, beside the level it was made for.
const VALID: u64 = bit(3);
const TAG: u64 = 0b1111;
const TAG_BITS: u32 = 4;
const SHIFT_PER_LEVEL: u32 = 3;

const LEAF: u64 = bit(0);
const READ: u64 = bit(1);
const WRITE: u64 = bit(2);
const EXECUTE: u64 = bit(3);
const MAY_WRITE: u64 = bit(4);
const ACCESSED: u64 = bit(5);
const MEMORY_SHIFT: u32 = 6;
const MEMORY: u64 = bits(7, 6);
/// Written through, where hardware notes that.
const DIRTY: u64 = bit(8);
/// In a leaf: a member of a group. Its address is that of the group, the same in all members.
const GROUPED: u64 = bit(9);
/// In a table entry of any level: annotations lie below.
const KEPT: u64 = bit(62);
/// One thread's, and in use by hardware: held, or, below an entry that is, frozen.
const HELD: u64 = bit(10);
const STILL: u64 = bit(11);
const ADDRESS: u64 = bits(39, 12);

/// The fake format: 4 KiB pages, four entries a table, two to four levels, every level's leaves allowed below the root.
///
/// A word read at another level than the one it was made for makes the decoding panic: that is what the format is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fake {
    geometry: Geometry,
    group_bits: u32,
    /// What a leaf is when it is written through: [`DIRTY`], or nothing where hardware does not note it.
    written: u64,
    overlaps: bool,
}

impl Fake {
    /// A tree of `levels` levels, 2 to 4. Panics on other values, in a const context at compile time.
    pub const fn new(levels: u8) -> Self {
        assert!(levels >= 2 && levels <= 4, "the fake format has two to four levels");
        let root = Level::new(levels - 1);
        let largest_leaf = Level::new(if levels == 2 { 1 } else { levels - 2 });
        let geometry = Geometry::new(12, 2, root, 2, largest_leaf, 12 + 2 * root.get());
        Self { geometry, group_bits: 0, written: 0, overlaps: false }
    }

    /// The same with contiguous groups of `1 << bits` pages, at most a table of them.
    #[must_use]
    pub const fn with_groups(self, bits: u32) -> Self {
        assert!(bits <= 2, "a group lies in one table");
        Self { group_bits: bits, ..self }
    }

    /// The same for hardware that notes what it writes to.
    #[must_use]
    pub const fn with_hardware_dirty(self) -> Self {
        Self { written: DIRTY, ..self }
    }

    /// The same for hardware that may have cached leaves of two sizes for one address. Does not go with hardware that notes
    /// what it writes to: blocks and tables are broken there.
    #[must_use]
    pub const fn with_overlaps(self) -> Self {
        Self { overlaps: true, ..self }
    }

    /// What hardware makes of a word: the one that it was before it was held or frozen.
    pub const fn seen_by_hardware(raw: u64) -> u64 {
        let level = Level::new((raw & (VALID - 1)) as u8);
        if raw & VALID == 0 { raw } else { raw & !(union([HELD, STILL]) << Self::shift(level)) }
    }

    const fn shift(level: Level) -> u32 {
        TAG_BITS + SHIFT_PER_LEVEL * level.get() as u32
    }

    fn word(body: u64, level: Level) -> u64 {
        union([body << Self::shift(level), VALID, u64::from(level.get())])
    }

    fn body(raw: u64, level: Level) -> u64 {
        assert!(raw & TAG == union([VALID, u64::from(level.get())]), "entry {raw:#x} was not made for {level}");
        raw >> Self::shift(level)
    }

    /// The body of a leaf; nothing of a word in another state.
    fn leaf_body(raw: u64, level: Level) -> u64 {
        let body = if raw & VALID == 0 { 0 } else { Self::body(raw, level) };
        when(body & union([LEAF, HELD, STILL]) == LEAF, body)
    }
}

impl Format for Fake {
    const NAME: &'static str = "fake";
    const TRUST: Trust<Self> = Trust::OURS;
    const LOCKED: u64 = bit(2);
    const FROZEN: u64 = union([bit(2), bit(4)]);
    const ANNOTATION: AnnotationField = AnnotationField { shift: 12, bits: 16, mark: bit(5) };
    const KEPT: u64 = KEPT;
    const SHARDS: usize = 2;
    const REMEMBERED: usize = 2;

    fn geometry(&self) -> Geometry {
        self.geometry
    }

    #[inline(always)]
    fn output_bits(&self) -> u32 {
        40
    }

    fn kind(&self, raw: u64, level: Level) -> Kind {
        match raw {
            Self::LOCKED => Kind::Locked,
            Self::FROZEN => Kind::Frozen,
            _ if raw & VALID == 0 => Kind::Empty,
            _ if Self::body(raw, level) & HELD != 0 => Kind::Locked,
            _ if Self::body(raw, level) & STILL != 0 => Kind::Frozen,
            _ if Self::body(raw, level) & LEAF != 0 => Kind::Leaf,
            _ => Kind::Table,
        }
    }

    fn table(&self, table: Hpa, level: Level) -> u64 {
        Self::word(table.get() & ADDRESS, level)
    }

    fn table_address(&self, raw: u64, level: Level) -> Hpa {
        Hpa::new(Self::body(raw, level) & ADDRESS)
    }

    fn leaf(&self, leaf: Leaf, level: Level) -> u64 {
        let memory = match leaf.memory {
            MemoryType::Normal => 0,
            MemoryType::NonCacheable => 1,
            MemoryType::Device => 2,
        };
        let body = union([
            leaf.hpa.get() & ADDRESS,
            LEAF,
            when(leaf.permissions.read(), READ),
            when(leaf.permissions.write(), WRITE),
            when(leaf.permissions.execute() && leaf.memory == MemoryType::Normal, EXECUTE),
            when(leaf.may_write, MAY_WRITE),
            when(leaf.accessed, ACCESSED),
            memory << MEMORY_SHIFT,
        ]);
        Self::word(body, level)
    }

    fn decode(&self, raw: u64, level: Level) -> Leaf {
        let body = Self::body(raw, level);
        Leaf {
            hpa: Hpa::new(body & ADDRESS),
            permissions: Permissions::new(body & READ != 0, body & WRITE != 0, body & EXECUTE != 0),
            may_write: body & MAY_WRITE != 0,
            memory: match (body & MEMORY) >> MEMORY_SHIFT {
                0 => MemoryType::Normal,
                1 => MemoryType::NonCacheable,
                _ => MemoryType::Device,
            },
            accessed: body & ACCESSED != 0,
        }
    }

    fn permits(&self, raw: u64, level: Level, access: Access) -> bool {
        let needed = match access {
            Access::Read => READ,
            Access::Write => WRITE,
            Access::Execute => EXECUTE,
        };
        has(Self::leaf_body(raw, level), [needed, ACCESSED])
    }

    fn is_writable(&self, raw: u64, level: Level) -> bool {
        Self::leaf_body(raw, level) & WRITE != 0
    }

    fn may_write(&self, raw: u64, level: Level) -> bool {
        Self::leaf_body(raw, level) & MAY_WRITE != 0
    }

    fn made_writable(&self, raw: u64, level: Level) -> u64 {
        Self::word(Self::body(raw, level) | union([WRITE, ACCESSED, self.written]), level)
    }

    fn made_accessed(&self, raw: u64, level: Level) -> u64 {
        Self::word(Self::body(raw, level) | ACCESSED, level)
    }

    fn made_old(&self, raw: u64, level: Level) -> u64 {
        Self::word(Self::body(raw, level) & !ACCESSED, level)
    }

    fn write_protected(&self, raw: u64, level: Level) -> u64 {
        Self::word(Self::body(raw, level) & !WRITE, level)
    }

    fn write_revoked(&self, raw: u64, level: Level) -> u64 {
        Self::word(Self::body(raw, level) & !WRITE & !MAY_WRITE, level)
    }

    fn group_bits(&self, level: Level) -> u32 {
        if level == Level::PAGE { self.group_bits } else { 0 }
    }

    fn is_grouped(&self, raw: u64, level: Level) -> bool {
        Self::leaf_body(raw, level) & GROUPED != 0
    }

    fn grouped(&self, raw: u64, level: Level) -> u64 {
        let group = self.geometry.size(level) << self.group_bits(level);
        Self::word(Self::body(raw, level) & !(ADDRESS & (group - 1)) | GROUPED, level)
    }

    fn ungrouped(&self, raw: u64, level: Level, member: usize) -> u64 {
        let body = Self::body(raw, level) & !GROUPED;
        Self::word(body + member as u64 * self.geometry.size(level), level)
    }

    fn hardware_dirty(&self) -> bool {
        self.written != 0
    }

    fn is_dirty(&self, raw: u64, level: Level) -> bool {
        Self::leaf_body(raw, level) & DIRTY != 0
    }

    fn made_clean(&self, raw: u64, level: Level) -> u64 {
        Self::word(Self::body(raw, level) & !DIRTY, level)
    }

    fn change(&self, old: u64, new: u64, level: Level) -> Change {
        const PERMISSIVE: u64 = union([READ, WRITE, EXECUTE, ACCESSED, DIRTY]);
        // Software's bit of tables is nothing to hardware.
        let (old, new) = (Self::body(old & !KEPT, level), Self::body(new & !KEPT, level));
        match (old ^ new) & !PERMISSIVE & !MAY_WRITE {
            0 if old & !new & PERMISSIVE == 0 => Change::Free,
            0 => Change::Flush,
            _ if self.overlaps && self.written == 0 && (old ^ new) & LEAF != 0 => Change::Overlap,
            _ => Change::Break,
        }
    }

    fn overlaps(&self) -> bool {
        self.overlaps
    }

    fn held(&self, raw: u64, level: Level) -> u64 {
        Self::word(union([Self::body(raw, level), HELD]), level)
    }

    fn frozen(&self, raw: u64, level: Level) -> u64 {
        Self::word(union([Self::body(raw, level), STILL]), level)
    }
}

const _: () = {
    assert!(Fake::LOCKED & VALID == 0 && Fake::FROZEN & VALID == 0 && Fake::LOCKED != Fake::FROZEN);
    assert!(Fake::new(3).geometry.address_bits() == 18 && Fake::new(3).geometry.entries() == 4);
};
