//! The values of the control registers that go with a format.
//!
//! Source: Arm Architecture Reference Manual (DDI 0487), D24.2 (`VTCR_EL2`, `VTTBR_EL2`).

use super::Stage2;
use crate::addr::Hpa;
use crate::format::fields::{bit, bits, union, when};

impl<const GRANULE: u8, const LPA2: bool, const FWB: bool, const HD: bool, const GROUPS: bool, const BBM2: bool>
    Stage2<GRANULE, LPA2, FWB, HD, GROUPS, BBM2>
{
    /// The value of `VTCR_EL2`: walks that are write-back and inner shareable, and the output size that both this format
    /// and the CPU have, which `pa_range` says (`ID_AA64MMFR0_EL1.PARange`). `wide_vmid` is 16 bits of VMID (VS);
    /// `manages_access_flag` lets the CPU set the access flag itself (HA, of FEAT_HAFDBS), which a format with `HD` does
    /// anyway.
    pub const fn vtcr(self, pa_range: u8, wide_vmid: bool, manages_access_flag: bool) -> u64 {
        let address_bits = self.root_bits as u64 + GRANULE as u64 + Self::STRIDE as u64 * self.root.get() as u64;
        // The manual counts levels down to 3.
        let (granule, start) = match (GRANULE, self.root.get()) {
            (12, 4) => (0b00, bit(33)),
            (12, root) => (0b00, (root as u64 - 1) << 6),
            (14, root) => (0b10, (root as u64) << 6),
            (_, root) => (0b01, (root as u64) << 6),
        };
        let largest = if Self::ADDRESS_BITS == 52 { 6 } else { 5 };
        let ps = if pa_range < largest { pa_range } else { largest };
        union([
            64 - address_bits,
            start,
            0b01 << 8,
            0b01 << 10,
            0b11 << 12,
            granule << 14,
            (ps as u64) << 16,
            when(wide_vmid, bit(19)),
            when(manages_access_flag || HD, bit(21)),
            when(HD, bit(22)),
            bit(31),
            when(LPA2, bit(32)),
        ])
    }

    /// The value of `VTTBR_EL2` for the tables at `root`: VMID in bits 63:48, bits 51:48 of a 52-bit address in 5:2.
    pub const fn vttbr(self, root: Hpa, vmid: u16) -> u64 {
        union([(vmid as u64) << 48, root.get() & bits(47, 6), (root.get() >> 48) << 2])
    }
}
