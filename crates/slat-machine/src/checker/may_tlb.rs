//! The may-TLB: all that the hardware of each core may still have cached and that the tables no longer say.
//!
//! A core may use any value of an entry that was visible since the last flush that covered it was complete: translations
//! of leaves, walks that came part of the way, and both stages combined. What the tables say now may be cached at any
//! time and needs no book. Kept are the values that are cached although no walk from the root finds them any more: those
//! that were overwritten, and all of a subtree that was cut off. Nothing is evicted by chance, so no schedule has to be
//! lucky for a missing flush to be seen.

use std::collections::BTreeMap;

use super::event::Thread;

/// A value that cores may use although the tables do not say it any more.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Stale {
    pub(super) value: u64,
    /// The event at which the last walk from the root could have come to it.
    pub(super) since: usize,
    /// When the call began that took the value away, or this very event.
    pub(super) asked: usize,
    /// The cores that may have it.
    pub(super) cores: u64,
    /// Who took it away and has to see it flushed.
    pub(super) owed: Option<Thread>,
}

/// Stale values, by the address of the word that held them.
#[derive(Clone, Debug, Default)]
pub(super) struct MayTlb {
    stale: BTreeMap<u64, Vec<Stale>>,
}

impl MayTlb {
    /// A value became stale. What is known of it already keeps the later event and the owner.
    pub(super) fn add(&mut self, at: u64, stale: Stale) {
        let known = self.stale.entry(at).or_default();
        match known.iter_mut().find(|known| known.value == stale.value) {
            Some(known) => {
                known.cores |= stale.cores;
                known.asked = if stale.since > known.since { stale.asked } else { known.asked };
                known.since = known.since.max(stale.since);
                known.owed = stale.owed.or(known.owed);
            }
            None => known.push(stale),
        }
    }

    /// What is stale of the word at `at`.
    pub(super) fn at(&self, at: u64) -> &[Stale] {
        self.stale.get(&at).map_or(&[], Vec::as_slice)
    }

    /// What is stale of words in `from..to`.
    pub(super) fn between(&self, from: u64, to: u64) -> impl Iterator<Item = (u64, &Stale)> {
        self.stale.range(from..to).flat_map(|(&at, stale)| stale.iter().map(move |stale| (at, stale)))
    }

    /// Everything that is stale.
    pub(super) fn all(&self) -> impl Iterator<Item = (u64, &Stale)> {
        self.between(0, u64::MAX)
    }

    /// Keeps of the word at `at` what `keep` says.
    pub(super) fn retain_at(&mut self, at: u64, keep: impl FnMut(&Stale) -> bool) {
        if let Some(stale) = self.stale.get_mut(&at) {
            stale.retain(keep);
            if stale.is_empty() {
                self.stale.remove(&at);
            }
        }
    }

    /// Says anew who has to see flushed what is stale of the word at `at`.
    pub(super) fn owe_at(&mut self, at: u64, owed: impl Fn(&Stale) -> Option<Thread>) {
        self.stale.get_mut(&at).into_iter().flatten().for_each(|stale| stale.owed = owed(stale));
    }

    /// The value was taken away in a call that began at `asked`, whatever else had made it stale before.
    pub(super) fn ask_at(&mut self, at: u64, value: u64, asked: usize) {
        let known = self.stale.get_mut(&at).into_iter().flatten().filter(|stale| stale.value == value);
        known.for_each(|stale| stale.asked = asked);
    }

    /// A flush is complete on `cores`: they forget what `drops` says.
    pub(super) fn flush(&mut self, cores: u64, mut drops: impl FnMut(u64, &Stale) -> bool) {
        self.stale.retain(|&at, stale| {
            stale.retain_mut(|stale| {
                if drops(at, stale) {
                    stale.cores &= !cores;
                }
                stale.cores != 0
            });
            !stale.is_empty()
        });
    }

    /// Nobody waits any longer for what `thread` took away; whether some of it is still cached.
    pub(super) fn forgive(&mut self, thread: Thread) -> bool {
        let mut owed = self.stale.values_mut().flatten().filter(|stale| stale.owed == Some(thread)).peekable();
        let any = owed.peek().is_some();
        owed.for_each(|stale| stale.owed = None);
        any
    }
}
