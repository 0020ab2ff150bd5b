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
//! it looks anything up), or until C3 says that the flush was applied. F4 ends on a word that was written by a release
//! store, C3's or C5's, or by a later window's C1, which as a read-modify-write carries on the release of the C5 before
//! it; and it reads with acquire. So the access happened before the flush completed.
//!
//! Where cores share the host's processors, a core may lose its processor inside a window. Whoever waits for it says so,
//! and the cores that run give their processors away between two accesses, until the wait is over.
//!
//! A core outside of a window needs no waiting. A core that fell more than a ring behind, or that finds a place of the
//! ring being written, drops everything instead, which a flush always may.

mod ring;

use std::sync::Mutex;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};

use slat::addr::{Gpa, GpaRange};
use slat::host::{Flush, Hint};
use slat::sync::{Atomics, Core, Padded};

use self::ring::{RING, Ring};

/// How many flushes of its own a core may leave waiting before they become one of everything.
const LOCALS: usize = 64;
/// How often a flush looks at an open window before it takes the core for one that has lost its processor.
const PATIENCE: u32 = 100;

/// The ring of posted flushes, and the lines of all cores.
#[derive(Debug)]
pub(crate) struct Broadcast {
    post: Padded<Post>,
    ring: Ring,
    lines: Box<[Padded<Line>]>,
}

/// What every flush writes, in one pair of cache lines.
#[derive(Debug, Default)]
struct Post {
    next: AtomicU64,
    /// How many flushes wait for a window that has been open for long.
    waiting: AtomicU64,
    leaves: AtomicU64,
    tables: AtomicU64,
    all: AtomicU64,
}

/// How many flushes there have been, by kind.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct FlushCounts {
    /// Of leaves in a range.
    pub leaves: u64,
    /// Of a range with its walk caches.
    pub tables: u64,
    /// Of everything.
    pub all: u64,
    /// Of one page on the flushing core alone.
    pub local: u64,
}

impl std::ops::Sub for FlushCounts {
    type Output = Self;

    fn sub(self, earlier: Self) -> Self {
        Self {
            leaves: self.leaves - earlier.leaves,
            tables: self.tables - earlier.tables,
            all: self.all - earlier.all,
            local: self.local - earlier.local,
        }
    }
}

/// A flush on its way: complete when every core has seen more than this ticket or is outside of its window.
#[must_use = "a flush is complete only after it was waited for"]
#[derive(Debug)]
pub struct Pending {
    ticket: u64,
}

impl Broadcast {
    pub(crate) fn new(cores: u32) -> Self {
        Self { post: Padded::default(), ring: Ring::new(), lines: (0..cores).map(|_| Padded::default()).collect() }
    }

    pub(crate) fn cores(&self) -> u32 {
        self.lines.len() as u32
    }

    /// Posts a flush to every core.
    pub(crate) fn post(&self, flush: Flush) -> Pending {
        let counter = match flush {
            Flush::Leaves { .. } => &self.post.leaves,
            Flush::Tables { .. } => &self.post.tables,
            Flush::All => &self.post.all,
        };
        counter.fetch_add(1, Relaxed);
        // F2: releases F1 to the acquire of C3.
        let ticket = self.post.next.fetch_add(1, AcqRel);
        self.ring.write(ticket, flush);
        // F3: pairs with C2.
        Core::full_fence();
        Pending { ticket }
    }

    /// F4: waits until `pending` is complete.
    pub(crate) fn wait(&self, pending: &Pending) {
        for line in &self.lines {
            // Acquire: pairs with the release stores of C3 and C5.
            let is_done = || State::of(line.word.load(Acquire)).has_done(pending.ticket);
            let soon = (0..PATIENCE).any(|_| {
                is_done() || {
                    std::hint::spin_loop();
                    false
                }
            });
            if !soon {
                self.wait_for_long(is_done);
            }
        }
    }

    #[cold]
    fn wait_for_long(&self, is_done: impl Fn() -> bool) {
        self.post.waiting.fetch_add(1, Relaxed);
        while !is_done() {
            std::thread::yield_now();
        }
        self.post.waiting.fetch_sub(1, Relaxed);
    }

