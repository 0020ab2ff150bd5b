//! The machine's host physical address space: page tables at 4 GiB, guest memory at 1 TiB, nothing elsewhere.

mod arena;

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Acquire;

use slat::addr::Hpa;

pub use self::arena::Arena;
use crate::memory::{GuestMemory, Places};
use crate::trace::update_by_hardware;
use crate::walk::{Abort, DescriptorMemory};

/// Where the frames for page tables begin.
pub const TABLES_BASE: Hpa = Hpa::new(4 << 30);
/// Where guest memory begins: a multiple of every leaf's size, so that offsets and addresses are congruent.
pub const GUEST_BASE: Hpa = Hpa::new(1 << 40);

/// The most tables of `1 << shift` bytes that fit below guest memory.
pub const fn most_tables(shift: u32) -> usize {
    ((GUEST_BASE.get() - TABLES_BASE.get()) >> shift) as usize
}

/// Everything that has a host physical address.
#[derive(Debug)]
pub struct Physical {
    tables: Arena,
    guest: GuestMemory,
    places: Option<Places>,
}

impl Physical {
    /// `movable` is how many of the guest's pages have places that change, if they do; a block maps `block_pages` of
    /// them.
    pub(crate) fn new(tables: Arena, guest: GuestMemory, movable: Option<u64>, block_pages: u64) -> Self {
        let places = movable.map(|pages| Places::new(&guest, pages, block_pages));
        Self { tables, guest, places }
    }

    /// The frames for page tables.
    #[inline(always)]
    pub fn tables(&self) -> &Arena {
        &self.tables
    }

    /// The guest's memory.
    #[inline(always)]
    pub fn guest(&self) -> &GuestMemory {
        &self.guest
    }

    /// Where the guest's pages lie, if that changes.
    #[inline]
    pub fn places(&self) -> Option<&Places> {
        self.places.as_ref()
    }

    /// The offset in guest memory of the word at `hpa`; `None` when the word is not guest memory, or is no page's place.
    #[inline]
    pub fn guest_offset(&self, hpa: Hpa) -> Option<u64> {
        let offset = hpa.checked_offset_from(GUEST_BASE).filter(|&offset| offset < self.guest.len())?;
        let lent = self.places.as_ref().is_none_or(|places| places.is_lent(offset / self.guest.page_size()));
        lent.then_some(offset)
    }

    fn descriptor(&self, hpa: Hpa) -> Result<&AtomicU64, Abort> {
        self.tables.word(hpa).ok_or(Abort { hpa })
    }
}

impl DescriptorMemory for Physical {
    fn read(&self, hpa: Hpa) -> Result<u64, Abort> {
        // Acquire, where hardware has an address dependency: pairs with the release that published the table.
        Ok(self.descriptor(hpa)?.load(Acquire))
    }

    fn update(&self, hpa: Hpa, current: u64, new: u64) -> Result<Result<u64, u64>, Abort> {
        Ok(update_by_hardware(self.descriptor(hpa)?, hpa, current, new))
    }

    fn generation(&self, hpa: Hpa) -> Option<u32> {
        self.tables.generation(hpa)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::{PAGE_SIZE, Source};

    fn physical() -> Physical {
        let guest = GuestMemory::new(2 * PAGE_SIZE, Source::Anonymous).unwrap();
        Physical::new(Arena::new(TABLES_BASE, 4, 12).unwrap(), guest, None, 512)
    }

    #[test]
    fn guest_memory_is_where_it_should_be_and_nowhere_else() {
        let physical = physical();
        let at = |bytes| physical.guest_offset(Hpa::new(bytes));
        let base = GUEST_BASE.get();
        assert_eq!((at(base), at(base + 2 * PAGE_SIZE - 8)), (Some(0), Some(2 * PAGE_SIZE - 8)));
        assert_eq!((at(base - 8), at(base + 2 * PAGE_SIZE), at(0)), (None, None, None));
    }

    #[test]
    fn descriptors_are_read_from_allocated_tables_only() {
        let physical = physical();
        let table = physical.tables().allocate(1).unwrap();
        let second = Hpa::new(table.get() + 8);
        physical.tables().words(table)[1].store(5, std::sync::atomic::Ordering::Relaxed);
        assert_eq!(physical.read(second), Ok(5));
        assert_eq!(physical.update(second, 5, 6), Ok(Ok(5)));
        assert_eq!(physical.update(second, 5, 7), Ok(Err(6)));
        for nowhere in [Hpa::new(0), GUEST_BASE, Hpa::new(table.get() + 4 * 4096)] {
            assert_eq!(physical.read(nowhere), Err(Abort { hpa: nowhere }));
        }
        physical.tables().free(table, 1);
        assert_eq!(physical.read(second), Err(Abort { hpa: second }));
    }
}
