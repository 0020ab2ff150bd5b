//! RISC-V G-stage: Sv39x4, Sv48x4 and Sv57x4, with pages of 4 KiB, blocks of 2 MiB and 1 GiB, and a root of 2,048 entries.
//!
//! Source: The RISC-V Instruction Set Manual, volume II: "Guest Physical Address Translation" and "Hypervisor Guest Address
//! Translation and Protection Register" in the chapter on the H extension; "Addressing and Memory Protection" of Sv32,
//! Sv39, Sv48 and Sv57; Svade; Svpbmt.
//!
//! Where software manages the accessed and dirty flags (Svade), a leaf that may be written is dirty from the start, so that
//! no hart has anything to set, and one that is not accessed faults; a hart that sets the flag itself does no harm. Where
//! harts do (Svadu, turned on by `menvcfg.ADUE`), leaves start clean.
//!
//! Memory that is not normal has its type in the entry (Svpbmt, turned on by `menvcfg.PBMTE`). Without Svpbmt those bits
//! are reserved, and physical memory attributes decide: such an embedder calls all memory normal.
//!
//! Where sixteen neighbouring pages may be one translation (Svnapot), each member of such a group has N set, and 0b1000 in the
//! low bits of the frame number that all of them share.
//!
//! *Fences.* HFENCE.GVMA with an address in `rs1` orders leaf entries only. For [`Flush::Tables`](crate::host::Flush::Tables)
//! `rs1` has to be `x0`, which drops the cached walks of the VMID in `rs2`, too. Each hart fences itself: remote harts are
//! asked through the SBI. An implementation without Svvptc may have cached that an entry was invalid: the fault that finds
//! it valid is spurious, and [`Tlb::flush_local`](crate::host::Tlb::flush_local) ends it.

use super::fields::{bit, bits, disjoint, has, union, when};
use super::{AnnotationField, Change, Format, Geometry, Kind, Leaf};
use crate::addr::{Hpa, Level};
use crate::host::{Access, MemoryType, Permissions, Trust};

const VALID: u64 = bit(0);
const READ: u64 = bit(1);
const WRITE: u64 = bit(2);
const EXECUTE: u64 = bit(3);
/// All of a guest's accesses count as the user's: leaves have the bit, tables must not have it. It marks leaves for
/// software, too, also those that the hardware takes for invalid because they allow nothing.
const USER: u64 = bit(4);
const ACCESSED: u64 = bit(6);
const DIRTY: u64 = bit(7);
/// Bits 9:8 are software's.
const MAY_WRITE: u64 = bit(8);
const KEPT: u64 = bit(9);
const FRAME_SHIFT: u32 = 10;
const FRAME: u64 = bits(53, 10);
const MEMORY_SHIFT: u32 = 61;
const MEMORY: u64 = bits(62, 61);

/// Svnapot's N: the page is one of 2^4 that are one translation; the frame number's low bits say so, too.
const NAPOT: u64 = bit(63);
const NAPOT_BITS: u32 = 4;
const NAPOT_LOW: u64 = bits(13, 10);
const NAPOT_64K: u64 = bit(13);

const ATTRIBUTED: u64 = 0;
const NON_CACHEABLE: u64 = 1;
const IO: u64 = 2;

/// The G-stage with `LEVELS` levels; `ADU` if harts set accessed and dirty flags (Svadu), `GROUPS` if
/// pages come in groups of 64 KiB where they can (Svnapot).
///
/// A leaf that cannot be read is not written either, since the combination is reserved.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct GStage<const LEVELS: u8, const ADU: bool = false, const GROUPS: bool = false>(());

/// Three levels, 41 bits of guest physical address.
pub type Sv39x4 = GStage<3>;
/// Four levels, 50 bits of guest physical address.
pub type Sv48x4 = GStage<4>;
/// Five levels, 59 bits of guest physical address.
pub type Sv57x4 = GStage<5>;
/// [`Sv39x4`] with Svadu.
pub type Sv39x4Adu = GStage<3, true>;
/// [`Sv48x4`] with Svadu.
pub type Sv48x4Adu = GStage<4, true>;
/// [`Sv57x4`] with Svadu.
pub type Sv57x4Adu = GStage<5, true>;
/// [`Sv48x4`] with Svnapot.
pub type Sv48x4Napot = GStage<4, false, true>;

