//! Slots: which guest physical memory there is. Readers see an immutable snapshot; one writer at a time replaces it.

use alloc::vec::Vec;
use core::fmt;

use super::dirty::Log;
use crate::addr::{Gpa, GpaRange, HostAddress};
use crate::host::SlotId;
use crate::reclaim::{Domain, Inside, OutOfMemory, Published, Retired, Shared, TryLock, TryLockGuard};
use crate::space::What;
use crate::sync::{Atomics, Padded};

/// A slot to be created.
#[derive(Clone, Copy, Debug)]
pub struct NewSlot {
    /// The guest physical memory it provides; aligned to pages, not empty, inside the address space.
    pub range: GpaRange,
    /// Where the memory lies for the embedder: comes back in [`Request`](crate::host::Request), plus the offset.
    pub host: HostAddress,
    /// How it starts.
    pub flags: SlotFlags,
}

/// What can be changed about a slot while vCPUs run.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct SlotFlags {
    /// Writes are not served but reported ([`Outcome::Mmio`](super::Outcome::Mmio)), as for ROM.
    pub read_only: bool,
    /// Whether, and how, writes are logged.
    pub log: Option<LogMode>,
}

/// How the dirty log of a slot starts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LogMode {
    /// No page is marked; turning the log on write-protects the slot.
    Protect,
    /// Every page is marked; nothing is protected before it is cleared for the first time. Turning the log on costs no
    /// walk.
    InitiallySet,
}

/// Why a change of slots was refused. Nothing was changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum SlotError {
    /// A slot with this number exists.
    Exists,
    /// No slot has this number.
    NoSuchSlot,
    /// The range shares addresses with this slot, which may be one whose deletion is not finished.
    Overlaps(SlotId),
    /// The range is empty, or its ends or the host address are not multiples of the page size.
    Unaligned,
    /// The range leaves the guest physical address space, or the memory behind it leaves 64 bits.
    OutOfRange,
    /// An earlier change of the slot was not carried to its end: call it again until it is done.
    Unfinished,
    /// Another thread is changing slots, or too many replaced snapshots wait for their grace period. Call again.
    Busy,
    /// There is no memory for it.
    OutOfMemory,
    /// The VM was torn down.
    Gone,
}

impl fmt::Display for SlotError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exists => f.write_str("a slot with this number exists"),
            Self::NoSuchSlot => f.write_str("no slot has this number"),
            Self::Overlaps(id) => write!(f, "the range overlaps {id}"),
            Self::Unaligned => f.write_str("slots are whole pages, at least one, at page-aligned addresses"),
            Self::OutOfRange => f.write_str("the range leaves the guest physical address space"),
            Self::Unfinished => f.write_str("an earlier change of the slot is not finished"),
            Self::Busy => f.write_str("slots are being changed by another thread"),
            Self::OutOfMemory => f.write_str("out of memory"),
            Self::Gone => f.write_str("the VM was torn down"),
        }
    }
}

impl core::error::Error for SlotError {}

impl From<OutOfMemory> for SlotError {
    fn from(_: OutOfMemory) -> Self {
        Self::OutOfMemory
    }
}

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

    pub(crate) fn host_address(&self, gpa: Gpa) -> HostAddress {
        HostAddress::new(self.host.get().wrapping_add(gpa.get() - self.range.start().get()))
    }
}

/// All slots at one moment, in the order of their addresses.
pub(crate) struct Snapshot<A: Atomics> {
    /// The first address of each slot, apart from the rest: a search touches few cache lines.
    starts: Vec<Gpa>,
    slots: Vec<Slot<A>>,
}

/// A handle's guess where its next fault will be: the index of the slot of the last one.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct LastUsed(usize);

