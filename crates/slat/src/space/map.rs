//! Making something where there was nothing, and changing one leaf in place.

use super::{Grouping, Visit};
use crate::addr::{Gpa, Level};
use crate::format::{Change, Format, Leaf};
use crate::host::{Host, Tlb};
use crate::table::{Cache, Position, Unlinked};

/// Somebody else changed the entry first: look again.
#[derive(Debug)]
pub(crate) struct Lost;

/// What became of a leaf that was to be published.
#[derive(Debug)]
pub(crate) enum Publish {
    /// It is visible.
    Done,
    /// Something has happened since the answer was looked up: the entry is as it was (R4).
    Refused,
    /// Somebody else changed the entry first.
    Lost,
}

impl<'s, H: Host, F: Format> Visit<'s, H, F> {
    /// Goes down from an empty entry to the entry of `level` for `gpa`, linking empty tables from `cache`, which holds
    /// enough of them.
    pub(crate) fn link_down(
        self,
        mut position: Position<'s, H>,
        gpa: Gpa,
        level: Level,
        cache: &mut Cache,
    ) -> Result<Position<'s, H>, Lost> {
        let format = self.space.format;
        while position.level > level {
            let Some(table) = cache.pop() else { return Err(Lost) };
            let linked = format.table(table, position.level);
            // The table's words are zero; the Release in `change` makes them visible before the link.
            if position.entry().change(position.raw, linked).is_err() {
                cache.push(table);
                return Err(Lost);
            }
            position = self.below(Position { raw: linked, ..position }, gpa);
            if position.raw != 0 {
                return Err(Lost);
            }
        }
        Ok(position)
    }

    /// Publishes a leaf in an entry that was seen empty, unless `admit`, asked while the entry is locked, says no.
    #[inline]
    pub(crate) fn publish_leaf(self, position: Position<'s, H>, leaf: u64, admit: impl FnOnce() -> bool) -> Publish {
        let Ok(claimed) = position.entry().claim::<F>(position.raw) else { return Publish::Lost };
        if !admit() {
            claimed.restore();
            return Publish::Refused;
        }
        claimed.publish(leaf);
        self.tally.mapped(position.level, 1);
        Publish::Done
    }

    /// Publishes a table of pages, the first of which is `first`, in an entry of the level above that was seen empty,
    /// unless `admit`, asked while the entry is locked, says no. The table comes from `cache`, and is filled before, with
    /// contiguous groups where `grouping` allows them.
    pub(crate) fn publish_table(
        self,
        position: Position<'s, H>,
        first: Leaf,
        cache: &mut Cache,
        grouping: Grouping,
        admit: impl FnOnce() -> bool,
    ) -> Publish {
        let Some(table) = cache.pop() else { return Publish::Lost };
        let mut child = Unlinked::new(&self.space.host, table);
        self.populate(&mut child, first, Level::PAGE, grouping);
        let mut give_back = || {
            child.write_series(0, 0);
            cache.push(table);
        };
        let Ok(claimed) = position.entry().claim::<F>(position.raw) else {
            give_back();
            return Publish::Lost;
        };
        if !admit() {
            claimed.restore();
            give_back();
            return Publish::Refused;
        }
        claimed.publish(self.space.format.table(table, position.level));
        self.tally.mapped(Level::PAGE, self.space.geometry().entries() as u64);
        Publish::Done
    }

    /// Replaces a leaf by another of the same level, breaking it first where the format wants that (R1).
    #[cold]
    pub(crate) fn replace_leaf(
        self,
        position: Position<'s, H>,
        gpa: Gpa,
        leaf: u64,
        admit: impl FnOnce() -> bool,
    ) -> Publish {
        let Ok(broken) = position.entry().break_valid::<F>(position.raw) else { return Publish::Lost };
        if !admit() {
            broken.restore();
            return Publish::Refused;
        }
        let mut gather = self.space.gather();
        match self.space.format.change(position.raw, leaf, position.level) {
            Change::Free => broken.replace_unflushed(leaf),
            Change::Flush | Change::Overlap | Change::Break => {
                gather.leaf(self.span(gpa, position.level), position.level);
                let flushed = gather.close(&self.space.host, self.tally);
                broken.make(&flushed, leaf);
            }
        }
        Publish::Done
    }

    /// Tells hardware walkers that entries were published, before the guest goes on.
    #[inline(always)]
    pub(crate) fn published(self) {
        Tlb::published(&self.space.host);
    }
}
