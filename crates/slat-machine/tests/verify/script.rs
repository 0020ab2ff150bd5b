//! Traces made by hand, from words that the real formats encode.

use std::collections::HashMap;

use slat::addr::{Gpa, GpaRange, Hpa, Level};
use slat::format::{Format, Leaf};
use slat::host::{Flush, Hint, MemoryType, Permissions};
use slat_machine::checker::{Event, How, Thread};

use crate::subject::{PAGE, Subject, VMID};

/// The thread that makes the scene, and the two of the play.
const MAKER: Thread = 0;
pub(crate) const ONE: Thread = 1;
pub(crate) const TWO: Thread = 2;
pub(crate) const CORES: u32 = 3;

/// The level of blocks.
pub(crate) const BLOCK: Level = Level::new(1);

/// Memory that leaves map: an address that every leaf may have, and another one.
pub(crate) const HERE: u64 = 1 << 40;
pub(crate) const THERE: u64 = (1 << 40) + (1 << 30);

/// A trace that grows.
pub(crate) struct Script<S: Subject> {
    pub(crate) trace: Vec<Event>,
    format: S::Format,
    words: HashMap<u64, u64>,
    tables: u64,
    pub(crate) root: Hpa,
    flushes: u64,
}

impl<S: Subject> Script<S> {
    pub(crate) fn new() -> Self {
        let format = S::format();
        let tables = format.geometry().root_tables();
        let root = Hpa::new(4 << 30);
        let trace = vec![Event::Allocated { table: root, tables }, Event::Rooted { root, tables }];
        Self { trace, format, words: HashMap::new(), tables: tables as u64, root, flushes: 0 }
    }

    pub(crate) fn allocate(&mut self) -> Hpa {
        let bytes = self.format.geometry().table_bytes();
        let table = Hpa::new(self.root.get() + bytes * self.tables.next_multiple_of(16));
        self.tables = self.tables.next_multiple_of(16) + 1;
        self.trace.push(Event::Allocated { table, tables: 1 });
        table
    }

    /// The word of `level` for `gpa`; the tables above it are linked if there are none.
    pub(crate) fn entry(&mut self, gpa: u64, level: Level) -> Hpa {
        let geometry = self.format.geometry();
        let (mut table, mut above) = (self.root, geometry.root_level());
        let mut index = geometry.root_index(Gpa::new(gpa));
        while above > level {
            let at = word_at(table, index);
            if self.word(at) == 0 {
                let below = self.allocate();
                self.swap(MAKER, at, self.format.table(below, above));
            }
            table = self.format.table_address(self.word(at), above);
            above = above.below().unwrap();
            index = geometry.index(Gpa::new(gpa), above);
        }
        word_at(table, index)
    }

    /// The table that holds the entries below the word of `level` for `gpa`.
    pub(crate) fn table_below(&mut self, gpa: u64, level: Level) -> Hpa {
        let at = self.entry(gpa, level.below().unwrap());
        at.align_down(self.format.geometry().table_bytes())
    }

    pub(crate) fn word(&self, at: Hpa) -> u64 {
        self.words.get(&at.get()).copied().unwrap_or(0)
    }

    pub(crate) fn write(&mut self, thread: Thread, at: Hpa, new: u64, how: How) {
        let old = self.words.insert(at.get(), new).unwrap_or(0);
        self.trace.push(Event::Wrote { thread, at, old, new, how });
    }

    pub(crate) fn swap(&mut self, thread: Thread, at: Hpa, new: u64) {
        self.write(thread, at, new, How::Swap);
    }

    pub(crate) fn store(&mut self, thread: Thread, at: Hpa, new: u64) {
        self.write(thread, at, new, How::Store);
    }

    /// Hardware sets a flag.
    pub(crate) fn update(&mut self, at: Hpa, new: u64) {
        let old = self.words.insert(at.get(), new).unwrap_or(0);
        self.trace.push(Event::Updated { thread: ONE, at, old, new });
    }

    /// Reads a word, as a walk does.
    pub(crate) fn read(&mut self, thread: Thread, at: Hpa) {
        self.trace.push(Event::Read { thread, at, value: self.word(at) });
    }

    pub(crate) fn lock(&mut self, thread: Thread, at: Hpa) {
        self.swap(thread, at, S::Format::LOCKED);
    }

