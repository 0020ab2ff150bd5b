//! Ageing, as a host that looks for memory to take back does it.

use super::Budget;
use super::handle::{Handle, VmRef};
use super::worker::{ENTRIES_PER_SECTION, RangeError, Worker};
use crate::addr::{Gpa, GpaRange};
use crate::space::Visit;

/// How far ageing came, and what it found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use = "the operation may not be finished"]
pub struct Aged {
    /// Where it goes on; `None` when it is finished.
    pub next: Option<Gpa>,
    /// Leaves, of any size, that the guest has accessed since they were last aged.
    pub young: u64,
}

impl<R: VmRef> Worker<R> {
    /// Counts the leaves of `range` that were accessed since they were last aged, and clears their accessed flag: the next
    /// access sets it again, by hardware or by a fault ([`Outcome::Accessed`](super::Outcome::Accessed)).
    ///
    /// Flushes nothing: a CPU that still caches a leaf may use it without setting the flag, so a leaf may look old that is
    /// not. Entries that somebody is changing are passed over.
    pub fn age(&mut self, range: GpaRange, budget: Budget) -> Result<Aged, RangeError> {
        self.look_at_age(range, true, budget)
    }

    /// As [`age`](Self::age), clearing nothing.
    pub fn test_young(&mut self, range: GpaRange, budget: Budget) -> Result<Aged, RangeError> {
        self.look_at_age(range, false, budget)
    }

    fn look_at_age(&mut self, range: GpaRange, forget: bool, budget: Budget) -> Result<Aged, RangeError> {
        self.check(range)?;
        let Handle { vm, member } = &mut self.handle;
        let space = &vm.vm().space;
        let mut young = 0;
        let (mut at, mut left) = (range.start(), budget.get());
        loop {
            let section = space.domain.enter(&mut member.reader);
            let visit = Visit { space, section: section.inside(), tally: section.tally() };
            let reached = visit.age(range.from(at), forget, left.min(ENTRIES_PER_SECTION), &mut young);
            left = left.saturating_sub(reached.visited.max(1));
            match reached.next {
                Some(next) if left > 0 => at = next,
                next => return Ok(Aged { next, young }),
            }
        }
    }
}
