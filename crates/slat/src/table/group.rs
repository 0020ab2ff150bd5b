//! The entries of one contiguous group, locked together.
//!
//! They are locked in ascending order and given back in descending order: who holds the first one has no rival for the
//! others but a replacement that freezes the whole table, at which a group gives up.

use core::mem;
use core::ops::Range;

use super::{Entry, Position, TableRef};
use crate::addr::{Hpa, Level};
use crate::format::{Format, Leaf, MOST_MEMBERS};
use crate::host::TableMemory;
use crate::sync::Atomics;
use crate::tlb::Flushed;

/// Neighbouring entries of one table that are a group, or may become one.
pub(crate) struct Members<'s, H: TableMemory> {
    table: TableRef<'s, H>,
    /// The index of the first one in the table.
    pub(crate) first: usize,
    pub(crate) count: usize,
    level: Level,
}

impl<H: TableMemory> Clone for Members<'_, H> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<H: TableMemory> Copy for Members<'_, H> {}

impl<'s, H: TableMemory> Members<'s, H> {
    /// The group's entries around `position`.
    pub(crate) fn around<F: Format>(position: Position<'s, H>, format: F) -> Self {
        let count = (1 << format.group_bits(position.level)).min(MOST_MEMBERS);
        Self { table: position.table, first: position.index & !(count - 1), count, level: position.level }
    }

    /// Entry number `member` of the group.
    pub(crate) fn entry(self, member: usize) -> Entry<'s, H::Atomics> {
        self.table.entry(self.first + member)
    }

    /// The entry that `index` of the table is, and the value seen there.
    pub(crate) fn at(self, member: usize) -> Position<'s, H> {
        let Self { table, first, level, .. } = self;
        Position { table, index: first + member, level, raw: self.entry(member).load() }
    }

    /// Whether all entries are seen to be zero.
    pub(crate) fn are_empty(self) -> bool {
        (0..self.count).all(|member| self.entry(member).load() == 0)
    }

    /// Locks all entries, which are zero, and orders that before all that follows (R4); `None`, and nothing changed, if one
    /// of them is not.
    pub(crate) fn claim<F: Format>(self) -> Option<ClaimedGroup<'s, H>> {
        let mut claimed = ClaimedGroup { members: self, locked: 0 };
        while claimed.locked < self.count {
            if self.entry(claimed.locked).change(0, F::LOCKED).is_err() {
                claimed.restore();
                return None;
            }
            claimed.locked += 1;
        }
        H::Atomics::full_fence_after_rmw();
        Some(claimed)
    }

    /// Locks all entries, which are members of a group, and orders that before all that follows. The error is the member
    /// that is something else meanwhile: nothing has changed then.
    pub(crate) fn break_valid<F: Format>(self, format: F) -> Result<BrokenGroup<'s, H>, usize> {
        let mut broken = BrokenGroup { members: self, locked: 0, old: [0; MOST_MEMBERS] };
        while broken.locked < self.count {
            let entry = self.entry(broken.locked);
            let raw = entry.load();
            if !format.is_grouped(raw, self.level) {
                let met = broken.locked;
                broken.restore();
                return Err(met);
            }
            // Hardware or another thread may have changed it within its kind: look again.
            if entry.change(raw, F::LOCKED).is_ok() {
                broken.old[broken.locked] = raw;
                broken.locked += 1;
            }
        }
        H::Atomics::full_fence_after_rmw();
        Ok(broken)
    }

    /// Stores member by member, the last one first.
    fn store(self, members: Range<usize>, raw: impl Fn(usize) -> u64) {
        members.rev().for_each(|member| self.entry(member).store(raw(member)));
    }

    /// The word of member number `member` of the group whose first leaf is `first`, by itself and clean.
    fn single<F: Format>(self, format: F, first: Leaf, member: usize) -> u64 {
        let offset = (member as u64) << format.geometry().shift(self.level);
        format.leaf(Leaf { hpa: Hpa::new(first.hpa.get() + offset), ..first }, self.level)
    }

    /// The same made dirty.
    fn dirty_single<F: Format>(self, format: F, first: Leaf, member: usize) -> u64 {
        let dirty = format.made_writable(self.single(format, first, member), self.level);
        if first.permissions.write() { dirty } else { format.write_protected(dirty, self.level) }
    }
}

