//! All slots at one moment.

use alloc::vec::Vec;

use super::by_host::ByHost;
use super::{NewSlot, SlotFlags};
use crate::addr::{Gpa, GpaRange, HostAddress, HostRange};
use crate::host::SlotId;
use crate::reclaim::{OutOfMemory, Shared};
use crate::sync::Atomics;
use crate::vm::dirty::Log;

/// A slot as a snapshot holds it: a cache line each, in the order of what a fault looks at.
#[repr(C, align(64))]
pub(crate) struct Slot<A: Atomics> {
    pub(crate) id: SlotId,
    pub(crate) range: GpaRange,
    pub(crate) host: HostAddress,
    pub(crate) flags: SlotFlags,
    /// Being deleted: faults find nothing here, but nothing new may take the place yet.
    pub(crate) dying: bool,
    /// The range's end, or 0 for a slot that is read-only or dying: one look at it lets a fault map a page. Set by the
    /// snapshot.
    pub(crate) plain_end: Gpa,
    pub(crate) log: Option<Shared<Log<A>, A>>,
}

impl<A: Atomics> Clone for Slot<A> {
    fn clone(&self) -> Self {
        Self { log: self.log.clone(), ..*self }
    }
}

impl<A: Atomics> Slot<A> {
    pub(crate) fn new(id: SlotId, slot: &NewSlot, log: Option<Shared<Log<A>, A>>) -> Self {
        let NewSlot { range, host, flags } = *slot;
        Self { id, range, host, flags, dying: false, plain_end: Gpa::new(0), log }
    }

    /// The slot at the end of a move, over `to`. Its log starts with every page marked: what was written on the way, and
    /// what the old log held, is among them.
    pub(crate) fn arrived(self, to: GpaRange, page_shift: u32) -> Result<Self, OutOfMemory> {
        let log = match self.flags.log {
            Some(_) => {
                let log = Log::new(to.start().get() >> page_shift, to.end().get() >> page_shift, true)?;
                log.arm(); // nothing is mapped there yet
                Some(Shared::new(log)?)
            }
            None => None,
        };
        Ok(Self { range: to, dying: false, log, ..self })
    }

    /// The memory behind the slot. Does not leave 64 bits: a slot that would is refused.
    pub(super) fn memory(&self) -> HostRange {
        HostRange::with_len(self.host, self.range.len()).unwrap_or_default()
    }

    /// The slot's pages that have some of `memory` behind them.
    fn part_of(&self, memory: HostRange, page_size: u64) -> Option<GpaRange> {
        let part = self.memory().intersection(memory).filter(|part| !part.is_empty())?;
        let gpa = |host: HostAddress| Gpa::new(self.range.start().get() + (host.get() - self.host.get()));
        let end = Gpa::new(gpa(part.end()).get().next_multiple_of(page_size));
        GpaRange::new(gpa(part.start()).align_down(page_size), end)
    }

    pub(crate) fn host_address(&self, gpa: Gpa) -> HostAddress {
        HostAddress::new(self.host.get().wrapping_add(gpa.get() - self.range.start().get()))
    }
}

/// All slots at one moment, in the order of their addresses.
pub(crate) struct Snapshot<A: Atomics> {
    /// The first address of each slot, apart from the rest: a search touches few cache lines.
    starts: Vec<Gpa>,
    pub(super) slots: Vec<Slot<A>>,
    by_host: ByHost,
}

/// A handle's guess where its next fault will be: the index of the slot of the last one.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct LastUsed(usize);

impl<A: Atomics> Snapshot<A> {
    pub(super) fn empty() -> Self {
        Self { starts: Vec::new(), slots: Vec::new(), by_host: ByHost::empty() }
    }

    /// The slot that holds `gpa`. `last` may be stale in any way: it is checked, and left alone when there is no slot.
    #[inline(always)]
    pub(crate) fn find(&self, gpa: Gpa, last: &mut LastUsed) -> Option<&Slot<A>> {
        match self.slots.get(last.0) {
            Some(slot) if slot.range.contains(gpa) => (!slot.dying).then_some(slot),
            _ => self.search(gpa, last),
        }
    }

    /// The slot that holds `gpa`, dying or not, if the guess is right.
    #[inline(always)]
    pub(crate) fn guess(&self, gpa: Gpa, last: LastUsed) -> Option<&Slot<A>> {
        self.slots.get(last.0).filter(|slot| slot.range.contains(gpa))
    }

