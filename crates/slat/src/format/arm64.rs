//! arm64 stage 2 with the 4 KiB granule: VMSAv8-64 descriptors without FEAT_S2FWB and without FEAT_LPA2.
//!
//! Sources: Arm Architecture Reference Manual (DDI 0487), D8.3 (descriptor formats), D8.4 (stage 2 permissions),
//! D8.5 (access flag), D8.6 (stage 2 memory attributes), D8.2 (initial lookup level, concatenated tables), D8.7.1 (the
//! Contiguous bit).

use core::fmt;

use super::{Change, Format, Geometry, Kind, Leaf};
use crate::addr::{Hpa, Level};
use crate::host::{Access, MemoryType, Permissions, Trust};

const VALID: u64 = 1 << 0;
/// Bit 1 of a valid descriptor: a table above the page level, a page at it; clear for a block.
const TABLE_OR_PAGE: u64 = 1 << 1;
const MEM_ATTR_SHIFT: u32 = 2;
const S2AP_READ: u64 = 1 << 6;
const S2AP_WRITE: u64 = 1 << 7;
const SH_INNER: u64 = 0b11 << 8;
const ACCESS_FLAG: u64 = 1 << 10;
/// In a leaf: one of 16 aligned neighbours that hardware may cache as one (D8.7.1). Permissions and the access flag may
/// differ among them meanwhile, the rest may not.
const CONTIGUOUS_HINT: u64 = 1 << 52;
const CONTIGUOUS_BITS: u32 = 4;
const EXECUTE_NEVER: u64 = 1 << 54;
/// Bits 58:55 are reserved for software in leaf descriptors, and ignored in table descriptors.
const MAY_WRITE: u64 = 1 << 55;
const KEPT: u64 = 1 << 56;
const ADDRESS: u64 = 0x0000_ffff_ffff_f000;
/// Invalid descriptors: bits 63:1 are ignored (D8.3.1).
const ANNOTATED: u64 = 1 << 4;
const ANNOTATION_SHIFT: u32 = 12;
const ANNOTATION: u64 = 0x003f_ffff_ffff_f000;

const MEM_ATTR_NORMAL: u64 = 0b1111;
const MEM_ATTR_NON_CACHEABLE: u64 = 0b0101;
const MEM_ATTR_DEVICE: u64 = 0b0001;
const MEM_ATTR: u64 = 0b1111 << MEM_ATTR_SHIFT;

/// arm64 stage 2, 4 KiB granule: 4 KiB pages, blocks of 2 MiB and 1 GiB, input addresses of 32 to 48 bits.
///
/// The initial lookup level and the concatenation of root tables follow from the address size, as few levels as
/// concatenating up to 16 tables permits (D8.2.2).
///
/// Contiguous groups, where asked for, are of 16 leaves: 64 KiB of pages, 32 MiB of blocks. They are a matter of the type,
/// so that who does without them does not pay for the question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arm64With<const CONTIGUOUS: bool> {
    root: Level,
    root_bits: u8,
}

/// arm64 stage 2, 4 KiB granule, every leaf by itself. See [`Arm64With`].
pub type Arm64 = Arm64With<false>;

/// arm64 stage 2, 4 KiB granule, with contiguous groups. See [`Arm64With`].
pub type Arm64Contiguous = Arm64With<true>;

/// Why an [`Arm64`] configuration is not possible.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arm64Error {
    /// The input address size has to be 32 to 48 bits.
    AddressBits(u32),
}

impl fmt::Display for Arm64Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AddressBits(bits) => write!(f, "arm64 stage 2 takes 32 to 48 bits of IPA, not {bits}"),
        }
    }
}

impl core::error::Error for Arm64Error {}

impl Arm64With<false> {
    /// Stage 2 for guest physical addresses of `address_bits` bits, 32 to 48.
    pub const fn new(address_bits: u32) -> Result<Self, Arm64Error> {
        if address_bits < 32 || address_bits > 48 {
            return Err(Arm64Error::AddressBits(address_bits));
        }
        // Concatenation resolves up to 4 bits more in the root than a table does.
        let levels = (address_bits - 4 - 12).div_ceil(9);
        let root = Level::new((levels - 1) as u8);
        let root_bits = (address_bits - 12 - 9 * (levels - 1)) as u8;
        Ok(Self { root, root_bits })
    }

    /// The same with contiguous groups. The hint is set and cleared by break-before-make, so any CPU will do (FEAT_BBM level
    /// 0).
    pub const fn with_contiguous(self) -> Arm64Contiguous {
        Arm64With { root: self.root, root_bits: self.root_bits }
    }
}

