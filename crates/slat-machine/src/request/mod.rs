//! TLB maintenance by request and acknowledgement, as a hypervisor on x86 does it.
//!
//! No instruction of one CPU reaches the TLB of another. Whoever changed a table takes a *ticket*, and interrupts each
//! core that is in its guest and has not seen it. A core that is out of its guest is left alone: it looks for tickets
//! before it enters. A core that has not seen them all drops everything that it has cached for the guest (INVEPT of a
//! single context has no address to spare anything by) and only then lets the guest touch memory.
//!
//! ```text
//!   the one who flushes                             a core
//!   F1  change the table                            C1  word = seen, inside
//!   F2  next += 1 (the ticket)                      C2  full fence
//!   F3  full fence                                  C3  clear the interrupt; read next; if it is not what was seen:
//!   F4  each word: outside, or has seen the             INVEPT; word = next, inside
//!       ticket: skip; else set its interrupt        C4  accesses, one after the other; before each: interrupted?
//!   F5  wait until each word is outside, or         C5  come out: word = next, outside; begin again with C1, if only
//!       has seen more than the ticket                   the interrupt was the reason
//! ```
//!
//! F3 and C2 are ordered one way or the other. If F3 comes first, C3 reads what F2 wrote, and the core drops what it
//! has cached before C4, whose walks read what F1 wrote. If C2 comes first, F4 reads what C1 wrote or later: the core is
//! inside with too few tickets and is interrupted, or it has come out since, or it has seen the ticket. F5 waits for
//! no engine: a core comes out at its next access or at the end of its stay, whichever is first, and a core that faults
//! has come out before it calls anybody.
//!
//! *The interrupt is not lost.* It is set by a read-modify-write, so that whoever clears it (C3, before it reads next)
//! acquires from everyone who set it, not only from the last, and therefore reads all of their tickets. What is set
//! after the clearing is found before the next access.
//!
//! *Nobody is late.* Words that end F5's wait are stored by C5 with release, or after the C2 of a stay that began when
//! the accesses of the last one were over; F5 reads with acquire. So every access through something stale happened
//! before the flush completed. `model` has loom try it.
//!
//! A machine has one guest, so that every core that is attached counts as one that has loaded its EPTP.

#[cfg(test)]
mod model;

use std::fmt;
use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};

use slat::addr::{Gpa, GpaRange};
use slat::host::{Flush, Hint};
use slat::sync::{Atomics, Core, Padded, Word};

use crate::maintenance::{FlushCounts, Pending, Post, RequestCounts, State};

/// The tickets, and the lines of all cores.
pub(crate) struct Requests<A: Atomics = Core> {
    post: Padded<Post<A>>,
    sent: Padded<Sent<A>>,
    lines: Box<[Padded<Line<A>>]>,
}

/// What flushes count.
struct Sent<A: Atomics> {
    sent: A::Word,
    skipped: A::Word,
}

/// What one core and those who wait for it share.
struct Line<A: Atomics> {
    /// How many tickets the core has seen, and whether it is in its guest ([`State`]).
    word: A::Word,
    /// Not 0: the core is asked to come out of its guest.
    interrupt: A::Word,
    attached: A::Word,
    acknowledged: A::Statistic,
    invalidations: A::Statistic,
    locals: A::Statistic,
    /// What the core drops on its own account before it enters its guest: nothing (0), [`EVERYTHING`], or the page whose
    /// address this is, with [`ONE_PAGE`] set.
    local: A::Word,
}

const ONE_PAGE: u64 = 1 << 0;
const EVERYTHING: u64 = 1 << 1;

impl<A: Atomics> Line<A> {
    fn new() -> Self {
        let [word, interrupt, attached, local] = [0; 4].map(A::Word::new);
        let [acknowledged, invalidations, locals] = [0; 3].map(A::Statistic::new);
        Self { word, interrupt, attached, acknowledged, invalidations, locals, local }
    }
}

impl<A: Atomics> Requests<A> {
    /// For so many cores.
    pub(crate) fn new(cores: u32) -> Self {
        let [sent, skipped] = [0; 2].map(A::Word::new);
        let lines = (0..cores).map(|_| Padded(Line::new())).collect();
        Self { post: Padded(Post::new()), sent: Padded(Sent { sent, skipped }), lines }
    }

    pub(crate) fn cores(&self) -> u32 {
        self.lines.len() as u32
    }

    /// F2 to F4: asks every core that is in its guest to come out.
    pub(crate) fn post(&self, flush: Flush) -> Pending {
        let ticket = self.post.take_ticket(flush);
        // F3: pairs with C2.
        A::full_fence();
        let mut sent = 0;
        for line in &self.lines {
            if !State::of(line.word.load(Acquire)).has_done(ticket) {
                // Release: the ticket, to C3. No store, which would hide the release of another who has just set it.
                line.interrupt.fetch_or(1, Release);
                sent += 1;
            }
        }
        self.sent.sent.fetch_add(sent, Relaxed);
        self.sent.skipped.fetch_add(self.lines.len() as u64 - sent, Relaxed);
        Pending { ticket }
    }

