//! arm64 stage 2: VMSAv8-64 descriptors with granules of 4, 16 and 64 KiB, addresses of 48 and 52 bits.
//!
//! Sources: Arm Architecture Reference Manual (DDI 0487), D8.3 (descriptor formats), D8.4 (stage 2 permissions),
//! D8.5 (access flag), D8.6 (stage 2 memory attributes), D8.2 (initial lookup level, concatenated tables), D8.7.1 (the
//! Contiguous bit), D8.17 (break-before-make, and what levels of support for it change).
//!
//! Bits 54:53 of a leaf are `XN[1:0]` where there is FEAT_XNX, and XN and RES0 where there is not: the format uses 0b00
//! (execution at EL1 and EL0) and 0b10 (at neither), which mean the same to both. Where 52 bits of output address take
//! bits 9:8 (FEAT_LPA2), shareability is that of `VTCR_EL2.SH0`.

mod name;
mod registers;

use core::fmt;

use name::Name;

use super::fields::{bit, bits, disjoint, has, union, when};
use super::{AnnotationField, Change, Format, Geometry, Kind, Leaf};
use crate::addr::{Hpa, Level};
use crate::host::{Access, MemoryType, Permissions, Trust};

const VALID: u64 = bit(0);
/// Bit 1 of a valid descriptor: a table above the page level, a page at it; clear for a block.
const TABLE_OR_PAGE: u64 = bit(1);
const MEM_ATTR_SHIFT: u32 = 2;
const MEM_ATTR: u64 = bits(5, 2);
const S2AP_READ: u64 = bit(6);
const S2AP_WRITE: u64 = bit(7);
const SH_INNER: u64 = bits(9, 8);
const ACCESS_FLAG: u64 = bit(10);
/// In a leaf: one of several aligned neighbours that hardware may cache as one (D8.7.1).
const CONTIGUOUS_HINT: u64 = bit(52);
const EXECUTE_NEVER: u64 = bit(54);
/// With hardware management of the dirty state: writable, whatever `S2AP[1]` says, which is the dirty state then (D8.5.3).
const DBM: u64 = bit(51);
/// Bits 58:55 are reserved for software in leaf descriptors, and ignored in table descriptors.
const MAY_WRITE: u64 = bit(55);
const KEPT: u64 = bit(56);
/// Was dirty when write permission was withheld.
const WAS_DIRTY: u64 = bit(57);
/// With FEAT_BBML2, in a leaf: one thread's, who changes its size; held if [`HELD`] says so, else frozen. Hardware goes on
/// using it.
const OWNED: u64 = bit(56);
/// No leaf is owned whose dirty state hardware keeps.
const HELD: u64 = WAS_DIRTY;
/// With FEAT_BBML2, in a table: software may go on below. Clear while the table is held: the one bit that walks ask for.
const SETTLED: u64 = bit(58);

