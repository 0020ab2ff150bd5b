//! The flushes that were posted last, readable by every core while others are being written.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};

use slat::addr::{Gpa, GpaRange, Level};
use slat::host::{Flush, Hint};
use slat::sync::{Atomics, Core};

/// How many flushes the ring remembers.
pub(super) const RING: u64 = 256;

/// The last flushes by ticket. Nobody waits for anybody in here.
#[derive(Debug)]
pub(super) struct Ring {
    places: Box<[Place]>,
}

impl Ring {
    pub(super) fn new() -> Self {
        Self { places: (0..RING).map(|_| Place::default()).collect() }
    }

    /// Notes what the flush with this ticket is, unless a later one has its place already.
    pub(super) fn write(&self, ticket: u64, flush: Flush) {
        self.place(ticket).write(ticket, flush);
    }

    /// The flush with this ticket; `None` when it is not there, not yet or not any more.
    pub(super) fn read(&self, ticket: u64) -> Option<Flush> {
        self.place(ticket).read(ticket)
    }

    fn place(&self, ticket: u64) -> &Place {
        &self.places[(ticket % RING) as usize]
    }
}

/// A flush, written and read word by word under a stamp.
///
/// The stamp is `2 * ticket + 1` while the place is being written for that ticket, and one more when it is complete. A
/// place that somebody else is writing, or that a later ticket has, is left to them: nobody waits, and who looks for
/// this ticket finds another stamp.
#[derive(Debug, Default)]
struct Place {
    stamp: AtomicU64,
    kind: AtomicU64,
    start: AtomicU64,
    end: AtomicU64,
}

impl Place {
    fn write(&self, ticket: u64, flush: Flush) {
        let stamp = self.stamp.load(Relaxed);
        let (writing, complete) = (2 * ticket + 1, 2 * ticket + 2);
        let free = stamp.is_multiple_of(2) && stamp < writing;
        // Acquire: the words below are written after the claim.
        if !free || self.stamp.compare_exchange(stamp, writing, AcqRel, Relaxed).is_err() {
            return;
        }
        // Pairs with the acquire fence in `read`: who sees a word of this flush sees the claim.
        std::sync::atomic::fence(Release);
        let (kind, range) = encode(flush);
        self.kind.store(kind, Relaxed);
        self.start.store(range.start().get(), Relaxed);
        self.end.store(range.end().get(), Relaxed);
        // Release: pairs with the acquire of the stamp in `read`.
        self.stamp.store(complete, Release);
    }

    fn read(&self, ticket: u64) -> Option<Flush> {
        let complete = 2 * ticket + 2;
        if self.stamp.load(Acquire) != complete {
            return None;
        }
        let words = (self.kind.load(Relaxed), self.start.load(Relaxed), self.end.load(Relaxed));
        Core::acquire_fence();
        let unchanged = self.stamp.load(Relaxed) == complete;
        unchanged.then(|| decode(words)).flatten()
    }
}

const ALL: u64 = 0;
const TABLES: u64 = 1;
const LEAVES: u64 = 2;
const LEAVES_OF_LEVEL: u64 = 3;

fn encode(flush: Flush) -> (u64, GpaRange) {
    match flush {
        Flush::All => (ALL, GpaRange::default()),
        Flush::Tables { range } => (TABLES, range),
        Flush::Leaves { range, level: Hint::Unknown } => (LEAVES, range),
        Flush::Leaves { range, level: Hint::Level(level) } => (LEAVES_OF_LEVEL + u64::from(level.get()), range),
    }
}

fn decode((kind, start, end): (u64, u64, u64)) -> Option<Flush> {
    let range = GpaRange::new(Gpa::new(start), Gpa::new(end))?;
    Some(match kind {
        ALL => Flush::All,
        TABLES => Flush::Tables { range },
        LEAVES => Flush::Leaves { range, level: Hint::Unknown },
        level => Flush::Leaves { range, level: Hint::Level(Level::new((level - LEAVES_OF_LEVEL) as u8)) },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broadcast::tests::leaves;

    #[test]
    fn a_place_that_is_being_written_reads_as_nothing() {
        let place = Place::default();
        place.write(0, leaves(1));
        assert_eq!(place.read(0), Some(leaves(1)));
        place.stamp.store(2 * RING + 1, Relaxed);
        place.write(2 * RING, leaves(2));
        assert_eq!((place.read(0), place.read(RING), place.read(2 * RING)), (None, None, None));
        place.stamp.store(4 * RING + 2, Relaxed);
        place.write(RING, leaves(3));
        assert_eq!(place.read(RING), None, "a later flush has the place");
    }
}
