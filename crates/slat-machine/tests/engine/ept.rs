//! The engine on the machine with EPT: the tests of `main.rs`, every one.

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
    use slat_machine::walk::{Walker, ept};

    pub(crate) type Format = slat::format::Ept;

    pub(crate) fn format() -> Format {
        Format::new()
    }

    pub(crate) fn walker() -> Box<dyn Walker> {
        Box::new(ept::Ept::new())
    }
}
