//! Values of the registers that control stage 2.

use core::fmt;

use slat::addr::Hpa;
use slat::format::Geometry;

use super::features::Features;

/// Why a tree cannot be this CPU's stage 2.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum ControlError {
    /// The CPU has no stage 2 with the 4 KiB granule.
    Granule,
    /// The guest physical address space is larger than the CPU's physical one (D8.2.2).
    AddressBits {
        /// Bits that the tree has.
        tree: u32,
        /// Bits that the CPU has.
        cpu: u32,
    },
    /// The tree's root is of a level that stage 2 cannot begin at.
    RootLevel(u8),
}

impl fmt::Display for ControlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Granule => f.write_str("the CPU has no stage 2 with the 4 KiB granule"),
            Self::AddressBits { tree, cpu } => {
                write!(f, "{tree} bits of guest physical address are more than the CPU's {cpu}")
            }
            Self::RootLevel(level) => write!(f, "stage 2 cannot begin at a table of level {level}"),
        }
    }
}

impl core::error::Error for ControlError {}

/// Inner and outer write-back, read- and write-allocate walks in inner-shareable memory: IRGN0, ORGN0, SH0.
const CACHED_WALKS: u64 = 0b01 << 8 | 0b01 << 10 | 0b11 << 12;
const HARDWARE_ACCESSED: u64 = 1 << 21;
const VMID_16: u64 = 1 << 19;
/// RES1 without FEAT_LPA2, where it is not read.
const RES1: u64 = 1 << 31;

/// VTCR_EL2 (D19.2.159) for a tree of this geometry with the 4 KiB granule and 48-bit descriptors: T0SZ, SL0, cached
/// walks, TG0 0, PS, VS; HA (hardware sets the accessed flag) if asked for and the CPU can.
pub fn vtcr(geometry: Geometry, features: Features, hardware_accessed: bool) -> Result<u64, ControlError> {
    if !features.granule_4k {
        return Err(ControlError::Granule);
    }
    // Descriptors without LPA2 hold 48 bits, whatever the CPU has.
    let cpu = features.physical_bits.min(48);
    let tree = geometry.address_bits();
    if tree > cpu {
        return Err(ControlError::AddressBits { tree, cpu });
    }
    // SL0 counts up from the architecture's level 2 (D8.2.2): the engine's level 1.
    let level = geometry.root_level().get();
    if !(1..=3).contains(&level) {
        return Err(ControlError::RootLevel(level));
    }
    let start = u64::from(level) - 1;
    let bit = |on: bool, bit: u64| if on { bit } else { 0 };
    Ok(RES1
        | u64::from(64 - tree)
        | start << 6
        | CACHED_WALKS
        | physical_size(cpu) << 16
        | bit(features.vmid_bits == 16, VMID_16)
        | bit(hardware_accessed && features.sets_accessed, HARDWARE_ACCESSED))
}

/// PS: the largest encoded size that is not above `bits`.
fn physical_size(bits: u32) -> u64 {
    [32, 36, 40, 42, 44, 48].iter().rposition(|&size| size <= bits).unwrap_or(0) as u64
}

/// VTTBR_EL2 (D19.2.160): the root's address and the VMID, of which the CPU uses as many bits as it has. CnP is clear:
/// each CPU's TLB is its own.
pub fn vttbr(root: Hpa, vmid: u16) -> u64 {
    root.get() | u64::from(vmid) << 48
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::aarch64::features::Registers;
    use slat::format::{Arm64, Format};

    fn features(mmfr0: u64, mmfr1: u64) -> Features {
        Features::new(Registers { mmfr0, mmfr1, ..Registers::default() })
    }

    #[test]
    fn vtcr_of_a_40_bit_tree() {
        let geometry = Arm64::new(40).unwrap().geometry();
        // 16-bit VMID, no hardware flags: VS, PS = 48 bits, inner-shareable cached walks, SL0 = 1, T0SZ = 24.
        let vtcr = vtcr(geometry, features(5, 0x20), true).unwrap();
        assert_eq!(vtcr, 1 << 31 | 1 << 19 | 5 << 16 | 0x3500 | 1 << 6 | 24);
    }

    #[test]
    fn the_start_level_follows_the_root() {
        for (bits, level) in [(32, 0), (34, 0), (35, 1), (40, 1), (43, 1), (44, 2), (48, 2)] {
            let value = vtcr(Arm64::new(bits).unwrap().geometry(), features(6, 2), true).unwrap();
            assert_eq!((value >> 6) & 3, level, "{bits} bits");
            assert_eq!(value & 0x3f, u64::from(64 - bits));
            assert_eq!((value >> 16) & 7, 5, "descriptors hold 48 bits");
            assert_ne!(value & HARDWARE_ACCESSED, 0);
        }
    }

    #[test]
    fn what_the_cpu_cannot_do_is_refused() {
        let tree = |bits| Arm64::new(bits).unwrap().geometry();
        assert_eq!(vtcr(tree(40), features(1, 0), false), Err(ControlError::AddressBits { tree: 40, cpu: 36 }));
        assert_eq!(vtcr(tree(36), features(0xf << 28 | 1, 0), false), Err(ControlError::Granule));
        assert_eq!(vtcr(tree(36), features(1, 0), true).unwrap() & (HARDWARE_ACCESSED | VMID_16), 0);
    }

    #[test]
    fn vttbr_holds_root_and_vmid() {
        assert_eq!(vttbr(Hpa::new(0x1234_2000), 0xabcd), 0xabcd_0000_1234_2000);
    }
}