/// arm64 stage 2 with a granule of `1 << GRANULE` bytes: 12, 14 or 16.
///
/// `LPA2` is the format of FEAT_LPA2 for the granules of 4 and 16 KiB (`VTCR_EL2.DS`); that of 64 KiB has room for 52 bits
/// without. `FWB` is the memory attributes of FEAT_S2FWB (`HCR_EL2.FWB`), under which a guest's own attributes do not make
/// memory less cacheable. `HD` is hardware management of the access flag and the dirty state (FEAT_HAFDBS, `VTCR_EL2.HA` and
/// `HD`). Leaves are pages and blocks of 2 MiB and 1 GiB, 32 MiB, or 512 MiB; larger ones, which 52-bit
/// addresses allow, would make the regions larger that invalidations are counted by (R4).
///
/// `GROUPS` is whether leaves come in contiguous groups where they can: of 64 KiB of pages and 32 MiB of blocks, 2 MiB and 1
/// GiB, or 2 MiB of pages only. They are a matter of the type, so that who does without them does not pay for the question.
/// The hint is set and cleared by break-before-make: any CPU will do.
///
/// `BBM2` is changing the size of leaves under the guest's eyes (FEAT_BBML2, `ID_AA64MMFR2_EL1.BBM` of 2 on every CPU): a
/// block that is split, or a table that is collapsed, goes on translating until the change is flushed, so that no guest
/// faults because of it. A CPU may report a TLB conflict abort meanwhile, to EL2 (status 0b110000 of ESR_EL2, D8.17.2): the
/// embedder invalidates the VMID on that CPU (TLBI VMALLS12E1) and lets the guest go on. Where the dirty state is hardware's,
/// a block that may be written is broken all the same, as is a table that is collapsed, since hardware need not keep that
/// state of what is changed without a break (D8.17.1). What level 1 has beside break-before-make is the nT bit, under which
/// a CPU may fault as well, and which takes two flushes: such CPUs are for the formats without `BBM2`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stage2<
    const GRANULE: u8,
    const LPA2: bool,
    const FWB: bool,
    const HD: bool = false,
    const GROUPS: bool = false,
    const BBM2: bool = false,
> {
    root: Level,
    root_bits: u8,
}

/// 4 KiB granule, addresses of 32 to 48 bits.
pub type Arm64 = Stage2<12, false, false>;
/// [`Arm64`] with contiguous groups.
pub type Arm64Contiguous = Stage2<12, false, false, false, true>;
/// [`Arm64`] with FEAT_BBML2.
pub type Arm64Bbm2 = Stage2<12, false, false, false, false, true>;
/// [`Arm64`] with FEAT_S2FWB.
pub type Arm64Fwb = Stage2<12, false, true>;
/// [`Arm64`] with hardware management of the access flag and the dirty state.
pub type Arm64Hd = Stage2<12, false, false, true>;
/// 4 KiB granule with FEAT_LPA2, addresses of 32 to 52 bits.
pub type Arm64Lpa2 = Stage2<12, true, false>;
/// [`Arm64Lpa2`] with FEAT_S2FWB.
pub type Arm64Lpa2Fwb = Stage2<12, true, true>;
/// 16 KiB granule, addresses of 32 to 48 bits.
pub type Arm64_16k = Stage2<14, false, false>;
/// [`Arm64_16k`] with contiguous groups.
pub type Arm64_16kContiguous = Stage2<14, false, false, false, true>;
/// [`Arm64_16k`] with FEAT_S2FWB.
pub type Arm64_16kFwb = Stage2<14, false, true>;
/// 16 KiB granule with FEAT_LPA2, addresses of 32 to 52 bits.
pub type Arm64_16kLpa2 = Stage2<14, true, false>;
/// [`Arm64_16kLpa2`] with FEAT_S2FWB.
pub type Arm64_16kLpa2Fwb = Stage2<14, true, true>;
/// 64 KiB granule, addresses of 32 to 52 bits; past 48 with FEAT_LPA.
pub type Arm64_64k = Stage2<16, false, false>;
/// [`Arm64_64k`] with contiguous groups.
pub type Arm64_64kContiguous = Stage2<16, false, false, false, true>;
/// [`Arm64_64k`] with FEAT_S2FWB.
pub type Arm64_64kFwb = Stage2<16, false, true>;

/// Why a [`Stage2`] configuration is not possible.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arm64Error {
    /// The input address size is not one that the format has.
    AddressBits {
        /// What was asked for.
        bits: u32,
        /// The most that the format has; the least is 32.
        most: u32,
    },
    /// So many levels do not resolve so many bits.
    Levels {
        /// What was asked for.
        levels: u32,
        /// Bits of the input address.
        bits: u32,
    },
}

impl fmt::Display for Arm64Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AddressBits { bits, most } => {
                write!(f, "this arm64 stage 2 takes 32 to {most} bits of IPA, not {bits}")
            }
            Self::Levels { levels, bits } => {
                write!(f, "{levels} levels of arm64 stage 2 do not resolve {bits} bits of IPA")
            }
        }
    }
}

