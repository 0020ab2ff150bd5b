//! Guest memory that is really there: mapped from the host by source, read and written through relaxed atomics, since
//! guest programs, the migration copy and the verifier look at it at the same time.

mod places;
mod source;

use std::fs;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

pub use self::places::{Disturbed, Places, Replacement};
pub use self::source::{HugeSize, Source, UnknownSource};
use crate::mapping::{Backed, Mapping};

/// Bytes in a page of guest memory, where nothing else is said.
pub const PAGE_SIZE: u64 = 4096;
/// 64-bit words in such a page.
pub const PAGE_WORDS: usize = (PAGE_SIZE / 8) as usize;

/// The memory of one guest, addressed by offset. Aligned to 2 MiB, and to 1 GiB from that size on.
#[derive(Debug)]
pub struct GuestMemory {
    mapping: Mapping,
    bytes: u64,
    page_size: u64,
    source: Source,
}

/// Why there is no guest memory.
#[derive(Debug, thiserror::Error)]
pub enum MemoryError {
    /// The size is not a positive number of pages.
    #[error("guest memory has to be a positive multiple of {1} bytes, not {0} bytes")]
    Size(u64, u64),
    /// The host knows no huge pages of that size.
    #[error("this host has no huge pages of {0}; choose another memory source, such as anonymous_thp")]
    HugeSize(HugeSize),
    /// The host has too few huge pages reserved.
    #[error(
        "huge pages of {size}: {needed} needed, {free} free on this host; reserve more by writing a number to \
         /sys/kernel/mm/hugepages/hugepages-{kibibytes}kB/nr_hugepages", kibibytes = size.bytes() >> 10
    )]
    HugePages {
        /// The size of page asked for.
        size: HugeSize,
        /// How many are needed.
        needed: u64,
        /// How many are free now.
        free: u64,
    },
    /// The host refused for a reason of its own.
    #[error("the host gave no {bytes} bytes of {memory} memory: {error}")]
    Host {
        /// How much was asked for.
        bytes: u64,
        /// What kind of memory.
        memory: Source,
        /// What the host said.
        error: std::io::Error,
    },
}

impl GuestMemory {
    /// Maps `bytes` bytes, a positive multiple of 4 KiB, from `source`.
    ///
    /// Reserved huge pages are claimed here, so that a shortage is this call's error and never a signal later.
    pub fn new(bytes: u64, source: Source) -> Result<Self, MemoryError> {
        Self::with_page_size(bytes, source, PAGE_SIZE)
    }

    /// The same in pages of `page_size` bytes, a multiple of 4 KiB.
    pub fn with_page_size(bytes: u64, source: Source, page_size: u64) -> Result<Self, MemoryError> {
        if bytes == 0 || !bytes.is_multiple_of(page_size) {
            return Err(MemoryError::Size(bytes, page_size));
        }
        let backed = match source {
            Source::Anonymous => Backed::Pages,
            Source::AnonymousThp => Backed::TransparentHugePages,
            Source::Shmem => Backed::SharedPages,
            Source::AnonymousHugetlb(_) | Source::SharedHugetlb => {
                let bytes = source.page_size();
                if source.is_shared() { Backed::SharedHugePages(bytes) } else { Backed::HugePages(bytes) }
            }
        };
        let align = if bytes >= HugeSize::OneGibibyte.bytes() { HugeSize::OneGibibyte } else { HugeSize::TwoMebibytes };
        let align = align.bytes().max(source.page_size());
        let host = |error| MemoryError::Host { bytes, memory: source, error };
        let needed = bytes.div_ceil(source.page_size());
        if let Some(size) = source.hugetlb() {
            free_huge_pages(size).ok_or(MemoryError::HugeSize(size))?;
        }
        let mapping =
            Mapping::new(needed * source.page_size(), align, backed).map_err(|error| match source.hugetlb() {
                Some(size) if error.raw_os_error() == Some(libc::ENOMEM) => {
                    MemoryError::HugePages { size, needed, free: free_huge_pages(size).unwrap_or(0) }
                }
                _ => host(error),
            })?;
        Ok(Self { mapping, bytes, page_size, source })
    }

    /// How many bytes there are.
    pub const fn len(&self) -> u64 {
        self.bytes
    }

    /// Always false: memory has at least a page.
    pub const fn is_empty(&self) -> bool {
        false
    }

