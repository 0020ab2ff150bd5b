//! What a word means to hardware and to software, and what a change of it is.

use std::fmt;
use std::sync::Arc;

use slat::addr::{Hpa, Level};
use slat::host::{Flush, Hint, Permissions};

use crate::walk::{FaultKind, Memory, Step, Translation, Walker};

/// Bytes of the entries of the largest set: arm64's, 128 pages of 16 KiB (D8.7.1).
pub(super) const SET_BYTES: u64 = 8 * 128;

/// The rules that one guest's tables are held to.
#[derive(Clone)]
pub struct Discipline {
    /// How hardware reads words.
    pub walker: Arc<dyn Walker>,
    /// The level of the root's entries.
    pub root_level: Level,
    /// The word of an entry that one thread is changing.
    pub locked: u64,
    /// The word of an entry whose table was unlinked.
    pub frozen: u64,
    /// Whether a word that is invalid to hardware is a leaf that was made old by software.
    pub is_old: fn(u64) -> bool,
    /// Bits that are nothing but software's notes, whatever the word is.
    pub notes: u64,
    /// Whose a word is that hardware goes on with while one thread changes what it belongs to.
    pub owned: fn(u64, Level) -> Option<Owned>,
    /// The bit of a word that points to a table by which software notes that annotations lie below.
    pub kept: u64,
    /// Whether the architecture wants break-before-make.
    pub breaks: bool,
    /// Whether a flush by address may leave either of two leaves of different sizes that a core holds for one address (arm64:
    /// D8.17.3): only a flush of everything is sure to drop both.
    pub spares_doubled: bool,
    /// The guest's number.
    pub vmid: u16,
    /// Its cores, a bit each.
    pub cores: u64,
}

/// What a word is to software that hardware uses.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Owned {
    /// Locked: one thread changes the size of what it maps.
    Held,
    /// Frozen: below an entry that is held.
    Frozen,
}

/// What a word means.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Meaning {
    /// Nothing is mapped.
    Empty,
    /// Nothing is mapped, and the embedder's annotation stands here: this word.
    Note(u64),
    /// One thread is changing the entry.
    Locked,
    /// The entry's table was unlinked.
    Frozen,
    /// A leaf, this word but for notes, that hardware does not use before software has noted an access; what it was before that may
    /// still be cached.
    Old(u64),
    /// A table.
    Table(Hpa),
    /// A leaf.
    Leaf(Leaf),
    /// What the architecture reserves.
    Reserved,
}

/// A leaf, as hardware reads it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Leaf {
    /// Where its memory begins.
    pub output: Hpa,
    /// What may be done through it.
    pub permissions: Permissions,
    /// How the memory is accessed.
    pub memory: Memory,
    /// Whether it is written through without a note of hardware's: it may be written to, and hardware keeps no dirty state
    /// or has noted a write already.
    pub unnoticed: bool,
    /// How many leaves it stands for, as a power of two: those of the set around it. 0 for itself alone.
    pub set_bits: u32,
}

/// What a change does to those who still use the old value.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Class {
    /// Nothing: hardware reads the same.
    Same,
    /// They may do less than they could.
    Wider,
    /// They may do what they should not, at the same place.
    Narrower,
    /// They use another place.
    Other,
}

impl Leaf {
    /// The leaf of `span` bytes that a walk found. All of a set say the same: where the set's memory begins.
    fn new(translation: Translation, span: u64) -> Self {
        let Translation { output, permissions, memory, dirty, set_bits, .. } = translation;
        let output = output.align_down(span << set_bits);
        Self { output, permissions, memory, unnoticed: permissions.write() && dirty, set_bits }
    }

    /// Whether it allows all that `other` does.
    fn allows_all_of(self, other: Self) -> bool {
        other.permissions.and(self.permissions) == other.permissions && (self.unnoticed || !other.unnoticed)
    }
}

impl Meaning {
    /// Whether nothing is mapped.
    pub const fn is_nothing(&self) -> bool {
        matches!(self, Self::Empty | Self::Note(_))
    }

