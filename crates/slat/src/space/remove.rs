//! Removing what a range maps: leaves entry by entry, tables cut off at the top. What is left behind is nothing, or an
//! annotation.

use super::dirty::Moved;
use super::{Divide, Reached, Split, Visit};
use crate::addr::{Gpa, GpaRange, Level};
use crate::format::{Format, Kind};
use crate::host::Host;
use crate::reclaim::Subtree;
use crate::sync::Atomics;
use crate::table::{Cache, Entry, Members, Position, Singles, TableRef};
use crate::tlb::Gather;

/// Runs of locked leaves that one removal can hold.
const RUNS: usize = 16;
/// Cut tables that one removal can hold.
pub(crate) const CUTS: usize = 16;

/// Entries locked by one removal, from the first locking to the flush: they stay locked until nothing of them is cached.
#[must_use = "a removal has to be closed"]
pub(crate) struct Removal<'s, H: Host> {
    gather: Gather,
    runs: [Option<Run<'s, H>>; RUNS],
    cuts: [Option<Cut<'s, H>>; CUTS],
    /// What is left of the groups at the range's two ends.
    rests: [Option<Singles<'s, H>>; 2],
    /// How many more tables may be cut: the room in the handle's limbo.
    may_cut: usize,
    /// The word of the entries afterwards: 0 or an annotation, which empty entries get as well.
    left: u64,
    /// Whether dirty state has to become marks: hardware notes it, and a log wants it. If so no more is cut than one
    /// closing can scan.
    moves_dirty: bool,
    moved: Moved,
    /// Entries removed or annotated.
    pub(crate) changed: u64,
    /// Whether a block was removed whole although only a part of it was meant.
    pub(crate) widened: bool,
    /// Tables without which an annotation goes no further.
    pub(crate) shortage: Option<usize>,
}

/// Neighbouring leaves of one table.
struct Run<'s, H: Host> {
    table: TableRef<'s, H>,
    first: usize,
    count: usize,
    /// The guest address after the last one.
    end: Gpa,
}

struct Cut<'s, H: Host> {
    position: Position<'s, H>,
    /// The first guest address below.
    start: Gpa,
    subtree: Subtree,
}

/// What one look at an entry came to.
enum Next {
    /// Go on at this address.
    At(Gpa),
    /// Nothing more can be held, or a table is missing: close, and go on with a new removal.
    Full,
}

impl<'s, H: Host> Removal<'s, H> {
    pub(crate) fn new(gather: Gather, may_cut: usize, left: u64, moves_dirty: bool) -> Self {
        let (runs, cuts, rests) = ([const { None }; RUNS], [const { None }; CUTS], [None, None]);
        let moved = Moved::new();
        Self {
            gather,
            runs,
            cuts,
            rests,
            may_cut,
            left,
            moves_dirty,
            moved,
            changed: 0,
            widened: false,
            shortage: None,
        }
    }

    /// Locks what `range` maps, visiting at most `budget` entries (and at least one), or until no more can be held.
    ///
    /// `cache` is for blocks that the range covers in part: they are split if it holds a table, else removed whole, but
    /// for an annotation, which stops there and says so.
    pub(crate) fn run<F: Format>(
        &mut self,
        visit: Visit<'s, H, F>,
        range: GpaRange,
        cache: &mut Cache,
        budget: u64,
    ) -> Reached {
        let mut at = range.start();
        let mut visited = 0;
        while at < range.end() {
            if visited >= budget {
                return Reached { next: Some(at), visited };
            }
            let Some(position) = self.walk(visit, range, at) else {
                return Reached { next: None, visited };
            };
            if position.level == Level::PAGE {
                let (next, entries) = self.pages(visit, position, range, at, budget - visited);
                visited += entries;
                at = next;
                if entries > 0 {
                    continue;
                }
            }
            visited += 1;
            match self.entry(visit, position, range, at, cache) {
                Next::At(next) => at = next,
                Next::Full => return Reached { next: Some(at), visited },
            }
        }
        Reached { next: None, visited }
    }

    /// Flushes what was locked, calls `mark` with the pages that were dirty, empties the entries, and hands the cut tables
    /// to `retire`.
    pub(crate) fn close<F: Format>(
        &mut self,
        visit: Visit<'s, H, F>,
        mut mark: impl FnMut(u64),
        mut retire: impl FnMut(Subtree),
    ) {
        let flushed = self.gather.close(&visit.space.host, visit.tally);
        // After the flush, before anything is cleared: whoever takes marks either finds these, or meets a locked entry.
        self.moved.release(&mut mark);
        for run in self.runs.iter_mut().filter_map(Option::take) {
            run.table.leading(run.first, run.count, |entry| {
                entry.emptied(&flushed, self.left);
                true
            });
        }
        for rest in self.rests.iter_mut().filter_map(Option::take) {
            rest.make(&flushed, visit.space.format);
        }
        for cut in self.cuts.iter_mut().filter_map(Option::take) {
            if self.moves_dirty {
                scan(visit, &cut, &mut mark);
            }
            cut.position.entry().emptied(&flushed, self.left);
            visit.tally.retired_subtree();
            retire(cut.subtree);
        }
    }

