//! Collapsing a table of leaves into the one leaf that maps the same memory (R7).

use super::Visit;
use crate::addr::{Gpa, Hpa, Level};
use crate::format::{Change, Format, Kind, Leaf};
use crate::host::Host;
use crate::reclaim::Subtree;
use crate::table::{Entry, Position, TableRef};

/// Entries of the largest table that is collapsed.
const ENTRIES: usize = 512;
/// Ways in which the children of one table may differ: writable or not, noted as such or not, accessed or not, dirty or not.
const VARIANTS: usize = 16;
/// In the note of what an entry was: it was a member of a contiguous group, which is no difference: the leaf is larger.
const GROUPED: u8 = 1 << 7;
/// How often an entry that changes under our eyes is looked at again.
const LOOKS: usize = 4;

impl<'s, H: Host, F: Format> Visit<'s, H, F> {
    /// Makes one leaf of the table seen at `parent`, which covers `gpa`, if its entries are leaves of neighbouring memory
    /// that differ in nothing but write permission and the accessed flag. The table that is left over is for the caller
    /// to retire.
    ///
    /// The parent is locked first, then each child frozen by a compare-and-swap from the value seen: what a fault or a
    /// protection changes until then is in the value, and who comes later finds the child frozen, starts again from the
    /// root and meets the locked parent. The leaf is made from the frozen values only. All of this is for software alone
    /// where hardware may use both sizes at once: it goes on with the children, then with the leaf.
    pub(crate) fn collapse(self, parent: Position<'s, H>, gpa: Gpa) -> Option<Subtree> {
        let format = self.space.format;
        let below = parent.level.below()?;
        let base = self.span(gpa, parent.level).start();
        let first = self.below(parent, base);
        let mut children = Children::of(self, first, parent)?;
        let broken = match children.overlap {
            true => parent.entry().hold(parent.raw, format.held(parent.raw, parent.level)).ok()?,
            false => parent.entry().break_valid::<F>(parent.raw).ok()?,
        };
        if !children.freeze(format) {
            children.thaw(format);
            broken.restore();
            return None;
        }
        let leaf = format.leaf(children.united(format), parent.level);
        if children.overlap {
            broken.hold(format.held(leaf, parent.level));
        }
        let mut gather = self.space.gather();
        gather.table(self.span(gpa, parent.level));
        let flushed = gather.close(&self.space.host, self.tally);
        broken.make(&flushed, leaf);
        self.tally.unmapped(below, children.entries as u64);
        self.tally.mapped(parent.level, 1);
        self.tally.collapsed();
        self.tally.retired_subtree();
        Some(Subtree::new(format, format.table_address(parent.raw, parent.level), below))
    }
}

/// The entries of one table, as far as they are frozen.
struct Children<'s, H: Host> {
    table: TableRef<'s, H>,
    level: Level,
    entries: usize,
    /// From one entry's word to the next one's.
    stride: u64,
    /// Entries of a contiguous group.
    members: usize,
    /// Whether the first entry was seen to be in one.
    starts_grouped: bool,
    /// Whether hardware goes on with them while they are frozen, and may use the leaf beside them.
    overlap: bool,
    /// What the words say apart from write permission and the accessed flag, as that of the first entry.
    common: u64,
    /// The different words there are, as that of the first entry.
    variants: [u64; VARIANTS],
    count: usize,
    /// Which variant each frozen entry was.
    which: [u8; ENTRIES],
    frozen: usize,
}

