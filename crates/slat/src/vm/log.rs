//! Reading and taking a slot's dirty log: what callers pass and get.

use core::fmt;

/// Pages of a slot, by number: page 0 is the slot's first.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Pages {
    /// The first page.
    pub first: u64,
    /// How many.
    pub count: u64,
}

/// How far clearing came.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use = "the operation may not be finished"]
pub struct LogProgress {
    /// The page of the slot where it goes on; `None` when it is finished. A multiple of 64 after the first page asked
    /// for: go on with [`Pages`] from here and the rest of the bitmap's words.
    pub next: Option<u64>,
    /// Leaves protected by this call.
    pub protected: u64,
    /// Whether a block of which only a part was meant was protected whole, for want of a table to split it with.
    pub widened: bool,
}

impl LogProgress {
    /// Whether nothing is left to do.
    pub const fn is_done(&self) -> bool {
        self.next.is_none()
    }
}

/// What a harvest brought.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use = "the operation may not be finished"]
pub struct Harvest {
    /// The page of the slot where it goes on; `None` when it is finished. A multiple of 64 after the first page asked
    /// for: go on with [`Pages`] from here and the rest of the bitmap's words.
    pub next: Option<u64>,
    /// Marks taken by this call.
    pub dirty: u64,
    /// The harvest went through, and after its flush no page it was asked for was marked. With all vCPUs outside of
    /// their faults, a complete harvest was the last one needed; out of their guests, where hardware keeps the log. Says
    /// no, too, while another worker takes marks of the same slot.
    pub complete: bool,
    /// Whether a block of which only a part was meant was protected whole, for want of a table to split it with.
    pub widened: bool,
}

impl Harvest {
    /// Whether nothing is left to do.
    pub const fn is_done(&self) -> bool {
        self.next.is_none()
    }
}

/// Why a log could not be read or taken. Nothing was changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum LogError {
    /// No slot has this number.
    NoSuchSlot,
    /// The slot is not logged.
    NotLogged,
    /// Turning the log on was not carried to its end: call [`set_flags`](super::Worker::set_flags) until it is done.
    Unfinished,
    /// The pages leave the slot.
    OutOfRange {
        /// Pages that the slot has.
        slot_pages: u64,
    },
    /// The bitmap is shorter than the pages need.
    BitmapTooShort {
        /// 64-bit words that the pages need.
        words: usize,
    },
    /// The VM was torn down.
    Gone,
}

impl fmt::Display for LogError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoSuchSlot => f.write_str("no slot has this number"),
            Self::NotLogged => f.write_str("the slot is not logged"),
            Self::Unfinished => f.write_str("turning the log on is not finished"),
            Self::OutOfRange { slot_pages } => write!(f, "the pages leave the slot, which has {slot_pages}"),
            Self::BitmapTooShort { words } => write!(f, "the bitmap needs {words} words"),
            Self::Gone => f.write_str("the VM was torn down"),
        }
    }
}

impl core::error::Error for LogError {}
