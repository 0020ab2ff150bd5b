//! What is checked: a format, the walker from the same architecture's manual, and the rules that go with them.

use std::sync::Arc;

use slat::addr::Level;
use slat::format::{
    Arm64, Arm64_16k, Arm64_16kLpa2, Arm64_64k, Arm64Bbm2, Arm64Contiguous, Arm64Error, Arm64Fwb, Arm64Hd, Arm64Lpa2,
    Ept, Ept5, Ept5Ad, EptAd, Format, Npt, Npt5, Npt5Ad, NptAd, Stage2, Sv39x4, Sv48x4, Sv48x4Adu, Sv48x4Napot, Sv57x4,
    Sv57x4Adu,
};
use slat_machine::checker::{Discipline, Owned};
use slat_machine::walk::{Walker, arm64, ept, npt, riscv};

/// What an architecture asks for, and how software's own bits are told: not `slat::format`'s word for it.
pub(crate) struct Rules {
    /// Whether it wants break-before-make.
    pub(crate) breaks: bool,
    /// A leaf that software made old, where that is invalid to hardware without being a fault of its own.
    is_old: fn(u64) -> bool,
    /// Bits that are nothing but software's notes, in leaves: that writing may come back.
    pub(crate) notes: u64,
    /// A word that hardware uses while one thread changes the size of what it maps.
    owned: fn(u64, Level) -> Option<Owned>,
    /// Whether a flush by address may spare either of two leaves of different sizes.
    spares_doubled: bool,
    /// The mark of pointers to tables that have annotations below.
    pub(crate) kept: u64,
    /// A word that is reserved at the page level.
    pub(crate) reserved: u64,
}

/// An output address beyond what there is is reserved.
const ARM64: Rules = Rules { notes: 1 << 55, kept: 1 << 56, reserved: 1 << 47 | 0b11 | 1 << 10, ..NONE };
/// Hardware may hold leaves of two sizes for one address (FEAT_BBML2).
const ARM64_BBM2: Rules = Rules { notes: 0b1111 << 55, owned: owned_of_two_sizes, spares_doubled: true, ..ARM64 };
/// Old leaves have their permissions in bits that the processor ignores, under bit 55; writing without reading is reserved.
const EPT: Rules =
    Rules { breaks: false, is_old: |word| word >> 55 & 1 != 0, notes: 1 << 56, kept: 1 << 59, reserved: 0b010, ..NONE };
/// Old leaves are not present, and have bit 9; address bits that the processor does not have are reserved.
const NPT: Rules = Rules {
    breaks: false,
    is_old: |word| word & (1 | 1 << 9) == 1 << 9,
    notes: 1 << 11,
    kept: 1 << 10,
    reserved: 1 << 50 | 0b111,
    ..NONE
};
/// Writing without reading is reserved.
const RISCV: Rules = Rules { breaks: false, notes: 1 << 8, kept: 1 << 9, reserved: 0b101, ..NONE };
/// What needs no word.
const NONE: Rules = Rules {
    breaks: true,
    is_old: |_| false,
    notes: 0,
    owned: |_, _| None,
    spares_doubled: false,
    kept: 0,
    reserved: 0,
};

/// Bits that hardware leaves to software: a table is held without bit 58; a leaf is owned with bit 56, and held with bit 57
/// beside it.
fn owned_of_two_sizes(word: u64, level: Level) -> Option<Owned> {
    let bit = |number: u32| word >> number & 1 != 0;
    match (bit(0), bit(1) && level > PAGE) {
        (false, _) => None,
        (true, true) => (!bit(58)).then_some(Owned::Held),
        (true, false) if !bit(56) => None,
        (true, false) => Some(if bit(57) { Owned::Held } else { Owned::Frozen }),
    }
}

pub(crate) trait Subject: 'static {
    type Format: Format;

    const NAME: &'static str = Self::Format::NAME;
    const RULES: Rules;

    fn format() -> Self::Format;
    fn boxed_walker() -> Box<dyn Walker>;

    fn discipline(cores: u32) -> Discipline {
        Discipline {
            walker: Arc::from(Self::boxed_walker()),
            root_level: Self::format().geometry().root_level(),
            locked: Self::Format::LOCKED,
            frozen: Self::Format::FROZEN,
            is_old: Self::RULES.is_old,
            notes: Self::RULES.notes,
            owned: Self::RULES.owned,
            kept: Self::RULES.kept,
            breaks: Self::RULES.breaks,
            spares_doubled: Self::RULES.spares_doubled,
            vmid: VMID,
            cores: u64::MAX >> (64 - cores),
        }
    }

    /// Whether it is one of the few that get the long runs.
    fn is_thorough() -> bool {
        [Arm::NAME, ArmHd::NAME, ArmContiguous::NAME, X86::NAME].contains(&Self::NAME)
    }

    /// Bytes of a page, and of what an entry above the page level covers.
    fn size(level: Level) -> u64 {
        Self::format().geometry().size(level)
    }
}

pub(crate) const VMID: u16 = 7;
pub(crate) const PAGE: Level = Level::PAGE;

