//! Splitting a leaf into a table of leaves that map the same memory: populated before it is linked, one break, or none
//! where hardware may use both sizes at once.

use super::{Grouping, Visit};
use crate::addr::{Gpa, Hpa, Level};
use crate::format::{Change, Format, Leaf};
use crate::host::Host;
use crate::table::{Cache, Position, Unlinked};

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
        let format = self.space.format;
        let Some(below) = position.level.below() else { return Split::Lost };
        let Some(table) = cache.pop() else { return Split::NoTable };
        let mut child = Unlinked::new(&self.space.host, table);
        let whole = format.decode(position.raw, position.level);
        // Where the log withholds writing, a group would be dissolved by the write that splits, or by the next one.
        let is_withheld = format.group_bits(below) > 0 && whole.may_write && !whole.permissions.write();
        let grouping = if is_withheld { Grouping::Singles } else { Grouping::Groups };
        self.populate(&mut child, whole, below, grouping);
        let linked = format.table(table, position.level);
        let change = format.change(position.raw, linked, position.level);
        let broken = match change {
            Change::Overlap => position.entry().hold(position.raw, format.held(linked, position.level)),
            _ => position.entry().break_valid::<F>(position.raw),
        };
        let Ok(broken) = broken else {
            child.write_series(0, 0);
            cache.push(table);
            return Split::Lost;
        };
        let span = self.span(gpa, position.level);
        let mut gather = self.space.gather();
        match change {
            Change::Free => {}
            Change::Overlap => gather.table(span),
            Change::Flush | Change::Break => gather.leaf(span, position.level),
        }
        let flushed = gather.close(&self.space.host, self.tally);
        broken.make(&flushed, linked);
        self.tally.split();
        self.tally.unmapped(position.level, 1);
        self.tally.mapped(below, format.geometry().entries() as u64);
        Split::Done
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
