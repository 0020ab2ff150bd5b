//! The engine on the machine: guests that run, and what they see. The same tests for every format.
#![allow(clippy::duplicate_mod)] // each file of tests is compiled once for each format

use slat_machine::walk::{arm64, riscv};

/// Tests for each format in a line: its type, a value of it, the walker that was written from the same architecture's
/// manual, bits of its pages, and the seeds of tests that choose by seed. In brackets: which tests.
macro_rules! engine_with {
    ($tests:tt $($name:ident: $format:ty = $value:expr, $walker:expr, $page_shift:literal, $seeds:expr;)+) => {
        $(engine_with_one!($tests $name, $format, $value, $walker, $page_shift, $seeds);)+
    };
}

macro_rules! engine_with_one {
    ([$($tests:ident)+] $name:ident, $format:ty, $value:expr, $walker:expr, $page_shift:literal, $seeds:expr) => {
        #[path = "."]
        mod $name {
            #[allow(dead_code)] // not every test needs all of it
            mod common;
            mod dice;
            mod stage;
            $(mod $tests;)+

            /// What is tested.
            mod subject {
                #[allow(unused_imports)] // not every format needs all of them
                use slat_machine::walk::{Walker, arm64, ept, npt, riscv};
                #[allow(unused_imports)]
                use crate::{mixing, under, updating};

                pub(crate) type Format = $format;
                pub(crate) const PAGE_SHIFT: u32 = $page_shift;
                pub(crate) const SEEDS: std::ops::Range<u64> = $seeds;

                pub(crate) fn format() -> Format {
                    $value
                }

                pub(crate) fn walker() -> Box<dyn Walker> {
                    Box::new($walker)
                }
            }
        }
    };
}

engine_with! {
    [dirty_log discard invalidate populate races slots split stress teardown]
    arm64_4k: slat::format::Arm64 = Format::new(40).unwrap(), arm64::Stage2::new(arm64::Vtcr::for_ipa_bits(40).unwrap()), 12, 0..2;
    arm64_4k_hd: slat::format::Arm64Hd = Format::new(40).unwrap(), under(Format::new(40), false), 12, 9..10;
    arm64_4k_bbm2: slat::format::Arm64Bbm2 = Format::new(40).unwrap(), mixing(Format::new(40).unwrap()), 12, 14..16;
    arm64_4k_hd_bbm2: slat::format::Stage2<12, false, false, true, false, true> = Format::new(40).unwrap(), mixing(Format::new(40).unwrap()), 12, 16..17;
    // Here the CPU sets the access flag itself, with sv57x4 both flags.
    arm64_4k_fwb: slat::format::Arm64Fwb = Format::new(40).unwrap(), under(Format::new(40), true), 12, 5..6;
    arm64_4k_lpa2: slat::format::Arm64Lpa2 = Format::with_levels(52, 5).unwrap(), under(Format::with_levels(52, 5), false), 12, 6..7;
    ept: slat::format::Ept = Format::new(), ept::Ept::new(), 12, 0..2;
    ept_ad: slat::format::EptAd = Format::new(), ept::Ept::of(ept::Processor::default(), true), 12, 10..11;
    ept_5: slat::format::Ept5 = Format::new(), ept::Ept::new().with_five_levels(), 12, 2..3;
    npt: slat::format::Npt = Format::new(), npt::Npt::new(), 12, 7..8;
    npt_ad: slat::format::NptAd = Format::new(), npt::Npt::new(), 12, 11..12;
    npt_5: slat::format::Npt5 = Format::new(), npt::Npt::new().with_five_levels(), 12, 8..9;
    sv39x4: slat::format::Sv39x4 = Format::new(), riscv::GStage::new(riscv::Mode::Sv39x4), 12, 2..3;
    sv48x4: slat::format::Sv48x4 = Format::new(), riscv::GStage::new(riscv::Mode::Sv48x4), 12, 3..4;
    sv48x4_adu: slat::format::Sv48x4Adu = Format::new(), riscv::GStage::of(riscv::Mode::Sv48x4, updating()), 12, 12..13;
    sv57x4: slat::format::Sv57x4 = Format::new(), riscv::GStage::of(riscv::Mode::Sv57x4, updating()), 12, 4..5;
    arm64_4k_lpa2_fwb: slat::format::Arm64Lpa2Fwb = Format::new(52).unwrap(), under(Format::new(52), false), 12, 14..15;
    arm64_16k: slat::format::Arm64_16k = Format::new(40).unwrap(), under(Format::new(40), false), 14, 9..10;
    arm64_16k_lpa2_fwb: slat::format::Arm64_16kLpa2Fwb = Format::new(52).unwrap(), under(Format::new(52), false), 14, 10..11;
    arm64_64k: slat::format::Arm64_64k = Format::new(46).unwrap(), under(Format::new(46), false), 16, 11..12;
    arm64_64k_fwb: slat::format::Arm64_64kFwb = Format::new(52).unwrap(), under(Format::new(52), true), 16, 15..16;
}

// Contiguous groups have tests of their own beside.
engine_with! {
    [dirty_log discard groups invalidate populate races slots split stress teardown]
    arm64_4k_contiguous: slat::format::Arm64Contiguous = Format::new(40).unwrap(), under(Format::new(40), false), 12, 0..2;
    arm64_4k_contiguous_bbm2: slat::format::Stage2<12, false, false, false, true, true> = Format::new(40).unwrap(), mixing(Format::new(40).unwrap()), 12, 2..3;
    arm64_16k_contiguous: slat::format::Arm64_16kContiguous = Format::new(40).unwrap(), under(Format::new(40), false), 14, 16..17;
    arm64_64k_contiguous: slat::format::Arm64_64kContiguous = Format::new(46).unwrap(), under(Format::new(46), false), 16, 17..18;
    sv48x4_napot: slat::format::Sv48x4Napot = Format::new(), riscv::GStage::of(riscv::Mode::Sv48x4, riscv::Hart { naturally_aligned_sets: true, ..riscv::Hart::default() }), 12, 13..14;
}

/// The walker under the format's own value of VTCR_EL2, the CPU setting the access flag itself or not.
fn under<const GRANULE: u8, const LPA2: bool, const FWB: bool, const HD: bool, const GROUPS: bool>(
    format: Result<slat::format::Stage2<GRANULE, LPA2, FWB, HD, GROUPS>, slat::format::Arm64Error>,
    manages_access_flag: bool,
) -> arm64::Stage2 {
    let vtcr = format.expect("a format").vtcr(6, false, manages_access_flag);
    let walker = arm64::Stage2::new(arm64::Vtcr::decode(vtcr).expect("a register's value"));
    if FWB { walker.with_forced_write_back() } else { walker }
}

/// The walker of a CPU with FEAT_BBML2 under the format's own value of VTCR_EL2.
fn mixing<const HD: bool, const GROUPS: bool>(
    format: slat::format::Stage2<12, false, false, HD, GROUPS, true>,
) -> arm64::Stage2 {
    let vtcr = arm64::Vtcr::decode(format.vtcr(5, false, false)).expect("a register's value");
    arm64::Stage2::new(vtcr).with_mixed_sizes()
}

/// A hart that sets accessed and dirty flags itself.
fn updating() -> riscv::Hart {
    riscv::Hart { updates_flags: true, ..riscv::Hart::default() }
}