impl core::error::Error for Arm64Error {}

impl<const GRANULE: u8, const LPA2: bool, const FWB: bool, const HD: bool, const GROUPS: bool, const BBM2: bool>
    Stage2<GRANULE, LPA2, FWB, HD, GROUPS, BBM2>
{
    const SPELLED: &'static Name = &Name::of(GRANULE, [LPA2, FWB, HD, GROUPS, BBM2]);
    /// Bits that a table resolves.
    const STRIDE: u32 = GRANULE as u32 - 3;
    /// Bits of an address, input and output.
    const ADDRESS_BITS: u32 = if LPA2 || GRANULE == 16 { 52 } else { 48 };
    /// The descriptor's address field without the bits that moved.
    const ADDRESS: u64 = if LPA2 { bits(49, GRANULE) } else { bits(47, GRANULE) };
    /// The most significant bits of a 52-bit address, in the descriptor.
    const HIGH: u64 = match (GRANULE, LPA2) {
        (16, _) => bits(15, 12),
        (_, true) => bits(9, 8),
        _ => 0,
    };
    /// How far down they have moved.
    const HIGH_SHIFT: u32 = if GRANULE == 16 { 48 - 12 } else { 50 - 8 };
    /// Where the descriptor has no shareability, `VTCR_EL2.SH0` says the same.
    const SHAREABLE: u64 = if LPA2 { 0 } else { SH_INNER };
    const NORMAL: u64 = if FWB { 0b0110 } else { 0b1111 };
    const NON_CACHEABLE: u64 = 0b0101;
    const DEVICE: u64 = 0b0001;
    const FIELDS: [u64; 16] = [
        VALID,
        TABLE_OR_PAGE,
        MEM_ATTR,
        S2AP_READ,
        S2AP_WRITE,
        Self::SHAREABLE,
        ACCESS_FLAG,
        Self::ADDRESS,
        Self::HIGH,
        DBM,
        CONTIGUOUS_HINT,
        EXECUTE_NEVER,
        MAY_WRITE,
        KEPT,
        WAS_DIRTY,
        SETTLED,
    ];
    /// What says that hardware may write.
    const WRITABLE: u64 = if HD { DBM } else { S2AP_WRITE };
    /// What hardware notes of a write.
    const WRITTEN: u64 = if HD { S2AP_WRITE } else { 0 };
    /// Leaves alone have an access flag; where hardware sets it, they are what is valid and no table.
    const USABLE: u64 = if HD { VALID } else { ACCESS_FLAG };
    const READS: u64 = union([S2AP_READ, Self::USABLE]);
    const WRITES: u64 = union([Self::WRITABLE, Self::USABLE]);
    const EXECUTES: u64 = union([EXECUTE_NEVER, Self::USABLE]);
    /// What marks a table that software may go down to: one bit, clear in everything that is none above the page level.
    const IS_TABLE: u64 = if BBM2 { SETTLED } else { TABLE_OR_PAGE };
    /// What marks a leaf that is one thread's.
    const IS_OWNED: u64 = if BBM2 { OWNED } else { 0 };

    /// Stage 2 for guest physical addresses of `address_bits` bits, 32 to 48 or 52.
    ///
    /// The initial lookup level and the concatenation of root tables follow from the address size: as few levels as
    /// concatenating up to 16 tables permits, and two at least (D8.2.2).
    pub const fn new(address_bits: u32) -> Result<Self, Arm64Error> {
        if address_bits < 32 || address_bits > Self::ADDRESS_BITS {
            return Err(Arm64Error::AddressBits { bits: address_bits, most: Self::ADDRESS_BITS });
        }
        // Concatenation resolves up to 4 bits more in the root than a table does.
        let levels = (address_bits - 4 - GRANULE as u32).div_ceil(Self::STRIDE);
        Self::with_levels(address_bits, if levels < 2 { 2 } else { levels })
    }

    /// The same with so many levels, two at least, where more than the fewest are wanted: with FEAT_LPA2 up to five
    /// (4 KiB) and four (16 KiB).
    pub const fn with_levels(address_bits: u32, levels: u32) -> Result<Self, Arm64Error> {
        let most = match (GRANULE, LPA2) {
            (12, true) => 5,
            (12, false) | (14, true) => 4,
            _ => 3,
        };
        let error = Err(Arm64Error::Levels { levels, bits: address_bits });
        if levels < 2 || levels > most || address_bits > Self::ADDRESS_BITS {
            return error;
        }
        let below = GRANULE as u32 + Self::STRIDE * (levels - 1);
        if address_bits <= below || address_bits > below + Self::STRIDE + 4 {
            return error;
        }
        Ok(Self { root: Level::new(levels as u8 - 1), root_bits: (address_bits - below) as u8 })
    }

    /// Whether the one word is a table and the other a leaf whose place it may take without a break (D8.17.2). Not where
    /// hardware may have to note a write meanwhile. Pages have bit 1 as tables do, and change into nothing else.
    const fn resizes(old: u64, new: u64) -> bool {
        match (old & TABLE_OR_PAGE, new & TABLE_OR_PAGE) {
            _ if !BBM2 => false,
            (0, TABLE_OR_PAGE) => !HD || old & DBM == 0,
            (TABLE_OR_PAGE, 0) => !HD,
            _ => false,
        }
    }

    /// The leaf with the note of software's that keeps the dirty state when hardware's bits go.
    #[inline(always)]
    const fn with_note(raw: u64) -> u64 {
        raw | when(raw & Self::WRITTEN != 0, WAS_DIRTY)
    }

    #[inline(always)]
    const fn address_field(hpa: Hpa) -> u64 {
        union([hpa.get() & Self::ADDRESS, hpa.get() >> Self::HIGH_SHIFT & Self::HIGH])
    }

    #[inline(always)]
    const fn address(raw: u64) -> Hpa {
        Hpa::new(union([raw & Self::ADDRESS, (raw & Self::HIGH) << Self::HIGH_SHIFT]))
    }
}

