//! Notes of the embedder in the place of memory: who owns it, that a device is there, that it is private.

use core::fmt;

use super::handle::{Handle, VmRef};
use super::step::Stepped;
use super::worker::{ENTRIES_PER_SECTION, RangeError, Worker};
use super::{Budget, Progress, Vcpu};
use crate::addr::{Gpa, GpaRange, Level};
use crate::format::{Format, Kind};
use crate::reclaim::OutOfMemory;
use crate::space::Visit;

/// Why a range was not annotated.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum AnnotateError {
    /// The range was refused. Nothing was changed.
    Range(RangeError),
    /// The format's empty entries hold only so many bits. Nothing was changed.
    TooLarge {
        /// How many.
        bits: u32,
    },
    /// There is no memory for the table that an end of the range takes, inside of a block or of an annotation. What was
    /// done stays; calling again with the whole range does the rest.
    OutOfMemory,
}

impl fmt::Display for AnnotateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Range(error) => error.fmt(f),
            Self::TooLarge { bits } => write!(f, "an annotation has at most {bits} bits in this format"),
            Self::OutOfMemory => OutOfMemory.fmt(f),
        }
    }
}

impl core::error::Error for AnnotateError {}

impl From<RangeError> for AnnotateError {
    fn from(error: RangeError) -> Self {
        Self::Range(error)
    }
}

impl From<OutOfMemory> for AnnotateError {
    fn from(_: OutOfMemory) -> Self {
        Self::OutOfMemory
    }
}

impl<R: VmRef> Worker<R> {
    /// Unmaps `range` and notes `annotation` in its place; faults there are answered with
    /// [`Outcome::Annotated`](super::Outcome::Annotated) until it is cleared. To be called until it is done.
    ///
    /// The note costs no memory of its own: it stands in the entries, in as few as there can be. It stays through
    /// unmapping, splitting, collapsing and changes of slots, and belongs to the address, not to the slot. Translation gives
    /// its new answer before the call, as for [`unmap`](Self::unmap). Allocates tables where the range ends inside of a
    /// block. Progress counts entries changed; what was mapped is flushed.
    pub fn annotate(&mut self, range: GpaRange, annotation: u64, budget: Budget) -> Result<Progress, AnnotateError> {
        let bits = R::Format::ANNOTATION.bits;
        if annotation >> bits != 0 {
            return Err(AnnotateError::TooLarge { bits });
        }
        self.check(range)?;
        let space = &self.handle.vm.vm().space;
        let word = R::Format::ANNOTATION.word(annotation);
        // What a fault has looked up before is not published any more, even where the note is gone again by then (R4).
        space.shards.event(range);
        let note = |worker: &mut Self, range, left| worker.remove_leaving(range, word, left);
        Ok(self.until_topped_up(range, budget, note)?)
    }

    /// Clears the annotations of `range`: faults are served there again. To be called until it is done. Allocates tables
    /// where the range ends inside of an annotation that one entry holds. Progress counts annotations cleared; nothing is
    /// flushed.
    pub fn clear_annotations(&mut self, range: GpaRange, budget: Budget) -> Result<Progress, AnnotateError> {
        self.check(range)?;
        Ok(self.until_topped_up(range, budget, Self::clear)?)
    }

    /// What is noted at `gpa`, if anything is.
    pub fn annotation(&mut self, gpa: Gpa) -> Option<u64> {
        self.handle.annotation(gpa)
    }

    fn clear(&mut self, range: GpaRange, budget: u64) -> Stepped {
        let Handle { vm, member } = &mut self.handle;
        let space = &vm.vm().space;
        let (mut changed, mut shortage) = (0, None);
        let section = space.domain.enter(&mut member.reader);
        let visit = Visit { space, section: section.inside(), tally: section.tally() };
        let most = budget.min(ENTRIES_PER_SECTION);
        let reached = visit.clear_annotations(range, &mut member.cache, most, (&mut changed, &mut shortage));
        let progress = Progress { next: reached.next, changed, widened: false };
        Stepped { progress, left: budget.saturating_sub(reached.visited.max(1)), shortage }
    }
}

impl<R: VmRef> Vcpu<R> {
    /// What the embedder has noted at `gpa`, if anything ([`Worker::annotate`]). `None` after a fault that met a note: it is
    /// gone again, let the guest go on.
    pub fn annotation(&mut self, gpa: Gpa) -> Option<u64> {
        self.handle.annotation(gpa)
    }
}

impl<R: VmRef> Handle<R> {
    fn annotation(&mut self, gpa: Gpa) -> Option<u64> {
        let space = &self.vm.vm().space;
        if gpa >= space.end {
            return None;
        }
        let section = space.domain.enter(&mut self.member.reader);
        let visit = Visit { space, section: section.inside(), tally: section.tally() };
        let position = visit.walk(gpa, Level::PAGE)?;
        let is_empty = space.format.kind(position.raw, position.level) == Kind::Empty;
        (is_empty && position.raw != 0).then(|| R::Format::ANNOTATION.read(position.raw))
    }
}
