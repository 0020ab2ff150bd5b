//! Which pages of a range an operation means.

/// Pages by number (address divided by the page size).
pub(crate) trait Selection {
    /// The lowest page selected that is not below `page`.
    fn next(&self, page: u64) -> Option<u64>;

    /// How many pages from `page` on, which is selected, are selected one after the other: at least one, and perhaps
    /// fewer than there are.
    fn run(&self, page: u64) -> u64;

    /// Whether all of `count` pages from `first` on are selected.
    fn covers(&self, first: u64, count: u64) -> bool;
}

/// All pages of a range.
#[derive(Clone, Copy)]
pub(crate) struct All {
    pub(crate) first: u64,
    /// One past the last.
    pub(crate) end: u64,
}

impl Selection for All {
    #[inline(always)]
    fn next(&self, page: u64) -> Option<u64> {
        let page = page.max(self.first);
        (page < self.end).then_some(page)
    }

    #[inline(always)]
    fn run(&self, page: u64) -> u64 {
        self.end.saturating_sub(page).max(1)
    }

    #[inline]
    fn covers(&self, first: u64, count: u64) -> bool {
        self.first <= first && first + count <= self.end
    }
}

/// Pages that a bitmap over 512 pages marks.
#[derive(Clone, Copy)]
pub(crate) struct Marked<'a> {
    /// The page of bit 0 of the first word.
    pub(crate) base: u64,
    pub(crate) words: &'a [u64; 8],
}

impl Selection for Marked<'_> {
    #[inline]
    fn next(&self, page: u64) -> Option<u64> {
        let from = page.saturating_sub(self.base) as usize;
        let mut word = from / 64;
        let mut bits = self.words.get(word)? & (u64::MAX << (from % 64));
        while bits == 0 {
            word += 1;
            bits = *self.words.get(word)?;
        }
        Some(self.base + word as u64 * 64 + u64::from(bits.trailing_zeros()))
    }

    #[inline]
    fn run(&self, page: u64) -> u64 {
        let from = page.saturating_sub(self.base) as usize;
        let bits = self.words.get(from / 64).map_or(0, |word| word >> (from % 64));
        u64::from(bits.trailing_ones()).max(1)
    }

    fn covers(&self, first: u64, count: u64) -> bool {
        (first..first + count).all(|page| self.next(page) == Some(page))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marked_pages_come_in_order_and_only_once() {
        let mut words = [0; 8];
        (words[0], words[1], words[7]) = (1 | 1 << 63, 1, 1 << 63);
        let marked = Marked { base: 1024, words: &words };
        let mut pages = alloc::vec::Vec::new();
        let mut page = 0;
        while let Some(next) = marked.next(page) {
            pages.push(next);
            page = next + 1;
        }
        assert_eq!(pages, [1024, 1024 + 63, 1024 + 64, 1024 + 511]);
        assert!(marked.covers(1024 + 63, 2) && !marked.covers(1024, 2));
    }

    #[test]
    fn all_pages_end_where_the_range_ends() {
        let all = All { first: 3, end: 5 };
        assert_eq!((all.next(0), all.next(4), all.next(5)), (Some(3), Some(4), None));
        assert!(all.covers(3, 2) && !all.covers(3, 3) && !all.covers(2, 1));
    }
}