impl<A: Atomics> Snapshot<A> {
    fn empty() -> Self {
        Self { starts: Vec::new(), slots: Vec::new() }
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

    /// A slot that shares addresses with `range`.
    fn overlapping(&self, range: GpaRange) -> Option<&Slot<A>> {
        let after = self.starts.partition_point(|&start| start < range.end());
        self.slots.get(after.checked_sub(1)?).filter(|slot| slot.range.overlaps(range))
    }

    /// A copy in which the slot with the number of `changed` is replaced by it, or it is added.
    fn with(&self, changed: Slot<A>) -> Result<Self, OutOfMemory> {
        self.rebuilt(changed.id, Some(changed))
    }

    /// A copy without the slot of this number.
    fn without(&self, id: SlotId) -> Result<Self, OutOfMemory> {
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
        Ok(copy)
    }
}

/// Replaced snapshots that may wait for their grace periods before a writer is told to come back.
const RETIRED: usize = 32;

/// The slots of a VM.
pub(crate) struct Slots<A: Atomics> {
    /// Alone in its lines: every fault reads it.
    current: Padded<Published<Snapshot<A>, A>>,
    writer: TryLock<Writer<A>, A>,
}

/// What the one writer keeps.
pub(crate) struct Writer<A: Atomics> {
    retired: Vec<Retired<Snapshot<A>>>,
    /// Changes that were published and whose walk over the slot is not finished.
    unfinished: Vec<Unfinished>,
    /// The number of the last change that needed a walk.
    serial: u64,
}

/// A walk over a slot that a change still needs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Unfinished {
    pub(crate) id: SlotId,
    /// Which change: a walk that another thread has finished and somebody has begun anew is another one.
    pub(crate) serial: u64,
    pub(crate) walk: Walk,
    pub(crate) next: Gpa,
}

/// Which walk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Walk {
    Protect(What),
    Remove,
    /// As `Remove`; the slot is to appear again over this range.
    Move(GpaRange),
}

impl<A: Atomics> Slots<A> {
    pub(crate) fn new() -> Result<Self, OutOfMemory> {
        let writer = Writer { retired: Vec::new(), unfinished: Vec::new(), serial: 0 };
        Ok(Self { current: Padded(Published::new(Snapshot::empty())?), writer: TryLock::new(writer) })
    }

    /// The snapshot of now.
    #[inline(always)]
    pub(crate) fn read<'s>(&self, section: Inside<'s, A>) -> &'s Snapshot<A> {
        self.current.read(section)
    }

    /// The right to note how far a walk came: what publishes nothing retires nothing, and needs no room. Waits for
    /// another writer, who publishes and is gone.
    pub(crate) fn note<'v>(&'v self, domain: &'v Domain<A>, mut relax: impl FnMut()) -> Change<'v, A> {
        loop {
            match self.writer.try_lock() {
                Some(writer) => return Change { slots: self, domain, writer },
                None => relax(),
            }
        }
    }

    /// The right to change slots, with room to retire one snapshot and to note one walk. The caller stands outside.
    pub(crate) fn write<'v>(&'v self, domain: &'v Domain<A>) -> Result<Change<'v, A>, SlotError> {
        let mut writer = self.writer.try_lock().ok_or(SlotError::Busy)?;
        let mut kept = 0;
        while kept < writer.retired.len() {
            if let Err(retired) = writer.retired.swap_remove(kept).try_free(domain) {
                writer.retired.push(retired); // into the room that was just made
                let last = writer.retired.len() - 1;
                writer.retired.swap(kept, last);
                kept += 1;
            }
        }
        if kept >= RETIRED {
            return Err(SlotError::Busy);
        }
        writer.retired.try_reserve(1).map_err(|_| SlotError::OutOfMemory)?;
        writer.unfinished.try_reserve(1).map_err(|_| SlotError::OutOfMemory)?;
        Ok(Change { slots: self, domain, writer })
    }

    /// Frees what waits, for a VM that nobody else uses any more.
    pub(crate) fn drain_exclusive(&mut self, domain: &mut Domain<A>) {
        for retired in self.writer.get_mut().retired.drain(..) {
            retired.free_exclusive(domain);
        }
    }
}

/// The right to change slots.
pub(crate) struct Change<'v, A: Atomics> {
    slots: &'v Slots<A>,
    domain: &'v Domain<A>,
    writer: TryLockGuard<'v, Writer<A>, A>,
}

