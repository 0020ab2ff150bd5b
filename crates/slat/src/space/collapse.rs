//! Collapsing a table of leaves into the one leaf that maps the same memory (R7).

use core::ops::Range;

use super::Visit;
use crate::addr::{Gpa, Hpa, Level};
use crate::format::{Change, Format, Kind, Leaf};
use crate::host::Host;
use crate::reclaim::Subtree;
use crate::table::{Entry, Position, TableRef};

/// Entries of the largest table that is frozen without a look at it before.
const SMALL: usize = 512;
/// Ways in which the children of one table may differ: writable or not, noted as such or not, accessed or not, dirty or not,
/// in a contiguous group or not. A table with more of them is left alone.
const KINDS: usize = 16;
/// How often an entry that changes under our eyes is looked at again.
const LOOKS: usize = 4;

impl<'s, H: Host, F: Format> Visit<'s, H, F> {
    /// Makes one leaf of the table seen at `parent`, which covers `gpa`, if its entries are leaves of neighbouring memory
    /// that differ in nothing but write permission and the accessed flag, unless `admit`, asked while the parent is locked,
    /// says no. The table that is left over is for the caller to retire.
    ///
    /// The parent is locked first, then each child frozen by a compare-and-swap from the value seen: what a fault or a
    /// protection changes until then is in the value, and who comes later finds the child frozen, starts again from the
    /// root and meets the locked parent. The leaf is made from the frozen values only. All of this is for software alone
    /// where hardware may use both sizes at once: it goes on with the children, then with the leaf.
    ///
    /// The parent stays locked for the flush and one compare-and-swap an entry, and as many stores if it is given up: of
    /// 8,192 entries at the most (arm64, 64 KiB).
    pub(crate) fn collapse(self, parent: Position<'s, H>, gpa: Gpa, admit: impl FnOnce() -> bool) -> Option<Subtree> {
        // How large the note on the stack has to be is known when the format is.
        match self.space.format.geometry().entries() {
            ..=512 => self.collapse_with::<256>(parent, gpa, admit),
            513..=2048 => self.collapse_with::<1024>(parent, gpa, admit),
            2049..=8192 => self.collapse_with::<4096>(parent, gpa, admit),
            _ => None,
        }
    }

    #[inline(never)]
    fn collapse_with<const NOTE: usize>(
        self,
        parent: Position<'s, H>,
        gpa: Gpa,
        admit: impl FnOnce() -> bool,
    ) -> Option<Subtree> {
        let format = self.space.format;
        let below = parent.level.below()?;
        let base = self.span(gpa, parent.level).start();
        let first = self.below(parent, base);
        let mut children = Children::<H, NOTE>::of(self, first, parent)?;
        if children.entries > SMALL && !children.fit(format) {
            return None;
        }
        let broken = match children.overlap {
            true => parent.entry().hold(parent.raw, format.held(parent.raw, parent.level)).ok()?,
            false => parent.entry().break_valid::<F>(parent.raw).ok()?,
        };
        if !admit() {
            broken.restore();
            return None;
        }
        let span = self.span(gpa, parent.level);
        // Somebody's flush by address of what the children allowed is not sure to drop it beside a larger leaf.
        if !children.freeze(format) || (children.overlap && self.space.shards.unflushed(span)) {
            children.thaw(format);
            broken.restore();
            return None;
        }
        let leaf = format.leaf(children.united(format), parent.level);
        if children.overlap {
            broken.hold(format.held(leaf, parent.level));
        }
        let mut gather = self.space.gather();
        gather.table(span);
        let flushed = gather.close(&self.space.host, self.tally);
        broken.make(&flushed, leaf);
        self.tally.unmapped(below, children.entries as u64);
        self.tally.mapped(parent.level, 1);
        self.tally.collapsed();
        self.tally.retired_subtree();
        Some(Subtree::new(format, format.table_address(parent.raw, parent.level), below))
    }
}

/// The entries of one table, as far as they were passed.
struct Children<'s, H: Host, const NOTE: usize> {
    table: TableRef<'s, H>,
    level: Level,
    entries: usize,
    /// From one entry's word to the next one's.
    stride: u64,
    /// Entries of a contiguous group.
    members: usize,
    /// Whether hardware goes on with them while they are frozen, and may use the leaf beside them.
    overlap: bool,
    /// What the words say apart from what may differ, as that of the first entry.
    common: u64,
    kinds: [Like; KINDS],
    count: usize,
    /// Which kinds were met in this pass, a bit each.
    met: u16,
    note: Note<NOTE>,
    passed: usize,
}

