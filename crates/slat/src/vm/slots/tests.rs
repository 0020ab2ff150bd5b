//! Changes of slots, one writer after another: what is published, who is refused and why, what waits to be freed.

use super::*;
use crate::host::SlotId;
use crate::reclaim::Reader;
use crate::space::What;
use crate::sync::Core;

const PAGE: u64 = 4096;

fn pages(first: u64, end: u64) -> GpaRange {
    GpaRange::new(Gpa::new(first * PAGE), Gpa::new(end * PAGE)).unwrap()
}

fn memory(first: u64, end: u64) -> HostRange {
    HostRange::new(HostAddress::new(first * PAGE), HostAddress::new(end * PAGE)).unwrap()
}

/// A slot whose memory begins at page `host` of the host's addresses.
fn slot(id: u32, range: GpaRange, host: u64) -> Slot<Core> {
    Slot::new(SlotId(id), &NewSlot { range, host: HostAddress::new(host * PAGE), flags: SlotFlags::default() }, None)
}

/// Slots, and two readers: one to change them, one to look.
struct Stage {
    domain: Domain<Core>,
    slots: Slots<Core>,
}

impl Stage {
    fn new() -> (Self, [Reader<Core>; 2]) {
        let stage = Self { domain: Domain::new(2).unwrap(), slots: Slots::new(2).unwrap() };
        let readers = [stage.domain.join().unwrap(), stage.domain.join().unwrap()];
        (stage, readers)
    }

    fn change<T>(
        &self,
        reader: &mut Reader<Core>,
        change: impl FnOnce(&mut Change<'_, Core>, Inside<'_, Core>) -> T,
    ) -> T {
        let mut writer = self.slots.write(&self.domain).unwrap();
        let section = self.domain.enter(reader);
        change(&mut writer, section.inside())
    }

    fn ids(&self, reader: &mut Reader<Core>) -> Vec<u32> {
        let section = self.domain.enter(reader);
        let everywhere = GpaRange::new(Gpa::new(0), Gpa::new(u64::MAX)).unwrap();
        self.slots.read(section.inside()).overlapping(everywhere).map(|slot| slot.id.0).collect()
    }

    /// Opens an invalidation of the host's memory: the guest's ranges of it, in order.
    fn open_host(&self, reader: &mut Reader<Core>, memory: HostRange) -> Result<Vec<GpaRange>, TooManyOpen> {
        let section = self.domain.enter(reader);
        let mut opened = Vec::new();
        let open = |range| {
            opened.push(range);
            Ok(())
        };
        self.slots.open_host(section.inside(), memory, PAGE, (open, |_| panic!("nothing was refused")))?;
        Ok(opened)
    }

    fn close_host(&self, reader: &mut Reader<Core>, memory: HostRange) -> Vec<GpaRange> {
        let section = self.domain.enter(reader);
        let mut closed = Vec::new();
        self.slots.close_host(section.inside(), memory, PAGE, |range| closed.push(range));
        closed
    }
}

#[test]
fn what_a_change_publishes_is_what_readers_find() {
    let (stage, [mut writer, mut reader]) = Stage::new();
    stage.change(&mut writer, |change, section| change.add(section, slot(1, pages(4, 8), 0)).unwrap());
    stage.change(&mut writer, |change, section| change.add(section, slot(0, pages(0, 2), 9)).unwrap());
    assert_eq!(stage.ids(&mut reader), [0, 1]);
    stage.change(&mut writer, |change, section| {
        let changed = change.slot(section, SlotId(1)).unwrap();
        assert_eq!(change.slot(section, SlotId(2)).err(), Some(SlotError::NoSuchSlot));
        change.put(section, Slot { dying: true, ..changed }).unwrap();
        assert!(change.slot(section, SlotId(1)).unwrap().dying);
    });
    stage.change(&mut writer, |change, section| change.take_out(section, SlotId(1)).unwrap());
    assert_eq!(stage.ids(&mut reader), [0]);
    let again = stage.change(&mut writer, |change, section| change.take_out(section, SlotId(1)));
    assert_eq!(again, Err(SlotError::NoSuchSlot));
}

