//! Withholding write permission from a range, page by page or block by block.

use super::group::Dissolution;
use super::{Reached, Selection, Split, Visit};
use crate::addr::{Gpa, GpaRange, Level};
use crate::format::{Format, Kind};
use crate::host::{Hint, Host};
use crate::table::{Cache, Entry, Members, Position, TableRef};
use crate::tlb::Gather;

use super::shard::Raised;

/// What is taken from a leaf.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum What {
    /// Write permission, for the dirty log: a fault gives it back.
    Write,
    /// Write permission and the note that it may come back: slot or host have withdrawn it (R6).
    WriteForGood,
    /// What hardware has noted of writes, for a log that it keeps: pages are clean then. Blocks lose write permission, as
    /// for any log.
    Dirty,
}

/// One protecting operation, from its first entry to its flush.
#[must_use = "a protection has to be closed"]
pub(crate) struct Protection {
    what: What,
    gather: Gather,
    raised: Raised,
    /// Leaves in here had nothing to lose; somebody else may have protected them and not flushed yet (R8).
    untouched: Option<GpaRange>,
    /// The pages that were dirty, in a region of 512: see [`found`](Self::found).
    found: [u64; 8],
    /// Entries changed.
    pub(crate) changed: u64,
    /// Whether a block was protected whole although only a part of it was meant.
    pub(crate) widened: bool,
}

impl Protection {
    pub(crate) fn new(gather: Gather, what: What) -> Self {
        let (raised, untouched, found) = (Raised::none(), None, [0; 8]);
        Self { what, gather, raised, untouched, found, changed: 0, widened: false }
    }

    /// Which pages were dirty since this was last called, for one who visits a region of 512 pages at a time: bit `i` of
    /// word `w` is page `64 * w + i` of the region.
    pub(crate) fn found(&mut self) -> [u64; 8] {
        core::mem::take(&mut self.found)
    }

    /// Protects the pages that `selection` names, visiting at most `budget` entries (and at least one).
    ///
    /// `cache` is for blocks that are meant only in part: they are split if it holds a table, else protected whole.
    pub(crate) fn run<H: Host, F: Format>(
        &mut self,
        visit: Visit<'_, H, F>,
        selection: &impl Selection,
        cache: &mut Cache,
        budget: u64,
    ) -> Reached {
        let shift = visit.space.geometry().page_shift();
        let mut page = 0;
        let mut visited = 0;
        while let Some(next) = selection.next(page) {
            page = next;
            if visited >= budget {
                break;
            }
            let Some(position) = visit.walk(Gpa::new(page << shift), Level::PAGE) else {
                return Reached { next: None, visited };
            };
            let (after, entries) = match position.level {
                Level::PAGE if self.what == What::Dirty => {
                    self.written_pages(visit, position, page, selection, budget - visited)
                }
                Level::PAGE => self.pages(visit, position, page, selection, budget - visited),
                _ => (self.upper(visit, position, page, selection, cache), 1),
            };
            page = after;
            visited += entries;
        }
        Reached { next: selection.next(page).map(|page| Gpa::new(page << shift)), visited }
    }

    /// Flushes what was protected, and what others protected in the same place and have not flushed yet.
    pub(crate) fn close<H: Host, F: Format>(&mut self, visit: Visit<'_, H, F>) {
        let shards = &visit.space.shards;
        if let Some(range) = self.untouched.take()
            && shards.unflushed_by_others(range, &self.raised)
        {
            self.gather.leaves_of(range, Hint::Unknown);
        }
        let _flushed = self.gather.close(&visit.space.host, visit.tally);
        shards.lower_unflushed(core::mem::replace(&mut self.raised, Raised::none()));
    }

    /// The selected entries of one table of pages, from `page` on; the page where to go on, and how many entries were
    /// visited. What was changed is gathered once for the table.
    #[inline]
    fn pages<H: Host, F: Format>(
        &mut self,
        visit: Visit<'_, H, F>,
        position: Position<'_, H>,
        page: u64,
        selection: &impl Selection,
        budget: u64,
    ) -> (u64, u64) {
        let base = page - position.index as u64;
        let end = base + visit.space.geometry().entries() as u64;
        let mut seen = Seen { page, visited: 0, changed: None, untouched: None };
        let stop = self.pages_until(visit, position, (base, end), selection, budget, &mut seen);
        self.note(visit, &seen);
        if let Some(locked) = stop {
            self.wait(visit, Position { index: locked, ..position });
        }
        (seen.page, seen.visited)
    }

