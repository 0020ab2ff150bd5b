//! What every flush writes, and what every core says of itself.

use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed};

use slat::host::Flush;
use slat::sync::{Atomics, Word};

use super::FlushCounts;

/// How often a flush looks at a core that is inside before it takes the core for one that has lost its processor.
const PATIENCE: u32 = 100;

/// What every flush writes, in one pair of cache lines.
pub(crate) struct Post<A: Atomics> {
    next: A::Word,
    /// How many flushes wait for a core that has been inside for long.
    waiting: A::Word,
    leaves: A::Word,
    tables: A::Word,
    all: A::Word,
}

impl<A: Atomics> Post<A> {
    pub(crate) fn new() -> Self {
        let [next, waiting, leaves, tables, all] = [0; 5].map(A::Word::new);
        Self { next, waiting, leaves, tables, all }
    }

    /// Counts a flush; its ticket. Releases the caller's changes to the acquire of [`seen`](Self::seen).
    pub(crate) fn take_ticket(&self, flush: Flush) -> u64 {
        let counter = match flush {
            Flush::Leaves { .. } => &self.leaves,
            Flush::Tables { .. } => &self.tables,
            Flush::All => &self.all,
        };
        counter.fetch_add(1, Relaxed);
        self.next.fetch_add(1, AcqRel)
    }

    /// How many tickets there are to be seen. Acquires what their takers changed before.
    #[inline]
    pub(crate) fn seen(&self) -> u64 {
        self.next.load(Acquire)
    }

    /// Waits until the core with this word is out of its guest, or has seen the ticket.
    pub(crate) fn wait(&self, word: &A::Word, ticket: u64) {
        // Acquire: pairs with the release of a core that comes out, after its last access.
        let is_done = || State::of(word.load(Acquire)).has_done(ticket);
        let mut left = PATIENCE;
        while left > 0 && !is_done() {
            A::spin_hint();
            left -= 1;
        }
        if left == 0 {
            self.wait_for_long(is_done);
        }
    }

    #[cold]
    fn wait_for_long(&self, is_done: impl Fn() -> bool) {
        self.waiting.fetch_add(1, Relaxed);
        while !is_done() {
            A::spin_hint();
            std::thread::yield_now();
        }
        self.waiting.fetch_sub(1, Relaxed);
    }

    /// Called by a core that is out of its guest: gives its processor away if somebody may be waiting for another core.
    #[inline]
    pub(crate) fn give_way(&self) {
        if self.waiting.load(Relaxed) != 0 {
            std::thread::yield_now();
        }
    }

    pub(crate) fn counts(&self, local: u64) -> FlushCounts {
        let Self { leaves, tables, all, .. } = self;
        FlushCounts { leaves: leaves.load(Relaxed), tables: tables.load(Relaxed), all: all.load(Relaxed), local }
    }
}

/// A core's word, taken apart.
#[derive(Clone, Copy)]
pub(crate) struct State {
    /// In the guest: the core may look into its TLB, walk, fill, and touch memory.
    pub(crate) inside: bool,
    /// How many tickets the core has seen.
    pub(crate) seen: u64,
}

impl State {
    pub(crate) const fn of(word: u64) -> Self {
        Self { inside: word & 1 != 0, seen: word >> 1 }
    }

    pub(crate) const fn word(self) -> u64 {
        self.seen << 1 | self.inside as u64
    }

    pub(crate) const fn has_done(self, ticket: u64) -> bool {
        !self.inside || self.seen > ticket
    }
}