    /// Whether it is a leaf, used or not.
    pub const fn is_leaf(&self) -> bool {
        matches!(self, Self::Leaf(_) | Self::Old(_))
    }

    /// Whether hardware may cache it.
    pub const fn is_valid(&self) -> bool {
        matches!(self, Self::Table(_) | Self::Leaf(_))
    }

    /// What it is to those who have cached this that the word now means `new`.
    pub fn class(self, new: Self) -> Class {
        match (self, new) {
            (Self::Leaf(old), Self::Leaf(new))
                if (old.output, old.memory, old.set_bits) == (new.output, new.memory, new.set_bits) =>
            {
                match (new.allows_all_of(old), old.allows_all_of(new)) {
                    (true, true) => Class::Same,
                    (true, false) => Class::Wider,
                    (false, _) => Class::Narrower,
                }
            }
            (old, new) if old == new => Class::Same,
            _ => Class::Other,
        }
    }
}

impl Discipline {
    /// What `word`, read at `level`, means.
    pub fn meaning(&self, word: u64, level: Level) -> Meaning {
        match self.walker.resolve(word, level) {
            Step::Table { table, .. } => Meaning::Table(table),
            Step::Leaf { translation, .. } => Meaning::Leaf(Leaf::new(translation, self.span(level))),
            Step::Fault(_) if word == self.locked => Meaning::Locked,
            Step::Fault(_) if word == self.frozen => Meaning::Frozen,
            Step::Fault(FaultKind::AccessFlag) => Meaning::Old(word & !self.notes),
            Step::Fault(FaultKind::Translation) if (self.is_old)(word) => Meaning::Old(word & !self.notes),
            Step::Fault(FaultKind::Translation) if word == 0 => Meaning::Empty,
            Step::Fault(FaultKind::Translation) => Meaning::Note(word),
            Step::Fault(_) => Meaning::Reserved,
        }
    }

    /// Whether a change from `old` to `new` takes something away that has to be flushed before anybody relies on it.
    ///
    /// Not so for a leaf that was made old: who still uses it delays the note that it was used, and no more.
    pub fn takes_away(&self, old: Meaning, new: Meaning) -> bool {
        match (old, new) {
            (Meaning::Leaf(_), Meaning::Old(_)) | (Meaning::Old(_), Meaning::Leaf(_)) => false,
            (Meaning::Table(_) | Meaning::Leaf(_) | Meaning::Old(_), new) => {
                matches!(old.class(new), Class::Narrower | Class::Other)
            }
            _ => false,
        }
    }

    /// Whether the architecture wants the old value forgotten before the new one is stored.
    pub fn needs_break(&self, old: Meaning, new: Meaning) -> bool {
        self.breaks && old.is_valid() && new.is_valid() && old.class(new) == Class::Other
    }

    /// Whether one thread owns an entry that holds `word`.
    pub fn is_locked(&self, word: u64, level: Level) -> bool {
        word == self.locked || (self.owned)(word, level) == Some(Owned::Held)
    }

    /// Whether `word` is what the owner of the entry above has left in it.
    pub fn is_frozen(&self, word: u64, level: Level) -> bool {
        word == self.frozen || (self.owned)(word, level) == Some(Owned::Frozen)
    }

    /// Whether hardware may have `old`, one by one, beside `new` in an entry of `level`: leaves of another size, of the same
    /// memory, until the entry is held no longer. `words` are those of a table.
    pub fn overlaps<W: Iterator<Item = u64>>(
        &self,
        mut old: impl Iterator<Item = Meaning>,
        new: u64,
        level: Level,
        words: impl Fn(Hpa) -> W,
    ) -> bool {
        let is_held = (self.owned)(new, level) == Some(Owned::Held);
        let (Some(below), is) = (level.below(), self.meaning(new, level)) else { return false };
        let goes_with = |was| match (was, is) {
            (Meaning::Leaf(leaf), Meaning::Table(table)) | (Meaning::Table(table), Meaning::Leaf(leaf)) => {
                self.is_divided(leaf, below, words(table))
            }
            (was, is) => !was.is_valid() || was.class(is) != Class::Other,
        };
        self.walker.mixes_sizes() && is_held && is.is_valid() && old.all(goes_with)
    }

