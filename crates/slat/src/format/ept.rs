//! x86 extended page tables (EPT): four levels, 4 KiB pages, blocks of 2 MiB and 1 GiB, without accessed and dirty flags.
//!
//! Source: Intel 64 and IA-32 Architectures Software Developer's Manual, volume 3C, "EPT translation mechanism" (tables of
//! the formats of EPT entries), "EPT misconfigurations", "EPT and memory typing".
//!
//! With bit 6 of the EPTP clear, the processor keeps no accessed flag and ignores bits 8 and 9. A leaf that is not
//! accessed is one without any permission, invalid to the processor, which remembers its permissions in bits that the
//! processor ignores.

use super::{Change, Format, Geometry, Kind, Leaf};
use crate::addr::{Hpa, Level};
use crate::host::{Access, MemoryType, Permissions, Trust};

const READ: u64 = 1 << 0;
const WRITE: u64 = 1 << 1;
const EXECUTE: u64 = 1 << 2;
const PERMISSIONS: u64 = READ | WRITE | EXECUTE;
const MEMORY_SHIFT: u32 = 3;
const MEMORY: u64 = 0b111 << MEMORY_SHIFT;
/// The guest's PAT does not weaken the memory type.
const IGNORE_PAT: u64 = 1 << 6;
/// Bit 7 of an entry above the page level: it maps memory. Ignored at the page level, where it is set, too.
const LARGE: u64 = 1 << 7;
/// Bits 11, 56:52, 59 and 62 are ignored in every entry; so are 8, 9 and 10 as the EPTP and the controls are set here.
const SOFTWARE_LEAF: u64 = 1 << 8;
const KEPT: u64 = 1 << 9;
const MAY_WRITE: u64 = 1 << 11;
const REMEMBERED_SHIFT: u32 = 52;
const REMEMBERED: u64 = PERMISSIONS << REMEMBERED_SHIFT;
/// Not accessed: the permissions lie in the remembered bits.
const OLD: u64 = 1 << 55;
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

const WRITE_COMBINING: u64 = 1;
const UNCACHEABLE: u64 = 0;
const WRITE_BACK: u64 = 6;

/// Entries without permissions: all other bits are ignored.
const ANNOTATED: u64 = 1 << 5;
const ANNOTATION_SHIFT: u32 = 12;
const ANNOTATION: u64 = ADDRESS;

/// x86 EPT with four levels and 48 bits of guest physical address.
///
/// The EPTP that goes with it has memory type 6, walk length 4 (bits 5:3 = 3) and bit 6 clear. Execution without reading
/// is not granted, since not every processor can express it, nor is writing without reading, which none can.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Ept(());

impl Ept {
    /// Four levels.
    pub const fn new() -> Self {
        Self(())
    }
}

impl Format for Ept {
    const NAME: &'static str = "ept";
    const TRUST: Trust<Self> = Trust::OURS;
    const LOCKED: u64 = 1 << 3;
    const FROZEN: u64 = 1 << 4;
    const ANNOTATION_BITS: u32 = 40;

    #[inline(always)]
    fn geometry(&self) -> Geometry {
        Geometry::new(12, 9, Level::new(3), 9, Level::new(2), 30)
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
        raw & (READ | SOFTWARE_LEAF) == READ
    }

    #[inline(always)]
    fn annotation(&self, annotation: u64) -> u64 {
        (annotation << ANNOTATION_SHIFT) & ANNOTATION | ANNOTATED
    }

    #[inline(always)]
    fn annotated(&self, raw: u64) -> u64 {
        (raw & ANNOTATION) >> ANNOTATION_SHIFT
    }

    #[inline(always)]
    fn kept(&self, raw: u64, _level: Level) -> u64 {
        raw | KEPT
    }

    #[inline(always)]
    fn is_kept(&self, raw: u64, _level: Level) -> bool {
        raw & KEPT != 0
    }

    #[inline(always)]
    fn table(&self, table: Hpa, _level: Level) -> u64 {
        (table.get() & ADDRESS) | PERMISSIONS
    }

    #[inline(always)]
    fn table_address(&self, raw: u64, _level: Level) -> Hpa {
        Hpa::new(raw & ADDRESS)
    }

