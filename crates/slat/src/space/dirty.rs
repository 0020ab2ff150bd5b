//! Dirty state on its way from entries to marks (R5): taken out before a flush, marked after it.

/// Pages in a region, as the dirty log counts them.
const REGION_PAGES: u64 = 512;
/// Regions of which one operation can hold pages.
const REGIONS: usize = 4;

/// Pages whose entries were dirty, held until the flush is over: a mark that came before it could be taken, and its page
/// copied, while a CPU still writes through what it has cached.
pub(crate) struct Moved {
    regions: [(u64, [u64; 8]); REGIONS],
    count: usize,
}

impl Moved {
    pub(crate) const fn new() -> Self {
        Self { regions: [(0, [0; 8]); REGIONS], count: 0 }
    }

    /// Whether there is room for the pages around `page`.
    pub(crate) fn has_room(&self, page: u64) -> bool {
        let region = page / REGION_PAGES;
        self.count < REGIONS || self.regions.iter().any(|(held, _)| *held == region)
    }

    /// Holds `page`; false when there is no room for it.
    pub(crate) fn hold(&mut self, page: u64) -> bool {
        let region = page / REGION_PAGES;
        let held = self.regions[..self.count].iter().position(|(held, _)| *held == region);
        let Some(place) = held.or((self.count < REGIONS).then_some(self.count)) else { return false };
        if place == self.count {
            self.regions[place] = (region, [0; 8]);
            self.count += 1;
        }
        self.regions[place].1[(page / 64 % 8) as usize] |= 1 << (page % 64);
        true
    }

    /// Marks all that is held.
    pub(crate) fn release(&mut self, mark: &mut impl FnMut(u64)) {
        for (region, words) in &self.regions[..core::mem::take(&mut self.count)] {
            for (word, bits) in words.iter().enumerate() {
                let pages = (0..64).filter(|bit| bits >> bit & 1 != 0);
                pages.for_each(|bit| mark(region * REGION_PAGES + 64 * word as u64 + bit));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_held_as_far_as_there_is_room_and_marked_once() {
        let mut moved = Moved::new();
        let pages = [511, 512, 513, 5000, 90_000];
        assert!(pages.iter().all(|&page| moved.hold(page)) && moved.hold(0));
        assert!(!moved.hold(1 << 20), "a fifth region");
        let mut marked = alloc::vec::Vec::new();
        moved.release(&mut |page| marked.push(page));
        marked.sort_unstable();
        assert_eq!(marked, [0, 511, 512, 513, 5000, 90_000]);
        assert!(moved.hold(1 << 20), "there is room again");
    }
}
