//! The zeroed tables that a handle carries, so that no walk allocates (R10).

use super::Tally;
use crate::addr::Hpa;
use crate::host::TableMemory;
use crate::reclaim::OutOfMemory;

/// Most tables a handle carries.
const CAPACITY: usize = 64;

/// Tables that belong to one handle and are linked nowhere. All their words are zero.
pub(crate) struct Cache {
    tables: [Hpa; CAPACITY],
    len: usize,
}

impl Cache {
    pub(crate) const fn new() -> Self {
        Self { tables: [Hpa::new(0); CAPACITY], len: 0 }
    }

    #[inline(always)]
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// A table, if there is one.
    #[inline]
    pub(crate) fn pop(&mut self) -> Option<Hpa> {
        self.len = self.len.checked_sub(1)?;
        self.tables.get(self.len).copied()
    }

    /// Takes a table back, zero again and linked nowhere; false when there is no room.
    #[inline]
    pub(crate) fn push(&mut self, table: Hpa) -> bool {
        match self.tables.get_mut(self.len) {
            Some(place) => {
                *place = table;
                self.len += 1;
                true
            }
            None => false,
        }
    }

    /// Allocates until the handle carries at least `wanted` tables, or as many as it can carry.
    pub(crate) fn top_up<H: TableMemory>(
        &mut self,
        wanted: usize,
        host: &H,
        tally: &Tally<H::Atomics>,
    ) -> Result<(), OutOfMemory> {
        while self.len < wanted.min(CAPACITY) {
            let table = host.allocate(1).ok_or(OutOfMemory)?;
            tally.allocated(1);
            self.push(table);
        }
        Ok(())
    }

    /// Gives everything back to the embedder.
    pub(crate) fn drain<H: TableMemory>(&mut self, host: &H, tally: &Tally<H::Atomics>) {
        while let Some(table) = self.pop() {
            tally.freed(1);
            // SAFETY: tables in the cache came from `allocate`, are linked nowhere, and each is in one cache once.
            unsafe { host.free(table, 1) };
        }
    }
}
