//! arm64 stage 2, read from the Arm Architecture Reference Manual (DDI 0487).
//!
//! Modelled: VMSAv8-64 descriptors (D8.3) of all three granules, with 48 and 52 bits of address (FEAT_LPA, FEAT_LPA2),
//! start level and concatenated root tables by VTCR_EL2.{T0SZ, SL0, SL2} (D8.2), output address size by VTCR_EL2.PS, the
//! access flag and the dirty state with and without hardware management (D8.5), S2AP and XN, by exception level with
//! FEAT_XNX (D8.4), MemAttr with and without FEAT_S2FWB (D8.6), the order in which faults are reported at one level
//! (translation, address size, access flag, permission), their codes in a syndrome, shareability, and the Contiguous bit
//! (D8.7.1), which an implementation may ignore, and this one never does. Not modelled: nT, and the table descriptors'
//! access flag (FEAT_HAFT).
//!
//! The manual counts levels from the root, -1 or 0 to 3. This crate counts from the leaf: its level 0 is the manual's 3.

use slat::addr::{Gpa, Hpa, Level};
use slat::host::Permissions;

use super::{Fault, FaultKind, Memory, Step, Translation, Walker};
use crate::maintenance::Maintenance;

/// The size of pages and tables.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Granule {
    /// 4 KiB.
    Four,
    /// 16 KiB.
    Sixteen,
    /// 64 KiB.
    SixtyFour,
}

impl Granule {
    /// Bits that the granule resolves.
    const fn bits(self) -> u32 {
        match self {
            Self::Four => 12,
            Self::Sixteen => 14,
            Self::SixtyFour => 16,
        }
    }

    /// Bits that each full level resolves: a table of 8-byte descriptors fills a granule.
    const fn stride(self) -> u32 {
        self.bits() - 3
    }

    /// Bits below those that `level` resolves.
    const fn shift(self, level: Level) -> u32 {
        self.bits() + self.stride() * level.get() as u32
    }
}

/// The fields of VTCR_EL2 that shape a walk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Vtcr {
    /// T0SZ: how many of 64 address bits the input does not have.
    pub t0sz: u8,
    /// SL0. 4 KiB: 0 starts at the manual's level 2, 1 at level 1, 2 at level 0. Else: 0 starts at level 3, 1 at 2, 2 at 1,
    /// and 3 at 0, for 16 KiB with DS.
    pub sl0: u8,
    /// SL2: for 4 KiB with DS, and SL0 0, the start is at level -1.
    pub sl2: bool,
    /// SH0: the shareability of walks, and with DS that of memory.
    pub sh0: u8,
    /// TG0.
    pub granule: Granule,
    /// PS: the size of output addresses. 0 to 6 are 32, 36, 40, 42, 44, 48 and 52 bits.
    pub ps: u8,
    /// HA: hardware sets the access flag.
    pub ha: bool,
    /// HD: hardware manages the dirty state, where HA is set, too.
    pub hd: bool,
    /// DS: the descriptors of FEAT_LPA2.
    pub ds: bool,
}

/// An input address size that the granule of 4 KiB does not have.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("an arm64 guest has 32 to 48 bits of physical address, not {0}")]
pub struct IpaBits(pub u32);

/// A value of VTCR_EL2 that is not one: RES1 bit 31 is clear, TG0 is reserved, or so is a bit above.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("no value of VTCR_EL2: {0:#x}")]
pub struct NoVtcr(pub u64);

impl Vtcr {
    /// The value that a hypervisor gives a guest with `bits` bits of physical address, for the granule of 4 KiB: the start
    /// level furthest down whose root is at most 16 concatenated tables, 48 bits of output, no hardware management, walks
    /// that are inner shareable.
    pub const fn for_ipa_bits(bits: u32) -> Result<Self, IpaBits> {
        let sl0 = match bits {
            32..=34 => 0,
            35..=43 => 1,
            44..=48 => 2,
            _ => return Err(IpaBits(bits)),
        };
        let granule = Granule::Four;
        let t0sz = (64 - bits) as u8;
        Ok(Self { t0sz, sl0, sl2: false, sh0: 0b11, granule, ps: 5, ha: false, hd: false, ds: false })
    }

    /// The fields of a register's value (D24.2). What does not shape a walk here (the cacheability of walks, the size of
    /// VMIDs) is not looked at.
    pub const fn decode(value: u64) -> Result<Self, NoVtcr> {
        let register = Descriptor(value);
        let granule = match register.bits(15, 14) {
            0b00 => Granule::Four,
            0b01 => Granule::SixtyFour,
            0b10 => Granule::Sixteen,
            _ => return Err(NoVtcr(value)),
        };
        if !register.bit(31) || register.bits(63, 34) != 0 {
            return Err(NoVtcr(value));
        }
        Ok(Self {
            t0sz: register.bits(5, 0) as u8,
            sl0: register.bits(7, 6) as u8,
            sl2: register.bit(33),
            sh0: register.bits(13, 12) as u8,
            granule,
            ps: register.bits(18, 16) as u8,
            ha: register.bit(21),
            hd: register.bit(22),
            ds: register.bit(32),
        })
    }