    #[inline(always)]
    fn leaf(&self, leaf: Leaf, _level: Level) -> u64 {
        let bit = |on: bool, bit: u64| if on { bit } else { 0 };
        let (read, write, execute) = (leaf.permissions.read(), leaf.permissions.write(), leaf.permissions.execute());
        let memory = match leaf.memory {
            MemoryType::Normal => WRITE_BACK,
            MemoryType::NonCacheable => WRITE_COMBINING,
            MemoryType::Device => UNCACHEABLE,
        };
        let permissions = bit(read, READ)
            | bit(read && write, WRITE)
            | bit(read && execute && leaf.memory == MemoryType::Normal, EXECUTE);
        let may_write = bit(read && leaf.may_write, MAY_WRITE);
        let permissions = if leaf.accessed { permissions } else { permissions << REMEMBERED_SHIFT | OLD };
        let attributes = SOFTWARE_LEAF | LARGE | IGNORE_PAT | memory << MEMORY_SHIFT | may_write;
        (leaf.hpa.get() & ADDRESS) | attributes | permissions
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
            accessed: raw & OLD == 0,
        }
    }

    #[inline(always)]
    fn permits(&self, raw: u64, _level: Level, access: Access) -> bool {
        let wanted = match access {
            Access::Read => READ,
            Access::Write => WRITE,
            Access::Execute => EXECUTE,
        };
        raw & (wanted | SOFTWARE_LEAF) == wanted | SOFTWARE_LEAF
    }

    #[inline(always)]
    fn is_writable(&self, raw: u64, _level: Level) -> bool {
        raw & (WRITE | SOFTWARE_LEAF) == WRITE | SOFTWARE_LEAF
    }

    #[inline(always)]
    fn may_write(&self, raw: u64, _level: Level) -> bool {
        raw & MAY_WRITE != 0
    }

    #[inline(always)]
    fn made_writable(&self, raw: u64, level: Level) -> u64 {
        self.made_accessed(raw, level) | WRITE
    }

    #[inline(always)]
    fn made_accessed(&self, raw: u64, _level: Level) -> u64 {
        raw & !(REMEMBERED | OLD) | (raw & REMEMBERED) >> REMEMBERED_SHIFT
    }

    #[inline(always)]
    fn made_old(&self, raw: u64, _level: Level) -> u64 {
        raw & !PERMISSIONS | (raw & PERMISSIONS) << REMEMBERED_SHIFT | OLD
    }

    #[inline(always)]
    fn write_protected(&self, raw: u64, _level: Level) -> u64 {
        raw & !(WRITE | WRITE << REMEMBERED_SHIFT)
    }

    #[inline(always)]
    fn write_revoked(&self, raw: u64, _level: Level) -> u64 {
        raw & !(WRITE | WRITE << REMEMBERED_SHIFT | MAY_WRITE)
    }

    /// The processor may keep what an entry said until it is told (SDM 3C, "Invalidating cached translation
    /// information"), two sizes for one address among it: an address, a memory type or a table changes through an
    /// invalid entry, permissions and what the processor ignores in place.
    #[inline]
    fn change(&self, old: u64, new: u64, _level: Level) -> Change {
        const IN_PLACE: u64 = PERMISSIONS | REMEMBERED | OLD | MAY_WRITE;
        match (old ^ new) & !IN_PLACE {
            0 if old & !new & PERMISSIONS == 0 => Change::Free,
            0 => Change::Flush,
            _ => Change::Break,
        }
    }
}

// Fields do not overlap.
const _: () = {
    let fields = [PERMISSIONS, MEMORY, IGNORE_PAT, LARGE, SOFTWARE_LEAF, KEPT, MAY_WRITE, REMEMBERED, OLD, ADDRESS];
    let (mut seen, mut i) = (0u64, 0);
    while i < fields.len() {
        assert!(seen & fields[i] == 0);
        seen |= fields[i];
        i += 1;
    }
};

// The invalid states have no permission, are distinct, and are no leaves that may be written.
const _: () = {
    let states = [Ept::LOCKED, Ept::FROZEN, ANNOTATED];
    let mut i = 0;
    while i < states.len() {
        assert!(states[i] & (PERMISSIONS | SOFTWARE_LEAF | MAY_WRITE) == 0);
        assert!(states[i] != 0 && states[i] != states[(i + 1) % 3]);
        i += 1;
    }
    assert!(ANNOTATION & (PERMISSIONS | SOFTWARE_LEAF | MAY_WRITE | ANNOTATED) == 0);
    assert!(ANNOTATION >> ANNOTATION_SHIFT == (1 << Ept::ANNOTATION_BITS) - 1);
};
