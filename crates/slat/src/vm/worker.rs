//! A worker's handle: everything that is not a fault, on any thread, several side by side.

use core::fmt;

use super::dirty::Log;
use super::handle::{Handle, JoinError, VmRef};
use super::slots::{Change, LogMode, NewSlot, Slot, SlotError, SlotFlags, Unfinished, Walk};
use super::step::Stepped;
use super::{Budget, Progress};
use crate::addr::{Gpa, GpaRange};
use crate::format::Format;
use crate::host::{Flush, SlotId, TableMemory, Tlb};
use crate::reclaim::{Inside, OutOfMemory, Shared, Subtree};
use crate::space::{All, CUTS, Protection, Removal, Visit, What};
use crate::sync::Atomics;

pub(super) type AtomicsOf<R> = <<R as VmRef>::Host as TableMemory>::Atomics;

type SharedLog<A> = Shared<Log<A>, A>;

/// Entries visited inside one section, and so while anything is locked.
pub(super) const ENTRIES_PER_SECTION: u64 = 4096;

/// The handle of one thread that manages the VM's memory.
///
/// Every operation runs beside faults and beside other workers' operations. Range operations take a [`Budget`] and say
/// how far they came; between two calls the tables are whole and flushed as the last call said.
pub struct Worker<R: VmRef> {
    pub(super) handle: Handle<R>,
}

/// Why a range was refused. Nothing was changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum RangeError {
    /// The range's ends are not multiples of the page size.
    Unaligned,
    /// The range leaves the guest physical address space.
    OutOfRange,
    /// The VM was torn down.
    Gone,
}

impl fmt::Display for RangeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unaligned => "the range's ends are not multiples of the page size",
            Self::OutOfRange => "the range leaves the guest physical address space",
            Self::Gone => "the VM was torn down",
        })
    }
}

impl core::error::Error for RangeError {}

impl From<RangeError> for SlotError {
    fn from(error: RangeError) -> Self {
        match error {
            RangeError::Unaligned => Self::Unaligned,
            RangeError::OutOfRange => Self::OutOfRange,
            RangeError::Gone => Self::Gone,
        }
    }
}

/// What reclaiming came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Reclaim {
    /// Entries visited in taking subtrees apart.
    pub visited: u64,
    /// Subtrees that this worker unlinked and that still wait.
    pub awaiting: usize,
}

/// How far a teardown came.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use = "the teardown may not be finished"]
pub enum Teardown {
    /// Call again.
    More,
    /// The tree is freed, and everything else that was unlinked.
    Done,
}

impl<R: VmRef> Worker<R> {
    /// Joins `vm`.
    pub fn new(vm: R) -> Result<Self, JoinError> {
        Ok(Self { handle: Handle::new(vm)? })
    }

    /// Carries at least `tables` tables from now on (at most 64): what splitting blocks takes.
    pub fn top_up(&mut self, tables: usize) -> Result<(), OutOfMemory> {
        self.handle.top_up(tables)
    }

    /// Adds a slot. Faults find it from now on.
    pub fn create_slot(&mut self, id: SlotId, slot: NewSlot) -> Result<(), SlotError> {
        self.check(slot.range)?;
        let Handle { vm, member } = &mut self.handle;
        let vm = vm.vm();
        if slot.host.checked_add(slot.range.len()).is_none() {
            return Err(SlotError::OutOfRange);
        }
        if slot.range.is_empty() || !slot.host.is_aligned(vm.space.geometry().page_size()) {
            return Err(SlotError::Unaligned);
        }
        vm.can_log(slot.flags)?;
        let log = new_log::<AtomicsOf<R>>(slot.range, slot.flags.log, vm.space.geometry().page_shift())?;
        log.iter().for_each(|log| log.arm()); // nothing is mapped yet
        let slot = Slot::new(id, &slot, log);
        let mut change = vm.slots.write(&vm.space.domain)?;
        let section = vm.space.domain.enter(&mut member.reader);
        change.admits(section.inside(), &slot)?;
        change.add(section.inside(), slot)
    }