/// One kind of entry there is in a table.
#[derive(Clone, Copy)]
struct Like {
    /// Its word, as that of the first entry, by itself.
    word: u64,
    /// It is a member of a contiguous group, which is no difference: the leaf is larger.
    is_grouped: bool,
}

impl<'s, H: Host, const NOTE: usize> Children<'s, H, NOTE> {
    /// The children of the table at `parent` whose first entry is `first`, if they may become one leaf.
    fn of<F: Format>(visit: Visit<'s, H, F>, first: Position<'s, H>, parent: Position<'s, H>) -> Option<Self> {
        let level = parent.level;
        let format = visit.space.format;
        let geometry = format.geometry();
        let entries = geometry.entries();
        if level > geometry.largest_leaf() || format.kind(first.raw, first.level) != Kind::Leaf {
            return None;
        }
        let is_grouped = format.is_grouped(first.raw, first.level);
        let raw = if is_grouped { format.ungrouped(first.raw, first.level, 0) } else { first.raw };
        let leaf = format.decode(raw, first.level);
        if !leaf.hpa.is_aligned(geometry.size(level)) {
            return None;
        }
        let word = |index: usize| {
            let hpa = Hpa::new(leaf.hpa.get() + ((index as u64) << geometry.shift(first.level)));
            format.leaf(Leaf { hpa, ..leaf }, first.level)
        };
        let stride = word(1).wrapping_sub(word(0));
        let whole = format.leaf(leaf, level);
        let linear = word(0).wrapping_add(stride.wrapping_mul(entries as u64 - 1)) == word(entries - 1);
        linear.then(|| Self {
            table: first.table,
            level: first.level,
            entries,
            stride,
            members: 1 << format.group_bits(first.level),
            overlap: format.change(parent.raw, whole, level) == Change::Overlap,
            common: common(format, raw, first.level),
            kinds: [Like { word: raw, is_grouped }; KINDS],
            count: 1,
            met: 0,
            note: Note([0; NOTE]),
            passed: 0,
        })
    }

    /// Whether all entries fit now. Nothing is changed: a large table that does not fit holds nobody up.
    #[cold]
    fn fit<F: Format>(&mut self, format: F) -> bool {
        let fit = self.pass(format, |entry, word| entry.load() == word);
        self.passed = 0;
        fit
    }

    /// Freezes all entries; false if one of them does not fit.
    fn freeze<F: Format>(&mut self, format: F) -> bool {
        let level = self.level;
        if self.overlap {
            let freeze = |entry: Entry<'s, H::Atomics>, word| entry.change(word, format.frozen(word, level)).is_ok();
            return self.pass(format, |entry, word| entry.load() == word && freeze(entry, word));
        }
        self.pass(format, |entry, word| entry.load() == word && entry.change(word, F::FROZEN).is_ok())
    }

    /// Gives back what was frozen. Nobody else changes a frozen entry.
    fn thaw<F: Format>(&mut self, format: F) {
        for index in 0..self.passed {
            let Like { word, is_grouped } = self.kinds[self.note.of(index)];
            let word = word.wrapping_add(self.stride.wrapping_mul(index as u64));
            let word = if is_grouped { format.grouped(word, self.level) } else { word };
            self.table.entry(index).thawed(word);
        }
    }

