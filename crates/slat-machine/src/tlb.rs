//! What one core caches: translations of leaves, and pointers to tables.
//!
//! Both caches are finite and direct-mapped, so that the same accesses always leave the same contents. An entry lives
//! until another takes its place or a flush reaches this core: nothing is dropped out of kindness. In particular a
//! flush of leaves leaves the walk cache alone, a level hint spares entries of other levels, and an entry that did not
//! allow an access stays. An engine that flushes less than it has to is therefore caught out.

use slat::addr::{Gpa, GpaRange, Hpa, Level};
use slat::host::{Flush, Hint, Permissions};

use crate::walk::{DescriptorMemory, Fault, FaultKind, Translation, Walker};

/// How many entries the caches of a core have, each a power of two.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TlbSize {
    /// Translations of pages.
    pub pages: usize,
    /// Translations of larger leaves.
    pub blocks: usize,
    /// Translations of contiguous sets of leaves.
    pub sets: usize,
    /// Pointers to tables.
    pub tables: usize,
}

impl Default for TlbSize {
    fn default() -> Self {
        Self { pages: 1024, blocks: 64, sets: 64, tables: 64 }
    }
}

/// The caches of one core. Plain memory: only the core's own thread touches it.
#[derive(Debug)]
pub struct Tlb {
    shifts: [u32; Level::COUNT],
    pages: Box<[Option<Entry>]>,
    blocks: Box<[Option<Entry>]>,
    /// A bit for each level above the page that may have an entry in `blocks`.
    block_levels: u32,
    sets: Box<[Option<Entry>]>,
    /// The sizes of sets that there may be in `sets`.
    set_sizes: Vec<SetSize>,
    walks: WalkCache,
    mixes_sizes: bool,
}

/// Leaves of one level in a set, as a power of two.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct SetSize {
    level: Level,
    bits: u32,
}

/// A translation and the leaf-sized piece of guest memory that it is for.
#[derive(Clone, Copy, Debug)]
struct Entry {
    number: u64,
    translation: Translation,
}

impl Entry {
    fn set_size(&self) -> SetSize {
        SetSize { level: self.translation.level, bits: self.translation.set_bits }
    }
}

/// What the TLB knows about an address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Lookup {
    /// Nothing: walk.
    Miss,
    /// One translation.
    Hit(Translation),
    /// Translations of two sizes: the tables were changed without break-before-make (arm64: TLB conflict abort). On a core
    /// that mixes sizes, translations to different places.
    Conflict,
}

impl Tlb {
    /// Empty caches for the leaf sizes of `walker`.
    ///
    /// # Panics
    ///
    /// When a size is no power of two.
    pub fn new(walker: &dyn Walker, size: TlbSize) -> Self {
        Self {
            shifts: shifts(walker),
            pages: vec![None; power_of_two(size.pages)].into(),
            blocks: vec![None; power_of_two(size.blocks)].into(),
            block_levels: 0,
            sets: vec![None; power_of_two(size.sets)].into(),
            set_sizes: Vec::new(),
            walks: WalkCache::new(walker, size.tables),
            mixes_sizes: walker.mixes_sizes(),
        }
    }

    /// Whether leaves of two sizes for one address are no conflict if they are of the same memory.
    #[inline]
    pub fn mixes_sizes(&self) -> bool {
        self.mixes_sizes
    }

    /// The translations that the TLB holds for `gpa`.
    #[inline]
    pub fn lookup(&self, gpa: Gpa) -> Lookup {
        let mut found = Lookup::Miss;
        let mut levels = self.block_levels | 1;
        while levels != 0 {
            let level = Level::new(levels.trailing_zeros() as u8);
            levels &= levels - 1;
            if let Some(translation) = self.at(gpa, level) {
                found = self.beside(gpa, found, translation);
            }
        }
        if self.set_sizes.is_empty() { found } else { self.lookup_sets(gpa, found) }
    }

    /// What sets hold for `gpa`, beside what was `found` of leaves.
    fn lookup_sets(&self, gpa: Gpa, mut found: Lookup) -> Lookup {
        for &size in &self.set_sizes {
            let shift = self.set_shift(size);
            let number = gpa.get() >> shift;
            let entry = self.sets[position(number, size.level, self.sets.len())];
            let Some(set) = entry.filter(|entry| entry.number == number && entry.set_size() == size) else { continue };
            // The leaf of this address, from where the set begins.
            let inside = gpa.get() & ((1 << shift) - 1) & !((1 << self.shifts[size.level.index()]) - 1);
            let output = Hpa::new(set.translation.output.get() + inside);
            found = self.beside(gpa, found, Translation { output, ..set.translation });
        }
        found
    }

