//! What is checked: a format, the walker from the same architecture's manual, and the rules that go with them.

use std::sync::Arc;

use slat::addr::Level;
use slat::format::{Arm64, Ept, Format};
use slat_machine::checker::Discipline;
use slat_machine::walk::arm64::{Stage2, Vtcr};
use slat_machine::walk::{Walker, ept};

pub(crate) trait Subject {
    type Format: Format;

    const NAME: &'static str;
    /// Whether the architecture wants break-before-make.
    const BREAKS: bool;
    /// A word that the architecture reserves, at the page level, if there is one.
    const RESERVED: Option<u64>;

    fn format() -> Self::Format;
    fn boxed_walker() -> Box<dyn Walker>;
    /// A leaf that software made old, where that is invalid to hardware without being a fault of its own.
    fn is_old(word: u64) -> bool;

    fn discipline(cores: u32) -> Discipline {
        Discipline {
            walker: Arc::from(Self::boxed_walker()),
            root_level: Self::format().geometry().root_level(),
            locked: Self::Format::LOCKED,
            frozen: Self::Format::FROZEN,
            is_old: Self::is_old,
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
        Box::new(Stage2::new(Vtcr { ps: 4, ..Vtcr::for_ipa_bits(40).unwrap() }))
    }

    fn is_old(_: u64) -> bool {
        false
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