impl<const CONTIGUOUS: bool> Format for Arm64With<CONTIGUOUS> {
    const NAME: &'static str = if CONTIGUOUS { "arm64-4k-contiguous" } else { "arm64-4k" };
    const TRUST: Trust<Self> = Trust::OURS;
    const LOCKED: u64 = 1 << 2;
    const FROZEN: u64 = 1 << 3;
    const ANNOTATION_BITS: u32 = 42;

    /// Built here rather than kept, so that the compiler sees which of its parts are constant.
    #[inline(always)]
    fn geometry(&self) -> Geometry {
        let largest_leaf = if self.root.get() < 2 { self.root } else { Level::new(2) };
        Geometry::new(12, 9, self.root, self.root_bits, largest_leaf, 30)
    }

    #[inline(always)]
    fn output_bits(&self) -> u32 {
        48
    }

    #[inline(always)]
    fn kind(&self, raw: u64, level: Level) -> Kind {
        if raw & VALID != 0 {
            let table = raw & TABLE_OR_PAGE != 0 && level > Level::PAGE;
            return if table { Kind::Table } else { Kind::Leaf };
        }
        match raw {
            Self::LOCKED => Kind::Locked,
            Self::FROZEN => Kind::Frozen,
            _ => Kind::Empty,
        }
    }

    /// Bit 1 is clear in every invalid state.
    #[inline(always)]
    fn is_table(&self, raw: u64, level: Level) -> bool {
        raw & TABLE_OR_PAGE != 0 && level > Level::PAGE
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
        (table.get() & ADDRESS) | TABLE_OR_PAGE | VALID
    }

    #[inline(always)]
    fn table_address(&self, raw: u64, _level: Level) -> Hpa {
        Hpa::new(raw & ADDRESS)
    }

    #[inline(always)]
    fn leaf(&self, leaf: Leaf, level: Level) -> u64 {
        let bit = |on: bool, bit: u64| if on { bit } else { 0 };
        let permissions = leaf.permissions;
        let memory = match leaf.memory {
            MemoryType::Normal => MEM_ATTR_NORMAL,
            MemoryType::NonCacheable => MEM_ATTR_NON_CACHEABLE,
            MemoryType::Device => MEM_ATTR_DEVICE,
        };
        (leaf.hpa.get() & ADDRESS)
            | VALID
            | bit(level == Level::PAGE, TABLE_OR_PAGE)
            | memory << MEM_ATTR_SHIFT
            | bit(permissions.read(), S2AP_READ)
            | bit(permissions.write(), S2AP_WRITE)
            | bit(!permissions.execute() || leaf.memory != MemoryType::Normal, EXECUTE_NEVER)
            | bit(leaf.memory != MemoryType::Device, SH_INNER)
            | bit(leaf.accessed, ACCESS_FLAG)
            | bit(leaf.may_write, MAY_WRITE)
    }

    #[inline(always)]
    fn decode(&self, raw: u64, level: Level) -> Leaf {
        let memory = match (raw & MEM_ATTR) >> MEM_ATTR_SHIFT {
            MEM_ATTR_NORMAL => MemoryType::Normal,
            MEM_ATTR_NON_CACHEABLE => MemoryType::NonCacheable,
            _ => MemoryType::Device,
        };
        Leaf {
            hpa: Hpa::new(raw & ADDRESS).align_down(self.geometry().size(level)),
            permissions: Permissions::new(raw & S2AP_READ != 0, raw & S2AP_WRITE != 0, raw & EXECUTE_NEVER == 0),
            may_write: raw & MAY_WRITE != 0,
            memory,
            accessed: raw & ACCESS_FLAG != 0,
        }
    }

    #[inline(always)]
    fn permits(&self, raw: u64, _level: Level, access: Access) -> bool {
        let (mask, wanted) = match access {
            Access::Read => (S2AP_READ | ACCESS_FLAG, S2AP_READ | ACCESS_FLAG),
            Access::Write => (S2AP_WRITE | ACCESS_FLAG, S2AP_WRITE | ACCESS_FLAG),
            Access::Execute => (EXECUTE_NEVER | ACCESS_FLAG, ACCESS_FLAG),
        };
        raw & mask == wanted
    }

    #[inline(always)]
    fn is_writable(&self, raw: u64, _level: Level) -> bool {
        raw & S2AP_WRITE != 0
    }

    #[inline(always)]
    fn may_write(&self, raw: u64, _level: Level) -> bool {
        raw & MAY_WRITE != 0
    }

    #[inline(always)]
    fn made_writable(&self, raw: u64, _level: Level) -> u64 {
        raw | S2AP_WRITE | ACCESS_FLAG
    }