    fn holds_nothing(&self) -> bool {
        self.runs[0].is_none() && self.cuts[0].is_none()
    }

    /// Down to the first entry that is no table, or a table that the range covers and that may be cut. Every table above
    /// an annotation is noted as such before the annotation is stored, from the root down: who would cut one of them
    /// either has done so, and is met here, or finds the note (R7).
    fn walk<F: Format>(&self, visit: Visit<'s, H, F>, range: GpaRange, at: Gpa) -> Option<Position<'s, H>> {
        let mut position = visit.at_root(at)?;
        while visit.space.format.kind(position.raw, position.level) == Kind::Table
            && !self.cuts_off(visit, position, range, at)
        {
            let noted = self.left == 0 || visit.keep(position);
            position = if noted { visit.below(position, at) } else { visit.at_root(at)? };
        }
        Some(position)
    }

    /// Whether a table goes as a whole: never one with annotations below, unless for another annotation.
    fn cuts_off<F: Format>(&self, visit: Visit<'s, H, F>, position: Position<'s, H>, range: GpaRange, at: Gpa) -> bool {
        let may_go = self.left != 0 || !visit.space.format.is_kept(position.raw);
        let may_go = may_go && (!self.moves_dirty || position.level == Level::new(1));
        self.may_cut > 0 && may_go && range.covers(visit.span(at, position.level))
    }

    /// Locks leaves of one table of pages, from `at` on, as long as they are leaves or empty and a run holds them; the
    /// address where to go on, and how many entries were visited: none if the first one needs more thought.
    #[inline]
    fn pages<F: Format>(
        &mut self,
        visit: Visit<'s, H, F>,
        position: Position<'s, H>,
        range: GpaRange,
        at: Gpa,
        budget: u64,
    ) -> (Gpa, u64) {
        let format = visit.space.format;
        let geometry = visit.space.geometry();
        let left = (range.end().get() - at.get()) >> geometry.page_shift();
        let most = left.min((geometry.entries() - position.index) as u64).min(budget) as usize;
        let address = |entries: usize| Gpa::new(at.get() + ((entries as u64) << geometry.page_shift()));
        let left_behind = self.left;
        let (mut visited, mut locked) = (0, 0);
        while visited < most {
            let index = position.index + visited;
            let changed = &mut self.changed;
            let pass = |entry: Entry<'s, H::Atomics>| {
                let raw = entry.load();
                format.kind(raw, Level::PAGE) == Kind::Empty && annotate(entry, raw, left_behind, changed)
            };
            visited += position.table.leading(index, most - visited, pass);
            let start = address(visited);
            let here = Position { index: position.index + visited, ..position };
            let Some(place) = self.run_for(here, start) else { break };
            let leaves = match self.moves_dirty {
                true => self.lock_dirty(visit, here, most - visited, start),
                false => here.table.leading(here.index, most - visited, |entry| {
                    let raw = entry.load();
                    let is_one = format.kind(raw, Level::PAGE) == Kind::Leaf && !format.is_grouped(raw, Level::PAGE);
                    is_one && entry.change(raw, F::LOCKED).is_ok()
                }),
            };
            if leaves == 0 {
                break;
            }
            visited += leaves;
            locked += leaves as u64;
            self.hold(place, here, leaves, address(visited));
            if let Some(span) = GpaRange::new(start, address(visited)) {
                self.gather.leaf(span, Level::PAGE);
            }
        }
        visit.tally.unmapped(Level::PAGE, locked);
        self.changed += locked;
        (address(visited), visited as u64)
    }

    /// Locks leaves of one table from `first` on, which maps `start`, and holds those that are dirty, as far as there is
    /// room; how many.
    fn lock_dirty<F: Format>(
        &mut self,
        visit: Visit<'s, H, F>,
        first: Position<'s, H>,
        most: usize,
        start: Gpa,
    ) -> usize {
        let format = visit.space.format;
        let mut page = start.get() >> visit.space.geometry().page_shift();
        first.table.leading(first.index, most, |entry| {
            let raw = entry.load();
            let is_leaf = format.kind(raw, Level::PAGE) == Kind::Leaf && !format.is_grouped(raw, Level::PAGE);
            // Held before it is locked: a page too many does no harm.
            let held = is_leaf && (!format.is_dirty(raw, Level::PAGE) || self.moved.hold(page));
            page += 1;
            held && entry.change(raw, F::LOCKED).is_ok()
        })
    }