impl<const LEVELS: u8, const ADU: bool, const GROUPS: bool> GStage<LEVELS, ADU, GROUPS> {
    /// What goes with write permission where no hart notes its writes.
    const WRITABLE: u64 = if ADU { WRITE } else { union([WRITE, DIRTY]) };

    /// The format; it has no choices.
    pub const fn new() -> Self {
        Self(())
    }

    /// The value of `hgatp` for the tables at `root`, of which only 14 bits of `vmid` count: MODE 8, 9 or 10 in bits
    /// 63:60, VMID in 57:44, the root's frame number in 43:0.
    pub const fn hgatp(self, root: Hpa, vmid: u16) -> u64 {
        union([(LEVELS as u64 + 5) << 60, (vmid as u64 & 0x3fff) << 44, root.get() >> 12])
    }
}

impl<const LEVELS: u8, const ADU: bool, const GROUPS: bool> Format for GStage<LEVELS, ADU, GROUPS> {
    const NAME: &'static str = match (LEVELS, ADU, GROUPS) {
        (3, false, false) => "sv39x4",
        (3, false, true) => "sv39x4-svnapot",
        (3, true, false) => "sv39x4-svadu",
        (3, true, true) => "sv39x4-svadu-svnapot",
        (4, false, false) => "sv48x4",
        (4, false, true) => "sv48x4-svnapot",
        (4, true, false) => "sv48x4-svadu",
        (4, true, true) => "sv48x4-svadu-svnapot",
        (5, false, false) => "sv57x4",
        (5, false, true) => "sv57x4-svnapot",
        (5, true, false) => "sv57x4-svadu",
        (5, true, true) => "sv57x4-svadu-svnapot",
        _ => panic!("the G-stage has three to five levels"),
    };
    const TRUST: Trust<Self> = Trust::OURS;
    const LOCKED: u64 = bit(5);
    const FROZEN: u64 = bit(6);
    /// Entries whose bit 0 is clear: all other bits are software's.
    const ANNOTATION: AnnotationField = AnnotationField { shift: FRAME_SHIFT, bits: 44, mark: bit(7) };
    const KEPT: u64 = KEPT;

    #[inline(always)]
    fn geometry(&self) -> Geometry {
        Geometry::new(12, 9, Level::new(LEVELS - 1), 11, Level::new(2), 30)
    }

    #[inline(always)]
    fn output_bits(&self) -> u32 {
        56
    }

    #[inline(always)]
    fn kind(&self, raw: u64, _level: Level) -> Kind {
        match raw {
            _ if raw & USER != 0 => Kind::Leaf,
            _ if raw & VALID != 0 => Kind::Table,
            Self::LOCKED => Kind::Locked,
            Self::FROZEN => Kind::Frozen,
            _ => Kind::Empty,
        }
    }

    #[inline(always)]
    fn is_table(&self, raw: u64, _level: Level) -> bool {
        raw & VALID != 0 && raw & USER == 0
    }

    #[inline(always)]
    fn table(&self, table: Hpa, _level: Level) -> u64 {
        union([frame(table), VALID])
    }

    #[inline(always)]
    fn table_address(&self, raw: u64, _level: Level) -> Hpa {
        address(raw)
    }

    #[inline(always)]
    fn leaf(&self, leaf: Leaf, _level: Level) -> u64 {
        let (read, write, execute) = (leaf.permissions.read(), leaf.permissions.write(), leaf.permissions.execute());
        let execute = execute && leaf.memory == MemoryType::Normal;
        let memory = match leaf.memory {
            MemoryType::Normal => ATTRIBUTED,
            MemoryType::NonCacheable => NON_CACHEABLE,
            MemoryType::Device => IO,
        };
        union([
            frame(leaf.hpa),
            USER,
            when(read || execute, VALID),
            when(read, READ),
            when(read && write, Self::WRITABLE),
            when(execute, EXECUTE),
            when(leaf.accessed, ACCESSED),
            when(read && leaf.may_write, MAY_WRITE),
            memory << MEMORY_SHIFT,
        ])
    }

    #[inline(always)]
    fn decode(&self, raw: u64, level: Level) -> Leaf {
        let memory = match (raw & MEMORY) >> MEMORY_SHIFT {
            ATTRIBUTED => MemoryType::Normal,
            NON_CACHEABLE => MemoryType::NonCacheable,
            _ => MemoryType::Device,
        };
        Leaf {
            hpa: address(raw).align_down(self.geometry().size(level)),
            permissions: Permissions::new(raw & READ != 0, raw & WRITE != 0, raw & EXECUTE != 0),
            may_write: raw & MAY_WRITE != 0,
            memory,
            accessed: raw & ACCESSED != 0,
        }
    }

    #[inline(always)]
    fn permits(&self, raw: u64, _level: Level, access: Access) -> bool {
        let wanted = match access {
            Access::Read => READ,
            Access::Write => WRITE,
            Access::Execute => EXECUTE,
        };
        has(raw, [USER, when(!ADU, ACCESSED), wanted])
    }

    #[inline(always)]
    fn is_writable(&self, raw: u64, _level: Level) -> bool {
        has(raw, [USER, WRITE])
    }

    #[inline(always)]
    fn may_write(&self, raw: u64, _level: Level) -> bool {
        raw & MAY_WRITE != 0
    }

    #[inline(always)]
    fn made_writable(&self, raw: u64, _level: Level) -> u64 {
        raw | union([WRITE, DIRTY, ACCESSED])
    }

    #[inline(always)]
    fn made_accessed(&self, raw: u64, _level: Level) -> u64 {
        raw | ACCESSED
    }

    #[inline(always)]
    fn made_old(&self, raw: u64, _level: Level) -> u64 {
        raw & !ACCESSED
    }

    #[inline(always)]
    fn write_protected(&self, raw: u64, _level: Level) -> u64 {
        raw & !Self::WRITABLE
    }

    #[inline(always)]
    fn write_revoked(&self, raw: u64, _level: Level) -> u64 {
        raw & !Self::WRITABLE & !MAY_WRITE
    }

    #[inline(always)]
    fn group_bits(&self, level: Level) -> u32 {
        if GROUPS && level == Level::PAGE { NAPOT_BITS } else { 0 }
    }

    #[inline(always)]
    fn is_grouped(&self, raw: u64, _level: Level) -> bool {
        GROUPS && has(raw, [NAPOT, USER])
    }

    #[inline(always)]
    fn grouped(&self, raw: u64, _level: Level) -> u64 {
        raw & !NAPOT_LOW | union([NAPOT_64K, NAPOT])
    }

    #[inline(always)]
    fn ungrouped(&self, raw: u64, _level: Level, member: usize) -> u64 {
        union([raw & !NAPOT_LOW & !NAPOT, (member as u64) << FRAME_SHIFT])
    }

    #[inline(always)]
    fn hardware_accessed(&self) -> bool {
        ADU
    }

    #[inline(always)]
    fn hardware_dirty(&self) -> bool {
        ADU
    }

    #[inline(always)]
    fn is_dirty(&self, raw: u64, _level: Level) -> bool {
        ADU && has(raw, [DIRTY, USER])
    }

    #[inline(always)]
    fn made_clean(&self, raw: u64, _level: Level) -> u64 {
        if ADU { raw & !DIRTY } else { raw }
    }

    /// Until a fence orders it, a hart may use what an entry said before ("Supervisor Memory-Management Fence
    /// Instruction"), and hold two sizes for one address: an address, a memory type or a table changes through an invalid
    /// entry, permissions and flags in place.
    #[inline]
    fn change(&self, old: u64, new: u64, _level: Level) -> Change {
        const CACHED: u64 = union([READ, WRITE, EXECUTE, ACCESSED, DIRTY]);
        match (old ^ new) & !CACHED & !MAY_WRITE {
            0 if old & !new & CACHED == 0 => Change::Free,
            0 => Change::Flush,
            _ => Change::Break,
        }
    }
}

#[inline(always)]
const fn frame(hpa: Hpa) -> u64 {
    (hpa.get() >> 12 << FRAME_SHIFT) & FRAME
}

#[inline(always)]
const fn address(raw: u64) -> Hpa {
    Hpa::new((raw & FRAME) >> FRAME_SHIFT << 12)
}

// Fields do not overlap, and bits 5 (global) and 60:54 stay clear.
const _: () = {
    let fields = [VALID, READ, WRITE, EXECUTE, USER, ACCESSED, DIRTY, MAY_WRITE, KEPT, FRAME, MEMORY, NAPOT];
    assert!(disjoint(&fields) && union(fields) == !union([bit(5), bits(60, 54)]));
};

// The invalid states are invalid to the hardware, are no leaves, and are distinct.
const _: () = {
    let states = [Sv39x4::LOCKED, Sv39x4::FROZEN, Sv39x4::ANNOTATION.mark, FRAME];
    assert!(disjoint(&states) && disjoint(&[VALID, USER, MAY_WRITE, union(states)]));
};
