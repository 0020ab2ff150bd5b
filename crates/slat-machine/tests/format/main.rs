//! Each format held against the walker that was written from the same architecture's manual: two readings of it that
//! share no line have to agree.

mod entries;
mod trees;
mod words;

use std::ops::RangeInclusive;

use proptest::prelude::*;
use slat::addr::Hpa;
use slat::format::{
    Arm64, Arm64_16k, Arm64_16kContiguous, Arm64_16kLpa2, Arm64_64k, Arm64_64kContiguous, Arm64Bbm2, Arm64Contiguous,
    Arm64Fwb, Arm64Hd, Arm64Lpa2, Ept, Ept5, Ept5Ad, EptAd, Format, GStage, Npt, Npt5, NptAd, Stage2, Sv39x4, Sv48x4,
    Sv48x4Adu, Sv48x4Napot, Sv57x4,
};
use slat_machine::walk::{Walker, arm64, ept, npt, riscv};

use entries::*;
use trees::*;

/// A format and its walker.
trait Pair {
    type Format: Format;

    /// Bits of guest physical address that the format can be made for.
    const BITS: RangeInclusive<u32>;

    fn format(bits: u32) -> Self::Format;
    fn walker(bits: u32) -> Box<dyn Walker>;
    /// The root register's value by the format, for the tables at this address.
    fn register(bits: u32, root: Hpa) -> Hpa;

    /// Both for the largest address.
    fn both() -> (Self::Format, Box<dyn Walker>) {
        (Self::format(*Self::BITS.end()), Self::walker(*Self::BITS.end()))
    }
}

/// Pairs, each in a line: the format and its sizes of address; how a value of it is made, the walker for that value, and
/// the value of the root register. All tests hold for all of them.
macro_rules! pairs {
    ($($name:ident: $format:ty, $bits:expr, $make:expr, $walker:expr, $register:expr;)+) => {
        $(mod $name {
            use super::*;

            struct This;

            impl Pair for This {
                type Format = $format;

                const BITS: RangeInclusive<u32> = $bits;

                fn format(bits: u32) -> Self::Format {
                    let make: fn(u32) -> Self::Format = $make;
                    make(bits)
                }

                fn walker(bits: u32) -> Box<dyn Walker> {
                    Box::new($walker(Self::format(bits)))
                }

                fn register(bits: u32, root: Hpa) -> Hpa {
                    let register: fn(Self::Format, Hpa) -> u64 = $register;
                    Hpa::new(register(Self::format(bits), root))
                }
            }

            hold!(
                the_hardware_does_through_a_leaf_what_the_format_says_it_does,
                every_change_of_a_leaf_does_to_the_hardware_what_its_name_says,
                a_leaf_that_was_made_old_is_what_it_was_once_it_is_accessed,
                a_change_that_needs_no_flush_leaves_nothing_in_a_tlb_that_the_new_entry_forbids,
                a_table_restricts_nothing_below_it_and_notes_of_software_change_nothing,
                states_of_software_are_invalid_to_the_hardware_at_every_level,
                words_that_are_held_or_frozen_are_to_the_hardware_what_they_were,
                the_hardware_never_takes_an_annotation_for_an_entry,
                the_shape_of_the_tree_is_the_same_for_every_address_size,
                the_root_register_leads_to_the_root,
                both_ends_of_the_address_space_are_mapped_as_any_other_address,
                what_hardware_notes_of_a_write_is_what_the_format_takes_for_one,
                a_group_maps_what_its_leaves_would_at_both_ends_of_the_address_space,
                what_hardware_notes_of_a_write_to_a_group_is_found_in_one_of_its_members,
            );

            proptest! {
                #[test]
                fn what_is_mapped_at_an_address_is_found_at_it(
                    bits in This::BITS,
                    at in any::<u64>(),
                    frame in 0u64..1 << 26,
                    level in 0u8..3,
                    inside in any::<u64>(),
                ) {
                    what_is_mapped_is_found::<This>(bits, at, frame, level, inside)?;
                }
            }
        })+
    };
}

macro_rules! hold {
    ($($test:ident),+ $(,)?) => {
        $(#[test]
        fn $test() {
            super::$test::<This>();
        })+
    };
}