#[test]
fn r6_the_last_used_slot_is_one_of_the_snapshot_of_now() {
    let (stage, [mut writer, mut reader]) = Stage::new();
    let at = Gpa::new(4 * PAGE);
    let mut last = snapshot::LastUsed::default();
    let mut look = |reader: &mut Reader<Core>| {
        let section = stage.domain.enter(reader);
        let slots = stage.slots.read(section.inside());
        let guessed = slots.guess(at, last).map(|slot| slot.flags.read_only);
        (guessed, slots.find(at, &mut last).map(|slot| slot.flags.read_only))
    };
    assert_eq!(look(&mut reader), (None, None));
    stage.change(&mut writer, |change, section| change.add(section, slot(1, pages(4, 8), 0)).unwrap());
    assert_eq!(look(&mut reader), (None, Some(false)));
    assert_eq!(look(&mut reader), (Some(false), Some(false)));
    let read_only = SlotFlags { read_only: true, log: None };
    let changed = Slot { flags: read_only, ..slot(1, pages(4, 8), 0) };
    stage.change(&mut writer, |change, section| change.put(section, changed).unwrap());
    assert_eq!(look(&mut reader), (None, Some(true)), "not as it was");
    stage.change(&mut writer, |change, section| change.add(section, slot(2, pages(9, 10), 9)).unwrap());
    assert_eq!(look(&mut reader), (None, Some(true)), "whichever changed");
    assert_eq!(look(&mut reader), (Some(true), Some(true)));
    stage.change(&mut writer, |change, section| change.take_out(section, SlotId(1)).unwrap());
    assert_eq!(look(&mut reader), (None, None));
}

#[test]
fn one_writer_at_a_time_and_so_many_replaced_snapshots() {
    let (mut stage, [mut writer, mut reader]) = Stage::new();
    let waiting = |stage: &Stage| stage.slots.writer.try_lock().unwrap().retired.len();
    {
        let _first = stage.slots.write(&stage.domain).unwrap();
        assert_eq!(stage.slots.write(&stage.domain).err(), Some(SlotError::Busy));
    }
    let seen = stage.domain.enter(&mut reader);
    for count in 0..RETIRED {
        assert_eq!(waiting(&stage), count, "none is freed while somebody may see it");
        stage.change(&mut writer, |change, section| change.put(section, slot(0, pages(0, 1), 0)).unwrap());
    }
    assert_eq!(stage.slots.write(&stage.domain).err(), Some(SlotError::Busy));
    drop(seen);
    stage.change(&mut writer, |_, _| ());
    assert_eq!(waiting(&stage), 0, "each is freed once, whatever its place");

    // The oldest can be freed, the others cannot.
    let change = |stage: &Stage, writer: &mut Reader<Core>| {
        stage.change(writer, |change, section| change.put(section, slot(0, pages(0, 1), 0)).unwrap());
    };
    let first = stage.domain.enter(&mut reader);
    (0..3).for_each(|_| change(&stage, &mut writer));
    drop(first);
    let second = stage.domain.enter(&mut reader);
    (0..2).for_each(|_| change(&stage, &mut writer));
    assert_eq!(waiting(&stage), 4, "those that the second reader may see");
    drop(second);
    stage.slots.drain_exclusive(&mut stage.domain);
    assert_eq!(waiting(&stage), 0);
}

#[test]
fn to_note_is_to_wait_for_the_writer_and_needs_no_room() {
    let (stage, _) = Stage::new();
    let held = core::cell::RefCell::new(Some(stage.slots.write(&stage.domain).unwrap()));
    let mut waited = 0;
    drop(stage.slots.note(&stage.domain, || {
        waited += 1;
        drop(held.take());
    }));
    assert_eq!(waited, 1);
}

