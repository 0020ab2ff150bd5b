//! Taking the dirty log (R5): clear the marks, descend from the root, protect, flush, and only then report.

use super::dirty::{Log, Marks, REGION_PAGES, marks_between};
use super::handle::{Handle, VmRef};
use super::log::{Harvest, LogError, LogProgress, Pages};
use super::slots::Slot;
use super::{Budget, Worker};
use crate::host::{SlotId, TableMemory};
use crate::reclaim::Shared;
use crate::space::{Marked, Protection, Visit, What};

type AtomicsOf<R> = <<R as VmRef>::Host as TableMemory>::Atomics;

/// Regions protected inside one section.
const REGIONS_PER_SECTION: u32 = 8;

/// A slot's log, and which of its pages are meant, numbered in the guest physical address space.
struct Target<R: VmRef> {
    log: Shared<Log<AtomicsOf<R>>, AtomicsOf<R>>,
    slot_first: u64,
    first: u64,
    end: u64,
    /// Whether hardware keeps the log, in the entries.
    by_hardware: bool,
}

/// What one call took.
struct Taken {
    next: Option<u64>,
    protected: u64,
    widened: bool,
}

impl<R: VmRef> Target<R> {
    /// The page of the slot where a later call goes on that would go on at `page`: a whole number of bitmap words after
    /// the first page, so that the caller passes the rest of its bitmap. `None` when that would be no progress.
    fn resume(&self, page: u64) -> Option<u64> {
        let done = (page - self.first) / 64 * 64;
        (done > 0).then(|| self.first - self.slot_first + done)
    }

    /// Where to look next: everywhere where hardware keeps the log and its notes are wanted, else where marks are.
    fn next(&self, page: u64, scans: bool) -> Option<u64> {
        if scans { Some(page).filter(|page| *page < self.end) } else { self.log.next_marked(page, self.end) }
    }

    /// What is taken from a page's entry: the next write is to be noted again.
    fn what(&self) -> What {
        if self.by_hardware { What::Dirty } else { What::Write }
    }
}

impl<R: VmRef> Worker<R> {
    /// Copies the marks of `pages`, page `pages.first + i` as bit `i` of `bitmap`, and returns how many are set. Takes
    /// nothing and protects nothing; bits past the last page are cleared.
    pub fn get_dirty(&mut self, id: SlotId, pages: Pages, bitmap: &mut [u64]) -> Result<u64, LogError> {
        let target = self.target(id, pages, bitmap.len())?;
        if target.by_hardware {
            self.collect(&target);
        }
        let mut dirty = 0;
        for (index, word) in bitmap.iter_mut().enumerate().take(words(pages)) {
            let page = target.first + 64 * index as u64;
            *word = target.log.peek(page) & low_bits(target.end - page);
            dirty += u64::from(word.count_ones());
        }
        Ok(dirty)
    }

    /// Clears the marks that `bitmap` names (bit `i` is page `pages.first + i`), and write-protects the pages that were
    /// marked, so that the next write to each is marked again. What was read with [`get_dirty`](Self::get_dirty) may be
    /// copied once this returns: a write that comes later is in the log.
    ///
    /// One flush for the call, of what was protected. Blocks of which only a part is named are split if the worker
    /// carries a table ([`top_up`](Self::top_up)), else protected whole, which costs faults and loses nothing.
    pub fn clear_dirty(
        &mut self,
        id: SlotId,
        pages: Pages,
        bitmap: &[u64],
        budget: Budget,
    ) -> Result<LogProgress, LogError> {
        let target = self.target(id, pages, bitmap.len())?;
        let named = |page: u64| named_in_region(bitmap, page, target.first, target.end);
        let taken = self.take(&target, budget, false, named, |_, _| {});
        Ok(LogProgress { next: taken.next, protected: taken.protected, widened: taken.widened })
    }

