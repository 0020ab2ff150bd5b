//! Invalidations, counted per shard of guest physical address space (R4).
//!
//! A fault reads its shard's word before it looks anything up, and again once it owns its entry. What changed in between
//! may have made its answer stale, if it concerned the same addresses: each shard remembers its last events, so that a
//! busy neighbour makes nobody retry.

use alloc::vec::Vec;

use crate::addr::GpaRange;
use crate::format::{Format, Geometry};
use crate::reclaim::{Folded, OutOfMemory, vec_for, vec_with};
use crate::sync::{Atomics, Ordering, Padded, Word};

/// Bits of a shard's word that count open invalidations; the sequence lies above.
const OPEN_BITS: u32 = 16;
const OPEN_MASK: u64 = (1 << OPEN_BITS) - 1;
const EVENT: u64 = 1 << OPEN_BITS;

/// Open invalidations whose ranges a shard can list.
const LISTED: usize = 4;

/// All shards of a VM.
pub(crate) struct Shards<A: Atomics> {
    /// The sequence of events (48 high bits) and how many invalidations are open (16), by shard: the only word a fault
    /// reads.
    words: Folded<Padded<A::Word>>,
    shards: Vec<Shard<A>>,
    mask: usize,
    shift: u32,
    geometry: Geometry,
}

struct Shard<A: Atomics> {
    /// Gathers that have protected something here and have not flushed it yet (R8). Faults never read it.
    unflushed: Padded<A::Word>,
    memory: Padded<Memory<A>>,
}

/// Which ranges the last events, and the open invalidations, concerned.
struct Memory<A: Atomics> {
    /// Ranges of open invalidations; 0 for a free place. Taken before the word counts the invalidation, freed after
    /// the word stops counting it.
    open: [A::Word; LISTED],
    /// Open invalidations that found no free place.
    unlisted: A::Word,
    /// The event with number `n` lies at `n` modulo the length, if it is still there.
    events: Vec<Event<A>>,
}

struct Event<A: Atomics> {
    /// The event's number, shifted up by one; bit 0 while it is being written.
    stamp: A::Word,
    range: A::Word,
}

/// What a fault saw of its shard before it looked anything up.
pub(crate) struct Ticket {
    shard: usize,
    word: u64,
    /// The ranges of the invalidations that were open; 0 where there was none.
    open: [u64; LISTED],
}

/// Too many invalidations are open in one shard (65,535).
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct TooManyOpen;

impl<A: Atomics> Shards<A> {
    pub(crate) fn new<F: Format>(geometry: Geometry) -> Result<Self, OutOfMemory> {
        const { assert!(F::SHARDS.is_power_of_two() && F::SHARDS <= 64, "a format folds regions into 1 to 64 shards") };
        const { assert!(F::REMEMBERED.is_power_of_two(), "the events remembered are a power of two") };
        let mut shards = vec_for(F::SHARDS)?;
        for _ in 0..F::SHARDS {
            shards.push(Shard::new(F::REMEMBERED)?);
        }
        let words = Folded::new(F::SHARDS, || Padded(A::Word::new(0)))?;
        Ok(Self { words, mask: shards.len() - 1, shift: geometry.shard_shift(), shards, geometry })
    }

    #[inline(always)]
    fn index(&self, gpa: u64) -> usize {
        (gpa >> self.shift) as usize & self.mask
    }

    /// Each shard that `range` touches, once, with the part of the range that it stands for, packed.
    fn over(&self, range: GpaRange) -> impl Iterator<Item = (usize, u64)> + use<A> {
        let (geometry, mask) = (self.geometry, self.mask);
        let shift = geometry.shard_shift();
        let count = self.shards.len() as u64;
        let (first, last) = (range.start().get() >> shift, range.end().get().saturating_sub(1) >> shift);
        // More regions than shards: each shard stands for several of them.
        let is_wide = last.wrapping_sub(first) >= count;
        let last = if range.is_empty() { None } else { Some(last.min(first + count - 1)) };
        last.into_iter().flat_map(move |last| first..=last).map(move |region| {
            let part = GpaRange::around(crate::addr::Gpa::new(region << shift), 1 << shift).intersection(range);
            let packed = part.filter(|_| !is_wide).map_or(pack::WHOLE, |part| pack::range(part, geometry));
            (region as usize & mask, packed)
        })
    }

