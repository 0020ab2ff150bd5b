//! What is checked: a format, the walker from the same architecture's manual, and the rules that go with them.

use std::sync::Arc;

use slat::addr::Level;
use slat::format::{Arm64, Arm64Bbm2, Ept, Format};
use slat_machine::checker::{Discipline, Owned};
use slat_machine::walk::arm64::{Stage2, Vtcr};
use slat_machine::walk::{Walker, ept};

pub(crate) trait Subject {
    type Format: Format;

    const NAME: &'static str;
    /// Whether the architecture wants break-before-make.
    const BREAKS: bool;
    /// A word that the architecture reserves, at the page level, if there is one.
    const RESERVED: Option<u64>;
    /// Bits that are nothing but software's notes.
    const NOTES: u64 = 0;

    fn format() -> Self::Format;
    fn boxed_walker() -> Box<dyn Walker>;
    /// A leaf that software made old, where that is invalid to hardware without being a fault of its own.
    fn is_old(_word: u64) -> bool {
        false
    }
    /// A word that hardware uses while one thread changes the size of what it maps.
    fn owned(_word: u64, _level: Level) -> Option<Owned> {
        None
    }

    fn discipline(cores: u32) -> Discipline {
        Discipline {
            walker: Arc::from(Self::boxed_walker()),
            root_level: Self::format().geometry().root_level(),
            locked: Self::Format::LOCKED,
            frozen: Self::Format::FROZEN,
            is_old: Self::is_old,
            notes: Self::NOTES,
            owned: Self::owned,
            breaks: Self::BREAKS,
            vmid: VMID,
            cores: u64::MAX >> (64 - cores),
        }
    }
}

pub(crate) const VMID: u16 = 7;
pub(crate) const PAGE: Level = Level::PAGE;

/// arm64 stage 2.
pub(crate) struct Arm;

impl Subject for Arm {
    type Format = Arm64;

    const NAME: &'static str = "arm64";
    const BREAKS: bool = true;
    /// An output address of 48 bits, where physical addresses have 44.
    const RESERVED: Option<u64> = Some(1 << 47 | 0b11 | 1 << 10);

    fn format() -> Arm64 {
        Arm64::new(40).unwrap()
    }

    fn boxed_walker() -> Box<dyn Walker> {
        Box::new(arm_walker())
    }
}

/// Physical addresses of 44 bits.
fn arm_walker() -> Stage2 {
    Stage2::new(Vtcr { ps: 4, ..Vtcr::for_ipa_bits(40).unwrap() })
}

/// arm64 stage 2 on CPUs with FEAT_BBML2.
pub(crate) struct ArmBbm2;

impl Subject for ArmBbm2 {
    type Format = Arm64Bbm2;

    const NAME: &'static str = "arm64-bbm2";
    const BREAKS: bool = true;
    const RESERVED: Option<u64> = Arm::RESERVED;
    const NOTES: u64 = 0b1111 << 55;

    fn format() -> Arm64Bbm2 {
        Arm64Bbm2::new(40).unwrap()
    }

    fn boxed_walker() -> Box<dyn Walker> {
        Box::new(arm_walker().with_mixed_sizes())
    }

    /// Bits that hardware leaves to software: a table is held without bit 58; a leaf is owned with bit 56, and held with bit
    /// 57 beside it.
    fn owned(word: u64, level: Level) -> Option<Owned> {
        let bit = |number: u32| word >> number & 1 != 0;
        match (bit(0), bit(1) && level > PAGE) {
            (false, _) => None,
            (true, true) => (!bit(58)).then_some(Owned::Held),
            (true, false) if !bit(56) => None,
            (true, false) => Some(if bit(57) { Owned::Held } else { Owned::Frozen }),
        }
    }
}

/// x86 EPT.
pub(crate) struct X86;

impl Subject for X86 {
    type Format = Ept;

    const NAME: &'static str = "ept";
    const BREAKS: bool = false;
    /// Writing without reading.
    const RESERVED: Option<u64> = Some(0b010);

    fn format() -> Ept {
        Ept::new()
    }

    fn boxed_walker() -> Box<dyn Walker> {
        Box::new(ept::Ept::new())
    }

    /// Bit 55: the permissions lie in bits that the processor ignores.
    fn is_old(word: u64) -> bool {
        word >> 55 & 1 != 0
    }
}