    /// PS, as far as the descriptors have bits for it: 52 bits with FEAT_LPA2, or with FEAT_LPA for 64 KiB.
    fn output_bits(self) -> u32 {
        match self.ps {
            0 => 32,
            1 => 36,
            2 => 40,
            3 => 42,
            4 => 44,
            5 => 48,
            _ if self.has_52_bits() => 52,
            _ => 48,
        }
    }

    const fn input_bits(self) -> u32 {
        64 - self.t0sz as u32
    }

    /// Whether there are 52 bits of address at all.
    const fn has_52_bits(self) -> bool {
        self.ds || matches!(self.granule, Granule::SixtyFour)
    }

    /// The start level, counted from the leaf; `None` for reserved values.
    const fn named_start(self) -> Option<Level> {
        let level = match (self.granule, self.sl0, self.sl2) {
            (Granule::Four, 0, true) if self.ds => 4,
            (_, _, true) => return None,
            (Granule::Four, sl0 @ 0..=2, _) => sl0 + 1,
            (Granule::Sixteen, 3, _) if self.ds => 3,
            (Granule::Sixteen | Granule::SixtyFour, sl0 @ 0..=2, _) => sl0,
            _ => return None,
        };
        Some(Level::new(level))
    }

    /// The same, if it resolves the input size: one bit at least, a stride and four bits of concatenation at most (D8.2),
    /// within 48 or 52 bits.
    const fn start(self) -> Option<Level> {
        let Some(level) = self.named_start() else { return None };
        let (bits, below) = (self.input_bits(), self.granule.shift(level));
        let most = below + self.granule.stride() + 4;
        let limit = if self.has_52_bits() { 52 } else { 48 };
        if below < bits && bits <= most && bits <= limit { Some(level) } else { None }
    }

    /// Whether leaves may be of this level: 4 KiB pages, 2 MiB, 1 GiB, and 512 GiB with DS; 16 KiB, 32 MiB, and 64 GiB with
    /// DS; 64 KiB, 512 MiB, and 4 TiB where addresses have 52 bits (D8.3.1).
    fn has_leaves(self, level: Level) -> bool {
        match self.granule {
            Granule::Four => level.get() <= 2 || (level.get() == 3 && self.ds),
            Granule::Sixteen => level.get() <= 1 || (level.get() == 2 && self.ds),
            Granule::SixtyFour => level.get() <= 1 || (level.get() == 2 && self.ps >= 6),
        }
    }
}

/// Among whom memory is coherent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Shareability {
    /// 0b00: nobody but the one who accesses it.
    Non,
    /// 0b10: all observers.
    Outer,
    /// 0b11: the CPUs that run one operating system, or hypervisor.
    Inner,
}

/// For which fetches a leaf's XN field counts.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Fetches {
    /// There is no FEAT_XNX: bit 54 forbids all fetches, bit 53 means nothing.
    #[default]
    All,
    /// FEAT_XNX, fetches at EL1: XN is 0b10 or 0b01 to forbid them.
    El1,
    /// FEAT_XNX, fetches at EL0: XN is 0b10 or 0b11 to forbid them.
    El0,
}

/// The walker of arm64 stage 2.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stage2 {
    vtcr: Vtcr,
    /// The start level, if the register's value has one.
    start: Option<Level>,
    forced_write_back: bool,
    fetches: Fetches,
}

/// The fields of a descriptor, as the manual draws them.
#[derive(Clone, Copy)]
struct Descriptor(u64);

impl Descriptor {
    const fn bits(self, high: u32, low: u32) -> u64 {
        (self.0 >> low) & (u64::MAX >> (63 - (high - low)))
    }

    const fn bit(self, number: u32) -> bool {
        self.bits(number, number) == 1
    }

    /// `MemAttr[3:0]` without FEAT_S2FWB (D8.6): the upper half is zero for Device memory, else the outer cacheability.
    fn memory(self) -> Memory {
        let cacheability = |field| match field {
            0b11 => Memory::WriteBack,
            0b10 => Memory::WriteThrough,
            _ => Memory::NonCacheable,
        };
        let (outer, inner) = (cacheability(self.bits(5, 4)), cacheability(self.bits(3, 2)));
        match (self.bits(5, 4), outer, inner) {
            (0b00, _, _) => Memory::Device,
            (_, Memory::WriteBack, inner) => inner,
            (_, Memory::WriteThrough, Memory::WriteBack) => Memory::WriteThrough,
            (_, Memory::WriteThrough, inner) => inner,
            _ => Memory::NonCacheable,
        }
    }