    #[inline(always)]
    fn made_accessed(&self, raw: u64, _level: Level) -> u64 {
        raw | ACCESS_FLAG
    }

    #[inline(always)]
    fn made_old(&self, raw: u64, _level: Level) -> u64 {
        raw & !ACCESS_FLAG
    }

    #[inline(always)]
    fn write_protected(&self, raw: u64, _level: Level) -> u64 {
        raw & !S2AP_WRITE
    }

    #[inline(always)]
    fn write_revoked(&self, raw: u64, _level: Level) -> u64 {
        raw & !(S2AP_WRITE | MAY_WRITE)
    }

    /// Pages and blocks of 2 MiB; of the largest blocks, one shard's region holds a single one.
    #[inline(always)]
    fn group_bits(&self, level: Level) -> u32 {
        if CONTIGUOUS && level < Level::new(2) && level < self.root { CONTIGUOUS_BITS } else { 0 }
    }

    #[inline(always)]
    fn is_grouped(&self, raw: u64, _level: Level) -> bool {
        CONTIGUOUS && raw & (CONTIGUOUS_HINT | VALID) == CONTIGUOUS_HINT | VALID
    }

    #[inline(always)]
    fn grouped(&self, raw: u64, _level: Level) -> u64 {
        raw | CONTIGUOUS_HINT
    }

    #[inline(always)]
    fn ungrouped(&self, raw: u64, _level: Level, _member: usize) -> u64 {
        raw & !CONTIGUOUS_HINT
    }

    /// D8.17.1: a change of output address, size, memory type, shareability or the Contiguous bit, or between table and
    /// block, needs break-before-make; permissions, the access flag and software bits do not.
    fn change(&self, old: u64, new: u64, _level: Level) -> Change {
        const PERMISSIVE: u64 = S2AP_READ | S2AP_WRITE | ACCESS_FLAG;
        const IN_PLACE: u64 = PERMISSIVE | EXECUTE_NEVER | MAY_WRITE;
        let narrowed = (old & !new & PERMISSIVE) | (new & !old & EXECUTE_NEVER);
        match (old ^ new) & !IN_PLACE {
            0 if narrowed == 0 => Change::Free,
            0 => Change::Flush,
            _ => Change::Break,
        }
    }
}

// The invalid states are invalid to the hardware, distinct, and keep bits 1:0 zero.
const _: () = {
    assert!(Arm64::LOCKED & (VALID | TABLE_OR_PAGE) == 0 && Arm64::FROZEN & (VALID | TABLE_OR_PAGE) == 0);
    assert!(Arm64::LOCKED != 0 && Arm64::FROZEN != 0 && Arm64::LOCKED != Arm64::FROZEN);
};

// What is asked of leaves alone is clear in an annotation, and an annotation is none of the other states.
const _: () = {
    assert!((ANNOTATION | ANNOTATED) & (VALID | TABLE_OR_PAGE | S2AP_READ | S2AP_WRITE | ACCESS_FLAG | MAY_WRITE) == 0);
    assert!(ANNOTATED & (Arm64::LOCKED | Arm64::FROZEN) == 0);
    assert!(ANNOTATION >> ANNOTATION_SHIFT == (1 << Arm64::ANNOTATION_BITS) - 1);
};

// Fields do not overlap.
const _: () = {
    let fields = [
        VALID,
        TABLE_OR_PAGE,
        MEM_ATTR,
        S2AP_READ,
        S2AP_WRITE,
        SH_INNER,
        ACCESS_FLAG,
        ADDRESS,
        CONTIGUOUS_HINT,
        EXECUTE_NEVER,
        MAY_WRITE,
        KEPT,
    ];
    let (mut seen, mut i) = (0u64, 0);
    while i < fields.len() {
        assert!(seen & fields[i] == 0);
        seen |= fields[i];
        i += 1;
    }
};

// The shapes of D8.2.2: (address bits, root level, tables in the root).
const _: () = {
    let shapes =
        [(32, 1, 4), (34, 1, 16), (35, 2, 1), (39, 2, 1), (40, 2, 2), (42, 2, 8), (43, 2, 16), (44, 3, 1), (48, 3, 1)];
    let mut i = 0;
    while i < shapes.len() {
        let (bits, root, tables) = shapes[i];
        let Ok(format) = Arm64::new(bits) else { panic!() };
        let geometry = Geometry::new(12, 9, format.root, format.root_bits, Level::new(1), 30);
        assert!(geometry.address_bits() == bits);
        assert!(geometry.root_level().get() == root && geometry.root_tables() == tables);
        i += 1;
    }
};
