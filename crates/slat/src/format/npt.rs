//! x86 nested page tables (NPT): four or five levels, 4 KiB pages, blocks of 2 MiB and 1 GiB.
//!
//! Source: AMD64 Architecture Programmer's Manual, volume 2: 15.25 (nested paging; 15.25.5 faults and the user bit, 15.25.8
//! combining memory types), 5.3 and 5.4 (long-mode tables and their fields), 7.8 (page-attribute table).
//!
//! The processor keeps accessed and dirty flags in nested tables always. Where nobody asks for them, entries have both from
//! the start, so that it has nothing to set, and a leaf that is not accessed is one that is not present. The nested PAT is the host's: the format uses
//! the entries that every host has as they are after reset, 0 (write-back), 2 (uncached, weakened to write combining by a
//! guest or an MTRR that says so) and 3 (uncacheable).

use super::fields::{bit, bits, disjoint, has, union, when};
use super::{AnnotationField, Change, Format, Geometry, Kind, Leaf};
use crate::addr::{Hpa, Level};
use crate::host::{Access, MemoryType, Permissions, Trust};

const PRESENT: u64 = bit(0);
const WRITE: u64 = bit(1);
/// All of a guest's accesses count as the user's (15.25.5).
const USER: u64 = bit(2);
const PWT: u64 = bit(3);
const PCD: u64 = bit(4);
const MEMORY: u64 = union([PCD, PWT]);
const ACCESSED: u64 = bit(5);
const DIRTY: u64 = bit(6);
/// Bit 7 above the page level: the entry maps memory. At the page level it is a bit of the memory type, and stays clear.
const LARGE: u64 = bit(7);
/// Bits 11:9 and 58:52 are software's in entries that are present.
const SOFTWARE_LEAF: u64 = bit(9);
const KEPT: u64 = bit(10);
const MAY_WRITE: u64 = bit(11);
/// The leaf can be read: it is present once it is accessed.
const READABLE: u64 = bit(52);
const NO_EXECUTE: u64 = bit(63);
const ADDRESS: u64 = bits(51, 12);

/// The VMCB's control for nested paging (offset 090h): `NP_ENABLE`. The host runs with `EFER.NXE`, and with `CR4.LA57` for
/// five levels.
pub const NESTED_CONTROL: u64 = bit(0);

/// x86 NPT with `LEVELS` levels; `AD` if the processor's accessed and dirty flags are used. Everything that is present can
/// be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct NestedPageTables<const LEVELS: u8, const AD: bool = false>(());

/// Four levels, 48 bits of guest physical address.
pub type Npt = NestedPageTables<4>;
/// Five levels, 57 bits of guest physical address.
pub type Npt5 = NestedPageTables<5>;
/// [`Npt`] with the processor's accessed and dirty flags.
pub type NptAd = NestedPageTables<4, true>;
/// [`Npt5`] with the processor's accessed and dirty flags.
pub type Npt5Ad = NestedPageTables<5, true>;

impl<const LEVELS: u8, const AD: bool> NestedPageTables<LEVELS, AD> {
    /// What a leaf has from the start where nobody asks for it.
    const UNUSED: u64 = when(!AD, union([ACCESSED, DIRTY]));
    /// What says that a leaf is accessed.
    const USED: u64 = if AD { ACCESSED } else { PRESENT };
    const WRITTEN: u64 = if AD { DIRTY } else { 0 };

    /// The format; it has no choices.
    pub const fn new() -> Self {
        Self(())
    }

    /// The value of the VMCB's `N_CR3` (offset 0B0h) for the tables at `root`.
    pub const fn nested_cr3(self, root: Hpa) -> u64 {
        root.get() & ADDRESS
    }
}

