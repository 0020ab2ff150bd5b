//! Mapping a range before the guest asks for it.

use super::fault::{Fault, Outcome, Step};
use super::handle::{Handle, VmRef};
use super::slots::LastUsed;
use super::worker::{AtomicsOf, RangeError, Worker};
use super::{Budget, Progress};
use crate::addr::{Gpa, GpaRange, Level};
use crate::host::{Access, Backing, Request, Tlb};
use crate::reclaim::OutOfMemory;
use crate::space::Visit;

/// Why a range was not mapped any further.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum PrefaultError {
    /// The range was refused.
    Range(RangeError),
    /// A fault at this address would not be served, for the reason given.
    Refused(Gpa, Outcome),
    /// There is no memory for tables; what was mapped stays.
    OutOfMemory,
}

impl core::fmt::Display for PrefaultError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Range(error) => error.fmt(f),
            Self::Refused(gpa, outcome) => write!(f, "a fault at {gpa} would not be served: {outcome:?}"),
            Self::OutOfMemory => OutOfMemory.fmt(f),
        }
    }
}

impl core::error::Error for PrefaultError {}

impl From<RangeError> for PrefaultError {
    fn from(error: RangeError) -> Self {
        Self::Range(error)
    }
}

impl From<OutOfMemory> for PrefaultError {
    fn from(_: OutOfMemory) -> Self {
        Self::OutOfMemory
    }
}

/// How often a range is tried again where somebody else is at work, before the caller is asked to come back.
const TRIES: u64 = 64;

impl<R: VmRef> Worker<R> {
    /// Maps `range` as faults with `access` would, in one pass: a table of pages that is missing is filled before it is
    /// linked, and published with one store. Under a log, `access` [`Access::Write`] marks what it maps; any other access
    /// leaves it to be marked by the first write.
    ///
    /// Allocates the tables it needs. Progress counts entries published. Flushes nothing unless it has to split a block or
    /// to replace a leaf.
    pub fn prefault(&mut self, range: GpaRange, access: Access, budget: Budget) -> Result<Progress, PrefaultError> {
        self.check(range)?;
        let mut progress = Progress { next: None, changed: 0, widened: false };
        let (mut at, mut left, mut tries) = (range.start(), budget.get(), 0);
        let mut last_used = LastUsed::default();
        while at < range.end() {
            if left == 0 || tries == TRIES {
                progress.next = Some(at);
                return Ok(progress);
            }
            left -= 1;
            let (outcome, filled) = self.prefault_at(at, range, access, &mut last_used);
            match outcome {
                Outcome::Mapped { level, .. } if filled > 0 => {
                    progress.changed += filled;
                    tries = 0;
                    (0..filled).for_each(|_| at = self.end_of(at, level));
                }
                Outcome::Mapped { level, .. } | Outcome::Relaxed { level } | Outcome::Accessed { level } => {
                    progress.changed += 1;
                    tries = 0;
                    at = self.end_of(at, level);
                }
                Outcome::Spurious => at = self.end_of(at, Level::PAGE),
                Outcome::NeedTables(tables) => self.top_up(tables.into())?,
                Outcome::Retry => {
                    tries += 1;
                    self.handle.vm.vm().space.host.relax();
                }
                Outcome::Gone => return Err(RangeError::Gone.into()),
                refused => return Err(PrefaultError::Refused(at, refused)),
            }
        }
        Ok(progress)
    }

    fn end_of(&self, at: Gpa, level: Level) -> Gpa {
        self.handle.vm.vm().space.geometry().span(at, level).end()
    }

    /// Maps what is next: a leaf, or whole tables of pages, whose number it says and whose size is the outcome's.
    fn prefault_at(
        &mut self,
        gpa: Gpa,
        range: GpaRange,
        access: Access,
        last_used: &mut LastUsed<AtomicsOf<R>>,
    ) -> (Outcome, u64) {
        let Handle { vm, member } = &mut self.handle;
        let vm = vm.vm();
        let mut answer = None;
        loop {
            let section = vm.space.domain.enter(&mut member.reader);
            let visit = Visit { space: &vm.space, section: section.inside(), tally: section.tally() };
            let (cache, stash, whole) = (&mut member.cache, &mut None, Some(range));
            let mut fault = Fault { vm, visit, cache, last_used, stash, vcpu: None, gpa, access, whole, filled: 0 };
            let step = fault.serve(answer.take());
            let filled = fault.filled;
            drop(section);
            match step {
                Step::Done(outcome) => return (outcome, filled),
                Step::Blocked(request, ticket) => {
                    let translation = vm.space.host.translate(Request { may_block: true, ..request });
                    answer = Some(super::fault::Answer { ticket, translation });
                }
            }
        }
    }
}