    /// What a further translation for `gpa` makes of what was found before.
    #[inline]
    fn beside(&self, gpa: Gpa, found: Lookup, other: Translation) -> Lookup {
        let place =
            |Translation { output, level, .. }| output.get() + (gpa.get() & ((1 << self.shifts[level.index()]) - 1));
        match found {
            Lookup::Miss => Lookup::Hit(other),
            Lookup::Hit(one) if self.mixes_sizes && (place(one), one.memory) == (place(other), other.memory) => found,
            _ => Lookup::Conflict,
        }
    }

    fn set_shift(&self, size: SetSize) -> u32 {
        self.shifts[size.level.index()] + size.bits
    }

    /// Remembers what a walk for `gpa` found: one leaf of a contiguous set stands for all of them.
    pub fn fill(&mut self, gpa: Gpa, translation: Translation) {
        if translation.set_bits > 0 {
            return self.fill_set(gpa, translation);
        }
        let number = gpa.get() >> self.shifts[translation.level.index()];
        if translation.level > Level::PAGE {
            self.block_levels |= 1 << translation.level.get();
        }
        *self.place(number, translation.level) = Some(Entry { number, translation });
    }

    fn fill_set(&mut self, gpa: Gpa, translation: Translation) {
        let size = SetSize { level: translation.level, bits: translation.set_bits };
        let shift = self.set_shift(size);
        let (number, output) = (gpa.get() >> shift, translation.output.align_down(1 << shift));
        let position = position(number, size.level, self.sets.len());
        self.sets[position] = Some(Entry { number, translation: Translation { output, ..translation } });
        if !self.set_sizes.contains(&size) {
            self.set_sizes.push(size);
        }
    }

    /// The pointers to tables, for a walk to begin with.
    pub fn walks(&mut self) -> &mut WalkCache {
        &mut self.walks
    }

    /// Drops exactly what `flush` covers.
    pub fn flush(&mut self, flush: Flush) {
        match flush {
            Flush::Leaves { range, level } => self.flush_leaves(range, level),
            Flush::Tables { range } => {
                self.flush_leaves(range, Hint::Unknown);
                self.walks.flush(range);
            }
            Flush::All => {
                self.pages.fill(None);
                self.blocks.fill(None);
                self.sets.fill(None);
                self.set_sizes.clear();
                self.walks.entries.fill(None);
                self.block_levels = 0;
            }
        }
    }

    fn flush_leaves(&mut self, range: GpaRange, hint: Hint) {
        let concerned = |level: Level| hint == Hint::Unknown || hint == Hint::Level(level);
        if range.is_empty() {
            return;
        }
        let shifts = self.shifts;
        if self.block_levels != 0 {
            // Which operations by address drop both of two sizes is not for software to know (D8.17.3): here none does.
            let is_doubled = |block| {
                let mut pages = self.pages.iter().flatten().map(|page| piece(page.number, shifts[0]));
                self.mixes_sizes && pages.any(|page| page.overlaps(block))
            };
            drop_where(&mut self.blocks, |entry| {
                let level = entry.translation.level;
                let block = piece(entry.number, shifts[level.index()]);
                concerned(level) && block.overlaps(range) && !is_doubled(block)
            });
        }
        if concerned(Level::PAGE) {
            let first = range.start().get() >> shifts[0];
            let last = (range.end().get() - 1) >> shifts[0];
            if last - first < self.pages.len() as u64 {
                for number in first..=last {
                    self.place(number, Level::PAGE).take_if(|entry| entry.number == number);
                }
            } else {
                drop_where(&mut self.pages, |entry| (first..=last).contains(&entry.number));
            }
        }
        if !self.set_sizes.is_empty() {
            drop_where(&mut self.sets, |entry| {
                let SetSize { level, bits } = entry.set_size();
                concerned(level) && piece(entry.number, shifts[level.index()] + bits).overlaps(range)
            });
        }
    }

