//! Sets of leaves of which hardware may use any for all, out of the history.

use slat::addr::Level;

use crate::checker::discipline::{Meaning, SET_BYTES};
use crate::checker::history::{History, Kind, Link};

impl History {
    /// The words of one table that may be of one set with the word at `at`.
    pub(in crate::checker) fn neighbours(&self, at: u64) -> impl Iterator<Item = u64> + use<> {
        let first = at & !(SET_BYTES - 1);
        let most = if self.has_sets { SET_BYTES } else { 0 };
        (first..first + most).step_by(8).filter(move |other| *other != at)
    }

    fn is_for(&self, meaning: Meaning, other: u64, link: Link, start: u64) -> bool {
        let (first, end) = self.discipline.reach(meaning, self.address(other, link), link.level);
        (first..end).contains(&start)
    }

    /// What hardware may use for the entry at `at` because of what other entries say, or have said.
    pub(in crate::checker) fn lent_by_others(&self, at: u64, link: Link) -> Vec<Meaning> {
        let start = self.address(at, link);
        let is_linked = self.kind(self.discipline.table_of(at)) == Kind::Linked;
        let meaning = |word, level: Level| self.discipline.meaning(word, level);
        let of_one = |other: u64| {
            let current = is_linked.then(|| (self.word(other), link));
            let all = current.into_iter().chain(self.cached_with_links(other));
            all.map(move |(word, link)| (other, meaning(word, link.level), link))
        };
        let all = self.neighbours(at).flat_map(of_one);
        all.filter(|&(other, meaning, link)| self.is_for(meaning, other, link, start))
            .map(|(_, meaning, _)| meaning)
            .collect()
    }

    /// Whether, when a flush was complete at `done`, another leaf of a set said what the leaf at `at` had said, and had done
    /// so since before somebody was `asked` to change that.
    pub(in crate::checker) fn was_said_by_others(&self, at: u64, said: Meaning, asked: usize, done: usize) -> bool {
        let table = self.discipline.table_of(at);
        let Some(link) = self.last_link(table).filter(|_| self.kind_at(table, done) == Kind::Linked) else {
            return false;
        };
        let start = self.address(at, link);
        self.neighbours(at).any(|other| {
            self.word_at(other, done).is_some_and(|(word, since)| {
                since < asked
                    && self.discipline.meaning(word, link.level) == said
                    && self.is_for(said, other, link, start)
            })
        })
    }
}