    /// As [`guess`](Self::guess), for a slot in which every access may be served.
    #[inline(always)]
    pub(crate) fn guess_plain(&self, gpa: Gpa, last: LastUsed) -> Option<&Slot<A>> {
        self.slots.get(last.0).filter(|slot| slot.range.start() <= gpa && gpa < slot.plain_end)
    }

    #[inline(never)]
    fn search(&self, gpa: Gpa, last: &mut LastUsed) -> Option<&Slot<A>> {
        self.search_any(gpa, last).filter(|slot| !slot.dying)
    }

    /// As [`find`](Self::find), dying slots included: what they map is still written to, and logged.
    #[inline(always)]
    pub(crate) fn find_any(&self, gpa: Gpa, last: &mut LastUsed) -> Option<&Slot<A>> {
        match self.guess(gpa, *last) {
            Some(slot) => Some(slot),
            None => self.search_any(gpa, last),
        }
    }

    #[inline(never)]
    fn search_any(&self, gpa: Gpa, last: &mut LastUsed) -> Option<&Slot<A>> {
        let index = self.starts.partition_point(|&start| start <= gpa).checked_sub(1)?;
        let slot = self.slots.get(index).filter(|slot| slot.range.contains(gpa))?;
        *last = LastUsed(index);
        Some(slot)
    }

    /// The slot with this number, dying ones included.
    pub(crate) fn by_id(&self, id: SlotId) -> Option<&Slot<A>> {
        self.slots.iter().find(|slot| slot.id == id)
    }

    /// The guest addresses, in whole pages, behind which some of `memory` lies; dying slots included: what they map is
    /// still there.
    pub(crate) fn of_host(&self, memory: HostRange, page_size: u64) -> impl Iterator<Item = GpaRange> {
        let part = move |index: usize| self.slots.get(index)?.part_of(memory, page_size);
        self.by_host.overlapping(memory).filter_map(part)
    }

    /// Whether hardware keeps the log of some of `range`, dying slots included.
    pub(crate) fn has_hardware_log(&self, range: GpaRange) -> bool {
        let first = self.starts.partition_point(|&start| start <= range.start()).saturating_sub(1);
        let mut there = self.slots[first..].iter().take_while(|slot| slot.range.start() < range.end());
        there.any(|slot| slot.flags.is_logged_by_hardware() && slot.range.overlaps(range))
    }

    /// A slot that shares addresses with `range`.
    pub(super) fn overlapping(&self, range: GpaRange) -> Option<&Slot<A>> {
        let after = self.starts.partition_point(|&start| start < range.end());
        self.slots.get(after.checked_sub(1)?).filter(|slot| slot.range.overlaps(range))
    }

    /// A copy in which the slot with the number of `changed` is replaced by it, or it is added.
    pub(super) fn with(&self, changed: Slot<A>) -> Result<Self, OutOfMemory> {
        self.rebuilt(changed.id, Some(changed))
    }

    /// A copy without the slot of this number.
    pub(super) fn without(&self, id: SlotId) -> Result<Self, OutOfMemory> {
        self.rebuilt(id, None)
    }