    /// Removes a slot and what it maps; to be called until it is done. From the first call on, faults find no slot
    /// there, and writes are not logged any more. Its addresses are free for another slot when it is done.
    pub fn delete_slot(&mut self, id: SlotId, budget: Budget) -> Result<Progress, SlotError> {
        let work = self.begin(id, |_, slot, change| {
            let begun = change.unfinished(id).filter(|walk| walk.walk == Walk::Remove);
            if begun.is_some() {
                return Ok(Begin::Continue(begun));
            }
            Ok(Begin::Publish(Slot { dying: true, ..slot.clone() }, Some(Walk::Remove)))
        })?;
        self.go_on(id, work, budget)
    }

    /// Changes a slot's flags; to be called until it is done. From the first call on, faults go by the new flags; when
    /// it is done, no TLB holds more than they allow.
    ///
    /// Turning a log on with [`LogMode::Protect`] or [`LogMode::Hardware`] and making a slot read-only walk over the slot;
    /// all else is done at once. The walk for [`LogMode::Hardware`] is one worker's: others are told
    /// [`SlotError::Busy`] meanwhile. Turning a log off drops its marks.
    pub fn set_flags(&mut self, id: SlotId, flags: SlotFlags, budget: Budget) -> Result<Progress, SlotError> {
        self.handle.vm.vm().can_log(flags)?;
        let mut log = self.log_for(id, flags)?;
        let work = self.begin(id, |_, slot, change| {
            let unfinished = change.unfinished(id);
            if slot.dying {
                return Err(SlotError::NoSuchSlot);
            }
            if slot.flags == flags {
                if unfinished.is_some_and(Unfinished::is_one_workers) {
                    return Err(SlotError::Busy);
                }
                return Ok(Begin::Continue(unfinished));
            }
            if unfinished.is_some() {
                return Err(SlotError::Unfinished);
            }
            let changes_keeper = slot.flags.is_logged_by_hardware() != flags.is_logged_by_hardware();
            if slot.log.is_some() && flags.log.is_some() && changes_keeper {
                return Err(SlotError::LogMode);
            }
            let log = match slot.log.is_some() == flags.log.is_some() {
                true => slot.log.clone(),
                false => log.take(),
            };
            if log.is_some() != flags.log.is_some() {
                return Err(SlotError::Busy); // another thread has turned the log off meanwhile
            }
            let walk = walk_for(slot.flags, flags).map(Walk::Protect);
            Ok(Begin::Publish(Slot { flags, log, ..slot.clone() }, walk))
        })?;
        self.go_on(id, work, budget)
    }

    /// Withholds write permission from all that `range` maps, until faults give it back. One flush, of what was changed.
    pub fn write_protect(&mut self, range: GpaRange, budget: Budget) -> Result<Progress, RangeError> {
        self.check(range)?;
        Ok(self.protect(range, What::Write, budget))
    }

    /// Unmaps `range`: for backing that has changed already, so that faults find the new one. What the range covers in
    /// part is split if the worker carries a table, else unmapped whole, and the progress says so. Tables that it covers
    /// are freed after a grace period. Go on with the rest of the range from the progress's `next`: the whole range again
    /// would meet what guests have faulted in meanwhile.
    pub fn unmap(&mut self, range: GpaRange, budget: Budget) -> Result<Progress, RangeError> {
        self.check(range)?;
        // One-shot form of an invalidation: translation gives the new answer already (R4).
        self.handle.vm.vm().space.shards.event(range);
        Ok(self.remove(range, budget))
    }

    /// Frees what this worker, and workers that are gone, have unlinked and what no vCPU can see any more. Waits for
    /// nobody.
    pub fn reclaim(&mut self, budget: Budget) -> Reclaim {
        let Handle { vm, member } = &mut self.handle;
        let space = &vm.vm().space;
        let tally = space.tally(&member.reader);
        let memory = (&space.host, space.format);
        let mut visited = space.domain.reclaim(&mut member.reader, memory, tally, &mut member.cache, budget.get());
        space.domain.for_each_abandoned(|reader| {
            let left = budget.get().saturating_sub(visited);
            visited += space.domain.reclaim(reader, memory, tally, &mut member.cache, left);
        });
        Reclaim { visited, awaiting: space.domain.limbo(&mut member.reader).len() }
    }

