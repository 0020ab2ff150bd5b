//! Values of the registers that control stage 2.

use core::fmt;

use slat::addr::Hpa;
use slat::format::Geometry;

use super::features::{Features, Granule};

/// How a tree is laid out, as far as registers and operands have to be told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Layout {
    /// Bytes of a page, as a power of two: 12, 14 or 16.
    pub page_shift: u32,
    /// The descriptors for 52-bit addresses of FEAT_LPA2 (VTCR_EL2.DS).
    pub wide: bool,
}

impl Layout {
    /// Pages of 4 KiB, descriptors of 48 bits.
    pub const PAGES_4K: Self = Self { page_shift: 12, wide: false };

    /// Bits of an address that descriptors hold.
    const fn address_bits(self) -> u32 {
        if self.wide || self.page_shift == 16 { 52 } else { 48 }
    }

    /// TG0.
    const fn granule(self) -> u64 {
        match self.page_shift {
            14 => 0b10,
            16 => 0b01,
            _ => 0b00,
        }
    }

    /// SL0, and SL2 in bit 2, for a root of the engine's level `level`, which counts up from the page.
    const fn start(self, level: u8) -> Option<u64> {
        match (self.page_shift, level) {
            (12, 1..=3) => Some(level as u64 - 1),
            (12, 4) if self.wide => Some(0b100),
            (14, 3) if self.wide => Some(3),
            (14 | 16, 0..=2) => Some(level as u64),
            _ => None,
        }
    }
}

/// Why a tree cannot be this CPU's stage 2.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum ControlError {
    /// The CPU has no stage 2 with this granule, or not with 52-bit descriptors.
    Layout(Layout),
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
            Self::Layout(Layout { page_shift, wide }) => {
                let wide = if *wide { " and 52-bit descriptors" } else { "" };
                write!(f, "the CPU has no stage 2 with the granule of {} bytes{wide}", 1u64 << page_shift)
            }
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
const WIDE: u64 = 1 << 32;
const RES1: u64 = 1 << 31;

/// VTCR_EL2 (D19.2.159) for a tree of this geometry: T0SZ, SL0 and SL2, cached walks, TG0, PS, VS, DS; HA (hardware sets the
/// accessed flag) if asked for and the CPU can. `wide` for formats of FEAT_LPA2.
pub fn vtcr(geometry: Geometry, wide: bool, features: &Features, hardware_accessed: bool) -> Result<u64, ControlError> {
    let layout = Layout { page_shift: geometry.page_shift(), wide };
    if features.granule(layout.page_shift) < (if wide { Granule::Wide } else { Granule::Yes }) {
        return Err(ControlError::Layout(layout));
    }
    // Descriptors hold so many bits, whatever the CPU has.
    let cpu = features.physical_bits.min(layout.address_bits());
    let tree = geometry.address_bits();
    if tree > cpu {
        return Err(ControlError::AddressBits { tree, cpu });
    }
    let level = geometry.root_level().get();
    let start = layout.start(level).ok_or(ControlError::RootLevel(level))?;
    let bit = |on: bool, bit: u64| if on { bit } else { 0 };
    Ok(RES1
        | u64::from(64 - tree)
        | (start & 0b11) << 6
        | CACHED_WALKS
        | layout.granule() << 14
        | physical_size(cpu) << 16
        | bit(features.vmid_bits == 16, VMID_16)
        | bit(hardware_accessed && features.sets_accessed, HARDWARE_ACCESSED)
        | bit(wide, WIDE)
        | (start >> 2) << 33)
}

/// PS: the largest encoded size that is not above `bits`.
fn physical_size(bits: u32) -> u64 {
    [32, 36, 40, 42, 44, 48, 52].iter().rposition(|&size| size <= bits).unwrap_or(0) as u64
}

/// VTTBR_EL2 (D19.2.160): the root's address and the VMID, of which the CPU uses as many bits as it has. CnP is clear:
/// each CPU's TLB is its own. A root above 48 bits has to be aligned to 64 bytes, as roots are.
pub fn vttbr(root: Hpa, vmid: u16) -> u64 {
    let low = root.get() & 0x0000_ffff_ffff_ffff;
    low | (root.get() >> 48 & 0xf) << 2 | u64::from(vmid) << 48
}

