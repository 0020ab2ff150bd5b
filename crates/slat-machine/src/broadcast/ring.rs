//! The flushes that were posted last, readable by every core while others are being written.

use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};

use slat::addr::{Gpa, GpaRange, Level};
use slat::host::{Flush, Hint};
use slat::sync::{Atomics, Core, Word};

/// The last flushes by ticket. Nobody waits for anybody in here.
pub(super) struct Ring<A: Atomics> {
    places: Box<[Place<A>]>,
}

impl<A: Atomics> Ring<A> {
    pub(super) fn new(places: usize) -> Self {
        Self { places: (0..places).map(|_| Place::new()).collect() }
    }

    /// How many flushes are remembered.
    pub(super) fn places(&self) -> u64 {
        self.places.len() as u64
    }

    /// Notes what the flush with this ticket is, unless a later one has its place already.
    pub(super) fn write(&self, ticket: u64, flush: Flush) {
        self.place(ticket).write(ticket, flush);
    }

    /// The flush with this ticket; `None` when it is not there, not yet or not any more.
    pub(super) fn read(&self, ticket: u64) -> Option<Flush> {
        self.place(ticket).read(ticket)
    }

    fn place(&self, ticket: u64) -> &Place<A> {
        &self.places[(ticket % self.places()) as usize]
    }
}

/// A flush, written and read word by word under a stamp.
///
/// The stamp is `2 * ticket + 1` while the place is being written for that ticket, and one more when it is complete. A
/// place that somebody else is writing, or that a later ticket has, is left to them: nobody waits, and who looks for
/// this ticket finds another stamp.
struct Place<A: Atomics = Core> {
    stamp: A::Word,
    kind: A::Word,
    start: A::Word,
    end: A::Word,
}

impl<A: Atomics> Place<A> {
    fn new() -> Self {
        let [stamp, kind, start, end] = [0; 4].map(A::Word::new);
        Self { stamp, kind, start, end }
    }

    fn write(&self, ticket: u64, flush: Flush) {
        let stamp = self.stamp.load(Relaxed);
        let (writing, complete) = (2 * ticket + 1, 2 * ticket + 2);
        let free = stamp.is_multiple_of(2) && stamp < writing;
        // Acquire: the words below are written after the claim.
        if !free || self.stamp.compare_exchange(stamp, writing, AcqRel, Relaxed).is_err() {
            return;
        }
        let (kind, range) = encode(flush);
        // Release: pairs with the acquire loads in `read`, so that who sees a word of this flush sees the claim, too.
        self.kind.store(kind, Release);
        self.start.store(range.start().get(), Release);
        self.end.store(range.end().get(), Release);
        // Release: pairs with the acquire of the stamp in `read`, so that who sees this sees the words.
        self.stamp.store(complete, Release);
    }

    fn read(&self, ticket: u64) -> Option<Flush> {
        let complete = 2 * ticket + 2;
        if self.stamp.load(Acquire) != complete {
            return None;
        }
        let words = (self.kind.load(Acquire), self.start.load(Acquire), self.end.load(Acquire));
        // After the words, which acquired the claim of whoever may have overwritten them.
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

    /// What lies between tickets that share a place.
    const TURN: u64 = 256;

    #[test]
    fn a_place_that_is_being_written_reads_as_nothing() {
        let place = <Place>::new();
        place.write(0, leaves(1));
        assert_eq!(place.read(0), Some(leaves(1)));
        place.stamp.store(2 * TURN + 1, Relaxed);
        place.write(2 * TURN, leaves(2));
        assert_eq!((place.read(0), place.read(TURN), place.read(2 * TURN)), (None, None, None));
        place.stamp.store(4 * TURN + 2, Relaxed);
        place.write(TURN, leaves(3));
        assert_eq!(place.read(TURN), None, "a later flush has the place");
    }
}
