//! Splitting ahead of faults: many leaves behind one flush.

use super::Visit;
use crate::addr::{Gpa, GpaRange, Hpa, Level};
use crate::format::{Format, Kind};
use crate::host::Host;
use crate::table::{Broken, Cache, Position};
use crate::tlb::Gather;

/// Leaves that are split behind one flush, and so are locked together.
const BATCH: usize = 32;

/// What one batch came to.
pub(crate) struct Ahead {
    /// Where the next one goes on; `None` when nothing is left to do.
    pub(crate) next: Option<Gpa>,
    /// Entries visited, those of new tables included.
    pub(crate) visited: u64,
    /// Leaves split.
    pub(crate) split: u64,
    /// Tables that are of use now, if it stopped for want of one.
    pub(crate) shortage: Option<usize>,
}

impl<'s, H: Host, F: Format> Visit<'s, H, F> {
    /// Splits leaves above `largest` that map some of `range`, by one level each and as many as fit behind one flush;
    /// stops when it has visited `budget` entries. The caller owns nothing that is locked.
    pub(crate) fn split_ahead(self, range: GpaRange, largest: Level, cache: &mut Cache, budget: u64) -> Ahead {
        let mut batch = Batch::new(self.space.gather());
        let (mut at, mut visited, mut shortage) = (range.start(), 0, None);
        while at < range.end() && visited < budget && !batch.is_full() {
            let Some(position) = self.walk(at, largest) else { break };
            visited += 1;
            let level = position.level;
            let span = self.span(at, level);
            at = match self.space.format.kind(position.raw, level) {
                // Nothing larger lies below the table that leads here.
                _ if level == largest => largest.above().map_or(span, |above| self.span(at, above)).end(),
                Kind::Empty => span.end(),
                Kind::Frozen | Kind::Table => at,
                Kind::Locked => {
                    self.wait_unlocked(position);
                    at
                }
                Kind::Leaf if self.space.format.is_grouped(position.raw, level) => {
                    // A member that is locked, or none any more, is what the next look finds.
                    let _ = self.dissolve(position, at);
                    at
                }
                Kind::Leaf if batch.add(self, position, span.start(), cache) => {
                    visited += self.space.geometry().entries() as u64;
                    span.end()
                }
                Kind::Leaf => {
                    shortage = Some(self.leaves_above(range.from(at), largest).min(BATCH));
                    break;
                }
            };
        }
        let Closed { split, again } = batch.close(self, largest, cache);
        let next = again.map_or(at, |again| again.max(range.start()));
        Ahead { next: Some(next).filter(|next| *next < range.end()), visited, split, shortage }
    }

    /// How many of the smallest leaves above `largest` cover `range`.
    fn leaves_above(self, range: GpaRange, largest: Level) -> usize {
        let size = largest.above().map_or(u64::MAX, |above| self.space.geometry().size(above));
        range.len().div_ceil(size) as usize
    }
}

/// A leaf, and the table that is to take its place: filled, and linked nowhere yet.
struct Part<'s, H: Host> {
    position: Position<'s, H>,
    start: Gpa,
    table: Hpa,
    linked: u64,
    broken: Option<Broken<'s, H::Atomics>>,
}

/// Leaves that are split behind one flush. Nothing is locked before [`close`](Self::close).
struct Batch<'s, H: Host> {
    gather: Gather,
    parts: [Option<Part<'s, H>>; BATCH],
    count: usize,
}

struct Closed {
    split: u64,
    /// The first address where something is left to split.
    again: Option<Gpa>,
}

impl<'s, H: Host> Batch<'s, H> {
    fn new(gather: Gather) -> Self {
        Self { gather, parts: [const { None }; BATCH], count: 0 }
    }

    fn is_full(&self) -> bool {
        self.count == BATCH
    }

    /// Fills a table for the leaf at `position`, whose first address is `start`; false if the cache holds none.
    fn add<F: Format>(
        &mut self,
        visit: Visit<'s, H, F>,
        position: Position<'s, H>,
        start: Gpa,
        cache: &mut Cache,
    ) -> bool {
        let Some(table) = cache.pop() else { return false };
        match visit.child_of(position, table) {
            Some(linked) => {
                self.parts[self.count] = Some(Part { position, start, table, linked, broken: None });
                self.count += 1;
            }
            None => drop(cache.push(table)),
        }
        true
    }

    /// Breaks all of them, flushes once, and links the tables.
    ///
    /// What is locked stays so for nothing but the flush: the tables are filled before, and an entry that changed
    /// meanwhile, by hardware, a protection or another owner, is left to the next batch.
    fn close<F: Format>(mut self, visit: Visit<'s, H, F>, largest: Level, cache: &mut Cache) -> Closed {
        let mut closed = Closed { split: 0, again: None };
        for part in self.parts.iter_mut().map_while(Option::as_mut) {
            part.broken = visit.take_for(part.position, part.linked, part.start, &mut self.gather);
            if part.broken.is_none() {
                visit.take_back(part.table, cache);
            }
            let is_left = part.broken.is_none() || part.position.level.below() > Some(largest);
            closed.again = closed.again.or(is_left.then_some(part.start));
        }
        let flushed = self.gather.close(&visit.space.host, visit.tally);
        for part in self.parts.iter_mut().map_while(Option::as_mut) {
            if let Some(broken) = part.broken.take() {
                broken.make(&flushed, part.linked);
                visit.count_split(part.position.level);
                closed.split += 1;
            }
        }
        closed
    }
}