impl<A: Atomics> Change<'_, A> {
    /// Publishes a snapshot with `slot` in it, in the place of the one of the same number.
    pub(crate) fn put(&mut self, section: Inside<'_, A>, slot: Slot<A>) -> Result<(), SlotError> {
        let snapshot = self.slots.read(section).with(slot)?;
        self.publish(snapshot)
    }

    /// Publishes a snapshot without the slot of this number.
    pub(crate) fn take_out(&mut self, section: Inside<'_, A>, id: SlotId) -> Result<(), SlotError> {
        let snapshot = self.slots.read(section).without(id)?;
        self.publish(snapshot)
    }

    fn publish(&mut self, snapshot: Snapshot<A>) -> Result<(), SlotError> {
        let retired = self.slots.current.replace(snapshot, self.domain)?;
        self.writer.retired.push(retired); // reserved by `write`
        Ok(())
    }

    /// The slot of this number, as it is published.
    pub(crate) fn slot(&self, section: Inside<'_, A>, id: SlotId) -> Result<Slot<A>, SlotError> {
        self.slots.read(section).by_id(id).cloned().ok_or(SlotError::NoSuchSlot)
    }

    /// Whether `slot` may be added.
    pub(crate) fn admits(&self, section: Inside<'_, A>, slot: &Slot<A>) -> Result<(), SlotError> {
        let snapshot = self.slots.read(section);
        if snapshot.by_id(slot.id).is_some_and(|other| !other.dying) {
            return Err(SlotError::Exists);
        }
        if snapshot.by_id(slot.id).is_some() {
            return Err(SlotError::Unfinished);
        }
        if let Some(other) = snapshot.overlapping(slot.range) {
            return Err(SlotError::Overlaps(other.id));
        }
        match self.coming(slot.range, None) {
            Some(other) => Err(SlotError::Overlaps(other)),
            None => Ok(()),
        }
    }

    /// Whether no slot is, or is on its way to, where `range` is; `except` may be.
    pub(crate) fn is_free(
        &self,
        section: Inside<'_, A>,
        range: GpaRange,
        except: Option<SlotId>,
    ) -> Result<(), SlotError> {
        let overlaps = |slot: &&Slot<A>| Some(slot.id) != except && slot.range.overlaps(range);
        let there = self.slots.read(section).slots.iter().find(overlaps).map(|slot| slot.id);
        match there.or_else(|| self.coming(range, except)) {
            Some(other) => Err(SlotError::Overlaps(other)),
            None => Ok(()),
        }
    }

    /// A slot that is on its way to where `range` is.
    fn coming(&self, range: GpaRange, except: Option<SlotId>) -> Option<SlotId> {
        let overlaps = |unfinished: &&Unfinished| match unfinished.walk {
            Walk::Move(to) => Some(unfinished.id) != except && to.overlaps(range),
            _ => false,
        };
        self.writer.unfinished.iter().find(overlaps).map(|unfinished| unfinished.id)
    }

    /// The number of a change that is about to be published.
    pub(crate) fn next_serial(&mut self) -> u64 {
        self.writer.serial += 1;
        self.writer.serial
    }

    /// The walk that an earlier change of this slot still needs.
    pub(crate) fn unfinished(&self, id: SlotId) -> Option<Unfinished> {
        self.writer.unfinished.iter().copied().find(|walk| walk.id == id)
    }

    /// Notes how far the slot's walk came; `None` when it is finished or none is needed.
    pub(crate) fn note(&mut self, id: SlotId, walk: Option<Unfinished>) {
        self.writer.unfinished.retain(|walk| walk.id != id);
        self.writer.unfinished.extend(walk); // reserved by `write`
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
        assert_eq!(overlapping(0x4000, 0x6000), None);
        assert_eq!(overlapping(0x1000, 0x9000), Some(2));
        assert_eq!(overlapping(0x7000, 0x9000), None);
    }
}
