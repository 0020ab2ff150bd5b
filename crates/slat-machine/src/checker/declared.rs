//! What the embedder has declared of guest memory: what is not to be reached, not to be written, and has to be named.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use slat::addr::{GpaRange, Hpa};

use crate::memory::PAGE_SIZE;

/// Sets of pages, by number.
#[derive(Clone, Debug, Default)]
pub(super) struct Declared {
    /// Pages of host memory that no access may reach.
    taken: BTreeSet<u64>,
    /// Pages of the guest that no write may reach.
    withdrawn: BTreeSet<u64>,
    /// Pages of the guest whose writes the log has to name.
    logged: BTreeSet<u64>,
    /// Of those, the ones that may have been written since they were copied.
    exposed: BTreeSet<u64>,
    /// Annotations by the pages of the guest that they stand in the place of.
    notes: BTreeMap<u64, u64>,
}

/// The pages of bytes `start..start + len`.
fn pages(start: u64, len: u64) -> Range<u64> {
    start / PAGE_SIZE..(start + len).div_ceil(PAGE_SIZE)
}

/// The pages of a guest range.
pub(super) fn guest_pages(range: GpaRange) -> Range<u64> {
    pages(range.start().get(), range.len())
}

impl Declared {
    pub(super) fn take(&mut self, start: Hpa, len: u64) {
        self.taken.extend(pages(start.get(), len));
    }

    pub(super) fn give(&mut self, start: Hpa, len: u64) {
        pages(start.get(), len).for_each(|page| _ = self.taken.remove(&page));
    }

    pub(super) fn withdraw(&mut self, range: GpaRange) {
        self.withdrawn.extend(guest_pages(range));
    }

    pub(super) fn grant(&mut self, range: GpaRange) {
        guest_pages(range).for_each(|page| _ = self.withdrawn.remove(&page));
    }

    pub(super) fn log(&mut self, range: GpaRange) {
        self.logged.extend(guest_pages(range));
    }

    pub(super) fn unlog(&mut self, range: GpaRange) {
        guest_pages(range).for_each(|page| {
            self.logged.remove(&page);
            self.exposed.remove(&page);
        });
    }

    pub(super) fn annotate(&mut self, range: GpaRange, word: u64) {
        self.notes.extend(guest_pages(range).map(|page| (page, word)));
    }

    pub(super) fn clear_notes(&mut self, range: GpaRange) {
        guest_pages(range).for_each(|page| _ = self.notes.remove(&page));
    }

    /// The annotations among these guest pages, with theirs.
    pub(super) fn notes(&self, pages: Range<u64>) -> impl Iterator<Item = (u64, u64)> {
        self.notes.range(pages).map(|(&page, &word)| (page, word))
    }

    /// Whether some of this host memory was taken.
    pub(super) fn is_taken(&self, start: Hpa, len: u64) -> bool {
        self.taken.range(pages(start.get(), len)).next().is_some()
    }

    /// Whether some of these guest pages are not to be written.
    pub(super) fn is_withdrawn(&self, pages: Range<u64>) -> bool {
        self.withdrawn.range(pages).next().is_some()
    }

    /// These pages may be written from now on.
    pub(super) fn expose(&mut self, pages: Range<u64>) {
        self.exposed.extend(self.logged.range(pages));
    }

    /// This page was copied; whether it `may_be_written` all the same.
    pub(super) fn copied(&mut self, page: u64, may_be_written: bool) {
        self.exposed.remove(&page);
        if may_be_written {
            self.expose(page..page + 1);
        }
    }

    /// Whether some of these pages may have been written since they were copied.
    pub(super) fn is_exposed(&self, pages: Range<u64>) -> bool {
        self.exposed.range(pages).next().is_some()
    }
}