    fn rebuilt(&self, id: SlotId, changed: Option<Slot<A>>) -> Result<Self, OutOfMemory> {
        let mut copy = Self::empty();
        let most = self.slots.len() + 1;
        copy.slots.try_reserve_exact(most).map_err(|_| OutOfMemory)?;
        copy.starts.try_reserve_exact(most).map_err(|_| OutOfMemory)?;
        copy.slots.extend(self.slots.iter().filter(|slot| slot.id != id).cloned());
        if let Some(changed) = changed {
            let place = copy.slots.partition_point(|slot| slot.range.start() < changed.range.start());
            copy.slots.insert(place, changed);
        }
        for slot in &mut copy.slots {
            slot.plain_end = if slot.flags.read_only || slot.dying { Gpa::new(0) } else { slot.range.end() };
        }
        copy.starts.extend(copy.slots.iter().map(|slot| slot.range.start()));
        copy.by_host = ByHost::of(copy.slots.iter().map(Slot::memory))?;
        Ok(copy)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sync::Core;

    fn slot(id: u32, start: u64, end: u64) -> Slot<Core> {
        let range = GpaRange::new(Gpa::new(start), Gpa::new(end)).unwrap();
        let new = NewSlot { range, host: HostAddress::new(0), flags: SlotFlags::default() };
        Slot::new(SlotId(id), &new, None)
    }

    fn snapshot(slots: &[Slot<Core>]) -> Snapshot<Core> {
        slots.iter().fold(Snapshot::empty(), |snapshot, slot| snapshot.with(slot.clone()).unwrap())
    }

    #[test]
    fn a_stale_last_used_slot_is_bounded_and_not_overwritten_on_a_miss() {
        let snapshot = snapshot(&[slot(1, 0x1000, 0x2000), slot(0, 0x5000, 0x9000)]);
        let mut last = LastUsed(77);
        assert!(snapshot.find(Gpa::new(0x3000), &mut last).is_none());
        assert_eq!(last.0, 77, "a miss leaves the guess alone");
        assert_eq!(snapshot.find(Gpa::new(0x8fff), &mut last).unwrap().id, SlotId(0));
        assert_eq!(last.0, 1);
        assert_eq!(snapshot.find(Gpa::new(0x1000), &mut last).unwrap().id, SlotId(1), "a wrong guess is searched past");
        assert!(Snapshot::<Core>::empty().find(Gpa::new(0x1000), &mut last).is_none());
    }

    /// A plain slot, one that is dying, one that is read-only, and one whose log hardware keeps, with and without gaps.
    fn of_all_kinds() -> [Slot<Core>; 4] {
        let mut slots =
            [slot(1, 0x1000, 0x2000), slot(0, 0x5000, 0x9000), slot(2, 0x9000, 0xa000), slot(3, 0xa000, 0xb000)];
        slots[1].dying = true;
        slots[2].flags.read_only = true;
        slots[3].flags.log = Some(crate::vm::slots::LogMode::Hardware);
        slots
    }

    #[test]
    fn every_address_is_found_in_its_slot_by_every_way_to_it() {
        let slots = of_all_kinds();
        let snapshot = snapshot(&slots);
        for (at, guess) in (0..0xd000)
            .step_by(0x7ff)
            .chain([0x1000, 0x1fff, 0x2000, 0x5000, 0x8fff, 0x9000, 0xafff, 0xb000])
            .flat_map(|at| (0..6).map(move |guess| (at, guess)))
        {
            let gpa = Gpa::new(at);
            let expected = slots.iter().position(|slot| slot.range.contains(gpa));
            let id = |index: usize| slots[index].id;
            let guessed = expected.filter(|index| *index == guess);
            let plain = guessed.filter(|index| !slots[*index].dying && !slots[*index].flags.read_only);
            assert_eq!(snapshot.guess(gpa, LastUsed(guess)).map(|slot| slot.id), guessed.map(id));
            assert_eq!(snapshot.guess_plain(gpa, LastUsed(guess)).map(|slot| slot.id), plain.map(id), "{gpa}");
            let mut last = LastUsed(guess);
            assert_eq!(snapshot.find_any(gpa, &mut last).map(|slot| slot.id), expected.map(id));
            assert_eq!(last.0, expected.unwrap_or(guess), "what is not found leaves the guess alone");
            let living = expected.filter(|index| !slots[*index].dying);
            assert_eq!(snapshot.find(gpa, &mut LastUsed(guess)).map(|slot| slot.id), living.map(id));
        }
        assert!(slots.iter().all(|slot| snapshot.by_id(slot.id).map(|found| found.range) == Some(slot.range)));
        assert!(snapshot.by_id(SlotId(7)).is_none());
        let without = snapshot.without(SlotId(0)).unwrap();
        assert!(without.by_id(SlotId(0)).is_none() && without.slots.len() == 3 && without.starts.len() == 3);
    }

    #[test]
    fn a_log_of_hardwares_is_seen_from_every_range_that_has_some_of_it() {
        for kept in 0..4 {
            let mut slots = of_all_kinds();
            slots[3].flags.log = None;
            slots[kept].flags.log = Some(crate::vm::slots::LogMode::Hardware);
            let snapshot = snapshot(&slots);
            for (start, end) in (0..0xd).flat_map(|start| (start + 1..=0xd).map(move |end| (start << 12, end << 12))) {
                let range = GpaRange::new(Gpa::new(start), Gpa::new(end)).unwrap();
                assert_eq!(snapshot.has_hardware_log(range), range.overlaps(slots[kept].range), "{range}");
            }
        }
        let none = Snapshot::<Core>::empty();
        assert!(!none.has_hardware_log(GpaRange::new(Gpa::new(0), Gpa::new(1 << 40)).unwrap()));
    }

    #[test]
    fn r6_a_slot_that_has_moved_lives_and_has_all_of_its_log_marked() {
        let to = GpaRange::new(Gpa::new(0x1_2000), Gpa::new(0x1_6000)).unwrap();
        let [_, leaving, ..] = of_all_kinds();
        let arrived = leaving.clone().arrived(to, 12).unwrap();
        assert!(arrived.range == to && !arrived.dying && arrived.log.is_none());
        let flags = SlotFlags { log: Some(crate::vm::slots::LogMode::Protect), ..leaving.flags };
        let log = Slot { flags, ..leaving }.arrived(to, 12).unwrap().log.expect("it is logged");
        assert_eq!((log.peek(0x12), log.is_armed()), (0b1111, true), "four pages");
    }

    #[test]
    fn a_page_lies_as_far_in_the_memory_as_in_the_slot() {
        let slot = Slot::<Core> { host: HostAddress::new(0x7000_0000), ..slot(0, 0x5000, 0x9000) };
        let host = [0x5000, 0x6000, 0x8fff].map(|gpa| slot.host_address(Gpa::new(gpa)).get());
        assert_eq!(host, [0x7000_0000, 0x7000_1000, 0x7000_3fff]);
        assert_eq!(slot.memory(), HostRange::with_len(HostAddress::new(0x7000_0000), 0x4000).unwrap());
    }

    #[test]
    fn memory_is_found_through_all_slots_that_have_some_of_it() {
        let at = |id: u32, start: u64, host: u64, pages: u64| {
            let range = GpaRange::with_len(Gpa::new(start), pages << 12).unwrap();
            let new = NewSlot { range, host: HostAddress::new(host), flags: SlotFlags::default() };
            Slot::<Core>::new(SlotId(id), &new, None)
        };
        // One large, two behind the same memory, one further on.
        let slots =
            [at(0, 0x10_0000, 0x1000, 16), at(1, 0x2000, 0x3000, 2), at(2, 0x8000, 0x4000, 1), at(3, 0, 0x9_0000, 1)];
        let snapshot = snapshot(&slots);
        let found = |start, end| {
            let memory = HostRange::new(HostAddress::new(start), HostAddress::new(end)).unwrap();
            let mut found: Vec<_> =
                snapshot.of_host(memory, 4096).map(|range| (range.start().get(), range.end().get())).collect();
            found.sort_unstable();
            found
        };
        assert_eq!(found(0x4fff, 0x5000), [(0x3000, 0x4000), (0x8000, 0x9000), (0x10_3000, 0x10_4000)]);
        assert_eq!(found(0x3800, 0x4001), [(0x2000, 0x4000), (0x8000, 0x9000), (0x10_2000, 0x10_4000)], "whole pages");
        assert_eq!(found(0x1_0000, 0x9_0000), [(0x10_f000, 0x11_0000)]);
        assert_eq!(found(0x1_1000, 0x9_0000), []);
        assert_eq!(found(0, u64::MAX).len(), 4);
        assert_eq!(found(0x5000, 0x5000), []);
    }

    #[test]
    fn overlaps_are_found_at_both_ends() {
        let snapshot = snapshot(&[slot(1, 0x2000, 0x4000), slot(2, 0x6000, 0x7000)]);
        let overlapping = |start, end| {
            let range = GpaRange::new(Gpa::new(start), Gpa::new(end)).unwrap();
            snapshot.overlapping(range).map(|slot| slot.id.0)
        };
        assert_eq!(overlapping(0x1000, 0x2000), None);
        assert_eq!(overlapping(0x1000, 0x2001), Some(1));
        assert_eq!(overlapping(0x3000, 0x5000), Some(1));
        assert_eq!(overlapping(0x3000, 0x6000), Some(1), "another begins where the range ends");
        assert_eq!(overlapping(0x4000, 0x6000), None);
        assert_eq!(overlapping(0x1000, 0x9000), Some(2));
        assert_eq!(overlapping(0x7000, 0x9000), None);
    }
}
