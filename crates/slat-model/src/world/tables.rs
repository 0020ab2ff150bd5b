//! Memory for tables: a pool in which no frame is used twice, so that a late user is always found out.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use slat::addr::Hpa;

use super::PAGE;
use crate::book::{self, Event};
use crate::plant::Plant;
use crate::tool::Tool;
use crate::word::{Checked, Site};

/// Words of a table of the fake format.
const ENTRIES: usize = 4;
/// Tables that one execution may allocate.
const TABLES: usize = 48;

pub(super) struct Tables<T: Tool> {
    tables: Vec<OnceLock<Table<T>>>,
    /// Tables ever allocated.
    used: AtomicUsize,
}

struct Table<T: Tool> {
    words: Box<[Checked<T>]>,
    freed: AtomicUsize,
}

impl<T: Tool> Tables<T> {
    pub(super) fn new() -> Self {
        Self { tables: (0..TABLES).map(|_| OnceLock::new()).collect(), used: AtomicUsize::new(0) }
    }

    pub(super) fn allocate(&self) -> Option<Hpa> {
        let table = self.used.fetch_add(1, Ordering::Relaxed);
        // What a frame's last user may have left there: a leaf of the first page's memory in every entry.
        let leaf = || {
            let leaf = slat::format::Leaf {
                hpa: super::Frame { generation: 0, page: 0 }.hpa(),
                permissions: slat::host::Permissions::ALL,
                may_write: true,
                memory: slat::host::MemoryType::Normal,
                accessed: true,
            };
            slat::format::Format::leaf(&slat::format::Fake::new(2), leaf, slat::addr::Level::PAGE)
        };
        let content = if Plant::TablesNotZero.is_planted() && table > 0 { leaf() } else { 0 };
        let words = (0..ENTRIES).map(|index| Checked::in_table(content, Site { table, index })).collect();
        let is_new = self.tables.get(table)?.set(Table { words, freed: AtomicUsize::new(0) }).is_ok();
        assert!(is_new, "a frame is allocated once");
        book::with(|book| {
            book.live_tables += 1;
            book.note(Event::Allocated { table });
        });
        Some(Hpa::new((table as u64 + 1) * PAGE))
    }

    pub(super) fn free(&self, table: usize) {
        let freed = self.table(table).freed.fetch_add(1, Ordering::Relaxed);
        book::with(|book| {
            book.note(Event::Freed { table });
            match freed {
                0 => book.live_tables -= 1,
                _ => book.report("R2: a table was freed twice"),
            }
        });
        self.words(table).iter().for_each(Checked::end);
    }

    pub(super) fn words(&self, table: usize) -> &[Checked<T>] {
        &self.table(table).words
    }

    pub(super) fn word(&self, site: Site) -> &Checked<T> {
        &self.words(site.table)[site.index]
    }

    fn table(&self, table: usize) -> &Table<T> {
        self.tables.get(table).and_then(OnceLock::get).expect("a table that was allocated is named")
    }
}