pairs! {
    arm_4k: Arm64, 32..=48, |bits| Arm64::new(bits).unwrap(), stage2, vttbr;
    arm_4k_el1: Arm64, 48..=48, |bits| Arm64::new(bits).unwrap(), stage2_el1, vttbr;
    arm_4k_el0: Arm64, 48..=48, |bits| Arm64::new(bits).unwrap(), stage2_el0, vttbr;
    arm_4k_hd: Arm64Hd, 40..=48, |bits| Arm64Hd::new(bits).unwrap(), stage2, vttbr;
    arm_4k_bbm2: Arm64Bbm2, 32..=48, |bits| Arm64Bbm2::new(bits).unwrap(), stage2, vttbr;
    arm_4k_hd_bbm2: Stage2<12, false, false, true, false, true>, 40..=48, |bits| Stage2::new(bits).unwrap(), stage2, vttbr;
    arm_4k_contiguous: Arm64Contiguous, 32..=48, |bits| Arm64Contiguous::new(bits).unwrap(), stage2, vttbr;
    arm_4k_contiguous_el1: Arm64Contiguous, 48..=48, |bits| Arm64Contiguous::new(bits).unwrap(), stage2_el1, vttbr;
    arm_4k_contiguous_el0: Arm64Contiguous, 48..=48, |bits| Arm64Contiguous::new(bits).unwrap(), stage2_el0, vttbr;
    arm_4k_lpa2_hd_contiguous: Stage2<12, true, true, true, true>, 48..=52, |bits| Stage2::new(bits).unwrap(), stage2, vttbr;
    arm_4k_four_levels: Arm64, 40..=48, |bits| Arm64::with_levels(bits, 4).unwrap(), stage2, vttbr;
    arm_4k_fwb: Arm64Fwb, 40..=40, |bits| Arm64Fwb::new(bits).unwrap(), stage2, vttbr;
    arm_4k_lpa2: Arm64Lpa2, 32..=52, |bits| Arm64Lpa2::new(bits).unwrap(), stage2, vttbr;
    arm_4k_five_levels: Arm64Lpa2, 49..=52, |bits| Arm64Lpa2::with_levels(bits, 5).unwrap(), stage2, vttbr;
    arm_16k: Arm64_16k, 32..=48, |bits| Arm64_16k::new(bits).unwrap(), stage2, vttbr;
    arm_16k_fwb: Stage2<14, true, true>, 47..=52, |bits| Stage2::new(bits).unwrap(), stage2, vttbr;
    arm_16k_contiguous: Arm64_16kContiguous, 32..=48, |bits| Stage2::new(bits).unwrap(), stage2, vttbr;
    arm_16k_lpa2_hd_contiguous: Stage2<14, true, true, true, true>, 48..=52, |bits| Stage2::new(bits).unwrap(), stage2_el0, vttbr;
    arm_16k_lpa2: Arm64_16kLpa2, 32..=52, |bits| Arm64_16kLpa2::new(bits).unwrap(), stage2, vttbr;
    arm_16k_four_levels: Arm64_16kLpa2, 48..=52, |bits| Arm64_16kLpa2::with_levels(bits, 4).unwrap(), stage2, vttbr;
    arm_64k: Arm64_64k, 32..=52, |bits| Arm64_64k::new(bits).unwrap(), stage2, vttbr;
    arm_64k_fwb: Stage2<16, false, true>, 40..=52, |bits| Stage2::new(bits).unwrap(), stage2_el1, vttbr;
    arm_64k_contiguous: Arm64_64kContiguous, 32..=52, |bits| Stage2::new(bits).unwrap(), stage2, vttbr;
    arm_64k_hd_contiguous: Stage2<16, false, true, true, true>, 48..=52, |bits| Stage2::new(bits).unwrap(), stage2_el1, vttbr;
    ept_4: Ept, 48..=48, |_| Ept::new(), |_| ept_walker(), |ept, root| ept.eptp(root);
    ept_of_supervisors: Ept, 48..=48, |_| Ept::new(), |_| ept_walker().with_fetches(ept::Fetches::Supervisor), |ept, root| ept.eptp(root);
    ept_of_users: Ept, 48..=48, |_| Ept::new(), |_| ept_walker().with_fetches(ept::Fetches::User), |ept, root| ept.eptp(root);
    ept_4_ad: EptAd, 48..=48, |_| EptAd::new(), |_| ept_walker_with(true), |ept, root| ept.eptp(root);
    ept_5_ad: Ept5Ad, 57..=57, |_| Ept5Ad::new(), |_| ept_walker_with(true).with_five_levels(), |ept, root| ept.eptp(root);
    ept_5: Ept5, 57..=57, |_| Ept5::new(), |_| ept_walker().with_five_levels(), |ept, root| ept.eptp(root);
    npt_4: Npt, 48..=48, |_| Npt::new(), |_| npt_walker(), |npt, root| npt.nested_cr3(root);
    npt_4_ad: NptAd, 48..=48, |_| NptAd::new(), |_| npt_walker(), |npt, root| npt.nested_cr3(root);
    npt_5: Npt5, 57..=57, |_| Npt5::new(), |_| npt_walker().with_five_levels(), |npt, root| npt.nested_cr3(root);
    sv39x4: Sv39x4, 41..=41, |_| Sv39x4::new(), |_| riscv::GStage::new(riscv::Mode::Sv39x4), |stage, root| stage.hgatp(root, 0x3fff);
    sv48x4: Sv48x4, 50..=50, |_| Sv48x4::new(), |_| riscv::GStage::new(riscv::Mode::Sv48x4), |stage, root| stage.hgatp(root, 1);
    sv48x4_adu: Sv48x4Adu, 50..=50, |_| Sv48x4Adu::new(), |_| svadu(riscv::Mode::Sv48x4), |stage, root| stage.hgatp(root, 1);
    sv48x4_napot: Sv48x4Napot, 50..=50, |_| Sv48x4Napot::new(), |_| svnapot(riscv::Mode::Sv48x4), |stage, root| stage.hgatp(root, 1);
    sv48x4_adu_napot: GStage<4, true, true>, 50..=50, |_| GStage::new(), |_| riscv::GStage::of(riscv::Mode::Sv48x4, ALL_OF_A_HART), |stage, root| stage.hgatp(root, 1);
    sv57x4_napot: GStage<5, false, true>, 59..=59, |_| GStage::new(), |_| svnapot(riscv::Mode::Sv57x4), |stage, root| stage.hgatp(root, 1);
    sv57x4: Sv57x4, 59..=59, |_| Sv57x4::new(), |_| riscv::GStage::new(riscv::Mode::Sv57x4), |stage, root| stage.hgatp(root, 0);
}