    /// Takes the marks of `pages`: sets bit `i` of `bitmap` for each page `pages.first + i` that was marked (and leaves
    /// the others as they are), clears the marks, write-protects the pages and flushes. What it took may be copied once
    /// it returns.
    ///
    /// Costs the dirty pages, not the size of the slot. Blocks as for [`clear_dirty`](Self::clear_dirty).
    pub fn harvest(
        &mut self,
        id: SlotId,
        pages: Pages,
        bitmap: &mut [u64],
        budget: Budget,
    ) -> Result<Harvest, LogError> {
        let target = self.target(id, pages, bitmap.len())?;
        let all = |page: u64| marks_between(page, target.first, target.end);
        let mut dirty = 0;
        let taken = self.take(&target, budget, target.by_hardware, all, |page, taken| {
            dirty += taken.iter().map(|word| u64::from(word.count_ones())).sum::<u64>();
            report(bitmap, target.first, page, taken);
        });
        let complete = taken.next.is_none() && target.log.is_clear(target.first, target.end);
        Ok(Harvest { next: taken.next, dirty, complete, widened: taken.widened })
    }

    /// Makes marks of what hardware has noted in the entries: clean first, then flushed, then marked, as for a removal.
    fn collect(&mut self, target: &Target<R>) {
        let Handle { vm, member } = &mut self.handle;
        let space = &vm.vm().space;
        let tally = space.tally(&member.reader);
        let mut next = target.next(target.first, true);
        while next.is_some() {
            target.log.hold();
            let section = space.domain.enter(&mut member.reader);
            let visit = Visit { space, section: section.inside(), tally };
            let mut protection = Protection::new(space.gather(), What::Dirty);
            let mut found = [None; REGIONS_PER_SECTION as usize];
            for place in &mut found {
                let Some(page) = next else { break };
                let base = page / REGION_PAGES * REGION_PAGES;
                let words = marks_between(page, target.first, target.end);
                let pages = Marked { base, words: &words };
                protection.run(visit, &pages, &mut member.cache, u64::MAX);
                *place = Some((base, protection.found()));
                next = target.next(base + REGION_PAGES, true);
            }
            protection.close(visit);
            found.iter().flatten().for_each(|(base, marks)| target.log.put(*base, marks));
            target.log.release();
        }
    }

    /// Region by region: takes the marks that `mask` names, protects their pages, and tells `report`; then flushes. If it
    /// `scans`, what hardware has noted counts as marked.
    fn take(
        &mut self,
        target: &Target<R>,
        budget: Budget,
        scans: bool,
        mask: impl Fn(u64) -> Marks,
        mut report: impl FnMut(u64, &Marks),
    ) -> Taken {
        let Handle { vm, member } = &mut self.handle;
        let space = &vm.vm().space;
        let tally = space.tally(&member.reader);
        let mut protection = Protection::new(space.gather(), target.what());
        let mut next = target.next(target.first, scans);
        let mut spent = 0;
        loop {
            let section = space.domain.enter(&mut member.reader);
            let visit = Visit { space, section: section.inside(), tally };
            for _ in 0..REGIONS_PER_SECTION {
                let Some(page) = next.filter(|page| spent < budget.get() || target.resume(*page).is_none()) else {
                    break;
                };
                let base = page / REGION_PAGES * REGION_PAGES;
                let mask = mask(page);
                spent += 1;
                if mask != [0; 8] {
                    let mut taken = target.log.take(page, &mask);
                    let pages = if scans { mask } else { taken };
                    let pages = Marked { base, words: &pages };
                    spent += protection.run(visit, &pages, &mut member.cache, u64::MAX).visited;
                    let found = protection.found();
                    if scans {
                        taken.iter_mut().zip(found).for_each(|(taken, found)| *taken |= found);
                    }
                    report(base, &taken);
                }
                next = target.next(base + REGION_PAGES, scans);
            }
            let resume = next.and_then(|page| target.resume(page));
            if next.is_none() || (spent >= budget.get() && resume.is_some()) {
                protection.close(visit);
                return Taken { next: resume, protected: protection.changed, widened: protection.widened };
            }
        }
    }

