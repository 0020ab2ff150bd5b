//! What the CPU can do, from its identification registers.

use super::field;

/// The registers that say it, as they were read.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Registers {
    /// ID_AA64ISAR0_EL1 (D19.2.61).
    pub isar0: u64,
    /// ID_AA64MMFR0_EL1 (D19.2.64).
    pub mmfr0: u64,
    /// ID_AA64MMFR1_EL1 (D19.2.65).
    pub mmfr1: u64,
    /// ID_AA64MMFR2_EL1 (D19.2.66).
    pub mmfr2: u64,
    /// CTR_EL0 (D19.2.35).
    pub ctr: u64,
}

/// Whether stage 2 has a granule.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Granule {
    /// It has not.
    No,
    /// It has.
    Yes,
    /// It has, also with the descriptors for 52-bit addresses (FEAT_LPA2).
    Wide,
}

/// What a second-stage MMU wants to know of its CPU. On a machine of unlike CPUs take what [`common`](Self::common) to all.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Features {
    /// Bits of a physical address (`PARange`).
    pub physical_bits: u32,
    /// Stage 2 with the granules of 4, 16 and 64 KiB.
    pub granules: [Granule; 3],
    /// Bits of a VMID: 8, or 16 with FEAT_VMID16.
    pub vmid_bits: u32,
    /// Hardware sets the accessed flag (FEAT_HAFDBS).
    pub sets_accessed: bool,
    /// Hardware keeps the dirty state (FEAT_HAFDBS).
    pub sets_dirty: bool,
    /// Stage 2 can force normal memory to be cacheable (FEAT_S2FWB).
    pub forces_write_back: bool,
    /// TLB maintenance takes level hints (FEAT_TTL).
    pub level_hints: bool,
    /// TLB maintenance takes ranges (FEAT_TLBIRANGE).
    pub range_operations: bool,
    /// Level of support for changing a block's size without break-before-make (FEAT_BBM): 0 to 2.
    pub break_level: u8,
    /// Atomic instructions (FEAT_LSE).
    pub atomics: bool,
    /// Data caches need no cleaning for instruction fetches to see them (`CTR_EL0.IDC`).
    pub coherent_data: bool,
    /// Instruction caches need no invalidation (`CTR_EL0.DIC`).
    pub coherent_instructions: bool,
    /// Bytes of the smallest data cache line.
    pub data_line: u64,
    /// Bytes of the smallest instruction cache line.
    pub instruction_line: u64,
}

impl Features {
    /// What the registers say.
    pub const fn new(registers: Registers) -> Self {
        let Registers { isar0, mmfr0, mmfr1, mmfr2, ctr } = registers;
        let granules = [
            granule(field(mmfr0, 43, 40), granule_4k(field(mmfr0, 31, 28))),
            granule(field(mmfr0, 35, 32), granule_16k(field(mmfr0, 23, 20))),
            granule(field(mmfr0, 39, 36), granule_64k(field(mmfr0, 27, 24))),
        ];
        Self {
            physical_bits: physical_bits(field(mmfr0, 3, 0)),
            granules,
            vmid_bits: if field(mmfr1, 7, 4) == 2 { 16 } else { 8 },
            sets_accessed: field(mmfr1, 3, 0) >= 1,
            sets_dirty: field(mmfr1, 3, 0) >= 2,
            forces_write_back: field(mmfr2, 43, 40) >= 1,
            level_hints: field(mmfr2, 51, 48) >= 1,
            range_operations: field(isar0, 59, 56) >= 2,
            break_level: field(mmfr2, 55, 52) as u8,
            atomics: field(isar0, 23, 20) >= 2,
            coherent_data: field(ctr, 28, 28) == 1,
            coherent_instructions: field(ctr, 29, 29) == 1,
            data_line: 4 << field(ctr, 19, 16),
            instruction_line: 4 << field(ctr, 3, 0),
        }
    }

    /// Whether stage 2 has pages of `1 << page_shift` bytes.
    pub const fn granule(&self, page_shift: u32) -> Granule {
        match page_shift {
            12 => self.granules[0],
            14 => self.granules[1],
            16 => self.granules[2],
            _ => Granule::No,
        }
    }

    /// What both CPUs can do.
    pub fn common(self, other: Self) -> Self {
        Self {
            physical_bits: self.physical_bits.min(other.physical_bits),
            granules: core::array::from_fn(|index| self.granules[index].min(other.granules[index])),
            vmid_bits: self.vmid_bits.min(other.vmid_bits),
            sets_accessed: self.sets_accessed && other.sets_accessed,
            sets_dirty: self.sets_dirty && other.sets_dirty,
            forces_write_back: self.forces_write_back && other.forces_write_back,
            level_hints: self.level_hints && other.level_hints,
            range_operations: self.range_operations && other.range_operations,
            break_level: self.break_level.min(other.break_level),
            atomics: self.atomics && other.atomics,
            coherent_data: self.coherent_data && other.coherent_data,
            coherent_instructions: self.coherent_instructions && other.coherent_instructions,
            data_line: self.data_line.min(other.data_line),
            instruction_line: self.instruction_line.min(other.instruction_line),
        }
    }
}

