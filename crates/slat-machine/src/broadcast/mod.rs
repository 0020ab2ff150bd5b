//! TLB maintenance that reaches every core, as the interconnect of an arm64 system carries it.
//!
//! A flush is posted once, to a ring that all cores read; it gets a *ticket*, the number of flushes before it. Each
//! core has a *line*, written by its own thread alone, whose word says how many tickets the core has seen and whether
//! it is inside a *window*: the time of one guest access, in which it looks into its TLB, walks, fills, and touches
//! memory. Nobody is interrupted: a core applies what was posted when it next opens a window, and whoever posts waits
//! only for windows that were open before they could have noticed.
//!
//! ```text
//!   the one who flushes                           a core
//!   F1  change the table                          C1  line.word = seen, open
//!   F2  next += 1 (the ticket); fill the ring     C2  full fence
//!   F3  full fence                                C3  read next; apply flushes seen..next; line.word = next, open
//!   F4  wait until each line.word is closed,      C4  look up, else walk and fill; the access itself
//!       or has seen more than the ticket          C5  line.word = next, closed
//! ```
//!
//! F3 and C2 are ordered one way or the other. If F3 comes first, C3 reads what F2 wrote: the core drops what the flush
//! covers, and its walk reads what F1 wrote. If C2 comes first, F4 reads what C1 wrote or later: it waits until C5, when
//! the access that may have used the old entry is over (a stale fill in C4 included: the *next* window drops it before
//! it looks anything up), or until C3 says that the flush was applied. A word that ends F4's wait was either stored by
//! C5, with release, or after the C2 of a window that opened when the access was over; F4 reads it with acquire. So the
//! access happened before the flush completed. `model` has loom try it.
//!
//! Where cores share the host's processors, a core may lose its processor inside a window. Whoever waits for it says so,
//! and the cores that run give their processors away between two accesses, until the wait is over.
//!
//! A core outside of a window needs no waiting. A core that fell more than a ring behind, or that finds a place of the
//! ring being written, drops everything instead, which a flush always may.

#[cfg(test)]
mod model;
mod ring;

use std::fmt;
use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};

use slat::addr::Gpa;
use slat::host::{Flush, Hint};
use slat::sync::{Atomics, Core, Padded, Word};

use self::ring::Ring;
use crate::maintenance::{FlushCounts, Pending, Post, State};

/// How many flushes the machine's ring remembers.
const RING: usize = 256;

/// The ring of posted flushes, and the lines of all cores.
pub(crate) struct Broadcast<A: Atomics = Core> {
    post: Padded<Post<A>>,
    ring: Ring<A>,
    lines: Box<[Padded<Line<A>>]>,
}

impl Broadcast {
    /// For so many cores.
    pub(crate) fn new(cores: u32) -> Self {
        Self::with_ring(cores, RING)
    }
}

impl<A: Atomics> Broadcast<A> {
    fn with_ring(cores: u32, places: usize) -> Self {
        Self {
            post: Padded(Post::new()),
            ring: Ring::new(places),
            lines: (0..cores).map(|_| Padded(Line::new())).collect(),
        }
    }

    pub(crate) fn cores(&self) -> u32 {
        self.lines.len() as u32
    }

    /// Posts a flush to every core.
    pub(crate) fn post(&self, flush: Flush) -> Pending {
        // F2: releases F1 to the acquire of C3.
        let ticket = self.post.take_ticket(flush);
        self.ring.write(ticket, flush);
        // F3: pairs with C2.
        A::full_fence();
        Pending { ticket }
    }

    /// F4: waits until `pending` is complete.
    pub(crate) fn wait(&self, pending: &Pending) {
        for line in &self.lines {
            self.post.wait(&line.word, pending.ticket);
        }
    }

    /// Drops, on core `core` alone, what is cached for `page` at `level`. Applied before the core's next access.
    pub(crate) fn post_local(&self, core: u32, page: Gpa, level: Hint) {
        let line = &self.lines[core as usize];
        line.locals.fetch_add(1, Relaxed);
        // Release: pairs with the acquire in `enter`; between one thread and itself program order does the same.
        if line.local.compare_exchange(0, local::encode(page, level), Release, Relaxed).is_err() {
            line.local.store(local::EVERYTHING, Release);
        }
    }

    pub(crate) fn counts(&self) -> FlushCounts {
        let local = self.lines.iter().map(|line| line.locals.load(Relaxed)).sum();
        self.post.counts(local)
    }

