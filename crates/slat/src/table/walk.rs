//! The walk from the root to an entry.

use core::any::TypeId;
use core::ptr;

use super::Entry;
use crate::addr::{Gpa, Hpa, Level};
use crate::format::Format;
use crate::host::{TableMemory, Word};
use crate::reclaim::Inside;
use crate::sync::{Atomics, Core, Ordering, Word as _};

/// A table that cannot be freed during `'s`.
pub(crate) struct TableRef<'s, H: TableMemory> {
    words: &'s [Word<H>],
}

impl<H: TableMemory> Clone for TableRef<'_, H> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<H: TableMemory> Copy for TableRef<'_, H> {}

impl<'s, H: TableMemory> TableRef<'s, H> {
    /// Whether the two are one table.
    pub(crate) fn is(self, other: Self) -> bool {
        ptr::eq(self.words, other.words)
    }

    /// The entry at `index`.
    #[inline(always)]
    pub(crate) fn entry(self, index: usize) -> Entry<'s, H::Atomics> {
        Entry::new(&self.words[index])
    }

    /// Does `step` with the entries from `first` on, `most` at the most and as far as the table goes, until it says
    /// `false`; how many it said `true` to. Unrolled by hand: no compiler unrolls a loop of atomics that may end early.
    #[inline(always)]
    pub(crate) fn leading(
        self,
        first: usize,
        most: usize,
        mut step: impl FnMut(Entry<'s, H::Atomics>) -> bool,
    ) -> usize {
        let end = first.saturating_add(most).min(self.words.len());
        let words = &self.words[first.min(end)..end];
        // Counted by addresses, which costs nothing on the way.
        let until = |word: &Word<H>| (ptr::from_ref(word).addr() - words.as_ptr().addr()) / size_of::<Word<H>>();
        let (chunks, rest) = words.as_chunks::<8>();
        for chunk in chunks {
            for word in chunk {
                if !step(Entry::new(word)) {
                    return until(word);
                }
            }
        }
        for word in rest {
            if !step(Entry::new(word)) {
                return until(word);
            }
        }
        words.len()
    }
}

/// A table from a handle's cache that is linked nowhere yet: this thread's alone, filled with plain stores.
pub(crate) struct Unlinked<'s, H: TableMemory> {
    words: &'s [Word<H>],
}

impl<'s, H: TableMemory> Unlinked<'s, H> {
    /// `table` is one that the caller took from its [`Cache`](super::Cache), and that it links only when this is gone.
    pub(crate) fn new(host: &'s H, table: Hpa) -> Self {
        // SAFETY: the caller owns the table, which was allocated by this host and is linked nowhere: it stays allocated
        // at least until the caller links it or gives it back.
        Self { words: unsafe { host.words(table) } }
    }

    /// Stores one entry.
    #[inline(always)]
    pub(crate) fn write(&mut self, index: usize, raw: u64) {
        self.words[index].store(raw, Ordering::Relaxed);
    }

    /// Stores `first`, `first + step`, `first + 2 * step`, … into all entries.
    #[inline(always)]
    pub(crate) fn write_series(&mut self, first: u64, step: u64) {
        let word = |index: u64| first.wrapping_add(step.wrapping_mul(index));
        // No compiler makes vectors of relaxed stores; where the words are the processor's own, they can be plain.
        if TypeId::of::<Word<H>>() == TypeId::of::<<Core as Atomics>::Word>() {
            let pointer = self.words.as_ptr().cast::<u64>().cast_mut();
            // SAFETY: the words are atomics of 64 bits, by the comparison of their types: they have the layout of u64, and
            // may be written through a shared reference. The table is linked nowhere, so that neither another thread nor
            // a hardware walker reads it, and this thread reads it through nothing else meanwhile.
            let words = unsafe { core::slice::from_raw_parts_mut(pointer, self.words.len()) };
            plain_series(words, first, step);
        } else {
            self.words.iter().zip(0..).for_each(|(atomic, index)| atomic.store(word(index), Ordering::Relaxed));
        }
    }
}

/// Sixteen words at a time, which fit in vector registers.
#[inline(always)]
fn plain_series(words: &mut [u64], first: u64, step: u64) {
    let mut next: [u64; 16] = core::array::from_fn(|index| first.wrapping_add(step.wrapping_mul(index as u64)));
    let (chunks, rest) = words.as_chunks_mut::<16>();
    for chunk in chunks {
        *chunk = next;
        next = next.map(|word| word.wrapping_add(step.wrapping_mul(16)));
    }
    rest.copy_from_slice(&next[..rest.len()]);
}