    /// Locks the table around the page at `gpa`, freezes the page, lets `give_back` do so, and gives the table back.
    pub(crate) fn freeze_and_give_back(&mut self, thread: Thread, gpa: u64, give_back: impl FnOnce(&mut Self)) {
        let (above, page) = (self.entry(gpa, BLOCK), self.entry(gpa, PAGE));
        let table = self.word(above);
        self.lock(thread, above);
        self.swap(thread, page, S::Format::FROZEN);
        give_back(self);
        self.store(thread, above, table);
    }

    /// Marks every pointer to a table on the way to the entry of `level` for `gpa`, from the root down.
    pub(crate) fn mark(&mut self, gpa: u64, level: Level) {
        let mut above = self.format.geometry().root_level();
        while above > level {
            let at = self.entry(gpa, above);
            self.swap(ONE, at, self.word(at) | S::Format::KEPT);
            above = above.below().unwrap();
        }
    }

    pub(crate) fn begin(&mut self, thread: Thread, flush: Flush, vmid: u16, cores: u64) -> u64 {
        self.flushes += 1;
        self.trace.push(Event::FlushBegun { thread, id: self.flushes, flush, vmid, cores });
        self.flushes
    }

    pub(crate) fn done(&mut self, id: u64) {
        self.trace.push(Event::FlushDone { id });
    }

    /// A flush that reaches everybody.
    pub(crate) fn flush(&mut self, thread: Thread, flush: Flush) {
        let id = self.begin(thread, flush, VMID, all_cores());
        self.done(id);
    }

    pub(crate) fn note(&mut self, event: Event) {
        self.trace.push(event);
    }

    pub(crate) fn table_word(&self, table: Hpa, level: Level) -> u64 {
        self.format.table(table, level)
    }

    pub(crate) fn span(&self, gpa: u64, level: Level) -> GpaRange {
        self.format.geometry().span(Gpa::new(gpa), level)
    }
}

pub(crate) fn all_cores() -> u64 {
    u64::MAX >> (64 - CORES)
}

pub(crate) fn word_at(table: Hpa, index: usize) -> Hpa {
    Hpa::new(table.get() + 8 * index as u64)
}

/// Every leaf of `hpa` that hardware uses: all attributes that the format encodes.
pub(crate) fn leaves<S: Subject>(hpa: u64, level: Level) -> impl Iterator<Item = u64> {
    let types = [MemoryType::Normal, MemoryType::NonCacheable, MemoryType::Device];
    let permissions = [Permissions::READ, Permissions::READ_WRITE, Permissions::READ_EXECUTE, Permissions::ALL];
    let all = types.into_iter().flat_map(move |memory| permissions.map(|permissions| (memory, permissions)));
    all.flat_map(move |(memory, permissions)| {
        [false, true].map(|may_write| {
            let leaf = Leaf { hpa: Hpa::new(hpa), permissions, may_write, memory, accessed: true };
            S::format().leaf(leaf, level)
        })
    })
}

/// As [`leaves`], those through which the guest may write without a note of hardware's.
pub(crate) fn writable<S: Subject>(hpa: u64, level: Level) -> impl Iterator<Item = u64> {
    let writable = leaves::<S>(hpa, level).filter(move |word| S::format().is_writable(*word, level));
    writable.map(move |word| S::format().made_writable(word, level))
}

/// Flushes of leaves of `level` over `range` that are enough, and those that are not.
pub(crate) fn enough(range: GpaRange, level: Level) -> [Flush; 4] {
    [
        Flush::All,
        Flush::Tables { range },
        Flush::Leaves { range, level: Hint::Unknown },
        Flush::Leaves { range, level: Hint::Level(level) },
    ]
}

/// Flushes after which leaves of `level` over `range` may still be cached: of another level, beside it, empty.
pub(crate) fn too_little(range: GpaRange, level: Level) -> [Flush; 4] {
    let other = if level == PAGE { Level::new(1) } else { PAGE };
    let beside = GpaRange::with_len(range.end(), range.len()).unwrap();
    let nothing = GpaRange::new(range.start(), range.start()).unwrap();
    [
        Flush::Leaves { range, level: Hint::Level(other) },
        Flush::Leaves { range: beside, level: Hint::Unknown },
        Flush::Tables { range: beside },
        Flush::Leaves { range: nothing, level: Hint::Unknown },
    ]
}