    /// Tears the VM down, to be called until it says [`Teardown::Done`]. The first call cuts the tree off at its root:
    /// faults and other operations answer `Gone` from then on. Waits, within the budget, for vCPUs that are inside a fault
    /// or keep an [`Exit`](super::Exit); those that are in their guests have to be out already, and load this root no more. Other workers that have unlinked something
    /// free it by their own [`reclaim`](Self::reclaim), or by being dropped: until then the answer is
    /// [`Teardown::More`].
    pub fn teardown(&mut self, budget: Budget) -> Teardown {
        self.detach();
        let Handle { vm, member } = &mut self.handle;
        let space = &vm.vm().space;
        let tally = space.tally(&member.reader);
        let memory = (&space.host, space.format);
        let mut left = budget.get();
        let mut done = true;
        let mut empty = |reader: &mut crate::reclaim::Reader<_>| {
            while space.domain.limbo(reader).len() > 0 && left > 0 {
                let visited = space.domain.reclaim(reader, memory, tally, &mut member.cache, left);
                left = left.saturating_sub(visited.max(1)); // a look that found nobody gone counts, too
                if visited == 0 {
                    space.host.relax(); // a grace period: outside any section, owning nothing locked (R11)
                }
            }
            done &= space.domain.limbo(reader).len() == 0;
        };
        empty(&mut member.reader);
        space.domain.for_each_abandoned(empty);
        member.cache.drain(&space.host, tally);
        // What other workers unlinked is theirs to free; the root may be among it.
        if done && space.counts().waiting() == 0 { Teardown::Done } else { Teardown::More }
    }

    fn detach(&mut self) {
        let Handle { vm, member } = &mut self.handle;
        let space = &vm.vm().space;
        let tally = space.tally(&member.reader);
        if let Some(root) = space.root.detach() {
            tally.flushed_all();
            // The root's end before the embedder's choice of CPUs (R8).
            <AtomicsOf<R> as Atomics>::full_fence();
            space.host.wait(space.host.flush(Flush::All));
            tally.retired_subtree();
            let subtree = Subtree::whole(space.format, root);
            let tag = space.domain.tag();
            space.domain.limbo(&mut member.reader).push(subtree, tag);
        }
    }

    pub(super) fn check(&self, range: GpaRange) -> Result<(), RangeError> {
        let space = &self.handle.vm.vm().space;
        let geometry = space.geometry();
        if !range.is_aligned(geometry.page_size()) {
            return Err(RangeError::Unaligned);
        }
        if !geometry.address_space().covers(range) {
            return Err(RangeError::OutOfRange);
        }
        space.root.load().map(drop).ok_or(RangeError::Gone)
    }

    /// The log that a slot needs for these flags if it has none: made before the slots are locked, since that takes as
    /// long as the slot is large.
    fn log_for(&mut self, id: SlotId, flags: SlotFlags) -> Result<Option<SharedLog<AtomicsOf<R>>>, SlotError> {
        let Handle { vm, member } = &mut self.handle;
        let vm = vm.vm();
        let range = {
            let section = vm.space.domain.enter(&mut member.reader);
            let slot = vm.slots.read(section.inside()).by_id(id).ok_or(SlotError::NoSuchSlot)?;
            if slot.log.is_some() {
                return Ok(None);
            }
            slot.range
        };
        Ok(new_log(range, flags.log, vm.space.geometry().page_shift())?)
    }