    fn target(&mut self, id: SlotId, pages: Pages, bitmap: usize) -> Result<Target<R>, LogError> {
        let Handle { vm, member } = &mut self.handle;
        let vm = vm.vm();
        let shift = vm.space.geometry().page_shift();
        let section = vm.space.domain.enter(&mut member.reader);
        let slot: &Slot<_> =
            vm.slots.read(section.inside()).by_id(id).filter(|slot| !slot.dying).ok_or(LogError::NoSuchSlot)?;
        let log = slot.log.clone().ok_or(LogError::NotLogged)?;
        vm.space.root.load().ok_or(LogError::Gone)?;
        if !log.is_armed() {
            return Err(LogError::Unfinished);
        }
        let (slot_first, slot_pages) = (slot.range.start().get() >> shift, slot.range.len() >> shift);
        if pages.first.checked_add(pages.count).is_none_or(|end| end > slot_pages) {
            return Err(LogError::OutOfRange { slot_pages });
        }
        if bitmap < words(pages) {
            return Err(LogError::BitmapTooShort { words: words(pages) });
        }
        let first = slot_first + pages.first;
        let by_hardware = slot.flags.is_logged_by_hardware();
        Ok(Target { log, slot_first, first, end: first + pages.count, by_hardware })
    }
}

/// Words that a bitmap of `pages` needs.
fn words(pages: Pages) -> usize {
    pages.count.div_ceil(64) as usize
}

fn low_bits(count: u64) -> u64 {
    if count >= 64 { u64::MAX } else { (1 << count) - 1 }
}

/// The marks of the region of `page` that a bitmap names, whose bit 0 is page `first` and whose last page is before
/// `end`.
fn named_in_region(bitmap: &[u64], page: u64, first: u64, end: u64) -> Marks {
    let base = page / REGION_PAGES * REGION_PAGES;
    let between = marks_between(page, first, end);
    core::array::from_fn(|word| between[word] & bits_at(bitmap, (base + 64 * word as u64).wrapping_sub(first) as i64))
}

/// 64 bits of `bitmap` from bit `at` on; bits before the first and after the last are clear.
fn bits_at(bitmap: &[u64], at: i64) -> u64 {
    let word = |index: i64| usize::try_from(index).ok().and_then(|index| bitmap.get(index)).copied().unwrap_or(0);
    let (index, shift) = (at.div_euclid(64), at.rem_euclid(64));
    match shift {
        0 => word(index),
        shift => word(index) >> shift | word(index + 1) << (64 - shift),
    }
}

/// Sets the bits of the pages that `taken` names, the marks of the region that starts at page `base`.
fn report(bitmap: &mut [u64], first: u64, base: u64, taken: &Marks) {
    for (word, &taken) in taken.iter().enumerate().filter(|(_, taken)| **taken != 0) {
        let at = (base + 64 * word as u64).wrapping_sub(first) as i64;
        let (index, shift) = (at.div_euclid(64), at.rem_euclid(64));
        let mut set = |index: i64, bits: u64| {
            if let Some(word) = usize::try_from(index).ok().and_then(|index| bitmap.get_mut(index)) {
                *word |= bits;
            }
        };
        set(index, taken << shift);
        if shift != 0 {
            set(index + 1, taken >> (64 - shift));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bitmaps_of_any_alignment_come_and_go() {
        for first in [0, 1, 63, 64, 500, 511, 700] {
            let end = first + 130;
            let bitmap = [0x8000_0000_0000_0001, 0xffff, 0b11];
            let mut copy = [0u64; 3];
            let mut page = first;
            while page < end {
                let base = page / REGION_PAGES * REGION_PAGES;
                report(&mut copy, first, base, &named_in_region(&bitmap, page, first, end));
                page = base + REGION_PAGES;
            }
            assert_eq!(copy, bitmap, "from page {first}");
        }
    }
}
