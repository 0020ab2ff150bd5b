//! Sets of leaves of which hardware may use any for all.

use slat::addr::Level;

use super::Checker;
use crate::checker::discipline::{Meaning, SET_BYTES};
use crate::checker::frames::Status;
use crate::checker::may_tlb::Stale;

impl Checker {
    /// The word at `at`, of a table that is or was linked, is this from now on.
    pub(super) fn note_set(&mut self, at: u64, is: Meaning) {
        match is {
            Meaning::Leaf(leaf) if leaf.set_bits > 0 => _ = self.sets.insert(at, self.now),
            _ => _ = self.sets.remove(&at),
        }
    }

    /// The table is linked anew.
    pub(super) fn forget_sets(&mut self, table: u64) {
        let mut rest = self.sets.split_off(&table);
        self.sets.append(&mut rest.split_off(&(table + self.discipline.table_bytes())));
    }

    /// What other entries' words say, or have said and is cached, that hardware may use for the entry at `at`.
    pub(super) fn lent_by_others(&self, at: u64, level: Level) -> impl Iterator<Item = Meaning> {
        let start = self.address_of(at, level).get();
        let first = at & !(SET_BYTES - 1);
        let is_linked = self.is_linked(at);
        let current = self.sets.range(first..first + SET_BYTES).filter(move |_| is_linked);
        let current = current.map(|(&other, _)| (other, self.word(other)));
        let stale = self.tlb.between(first, first + SET_BYTES).map(|(other, stale)| (other, stale.value));
        let others = current.chain(stale).filter(move |(other, _)| *other != at);
        others.filter_map(move |(other, word)| {
            let meaning = self.discipline.meaning(word, level);
            let (first, end) = self.discipline.reach(meaning, self.address_of(other, level).get(), level);
            (first..end).contains(&start).then_some(meaning)
        })
    }

    fn is_linked(&self, at: u64) -> bool {
        self.frames.get(self.discipline.table_of(at)).is_some_and(|frame| frame.status == Status::Linked)
    }

    /// Whether another leaf of its set says still what the stale one said, and has since before the call that changed that
    /// one: then its flush is in vain. What others give meanwhile is theirs to answer for.
    pub(super) fn is_said_by_others(&self, at: u64, stale: &Stale) -> bool {
        let Some(frame) = self.frames.get(self.discipline.table_of(at)) else { return false };
        let said = self.discipline.meaning(stale.value, frame.level);
        let start = self.address_of(at, frame.level).get();
        let (first, end) = self.discipline.reach(said, start, frame.level);
        let span = self.discipline.span(frame.level);
        let entry = |address: u64| at - (start - first) / span * 8 + (address - first) / span * 8;
        end - first > span
            && self.is_linked(at)
            && self.sets.range(entry(first)..entry(end)).any(|(&other, &since)| {
                since < stale.asked && self.discipline.meaning(self.word(other), frame.level) == said
            })
    }
}