#[test]
fn a_slot_is_admitted_where_none_is_or_comes() {
    let (stage, [mut writer, _]) = Stage::new();
    stage.change(&mut writer, |change, section| {
        change.add(section, slot(0, pages(0, 4), 0)).unwrap();
        change.add(section, Slot { dying: true, ..slot(1, pages(8, 12), 8) }).unwrap();
        let moving = Unfinished {
            id: SlotId(1),
            serial: 1,
            walk: Walk::Move(pages(20, 24)),
            next: Gpa::new(0),
            is_walked: false,
        };
        change.note(SlotId(1), Some(moving));
        let other = Unfinished { id: SlotId(0), walk: Walk::Protect(What::Write), ..moving };
        change.note(SlotId(0), Some(other));

        let overlaps = |id| Err(SlotError::Overlaps(SlotId(id)));
        let admits = |id, first, end| change.admits(section, &slot(id, pages(first, end), 0));
        assert_eq!([admits(0, 30, 31), admits(1, 30, 31)], [Err(SlotError::Exists), Err(SlotError::Unfinished)]);
        assert_eq!([admits(2, 3, 5), admits(2, 11, 12), admits(2, 23, 30)], [overlaps(0), overlaps(1), overlaps(1)]);
        assert_eq!([admits(2, 4, 8), admits(2, 12, 20), admits(2, 24, 25)], [Ok(()); 3]);

        let is_free = |except: Option<u32>, first, end| change.is_free(section, pages(first, end), except.map(SlotId));
        assert_eq!(
            [is_free(None, 3, 5), is_free(None, 8, 9), is_free(None, 19, 21)],
            [overlaps(0), overlaps(1), overlaps(1)]
        );
        assert_eq!(
            [is_free(Some(1), 3, 5), is_free(Some(0), 8, 9), is_free(Some(0), 19, 21)],
            [overlaps(0), overlaps(1), overlaps(1)]
        );
        assert_eq!([is_free(Some(0), 3, 5), is_free(Some(1), 8, 9), is_free(Some(1), 19, 21)], [Ok(()); 3]);
        assert_eq!([is_free(None, 4, 8), is_free(None, 12, 20)], [Ok(()); 2]);
    });
}

#[test]
fn r6_a_walk_that_makes_pages_clean_is_one_workers_as_long_as_one_is_on_it() {
    let walk = |walk, is_walked| Unfinished { id: SlotId(0), serial: 1, walk, next: Gpa::new(0), is_walked };
    let walks = [Walk::Protect(What::Dirty), Walk::Protect(What::Write), Walk::Remove];
    assert_eq!(walks.map(|kind| walk(kind, true).is_one_workers()), [true, false, false]);
    assert_eq!(walks.map(|kind| walk(kind, false).is_one_workers()), [false; 3]);
}

#[test]
fn r6_walks_are_noted_by_slot_until_they_are_finished() {
    let (stage, [mut writer, _]) = Stage::new();
    stage.change(&mut writer, |change, _| {
        assert_eq!([change.next_serial(), change.next_serial(), change.next_serial()], [1, 2, 3]);
        let walk = |id, next| Unfinished {
            id: SlotId(id),
            serial: 7,
            walk: Walk::Remove,
            next: Gpa::new(next),
            is_walked: true,
        };
        let next = |change: &Change<'_, Core>, id| change.unfinished(SlotId(id)).map(|walk| walk.next.get());
        change.note(SlotId(4), Some(walk(4, 1)));
        change.note(SlotId(5), Some(walk(5, 2)));
        change.note(SlotId(4), Some(walk(4, 3)));
        assert_eq!([next(change, 3), next(change, 4), next(change, 5)], [None, Some(3), Some(2)]);
        change.note(SlotId(4), None);
        assert_eq!([next(change, 4), next(change, 5)], [None, Some(2)]);
    });
}

