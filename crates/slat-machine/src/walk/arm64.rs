//! arm64 stage 2, 4 KiB granule, read from the Arm Architecture Reference Manual (DDI 0487).
//!
//! Modelled: VMSAv8-64 descriptors (D8.3), start level and concatenated root tables by VTCR_EL2.{T0SZ, SL0} (D8.2),
//! output address size by VTCR_EL2.PS, the access flag with and without hardware management (D8.5), S2AP and XN
//! (D8.4), MemAttr without forced write-back (D8.6), and the order in which faults are reported at one level:
//! translation, address size, access flag, permission. Not modelled: LPA2, FEAT_XNX, FEAT_S2FWB, hardware dirty state,
//! and hints (contiguous, nT), which an implementation may ignore.
//!
//! The manual counts levels from the root, 0 to 3. This crate counts from the leaf: its level 0 is the manual's 3.

use slat::addr::{Gpa, Hpa, Level};
use slat::host::Permissions;

use super::{Fault, FaultKind, Memory, Step, Translation, Walker};
use crate::maintenance::Maintenance;

/// Bits that the granule resolves, and that each full level resolves above it.
const GRANULE_BITS: u32 = 12;
const STRIDE: u32 = 9;

/// The fields of VTCR_EL2 that shape a walk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Vtcr {
    /// T0SZ: how many of 64 address bits the input does not have.
    pub t0sz: u8,
    /// SL0, for this granule: 0 starts at the manual's level 2, 1 at level 1, 2 at level 0.
    pub sl0: u8,
    /// PS: the size of output addresses. 0 to 5 are 32, 36, 40, 42, 44 and 48 bits.
    pub ps: u8,
    /// HA: hardware sets the access flag.
    pub ha: bool,
}

/// An input address size that this granule does not have.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("an arm64 guest has 32 to 48 bits of physical address, not {0}")]
pub struct IpaBits(pub u32);

impl Vtcr {
    /// The value that a hypervisor gives a guest with `bits` bits of physical address: the start level furthest down
    /// whose root is at most 16 concatenated tables, 48 bits of output, no hardware management of the access flag.
    pub const fn for_ipa_bits(bits: u32) -> Result<Self, IpaBits> {
        let sl0 = match bits {
            32..=34 => 0,
            35..=43 => 1,
            44..=48 => 2,
            _ => return Err(IpaBits(bits)),
        };
        Ok(Self { t0sz: (64 - bits) as u8, sl0, ps: 5, ha: false })
    }

    fn output_bits(self) -> u32 {
        match self.ps {
            0 => 32,
            1 => 36,
            2 => 40,
            3 => 42,
            4 => 44,
            _ => 48,
        }
    }

    fn input_bits(self) -> u32 {
        64 - u32::from(self.t0sz)
    }
}

/// The walker of arm64 stage 2.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stage2 {
    vtcr: Vtcr,
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

    /// The output address of a table, page or block whose address bits begin at `low`.
    const fn address(self, low: u32) -> u64 {
        self.bits(47, low) << low
    }

    /// `MemAttr[3:0]` (D8.6): the upper half is zero for Device memory, else the outer cacheability.
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

    /// `S2AP[0]` and `S2AP[1]` allow reading and writing, XN forbids fetching; Device memory is never fetched from (D8.4).
    fn permissions(self) -> Permissions {
        let execute_never = self.bit(54) || self.memory() == Memory::Device;
        Permissions::new(self.bit(6), self.bit(7), !execute_never)
    }

    const fn access_flag(self) -> bool {
        self.bit(10)
    }

    const fn with_access_flag(self) -> u64 {
        self.0 | 1 << 10
    }
}

impl Stage2 {
    /// The walker under `vtcr`.
    pub const fn new(vtcr: Vtcr) -> Self {
        Self { vtcr }
    }

    /// The start level by SL0, counted from the leaf.
    fn start_level(&self) -> Level {
        match self.vtcr.sl0 {
            0 => Level::new(1),
            1 => Level::new(2),
            _ => Level::new(3),
        }
    }

    /// Whether the start level resolves the input size: one bit at least, a stride and four bits of concatenation at
    /// most (D8.2).
    fn is_consistent(&self) -> bool {
        let least = self.shift(self.start_level()) + 1;
        let most = least + (STRIDE - 1) + 4;
        (least..=most).contains(&self.vtcr.input_bits()) && self.vtcr.input_bits() <= 48
    }

    fn exceeds_output(&self, address: u64) -> bool {
        address >> self.vtcr.output_bits() != 0
    }

    fn leaf(&self, descriptor: Descriptor, level: Level) -> Step {
        let output = descriptor.address(self.shift(level));
        if self.exceeds_output(output) {
            return Step::Fault(FaultKind::AddressSize);
        }
        if !descriptor.access_flag() && !self.vtcr.ha {
            return Step::Fault(FaultKind::AccessFlag);
        }
        Step::Leaf {
            translation: Translation {
                output: Hpa::new(output),
                level,
                permissions: descriptor.permissions(),
                memory: descriptor.memory(),
                dirty: true,
            },
            update: (!descriptor.access_flag()).then(|| descriptor.with_access_flag()),
        }
    }
}

/// The manual reports what is wrong before the first descriptor is read at its level 0.
const BEFORE_THE_WALK: Level = Level::new(3);

impl Walker for Stage2 {
    fn start(&self, gpa: Gpa) -> Result<Level, Fault> {
        if self.is_consistent() && gpa.get() >> self.vtcr.input_bits() == 0 {
            Ok(self.start_level())
        } else {
            Err(Fault::at(BEFORE_THE_WALK, FaultKind::Translation))
        }
    }

    fn root(&self, register: Hpa) -> Result<Hpa, Fault> {
        if self.exceeds_output(register.get()) {
            return Err(Fault::at(BEFORE_THE_WALK, FaultKind::AddressSize));
        }
        // VTTBR_EL2.BADDR is aligned to the tables at it: 8 bytes for each entry that the start level can select.
        let bytes = 8 << (self.vtcr.input_bits() - self.shift(self.start_level()));
        Ok(register.align_down(bytes))
    }

    fn descriptor(&self, table: Hpa, level: Level, gpa: Gpa) -> Hpa {
        let low = self.shift(level);
        let high = if level == self.start_level() { self.vtcr.input_bits() } else { low + STRIDE } - 1;
        Hpa::new(table.get() | Descriptor(gpa.get()).bits(high, low) << 3)
    }

    /// D8.3: bit 0 is validity; bit 1 tells tables from blocks, and pages from a reserved encoding. The manual's level
    /// 0 has no blocks.
    fn resolve(&self, descriptor: u64, level: Level) -> Step {
        let descriptor = Descriptor(descriptor);
        let invalid = Step::Fault(FaultKind::Translation);
        match (descriptor.bits(1, 0), level.get()) {
            (0b00 | 0b10, _) => invalid,
            (0b01, 0 | 3) => invalid,
            (0b01, _) | (0b11, 0) => self.leaf(descriptor, level),
            _ => match descriptor.address(GRANULE_BITS) {
                table if self.exceeds_output(table) => Step::Fault(FaultKind::AddressSize),
                // Table descriptors of stage 2 restrict nothing.
                table => Step::Table { table: Hpa::new(table), permissions: Permissions::ALL, update: None },
            },
        }
    }

    fn shift(&self, level: Level) -> u32 {
        GRANULE_BITS + STRIDE * u32::from(level.get())
    }

    fn maintenance(&self) -> Maintenance {
        Maintenance::Broadcast
    }
}

#[cfg(test)]
mod tests;