    /// Drops, on core `core` alone, what is cached for `page` at `level`. Applied before the core's next access.
    pub(crate) fn post_local(&self, core: u32, page: Gpa, level: Hint) {
        let line = &self.lines[core as usize];
        let mut waiting = line.local.lock().unwrap();
        if waiting.len() == LOCALS {
            waiting.clear();
            waiting.push(Flush::All);
        } else {
            waiting.push(Flush::Leaves { range: GpaRange::around(page, 1), level });
        }
        line.locals.fetch_add(1, Relaxed);
        // Pairs with the acquire in `enter`; between one thread and itself program order does the same.
        line.local_waiting.store(1, Release);
    }

    pub(crate) fn counts(&self) -> FlushCounts {
        let local = self.lines.iter().map(|line| line.locals.load(Relaxed)).sum();
        let Post { leaves, tables, all, .. } = &self.post.0;
        FlushCounts { leaves: leaves.load(Relaxed), tables: tables.load(Relaxed), all: all.load(Relaxed), local }
    }

    /// Claims core `core` for the calling thread, with empty caches; what was posted so far does not concern it.
    pub(crate) fn attach(&self, core: u32) -> Attached<'_> {
        let line = self.lines.get(core as usize);
        let line = line.unwrap_or_else(|| panic!("this machine has {} cores, and no core {core}", self.cores()));
        let taken = line.attached.swap(1, AcqRel);
        assert_eq!(taken, 0, "core {core} is driven by another thread already");
        Attached { broadcast: self, line, seen: self.post.next.load(Acquire) }
    }
}

/// What one core and those who wait for it share.
#[derive(Debug, Default)]
struct Line {
    /// How many tickets the core has seen, and in bit 0 whether its window is open.
    word: AtomicU64,
    attached: AtomicU64,
    local: Mutex<Vec<Flush>>,
    local_waiting: AtomicU64,
    locals: AtomicU64,
}

/// A line's word, taken apart.
#[derive(Clone, Copy)]
struct State {
    open: bool,
    seen: u64,
}

impl State {
    const fn of(word: u64) -> Self {
        Self { open: word & 1 != 0, seen: word >> 1 }
    }

    const fn word(self) -> u64 {
        self.seen << 1 | self.open as u64
    }

    const fn has_done(self, ticket: u64) -> bool {
        !self.open || self.seen > ticket
    }
}

/// A core, driven by the thread that holds this.
#[derive(Debug)]
pub(crate) struct Attached<'m> {
    broadcast: &'m Broadcast,
    line: &'m Line,
    seen: u64,
}

impl Attached<'_> {
    /// C1 to C3: opens a window, handing every flush that the core has not seen to `apply`.
    #[inline]
    pub(crate) fn enter(&mut self, mut apply: impl FnMut(Flush)) {
        // C1 and C2: an exchange instead of a store, since after one a full fence is free on x86.
        self.line.word.swap(State { open: true, seen: self.seen }.word(), Relaxed);
        Core::full_fence_after_rmw();
        if self.line.local_waiting.load(Acquire) != 0 {
            self.apply_local(&mut apply);
        }
        // C3: acquires what F2 released.
        let next = self.broadcast.post.next.load(Acquire);
        if next != self.seen {
            self.apply_posted(next, &mut apply);
            self.seen = next;
            self.line.word.store(State { open: true, seen: next }.word(), Release);
        }
    }

    /// C5: closes the window.
    #[inline]
    pub(crate) fn leave(&mut self) {
        self.line.word.store(State { open: false, seen: self.seen }.word(), Release);
        if self.broadcast.post.waiting.load(Relaxed) != 0 {
            std::thread::yield_now();
        }
    }

    #[cold]
    fn apply_posted(&self, next: u64, apply: &mut impl FnMut(Flush)) {
        if next - self.seen > RING {
            return apply(Flush::All);
        }
        for ticket in self.seen..next {
            match self.broadcast.ring.read(ticket) {
                Some(flush) => apply(flush),
                None => return apply(Flush::All),
            }
        }
    }

    #[cold]
    fn apply_local(&self, apply: &mut impl FnMut(Flush)) {
        let mut waiting = self.line.local.lock().unwrap();
        self.line.local_waiting.store(0, Relaxed);
        waiting.drain(..).for_each(apply);
    }
}

impl Drop for Attached<'_> {
    fn drop(&mut self) {
        self.leave();
        // Pairs with the exchange in `attach`.
        self.line.attached.store(0, Release);
    }
}

#[cfg(test)]
mod tests;