#[test]
fn r4_slots_stay_while_their_memory_is_taken_back() {
    let (stage, [mut writer, mut other]) = Stage::new();
    let add = |id, range, host| {
        move |change: &mut Change<'_, Core>, section: Inside<'_, Core>| change.add(section, slot(id, range, host))
    };
    stage.change(&mut writer, add(0, pages(0, 4), 100)).unwrap();
    stage.change(&mut writer, add(1, pages(10, 14), 102)).unwrap();
    let opened = stage.open_host(&mut other, memory(102, 103)).unwrap();
    assert_eq!(opened, [pages(2, 3), pages(10, 11)]);

    assert_eq!(stage.change(&mut writer, add(2, pages(20, 21), 102)), Err(SlotError::Invalidated));
    stage.change(&mut writer, add(2, pages(20, 21), 103)).unwrap();
    let take_out =
        |id| move |change: &mut Change<'_, Core>, section: Inside<'_, Core>| change.take_out(section, SlotId(id));
    assert_eq!(stage.change(&mut writer, take_out(1)), Err(SlotError::Invalidated));
    stage.change(&mut writer, take_out(2)).unwrap();
    stage.change(&mut writer, |change, section| change.put(section, slot(0, pages(0, 4), 100))).unwrap();

    // A second one of the same memory, and no more than there are workers.
    stage.open_host(&mut writer, memory(102, 104)).unwrap();
    assert!(stage.open_host(&mut writer, memory(0, 1)).is_err());
    assert_eq!(stage.close_host(&mut other, memory(102, 103)), opened, "what was opened, in the same order");
    assert_eq!(stage.change(&mut writer, take_out(1)), Err(SlotError::Invalidated), "the other one is open");
    stage.close_host(&mut other, memory(102, 104));

    // What is closed is what is named.
    for memory in [memory(102, 103), memory(100, 101)] {
        stage.open_host(&mut other, memory).unwrap();
    }
    stage.close_host(&mut other, memory(102, 103));
    assert_eq!(stage.change(&mut writer, take_out(0)), Err(SlotError::Invalidated));
    stage.change(&mut writer, take_out(1)).unwrap();
}

#[test]
fn r4_an_invalidation_that_is_refused_half_way_is_closed_as_far_as_it_was_opened() {
    let (stage, [mut writer, mut other]) = Stage::new();
    for (id, first) in [(0, 0), (1, 10), (2, 20)] {
        stage
            .change(&mut writer, |change, section| change.add(section, slot(id, pages(first, first + 1), 100)))
            .unwrap();
    }
    for refused in 0..3 {
        let section = stage.domain.enter(&mut other);
        let (mut opened, closed) = (Vec::new(), core::cell::RefCell::new(Vec::new()));
        let open = |range| {
            if opened.len() == refused {
                return Err(TooManyOpen);
            }
            opened.push(range);
            Ok(())
        };
        let result = stage.slots.open_host(
            section.inside(),
            memory(100, 101),
            PAGE,
            (open, |range| closed.borrow_mut().push(range)),
        );
        assert_eq!((result, opened.len()), (Err(TooManyOpen), refused));
        assert_eq!(closed.take(), opened);
    }
    assert_eq!(stage.open_host(&mut other, memory(100, 101)).unwrap().len(), 3, "nothing of it is left");
}

#[test]
fn each_refusal_says_what_it_is() {
    let all = [
        SlotError::Exists,
        SlotError::NoSuchSlot,
        SlotError::Overlaps(SlotId(3)),
        SlotError::Unaligned,
        SlotError::OutOfRange,
        SlotError::Unfinished,
        SlotError::Busy,
        SlotError::LogMode,
        SlotError::Invalidated,
        SlotError::from(OutOfMemory),
        SlotError::Gone,
    ];
    let said = all.map(|error| alloc::format!("{error}"));
    assert!(said.iter().all(|said| !said.is_empty()));
    assert!((0..11).all(|one| (0..one).all(|other| said[one] != said[other])), "{said:?}");
    assert_eq!(said[9], "out of memory");
}
