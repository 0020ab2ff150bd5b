//! x86 extended page tables (EPT): four or five levels, 4 KiB pages, blocks of 2 MiB and 1 GiB, with accessed and dirty
//! flags and without.
//!
//! Source: Intel 64 and IA-32 Architectures Software Developer's Manual, volume 3C, "EPT translation mechanism" (tables of
//! the formats of EPT entries), "EPT misconfigurations", "EPT and memory typing", "Mode-based execute control for EPT",
//! "Convertible EPT violations", "Extended-page-table pointer (EPTP)".
//!
//! With bit 6 of the EPTP clear, the processor keeps no accessed flag and ignores bits 8 and 9. A leaf that is not
//! accessed is one without any permission, invalid to the processor, which remembers its permissions in bits that the
//! processor ignores. With bit 6 set, the processor sets bit 8 of each entry that it uses, tables among them, which have it
//! from the start, and bit 9 of a leaf that it writes through.
//!
//! Execution is allowed in both modes or in none, whether "mode-based execute control for EPT" is 1 or 0. Every entry that
//! was ever changed suppresses virtualization exceptions; the zero word cannot, so that the control "EPT-violation #VE"
//! has to be 0 where the guest must not learn of what was never mapped.

use super::fields::{bit, bits, disjoint, has, union, when};
use super::{AnnotationField, Change, Format, Geometry, Kind, Leaf};
use crate::addr::{Hpa, Level};
use crate::host::{Access, MemoryType, Permissions, Trust};

const READ: u64 = bit(0);
const WRITE: u64 = bit(1);
const EXECUTE: u64 = bit(2);
const PERMISSIONS: u64 = union([READ, WRITE, EXECUTE]);
/// Bit 10: execution in user mode under mode-based execute control, when bit 2 is that in supervisor mode; else ignored.
const EXECUTE_USER: u64 = bit(10);
const MEMORY_SHIFT: u32 = 3;
const MEMORY: u64 = bits(5, 3);
/// The guest's PAT does not weaken the memory type.
const IGNORE_PAT: u64 = bit(6);
/// Bit 7 of an entry above the page level: it maps memory. Ignored at the page level, where it is set, too.
const LARGE: u64 = bit(7);
/// Ignored by the processor, or set by it: see `AD` of [`ExtendedPageTables`].
const ACCESSED: u64 = bit(8);
const DIRTY: u64 = bit(9);
/// Bits 11, 56:52, 59 and 62 are ignored in every entry.
const SOFTWARE_LEAF: u64 = bit(11);
const MAY_WRITE: u64 = bit(56);
const KEPT: u64 = bit(59);
const REMEMBERED_SHIFT: u32 = 52;
const REMEMBERED: u64 = PERMISSIONS << REMEMBERED_SHIFT;
const REMEMBERED_WRITE: u64 = WRITE << REMEMBERED_SHIFT;
/// Not accessed: the permissions lie in the remembered bits.
const OLD: u64 = bit(55);
const ADDRESS: u64 = bits(51, 12);
/// A violation by this entry does not become a virtualization exception (#VE) of the guest's; ignored in tables.
const SUPPRESS_VE: u64 = bit(63);

const WRITE_COMBINING: u64 = 1;
const UNCACHEABLE: u64 = 0;
const WRITE_BACK: u64 = 6;

/// x86 EPT with `LEVELS` levels; `AD` if the processor keeps accessed and dirty flags (bit 6 of the EPTP).
///
/// Execution without reading is not granted, since not every processor can express it, nor is writing without reading,
/// which none can.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct ExtendedPageTables<const LEVELS: u8, const AD: bool = false>(());

/// Four levels, 48 bits of guest physical address.
pub type Ept = ExtendedPageTables<4>;
/// Five levels, 57 bits of guest physical address.
pub type Ept5 = ExtendedPageTables<5>;
/// [`Ept`] with accessed and dirty flags.
pub type EptAd = ExtendedPageTables<4, true>;
/// [`Ept5`] with accessed and dirty flags.
pub type Ept5Ad = ExtendedPageTables<5, true>;