/// Entries that were empty and are now this thread's.
#[must_use = "locked entries have to be published or restored"]
pub(crate) struct ClaimedGroup<'s, H: TableMemory> {
    members: Members<'s, H>,
    locked: usize,
}

impl<H: TableMemory> ClaimedGroup<'_, H> {
    /// Makes a group of them, whose first leaf is `first`.
    pub(crate) fn publish<F: Format>(self, format: F, first: Leaf) {
        let Self { members, locked } = self;
        members.store(0..locked, |member| format.grouped(members.single(format, first, member), members.level));
        mem::forget(self);
    }

    /// Gives them back as they were.
    pub(crate) fn restore(self) {
        self.members.store(0..self.locked, |_| 0);
        mem::forget(self);
    }
}

impl<H: TableMemory> Drop for ClaimedGroup<'_, H> {
    fn drop(&mut self) {
        self.members.store(0..self.locked, |_| 0);
        debug_assert!(false, "a locked group was dropped half way");
    }
}

/// A group that was broken: invalid now, and perhaps still cached as a whole.
#[must_use = "a broken group has to be removed, made anew or restored"]
pub(crate) struct BrokenGroup<'s, H: TableMemory> {
    members: Members<'s, H>,
    locked: usize,
    /// Each as it was: to give back less would take a permission without a flush, to give back more would undo what
    /// somebody took.
    old: [u64; MOST_MEMBERS],
}

impl<'s, H: TableMemory> BrokenGroup<'s, H> {
    /// Whether hardware has written through the group, which it notes in any member.
    pub(crate) fn is_dirty<F: Format>(&self, format: F) -> bool {
        self.old[..self.locked].iter().any(|&raw| format.is_dirty(raw, self.members.level))
    }

    /// Gives the members back as they were: what may be cached is what they say again.
    fn restore(self) {
        self.members.store(0..self.locked, |member| self.old[member]);
        mem::forget(self);
    }

    /// All members are in a removal, which empties them.
    pub(crate) fn removed(self) {
        mem::forget(self);
    }

    /// The members become leaves of their own behind the next flush, but for those in `removed`, which are for the caller
    /// to empty.
    pub(crate) fn except<F: Format>(self, format: F, removed: Range<usize>) -> Singles<'s, H> {
        let (members, is_dirty) = (self.members, self.is_dirty(format));
        let leaf = |member: usize| {
            let raw = format.ungrouped(self.old[member], members.level, member);
            format.decode(raw, members.level)
        };
        let first = (1..self.locked).map(leaf).fold(leaf(0), Leaf::united);
        mem::forget(self);
        Singles { members, removed, first, is_dirty }
    }
}

impl<H: TableMemory> Drop for BrokenGroup<'_, H> {
    fn drop(&mut self) {
        self.members.store(0..self.locked, |member| self.old[member]);
        debug_assert!(false, "a broken group was dropped half way");
    }
}

/// A broken group whose members become leaves of their own, but for some that are removed: permissions intersected,
/// accessed and dirty united, as any of them may have been cached for all.
#[must_use = "locked entries have to be made anew"]
pub(crate) struct Singles<'s, H: TableMemory> {
    members: Members<'s, H>,
    removed: Range<usize>,
    /// What the first member says.
    first: Leaf,
    is_dirty: bool,
}

impl<H: TableMemory> Singles<'_, H> {
    /// Makes the leaves. The proof is that of a flush of the whole group's span, completed after the breaking.
    pub(crate) fn make<F: Format>(self, _flushed: &Flushed, format: F) {
        let Self { members, first, is_dirty, .. } = self;
        let single = |member| match is_dirty {
            true => members.dirty_single(format, first, member),
            false => members.single(format, first, member),
        };
        members.store(self.removed.end..members.count, single);
        members.store(0..self.removed.start, single);
        mem::forget(self);
    }
}

impl<H: TableMemory> Drop for Singles<'_, H> {
    fn drop(&mut self) {
        // Empty rather than locked for ever: a fault maps there no less than what is cached.
        self.members.store(self.removed.end..self.members.count, |_| 0);
        self.members.store(0..self.removed.start, |_| 0);
        debug_assert!(false, "a broken group was dropped half way");
    }
}