    /// `MemAttr[3:0]` with FEAT_S2FWB (D8.6), for a guest whose own attributes are write-back: 0b0110 forces that, 0b0111
    /// leaves it to the guest, 0b0101 is not cacheable, 0b00xx is Device. The rest is reserved, and taken as Device.
    fn forced_memory(self) -> Memory {
        match self.bits(5, 2) {
            0b0110 | 0b0111 => Memory::WriteBack,
            0b0101 => Memory::NonCacheable,
            _ => Memory::Device,
        }
    }

    /// `XN[1:0]` (D8.4).
    const fn forbids_fetches(self, fetches: Fetches) -> bool {
        match fetches {
            Fetches::All => self.bit(54),
            Fetches::El1 => matches!(self.bits(54, 53), 0b10 | 0b01),
            Fetches::El0 => matches!(self.bits(54, 53), 0b10 | 0b11),
        }
    }

    const fn access_flag(self) -> bool {
        self.bit(10)
    }

    /// `S2AP[1]`.
    const fn may_be_written(self) -> bool {
        self.bit(7)
    }

    /// DBM: with hardware management of the dirty state, what cannot be written is clean, and may.
    const fn dirty_bit_modifier(self) -> bool {
        self.bit(51)
    }
}

impl Stage2 {
    /// The walker under `vtcr`, without FEAT_S2FWB and FEAT_XNX.
    pub const fn new(vtcr: Vtcr) -> Self {
        Self { vtcr, start: vtcr.start(), forced_write_back: false, fetches: Fetches::All }
    }

    /// The same under `HCR_EL2.FWB`.
    pub const fn with_forced_write_back(self) -> Self {
        Self { forced_write_back: true, ..self }
    }

    /// The same for these fetches.
    pub const fn with_fetches(self, fetches: Fetches) -> Self {
        Self { fetches, ..self }
    }

    /// The shareability of a leaf's memory, `None` for the reserved value (D8.6): SH in bits 9:8, or where DS has address
    /// bits there, VTCR_EL2.SH0. What is not cached is outer shareable, whatever is said.
    pub fn shareability(&self, descriptor: u64) -> Option<Shareability> {
        let descriptor = Descriptor(descriptor);
        let memory = if self.forced_write_back { descriptor.forced_memory() } else { descriptor.memory() };
        let field = if self.vtcr.ds { self.vtcr.sh0 as u64 } else { descriptor.bits(9, 8) };
        match (memory, field) {
            (Memory::NonCacheable | Memory::Device, _) => Some(Shareability::Outer),
            (_, 0b00) => Some(Shareability::Non),
            (_, 0b10) => Some(Shareability::Outer),
            (_, 0b11) => Some(Shareability::Inner),
            _ => None,
        }
    }

    /// Descriptors in a contiguous set of `level`, as a power of two (D8.7.1): 16 with the granule of 4 KiB; 128 pages or 32
    /// blocks with 16 KiB; 32 with 64 KiB.
    fn set_bits(&self, descriptor: Descriptor, level: Level) -> u32 {
        match (self.vtcr.granule, level) {
            _ if !descriptor.bit(52) => 0,
            (Granule::Four, _) => 4,
            (Granule::Sixteen, Level::PAGE) => 7,
            (Granule::Sixteen | Granule::SixtyFour, _) => 5,
        }
    }

    fn exceeds_output(&self, address: u64) -> bool {
        address >> self.vtcr.output_bits() != 0
    }

    /// The output address of a table, page or block whose address bits begin at `low` (D8.3.1): bits 51:48 lie in 15:12
    /// with the granule of 64 KiB, 51:50 in 9:8 with DS.
    fn address(&self, descriptor: Descriptor, low: u32) -> u64 {
        match self.vtcr.granule {
            Granule::SixtyFour => descriptor.bits(47, low) << low | descriptor.bits(15, 12) << 48,
            _ if self.vtcr.ds => descriptor.bits(49, low) << low | descriptor.bits(9, 8) << 50,
            _ => descriptor.bits(47, low) << low,
        }
    }

    fn leaf(&self, descriptor: Descriptor, level: Level) -> Step {
        let output = self.address(descriptor, self.shift(level));
        if self.exceeds_output(output) {
            return Step::Fault(FaultKind::AddressSize);
        }
        if !descriptor.access_flag() && !self.vtcr.ha {
            return Step::Fault(FaultKind::AccessFlag);
        }
        let memory = if self.forced_write_back { descriptor.forced_memory() } else { descriptor.memory() };
        let is_clean = self.vtcr.ha && self.vtcr.hd && descriptor.dirty_bit_modifier() && !descriptor.may_be_written();
        // `S2AP[0]` and `S2AP[1]` allow reading and writing; Device memory is never fetched from (D8.4).
        let fetches = !descriptor.forbids_fetches(self.fetches) && memory != Memory::Device;
        Step::Leaf {
            translation: Translation {
                output: Hpa::new(output),
                level,
                permissions: Permissions::new(descriptor.bit(6), descriptor.may_be_written() || is_clean, fetches),
                memory,
                dirty: !is_clean,
                set_bits: self.set_bits(descriptor, level),
            },
            update: (!descriptor.access_flag()).then_some(descriptor.0 | 1 << 10),
        }
    }
}