impl<const LEVELS: u8, const AD: bool> ExtendedPageTables<LEVELS, AD> {
    /// The format; it has no choices.
    pub const fn new() -> Self {
        Self(())
    }

    /// What every entry has that the processor uses: it has nothing to set in a table's.
    const USED: u64 = if AD { ACCESSED } else { 0 };
    const WRITTEN: u64 = if AD { DIRTY } else { 0 };

    /// The EPTP for the tables at `root`: write-back (bits 2:0 = 6), the walk's length less one in bits 5:3, accessed and
    /// dirty flags in bit 6.
    pub const fn eptp(self, root: Hpa) -> u64 {
        union([root.get(), (AD as u64) << 6, (LEVELS as u64 - 1) << 3, WRITE_BACK])
    }
}

impl<const LEVELS: u8, const AD: bool> Format for ExtendedPageTables<LEVELS, AD> {
    const NAME: &'static str = match (LEVELS, AD) {
        (4, false) => "ept",
        (4, true) => "ept-ad",
        (5, false) => "ept-5",
        (5, true) => "ept-5-ad",
        _ => panic!("EPT has four or five levels"),
    };
    const TRUST: Trust<Self> = Trust::OURS;
    const LOCKED: u64 = union([SUPPRESS_VE, bit(3)]);
    const FROZEN: u64 = union([SUPPRESS_VE, bit(4)]);
    /// Entries without permissions: all other bits are ignored, but for the suppression of #VE.
    const ANNOTATION: AnnotationField = AnnotationField { shift: 12, bits: 40, mark: union([SUPPRESS_VE, bit(5)]) };
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
        if raw & SOFTWARE_LEAF != 0 {
            return Kind::Leaf;
        }
        match raw {
            _ if raw & READ != 0 => Kind::Table,
            Self::LOCKED => Kind::Locked,
            Self::FROZEN => Kind::Frozen,
            _ => Kind::Empty,
        }
    }

    /// Of the words that may be read, leaves alone are marked.
    #[inline(always)]
    fn is_table(&self, raw: u64, _level: Level) -> bool {
        raw & READ != 0 && raw & SOFTWARE_LEAF == 0
    }

    #[inline(always)]
    fn table(&self, table: Hpa, _level: Level) -> u64 {
        union([table.get() & ADDRESS, PERMISSIONS, EXECUTE_USER, Self::USED])
    }

    #[inline(always)]
    fn table_address(&self, raw: u64, _level: Level) -> Hpa {
        Hpa::new(raw & ADDRESS)
    }

    #[inline(always)]
    fn leaf(&self, leaf: Leaf, _level: Level) -> u64 {
        let (read, write, execute) = (leaf.permissions.read(), leaf.permissions.write(), leaf.permissions.execute());
        let memory = match leaf.memory {
            MemoryType::Normal => WRITE_BACK,
            MemoryType::NonCacheable => WRITE_COMBINING,
            MemoryType::Device => UNCACHEABLE,
        };
        let execute = execute && leaf.memory == MemoryType::Normal;
        let permissions = when(read, union([READ, when(write, WRITE), when(execute, EXECUTE)]));
        let permissions = match leaf.accessed {
            true => union([executable(permissions), Self::USED]),
            false if AD => executable(permissions),
            false => union([permissions << REMEMBERED_SHIFT, OLD]),
        };
        union([
            leaf.hpa.get() & ADDRESS,
            permissions,
            memory << MEMORY_SHIFT,
            IGNORE_PAT,
            LARGE,
            SOFTWARE_LEAF,
            when(read && leaf.may_write, MAY_WRITE),
            SUPPRESS_VE,
        ])
    }

    #[inline(always)]
    fn decode(&self, raw: u64, level: Level) -> Leaf {
        let permissions = raw & PERMISSIONS | (raw & REMEMBERED) >> REMEMBERED_SHIFT;
        let memory = match (raw & MEMORY) >> MEMORY_SHIFT {
            WRITE_BACK => MemoryType::Normal,
            WRITE_COMBINING => MemoryType::NonCacheable,
            _ => MemoryType::Device,
        };
        Leaf {
            hpa: Hpa::new(raw & ADDRESS).align_down(self.geometry().size(level)),
            permissions: Permissions::new(
                permissions & READ != 0,
                permissions & WRITE != 0,
                permissions & EXECUTE != 0,
            ),
            may_write: raw & MAY_WRITE != 0,
            memory,
            accessed: if AD { raw & ACCESSED != 0 } else { raw & OLD == 0 },
        }
    }

    #[inline(always)]
    fn permits(&self, raw: u64, _level: Level, access: Access) -> bool {
        let wanted = match access {
            Access::Read => READ,
            Access::Write => WRITE,
            Access::Execute => EXECUTE,
        };
        has(raw, [wanted, SOFTWARE_LEAF])
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
        raw & !REMEMBERED & !OLD | union([executable((raw & REMEMBERED) >> REMEMBERED_SHIFT), Self::USED])
    }

    #[inline(always)]
    fn made_old(&self, raw: u64, _level: Level) -> u64 {
        if AD {
            return raw & !ACCESSED;
        }
        raw & !PERMISSIONS & !EXECUTE_USER | union([(raw & PERMISSIONS) << REMEMBERED_SHIFT, OLD])
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
        raw & !WRITE & !REMEMBERED_WRITE
    }

    #[inline(always)]
    fn write_revoked(&self, raw: u64, _level: Level) -> u64 {
        raw & !WRITE & !REMEMBERED_WRITE & !MAY_WRITE
    }

    /// The processor may keep what an entry said until it is told (SDM 3C, "Invalidating cached translation
    /// information"), two sizes for one address among it: an address, a memory type or a table changes through an
    /// invalid entry, permissions and what the processor ignores in place.
    #[inline]
    fn change(&self, old: u64, new: u64, _level: Level) -> Change {
        const CACHED: u64 = union([PERMISSIONS, ACCESSED, DIRTY]);
        const IN_PLACE: u64 = union([CACHED, EXECUTE_USER, REMEMBERED, OLD, MAY_WRITE]);
        match (old ^ new) & !IN_PLACE {
            0 if old & !new & CACHED == 0 => Change::Free,
            0 => Change::Flush,
            _ => Change::Break,
        }
    }
}

/// Bits 2:0 with bit 10 beside bit 2.
#[inline(always)]
const fn executable(permissions: u64) -> u64 {
    union([permissions, (permissions & EXECUTE) * (EXECUTE_USER / EXECUTE)])
}

// Fields do not overlap.
const _: () = {
    let fields = [
        PERMISSIONS,
        EXECUTE_USER,
        MEMORY,
        IGNORE_PAT,
        LARGE,
        ACCESSED,
        DIRTY,
        SOFTWARE_LEAF,
        KEPT,
        MAY_WRITE,
        REMEMBERED,
        OLD,
        ADDRESS,
        SUPPRESS_VE,
    ];
    assert!(disjoint(&fields));
};

// The invalid states have no permission, are distinct, and are no leaves that may be written.
const _: () = assert!(disjoint(&[
    PERMISSIONS,
    EXECUTE_USER,
    SOFTWARE_LEAF,
    MAY_WRITE,
    SUPPRESS_VE,
    Ept::LOCKED ^ SUPPRESS_VE,
    Ept::FROZEN ^ SUPPRESS_VE,
    Ept::ANNOTATION.mark ^ SUPPRESS_VE,
    Ept::ANNOTATION.mask(),
]));