    /// Adds leaves that were locked, from `first` on and up to the address `end`, to the run at `place`.
    fn hold(&mut self, place: usize, first: Position<'s, H>, count: usize, end: Gpa) {
        match &mut self.runs[place] {
            Some(run) => (run.count, run.end) = (run.count + count, end),
            free => *free = Some(Run { table: first.table, first: first.index, count, end }),
        }
    }

    fn entry<F: Format>(
        &mut self,
        visit: Visit<'s, H, F>,
        position: Position<'s, H>,
        range: GpaRange,
        at: Gpa,
        cache: &mut Cache,
    ) -> Next {
        let span = visit.span(at, position.level);
        match visit.space.format.kind(position.raw, position.level) {
            Kind::Empty => self.empty(visit, position, range, at, cache),
            Kind::Frozen => Next::At(at),
            Kind::Locked => self.wait_at(visit, position, at),
            Kind::Table => self.cut(visit, position, span, at),
            Kind::Leaf if visit.space.format.is_grouped(position.raw, position.level) => {
                self.group(visit, position, range, at)
            }
            Kind::Leaf if range.covers(span) => self.leaf(visit, position, span, at),
            // Ranges are whole pages, so a page is covered or not met at all.
            Kind::Leaf if position.level == Level::PAGE => Next::At(span.end()),
            // Nothing but this gather's removals happens while it holds entries (R1): close before the split.
            Kind::Leaf if cache.len() > 0 && !self.holds_nothing() => Next::Full,
            Kind::Leaf => match visit.split(position, at, cache) {
                Split::Done | Split::Lost => Next::At(at),
                Split::NoTable if self.left != 0 => self.short(position.level),
                Split::NoTable => {
                    self.widened = true;
                    self.leaf(visit, position, span, at)
                }
            },
        }
    }

    /// Nothing is cached of an empty entry: what it says is changed at once.
    fn empty<F: Format>(
        &mut self,
        visit: Visit<'s, H, F>,
        position: Position<'s, H>,
        range: GpaRange,
        at: Gpa,
        cache: &mut Cache,
    ) -> Next {
        let span = visit.span(at, position.level);
        if self.left == 0 || position.raw == self.left {
            return Next::At(span.end());
        }
        if range.covers(span) {
            let annotated = annotate(position.entry(), position.raw, self.left, &mut self.changed);
            return Next::At(if annotated { span.end() } else { at });
        }
        if !self.holds_nothing() {
            return Next::Full;
        }
        match visit.divide(position, cache) {
            Divide::Done | Divide::Lost => Next::At(at),
            Divide::NoTable => self.short(position.level),
        }
    }

    fn short(&mut self, level: Level) -> Next {
        self.shortage = Some(level.get().into());
        Next::Full
    }

    fn leaf<F: Format>(&mut self, visit: Visit<'s, H, F>, position: Position<'s, H>, span: GpaRange, at: Gpa) -> Next {
        let Some(place) = self.run_for(position, span.start()) else { return Next::Full };
        // Under a log no block becomes writable, and none is dirty.
        let is_dirty =
            self.moves_dirty && position.level == Level::PAGE && visit.space.format.is_dirty(position.raw, Level::PAGE);
        if is_dirty && !self.moved.hold(at.get() >> visit.space.geometry().page_shift()) {
            return Next::Full;
        }
        if position.entry().change(position.raw, F::LOCKED).is_err() {
            return Next::At(at);
        }
        self.hold(place, position, 1, span.end());
        self.gather.leaf(span, position.level);
        visit.tally.unmapped(position.level, 1);
        self.changed += 1;
        Next::At(span.end())
    }

    /// Locks a group as one leaf: what the range covers of it is removed, the rest is made leaves of their own behind the
    /// same flush. Only a block that is covered in part has to be met by itself.
    fn group<F: Format>(
        &mut self,
        visit: Visit<'s, H, F>,
        position: Position<'s, H>,
        range: GpaRange,
        at: Gpa,
    ) -> Next {
        let format = visit.space.format;
        let (level, size) = (position.level, format.geometry().size(position.level));
        let span = visit.group_span(at, level);
        let Some(covered) = range.intersection(span) else { return Next::At(at) };
        if !covered.is_aligned(size) {
            return self.dissolve(visit, position, at);
        }
        let member = |gpa: Gpa| ((gpa.get() - span.start().get()) / size) as usize;
        let removed = member(covered.start())..member(covered.end());
        let members = Members::around(position, format);
        let first = Position { index: members.first + removed.start, ..position };
        let place = self.run_for(first, covered.start());
        let rest = self.rests.iter().position(Option::is_none);
        let (Some(place), Some(rest)) = (place, rest) else { return Next::Full };
        let first_page = covered.start().get() >> format.geometry().page_shift();
        if self.moves_dirty && !self.moved.has_room(first_page) {
            return Next::Full;
        }
        let broken = match members.break_valid(format) {
            Ok(broken) => broken,
            Err(met) => return self.wait_at(visit, members.at(met), at),
        };
        // Under a log no group of blocks is dirty.
        if self.moves_dirty && level == Level::PAGE && broken.is_dirty(format) {
            removed.clone().zip(first_page..).for_each(|(_, page)| _ = self.moved.hold(page));
        }
        if covered != span {
            self.rests[rest] = Some(broken.except(format, removed.clone()));
        } else {
            broken.removed();
        }
        self.hold(place, first, removed.len(), covered.end());
        self.gather.leaf(span, level);
        visit.tally.unmapped(level, removed.len() as u64);
        self.changed += removed.len() as u64;
        Next::At(covered.end())
    }

