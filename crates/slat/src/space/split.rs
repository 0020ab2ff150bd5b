//! Splitting a leaf into a table of leaves that map the same memory: populated before it is linked, one break, or none
//! where hardware may use both sizes at once.

use super::{Grouping, Visit};
use crate::addr::{Gpa, Hpa, Level};
use crate::format::{Change, Format, Leaf};
use crate::host::Host;
use crate::table::{Broken, Cache, Position, Unlinked};
use crate::tlb::Gather;

/// What became of a leaf that was to be split.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Split {
    /// A table is there now.
    Done,
    /// Somebody else changed the entry first.
    Lost,
    /// The handle carries no table for it.
    NoTable,
}

impl<'s, H: Host, F: Format> Visit<'s, H, F> {
    /// Splits the leaf seen at `position`, above the page level, which covers `gpa`.
    ///
    /// The children say what the leaf said when it was seen; the break is a compare-and-swap from that value, so a
    /// change in between, by hardware or a protection, makes it fail. Where there is no break, hardware has the table from
    /// then on, and software has it after the flush: until then nobody changes what the leaf, which is still cached, says of
    /// the same memory. No answer of the embedder's is published anew, so R4's check is not needed: an invalidation waits
    /// at the locked entry and then finds the table.
    #[cold]
    pub(crate) fn split(self, position: Position<'s, H>, gpa: Gpa, cache: &mut Cache) -> Split {
        let Some(table) = cache.pop() else { return Split::NoTable };
        let Some(linked) = self.child_of(position, table) else {
            cache.push(table);
            return Split::Lost;
        };
        let mut gather = self.space.gather();
        let Some(broken) = self.take_for(position, linked, gpa, &mut gather) else {
            self.take_back(table, cache);
            return Split::Lost;
        };
        let flushed = gather.close(&self.space.host, self.tally);
        broken.make(&flushed, linked);
        self.count_split(position.level);
        Split::Done
    }

    /// Fills `table`, a zeroed one that is linked nowhere, with what the leaf at `position` said; the word that links it.
    /// None of a page.
    #[inline(always)]
    pub(super) fn child_of(self, position: Position<'s, H>, table: Hpa) -> Option<u64> {
        let format = self.space.format;
        let below = position.level.below()?;
        let mut child = Unlinked::new(&self.space.host, table);
        let whole = format.decode(position.raw, position.level);
        // Where the log withholds writing, a group would be dissolved by the write that splits, or by the next one.
        let is_withheld = format.group_bits(below) > 0 && whole.may_write && !whole.permissions.write();
        let grouping = if is_withheld { Grouping::Singles } else { Grouping::Groups };
        self.populate(&mut child, whole, below, grouping);
        Some(format.table(table, position.level))
    }

    /// Takes the leaf at `position` from everybody else, to link `linked` in its place: from hardware, too, unless it may have
    /// the table at once. What has to be flushed before is gathered; none if the entry has changed.
    #[inline(always)]
    pub(super) fn take_for(
        self,
        position: Position<'s, H>,
        linked: u64,
        gpa: Gpa,
        gather: &mut Gather,
    ) -> Option<Broken<'s, H::Atomics>> {
        let Position { level, raw, .. } = position;
        let format = self.space.format;
        let span = self.span(gpa, level);
        let change = match format.change(raw, linked, level) {
            // What the leaf allowed before somebody protected it may still be cached, and a flush by address is not sure to
            // drop that once pages of the table are cached beside it.
            Change::Overlap if self.space.shards.unflushed(span) => Change::Break,
            change => change,
        };
        let broken = match change {
            Change::Overlap => position.entry().hold(raw, format.held(linked, level)),
            Change::Free | Change::Flush | Change::Break => position.entry().break_valid::<F>(raw),
        };
        let broken = broken.ok()?;
        match change {
            Change::Free => {}
            Change::Overlap => gather.table(span),
            Change::Flush | Change::Break => gather.leaf(span, level),
        }
        Some(broken)
    }

    /// Gives a child back that was not linked.
    #[cold]
    pub(super) fn take_back(self, table: Hpa, cache: &mut Cache) {
        Unlinked::new(&self.space.host, table).write_series(0, 0);
        cache.push(table);
    }

    /// Counts one leaf of `level` that has become a table of leaves.
    #[inline(always)]
    pub(super) fn count_split(self, level: Level) {
        self.tally.split();
        self.tally.unmapped(level, 1);
        self.tally.mapped(level.below().unwrap_or(Level::PAGE), self.space.geometry().entries() as u64);
    }

    /// Fills a table that is linked nowhere yet with the leaves of `below` that map what `whole` begins.
    #[inline]
    pub(super) fn populate(self, child: &mut Unlinked<'_, H>, whole: Leaf, below: Level, grouping: Grouping) {
        // Nearly always pages: compiled for that level apart.
        match below {
            Level::PAGE => self.populate_with(child, whole, Level::PAGE, grouping),
            _ => self.populate_with(child, whole, below, grouping),
        }
    }

    #[inline(always)]
    fn populate_with(self, child: &mut Unlinked<'_, H>, whole: Leaf, below: Level, grouping: Grouping) {
        let format = self.space.format;
        let geometry = format.geometry();
        let group = geometry.size(below) << format.group_bits(below);
        let is_grouped = format.group_bits(below) > 0 && grouping == Grouping::Groups && whole.hpa.is_aligned(group);
        let leaf = |index: usize| {
            let hpa = Hpa::new(whole.hpa.get() + ((index as u64) << geometry.shift(below)));
            let raw = format.leaf(Leaf { hpa, ..whole }, below);
            if is_grouped { format.grouped(raw, below) } else { raw }
        };
        let entries = geometry.entries();
        let (first, last, stride) = (leaf(0), leaf(entries - 1), leaf(1).wrapping_sub(leaf(0)));
        // Where the address is one field of the word, as it is nearly everywhere, the words are a fixed step apart.
        if first.wrapping_add(stride.wrapping_mul(entries as u64 - 1)) == last {
            // Nearly always pages of neighbouring frames: a step that is a constant.
            match geometry.page_size() {
                page if page == stride => child.write_series(first, page),
                _ => child.write_series(first, stride),
            }
        } else {
            (0..entries).for_each(|index| child.write(index, leaf(index)));
        }
    }
}
