//! What the guest may do now, and what the host has to be told: the specification that every access is held against.

use slat::host::Access;

use crate::world::Frame;

/// Pages that a model's guest may have.
pub const PAGES: usize = 128;

/// A set of pages, by number.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct PageSet(u128);

impl PageSet {
    /// The pages that `bits` names.
    pub const fn of(bits: u128) -> Self {
        Self(bits)
    }

    /// Pages `first..end`.
    pub fn range(first: u64, end: u64) -> Self {
        (first..end).fold(Self::default(), Self::with)
    }

    /// The set and `page`.
    #[must_use]
    pub fn with(self, page: u64) -> Self {
        Self(self.0 | 1 << page)
    }

    /// The set without `other`.
    #[must_use]
    pub fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// The pages of both.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether `page` is in the set.
    pub fn contains(self, page: u64) -> bool {
        self.0 >> page & 1 != 0
    }

    /// Whether no page is in the set.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }
}

impl std::fmt::Debug for PageSet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries((0..PAGES as u64).filter(|page| self.contains(*page))).finish()
    }
}

/// The specification's state.
pub struct Oracle {
    /// Pages that no access may reach: their slot was deleted.
    pub forbidden: PageSet,
    /// Pages that no write may reach.
    pub read_only: PageSet,
    /// Pages whose writes have to be reported.
    pub logged: PageSet,
    /// Pages written to since they were last copied.
    pub unreported: PageSet,
    /// The oldest generation of the backing that the guest may still reach, by page. Older memory belongs to others.
    pub oldest: [u64; PAGES],
}

impl Default for Oracle {
    fn default() -> Self {
        let none = PageSet::default();
        Self { forbidden: none, read_only: none, logged: none, unreported: none, oldest: [0; PAGES] }
    }
}

impl Oracle {
    /// The guest reaches `frame` through `page`; what is wrong with that.
    pub fn access(&mut self, page: u64, access: Access, frame: Frame) -> Option<&'static str> {
        if access == Access::Write && self.logged.contains(page) {
            self.unreported = self.unreported.with(page);
        }
        if frame.page != page {
            Some("S1: a page is mapped to memory of another page")
        } else if self.forbidden.contains(page) {
            Some("S2: a page was accessed after its slot was deleted")
        } else if frame.generation < self.oldest[page as usize] {
            Some("S2: the guest reached memory that the host has taken back")
        } else if access == Access::Write && self.read_only.contains(page) {
            Some("S3: a page was written to after write permission was withdrawn")
        } else {
            None
        }
    }

    /// The host has copied these pages: what was written before is reported.
    pub fn copied(&mut self, pages: PageSet) {
        self.unreported = self.unreported.without(pages);
    }

    /// The host takes the memory of these pages that is older than `generation`.
    pub fn taken(&mut self, pages: PageSet, generation: u64) {
        for page in (0..PAGES as u64).filter(|page| pages.contains(*page)) {
            self.oldest[page as usize] = generation;
        }
    }
}