/// `PARange`; what is not known yet is at least the largest that is.
const fn physical_bits(range: u64) -> u32 {
    match range {
        0 => 32,
        1 => 36,
        2 => 40,
        3 => 42,
        4 => 44,
        5 => 48,
        _ => 52,
    }
}

/// `TGran4_2` and its like, where 0 refers to what stage 1 has.
const fn granule(stage2: u64, stage1: Granule) -> Granule {
    match stage2 {
        0 => stage1,
        1 => Granule::No,
        2 => Granule::Yes,
        _ => Granule::Wide,
    }
}

/// `TGran4`, a signed field.
const fn granule_4k(value: u64) -> Granule {
    match value {
        0 => Granule::Yes,
        1..=7 => Granule::Wide,
        _ => Granule::No,
    }
}

/// `TGran16`.
const fn granule_16k(value: u64) -> Granule {
    match value {
        0 => Granule::No,
        1 => Granule::Yes,
        _ => Granule::Wide,
    }
}

/// `TGran64`, a signed field. Its descriptors hold 52 bits anyway.
const fn granule_64k(value: u64) -> Granule {
    if value <= 7 { Granule::Yes } else { Granule::No }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn any_features() -> impl Strategy<Value = Features> {
        any::<[u64; 5]>()
            .prop_map(|[isar0, mmfr0, mmfr1, mmfr2, ctr]| Features::new(Registers { isar0, mmfr0, mmfr1, mmfr2, ctr }))
    }

    proptest! {
        /// Whatever the registers hold, CPUs of the future included.
        #[test]
        fn any_registers_are_features_and_what_two_have_in_common_is_less(one in any_features(), other in any_features()) {
            prop_assert!((32..=52).contains(&one.physical_bits) && [8, 16].contains(&one.vmid_bits));
            prop_assert!(one.data_line.is_power_of_two() && one.instruction_line.is_power_of_two());
            prop_assert_eq!(one.granule(12), one.granules[0]);
            prop_assert_eq!(one.common(one), one);
            let common = one.common(other);
            prop_assert_eq!(common, other.common(one));
            prop_assert_eq!(common.common(one), common);
        }
    }

    /// A Neoverse N1, by its Technical Reference Manual.
    const N1: Registers = Registers {
        isar0: 0x0000_1000_1021_1120,
        mmfr0: 0x0000_0000_0010_1125,
        mmfr1: 0x0000_0000_1021_2122,
        mmfr2: 0x0000_0000_0000_1011,
        ctr: 0x8444_c004,
    };

    #[test]
    fn a_neoverse_n1_has_16_vmid_bits_hardware_flags_and_no_ranges() {
        let n1 = Features::new(N1);
        assert_eq!((n1.physical_bits, n1.vmid_bits), (48, 16));
        assert_eq!(n1.granules, [Granule::Yes; 3]);
        assert!(n1.sets_accessed && n1.sets_dirty && n1.atomics);
        assert!(!n1.range_operations && !n1.level_hints && !n1.forces_write_back);
        assert_eq!((n1.data_line, n1.instruction_line), (64, 64));
        assert!(!n1.coherent_data && !n1.coherent_instructions);
    }

    #[test]
    fn each_field_is_read_from_its_place() {
        let of = |change: fn(&mut Registers)| {
            let mut registers = N1;
            change(&mut registers);
            Features::new(registers)
        };
        assert!(of(|registers| registers.isar0 |= 2 << 56).range_operations);
        assert!(!of(|registers| registers.isar0 |= 1 << 56).range_operations, "1 is FEAT_TLBIOS alone");
        assert!(of(|registers| registers.mmfr2 |= 1 << 48).level_hints);
        assert!(of(|registers| registers.mmfr2 |= 1 << 40).forces_write_back);
        assert_eq!(of(|registers| registers.mmfr2 |= 2 << 52).break_level, 2);
        let granules = |mmfr0: u64| Features::new(Registers { mmfr0, ..N1 }).granules;
        let (no, yes, wide) = (Granule::No, Granule::Yes, Granule::Wide);
        assert_eq!(granules(0), [yes, no, yes]);
        assert_eq!(granules(0xf << 28 | 2 << 20 | 0xf << 24), [no, wide, no]);
        assert_eq!(granules(1 << 40 | 1 << 20), [no, yes, yes], "stage 2 says no of its own");
        assert_eq!(granules(3 << 40 | 2 << 32 | 1 << 36), [wide, yes, no]);
        assert_eq!(granules(1 << 28), [wide, no, yes]);
        assert!(of(|registers| registers.ctr |= 1 << 29).coherent_instructions);
        assert_eq!(of(|registers| registers.mmfr1 &= !0xf0).vmid_bits, 8);
        assert_eq!(of(|registers| registers.mmfr0 = registers.mmfr0 & !0xf | 6).physical_bits, 52);
    }

    #[test]
    fn unlike_cpus_have_in_common_what_each_can_do() {
        let mut other = N1;
        other.mmfr0 = other.mmfr0 & !0xf | 2;
        other.isar0 |= 2 << 56;
        let common = Features::new(N1).common(Features::new(other));
        assert_eq!(common.physical_bits, 40);
        assert!(!common.range_operations && common.atomics);
    }
}