/// Each format in a line: its type, a value of it, the walker, the rules; and what is done with all of them.
macro_rules! subjects {
    ($($test:ident = $name:ident: $format:ty = $value:expr, $walker:expr, $rules:expr;)+) => {
        $(
            pub(crate) struct $name;

            impl Subject for $name {
                type Format = $format;
                const RULES: Rules = $rules;

                fn format() -> $format {
                    $value
                }

                fn boxed_walker() -> Box<dyn Walker> {
                    Box::new($walker)
                }
            }
        )+

        /// Does `$what::<S>($arguments)` with every subject, in order.
        macro_rules! with_every_subject {
            ($what:ident $arguments:tt) => {
                $($what::<$crate::subject::$name> $arguments;)+
            };
        }

        /// A test of every subject, in a module of its own: `$what::<S>()`.
        macro_rules! test_every_subject {
            ($module:ident: $what:ident) => {
                mod $module {
                    $(#[test]
                    fn $test() {
                        super::$what::<$crate::subject::$name>();
                    })+
                }
            };
        }

        /// Something that can be done with any format.
        pub(crate) trait WithSubject {
            type Output;
            fn with<S: Subject>(self) -> Self::Output;
        }

        /// Does it with the format of this name, if there is one.
        pub(crate) fn with_name<W: WithSubject>(name: &str, what: W) -> Option<W::Output> {
            $(if name == <$name as Subject>::NAME {
                return Some(what.with::<$name>());
            })+
            None
        }
    };
}

subjects! {
    arm64 = Arm: Arm64 = Self::Format::new(40).unwrap(), arm64::Stage2::new(arm64::Vtcr { ps: 4, ..arm64::Vtcr::for_ipa_bits(40).unwrap() }), ARM64;
    arm64_hd = ArmHd: Arm64Hd = Self::Format::new(40).unwrap(), under(Self::Format::new(40), false), ARM64;
    arm64_contiguous = ArmContiguous: Arm64Contiguous = Self::Format::new(40).unwrap(), under(Self::Format::new(40), false), ARM64;
    arm64_bbm2 = ArmBbm2: Arm64Bbm2 = Self::Format::new(40).unwrap(), under(Self::Format::new(40), false).with_mixed_sizes(), ARM64_BBM2;
    // Here the CPU sets the access flag itself.
    arm64_fwb = ArmFwb: Arm64Fwb = Self::Format::new(40).unwrap(), under(Self::Format::new(40), true).with_forced_write_back(), ARM64;
    arm64_lpa2 = ArmLpa2: Arm64Lpa2 = Self::Format::with_levels(52, 5).unwrap(), under(Self::Format::with_levels(52, 5), false), ARM64;
    arm64_16k = Arm16k: Arm64_16k = Self::Format::new(40).unwrap(), under(Self::Format::new(40), false), ARM64;
    arm64_16k_lpa2 = Arm16kLpa2: Arm64_16kLpa2 = Self::Format::new(52).unwrap(), under(Self::Format::new(52), false), ARM64;
    arm64_64k = Arm64k: Arm64_64k = Self::Format::new(46).unwrap(), under(Self::Format::new(46), false), ARM64;
    ept = X86: Ept = Self::Format::new(), ept::Ept::new(), EPT;
    ept_ad = X86Ad: EptAd = Self::Format::new(), ept::Ept::of(ept::Processor::default(), true), EPT;
    ept_5 = X86Five: Ept5 = Self::Format::new(), ept::Ept::new().with_five_levels(), EPT;
    ept_5_ad = X86FiveAd: Ept5Ad = Self::Format::new(), ept::Ept::of(ept::Processor::default(), true).with_five_levels(), EPT;
    npt = Amd: Npt = Self::Format::new(), npt::Npt::new(), NPT;
    npt_ad = AmdAd: NptAd = Self::Format::new(), npt::Npt::new(), NPT;
    npt_5 = AmdFive: Npt5 = Self::Format::new(), npt::Npt::new().with_five_levels(), NPT;
    npt_5_ad = AmdFiveAd: Npt5Ad = Self::Format::new(), npt::Npt::new().with_five_levels(), NPT;
    sv39x4 = RiscThree: Sv39x4 = Self::Format::new(), riscv::GStage::new(riscv::Mode::Sv39x4), RISCV;
    sv48x4 = Risc: Sv48x4 = Self::Format::new(), riscv::GStage::new(riscv::Mode::Sv48x4), RISCV;
    sv48x4_adu = RiscAdu: Sv48x4Adu = Self::Format::new(), riscv::GStage::of(riscv::Mode::Sv48x4, UPDATING), RISCV;
    sv48x4_napot = RiscNapot: Sv48x4Napot = Self::Format::new(), riscv::GStage::of(riscv::Mode::Sv48x4, NAPOT), RISCV;
    sv57x4 = RiscFive: Sv57x4 = Self::Format::new(), riscv::GStage::new(riscv::Mode::Sv57x4), RISCV;
    sv57x4_adu = RiscFiveAdu: Sv57x4Adu = Self::Format::new(), riscv::GStage::of(riscv::Mode::Sv57x4, UPDATING), RISCV;
}
#[allow(clippy::single_component_path_imports)] // the macros' way out of this module
pub(crate) use {test_every_subject, with_every_subject};

/// A hart that sets accessed and dirty flags itself.
const UPDATING: riscv::Hart = riscv::Hart { updates_flags: true, naturally_aligned_sets: false, memory_types: true };
/// A hart that takes sets of pages.
const NAPOT: riscv::Hart = riscv::Hart { updates_flags: false, naturally_aligned_sets: true, memory_types: true };

/// The walker under the format's own value of VTCR_EL2 with 44 bits of physical address, the CPU setting the access flag
/// itself or not.
fn under<const GRANULE: u8, const LPA2: bool, const FWB: bool, const HD: bool, const GROUPS: bool, const BBM2: bool>(
    format: Result<Stage2<GRANULE, LPA2, FWB, HD, GROUPS, BBM2>, Arm64Error>,
    manages_access_flag: bool,
) -> arm64::Stage2 {
    let vtcr = format.expect("a format").vtcr(4, false, manages_access_flag);
    arm64::Stage2::new(arm64::Vtcr::decode(vtcr).expect("a register's value"))
}