    /// Decides under the slots' lock how a change begins, publishes it, and announces it (R4, R6).
    pub(super) fn begin(
        &mut self,
        id: SlotId,
        decide: impl FnOnce(
            Inside<'_, AtomicsOf<R>>,
            &Slot<AtomicsOf<R>>,
            &Change<'_, AtomicsOf<R>>,
        ) -> Result<Begin<AtomicsOf<R>>, SlotError>,
    ) -> Result<Option<Work>, SlotError> {
        let Handle { vm, member } = &mut self.handle;
        let vm = vm.vm();
        let mut change = vm.slots.write(&vm.space.domain)?;
        let section = vm.space.domain.enter(&mut member.reader);
        vm.space.root.load().ok_or(SlotError::Gone)?;
        let slot = change.slot(section.inside(), id)?;
        let range = slot.range;
        let unfinished = match decide(section.inside(), &slot, &change)? {
            Begin::Continue(unfinished) => {
                change.note(id, unfinished.map(|walk| Unfinished { is_walked: true, ..walk }));
                unfinished
            }
            Begin::Publish(slot, walk) => {
                let serial = change.next_serial();
                let unfinished = walk.map(|walk| Unfinished { id, serial, walk, next: range.start(), is_walked: true });
                let log = slot.log.clone();
                change.put(section.inside(), slot)?;
                change.note(id, unfinished);
                // Faults look slots up after their shard's word: one that saw the word before this event publishes
                // nothing, one that sees it after finds the new snapshot.
                vm.space.shards.event(range);
                // Only now: a fault that found no log may have published until the event.
                if unfinished.is_none() {
                    log.iter().for_each(|log| log.arm());
                }
                unfinished
            }
        };
        Ok(unfinished.map(|unfinished| Work { unfinished, end: range.end() }))
    }

    /// Carries a change's walk on, and finishes the change when the walk is over.
    pub(super) fn go_on(&mut self, id: SlotId, work: Option<Work>, budget: Budget) -> Result<Progress, SlotError> {
        let Some(Work { unfinished, end }) = work else {
            return Ok(Progress { next: None, changed: 0, widened: false });
        };
        let range = GpaRange::new(unfinished.next, end).unwrap_or_default();
        let mut progress = match unfinished.walk {
            Walk::Protect(what) => self.protect(range, what, budget),
            Walk::Remove | Walk::Move(_) => self.remove(range, budget),
        };
        let Handle { vm, member } = &mut self.handle;
        let vm = vm.vm();
        let (relax, shift) = (|| vm.space.host.relax(), vm.space.geometry().page_shift());
        if !matches!(unfinished.walk, Walk::Protect(_)) && progress.is_done() {
            // The walk is over, the slot is not out yet: if there is no room to retire a snapshot now, the next call
            // finds nothing left to walk.
            progress.next = Some(end);
            let written = vm.slots.write(&vm.space.domain).and_then(|mut change| {
                let section = vm.space.domain.enter(&mut member.reader);
                match change.unfinished(id) {
                    Some(walk) if walk.serial == unfinished.serial => {
                        match walk.walk {
                            Walk::Move(to) => {
                                change.add(section.inside(), change.slot(section.inside(), id)?.arrived(to, shift)?)?
                            }
                            _ => change.take_out(section.inside(), id)?,
                        }
                        change.note(id, None);
                        Ok(())
                    }
                    _ => Ok(()), // another thread has finished it
                }
            });
            match written {
                Ok(()) => {
                    progress.next = None;
                    return Ok(progress);
                }
                Err(SlotError::Busy | SlotError::OutOfMemory | SlotError::Invalidated) => {}
                Err(error) => return Err(error),
            }
        }
        let mut change = vm.slots.note(&vm.space.domain, relax);
        let section = vm.space.domain.enter(&mut member.reader);
        if change.unfinished(id).is_some_and(|walk| walk.serial == unfinished.serial) {
            if progress.is_done() {
                change.slot(section.inside(), id)?.log.iter().for_each(|log| log.arm());
            }
            change.note(id, progress.next.map(|next| Unfinished { next, is_walked: false, ..unfinished }));
        }
        Ok(progress)
    }

