//! Contiguous groups: one leaf each, in several entries (R1). Made where nothing was, changed as a whole, dissolved where
//! only a part is meant.
//!
//! Hardware may use what any member says for all of them. So whoever narrows a group narrows every member before its flush
//! counts, and whoever means fewer breaks the group first. What is given (accessed, write permission outside of a log) may
//! be given member by member.

use super::{Publish, Visit};
use crate::addr::{Gpa, GpaRange, Level};
use crate::format::{Format, Leaf};
use crate::host::Host;
use crate::table::{Members, Position, Singles};
use crate::tlb::Gather;

/// Groups that are broken behind one flush.
const BATCH: usize = 32;

/// Whether a table is filled with groups, where the format has them and the memory is aligned.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Grouping {
    Groups,
    Singles,
}

/// What became of a change of all members.
pub(super) struct Changed {
    /// How many members were changed.
    pub(super) count: u64,
    /// The member that is something else meanwhile, at which it ended.
    pub(super) met: Option<usize>,
}

impl<'s, H: Host, F: Format> Visit<'s, H, F> {
    /// What a group of `level` around `gpa` covers: as much as one entry where there are no groups.
    #[inline]
    pub(crate) fn group_span(self, gpa: Gpa, level: Level) -> GpaRange {
        let format = self.space.format;
        GpaRange::around(gpa, format.geometry().size(level) << format.group_bits(level))
    }

    /// Whether a group can be made around an empty entry.
    pub(crate) fn has_room_for_group(self, position: Position<'s, H>) -> bool {
        Members::around(position, self.space.format).are_empty()
    }

    /// Publishes a group in the entries around one that was seen empty, unless `admit`, asked while all of them are locked,
    /// says no. `first` is what its first member maps.
    pub(crate) fn publish_group(self, position: Position<'s, H>, first: Leaf, admit: impl FnOnce() -> bool) -> Publish {
        let members = Members::around(position, self.space.format);
        let Some(claimed) = members.claim::<F>() else { return Publish::Lost };
        if !admit() {
            claimed.restore();
            return Publish::Refused;
        }
        claimed.publish(self.space.format, first);
        self.tally.mapped(position.level, members.count as u64);
        self.tally.group_made();
        Publish::Done
    }

    /// Gives write permission back to every member of the group around `position`; whether that one was
    /// reached before one that is no member any more.
    pub(crate) fn relax_group(self, position: Position<'s, H>) -> bool {
        let (format, level) = (self.space.format, position.level);
        let members = Members::around(position, format);
        let relaxed = |raw| if format.may_write(raw, level) { format.made_writable(raw, level) } else { raw };
        let changed = self.change_group(members, level, relaxed);
        changed.met.is_none_or(|met| members.first + met > position.index)
    }

    /// Whether any member of the group around `position` was accessed since they were last made old, which `forget` makes
    /// them.
    pub(super) fn age_group(self, position: Position<'s, H>, forget: bool) -> bool {
        let (format, level) = (self.space.format, position.level);
        let mut is_young = false;
        let _ = self.change_group(Members::around(position, format), level, |raw| {
            is_young |= format.decode(raw, level).accessed;
            if forget { format.made_old(raw, level) } else { raw }
        });
        is_young
    }

    /// Changes members within their kind, each by a compare-and-swap from the value seen, in ascending order, as long as
    /// they are members.
    pub(super) fn change_group(
        self,
        members: Members<'s, H>,
        level: Level,
        mut change: impl FnMut(u64) -> u64,
    ) -> Changed {
        let mut count = 0;
        let mut member = 0;
        while member < members.count {
            let entry = members.entry(member);
            let raw = entry.load();
            if !self.space.format.is_grouped(raw, level) {
                return Changed { count, met: Some(member) };
            }
            let new = change(raw);
            if new != raw {
                if entry.change(raw, new).is_err() {
                    continue; // hardware or another thread was faster: look again
                }
                count += 1;
            }
            member += 1;
        }
        Changed { count, met: None }
    }

    /// Makes leaves of their own of the members of the group seen at `position`, which covers `gpa`. The error is an entry
    /// that is no member any more. The caller owns nothing that is locked.
    #[cold]
    pub(crate) fn dissolve(self, position: Position<'s, H>, gpa: Gpa) -> Result<(), Position<'s, H>> {
        let mut dissolution = Dissolution::new(self.space.gather());
        let added = dissolution.add(self, position, gpa);
        dissolution.close(self);
        added
    }
}

/// Groups that are broken behind one flush, to become leaves of their own.
#[must_use = "a dissolution has to be closed"]
pub(super) struct Dissolution<'s, H: Host> {
    gather: Gather,
    groups: [Option<Singles<'s, H>>; BATCH],
    count: usize,
}

impl<'s, H: Host> Dissolution<'s, H> {
    pub(super) fn new(gather: Gather) -> Self {
        Self { gather, groups: [const { None }; BATCH], count: 0 }
    }

    pub(super) fn is_full(&self) -> bool {
        self.count == BATCH
    }

    /// Breaks the group around `position`, which covers `gpa`. The error is an entry that is no member any more.
    pub(super) fn add<F: Format>(
        &mut self,
        visit: Visit<'s, H, F>,
        position: Position<'s, H>,
        gpa: Gpa,
    ) -> Result<(), Position<'s, H>> {
        let format = visit.space.format;
        let members = Members::around(position, format);
        let broken = members.break_valid(format).map_err(|met| members.at(met))?;
        self.gather.leaf(visit.group_span(gpa, position.level), position.level);
        self.groups[self.count] = Some(broken.except(format, 0..0));
        self.count += 1;
        Ok(())
    }

    /// Flushes what was broken, and makes the leaves.
    ///
    /// They say what the members said when they were locked. No answer of the embedder's is published anew, so R4's check
    /// is not needed: an invalidation waits at the locked entries and then finds the leaves.
    pub(super) fn close<F: Format>(mut self, visit: Visit<'s, H, F>) {
        let flushed = self.gather.close(&visit.space.host, visit.tally);
        for singles in self.groups.iter_mut().filter_map(Option::take) {
            singles.make(&flushed, visit.space.format);
            visit.tally.group_dissolved();
        }
    }
}