    /// What a fault at `gpa` has to note before it looks up anything that an invalidation may change.
    #[inline(always)]
    pub(crate) fn ticket(&self, gpa: crate::addr::Gpa) -> Ticket {
        let shard = self.index(gpa.get());
        // Acquire: pairs with the event's Release, so that what is looked up after it is no older than the event.
        let word = self.words.at(shard).load(Ordering::Acquire);
        if word & OPEN_MASK == 0 {
            return Ticket { shard, word, open: [0; LISTED] };
        }
        self.ticket_among_open(shard)
    }

    /// As [`ticket`](Self::ticket), but only where nothing is open.
    #[inline(always)]
    pub(crate) fn quiet_word<F: Format>(&self, format: F, gpa: crate::addr::Gpa) -> Option<(&A::Word, u64)> {
        // As `index`, with a shift that is a constant.
        let word = &self.words.at((gpa.get() >> format.geometry().shard_shift()) as usize).0;
        let seen = word.load(Ordering::Acquire);
        (seen & OPEN_MASK == 0).then_some((word, seen))
    }

    #[cold]
    fn ticket_among_open(&self, index: usize) -> Ticket {
        let (word_of, shard) = (self.words.at(index), &self.shards[index]);
        for _ in 0..4 {
            let word = word_of.load(Ordering::Acquire);
            let mut open: [u64; LISTED] = core::array::from_fn(|i| shard.memory.open[i].load(Ordering::Acquire));
            if word & OPEN_MASK != 0 && shard.memory.unlisted.load(Ordering::Acquire) != 0 {
                open[0] = pack::WHOLE;
            }
            // A place is freed after the word has changed (Release, Acquire): if the word has not changed, every
            // invalidation that it counts was listed when it was looked for.
            if word_of.load(Ordering::Acquire) == word {
                return Ticket { shard: index, word, open };
            }
        }
        Ticket { shard: index, word: word_of.load(Ordering::Acquire), open: [pack::WHOLE; LISTED] }
    }

    /// Whether nothing that concerns `leaf` has happened since the ticket was taken. The caller owns the entry, and a
    /// full fence lies between the locking and this call: an invalidation that this call does not see will find the
    /// entry locked.
    #[inline(always)]
    pub(crate) fn admits(&self, ticket: &Ticket, leaf: GpaRange) -> bool {
        let word = self.words.at(ticket.shard).load(Ordering::Acquire);
        (word == ticket.word && word & OPEN_MASK == 0) || self.admits_among_events(ticket, word, leaf)
    }

    #[cold]
    fn admits_among_events(&self, ticket: &Ticket, word: u64, leaf: GpaRange) -> bool {
        let memory = &self.shards[ticket.shard].memory;
        let concerns = |packed| pack::concerns(packed, leaf, self.geometry);
        if ticket.open.into_iter().any(concerns) {
            return false;
        }
        let (from, to) = (ticket.word >> OPEN_BITS, word >> OPEN_BITS);
        let happened = to.wrapping_sub(from);
        happened <= memory.events.len() as u64
            && (from + 1..=to).all(|number| memory.event(number).is_some_and(|range| !concerns(range)))
    }

    /// Counts one event over `range` in each shard it touches: what was changed before this call is not looked up any
    /// more by a fault that publishes, and what a fault has published is found by a descent after this call.
    pub(crate) fn event(&self, range: GpaRange) {
        for (index, packed) in self.over(range) {
            let shard = &self.shards[index];
            // Release: the change that this announces, before it. Pairs with the Acquire in `ticket`.
            let number = (self.words.at(index).fetch_add(EVENT, Ordering::AcqRel) >> OPEN_BITS) + 1;
            shard.memory.remember(number, packed);
        }
        // Orders the event before the descent; pairs with the fence after a fault's locking.
        A::full_fence();
    }

