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

#[cfg(test)]
mod tests {
    use super::*;

    const AT: u64 = 0x1000;
    const OLD: Stale = Stale { value: 7, since: 5, asked: 4, cores: 0b01, owed: Some(1) };

    fn with(added: &[Stale]) -> MayTlb {
        let mut tlb = MayTlb::default();
        added.iter().for_each(|&stale| tlb.add(AT, stale));
        tlb
    }

    #[test]
    fn what_is_stale_twice_is_so_on_all_cores_since_the_later_time() {
        let later = Stale { since: 9, asked: 8, cores: 0b10, owed: None, ..OLD };
        let both = Stale { since: 9, asked: 8, cores: 0b11, owed: Some(1), ..OLD };
        assert_eq!(with(&[OLD, later]).at(AT), [both]);
        // The earlier one, added later; and one of the same time, whose asking was first.
        assert_eq!(with(&[later, OLD]).at(AT), [both]);
        assert_eq!(with(&[OLD, Stale { asked: 2, ..OLD }]).at(AT), [OLD]);
        assert_eq!(with(&[OLD, Stale { owed: Some(2), ..OLD }]).at(AT), [Stale { owed: Some(2), ..OLD }]);
        let other = Stale { value: 8, ..OLD };
        assert_eq!(with(&[OLD, other]).at(AT), [OLD, other]);
    }

    #[test]
    fn a_flush_takes_from_its_cores_what_it_drops() {
        let both = Stale { cores: 0b11, ..OLD };
        let flushed = |cores, drops: bool| {
            let mut tlb = with(&[both, Stale { value: 8, ..both }]);
            tlb.flush(cores, |at, stale| drops && at == AT && stale.value == 7);
            tlb.all().map(|(at, stale)| (at, stale.value, stale.cores)).collect::<Vec<_>>()
        };
        assert_eq!(flushed(0b01, true), [(AT, 7, 0b10), (AT, 8, 0b11)]);
        assert_eq!(flushed(0b11, true), [(AT, 8, 0b11)]);
        assert_eq!(flushed(0b111, false), [(AT, 7, 0b11), (AT, 8, 0b11)]);
    }

    #[test]
    fn words_are_told_apart() {
        let mut tlb = with(&[OLD]);
        tlb.add(AT + 8, Stale { value: 9, ..OLD });
        let values = |tlb: &MayTlb, from, to| tlb.between(from, to).map(|(_, stale)| stale.value).collect::<Vec<_>>();
        assert_eq!(values(&tlb, AT, AT + 8), [7]);
        assert_eq!(values(&tlb, AT + 1, AT + 9), [9]);
        assert!(tlb.at(AT + 16).is_empty());
        tlb.retain_at(AT, |stale| stale.value != 7);
        assert_eq!(values(&tlb, 0, u64::MAX), [9]);
        tlb.retain_at(AT + 8, |stale| stale.value == 9);
        assert_eq!(values(&tlb, 0, u64::MAX), [9]);
    }

    #[test]
    fn debts_are_said_anew_and_forgiven_to_one() {
        let mut tlb = with(&[OLD, Stale { value: 8, owed: Some(2), ..OLD }]);
        tlb.ask_at(AT, 7, 1);
        tlb.ask_at(AT, 9, 2);
        assert_eq!(tlb.at(AT).iter().map(|stale| stale.asked).collect::<Vec<_>>(), [1, 4]);
        assert!(tlb.forgive(1) && !tlb.forgive(1));
        assert_eq!(tlb.at(AT).iter().map(|stale| stale.owed).collect::<Vec<_>>(), [None, Some(2)]);
        tlb.owe_at(AT, |stale| (stale.value == 7).then_some(3));
        assert_eq!(tlb.at(AT).iter().map(|stale| stale.owed).collect::<Vec<_>>(), [Some(3), None]);
    }
}