/// The manual reports what is wrong before the first descriptor is read at its level 0.
const BEFORE_THE_WALK: Level = Level::new(3);

impl Walker for Stage2 {
    fn start(&self, gpa: Gpa) -> Result<Level, Fault> {
        let level = self.start.filter(|_| gpa.get() >> self.vtcr.input_bits() == 0);
        level.ok_or(Fault::at(BEFORE_THE_WALK, FaultKind::Translation))
    }

    /// VTTBR_EL2, for VMID 0: bits 51:48 of a 52-bit address lie in 5:2.
    fn register(&self, root: Hpa) -> Hpa {
        Hpa::new(Descriptor(root.get()).bits(47, 0) | root.get() >> 48 << 2)
    }

    fn root(&self, register: Hpa) -> Result<Hpa, Fault> {
        let level = self.start.ok_or(Fault::at(BEFORE_THE_WALK, FaultKind::Translation))?;
        let (register, wide) = (Descriptor(register.get()), self.vtcr.output_bits() == 52);
        // VTTBR_EL2.BADDR is aligned to the tables at it: 8 bytes for each entry that the start level can select, and 64
        // bytes where the bits below hold the address's highest.
        let bytes = 8u64 << (self.vtcr.input_bits() - self.shift(level));
        let low = Hpa::new(register.bits(47, 0)).align_down(if wide { bytes.max(64) } else { bytes });
        let root = low.get() | if wide { register.bits(5, 2) << 48 } else { 0 };
        if self.exceeds_output(root) {
            return Err(Fault::at(BEFORE_THE_WALK, FaultKind::AddressSize));
        }
        Ok(Hpa::new(root))
    }

    fn descriptor(&self, table: Hpa, level: Level, gpa: Gpa) -> Hpa {
        let low = self.shift(level);
        let is_start = Some(level) == self.start;
        let high = if is_start { self.vtcr.input_bits() } else { low + self.vtcr.granule.stride() } - 1;
        Hpa::new(table.get() | Descriptor(gpa.get()).bits(high, low) << 3)
    }

    /// D8.3: bit 0 is validity; bit 1 tells tables from blocks, and pages from a reserved encoding.
    fn resolve(&self, descriptor: u64, level: Level) -> Step {
        let descriptor = Descriptor(descriptor);
        let is_page = level == Level::PAGE;
        match descriptor.bits(1, 0) {
            0b01 if !is_page && self.vtcr.has_leaves(level) => self.leaf(descriptor, level),
            0b11 if is_page => self.leaf(descriptor, level),
            0b11 => match self.address(descriptor, self.vtcr.granule.bits()) {
                table if self.exceeds_output(table) => Step::Fault(FaultKind::AddressSize),
                // Table descriptors of stage 2 restrict nothing.
                table => Step::Table { table: Hpa::new(table), permissions: Permissions::ALL, update: None },
            },
            _ => Step::Fault(FaultKind::Translation),
        }
    }

    /// The dirty state is `S2AP[1]` itself.
    fn dirtied(&self, descriptor: u64) -> u64 {
        descriptor | 1 << 7
    }

    fn shift(&self, level: Level) -> u32 {
        self.vtcr.granule.shift(level)
    }

    fn maintenance(&self) -> Maintenance {
        Maintenance::Broadcast
    }
}

/// The fault status code of a syndrome (`ESR_EL2.ISS`, bits 5:0 of a Data or Instruction Abort) that reports `fault`;
/// `None` where the architecture has none.
pub const fn fault_status(fault: Fault) -> Option<u8> {
    let level = match fault.level.get() {
        4 => {
            return match fault.kind {
                FaultKind::AddressSize => Some(0b101001),
                FaultKind::Translation => Some(0b101011),
                FaultKind::External(_) => Some(0b010011),
                _ => None,
            };
        }
        level => 3 - level,
    };
    match fault.kind {
        FaultKind::AddressSize => Some(level),
        FaultKind::Translation => Some(0b000100 | level),
        FaultKind::AccessFlag => Some(0b001000 | level),
        FaultKind::Permission => Some(0b001100 | level),
        FaultKind::External(_) => Some(0b010100 | level),
        FaultKind::Misconfiguration | FaultKind::Root => None,
    }
}

#[cfg(test)]
mod tests;