/// Where a tree starts: its root's address, or that it is gone.
pub(crate) struct Root<H: TableMemory> {
    word: Word<H>,
}

/// Not the address of any table: tables are aligned.
const GONE: u64 = 1;

impl<H: TableMemory> Root<H> {
    pub(crate) fn new(root: Hpa) -> Self {
        Self { word: Word::<H>::new(root.get()) }
    }

    /// The root now; `None` after [`detach`](Self::detach).
    #[inline(always)]
    pub(crate) fn load(&self) -> Option<Hpa> {
        match self.word.load(Ordering::Acquire) {
            GONE => None,
            root => Some(Hpa::new(root)),
        }
    }

    /// Cuts the tree off; its old root for the one caller that did it.
    pub(crate) fn detach(&self) -> Option<Hpa> {
        match self.word.swap(GONE, Ordering::AcqRel) {
            GONE => None,
            root => Some(Hpa::new(root)),
        }
    }
}

/// An entry that a walk has reached, and the value it saw there.
pub(crate) struct Position<'s, H: TableMemory> {
    /// The table below the root, or the part of a concatenated root, that holds the entry.
    pub(crate) table: TableRef<'s, H>,
    pub(crate) index: usize,
    pub(crate) level: Level,
    pub(crate) raw: u64,
}

impl<H: TableMemory> Clone for Position<'_, H> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<H: TableMemory> Copy for Position<'_, H> {}

impl<'s, H: TableMemory> Position<'s, H> {
    /// The entry of the root at `index`, which is below the geometry's number of root entries. The root's level is
    /// `level`.
    #[inline(always)]
    pub(crate) fn at_root<F: Format>(
        host: &'s H,
        format: F,
        _section: Inside<'s, H::Atomics>,
        root: Hpa,
        level: Level,
        index: usize,
    ) -> Self {
        let geometry = format.geometry();
        debug_assert!(index < geometry.root_entries(), "an index inside the root");
        let (part, index) = (index / geometry.entries(), index % geometry.entries());
        let table = Hpa::new(root.get() + part as u64 * geometry.table_bytes());
        // SAFETY: a root is one allocation of `root_tables` tables, and `part` is below that, as the index is below
        // their entries. It was loaded inside this
        // section, or by it, and what a section can reach is not freed before the section is over.
        let words = unsafe { host.words(table) };
        Self::load(TableRef { words }, index, level)
    }

    /// The entry below this one, which was seen to be a table, that covers `gpa`.
    #[inline(always)]
    pub(crate) fn below<F: Format>(self, host: &'s H, format: F, _section: Inside<'s, H::Atomics>, gpa: Gpa) -> Self {
        let table = format.table_address(self.raw, self.level);
        // A table entry of the page level would be a format's mistake: stay there rather than wrap.
        let level = self.level.below().unwrap_or(Level::PAGE);
        // SAFETY: the address was read from a live entry inside this section (Acquire, pairing with the Release that
        // linked the table after it was zeroed or filled). Whoever unlinks the table frees it behind a grace period.
        let words = unsafe { host.words(table) };
        Self::load(TableRef { words }, format.geometry().index(gpa, level), level)
    }

    /// Walks on down while the entry is a table and above `lowest`.
    #[inline(always)]
    pub(crate) fn descend<F: Format>(
        mut self,
        host: &'s H,
        format: F,
        section: Inside<'s, H::Atomics>,
        gpa: Gpa,
        lowest: Level,
    ) -> Self {
        while self.level > lowest && format.is_table(self.raw, self.level) {
            self = self.below(host, format, section, gpa);
        }
        self
    }

    #[inline(always)]
    fn load(table: TableRef<'s, H>, index: usize, level: Level) -> Self {
        let raw = table.entry(index).load();
        Self { table, index, level, raw }
    }

    /// The next entry of the same table, if there is one and it is seen to be zero.
    pub(crate) fn next_empty(self) -> Option<Self> {
        let index = self.index + 1;
        let raw = Entry::<H::Atomics>::new(self.table.words.get(index)?).load();
        (raw == 0).then_some(Self { index, raw, ..self })
    }

    /// The entry itself.
    #[inline(always)]
    pub(crate) fn entry(&self) -> Entry<'s, H::Atomics> {
        self.table.entry(self.index)
    }
}