    fn dissolve<F: Format>(&mut self, visit: Visit<'s, H, F>, position: Position<'s, H>, at: Gpa) -> Next {
        // Nothing but this gather's removals happens while it holds entries (R1).
        if !self.holds_nothing() {
            return Next::Full;
        }
        match visit.dissolve(position, at) {
            Ok(()) => Next::At(at),
            Err(met) => self.wait_at(visit, met, at),
        }
    }

    /// Goes on at `at` once `met` is not locked any more. An operation waits at a locked entry only with its own gather
    /// closed (R4).
    fn wait_at<F: Format>(&mut self, visit: Visit<'s, H, F>, met: Position<'s, H>, at: Gpa) -> Next {
        if !self.holds_nothing() {
            return Next::Full;
        }
        visit.wait_unlocked(met);
        Next::At(at)
    }

    /// The run that a leaf at `start` extends, or a free place for a new one.
    fn run_for(&self, position: Position<'s, H>, start: Gpa) -> Option<usize> {
        let free = self.runs.iter().position(Option::is_none);
        let last = free.unwrap_or(RUNS).checked_sub(1);
        // The same table, not only the same addresses: another thread may have cut the table off meanwhile, and a fault
        // have linked a new one in its place.
        let extends = |run: &Run<'s, H>| {
            run.table.is(position.table) && run.end == start && run.first + run.count == position.index
        };
        match last {
            Some(last) if self.runs[last].as_ref().is_some_and(extends) => Some(last),
            _ => free,
        }
    }

    fn cut<F: Format>(&mut self, visit: Visit<'s, H, F>, position: Position<'s, H>, span: GpaRange, at: Gpa) -> Next {
        let Some(free) = self.cuts.iter().position(Option::is_none) else { return Next::Full };
        if position.entry().change(position.raw, F::LOCKED).is_err() {
            return Next::At(at);
        }
        let format = visit.space.format;
        let table = format.table_address(position.raw, position.level);
        let subtree = Subtree::new(format, table, position.level.below().unwrap_or(Level::PAGE));
        self.cuts[free] = Some(Cut { position, start: span.start(), subtree });
        self.may_cut -= 1;
        self.gather.table(span);
        self.changed += 1;
        Next::At(span.end())
    }
}

/// Calls `mark` with the dirty pages of a table that was cut off and flushed: hardware does not reach it any more, and what
/// software makes writable in it, it marks itself. Pages that somebody else has locked are waited for: their owner marks
/// them before it lets go. The caller owns nothing locked any more but entries above pages, for which no scan waits.
fn scan<H: Host, F: Format>(visit: Visit<'_, H, F>, cut: &Cut<'_, H>, mark: &mut impl FnMut(u64)) {
    let geometry = visit.space.geometry();
    let first = visit.below(cut.position, cut.start);
    let page = cut.start.get() >> geometry.page_shift();
    let group = 1 << visit.space.format.group_bits(Level::PAGE);
    for index in 0..geometry.entries() {
        let position = Position { index, ..first };
        // One look: an entry that is locked at the next one was dirty at this one.
        let raw = visit.wait_unlocked(position);
        if visit.space.format.is_dirty(raw, Level::PAGE) {
            let members = if visit.space.format.is_grouped(raw, Level::PAGE) { group } else { 1 };
            let index = index & !(members - 1);
            (index..index + members).for_each(|index| mark(page + index as u64));
        }
    }
}

/// Gives an entry that was seen empty its annotation, if it has to have one and has another; false if it has changed.
#[inline(always)]
fn annotate<A: Atomics>(entry: Entry<'_, A>, raw: u64, annotation: u64, changed: &mut u64) -> bool {
    if annotation == 0 || raw == annotation {
        return true;
    }
    let done = entry.change(raw, annotation).is_ok();
    *changed += u64::from(done);
    done
}

impl<H: Host> Drop for Removal<'_, H> {
    fn drop(&mut self) {
        debug_assert!(self.holds_nothing(), "a removal was dropped with its entries locked");
    }
}