    /// As [`pages`](Self::pages), as far as a locked entry, whose index is given.
    #[inline]
    fn pages_until<H: Host, F: Format>(
        &mut self,
        visit: Visit<'_, H, F>,
        position: Position<'_, H>,
        (base, end): (u64, u64),
        selection: &impl Selection,
        budget: u64,
        seen: &mut Seen,
    ) -> Option<usize> {
        let format = visit.space.format;
        while seen.page < end && seen.visited < budget {
            let index = (seen.page - base) as usize;
            let raw = position.table.entry(index).load();
            if format.is_grouped(raw, Level::PAGE) {
                match self.groups(visit, Position { index, raw, ..position }, (base, end), selection, seen) {
                    Some(met) => return Some(met),
                    None => continue,
                }
            }
            if format.is_writable(raw, Level::PAGE) {
                self.raise(visit, seen.page);
                let most = selection.run(seen.page).min(end - seen.page).min(budget - seen.visited);
                let changed = self.writable_pages(format, position.table, index, most as usize) as u64;
                if changed > 0 {
                    Seen::widen(&mut seen.changed, seen.page);
                    Seen::widen(&mut seen.changed, seen.page + changed - 1);
                    self.changed += changed;
                    seen.visited += changed;
                    seen.page = selection.next(seen.page + changed).unwrap_or(end);
                    continue;
                }
            }
            seen.visited += 1;
            match format.kind(raw, Level::PAGE) {
                // Not writable now, but perhaps once it is accessed again, or a fault gives the permission back.
                Kind::Leaf => {
                    let new = self.applied(format, raw, Level::PAGE);
                    if new == raw {
                        Seen::widen(&mut seen.untouched, seen.page);
                    } else {
                        self.raise(visit, seen.page);
                        if position.table.entry(index).change(raw, new).is_err() {
                            continue; // hardware or another thread was faster: look again
                        }
                        let extent = match narrows(format, raw, Level::PAGE) {
                            true => &mut seen.changed,
                            false => &mut seen.untouched,
                        };
                        Seen::widen(extent, seen.page);
                        self.changed += 1;
                    }
                }
                Kind::Locked => return Some(index),
                Kind::Frozen => return None, // from the root again
                Kind::Empty | Kind::Table => {}
            }
            seen.page = selection.next(seen.page + 1).unwrap_or(end);
        }
        None
    }

