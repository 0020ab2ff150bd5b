//! The dirty log of a slot: a bit per page, and a bit per 512 pages that have any.

use alloc::vec::Vec;

use crate::reclaim::{Lines, OutOfMemory, vec_with};
use crate::sync::{Atomics, Ordering, Padded, Word};

/// Pages in a region: one cache line of marks. Regions are aligned in guest physical address space, not in the slot, so
/// that two regions never share a line (R3).
pub(crate) const REGION_PAGES: u64 = 512;

/// One taking of marks, in the word that counts them.
const TAKEN: u64 = 1 << 32;

/// The marks of one region.
pub(crate) type Marks = [u64; 8];

/// The marks of one slot. Pages are named by their number in the guest physical address space.
pub(crate) struct Log<A: Atomics> {
    first_page: u64,
    end_page: u64,
    /// The number, in the guest physical address space, of the 64 pages that the first word of the first line is for.
    first_word: u64,
    /// A line per region.
    lines: Lines<A::Word>,
    /// A bit per region: it may have marks.
    summary: Vec<A::Word>,
    /// How many marks are being taken (low half), and how often some were (high half): whoever looks for marks meanwhile
    /// may miss those that a taker has not put back yet. Faults never touch it.
    takers: Padded<A::Word>,
    /// 1 once every entry that was writable without a mark has been protected.
    armed: A::Word,
}

impl<A: Atomics> Log<A> {
    /// A log for the pages `first_page..end_page`, all marked or none.
    pub(crate) fn new(first_page: u64, end_page: u64, marked: bool) -> Result<Self, OutOfMemory> {
        let regions = (end_page.div_ceil(REGION_PAGES) - first_page / REGION_PAGES) as usize;
        let log = Self {
            first_page,
            end_page,
            first_word: first_page / REGION_PAGES * 8,
            lines: Lines::new(regions, || A::Word::new(0))?,
            summary: vec_with(regions.div_ceil(64), || A::Word::new(0))?,
            takers: Padded(A::Word::new(0)),
            armed: A::Word::new(0),
        };
        if marked {
            log.mark_all();
        }
        Ok(log)
    }

    /// Says that no page can be written from now on without being marked.
    pub(crate) fn arm(&self) {
        self.armed.store(1, Ordering::Release);
    }

    /// Whether the log can be relied on.
    pub(crate) fn is_armed(&self) -> bool {
        self.armed.load(Ordering::Acquire) != 0
    }

    /// Marks pages that were just published writable. Always a read-modify-write, never a test first (R5): a harvest
    /// that has taken the mark meanwhile has not yet protected the page.
    #[inline]
    pub(crate) fn mark(&self, first_page: u64, count: u64) {
        let mut page = first_page.max(self.first_page);
        let end = (first_page + count).min(self.end_page);
        while page < end {
            let bits = (64 - page % 64).min(end - page);
            let mask = (u64::MAX >> (64 - bits)) << (page % 64);
            self.mark_word(page, mask);
            page += bits;
        }
    }

    /// Marks one page.
    #[inline(always)]
    pub(crate) fn mark_page(&self, page: u64) {
        debug_assert!(self.first_page <= page && page < self.end_page, "a slot's log is marked for the slot's pages");
        let number = (page / 64).wrapping_sub(self.first_word) as usize;
        let region = number / 8;
        // Outside of the slot there is nothing to mark; a comparison here costs less than a panic.
        let (Some(word), Some(summary)) = (self.lines.word(number), self.summary.get(region / 64)) else { return };
        word.fetch_or(1 << (page % 64), Ordering::AcqRel);
        // As in `mark_word`.
        A::full_fence_after_rmw();
        if summary.load(Ordering::Relaxed) >> (region % 64) & 1 == 0 {
            Self::summarize(summary, region);
        }
    }

    #[cold]
    #[inline(never)]
    fn summarize(summary: &A::Word, region: usize) {
        summary.fetch_or(1 << (region % 64), Ordering::AcqRel);
    }

    #[inline(always)]
    fn mark_word(&self, page: u64, mask: u64) {
        let region = self.region(page);
        self.lines.line(region)[(page / 64 % 8) as usize].fetch_or(mask, Ordering::AcqRel);
        // The summary may be tested before it is set because of this fence: either a harvest that clears the bit sees
        // the mark, or this thread sees the bit cleared. Pairs with the fence in `take`.
        A::full_fence_after_rmw();
        let (summary, bit) = (&self.summary[region / 64], 1 << (region % 64));
        if summary.load(Ordering::Relaxed) & bit == 0 {
            summary.fetch_or(bit, Ordering::AcqRel);
        }
    }

    /// Counts dirty state that its holder takes out of entries, to mark it after a flush: until then nobody can say that
    /// the log is clear.
    pub(crate) fn hold(&self) {
        self.takers.fetch_add(1, Ordering::AcqRel);
        A::full_fence_after_rmw();
    }

    /// Marks what was held: the pages of the region of `page`.
    pub(crate) fn put(&self, page: u64, marks: &Marks) {
        let base = page / REGION_PAGES * REGION_PAGES;
        for (word, &bits) in marks.iter().enumerate().filter(|(_, bits)| **bits != 0) {
            self.mark_word(base + 64 * word as u64, bits);
        }
    }

    /// Everything that was held is marked.
    pub(crate) fn release(&self) {
        self.takers.fetch_add(TAKEN - 1, Ordering::AcqRel);
    }

    fn mark_all(&self) {
        self.mark(self.first_page, self.end_page - self.first_page);
    }

    #[inline(always)]
    fn region(&self, page: u64) -> usize {
        (page / REGION_PAGES - self.first_word / 8) as usize
    }

