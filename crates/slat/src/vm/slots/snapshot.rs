//! All slots at one moment.

use super::by_host::Backing;
use super::by_number::Number;
use super::sorted::{Entry, Sorted};
use super::{NewSlot, SlotFlags};
use crate::addr::{Gpa, GpaRange, HostAddress, HostRange};
use crate::host::SlotId;
use crate::reclaim::{OutOfMemory, Remembered, Shared, Version};
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

    pub(crate) fn host_address(&self, gpa: Gpa) -> HostAddress {
        HostAddress::new(self.host.get().wrapping_add(gpa.get() - self.range.start().get()))
    }
}

impl<A: Atomics> Entry for Slot<A> {
    type Key = Gpa;

    fn key(&self) -> Gpa {
        self.range.start()
    }
}

/// All slots at one moment.
pub(crate) struct Snapshot<A: Atomics> {
    /// By guest addresses.
    slots: Sorted<Slot<A>, A>,
    by_host: Sorted<Backing, A>,
    by_number: Sorted<Number, A>,
}

/// A handle's guess where its next fault will be: the slot of the last one, as long as no slot was changed since.
pub(crate) type LastUsed<A> = Remembered<Slot<A>>;

impl<A: Atomics> Version<Snapshot<A>> {
    /// The slot that holds `gpa`. `last` may be stale in any way, and is left alone when there is no slot.
    #[inline(always)]
    pub(crate) fn find(&self, gpa: Gpa, last: &mut LastUsed<A>) -> Option<&Slot<A>> {
        self.find_any(gpa, last).filter(|slot| !slot.dying)
    }

    /// As [`find`](Self::find), dying slots included: what they map is still written to, and logged.
    #[inline(always)]
    pub(crate) fn find_any(&self, gpa: Gpa, last: &mut LastUsed<A>) -> Option<&Slot<A>> {
        match self.guess(gpa, *last) {
            Some(slot) => Some(slot),
            None => self.search(gpa, last),
        }
    }

    /// The slot that holds `gpa`, dying or not, if the guess is right.
    #[inline(always)]
    pub(crate) fn guess(&self, gpa: Gpa, last: LastUsed<A>) -> Option<&Slot<A>> {
        self.recall(last).filter(|slot| slot.range.contains(gpa))
    }

    /// As [`guess`](Self::guess), for a slot in which every access may be served.
    #[inline(always)]
    pub(crate) fn guess_plain(&self, gpa: Gpa, last: LastUsed<A>) -> Option<&Slot<A>> {
        self.recall(last).filter(|slot| slot.range.start() <= gpa && gpa < slot.plain_end)
    }

    #[inline(never)]
    fn search(&self, gpa: Gpa, last: &mut LastUsed<A>) -> Option<&Slot<A>> {
        self.remember(last, |snapshot| snapshot.at(gpa))
    }
}

impl<A: Atomics> Snapshot<A> {
    pub(super) fn empty() -> Result<Self, OutOfMemory> {
        Ok(Self { slots: Sorted::empty()?, by_host: Sorted::empty()?, by_number: Sorted::empty()? })
    }

    /// The slot that holds `gpa`, dying or not.
    pub(crate) fn at(&self, gpa: Gpa) -> Option<&Slot<A>> {
        self.slots.last_at(gpa).filter(|slot| slot.range.contains(gpa))
    }

    /// The slot with this number, dying ones included.
    pub(crate) fn by_id(&self, id: SlotId) -> Option<&Slot<A>> {
        let number = self.by_number.last_at(id).filter(|number| number.id == id)?;
        self.slots.last_at(number.start)
    }

    /// The guest addresses, in whole pages, behind which some of `memory` lies; dying slots included: what they map is
    /// still there. Their order depends on these slots alone.
    pub(crate) fn of_host(&self, memory: HostRange, page_size: u64) -> impl Iterator<Item = GpaRange> {
        let backings = self.by_host.overlapping((memory.start(), Gpa::new(0)), (memory.end(), Gpa::new(0)));
        backings.filter_map(move |backing| backing.part_of(memory, page_size))
    }

    /// The slots that share addresses with `range`, dying ones included.
    pub(super) fn overlapping(&self, range: GpaRange) -> impl Iterator<Item = &Slot<A>> {
        let there = self.slots.from(range.start()).take_while(move |slot| slot.range.start() < range.end());
        there.filter(move |slot| slot.range.overlaps(range))
    }

    /// Whether hardware keeps the log of some of `range`, dying slots included.
    pub(crate) fn has_hardware_log(&self, range: GpaRange) -> bool {
        self.overlapping(range).any(|slot| slot.flags.is_logged_by_hardware())
    }