impl<const LEVELS: u8, const AD: bool> Format for NestedPageTables<LEVELS, AD> {
    const NAME: &'static str = match (LEVELS, AD) {
        (4, false) => "npt",
        (4, true) => "npt-ad",
        (5, false) => "npt-5",
        (5, true) => "npt-5-ad",
        _ => panic!("NPT has four or five levels"),
    };
    const TRUST: Trust<Self> = Trust::OURS;
    const LOCKED: u64 = bit(3);
    const FROZEN: u64 = bit(4);
    /// Entries that are not present: all other bits are software's.
    const ANNOTATION: AnnotationField = AnnotationField { shift: 12, bits: 40, mark: bit(6) };
    const KEPT: u64 = KEPT;

    #[inline(always)]
    fn geometry(&self) -> Geometry {
        Geometry::new(12, 9, Level::new(LEVELS - 1), 9, Level::new(2), 30)
    }

    #[inline(always)]
    fn output_bits(&self) -> u32 {
        52
    }

    #[inline(always)]
    fn kind(&self, raw: u64, _level: Level) -> Kind {
        match raw {
            _ if raw & SOFTWARE_LEAF != 0 => Kind::Leaf,
            _ if raw & PRESENT != 0 => Kind::Table,
            Self::LOCKED => Kind::Locked,
            Self::FROZEN => Kind::Frozen,
            _ => Kind::Empty,
        }
    }

    #[inline(always)]
    fn is_table(&self, raw: u64, _level: Level) -> bool {
        raw & PRESENT != 0 && raw & SOFTWARE_LEAF == 0
    }

    #[inline(always)]
    fn table(&self, table: Hpa, _level: Level) -> u64 {
        union([table.get() & ADDRESS, PRESENT, WRITE, USER, ACCESSED])
    }

    #[inline(always)]
    fn table_address(&self, raw: u64, _level: Level) -> Hpa {
        Hpa::new(raw & ADDRESS)
    }

    #[inline(always)]
    fn leaf(&self, leaf: Leaf, level: Level) -> u64 {
        let (read, write, execute) = (leaf.permissions.read(), leaf.permissions.write(), leaf.permissions.execute());
        let memory = match leaf.memory {
            MemoryType::Normal => 0,
            MemoryType::NonCacheable => PCD,
            MemoryType::Device => MEMORY,
        };
        union([
            leaf.hpa.get() & ADDRESS,
            SOFTWARE_LEAF,
            USER,
            Self::UNUSED,
            memory,
            when(level > Level::PAGE, LARGE),
            when(read, READABLE),
            when(read && (AD || leaf.accessed), PRESENT),
            when(AD && leaf.accessed, ACCESSED),
            when(read && write, WRITE),
            when(read && leaf.may_write, MAY_WRITE),
            when(!(read && execute && leaf.memory == MemoryType::Normal), NO_EXECUTE),
        ])
    }

    #[inline(always)]
    fn decode(&self, raw: u64, level: Level) -> Leaf {
        let memory = match raw & MEMORY {
            0 => MemoryType::Normal,
            PCD => MemoryType::NonCacheable,
            _ => MemoryType::Device,
        };
        Leaf {
            hpa: Hpa::new(raw & ADDRESS).align_down(self.geometry().size(level)),
            permissions: Permissions::new(raw & READABLE != 0, raw & WRITE != 0, raw & NO_EXECUTE == 0),
            may_write: raw & MAY_WRITE != 0,
            memory,
            accessed: raw & Self::USED != 0,
        }
    }

    #[inline(always)]
    fn permits(&self, raw: u64, _level: Level, access: Access) -> bool {
        const LEAF: u64 = union([PRESENT, SOFTWARE_LEAF]);
        let (mask, wanted) = match access {
            Access::Read => (0, 0),
            Access::Write => (WRITE, WRITE),
            Access::Execute => (NO_EXECUTE, 0),
        };
        raw & union([LEAF, mask]) == union([LEAF, wanted])
    }

    #[inline(always)]
    fn is_writable(&self, raw: u64, _level: Level) -> bool {
        has(raw, [WRITE, SOFTWARE_LEAF])
    }

    #[inline(always)]
    fn may_write(&self, raw: u64, _level: Level) -> bool {
        raw & MAY_WRITE != 0
    }

    #[inline(always)]
    fn made_writable(&self, raw: u64, level: Level) -> u64 {
        self.made_accessed(raw, level) | union([WRITE, Self::WRITTEN])
    }

    #[inline(always)]
    fn made_accessed(&self, raw: u64, _level: Level) -> u64 {
        raw | when(raw & READABLE != 0 || AD, Self::USED)
    }

    #[inline(always)]
    fn made_old(&self, raw: u64, _level: Level) -> u64 {
        raw & !Self::USED
    }

    #[inline(always)]
    fn hardware_accessed(&self) -> bool {
        AD
    }

    #[inline(always)]
    fn hardware_dirty(&self) -> bool {
        AD
    }

    #[inline(always)]
    fn is_dirty(&self, raw: u64, _level: Level) -> bool {
        AD && has(raw, [DIRTY, SOFTWARE_LEAF])
    }

    #[inline(always)]
    fn made_clean(&self, raw: u64, _level: Level) -> u64 {
        raw & !Self::WRITTEN
    }

    #[inline(always)]
    fn write_protected(&self, raw: u64, _level: Level) -> u64 {
        raw & !WRITE
    }

    #[inline(always)]
    fn write_revoked(&self, raw: u64, _level: Level) -> u64 {
        raw & !WRITE & !MAY_WRITE
    }

    /// The processor may keep what an entry said until its TLB is flushed (15.16), two sizes for one address among it: an
    /// address, a memory type or a table changes through an invalid entry, permissions and software's bits in place.
    #[inline]
    fn change(&self, old: u64, new: u64, _level: Level) -> Change {
        const PERMISSIVE: u64 = union([PRESENT, WRITE, ACCESSED, DIRTY]);
        let narrowed = union([old & !new & PERMISSIVE, new & !old & NO_EXECUTE]);
        match (old ^ new) & !PERMISSIVE & !NO_EXECUTE & !MAY_WRITE {
            0 if narrowed == 0 => Change::Free,
            0 => Change::Flush,
            _ => Change::Break,
        }
    }
}

// Fields do not overlap.
const _: () = {
    let fields = [
        PRESENT,
        WRITE,
        USER,
        MEMORY,
        ACCESSED,
        DIRTY,
        LARGE,
        SOFTWARE_LEAF,
        KEPT,
        MAY_WRITE,
        READABLE,
        NO_EXECUTE,
        ADDRESS,
    ];
    assert!(disjoint(&fields));
};

// The invalid states are not present, are distinct, and are no leaves that may be written.
const _: () = {
    let states = [Npt::LOCKED, Npt::FROZEN, Npt::ANNOTATION.mark, Npt::ANNOTATION.mask()];
    assert!(disjoint(&states) && disjoint(&[PRESENT, SOFTWARE_LEAF, MAY_WRITE, union(states)]));
};
