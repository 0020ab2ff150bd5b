//! Slots: which guest physical memory there is. Readers see an immutable snapshot; one writer at a time replaces it.

mod by_host;
mod by_number;
mod snapshot;
mod sorted;

pub(crate) use snapshot::{LastUsed, Slot, Snapshot};

use alloc::vec::Vec;
use core::fmt;

use crate::addr::{Gpa, GpaRange, HostAddress, HostRange};
use crate::host::SlotId;
use crate::reclaim::{
    Domain, Inside, OutOfMemory, Prepared, Published, Publisher, Retired, TryLock, TryLockGuard, Version, vec_for,
};
use crate::space::{TooManyOpen, What};
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

impl SlotFlags {
    /// Whether the log is in the entries.
    pub(crate) fn is_logged_by_hardware(self) -> bool {
        self.log == Some(LogMode::Hardware)
    }
}

/// How the dirty log of a slot starts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LogMode {
    /// No page is marked; turning the log on write-protects the slot.
    Protect,
    /// Every page is marked; nothing is protected before it is cleared for the first time. Turning the log on costs no
    /// walk.
    InitiallySet,
    /// No page is marked, and hardware keeps the log from each page's first write on, without a fault: for a format with
    /// [`hardware_dirty`](crate::format::Format::hardware_dirty). A harvest looks at every page's entry, which takes as long
    /// as the slot is large.
    Hardware,
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
    /// The format has no dirty state of hardware's, or the log is on in another mode: turn it off first.
    LogMode,
    /// The memory behind the slot is being taken back ([`Worker::invalidate_host`](super::Worker::invalidate_host)). Call
    /// again when that is over.
    Invalidated,
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
            Self::LogMode => f.write_str("no such log in this format, or the log is on in another mode"),
            Self::Invalidated => f.write_str("the memory behind the slot is being invalidated"),
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

/// Replaced snapshots that may wait for their grace periods before a writer is told to come back.
const RETIRED: usize = 32;

/// The slots of a VM.
pub(crate) struct Slots<A: Atomics> {
    /// Alone in its lines: every fault reads it.
    current: Padded<Published<Snapshot<A>, A>>,
    writer: TryLock<Writer<A>, A>,
    /// The host's memory that is being taken back, held as long as it takes to publish a snapshot: while a range is in it,
    /// the slots with memory of it stay the same. Never held while memory is allocated, which may take some back.
    invalidated: TryLock<Vec<HostRange>, A>,
}

/// What the one writer keeps.
pub(crate) struct Writer<A: Atomics> {
    publisher: Publisher,
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
    /// Whether a worker is on it now.
    pub(crate) is_walked: bool,
}

impl Unfinished {
    /// Whether a second worker has to stay out: it would forget what hardware has noted since the first one was done, and
    /// the log was on.
    pub(crate) fn is_one_workers(self) -> bool {
        self.is_walked && self.walk == Walk::Protect(What::Dirty)
    }
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
    /// No slots yet. Every one of `workers` may take memory back at the same time.
    pub(crate) fn new(workers: usize) -> Result<Self, OutOfMemory> {
        let invalidated = vec_for(workers)?;
        let (current, publisher) = Published::new(Snapshot::empty()?)?;
        let writer = Writer { publisher, retired: Vec::new(), unfinished: Vec::new(), serial: 0 };
        Ok(Self { current: Padded(current), writer: TryLock::new(writer), invalidated: TryLock::new(invalidated) })
    }

    /// The snapshot of now.
    #[inline(always)]
    pub(crate) fn read<'s>(&self, section: Inside<'s, A>) -> &'s Version<Snapshot<A>> {
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

    /// Notes that the host takes `memory` back, and opens an invalidation of each range of guest addresses behind which
    /// some of it lies. From now on until [`close_host`](Self::close_host) these are the same ranges.
    pub(crate) fn open_host(
        &self,
        section: Inside<'_, A>,
        memory: HostRange,
        page_size: u64,
        (mut open, close): (impl FnMut(GpaRange) -> Result<(), TooManyOpen>, impl FnMut(GpaRange)),
    ) -> Result<(), TooManyOpen> {
        let mut invalidated = lock(&self.invalidated);
        if invalidated.len() == invalidated.capacity() {
            return Err(TooManyOpen); // guards were leaked: each worker has one at a time
        }
        let snapshot = self.read(section);
        for (done, range) in snapshot.of_host(memory, page_size).enumerate() {
            if open(range).is_err() {
                snapshot.of_host(memory, page_size).take(done).for_each(close);
                return Err(TooManyOpen);
            }
        }
        invalidated.push(memory);
        Ok(())
    }

    /// The host is done with `memory`.
    pub(crate) fn close_host(
        &self,
        section: Inside<'_, A>,
        memory: HostRange,
        page_size: u64,
        close: impl FnMut(GpaRange),
    ) {
        self.read(section).of_host(memory, page_size).for_each(close);
        let mut invalidated = lock(&self.invalidated);
        if let Some(place) = invalidated.iter().position(|open| *open == memory) {
            invalidated.swap_remove(place);
        }
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
    /// Publishes a snapshot with `slot` in the place of the one of the same number and the same addresses.
    pub(crate) fn put(&mut self, section: Inside<'_, A>, slot: Slot<A>) -> Result<(), SlotError> {
        let snapshot = self.slots.read(section).with(slot)?;
        self.publish(snapshot, None)
    }

    /// Publishes a snapshot with `slot` at addresses where it has not been, unless its memory is being taken back.
    pub(crate) fn add(&mut self, section: Inside<'_, A>, slot: Slot<A>) -> Result<(), SlotError> {
        let memory = slot.memory();
        let snapshot = self.slots.read(section).with(slot)?;
        self.publish(snapshot, Some(memory))
    }

    /// Publishes a snapshot without the slot of this number, unless its memory is being taken back.
    pub(crate) fn take_out(&mut self, section: Inside<'_, A>, id: SlotId) -> Result<(), SlotError> {
        let now = self.slots.read(section);
        let slot = now.by_id(id).ok_or(SlotError::NoSuchSlot)?;
        self.publish(now.without(slot)?, Some(slot.memory()))
    }

    /// `moved` is the memory of a slot that comes or goes.
    fn publish(&mut self, snapshot: Snapshot<A>, moved: Option<HostRange>) -> Result<(), SlotError> {
        let version = Prepared::new(snapshot)?;
        let invalidated = lock(&self.slots.invalidated);
        if moved.is_some_and(|moved| invalidated.iter().any(|open| open.overlaps(moved))) {
            return Err(SlotError::Invalidated);
        }
        let retired = self.slots.current.replace(version, &mut self.writer.publisher, self.domain);
        drop(invalidated);
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
        self.is_free(section, slot.range, None)
    }

    /// Whether no slot is, or is on its way to, where `range` is; `except` may be.
    pub(crate) fn is_free(
        &self,
        section: Inside<'_, A>,
        range: GpaRange,
        except: Option<SlotId>,
    ) -> Result<(), SlotError> {
        let mut there = self.slots.read(section).overlapping(range).map(|slot| slot.id);
        match there.find(|id| Some(*id) != except).or_else(|| self.coming(range, except)) {
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

/// Waits for the lock: it is held for a moment, by one who waits for nothing.
fn lock<T, A: Atomics>(lock: &TryLock<T, A>) -> TryLockGuard<'_, T, A> {
    loop {
        match lock.try_lock() {
            Some(guard) => return guard,
            None => A::spin_hint(),
        }
    }
}

#[cfg(test)]
mod tests;