    /// A snapshot in which the slot with the number of `changed` is replaced by it, or it is added.
    pub(super) fn with(&self, mut changed: Slot<A>) -> Result<Self, OutOfMemory> {
        let is_plain = !changed.flags.read_only && !changed.dying;
        changed.plain_end = if is_plain { changed.range.end() } else { Gpa::new(0) };
        match self.by_id(changed.id) {
            Some(old) if (old.range, old.host) == (changed.range, changed.host) => {
                let (by_host, by_number) = (self.by_host.clone(), self.by_number.clone());
                Ok(Self { slots: self.slots.with(changed)?, by_host, by_number })
            }
            Some(old) => self.without(old)?.and(changed),
            None => self.and(changed),
        }
    }

    fn and(&self, new: Slot<A>) -> Result<Self, OutOfMemory> {
        let by_host = self.by_host.with(Backing::of(&new))?;
        let by_number = self.by_number.with(Number::of(&new))?;
        Ok(Self { slots: self.slots.with(new)?, by_host, by_number })
    }

    /// A snapshot without this slot, which is one of its own.
    pub(super) fn without(&self, slot: &Slot<A>) -> Result<Self, OutOfMemory> {
        Ok(Self {
            slots: self.slots.without(slot.key())?,
            by_host: self.by_host.without(Backing::of(slot).key())?,
            by_number: self.by_number.without(slot.id)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;

    use super::*;
    use crate::reclaim::{Domain, Published};
    use crate::sync::Core;

    fn slot(id: u32, start: u64, end: u64) -> Slot<Core> {
        let range = GpaRange::new(Gpa::new(start), Gpa::new(end)).unwrap();
        let new = NewSlot { range, host: HostAddress::new(0), flags: SlotFlags::default() };
        Slot::new(SlotId(id), &new, None)
    }

    fn snapshot(slots: &[Slot<Core>]) -> Snapshot<Core> {
        slots.iter().fold(Snapshot::empty().unwrap(), |snapshot, slot| snapshot.with(slot.clone()).unwrap())
    }

    /// Looks at a snapshot as readers do.
    fn look_at<T>(snapshot: Snapshot<Core>, look: impl FnOnce(&Version<Snapshot<Core>>) -> T) -> T {
        let domain = Domain::<Core>::new(1).unwrap();
        let mut reader = domain.join().unwrap();
        let (published, _) = Published::new(snapshot).unwrap();
        look(published.read(domain.enter(&mut reader).inside()))
    }

    fn last_used(snapshot: &Version<Snapshot<Core>>, at: Gpa) -> LastUsed<Core> {
        let mut last = LastUsed::default();
        assert!(snapshot.find_any(at, &mut last).is_some());
        last
    }

    #[test]
    fn the_last_used_slot_is_not_overwritten_on_a_miss() {
        look_at(snapshot(&[slot(1, 0x1000, 0x2000), slot(0, 0x5000, 0x9000)]), |snapshot| {
            let mut last = LastUsed::default();
            let guessed = |last: LastUsed<Core>| snapshot.recall(last).map(|slot| slot.id.0);
            assert!(snapshot.find(Gpa::new(0x3000), &mut last).is_none() && guessed(last).is_none());
            assert_eq!(snapshot.find(Gpa::new(0x8fff), &mut last).unwrap().id, SlotId(0));
            assert_eq!(guessed(last), Some(0));
            assert!(snapshot.find(Gpa::new(0x3000), &mut last).is_none());
            assert_eq!(guessed(last), Some(0), "a miss leaves the guess alone");
            assert_eq!(
                snapshot.find(Gpa::new(0x1000), &mut last).unwrap().id,
                SlotId(1),
                "a wrong one is searched past"
            );
            assert_eq!(guessed(last), Some(1));
        });
        look_at(snapshot(&[]), |none| assert!(none.find(Gpa::new(0x1000), &mut LastUsed::default()).is_none()));
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
        let addresses = || (0..0xd000).step_by(0x7ff).chain([0x1000, 0x1fff, 0x2000, 0x5000, 0x8fff, 0x9000, 0xb000]);
        let id = |index: usize| slots[index].id;
        look_at(snapshot(&slots), |snapshot| {
            for (at, last) in addresses().flat_map(|at| (0..5).map(move |last| (at, last))) {
                let gpa = Gpa::new(at);
                let expected = slots.iter().position(|slot| slot.range.contains(gpa));
                let guess = slots.get(last).map_or(LastUsed::default(), |slot| last_used(snapshot, slot.range.start()));
                let guessed = expected.filter(|index| *index == last);
                let plain = guessed.filter(|index| !slots[*index].dying && !slots[*index].flags.read_only);
                assert_eq!(snapshot.guess(gpa, guess).map(|slot| slot.id), guessed.map(id));
                assert_eq!(snapshot.guess_plain(gpa, guess).map(|slot| slot.id), plain.map(id), "{gpa}");
                let (mut any, mut one) = (guess, guess);
                assert_eq!(snapshot.find_any(gpa, &mut any).map(|slot| slot.id), expected.map(id));
                let left = expected.or(slots.get(last).map(|_| last));
                assert_eq!(snapshot.recall(any).map(|slot| slot.id), left.map(id), "what is not found leaves it alone");
                let living = expected.filter(|index| !slots[*index].dying);
                assert_eq!(snapshot.find(gpa, &mut one).map(|slot| slot.id), living.map(id));
                assert_eq!(snapshot.at(gpa).map(|slot| slot.id), expected.map(id));
            }
        });
    }

    #[test]
    fn slots_are_found_by_their_numbers() {
        let slots = of_all_kinds();
        let all = snapshot(&slots);
        let ranges =
            |snapshot: &Snapshot<Core>| [0, 1, 2, 3].map(|id| snapshot.by_id(SlotId(id)).map(|slot| slot.range));
        let [one, zero, two, three] = slots.clone().map(|slot| Some(slot.range));
        assert_eq!(ranges(&all), [zero, one, two, three]);
        assert!(all.by_id(SlotId(7)).is_none());
        let without = all.without(all.by_id(SlotId(0)).unwrap()).unwrap();
        assert_eq!(ranges(&without), [None, one, two, three]);
        assert_eq!(ranges(&all), [zero, one, two, three], "the one before is as it was");
        let there = |snapshot: &Snapshot<Core>, at| snapshot.at(Gpa::new(at)).map(|slot| slot.id.0);
        assert_eq!((there(&without, 0x5000), there(&without, 0x9000), there(&all, 0x5000)), (None, Some(2), Some(0)));
    }

    #[test]
    fn a_slot_that_is_elsewhere_is_not_where_it_was() {
        let before = snapshot(&of_all_kinds());
        let moved = before.with(Slot { host: HostAddress::new(0x10_0000), ..slot(1, 0x3000, 0x4000) }).unwrap();
        let at = |snapshot: &Snapshot<Core>, at| snapshot.at(Gpa::new(at)).map(|slot| slot.id.0);
        let host = |snapshot: &Snapshot<Core>, host| {
            let memory = HostRange::with_len(HostAddress::new(host), 1).unwrap();
            snapshot.of_host(memory, 0x1000).map(|range| range.start().get()).collect::<Vec<_>>()
        };
        assert_eq!((at(&moved, 0x1000), at(&moved, 0x3000), moved.by_id(SlotId(1)).is_some()), (None, Some(1), true));
        assert_eq!((host(&moved, 0), host(&moved, 0x10_0000)), ([0x5000, 0x9000, 0xa000].into(), [0x3000].into()));
        assert_eq!((at(&before, 0x1000), at(&before, 0x3000)), (Some(1), None));
        assert_eq!(host(&before, 0), [0x1000, 0x5000, 0x9000, 0xa000]);
        let flags = SlotFlags { read_only: true, log: None };
        let changed = before.with(Slot { flags, ..slot(1, 0x1000, 0x2000) }).unwrap();
        assert!(changed.by_host.is_shared_with(&before.by_host) && changed.by_number.is_shared_with(&before.by_number));
        let other_memory = before.with(Slot { host: HostAddress::new(0x10_0000), ..slot(1, 0x1000, 0x2000) }).unwrap();
        assert_eq!((host(&other_memory, 0).len(), host(&other_memory, 0x10_0000)), (3, [0x1000].into()));
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
        let none = Snapshot::<Core>::empty().unwrap();
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
            snapshot.overlapping(range).map(|slot| slot.id.0).collect::<Vec<_>>()
        };
        assert_eq!(overlapping(0x1000, 0x2000), []);
        assert_eq!(overlapping(0x1000, 0x2001), [1]);
        assert_eq!(overlapping(0x3000, 0x5000), [1]);
        assert_eq!(overlapping(0x3000, 0x6000), [1], "another begins where the range ends");
        assert_eq!(overlapping(0x4000, 0x6000), []);
        assert_eq!(overlapping(0x1000, 0x9000), [1, 2]);
        assert_eq!(overlapping(0x7000, 0x9000), []);
    }
}