    /// The lowest region with a page in `page..end` that may have marks: the first page of it to look at.
    pub(crate) fn next_marked(&self, page: u64, end: u64) -> Option<u64> {
        if page >= end {
            return None;
        }
        let (first, last) = (self.region(page), self.region(end - 1));
        let mut word = first / 64;
        let mut bits = self.summary[word].load(Ordering::Acquire) & (u64::MAX << (first % 64));
        while bits == 0 {
            word += 1;
            if word > last / 64 {
                return None;
            }
            bits = self.summary[word].load(Ordering::Acquire);
        }
        let region = word * 64 + bits.trailing_zeros() as usize;
        let start = (self.first_page / REGION_PAGES + region as u64) * REGION_PAGES;
        (region <= last).then(|| start.max(page))
    }

    /// Takes the marks that `mask` names out of the region of `page`, and says what they were. What is left keeps its
    /// summary bit. A full fence lies between the taking and the return: what follows descends from the root (R5).
    pub(crate) fn take(&self, page: u64, mask: &Marks) -> Marks {
        let region = self.region(page);
        let (summary, bit) = (&self.summary[region / 64], 1 << (region % 64));
        // Up before the summary bit goes down; pairs with the Acquire loads in `is_clear`.
        self.takers.fetch_add(1, Ordering::AcqRel);
        summary.fetch_and(!bit, Ordering::AcqRel);
        // Between clearing the summary bit and reading the words; pairs with the fence in `mark_word`.
        A::full_fence_after_rmw();
        let mut taken = [0; 8];
        let mut left = 0;
        for (word, (taken, mask)) in self.lines.line(region).iter().zip(taken.iter_mut().zip(mask)) {
            let seen = word.load(Ordering::Acquire);
            left |= seen & !mask;
            if seen & mask != 0 {
                let found = word.fetch_and(!mask, Ordering::AcqRel);
                *taken = found & mask;
                left |= found & !mask;
            }
        }
        if left != 0 {
            summary.fetch_or(bit, Ordering::AcqRel);
        }
        self.takers.fetch_add(TAKEN - 1, Ordering::AcqRel);
        A::full_fence_after_rmw();
        taken
    }

    /// Whether no page of `first..end` is marked, and nobody was taking marks while this was found out.
    pub(crate) fn is_clear(&self, first: u64, end: u64) -> bool {
        let before = self.takers.load(Ordering::Acquire);
        if !before.is_multiple_of(TAKEN) {
            return false;
        }
        let mut next = self.next_marked(first, end);
        while let Some(page) = next {
            let line = self.lines.line(self.region(page));
            let inside = marks_between(page, first, end);
            if line.iter().zip(inside).any(|(word, mask)| word.load(Ordering::Acquire) & mask != 0) {
                return false;
            }
            next = self.next_marked((page / REGION_PAGES + 1) * REGION_PAGES, end);
        }
        // A summary bit that a taker had cleared was read from it (Acquire): its raise is seen here.
        self.takers.load(Ordering::Acquire) == before
    }

    /// Up to 64 marks from `page` on, bit 0 for `page`. Takes nothing.
    pub(crate) fn peek(&self, page: u64) -> u64 {
        let word = |page: u64| {
            let inside = page < self.end_page;
            if inside {
                self.lines.line(self.region(page))[(page / 64 % 8) as usize].load(Ordering::Acquire)
            } else {
                0
            }
        };
        match page % 64 {
            0 => word(page),
            shift => word(page) >> shift | word(page - shift + 64) << (64 - shift),
        }
    }
}

/// The marks of the region of `page` that name pages in `first..end`.
pub(crate) fn marks_between(page: u64, first: u64, end: u64) -> Marks {
    let base = page / REGION_PAGES * REGION_PAGES;
    core::array::from_fn(|word| {
        let start = base + 64 * word as u64;
        let (from, to) = (first.max(start), end.min(start + 64));
        if from >= to { 0 } else { (u64::MAX >> (64 - (to - from))) << (from - start) }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sync::Core;

    #[test]
    fn marks_are_taken_once_and_only_those_named() {
        let log = Log::<Core>::new(500, 1600, false).unwrap();
        log.mark(510, 4);
        log.mark(1599, 1);
        assert_eq!(log.next_marked(500, 1600), Some(500));
        assert_eq!(log.take(510, &marks_between(510, 510, 511))[7], 1 << 62);
        assert_eq!(log.next_marked(500, 1600), Some(500), "a mark is left in the first region");
        assert_eq!(log.take(511, &marks_between(511, 500, 1600))[7], 1 << 63);
        assert_eq!(log.next_marked(500, 1600), Some(512));
        assert_eq!(log.take(512, &marks_between(512, 500, 1600))[0], 0b11);
        assert_eq!(log.next_marked(513, 1600), Some(1536));
        assert_eq!(log.next_marked(513, 1536), None);
        assert_eq!(log.take(1599, &marks_between(1599, 500, 1600)), [1 << 63, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(log.next_marked(500, 1600), None);
    }

    #[test]
    fn marks_outside_of_the_slot_are_not_made() {
        let log = Log::<Core>::new(100, 103, true).unwrap();
        assert_eq!(log.peek(100), 0b111);
        log.mark(90, 100);
        let taken = log.take(100, &[u64::MAX; 8]);
        assert_eq!(taken.iter().map(|word| word.count_ones()).sum::<u32>(), 3);
    }

    #[test]
    fn peeking_crosses_words_and_regions() {
        let log = Log::<Core>::new(0, 1024, false).unwrap();
        log.mark(511, 2);
        assert_eq!(log.peek(511), 0b11);
        assert_eq!(log.peek(500), 0b11 << 11);
        assert_eq!(log.peek(1000), 0);
    }
}
