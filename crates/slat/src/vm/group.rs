//! Faults that make, relax and dissolve contiguous groups.

use super::fault::{Fault, Plan, Step, aligned};
use super::slots::Slot;
use crate::addr::{Hpa, Level};
use crate::format::{Format, Leaf};
use crate::host::{Exposed, Host, Run};
use crate::sync::Atomics;
use crate::table::Position;

/// A group that a fault makes.
#[derive(Clone, Copy)]
pub(super) struct Group {
    /// What its first member maps.
    first: Leaf,
    /// All of its memory.
    pub(super) exposed: Exposed,
}

impl<'a, H: Host, F: Format> Fault<'a, H, F> {
    /// Where the group of `level` around the address would begin in host memory, if slot, run and alignment allow one. None
    /// under a log, where the first write would dissolve it.
    #[inline(always)]
    pub(super) fn group_for<A: Atomics>(&self, slot: &Slot<A>, run: &Run, level: Level) -> Option<Hpa> {
        if self.visit.space.format.group_bits(level) == 0 || slot.log.is_some() {
            return None;
        }
        aligned(slot, run, self.visit.group_span(self.gpa, level))
    }

    /// The group that `plan` allows around the entry at which the path ends, if all of it is empty.
    #[inline(always)]
    pub(super) fn group_to_make(&self, position: Position<'a, H>, plan: &Plan<'a, H::Atomics>) -> Option<Group> {
        let hpa = plan.group?;
        if position.level == plan.level && !self.visit.has_room_for_group(position) {
            return None;
        }
        let first = Leaf { hpa, ..self.visit.space.format.decode(plan.raw, plan.level) };
        let len = self.visit.group_span(self.gpa, plan.level).len();
        Some(Group { first, exposed: Exposed { hpa, len, ..plan.exposed } })
    }

    /// Publishes a group, all of which R4 has to admit.
    #[cold]
    pub(super) fn map_group(
        &mut self,
        position: Position<'a, H>,
        plan: &Plan<'a, H::Atomics>,
        group: Group,
    ) -> Option<Step> {
        let span = self.visit.group_span(self.gpa, plan.level);
        let shards = &self.visit.space.shards;
        let published = self.visit.publish_group(position, group.first, || shards.admits(&plan.ticket, span));
        self.finish_over(published, plan, span)
    }

    /// Gives write permission back to a whole group, or dissolves it: no group becomes writable under a log (R5).
    #[cold]
    pub(super) fn relax_group(&mut self, position: Position<'a, H>) -> Option<Step> {
        if self.is_logged() {
            return self.dissolve(position);
        }
        let is_relaxed = self.visit.relax_group(position);
        // As for a leaf: who turned logging on meanwhile is seen now, or finds the members writable (R6).
        H::Atomics::full_fence();
        let step = self.relaxed(self.visit.group_span(self.gpa, position.level), position.level);
        step.filter(|_| is_relaxed)
    }

    /// Makes leaves of their own of a group of which only one is meant, then looks again.
    #[cold]
    pub(super) fn dissolve(&mut self, position: Position<'a, H>) -> Option<Step> {
        // A member that is locked, or none any more, is what the next look finds.
        let _ = self.visit.dissolve(position, self.gpa);
        None
    }
}
