//! The control of one thread: what a table costs at least if a second thread may change it, too.

use std::sync::atomic::{AtomicU64, Ordering};

use super::{GIB_PAGES, Table, memory};

/// Entries in one row, changed by a compare-and-swap each: no walk, no zeroing, nothing looked up.
pub(crate) struct Floor(Vec<AtomicU64>);

impl Table for Floor {
    fn new() -> Self {
        Self((0..GIB_PAGES).map(|_| AtomicU64::new(0)).collect())
    }

    #[inline(never)]
    fn map(&mut self, page: u64) {
        let entry = &self.0[page as usize];
        let was = entry.compare_exchange(0, memory(page) | 1, Ordering::AcqRel, Ordering::Acquire);
        assert!(was.is_ok(), "{page} was mapped");
    }
}
