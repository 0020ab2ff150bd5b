//! The host memory behind the slots: whose memory a range is, without a look at every slot.

use super::Slot;
use super::sorted::Entry;
use crate::addr::{Gpa, GpaRange, HostAddress, HostRange};
use crate::sync::Atomics;

/// The memory of one slot. Slots may share memory.
#[derive(Clone, Copy)]
pub(super) struct Backing {
    memory: HostRange,
    /// The first guest address that it lies behind.
    start: Gpa,
}

impl Backing {
    pub(super) fn of<A: Atomics>(slot: &Slot<A>) -> Self {
        Self { memory: slot.memory(), start: slot.range.start() }
    }

    /// The slot's pages that have some of `memory` behind them.
    pub(super) fn part_of(&self, memory: HostRange, page_size: u64) -> Option<GpaRange> {
        let part = self.memory.intersection(memory)?;
        let gpa = |host: HostAddress| Gpa::new(self.start.get() + (host.get() - self.memory.start().get()));
        let end = Gpa::new(gpa(part.end()).get().next_multiple_of(page_size));
        GpaRange::new(gpa(part.start()).align_down(page_size), end)
    }
}

impl Entry for Backing {
    /// Of several that begin at one address, no two lie behind the same guest addresses.
    type Key = (HostAddress, Gpa);

    fn key(&self) -> Self::Key {
        (self.memory.start(), self.start)
    }

    fn end(&self) -> Self::Key {
        (self.memory.end(), Gpa::new(0))
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;

    use super::*;
    use crate::sync::Core;
    use crate::vm::slots::sorted::Sorted;

    fn range(start: u64, len: u64) -> HostRange {
        HostRange::with_len(HostAddress::new(start), len).unwrap()
    }

    #[test]
    fn every_arrangement_of_three_slots_is_searched_as_if_one_by_one() {
        let all: Vec<_> = (0..5).flat_map(|start| (1..=4).map(move |len| range(start, len))).collect();
        let queries: Vec<_> = (0..9).flat_map(|start| (0..=4).map(move |len| range(start, len))).collect();
        let part = |index: u64, slot: HostRange, query: HostRange| {
            let part = slot.intersection(query)?;
            let guest = |host: HostAddress| Gpa::new(100 * index + host.get() - slot.start().get());
            GpaRange::new(guest(part.start()), guest(part.end()))
        };
        for slots in all.iter().flat_map(|a| all.iter().flat_map(|b| all.iter().map(|c| [*a, *b, *c]))) {
            let backings = (0..).zip(slots).map(|(index, memory)| Backing { memory, start: Gpa::new(100 * index) });
            let none = Sorted::<Backing, Core>::empty().unwrap();
            let by_host = backings.fold(none, |sorted, backing| sorted.with(backing).unwrap());
            let mut in_order: Vec<_> = (0..).zip(slots).collect();
            in_order.sort_by_key(|(_, memory)| memory.start());
            for &query in &queries {
                let (start, end) = ((query.start(), Gpa::new(0)), (query.end(), Gpa::new(0)));
                let found = by_host.overlapping(start, end).filter_map(|backing| backing.part_of(query, 1));
                let expected = in_order.iter().filter_map(|(index, slot)| part(*index, *slot, query));
                assert!(found.eq(expected), "{query} in {slots:?}");
            }
        }
    }
}
