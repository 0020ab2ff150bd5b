//! The flags of a slot, as far as a page of it is concerned.

use slat::host::Access;
use slat::vm::{LogMode, SlotFlags};

/// Flags of a slot.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Flags {
    /// Whether the guest may not write at all.
    pub read_only: bool,
    /// Whether, and how, writes are logged.
    pub log: Log,
}

/// How writes are logged.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Log {
    /// They are not.
    #[default]
    Off,
    /// No page is marked at first; write permission is withheld, and faults mark what they give it back to.
    Protect,
    /// The same, but every page is marked at first, and none is protected before its mark is taken.
    InitiallySet,
    /// Hardware notes in the entry what it writes to.
    Hardware,
}

impl Flags {
    /// Whether writes are logged.
    pub const fn is_logged(self) -> bool {
        !matches!(self.log, Log::Off)
    }

    /// Whether hardware keeps the log.
    pub const fn is_logged_by_hardware(self) -> bool {
        matches!(self.log, Log::Hardware)
    }

    /// Whether a fault by this access may make a page writable: under a log only a write does.
    pub(crate) const fn let_write(self, access: Access) -> bool {
        !self.read_only && (!self.is_logged() || matches!(access, Access::Write))
    }
}

impl From<SlotFlags> for Flags {
    fn from(flags: SlotFlags) -> Self {
        let log = match flags.log {
            None => Log::Off,
            Some(LogMode::Protect) => Log::Protect,
            Some(LogMode::InitiallySet) => Log::InitiallySet,
            Some(LogMode::Hardware) => Log::Hardware,
        };
        Self { read_only: flags.read_only, log }
    }
}