    /// Goes over all entries, in runs of one kind, and notes of which kind each is; false at one that fits none. `step` is
    /// given each entry and the word that it is taken to hold, and says whether it does.
    #[inline(always)]
    fn pass<F: Format>(&mut self, format: F, step: impl Fn(Entry<'s, H::Atomics>, u64) -> bool) -> bool {
        let (mut kind, mut looks) = (0, 0);
        (self.met, self.passed) = (0, 0);
        loop {
            let run = match self.kinds[kind].is_grouped {
                true => self.run(kind, &step, |word| format.grouped(word, self.level)),
                false => self.run(kind, &step, |word| word),
            };
            if run > 0 {
                self.note.fill(self.passed..self.passed + run, kind);
                (self.met, self.passed, looks) = (self.met | 1 << kind, self.passed + run, 0);
            }
            if self.passed == self.entries {
                return true;
            }
            looks += 1;
            match self.kind_of(format, self.passed) {
                Some(found) if looks <= LOOKS => kind = found,
                _ => return false,
            }
        }
    }

    /// Does `step` with the entries from the first one that was not passed on, as long as they are of one kind, whose words
    /// `made` makes of their own; with how many.
    #[inline(always)]
    fn run(&self, kind: usize, step: &impl Fn(Entry<'s, H::Atomics>, u64) -> bool, made: impl Fn(u64) -> u64) -> usize {
        let stride = self.stride;
        let mut word = self.kinds[kind].word.wrapping_add(stride.wrapping_mul(self.passed as u64));
        self.table.leading(self.passed, self.entries - self.passed, |entry| {
            let is_one = step(entry, made(word));
            word = word.wrapping_add(stride);
            is_one
        })
    }

    /// Of which kind the entry at `index` is, if it fits at all.
    fn kind_of<F: Format>(&mut self, format: F, index: usize) -> Option<usize> {
        let raw = self.table.entry(index).load();
        if format.kind(raw, self.level) != Kind::Leaf {
            return None;
        }
        let is_grouped = format.is_grouped(raw, self.level);
        let raw = if is_grouped { format.ungrouped(raw, self.level, index % self.members) } else { raw };
        let word = raw.wrapping_sub(self.stride.wrapping_mul(index as u64));
        let is_one = |kind: &Like| (kind.word, kind.is_grouped) == (word, is_grouped);
        if let Some(found) = self.kinds[..self.count].iter().position(is_one) {
            return Some(found);
        }
        // An entry of other memory may look like anything once the step is taken off: compare the entry itself.
        let expected = self.common.wrapping_add(self.stride.wrapping_mul(index as u64));
        if common(format, raw, self.level) != expected || self.count == KINDS {
            return None;
        }
        self.kinds[self.count] = Like { word, is_grouped };
        self.count += 1;
        Some(self.count - 1)
    }

    /// The leaf over all of them: permissions intersected, accessed united.
    fn united<F: Format>(&self, format: F) -> Leaf {
        let leaf = |kind: usize| format.decode(self.kinds[kind].word, self.level);
        let any = leaf(self.met.trailing_zeros() as usize % KINDS);
        (0..self.count).filter(|kind| self.met >> kind & 1 != 0).map(leaf).fold(any, Leaf::united)
    }
}

/// A leaf word without what may differ. Nothing dirty is lost: under a log nothing is collapsed.
fn common<F: Format>(format: F, raw: u64, level: Level) -> u64 {
    format.made_clean(format.write_revoked(format.made_accessed(raw, level), level), level)
}

/// Of which kind each entry is, two to a byte: what it takes to give each its own word back.
struct Note<const BYTES: usize>([u8; BYTES]);

const _: () = assert!(KINDS == 1 << 4 && KINDS == u16::BITS as usize);

impl<const BYTES: usize> Note<BYTES> {
    /// Notes `kind` of `entries`, of which there is one at least.
    fn fill(&mut self, entries: Range<usize>, kind: usize) {
        let Range { start, end } = entries;
        if start % 2 != 0 {
            self.set(start, kind);
        }
        if end % 2 != 0 {
            self.set(end - 1, kind);
        }
        if let Some(whole) = self.0.get_mut(start.div_ceil(2)..end / 2) {
            whole.fill((kind | kind << 4) as u8);
        }
    }

    fn set(&mut self, entry: usize, kind: usize) {
        let shift = entry % 2 * 4;
        let byte = &mut self.0[entry / 2];
        *byte = *byte & !(0xf << shift) | (kind << shift) as u8;
    }

    fn of(&self, entry: usize) -> usize {
        (self.0[entry / 2] >> (entry % 2 * 4) & 0xf).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_of_runs_says_of_which_kind_each_entry_is() {
        let mut note = Note([0xff; 8]);
        let runs = [(0..1, 3), (1..2, 4), (2..7, 15), (7..8, 0), (8..16, 9)];
        for (entries, kind) in runs.clone() {
            note.fill(entries, kind);
        }
        for (mut entries, kind) in runs {
            assert!(entries.all(|entry| note.of(entry) == kind), "{kind}");
        }
    }
}