    /// F5: waits until `pending` is complete.
    pub(crate) fn wait(&self, pending: &Pending) {
        for line in &self.lines {
            self.post.wait(&line.word, pending.ticket);
        }
    }

    /// A flush of one page on core `core` alone, which the calling thread drives: it takes effect when the core enters its
    /// guest again. On x86 the fault that led here has dropped the page already (29.4.3.1); on RISC-V it has not.
    pub(crate) fn post_local(&self, core: u32, page: Gpa) {
        let line = &self.lines[core as usize];
        line.locals.fetch_add(1, Relaxed);
        let local = if line.local.load(Relaxed) == 0 { page.get() | ONE_PAGE } else { EVERYTHING };
        line.local.store(local, Relaxed);
    }

    pub(crate) fn counts(&self) -> FlushCounts {
        self.post.counts(self.sum(|line| &line.locals))
    }

    pub(crate) fn requests(&self) -> RequestCounts {
        RequestCounts {
            sent: self.sent.sent.load(Relaxed),
            skipped: self.sent.skipped.load(Relaxed),
            acknowledged: self.sum(|line| &line.acknowledged),
            invalidations: self.sum(|line| &line.invalidations),
        }
    }

    fn sum(&self, counter: impl Fn(&Line<A>) -> &A::Statistic) -> u64 {
        self.lines.iter().map(|line| counter(line).load(Relaxed)).sum()
    }

    /// Claims core `core` for the calling thread, with empty caches; what was asked for so far does not concern it.
    pub(crate) fn attach(&self, core: u32) -> Attached<'_, A> {
        let line = self.lines.get(core as usize);
        let line = line.unwrap_or_else(|| panic!("this machine has {} cores, and no core {core}", self.cores()));
        let taken = line.attached.swap(1, AcqRel);
        assert_eq!(taken, 0, "core {core} is driven by another thread already");
        Attached { requests: self, line, seen: self.post.seen(), inside: false, remains: false }
    }
}

impl<A: Atomics> fmt::Debug for Requests<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Requests")
            .field("cores", &self.cores())
            .field("counts", &self.requests())
            .finish_non_exhaustive()
    }
}

/// A core, driven by the thread that holds this.
pub(crate) struct Attached<'m, A: Atomics = Core> {
    requests: &'m Requests<A>,
    line: &'m Line<A>,
    seen: u64,
    /// What the line's word says.
    inside: bool,
    /// Whether the core stays in its guest from one access to the next.
    remains: bool,
}

impl<A: Atomics> Attached<'_, A> {
    /// Before an access: takes an interrupt that has come, and enters the guest if the core is not in it.
    #[inline]
    pub(crate) fn enter(&mut self, apply: impl FnMut(Flush)) {
        if self.inside {
            // Relaxed: C3 acquires.
            if self.line.interrupt.load(Relaxed) == 0 {
                return;
            }
            self.line.acknowledged.fetch_add(1, Relaxed);
            self.exit();
        }
        self.run(apply);
    }

    /// C1 to C3.
    #[inline]
    fn run(&mut self, mut apply: impl FnMut(Flush)) {
        self.inside = true;
        // C1 and C2: an exchange instead of a store, since after one a full fence is free on x86.
        self.line.word.swap(State { inside: true, seen: self.seen }.word(), Relaxed);
        A::full_fence_after_rmw();
        if self.line.interrupt.load(Relaxed) != 0 {
            // Acquire: pairs with the release of everybody who set it.
            self.line.interrupt.swap(0, Acquire);
        }
        let next = self.requests.post.seen();
        if next != self.seen {
            apply(Flush::All);
            self.line.invalidations.fetch_add(1, Relaxed);
            self.seen = next;
            // Relaxed: what F5 has to acquire from this word came before C2.
            self.line.word.store(State { inside: true, seen: next }.word(), Relaxed);
        }
        // Relaxed: this thread's own word.
        let local = self.line.local.load(Relaxed);
        if local != 0 {
            self.line.local.store(0, Relaxed);
            apply(match local {
                EVERYTHING => Flush::All,
                page => Flush::Leaves { range: GpaRange::around(Gpa::new(page), 1), level: Hint::Unknown },
            });
        }
    }

    /// After an access.
    #[inline]
    pub(crate) fn leave(&mut self) {
        if !self.remains {
            self.exit();
        }
    }

    /// C5.
    #[inline]
    pub(crate) fn exit(&mut self) {
        self.inside = false;
        self.line.word.store(State { inside: false, seen: self.seen }.word(), Release);
        self.requests.post.give_way();
    }

    /// Whether the core stays in its guest between accesses. It comes out now if it does not.
    pub(crate) fn remain(&mut self, remains: bool) {
        self.remains = remains;
        if !remains {
            self.exit();
        }
    }
}

impl<A: Atomics> fmt::Debug for Attached<'_, A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Attached").field("seen", &self.seen).field("inside", &self.inside).finish_non_exhaustive()
    }
}

impl<A: Atomics> Drop for Attached<'_, A> {
    fn drop(&mut self) {
        self.exit();
        // Pairs with the exchange in `attach`.
        self.line.attached.store(0, Release);
    }
}

#[cfg(test)]
mod tests;
