//! The engine on the machine: guests that run, and what they see. The same tests for every format.
#![allow(clippy::duplicate_mod)] // each file of tests is compiled once for each format

/// All tests, for each format in a line: its type, a value of it, the walker that was written from the same architecture's
/// manual, and the seeds of tests that choose by seed.
macro_rules! engine_with {
    ($($name:ident: $format:ty = $value:expr, $walker:expr, $seeds:expr;)+) => {
        $(#[path = "."]
        mod $name {
            mod common;
            mod dice;
            mod dirty_log;
            mod discard;
            mod invalidate;
            mod populate;
            mod races;
            mod slots;
            mod split;
            mod stage;
            mod stress;
            mod teardown;

            /// What is tested.
            mod subject {
                #[allow(unused_imports)] // not every format needs all of them
                use slat_machine::walk::{Walker, arm64, ept, riscv};
                #[allow(unused_imports)]
                use crate::under;

                pub(crate) type Format = $format;
                pub(crate) const SEEDS: std::ops::Range<u64> = $seeds;

                pub(crate) fn format() -> Format {
                    $value
                }

                pub(crate) fn walker() -> Box<dyn Walker> {
                    Box::new($walker)
                }
            }
        })+
    };
}

engine_with! {
    arm64_4k: slat::format::Arm64 = Format::new(40).unwrap(), arm64::Stage2::new(arm64::Vtcr::for_ipa_bits(40).unwrap()), 0..2;
    arm64_4k_fwb: slat::format::Arm64Fwb = Format::new(40).unwrap(), under(Format::new(40)).with_forced_write_back(), 5..6;
    arm64_4k_lpa2: slat::format::Arm64Lpa2 = Format::with_levels(52, 5).unwrap(), under(Format::with_levels(52, 5)), 6..7;
    ept: slat::format::Ept = Format::new(), ept::Ept::new(), 0..2;
    ept_5: slat::format::Ept5 = Format::new(), ept::Ept::new().with_five_levels(), 2..3;
    sv39x4: slat::format::Sv39x4 = Format::new(), riscv::GStage::new(riscv::Mode::Sv39x4), 2..3;
    sv48x4: slat::format::Sv48x4 = Format::new(), riscv::GStage::new(riscv::Mode::Sv48x4), 3..4;
    sv57x4: slat::format::Sv57x4 = Format::new(), riscv::GStage::new(riscv::Mode::Sv57x4), 4..5;
}

/// arm64 with contiguous groups: the tests that count neither faults nor answers of the host, and one of their own.
#[path = "."]
#[allow(dead_code)]
mod arm64_4k_contiguous {
    mod common;
    mod dice;
    mod dirty_log;
    mod discard;
    mod groups;
    mod slots;
    mod split;
    mod stage;
    mod stress;
    mod teardown;

    mod subject {
        use slat_machine::walk::{Walker, arm64};

        pub(crate) type Format = slat::format::Arm64Contiguous;
        pub(crate) const SEEDS: std::ops::Range<u64> = 0..2;

        pub(crate) fn format() -> Format {
            Format::new(40).unwrap()
        }

        pub(crate) fn walker() -> Box<dyn Walker> {
            Box::new(arm64::Stage2::new(arm64::Vtcr::for_ipa_bits(40).unwrap()))
        }
    }
}

/// The walker under the format's own value of VTCR_EL2.
fn under<const GRANULE: u8, const LPA2: bool, const FWB: bool>(
    format: Result<slat::format::Stage2<GRANULE, LPA2, FWB>, slat::format::Arm64Error>,
) -> slat_machine::walk::arm64::Stage2 {
    let vtcr = format.expect("a format").vtcr(6, false, false);
    slat_machine::walk::arm64::Stage2::new(slat_machine::walk::arm64::Vtcr::decode(vtcr).expect("a register's value"))
}
