//! Accessed flags of leaves that are made of others, out of the history.

use super::{Change, Replay, verdict_if};
use crate::checker::discipline::Meaning;
use crate::checker::event::How;
use crate::checker::history::Kind;
use crate::checker::verdict::Verdict;

impl Replay {
    /// Whether a leaf, stored by who had locked the entry and had found `before` in it, is made of leaves one of which was
    /// accessed, and says that it was not. Asked before it is written down.
    pub(super) fn access_rules(&self, change: Change, before: Option<u64>) -> Vec<Verdict> {
        let Change { new, how, is, link, .. } = change;
        let Some(before) = before.filter(|before| *before != new && how == How::Store) else { return Vec::new() };
        let is_used_up = is.is_leaf() && !self.history.discipline.is_accessed(new, link.level);
        let forgets = is_used_up && (self.set_was_accessed(change) || self.table_was_accessed(change, before));
        verdict_if(forgets, Verdict::AccessForgotten)
    }

    /// Whether a leaf of the set, held at the same time by the same thread, was accessed.
    fn set_was_accessed(&self, change: Change) -> bool {
        let Change { thread, at, link, .. } = change;
        let Some(since) = self.history.locked_since(at) else { return false };
        let discipline = &self.history.discipline;
        let start = self.history.address(at, link);
        let is_one = |other: u64, word: u64| {
            let meaning = discipline.meaning(word, link.level);
            let (first, end) = discipline.reach(meaning, self.history.address(other, link), link.level);
            let is_set = end - first > discipline.span(link.level);
            is_set && (first..end).contains(&start) && discipline.is_accessed(word, link.level)
        };
        let all = self.history.neighbours(at).chain([at]);
        { all }.any(|other| self.history.held_before(other, thread, since).any(|word| is_one(other, word)))
    }

    /// Whether a leaf of the table that the block takes the place of was accessed when it was frozen.
    fn table_was_accessed(&self, change: Change, before: u64) -> bool {
        let discipline = &self.history.discipline;
        let (Meaning::Table(table), Some(below)) =
            (discipline.meaning(before, change.link.level), change.link.level.below())
        else {
            return false;
        };
        let words = self.history.written_words(table.get());
        let frozen = words.filter_map(|(at, _)| self.history.before_frozen(at, below));
        self.history.kind(table.get()) != Kind::Free && { frozen }.any(|word| discipline.is_accessed(word, below))
    }
}