    /// Claims core `core` for the calling thread, with empty caches; what was posted so far does not concern it.
    pub(crate) fn attach(&self, core: u32) -> Attached<'_, A> {
        let line = self.lines.get(core as usize);
        let line = line.unwrap_or_else(|| panic!("this machine has {} cores, and no core {core}", self.cores()));
        let taken = line.attached.swap(1, AcqRel);
        assert_eq!(taken, 0, "core {core} is driven by another thread already");
        Attached { broadcast: self, line, seen: self.post.seen() }
    }
}

impl<A: Atomics> fmt::Debug for Broadcast<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Broadcast")
            .field("cores", &self.cores())
            .field("counts", &self.counts())
            .finish_non_exhaustive()
    }
}

/// What one core and those who wait for it share.
struct Line<A: Atomics> {
    /// How many tickets the core has seen, and in bit 0 whether its window is open.
    word: A::Word,
    attached: A::Word,
    /// The flush that is for this core alone, if one waits (see [`local`]).
    local: A::Word,
    locals: A::Statistic,
}

impl<A: Atomics> Line<A> {
    fn new() -> Self {
        let [word, attached, local] = [0; 3].map(A::Word::new);
        Self { word, attached, local, locals: A::Statistic::new(0) }
    }
}

/// A core, driven by the thread that holds this.
pub(crate) struct Attached<'m, A: Atomics = Core> {
    broadcast: &'m Broadcast<A>,
    line: &'m Line<A>,
    seen: u64,
}

impl<A: Atomics> Attached<'_, A> {
    /// C1 to C3: opens a window, handing every flush that the core has not seen to `apply`.
    #[inline]
    pub(crate) fn enter(&mut self, mut apply: impl FnMut(Flush)) {
        // C1 and C2: an exchange instead of a store, since after one a full fence is free on x86.
        self.line.word.swap(State { inside: true, seen: self.seen }.word(), Relaxed);
        A::full_fence_after_rmw();
        if self.line.local.load(Relaxed) != 0 {
            // Acquire: pairs with the release in `post_local`.
            apply(local::decode(self.line.local.swap(0, Acquire)));
        }
        // C3: acquires what F2 released.
        let next = self.broadcast.post.seen();
        if next != self.seen {
            self.apply_posted(next, &mut apply);
            self.seen = next;
            // Relaxed: what F4 has to acquire from this word came before C2.
            self.line.word.store(State { inside: true, seen: next }.word(), Relaxed);
        }
    }

    /// C5: closes the window.
    #[inline]
    pub(crate) fn leave(&mut self) {
        self.line.word.store(State { inside: false, seen: self.seen }.word(), Release);
        self.broadcast.post.give_way();
    }

    #[cold]
    fn apply_posted(&self, next: u64, apply: &mut impl FnMut(Flush)) {
        if next - self.seen > self.broadcast.ring.places() {
            return apply(Flush::All);
        }
        for ticket in self.seen..next {
            match self.broadcast.ring.read(ticket) {
                Some(flush) => apply(flush),
                None => return apply(Flush::All),
            }
        }
    }
}

impl<A: Atomics> fmt::Debug for Attached<'_, A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Attached").field("seen", &self.seen).finish_non_exhaustive()
    }
}

impl<A: Atomics> Drop for Attached<'_, A> {
    fn drop(&mut self) {
        self.leave();
        // Pairs with the exchange in `attach`.
        self.line.attached.store(0, Release);
    }
}

/// A flush of one page on one core, in one word: the page's address, and below it the level hint, which is never 0. A
/// second one that comes before the first was applied makes it a flush of everything.
mod local {
    use slat::addr::{Gpa, GpaRange, Level};
    use slat::host::{Flush, Hint};

    pub(super) const EVERYTHING: u64 = u64::MAX;
    const HINT: u64 = 0xfff;
    const UNKNOWN: u64 = 1;
    const LEVELS: u64 = 2;

    pub(super) fn encode(page: Gpa, hint: Hint) -> u64 {
        let hint = match hint {
            Hint::Unknown => UNKNOWN,
            Hint::Level(level) => LEVELS + u64::from(level.get()),
        };
        page.get() & !HINT | hint
    }

    pub(super) fn decode(word: u64) -> Flush {
        let level = match word & HINT {
            _ if word == EVERYTHING => return Flush::All,
            UNKNOWN => Hint::Unknown,
            level => Hint::Level(Level::new((level - LEVELS) as u8)),
        };
        Flush::Leaves { range: GpaRange::around(Gpa::new(word & !HINT), 1), level }
    }
}

#[cfg(test)]
mod tests;