/// arm64 stage 2 is walked under the very value of VTCR_EL2 that the format gives.
fn stage2<
    const GRANULE: u8,
    const LPA2: bool,
    const FWB: bool,
    const HD: bool,
    const GROUPS: bool,
    const BBM2: bool,
>(
    format: Stage2<GRANULE, LPA2, FWB, HD, GROUPS, BBM2>,
) -> arm64::Stage2 {
    let walker = arm64::Stage2::new(arm64::Vtcr::decode(format.vtcr(6, true, false)).unwrap());
    let walker = if FWB { walker.with_forced_write_back() } else { walker };
    if BBM2 { walker.with_mixed_sizes() } else { walker }
}

fn stage2_el1<const GRANULE: u8, const LPA2: bool, const FWB: bool, const HD: bool, const GROUPS: bool>(
    format: Stage2<GRANULE, LPA2, FWB, HD, GROUPS>,
) -> arm64::Stage2 {
    stage2(format).with_fetches(arm64::Fetches::El1)
}

fn stage2_el0<const GRANULE: u8, const LPA2: bool, const FWB: bool, const HD: bool, const GROUPS: bool>(
    format: Stage2<GRANULE, LPA2, FWB, HD, GROUPS>,
) -> arm64::Stage2 {
    stage2(format).with_fetches(arm64::Fetches::El0)
}

fn vttbr<const GRANULE: u8, const LPA2: bool, const FWB: bool, const HD: bool, const GROUPS: bool, const BBM2: bool>(
    format: Stage2<GRANULE, LPA2, FWB, HD, GROUPS, BBM2>,
    root: Hpa,
) -> u64 {
    format.vttbr(root, 0xabcd)
}

/// The processor that allows least and has the widest addresses.
fn ept_walker() -> ept::Ept {
    ept_walker_with(false)
}

fn ept_walker_with(accessed_dirty: bool) -> ept::Ept {
    let processor = ept::Processor { physical_bits: 52, execute_only: false, ..ept::Processor::default() };
    ept::Ept::of(processor, accessed_dirty)
}

fn svnapot(mode: riscv::Mode) -> riscv::GStage {
    riscv::GStage::of(mode, riscv::Hart { naturally_aligned_sets: true, ..riscv::Hart::default() })
}

const ALL_OF_A_HART: riscv::Hart =
    riscv::Hart { updates_flags: true, naturally_aligned_sets: true, memory_types: true };

fn svadu(mode: riscv::Mode) -> riscv::GStage {
    riscv::GStage::of(mode, riscv::Hart { updates_flags: true, ..riscv::Hart::default() })
}

fn npt_walker() -> npt::Npt {
    npt::Npt::of(npt::Host { physical_bits: 52, ..npt::Host::default() })
}