    /// Opens an invalidation of `range`: no fault publishes an overlapping leaf until it is closed.
    pub(crate) fn open(&self, range: GpaRange) -> Result<(), TooManyOpen> {
        for (done, (index, packed)) in self.over(range).enumerate() {
            if self.shards[index].open(self.words.at(index), packed).is_err() {
                self.over(range)
                    .take(done)
                    .for_each(|(index, packed)| self.shards[index].close(self.words.at(index), packed));
                return Err(TooManyOpen);
            }
        }
        A::full_fence();
        Ok(())
    }

    /// Closes an invalidation that was opened over the same range.
    pub(crate) fn close(&self, range: GpaRange) {
        self.over(range).for_each(|(index, packed)| self.shards[index].close(self.words.at(index), packed));
    }

    /// Counts a gather in as unflushed in the shard of `gpa`, before its first protection there.
    pub(crate) fn raise_unflushed(&self, gpa: crate::addr::Gpa, raised: &mut Raised) {
        let index = self.index(gpa.get());
        if raised.0 & 1 << index == 0 {
            raised.0 |= 1 << index;
            self.shards[index].unflushed.fetch_add(1, Ordering::AcqRel);
        }
    }

    /// Counts the gather out again, after its flush.
    pub(crate) fn lower_unflushed(&self, raised: Raised) {
        let raised = core::mem::ManuallyDrop::new(raised);
        for index in (0..self.shards.len()).filter(|index| raised.0 & 1 << index != 0) {
            self.shards[index].unflushed.fetch_sub(1, Ordering::Release);
        }
    }

    /// Whether any gather may have protected something in `range` that it has not flushed. To be read as
    /// [`unflushed_by_others`](Self::unflushed_by_others).
    #[cold]
    pub(crate) fn unflushed(&self, range: GpaRange) -> bool {
        self.unflushed_by_others(range, &Raised::none())
    }

    /// Whether a gather other than the one with `raised` may have protected something in `range` that it has not
    /// flushed. To be read after the entries: their Acquire loads pair with the other's protecting.
    pub(crate) fn unflushed_by_others(&self, range: GpaRange, raised: &Raised) -> bool {
        self.over(range).any(|(index, _)| {
            let own = raised.0 >> index & 1;
            self.shards[index].unflushed.load(Ordering::Acquire) > own
        })
    }
}

/// The shards in which one gather counts as unflushed.
#[must_use]
pub(crate) struct Raised(u64);

impl Raised {
    pub(crate) const fn none() -> Self {
        Self(0)
    }
}

impl Drop for Raised {
    fn drop(&mut self) {
        debug_assert!(self.0 == 0, "a gather stayed counted as unflushed");
    }
}

impl<A: Atomics> Shard<A> {
    fn new(remembered: usize) -> Result<Self, OutOfMemory> {
        let event = || Event { stamp: A::Word::new(0), range: A::Word::new(0) };
        let memory = Memory {
            open: core::array::from_fn(|_| A::Word::new(0)),
            unlisted: A::Word::new(0),
            events: vec_with(remembered, event)?,
        };
        Ok(Self { unflushed: Padded(A::Word::new(0)), memory: Padded(memory) })
    }

    fn open(&self, word_of: &A::Word, packed: u64) -> Result<(), TooManyOpen> {
        let listed = self.memory.list(packed);
        let mut word = word_of.load(Ordering::Relaxed);
        loop {
            if word & OPEN_MASK == OPEN_MASK {
                self.memory.unlist(packed, listed);
                return Err(TooManyOpen);
            }
            match word_of.compare_exchange(word, word + EVENT + 1, Ordering::AcqRel, Ordering::Relaxed) {
                Ok(_) => break,
                Err(found) => word = found,
            }
        }
        self.memory.remember((word >> OPEN_BITS) + 1, packed);
        Ok(())
    }

    fn close(&self, word_of: &A::Word, packed: u64) {
        let number = (word_of.fetch_add(EVENT - 1, Ordering::AcqRel) >> OPEN_BITS) + 1;
        self.memory.remember(number, packed);
        self.memory.unlist_any(packed);
    }
}