impl<const GRANULE: u8, const LPA2: bool, const FWB: bool, const HD: bool, const GROUPS: bool, const BBM2: bool> Format
    for Stage2<GRANULE, LPA2, FWB, HD, GROUPS, BBM2>
{
    const NAME: &'static str = Self::SPELLED.as_str();
    const TRUST: Trust<Self> = Trust::OURS;
    const LOCKED: u64 = bit(2);
    const FROZEN: u64 = bit(3);
    /// Invalid descriptors: bits 63:1 are ignored (D8.3.1).
    const ANNOTATION: AnnotationField = AnnotationField { shift: 12, bits: 42, mark: bit(4) };
    const KEPT: u64 = KEPT;

    /// Built here rather than kept, so that the compiler sees which of its parts are constant.
    #[inline(always)]
    fn geometry(&self) -> Geometry {
        let largest = if GRANULE == 12 { 2 } else { 1 };
        Geometry::new(GRANULE, GRANULE - 3, self.root, self.root_bits, self.root.min(Level::new(largest)), 30)
    }

    #[inline(always)]
    fn output_bits(&self) -> u32 {
        Self::ADDRESS_BITS
    }

    #[inline(always)]
    fn kind(&self, raw: u64, level: Level) -> Kind {
        if raw & VALID != 0 {
            let is_table = raw & TABLE_OR_PAGE != 0 && level > Level::PAGE;
            return match is_table {
                true if raw & Self::IS_TABLE == 0 => Kind::Locked,
                true => Kind::Table,
                false if raw & Self::IS_OWNED == 0 => Kind::Leaf,
                false if raw & HELD != 0 => Kind::Locked,
                false => Kind::Frozen,
            };
        }
        match raw {
            Self::LOCKED => Kind::Locked,
            Self::FROZEN => Kind::Frozen,
            _ => Kind::Empty,
        }
    }

    #[inline(always)]
    fn is_table(&self, raw: u64, level: Level) -> bool {
        raw & Self::IS_TABLE != 0 && level > Level::PAGE
    }

    #[inline(always)]
    fn table(&self, table: Hpa, _level: Level) -> u64 {
        union([Self::address_field(table), when(BBM2, SETTLED), TABLE_OR_PAGE, VALID])
    }

    #[inline(always)]
    fn table_address(&self, raw: u64, _level: Level) -> Hpa {
        Self::address(raw)
    }

    #[inline(always)]
    fn leaf(&self, leaf: Leaf, level: Level) -> u64 {
        let permissions = leaf.permissions;
        let memory = match leaf.memory {
            MemoryType::Normal => Self::NORMAL,
            MemoryType::NonCacheable => Self::NON_CACHEABLE,
            MemoryType::Device => Self::DEVICE,
        };
        union([
            Self::address_field(leaf.hpa),
            VALID,
            when(level == Level::PAGE, TABLE_OR_PAGE),
            memory << MEM_ATTR_SHIFT,
            when(permissions.read(), S2AP_READ),
            when(permissions.write(), Self::WRITABLE),
            when(!permissions.execute() || leaf.memory != MemoryType::Normal, EXECUTE_NEVER),
            when(leaf.memory != MemoryType::Device, Self::SHAREABLE),
            when(leaf.accessed, ACCESS_FLAG),
            when(leaf.may_write, MAY_WRITE),
        ])
    }

    #[inline(always)]
    fn decode(&self, raw: u64, level: Level) -> Leaf {
        let memory = match (raw & MEM_ATTR) >> MEM_ATTR_SHIFT {
            normal if normal == Self::NORMAL => MemoryType::Normal,
            uncached if uncached == Self::NON_CACHEABLE => MemoryType::NonCacheable,
            _ => MemoryType::Device,
        };
        Leaf {
            hpa: Self::address(raw).align_down(self.geometry().size(level)),
            permissions: Permissions::new(raw & S2AP_READ != 0, raw & Self::WRITABLE != 0, raw & EXECUTE_NEVER == 0),
            may_write: raw & MAY_WRITE != 0,
            memory,
            accessed: raw & ACCESS_FLAG != 0,
        }
    }

    #[inline(always)]
    fn permits(&self, raw: u64, level: Level, access: Access) -> bool {
        let (mask, wanted) = match access {
            Access::Read => (Self::READS, Self::READS),
            Access::Write => (Self::WRITES, Self::WRITES),
            Access::Execute => (Self::EXECUTES, Self::USABLE),
        };
        raw & mask == wanted && !(HD && raw & TABLE_OR_PAGE != 0 && level > Level::PAGE)
    }

    #[inline(always)]
    fn is_writable(&self, raw: u64, _level: Level) -> bool {
        let (writable, valid) = if HD { (DBM, VALID) } else { (S2AP_WRITE, 0) };
        raw & union([writable, valid, Self::IS_OWNED]) == union([writable, valid])
    }

    #[inline(always)]
    fn may_write(&self, raw: u64, _level: Level) -> bool {
        raw & MAY_WRITE != 0
    }

    #[inline(always)]
    fn made_writable(&self, raw: u64, _level: Level) -> u64 {
        raw | union([Self::WRITABLE, Self::WRITTEN, ACCESS_FLAG])
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
        Self::with_note(raw) & !Self::WRITABLE & !Self::WRITTEN
    }

    #[inline(always)]
    fn write_revoked(&self, raw: u64, _level: Level) -> u64 {
        Self::with_note(raw) & !Self::WRITABLE & !Self::WRITTEN & !MAY_WRITE
    }

    #[inline(always)]
    fn hardware_accessed(&self) -> bool {
        HD
    }

    #[inline(always)]
    fn hardware_dirty(&self) -> bool {
        HD
    }

    /// Both bits are clear in tables and in every invalid state.
    #[inline(always)]
    fn is_dirty(&self, raw: u64, _level: Level) -> bool {
        HD && raw & union([S2AP_WRITE, WAS_DIRTY]) != 0
    }

    #[inline(always)]
    fn made_clean(&self, raw: u64, _level: Level) -> u64 {
        if HD { raw & !S2AP_WRITE & !WAS_DIRTY } else { raw }
    }

    /// The numbers of D8.7.1. A group of blocks has to fit in a shard's region.
    #[inline(always)]
    fn group_bits(&self, level: Level) -> u32 {
        let bits = match (GRANULE, level) {
            (12, _) => 4,
            (14, Level::PAGE) => 7,
            _ => 5,
        };
        let geometry = self.geometry();
        let fits = geometry.shift(level) + bits <= geometry.shard_shift() && level < self.root;
        if GROUPS && fits { bits } else { 0 }
    }

    #[inline(always)]
    fn is_grouped(&self, raw: u64, _level: Level) -> bool {
        GROUPS && has(raw, [CONTIGUOUS_HINT, VALID]) && raw & Self::IS_OWNED == 0
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
        let permissive = union([S2AP_READ, S2AP_WRITE, ACCESS_FLAG, when(HD, DBM)]);
        let in_place = union([permissive, EXECUTE_NEVER, MAY_WRITE, when(HD, WAS_DIRTY)]);
        let narrowed = union([old & !new & permissive, new & !old & EXECUTE_NEVER]);
        match (old ^ new) & !in_place {
            0 if narrowed == 0 => Change::Free,
            0 => Change::Flush,
            _ if Self::resizes(old, new) => Change::Overlap,
            _ => Change::Break,
        }
    }

    #[inline(always)]
    fn overlaps(&self) -> bool {
        BBM2
    }

    #[inline(always)]
    fn held(&self, raw: u64, level: Level) -> u64 {
        match self.kind(raw, level) {
            _ if !BBM2 => Self::LOCKED,
            Kind::Table => raw & !SETTLED,
            _ => union([raw & !MAY_WRITE, OWNED, HELD]),
        }
    }

    #[inline(always)]
    fn frozen(&self, raw: u64, _level: Level) -> u64 {
        if BBM2 { union([raw & !MAY_WRITE, OWNED]) } else { Self::FROZEN }
    }
}

// The invalid states are distinct, and have nothing that is asked of tables or leaves alone.
const _: () = assert!(disjoint(&[
    VALID,
    TABLE_OR_PAGE,
    S2AP_READ,
    S2AP_WRITE,
    ACCESS_FLAG,
    MAY_WRITE,
    SETTLED,
    Arm64::LOCKED,
    Arm64::FROZEN,
    Arm64::ANNOTATION.mark,
    Arm64::ANNOTATION.mask(),
]));

// Fields do not overlap, in any format; where the address has bits 9:8, there is no shareability.
const _: () = {
    assert!(disjoint(&Arm64::FIELDS) && disjoint(&Arm64Lpa2::FIELDS));
    assert!(disjoint(&Arm64_16k::FIELDS) && disjoint(&Arm64_16kLpa2::FIELDS) && disjoint(&Arm64_64k::FIELDS));
    assert!(Arm64::ADDRESS == bits(47, 12) && Arm64::HIGH == 0);
};

// A leaf is owned by bits that hardware leaves to software, none of which a settled table has for its mark.
const _: () = assert!(disjoint(&[MAY_WRITE, OWNED, HELD, SETTLED]) && (OWNED | HELD) & !bits(58, 55) == 0);