    fn protect(&mut self, range: GpaRange, what: What, budget: Budget) -> Progress {
        let Handle { vm, member } = &mut self.handle;
        let space = &vm.vm().space;
        let tally = space.tally(&member.reader);
        let shift = space.geometry().page_shift();
        let mut protection = Protection::new(space.gather(), what);
        let (mut at, mut left) = (range.start(), budget.get());
        loop {
            let section = space.domain.enter(&mut member.reader);
            let visit = Visit { space, section: section.inside(), tally };
            let pages = All { first: at.get() >> shift, end: range.end().get() >> shift };
            let reached = protection.run(visit, &pages, &mut member.cache, left.min(ENTRIES_PER_SECTION));
            left = left.saturating_sub(reached.visited.max(1));
            match reached.next {
                Some(next) if left > 0 => at = next,
                next => {
                    protection.close(visit);
                    return Progress { next, changed: protection.changed, widened: protection.widened };
                }
            }
        }
    }

    /// Removes what `range` maps; annotations stay.
    pub(super) fn remove(&mut self, range: GpaRange, budget: Budget) -> Progress {
        self.remove_leaving(range, 0, budget.get()).progress
    }

    /// Removes what `range` maps and leaves `word` behind: 0, or an annotation.
    pub(super) fn remove_leaving(&mut self, range: GpaRange, word: u64, budget: u64) -> Stepped {
        let Handle { vm, member } = &mut self.handle;
        let vm = vm.vm();
        let space = &vm.space;
        let tally = space.tally(&member.reader);
        let mut progress = Progress { next: None, changed: 0, widened: false };
        let (mut at, mut left) = (range.start(), budget);
        loop {
            let may_cut = space.domain.limbo(&mut member.reader).room();
            let section = space.domain.enter(&mut member.reader);
            let visit = Visit { space, section: section.inside(), tally };
            let slots = vm.slots.read(section.inside());
            let moves_dirty = space.format.hardware_dirty() && slots.has_hardware_log(range);
            let mut removal = Removal::new(space.gather(), may_cut, word, moves_dirty);
            let reached = removal.run(visit, range.from(at), &mut member.cache, left.min(ENTRIES_PER_SECTION));
            let mut cut = [None; CUTS];
            let mut places = cut.iter_mut();
            let mark = |page| vm.mark_moved(visit.section, page);
            removal.close(visit, mark, |subtree| {
                if let Some(place) = places.next() {
                    *place = Some(subtree);
                }
            });
            progress.changed += removal.changed;
            progress.widened |= removal.widened;
            let shortage = removal.shortage;
            drop(removal);
            drop(section);
            let tag = space.domain.tag();
            let limbo = space.domain.limbo(&mut member.reader);
            cut.into_iter().flatten().for_each(|subtree| limbo.push(subtree, tag));
            left = left.saturating_sub(reached.visited.max(1));
            match reached.next {
                Some(next) if left > 0 && shortage.is_none() => at = next,
                next => {
                    progress.next = next;
                    return Stepped { progress, left, shortage };
                }
            }
        }
    }
}

impl<R: VmRef> fmt::Debug for Worker<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Worker").finish_non_exhaustive()
    }
}

/// How a change of a slot begins.
pub(super) enum Begin<A: Atomics> {
    /// It has begun already; this walk is left.
    Continue(Option<Unfinished>),
    /// Publish this, then walk.
    Publish(Slot<A>, Option<Walk>),
}

/// A walk to be carried on, up to `end`.
pub(super) struct Work {
    unfinished: Unfinished,
    end: Gpa,
}

/// What has to be taken from a slot's leaves when its flags change.
fn walk_for(old: SlotFlags, new: SlotFlags) -> Option<What> {
    if new.read_only && !old.read_only {
        return Some(What::WriteForGood);
    }
    match new.log {
        Some(LogMode::Protect) if old.log.is_none() => Some(What::Write),
        Some(LogMode::Hardware) if old.log.is_none() => Some(What::Dirty),
        _ => None,
    }
}

pub(super) fn new_log<A: Atomics>(
    range: GpaRange,
    mode: Option<LogMode>,
    page_shift: u32,
) -> Result<Option<SharedLog<A>>, OutOfMemory> {
    let Some(mode) = mode else { return Ok(None) };
    let (first, end) = (range.start().get() >> page_shift, range.end().get() >> page_shift);
    Shared::new(Log::new(first, end, mode == LogMode::InitiallySet)?).map(Some)
}