impl<A: Atomics> Memory<A> {
    /// Notes an open invalidation; whether there was a place for it.
    fn list(&self, packed: u64) -> bool {
        let take = |place: &A::Word| place.compare_exchange(0, packed, Ordering::AcqRel, Ordering::Relaxed).is_ok();
        let listed = self.open.iter().any(take);
        if !listed {
            self.unlisted.fetch_add(1, Ordering::AcqRel);
        }
        listed
    }

    fn unlist(&self, packed: u64, listed: bool) {
        if listed {
            self.unlist_any(packed);
        } else {
            self.unlisted.fetch_sub(1, Ordering::AcqRel);
        }
    }

    /// Frees one place that lists this very range: which of several equal ones makes no difference. If none does, this
    /// invalidation was not listed.
    fn unlist_any(&self, packed: u64) {
        let free = |place: &A::Word| place.compare_exchange(packed, 0, Ordering::AcqRel, Ordering::Relaxed).is_ok();
        if !self.open.iter().any(free) {
            self.unlisted.fetch_sub(1, Ordering::AcqRel);
        }
    }

    /// Notes which range event `number` concerned, unless a later one has its place already.
    fn remember(&self, number: u64, packed: u64) {
        let event = &self.events[number as usize & (self.events.len() - 1)];
        let found = event.stamp.load(Ordering::Relaxed);
        let later = found & 1 != 0 || found >> 1 >= number;
        let claim = || event.stamp.compare_exchange(found, number << 1 | 1, Ordering::AcqRel, Ordering::Relaxed);
        if !later && claim().is_ok() {
            // Release on both: a reader that sees this range sees the stamp's bit 0, or a later stamp.
            event.range.store(packed, Ordering::Release);
            event.stamp.store(number << 1, Ordering::Release);
        }
    }

    /// The range of event `number`, if it is remembered.
    fn event(&self, number: u64) -> Option<u64> {
        let event = &self.events[number as usize & (self.events.len() - 1)];
        let written = |event: &Event<A>| event.stamp.load(Ordering::Acquire) == number << 1;
        let range = written(event).then(|| event.range.load(Ordering::Acquire))?;
        written(event).then_some(range)
    }
}

/// A range in one word: the region and the pages in it when it lies in one region, else "everything in the shard".
mod pack {
    use crate::addr::GpaRange;
    use crate::format::Geometry;

    const VALID: u64 = 1 << 63;
    pub(super) const WHOLE: u64 = VALID | 1 << 62;

    /// Regions fit beside two page numbers in 62 bits for every geometry there is: with 64 KiB pages and 52 bits of
    /// address, 4 TiB regions have 26 bits of pages each way and a number of 10 bits.
    pub(super) fn range(range: GpaRange, geometry: Geometry) -> u64 {
        let (page, region) = (geometry.page_shift(), geometry.shard_shift());
        let bits = region - page;
        let (start, last) = (range.start().get(), range.end().get().saturating_sub(1));
        if range.is_empty() || start >> region != last >> region || start >> region >= 1 << (62 - 2 * bits) {
            return WHOLE;
        }
        let within = |address: u64| address >> page & ((1 << bits) - 1);
        VALID | start >> region << (2 * bits) | within(start) << bits | within(last)
    }

    pub(super) fn concerns(packed: u64, leaf: GpaRange, geometry: Geometry) -> bool {
        if packed & VALID == 0 || packed & WHOLE == WHOLE {
            return packed != 0;
        }
        let leaf = self::range(leaf, geometry);
        if leaf & WHOLE == WHOLE {
            return true;
        }
        let bits = geometry.shard_shift() - geometry.page_shift();
        let region = |packed: u64| packed >> (2 * bits);
        let first = |packed: u64| packed >> bits & ((1 << bits) - 1);
        let last = |packed: u64| packed & ((1 << bits) - 1);
        region(packed) == region(leaf) && first(packed) <= last(leaf) && first(leaf) <= last(packed)
    }
}

#[cfg(test)]
mod tests;