    /// Whether those leaves of a table that hardware uses map, one after the other, what `leaf` maps.
    fn is_divided(&self, leaf: Leaf, below: Level, words: impl Iterator<Item = u64>) -> bool {
        let mut outputs = (leaf.output.get()..).step_by(self.span(below) as usize);
        words.zip(&mut outputs).all(|(word, output)| match self.meaning(word, below) {
            Meaning::Leaf(page) => (page.output.get(), page.memory) == (output, leaf.memory),
            other => matches!(other, Meaning::Old(_)),
        })
    }

    /// Whether `word` is a leaf that was accessed since it was last made old.
    pub fn is_accessed(&self, word: u64, level: Level) -> bool {
        matches!(self.walker.resolve(word, level), Step::Leaf { update: None, .. })
    }

    /// The size of what hardware takes a leaf for: that of its set, if it stands for one.
    pub fn size(&self, meaning: Meaning, level: Level) -> u64 {
        let (first, end) = self.reach(meaning, 0, level);
        end - first
    }

    /// Bytes that an entry of `level` covers.
    pub fn span(&self, level: Level) -> u64 {
        1 << self.walker.shift(level)
    }

    /// Bytes that a table whose entries are of `level` covers.
    pub fn table_span(&self, level: Level) -> u64 {
        self.span(level) * self.table_words() as u64
    }

    /// Words of a table.
    pub fn table_words(&self) -> usize {
        1 << (self.walker.shift(Level::new(1)) - self.walker.shift(Level::PAGE))
    }

    /// Bytes of a table.
    pub fn table_bytes(&self) -> u64 {
        8 * self.table_words() as u64
    }

    /// The first address of the table that holds `at`.
    pub(super) fn table_of(&self, at: u64) -> u64 {
        at & !(self.table_bytes() - 1)
    }

    /// The number of the word at `at` in its table.
    pub(super) fn index_of(&self, at: u64) -> usize {
        (at % self.table_bytes() / 8) as usize
    }

    /// The addresses of `tables` tables from `table` on.
    pub(super) fn tables(&self, table: Hpa, tables: usize) -> impl Iterator<Item = u64> + use<> {
        let bytes = self.table_bytes();
        (0..tables as u64).map(move |number| table.get() + number * bytes)
    }

    /// The guest addresses for which hardware may use an entry of `level` for `start`, from the first up to the end: those of
    /// all leaves of its set, if it stands for one.
    pub fn reach(&self, meaning: Meaning, start: u64, level: Level) -> (u64, u64) {
        let set_bits = if let Meaning::Leaf(leaf) = meaning { leaf.set_bits } else { 0 };
        let bytes = self.span(level) << set_bits;
        let first = start & !(bytes - 1);
        (first, first + bytes)
    }

    /// Whether a flush drops what was cached of an entry of `level` for `start`: a leaf, or a pointer to a table. What a
    /// leaf of a set left behind may be many translations, one of which a flush of a part may spare.
    pub fn covers(&self, flush: Flush, meaning: Meaning, start: u64, level: Level) -> bool {
        let (first, end) = self.reach(meaning, start, level);
        let is_set = end - first > self.span(level);
        let covers = |range: slat::addr::GpaRange| match is_set {
            true => range.start().get() <= first && end <= range.end().get(),
            false => range.start().get() < end && first < range.end().get(),
        };
        match flush {
            Flush::All => true,
            Flush::Tables { range } => covers(range),
            Flush::Leaves { range, level: hint } => {
                meaning.is_leaf() && (hint == Hint::Unknown || hint == Hint::Level(level)) && covers(range)
            }
        }
    }
}

impl fmt::Debug for Discipline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Discipline").field("walker", &self.walker).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