    /// How many pages there are.
    pub const fn pages(&self) -> u64 {
        self.bytes / self.page_size
    }

    /// Bytes in a page.
    #[inline]
    pub const fn page_size(&self) -> u64 {
        self.page_size
    }

    /// What lies behind the memory.
    pub const fn source(&self) -> Source {
        self.source
    }

    /// Reads the word at `offset`, a multiple of 8 inside the memory.
    #[inline]
    pub fn load(&self, offset: u64) -> u64 {
        self.word(offset).load(Relaxed)
    }

    /// Writes the word at `offset`, a multiple of 8 inside the memory.
    #[inline]
    pub fn store(&self, offset: u64, value: u64) {
        self.word(offset).store(value, Relaxed);
    }

    /// A page's words, all of this value.
    pub(crate) fn page_of(&self, word: u64) -> Vec<u64> {
        vec![word; (self.page_size / 8) as usize]
    }

    /// Copies page number `page` out, or as much as there is room for, word by word: a guest that writes meanwhile tears the
    /// page but no word.
    pub fn read_page(&self, page: u64, into: &mut [u64]) {
        for (value, word) in into.iter_mut().zip(self.page_words(page)) {
            *value = word.load(Relaxed);
        }
    }

    /// Writes page number `page`, or as much as is given, word by word.
    pub fn write_page(&self, page: u64, from: &[u64]) {
        for (value, word) in from.iter().zip(self.page_words(page)) {
            word.store(*value, Relaxed);
        }
    }

    /// Makes the host provide every page now, so that no later access waits for that.
    pub fn prefault(&self) {
        for offset in (0..self.bytes).step_by(PAGE_SIZE as usize) {
            self.word(offset).fetch_or(0, Relaxed);
        }
    }

    fn page_words(&self, page: u64) -> &[AtomicU64] {
        let words = (self.page_size / 8) as usize;
        &self.mapping.words()[page as usize * words..][..words]
    }

    #[inline]
    fn word(&self, offset: u64) -> &AtomicU64 {
        debug_assert!(offset.is_multiple_of(8), "guest words are aligned, not at {offset:#x}");
        &self.mapping.words()[(offset / 8) as usize]
    }
}

/// How many huge pages of `size` the host could hand out now; `None` when it knows none of that size.
fn free_huge_pages(size: HugeSize) -> Option<u64> {
    let directory = format!("/sys/kernel/mm/hugepages/hugepages-{}kB", size.bytes() >> 10);
    fs::read_to_string(format!("{directory}/free_hugepages")).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back_from_every_source_of_pages() {
        for source in [Source::Anonymous, Source::AnonymousThp, Source::Shmem] {
            let memory = GuestMemory::new(3 * PAGE_SIZE, source).unwrap();
            assert_eq!((memory.len(), memory.pages(), memory.source()), (3 * PAGE_SIZE, 3, source));
            assert_eq!(memory.load(2 * PAGE_SIZE), 0, "fresh memory is zero");
            memory.store(2 * PAGE_SIZE + 8, 7);
            let mut page = [0; PAGE_WORDS];
            memory.read_page(2, &mut page);
            assert_eq!(page[..3], [0, 7, 0]);
            memory.prefault();
            memory.write_page(0, &page);
            assert_eq!(memory.load(8), 7);
        }
    }

    #[test]
    fn sizes_that_are_no_pages_are_refused() {
        for bytes in [0, 1, PAGE_SIZE + 8] {
            assert!(matches!(GuestMemory::new(bytes, Source::Anonymous), Err(MemoryError::Size(..))));
        }
    }

    #[test]
    fn missing_huge_pages_are_an_error_with_advice_and_no_signal() {
        for size in [HugeSize::TwoMebibytes, HugeSize::OneGibibyte] {
            let source = Source::AnonymousHugetlb(Some(size));
            let wanted = (free_huge_pages(size).unwrap_or(0) + 1_000_000) * size.bytes();
            let sentence = GuestMemory::new(wanted, source).unwrap_err().to_string();
            assert!(sentence.contains("huge pages of"), "{sentence}");
        }
        assert!(GuestMemory::new(1 << 46, Source::SharedHugetlb).is_err());
    }

    #[test]
    #[should_panic(expected = "out of bounds")]
    fn an_access_past_the_end_is_noticed() {
        GuestMemory::new(PAGE_SIZE, Source::Anonymous).unwrap().load(PAGE_SIZE);
    }
}