/// What VTTBR_EL2 says: [`vttbr`], undone.
pub const fn root_and_vmid(vttbr: u64) -> (Hpa, u16) {
    (Hpa::new(vttbr & 0x0000_ffff_ffff_ffc0 | (vttbr >> 2 & 0xf) << 48), (vttbr >> 48) as u16)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::aarch64::features::Registers;
    use slat::format::{Arm64, Arm64_16k, Arm64_16kLpa2, Arm64_64k, Arm64Lpa2, Format};

    fn features(mmfr0: u64, mmfr1: u64) -> Features {
        Features::new(Registers { mmfr0, mmfr1, ..Registers::default() })
    }

    /// All granules, the wide ones too, and 52 bits.
    const EVERYTHING: u64 = 1 << 28 | 2 << 20 | 6;

    #[test]
    fn vtcr_of_a_40_bit_tree() {
        let geometry = Arm64::new(40).unwrap().geometry();
        // 16-bit VMID, no hardware flags: VS, PS = 48 bits, inner-shareable cached walks, SL0 = 1, T0SZ = 24.
        let vtcr = vtcr(geometry, false, &features(5, 0x20), true).unwrap();
        assert_eq!(vtcr, 1 << 31 | 1 << 19 | 5 << 16 | 0x3500 | 1 << 6 | 24);
    }

    #[test]
    fn the_start_level_follows_the_root() {
        for (bits, level) in [(32, 0), (34, 0), (35, 1), (40, 1), (43, 1), (44, 2), (48, 2)] {
            let value = vtcr(Arm64::new(bits).unwrap().geometry(), false, &features(6, 2), true).unwrap();
            assert_eq!((value >> 6) & 3, level, "{bits} bits");
            assert_eq!(value & 0x3f, u64::from(64 - bits));
            assert_eq!((value >> 16) & 7, 5, "descriptors hold 48 bits");
            assert_ne!(value & HARDWARE_ACCESSED, 0);
        }
    }

    /// What the fields say: TG0, the architecture's start level, PS.
    fn decoded(geometry: Geometry, wide: bool) -> (u64, i64, u64) {
        let value = vtcr(geometry, wide, &features(EVERYTHING, 0), false).unwrap();
        let (granule, start) = ((value >> 14) & 3, ((value >> 6) & 3) | ((value >> 33) & 1) << 2);
        assert_eq!((value >> 32) & 1 == 1, wide);
        // The table of VTCR_EL2.SL0 and SL2: from which level walks start.
        let level = match (granule, start) {
            (0, 0b100) => -1,
            (0, 3) => 3,
            (0, start) => 2 - start as i64,
            (_, start) => 3 - start as i64,
        };
        (granule, level, (value >> 16) & 7)
    }

    #[test]
    fn every_granule_says_where_its_root_is() {
        let level = |geometry: Geometry| 3 - i64::from(geometry.root_level().get());
        let of_16k = Arm64_16k::new(40).unwrap().geometry();
        assert_eq!(decoded(of_16k, false), (0b10, level(of_16k), 5));
        let of_64k = Arm64_64k::new(42).unwrap().geometry();
        assert_eq!(decoded(of_64k, false), (0b01, level(of_64k), 6));
        for bits in [40, 48, 52] {
            let of_4k = Arm64Lpa2::new(bits).unwrap().geometry();
            assert_eq!(decoded(of_4k, true), (0b00, level(of_4k), 6), "{bits} bits");
            let of_16k = Arm64_16kLpa2::new(bits).unwrap().geometry();
            assert_eq!(decoded(of_16k, true), (0b10, level(of_16k), 6), "{bits} bits");
        }
    }

    #[test]
    fn what_the_cpu_cannot_do_is_refused() {
        let tree = |bits| Arm64::new(bits).unwrap().geometry();
        let refused = |bits, mmfr0| vtcr(tree(bits), false, &features(mmfr0, 0), false);
        assert_eq!(refused(40, 1), Err(ControlError::AddressBits { tree: 40, cpu: 36 }));
        assert_eq!(refused(36, 0xf << 28 | 1), Err(ControlError::Layout(Layout::PAGES_4K)));
        let wide = Layout { wide: true, ..Layout::PAGES_4K };
        assert_eq!(vtcr(tree(40), true, &features(5, 0), false), Err(ControlError::Layout(wide)));
        assert_eq!(vtcr(tree(36), false, &features(1, 0), true).unwrap() & (HARDWARE_ACCESSED | VMID_16), 0);
    }

    #[test]
    fn vttbr_holds_root_and_vmid() {
        assert_eq!(vttbr(Hpa::new(0x1234_2000), 0xabcd), 0xabcd_0000_1234_2000);
        // Bits 51:48 of the root go to bits 5:2, where 52 bits are in use (D19.2.160).
        assert_eq!(vttbr(Hpa::new(0x000f_0000_1234_2000), 1), 0x0001_0000_1234_203c);
        for (root, vmid) in [(0x1234_2000, 0xabcd), (0x000a_8765_4321_f000, 7)] {
            assert_eq!(root_and_vmid(vttbr(Hpa::new(root), vmid)), (Hpa::new(root), vmid));
        }
    }
}