impl<'s, H: Host> Children<'s, H> {
    /// The children of the table at `parent` whose first entry is `first`, if they may become one leaf.
    fn of<F: Format>(visit: Visit<'s, H, F>, first: Position<'s, H>, parent: Position<'s, H>) -> Option<Self> {
        let level = parent.level;
        let format = visit.space.format;
        let geometry = format.geometry();
        let entries = geometry.entries();
        if level > geometry.largest_leaf() || entries > ENTRIES {
            return None;
        }
        if format.kind(first.raw, first.level) != Kind::Leaf {
            return None;
        }
        let starts_grouped = format.is_grouped(first.raw, first.level);
        let raw = if starts_grouped { format.ungrouped(first.raw, first.level, 0) } else { first.raw };
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
            starts_grouped,
            overlap: format.change(parent.raw, whole, level) == Change::Overlap,
            common: common(format, raw, first.level),
            variants: [raw; VARIANTS],
            count: 1,
            which: [0; ENTRIES],
            frozen: 0,
        })
    }

    /// Freezes all entries; false if one of them does not fit. Entries of one kind go in one run.
    fn freeze<F: Format>(&mut self, format: F) -> bool {
        let mut looks = 0;
        let (mut variant, mut grouped) = (0, self.starts_grouped);
        while self.frozen < self.entries {
            let start = self.frozen;
            let frozen = match grouped {
                true => self.freeze_run(format, variant, |raw| format.grouped(raw, self.level)),
                false => self.freeze_run(format, variant, |raw| raw),
            };
            self.which[start..start + frozen].fill(variant as u8 | if grouped { GROUPED } else { 0 });
            self.frozen += frozen;
            if self.frozen == self.entries {
                break;
            }
            looks = if frozen > 0 { 0 } else { looks + 1 };
            match self.variant_at(format, self.frozen) {
                Some(found) if looks < LOOKS => (variant, grouped) = found,
                _ => return false,
            }
        }
        true
    }

    /// Freezes entries of one kind, which `made` makes of their words, from the first one that is not frozen; how many.
    #[inline(always)]
    fn freeze_run<F: Format>(&self, format: F, variant: usize, made: impl Fn(u64) -> u64) -> usize {
        let start = self.frozen;
        let mut word = self.word(variant, start);
        let stride = self.stride;
        let freeze = |entry: Entry<'s, H::Atomics>| {
            let expected = made(word);
            let frozen = if self.overlap { format.frozen(expected, self.level) } else { F::FROZEN };
            let same = entry.load() == expected && entry.change(expected, frozen).is_ok();
            word = word.wrapping_add(stride);
            same
        };
        self.table.leading(start, self.entries - start, freeze)
    }

    /// Which variant the entry at `index` is, and whether in a group, if it fits at all.
    fn variant_at<F: Format>(&mut self, format: F, index: usize) -> Option<(usize, bool)> {
        let raw = self.table.entry(index).load();
        if format.kind(raw, self.level) != Kind::Leaf {
            return None;
        }
        let grouped = format.is_grouped(raw, self.level);
        let raw = if grouped { format.ungrouped(raw, self.level, index % self.members) } else { raw };
        let word = raw.wrapping_sub(self.stride.wrapping_mul(index as u64));
        if let Some(found) = self.variants[..self.count].iter().position(|variant| *variant == word) {
            return Some((found, grouped));
        }
        // An entry of other memory may look like anything once the step is taken off: compare the entry itself.
        let expected = self.common.wrapping_add(self.stride.wrapping_mul(index as u64));
        if common(format, raw, self.level) != expected || self.count == VARIANTS {
            return None;
        }
        self.variants[self.count] = word;
        self.count += 1;
        Some((self.count - 1, grouped))
    }

    /// Gives back what was frozen. Nobody else changes a frozen entry.
    fn thaw<F: Format>(&mut self, format: F) {
        for index in 0..self.frozen {
            let word = self.word((self.which[index] & !GROUPED).into(), index);
            let is_grouped = self.which[index] & GROUPED != 0;
            let word = if is_grouped { format.grouped(word, self.level) } else { word };
            self.table.entry(index).thawed(word);
        }
    }

    fn word(&self, variant: usize, index: usize) -> u64 {
        self.variants[variant].wrapping_add(self.stride.wrapping_mul(index as u64))
    }

    /// The leaf over all of them: permissions intersected, accessed united.
    fn united<F: Format>(&self, format: F) -> Leaf {
        let leaves = self.variants[..self.count].iter().map(|&variant| format.decode(variant, self.level));
        let whole = format.decode(self.variants[0], self.level);
        leaves.fold(whole, |whole, leaf| Leaf {
            permissions: whole.permissions.and(leaf.permissions),
            may_write: whole.may_write && leaf.may_write,
            accessed: whole.accessed || leaf.accessed,
            ..whole
        })
    }
}

/// A leaf word without what may differ. Nothing dirty is lost: under a log nothing is collapsed.
fn common<F: Format>(format: F, raw: u64, level: Level) -> u64 {
    format.made_clean(format.write_revoked(format.made_accessed(raw, level), level), level)
}