    /// Protects neighbouring pages as long as they are writable; how many. The gather is counted as unflushed already.
    #[inline]
    fn writable_pages<H: Host, F: Format>(
        &self,
        format: F,
        table: TableRef<'_, H>,
        first: usize,
        most: usize,
    ) -> usize {
        let protect = |entry: Entry<'_, H::Atomics>, new: fn(&F, u64, Level) -> u64| {
            let raw = entry.load();
            let is_one = format.is_writable(raw, Level::PAGE) && !format.is_grouped(raw, Level::PAGE);
            is_one && entry.change(raw, new(&format, raw, Level::PAGE)).is_ok()
        };
        match self.what {
            What::WriteForGood => table.leading(first, most, |entry| protect(entry, F::write_revoked)),
            _ => table.leading(first, most, |entry| protect(entry, F::write_protected)),
        }
    }

    /// As [`pages`](Self::pages): makes written pages clean, and finds them.
    #[inline(never)]
    fn written_pages<H: Host, F: Format>(
        &mut self,
        visit: Visit<'_, H, F>,
        position: Position<'_, H>,
        page: u64,
        selection: &impl Selection,
        budget: u64,
    ) -> (u64, u64) {
        let format = visit.space.format;
        let base = page - position.index as u64;
        let end = base + visit.space.geometry().entries() as u64;
        let mut seen = Seen { page, visited: 0, changed: None, untouched: None };
        while seen.page < end && seen.visited < budget {
            let here = Position { index: (seen.page - base) as usize, ..position };
            let raw = here.entry().load();
            if format.is_grouped(raw, Level::PAGE) {
                match self.groups(visit, Position { raw, ..here }, (base, end), selection, &mut seen) {
                    None => continue,
                    Some(met) => {
                        self.note(visit, &seen);
                        self.wait(visit, Position { index: met, ..position });
                        return (seen.page, seen.visited);
                    }
                }
            }
            seen.visited += 1;
            match format.kind(raw, Level::PAGE) {
                Kind::Leaf if format.is_dirty(raw, Level::PAGE) => {
                    self.raise(visit, seen.page);
                    if here.entry().change(raw, format.made_clean(raw, Level::PAGE)).is_err() {
                        continue;
                    }
                    self.found[(seen.page / 64 % 8) as usize] |= 1 << (seen.page % 64);
                    Seen::widen(&mut seen.changed, seen.page);
                    self.changed += 1;
                }
                // Perhaps made clean by another, who has not flushed yet.
                Kind::Leaf => Seen::widen(&mut seen.untouched, seen.page),
                Kind::Locked => {
                    self.note(visit, &seen);
                    self.wait(visit, here);
                    return (seen.page, seen.visited);
                }
                Kind::Frozen => break, // from the root again
                Kind::Empty | Kind::Table => {}
            }
            seen.page = selection.next(seen.page + 1).unwrap_or(end);
        }
        self.note(visit, &seen);
        (seen.page, seen.visited)
    }

    /// Counts the gather as unflushed before the first change in the shard of `page` (R8): whoever finds the leaf
    /// protected finds the count up, or the flush done.
    fn raise<H: Host, F: Format>(&mut self, visit: Visit<'_, H, F>, page: u64) {
        let gpa = Gpa::new(page << visit.space.geometry().page_shift());
        visit.space.shards.raise_unflushed(gpa, &mut self.raised);
    }

    fn note<H: Host, F: Format>(&mut self, visit: Visit<'_, H, F>, seen: &Seen) {
        let shift = visit.space.geometry().page_shift();
        let range = |(first, last): (u64, u64)| GpaRange::new(Gpa::new(first << shift), Gpa::new((last + 1) << shift));
        if let Some(changed) = seen.changed.and_then(range) {
            self.gather.leaf(changed, Level::PAGE);
        }
        if let Some(same) = seen.untouched.and_then(range) {
            self.leave(same);
        }
    }

    /// An entry above the page level that is not a table; the page where to go on.
    fn upper<H: Host, F: Format>(
        &mut self,
        visit: Visit<'_, H, F>,
        position: Position<'_, H>,
        page: u64,
        selection: &impl Selection,
        cache: &mut Cache,
    ) -> u64 {
        let format = visit.space.format;
        let geometry = visit.space.geometry();
        let count = geometry.pages(position.level);
        let first = page & !(count - 1);
        match format.kind(position.raw, position.level) {
            Kind::Empty => first + count,
            Kind::Locked => {
                self.wait(visit, position);
                page
            }
            Kind::Frozen | Kind::Table => page,
            Kind::Leaf if format.is_grouped(position.raw, position.level) => {
                self.upper_group(visit, position, page, selection)
            }
            Kind::Leaf => {
                let whole = selection.covers(first, count);
                if !whole && self.takes_from(format, position.raw, position.level) {
                    match visit.split(position, Gpa::new(page << geometry.page_shift()), cache) {
                        Split::Done | Split::Lost => return page,
                        Split::NoTable => self.widened = true,
                    }
                }
                match self.leaf(visit, position.entry(), position.raw, first, position.level) {
                    true => first + count,
                    false => page,
                }
            }
        }
    }

    /// A group of pages that is selected is protected whole, of others only a part is meant: they are dissolved, with all
    /// further ones in this table. An entry that is no member any more is where to wait, the group's first page where to go
    /// on: a part of a group is never left behind protected while hardware may take another member's word for it.
    fn groups<H: Host, F: Format>(
        &mut self,
        visit: Visit<'_, H, F>,
        position: Position<'_, H>,
        (base, end): (u64, u64),
        selection: &impl Selection,
        seen: &mut Seen,
    ) -> Option<usize> {
        let members = Members::around(position, visit.space.format);
        let (first, count) = (base + members.first as u64, members.count as u64);
        seen.visited += count;
        if selection.covers(first, count) {
            let met = self.whole_group(visit, members, first, Level::PAGE);
            seen.page = if met.is_some() { first } else { selection.next(first + count).unwrap_or(end) };
            return met;
        }
        let mut dissolution = Dissolution::new(visit.space.gather());
        let mut met = None;
        let mut next = Some(seen.page);
        while let Some(page) = next.filter(|page| *page < end && met.is_none() && !dissolution.is_full()) {
            let index = (page - base) as usize;
            let position = Position { index, raw: position.table.entry(index).load(), ..position };
            let first = page & !(count - 1);
            if visit.space.format.is_grouped(position.raw, Level::PAGE) && !selection.covers(first, count) {
                let gpa = Gpa::new(page << visit.space.geometry().page_shift());
                met = dissolution.add(visit, position, gpa).err().map(|other| other.index);
            }
            next = selection.next(first + count);
        }
        dissolution.close(visit);
        met
    }

    /// A group of blocks; the page where to go on.
    fn upper_group<H: Host, F: Format>(
        &mut self,
        visit: Visit<'_, H, F>,
        position: Position<'_, H>,
        page: u64,
        selection: &impl Selection,
    ) -> u64 {
        let geometry = visit.space.geometry();
        let members = Members::around(position, visit.space.format);
        let count = geometry.pages(position.level) * members.count as u64;
        let first = page & !(count - 1);
        let met = if selection.covers(first, count) {
            match self.whole_group(visit, members, first, position.level) {
                None => return first + count,
                Some(met) => Position { index: met, ..position },
            }
        } else {
            match visit.dissolve(position, Gpa::new(page << geometry.page_shift())) {
                Ok(()) => return page,
                Err(met) => met,
            }
        };
        self.wait(visit, met);
        first
    }

    /// Protects every member of a group, whose first page is `first`; the index of an entry that is no member any more.
    fn whole_group<H: Host, F: Format>(
        &mut self,
        visit: Visit<'_, H, F>,
        members: Members<'_, H>,
        first: u64,
        level: Level,
    ) -> Option<usize> {
        let format = visit.space.format;
        let (mut is_dirty, mut is_narrowed) = (false, false);
        let changed = visit.change_group(members, level, |raw| {
            let mut new = self.applied(format, raw, level);
            if self.what == What::Dirty {
                is_dirty |= format.is_dirty(raw, level);
                new = format.made_clean(new, level);
            }
            if new != raw {
                self.raise(visit, first);
                is_narrowed |= is_dirty || narrows(format, raw, level);
            }
            new
        });
        let span = visit.group_span(Gpa::new(first << visit.space.geometry().page_shift()), level);
        self.changed += changed.count;
        if is_narrowed {
            self.gather.leaf(span, level);
        } else {
            self.leave(span);
        }
        if is_dirty && level == Level::PAGE {
            // Which member hardware noted it in says nothing.
            let pages = first..first + members.count as u64;
            pages.for_each(|page| self.found[(page / 64 % 8) as usize] |= 1 << (page % 64));
        }
        changed.met.map(|met| members.first + met)
    }

    fn takes_from<F: Format>(&self, format: F, raw: u64, level: Level) -> bool {
        self.applied(format, raw, level) != raw
    }

    #[inline]
    fn applied<F: Format>(&self, format: F, raw: u64, level: Level) -> u64 {
        match self.what {
            What::WriteForGood => format.write_revoked(raw, level),
            _ => format.write_protected(raw, level),
        }
    }

    /// Protects one leaf, however often hardware or another thread changes it meanwhile; false when it is no leaf any
    /// more, and the path has to be walked again.
    #[inline]
    fn leaf<H: Host, F: Format>(
        &mut self,
        visit: Visit<'_, H, F>,
        entry: Entry<'_, H::Atomics>,
        seen: u64,
        first_page: u64,
        level: Level,
    ) -> bool {
        let format = visit.space.format;
        let gpa = Gpa::new(first_page << visit.space.geometry().page_shift());
        let mut raw = seen;
        while format.kind(raw, level) == Kind::Leaf {
            let new = self.applied(format, raw, level);
            let span = visit.span(gpa, level);
            if new == raw {
                self.leave(span);
                return true;
            }
            self.raise(visit, first_page);
            match entry.change(raw, new) {
                Ok(()) => {
                    match narrows(format, raw, level) {
                        true => self.gather.leaf(span, level),
                        false => self.leave(span),
                    }
                    self.changed += 1;
                    return true;
                }
                Err(found) => raw = found,
            }
        }
        false
    }

    /// Leaves in `span` had nothing to lose that may be cached, but for what others have not flushed yet (R8).
    fn leave(&mut self, span: GpaRange) {
        self.untouched = Some(self.untouched.map_or(span, |untouched| untouched.hull(span)));
    }

    /// An operation waits at a locked entry only with its own gather closed (R4).
    fn wait<H: Host, F: Format>(&mut self, visit: Visit<'_, H, F>, position: Position<'_, H>) {
        self.close(visit);
        visit.wait_unlocked(position);
    }
}

/// Whether protecting the leaf takes something that may be cached: where the log withholds writing already, only the note
/// that it may come back goes.
fn narrows<F: Format>(format: F, raw: u64, level: Level) -> bool {
    format.decode(raw, level).permissions.write()
}

/// What was seen of one table of pages: the page where to go on, and the first and last pages of two kinds.
struct Seen {
    page: u64,
    visited: u64,
    changed: Option<(u64, u64)>,
    untouched: Option<(u64, u64)>,
}

impl Seen {
    /// Pages come in order.
    #[inline(always)]
    fn widen(pages: &mut Option<(u64, u64)>, page: u64) {
        *pages = Some((pages.map_or(page, |(first, _)| first), page));
    }
}
