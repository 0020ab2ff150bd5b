//! Bounded work: how much a call may do, and how far it came (R9).

use crate::addr::Gpa;

/// How many looks at table entries one call of a range operation may take. It takes at least one, and may finish the
/// region of 512 pages or the flush that it is in. A look that meets somebody else's work counts, too: a call with a very
/// small budget may come no further than it began. Call again.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Budget(u64);

impl Budget {
    /// As much as there is to do.
    pub const UNLIMITED: Self = Self(u64::MAX);

    /// At most `entries` entries; 0 is taken as 1.
    pub const fn entries(entries: u64) -> Self {
        Self(if entries == 0 { 1 } else { entries })
    }

    pub(crate) const fn get(self) -> u64 {
        self.0
    }
}

/// How far a range operation came.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use = "the operation may not be finished"]
pub struct Progress {
    /// Where it goes on; `None` when it is finished.
    pub next: Option<Gpa>,
    /// Entries changed by this call.
    pub changed: u64,
    /// Whether a block that the range covers in part was taken whole, for want of a table to split it with.
    pub widened: bool,
}

impl Progress {
    /// Whether nothing is left to do.
    pub const fn is_done(&self) -> bool {
        self.next.is_none()
    }
}
