//! The far side of a live migration: memory that pages are copied to, and compared with in the end.

use crate::memory::{GuestMemory, MemoryError, PAGE_SIZE, Source};

/// The memory that a guest's pages are copied to. Pages are numbered by their place in guest memory.
#[derive(Debug)]
pub struct Destination {
    memory: GuestMemory,
}

/// A word that is not the same on both sides.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error(
    "page {page} differs at byte {offset}: {source_word:#x} at the source, {destination_word:#x} at the destination"
)]
pub struct Difference {
    /// Which page.
    pub page: u64,
    /// Where in the page, in bytes.
    pub offset: u64,
    /// What the guest has there.
    pub source_word: u64,
    /// What was copied.
    pub destination_word: u64,
}

impl Destination {
    /// Zeroed memory of `bytes` bytes, a positive multiple of 4 KiB.
    pub fn new(bytes: u64) -> Result<Self, MemoryError> {
        Self::with_page_size(bytes, PAGE_SIZE)
    }

    /// The same in pages of `page_size` bytes, as the memory that is copied has.
    pub fn with_page_size(bytes: u64, page_size: u64) -> Result<Self, MemoryError> {
        Ok(Self { memory: GuestMemory::with_page_size(bytes, Source::Anonymous, page_size)? })
    }

    /// Copies every page, the first round of a migration; how many there are.
    pub fn copy_everything(&self, from: &GuestMemory) -> u64 {
        (0..from.pages()).for_each(|page| self.copy_page(from, page));
        from.pages()
    }

    /// Copies the pages that a dirty log names, bit *i* of `bitmap` being page `first + i`; how many there were.
    pub fn copy_named(&self, from: &GuestMemory, first: u64, bitmap: &[u64]) -> u64 {
        let mut copied = 0;
        for (index, &word) in bitmap.iter().enumerate() {
            let mut left = word;
            while left != 0 {
                let page = first + index as u64 * 64 + u64::from(left.trailing_zeros());
                left &= left - 1;
                self.copy_page(from, page);
                copied += 1;
            }
        }
        copied
    }

    /// The first word that differs. With the guest stopped and the last dirty pages copied there must be none.
    pub fn first_difference(&self, from: &GuestMemory) -> Option<Difference> {
        let (mut source, mut destination) = (self.memory.page_of(0), self.memory.page_of(0));
        (0..from.pages()).find_map(|page| {
            from.read_page(page, &mut source);
            self.memory.read_page(page, &mut destination);
            let index = (0..source.len()).find(|&index| source[index] != destination[index])?;
            Some(Difference {
                page,
                offset: index as u64 * 8,
                source_word: source[index],
                destination_word: destination[index],
            })
        })
    }

    /// Bytes of memory.
    pub fn bytes(&self) -> u64 {
        self.memory.len()
    }

    fn copy_page(&self, from: &GuestMemory, page: u64) {
        let mut words = self.memory.page_of(0);
        from.read_page(page, &mut words);
        self.memory.write_page(page, &words);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_that_the_log_does_not_name_is_found_out() {
        let guest = GuestMemory::new(200 * PAGE_SIZE, Source::Anonymous).unwrap();
        let destination = Destination::new(guest.len()).unwrap();
        guest.store(3 * PAGE_SIZE, 1);
        assert_eq!(destination.copy_everything(&guest), 200);
        assert_eq!(destination.first_difference(&guest), None);

        guest.store(70 * PAGE_SIZE + 16, 2);
        guest.store(130 * PAGE_SIZE, 3);
        let missed = Difference { page: 70, offset: 16, source_word: 2, destination_word: 0 };
        assert_eq!(destination.first_difference(&guest), Some(missed));
        assert_eq!(destination.copy_named(&guest, 128, &[1 << 2]), 1);
        assert_eq!(destination.first_difference(&guest), Some(missed));
        assert_eq!(destination.copy_named(&guest, 0, &[1 << 3, 1 << 6]), 2);
        assert_eq!(destination.first_difference(&guest), None);
    }
}
