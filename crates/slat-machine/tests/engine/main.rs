//! The engine on the machine: guests that run, and what they see. Here with arm64 tables; `ept.rs` is the same with EPT.

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

/// What is tested: a format, and the walker that was written from the same architecture's manual.
mod subject {
    use slat_machine::walk::Walker;
    use slat_machine::walk::arm64::{Stage2, Vtcr};

    pub(crate) type Format = slat::format::Arm64;

    const BITS: u32 = 40;

    pub(crate) fn format() -> Format {
        Format::new(BITS).unwrap()
    }

    pub(crate) fn walker() -> Box<dyn Walker> {
        Box::new(Stage2::new(Vtcr::for_ipa_bits(BITS).unwrap()))
    }
}