    #[inline]
    fn at(&self, gpa: Gpa, level: Level) -> Option<Translation> {
        let number = gpa.get() >> self.shifts[level.index()];
        let entries = if level == Level::PAGE { &self.pages } else { &self.blocks };
        let entry = entries[position(number, level, entries.len())]?;
        (entry.number == number && entry.translation.level == level).then_some(entry.translation)
    }

    fn place(&mut self, number: u64, level: Level) -> &mut Option<Entry> {
        let entries = if level == Level::PAGE { &mut self.pages } else { &mut self.blocks };
        let position = position(number, level, entries.len());
        &mut entries[position]
    }
}

/// Pointers to tables below the root. An entry is trusted until a flush of tables covers a part of what the table maps.
#[derive(Debug)]
pub struct WalkCache {
    shifts: [u32; Level::COUNT],
    entries: Box<[Option<Table>]>,
}

/// A table that a walk came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TablePath {
    /// Where it lies.
    pub table: Hpa,
    /// The level of its entries.
    pub level: Level,
    /// What the entries on the way to it allow together.
    pub permissions: Permissions,
}

/// A table and the piece of guest memory that it maps.
#[derive(Clone, Copy, Debug)]
struct Table {
    number: u64,
    path: TablePath,
    generation: Option<u32>,
}

impl WalkCache {
    fn new(walker: &dyn Walker, tables: usize) -> Self {
        Self { shifts: shifts(walker), entries: vec![None; power_of_two(tables)].into() }
    }

    /// A cache that keeps nothing.
    pub(crate) fn without_entries() -> Self {
        Self { shifts: [0; Level::COUNT], entries: Box::default() }
    }

    /// The lowest table that is known for `gpa`, below `start`.
    ///
    /// A pointer to a table that has been freed since is a fault: it should have been flushed before that (M2).
    pub(crate) fn lookup(
        &self,
        memory: &dyn DescriptorMemory,
        gpa: Gpa,
        start: Level,
    ) -> Result<Option<TablePath>, Fault> {
        let mut next = (!self.entries.is_empty()).then_some(Level::PAGE);
        while let Some(level) = next.filter(|&level| level < start) {
            let number = gpa.get() >> self.span_shift(level);
            match self.entries[position(number, level, self.entries.len())] {
                Some(Table { number: known, path, generation }) if known == number && path.level == level => {
                    return if memory.generation(path.table) == generation {
                        Ok(Some(path))
                    } else {
                        Err(Fault::at(level, FaultKind::External(path.table)))
                    };
                }
                _ => next = level.above(),
            }
        }
        Ok(None)
    }

    /// Remembers a table that a walk for `gpa` came to.
    pub(crate) fn fill(&mut self, memory: &dyn DescriptorMemory, gpa: Gpa, path: TablePath) {
        if !self.entries.is_empty() {
            let number = gpa.get() >> self.span_shift(path.level);
            let position = position(number, path.level, self.entries.len());
            self.entries[position] = Some(Table { number, path, generation: memory.generation(path.table) });
        }
    }

    fn flush(&mut self, range: GpaRange) {
        let shifts = self.shifts;
        drop_where(&mut self.entries, |known| {
            piece(known.number, shifts[known.path.level.index() + 1]).overlaps(range)
        });
    }

    /// What a table of `level` maps is what one entry of the level above covers.
    fn span_shift(&self, level: Level) -> u32 {
        self.shifts[level.index() + 1]
    }
}

fn shifts(walker: &dyn Walker) -> [u32; Level::COUNT] {
    std::array::from_fn(|level| walker.shift(Level::new(level as u8)))
}

/// The guest addresses of piece `number` among pieces of `1 << shift` bytes.
fn piece(number: u64, shift: u32) -> GpaRange {
    GpaRange::around(Gpa::new(number << shift), 1 << shift)
}

/// Neighbours lie beside each other, and levels do not all begin at the same place.
#[inline]
fn position(number: u64, level: Level, entries: usize) -> usize {
    (number as usize).wrapping_add(usize::from(level.get()) * 21) & (entries - 1)
}

fn drop_where<T>(entries: &mut [Option<T>], covered: impl Fn(&T) -> bool) {
    for entry in entries {
        entry.take_if(|entry| covered(entry));
    }
}

fn power_of_two(entries: usize) -> usize {
    assert!(entries.is_power_of_two(), "a cache has a power of two of entries, not {entries}");
    entries
}

#[cfg(test)]
mod tests;
