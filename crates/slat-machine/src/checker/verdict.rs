//! What can be wrong.

use std::fmt;

/// A broken rule.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Verdict {
    /// A valid entry became another valid one, or was made anew while the old one was cached.
    BreakBeforeMake,
    /// An entry became empty while something of it was cached.
    EmptyWhileCached,
    /// A call returned while what it took away may still be cached.
    ReturnedUnflushed,
    /// A flush covers nothing, or more than what was changed.
    FlushWithoutCause,
    /// A store to an entry by a thread that does not own it.
    NotOwner,
    /// An exchange, an AND or an OR on an entry that others may change.
    BlindChange,
    /// A call returned, or the last one did, and an entry stayed locked or frozen.
    LeftLocked,
    /// A table was freed, or taken apart, while a hardware walker may come to it.
    FreedWhileWalked,
    /// A table was linked that is linked already, not allocated, or not yet forgotten by all walkers.
    DoubleUse,
    /// A table was linked that is neither empty nor full of leaves.
    LinkedUnclean,
    /// Software used a table that was freed, or by a pointer from before it was freed, or that it has read in another stay
    /// inside of the engine.
    UseAfterFree,
    /// Tables were left when the VM was gone.
    Leak,
    /// An entry holds what the architecture reserves.
    Misconfigured,
    /// Memory was taken back, and an access may still reach it.
    ReachesTakenMemory,
    /// Write permission was withdrawn, and a write may still be made.
    WritesWhereWithdrawn,
    /// A write may have been made that the log does not name.
    LostDirtyPage,
    /// A leaf was made of leaves one of which was accessed, and says that it was not.
    AccessForgotten,
    /// The embedder's annotation is not what the tables say.
    AnnotationLost,
    /// An annotation was stored below a table that is not marked for it, or such a table lost its mark or was cut off.
    AnnotationUnguarded,
}

impl Verdict {
    /// Every verdict.
    pub const ALL: [Self; 19] = [
        Self::BreakBeforeMake,
        Self::EmptyWhileCached,
        Self::ReturnedUnflushed,
        Self::FlushWithoutCause,
        Self::NotOwner,
        Self::BlindChange,
        Self::LeftLocked,
        Self::FreedWhileWalked,
        Self::DoubleUse,
        Self::LinkedUnclean,
        Self::UseAfterFree,
        Self::Leak,
        Self::Misconfigured,
        Self::ReachesTakenMemory,
        Self::WritesWhereWithdrawn,
        Self::LostDirtyPage,
        Self::AccessForgotten,
        Self::AnnotationLost,
        Self::AnnotationUnguarded,
    ];

    /// The property that is broken, by its name in `docs/verification.md`.
    pub const fn property(self) -> &'static str {
        match self {
            Self::BreakBeforeMake | Self::NotOwner | Self::BlindChange => "T1",
            Self::EmptyWhileCached | Self::ReturnedUnflushed => "T2",
            Self::FlushWithoutCause => "T3",
            Self::FreedWhileWalked | Self::DoubleUse => "M2",
            Self::UseAfterFree => "M1",
            Self::Leak => "M3",
            Self::LinkedUnclean | Self::Misconfigured => "M4",
            Self::LeftLocked => "M5",
            Self::ReachesTakenMemory => "S2",
            Self::WritesWhereWithdrawn => "S3",
            Self::LostDirtyPage => "S4",
            Self::AccessForgotten => "S6",
            Self::AnnotationLost | Self::AnnotationUnguarded => "S5",
        }
    }
}

/// A rule broken by an event of a trace.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Finding {
    /// The event's number.
    pub event: usize,
    /// What is wrong with it.
    pub verdict: Verdict,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "event {}: {:?} ({})", self.event, self.verdict, self.verdict.property())
    }
}
