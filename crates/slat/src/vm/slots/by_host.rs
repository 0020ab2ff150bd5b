//! The slots in the order of the host memory behind them: whose memory a range is, without a look at every slot.

use alloc::vec::Vec;

use crate::addr::{HostAddress, HostRange};
use crate::reclaim::OutOfMemory;

/// See the module. Slots may share memory.
pub(super) struct ByHost(Vec<Place>);

/// One slot's memory.
struct Place {
    memory: HostRange,
    /// The highest end of this memory and of all that begins before it: where it is too low, nothing before this place
    /// reaches further.
    reach: HostAddress,
    /// The slot's index in the snapshot.
    index: usize,
}

impl ByHost {
    pub(super) const fn empty() -> Self {
        Self(Vec::new())
    }

    /// Of the memory of each slot, in the order of the snapshot.
    pub(super) fn of(slots: impl ExactSizeIterator<Item = HostRange>) -> Result<Self, OutOfMemory> {
        let mut places = Vec::new();
        places.try_reserve_exact(slots.len()).map_err(|_| OutOfMemory)?;
        places.extend(slots.enumerate().map(|(index, memory)| Place { memory, reach: memory.end(), index }));
        places.sort_unstable_by_key(|place| (place.memory.start(), place.index));
        let mut reach = HostAddress::new(0);
        for place in &mut places {
            reach = reach.max(place.memory.end());
            place.reach = reach;
        }
        Ok(Self(places))
    }

    /// The slots with some of `memory`, by their indices. The order depends on these slots alone.
    pub(super) fn overlapping(&self, memory: HostRange) -> impl Iterator<Item = usize> {
        let before_its_end = self.0.partition_point(|place| place.memory.start() < memory.end());
        let candidates = self.0[..before_its_end].iter().rev().take_while(move |place| place.reach > memory.start());
        candidates.filter(move |place| place.memory.overlaps(memory)).map(|place| place.index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(start: u64, len: u64) -> HostRange {
        HostRange::with_len(HostAddress::new(start), len).unwrap()
    }

    #[test]
    fn every_arrangement_of_three_slots_is_searched_as_if_one_by_one() {
        let all: Vec<_> = (0..5).flat_map(|start| (1..=4).map(move |len| range(start, len))).collect();
        let queries: Vec<_> = (0..9).flat_map(|start| (0..=4).map(move |len| range(start, len))).collect();
        for slots in all.iter().flat_map(|a| all.iter().flat_map(|b| all.iter().map(|c| [*a, *b, *c]))) {
            let by_host = ByHost::of(slots.into_iter()).unwrap();
            for query in &queries {
                let found: Vec<_> = by_host.overlapping(*query).collect();
                let mut expected: Vec<_> = (0..3).filter(|index| slots[*index].overlaps(*query)).collect();
                expected.sort_unstable_by_key(|index| core::cmp::Reverse((slots[*index].start(), *index)));
                assert_eq!(found, expected, "{query} in {slots:?}");
            }
        }
        assert_eq!(ByHost::empty().overlapping(range(0, 9)).count(), 0);
    }
}
