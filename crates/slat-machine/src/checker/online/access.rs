//! Accessed flags: whoever makes a leaf of others unites them, whether they are of a set or of a table.

use slat::addr::Level;

use super::{Change, Checker, Owner};
use crate::checker::discipline::{Meaning, SET_BYTES};
use crate::checker::event::{How, Thread};
use crate::checker::verdict::Verdict;

impl Checker {
    /// A word of a table that is or was linked is changed; `owner` has locked it, and does not give it back as it was.
    pub(super) fn check_access(&mut self, change: Change, owner: Option<&Owner>) {
        let Change { at, old, new, level, .. } = change;
        let is_frozen = |word| self.discipline.is_frozen(word, level);
        match (is_frozen(old), is_frozen(new)) {
            (false, true) if self.discipline.is_accessed(old, level) => _ = self.frozen.insert(at),
            (true, true) => {}
            _ => _ = self.frozen.remove(&at),
        }
        if let Some(owner) = owner.filter(|_| change.how == How::Store) {
            self.check_united(change, owner);
        }
    }

    fn check_united(&mut self, change: Change, owner: &Owner) {
        let Change { thread, at, new, is, level, .. } = change;
        let own = self.reaches_if_accessed(at, owner.before, level);
        let is_old = is.is_leaf() && !self.discipline.is_accessed(new, level);
        if own.is_none() && !is_old {
            return; // nothing to hand on, and nothing forgotten
        }
        let others = self.held_beside(at, thread);
        let start = self.address_of(at, level).get();
        let is_beside = others.iter().any(|&(other, before)| {
            self.reaches_if_accessed(other, before, level).is_some_and(|(first, end)| (first..end).contains(&start))
        });
        if let Some((first, end)) = own {
            for (other, _) in others {
                let is_inside = (first..end).contains(&self.address_of(other, level).get());
                let beside = self.owners.get_mut(&other).filter(|_| is_inside);
                beside.into_iter().for_each(|owner| owner.is_beside_accessed = true);
            }
        }
        let of_set = own.is_some() || owner.is_beside_accessed || is_beside;
        let was_accessed = of_set || self.was_table_accessed(owner.before, level);
        self.find_if(was_accessed && is_old, Verdict::AccessForgotten);
    }

    /// The guest addresses of the set that the word at `at` stood for, if it did and was accessed.
    fn reaches_if_accessed(&self, at: u64, before: u64, level: Level) -> Option<(u64, u64)> {
        let meaning = self.discipline.meaning(before, level);
        let is_set = self.discipline.size(meaning, level) > self.discipline.span(level);
        let reach = || self.discipline.reach(meaning, self.address_of(at, level).get(), level);
        (is_set && self.discipline.is_accessed(before, level)).then(reach)
    }

    /// Words near the one at `at` that the thread holds, too, and what they held before.
    fn held_beside(&self, at: u64, thread: Thread) -> Vec<(u64, u64)> {
        let first = at & !(SET_BYTES - 1);
        let places = (first..first + SET_BYTES).step_by(8).filter(|other| *other != at);
        let held =
            places.filter_map(|other| Some((other, self.owners.get(&other).filter(|own| own.thread == thread)?)));
        held.map(|(other, owner)| (other, owner.before)).collect()
    }

    /// Whether what an entry pointed to was a table with a frozen leaf that had been accessed.
    fn was_table_accessed(&self, before: u64, level: Level) -> bool {
        let Meaning::Table(table) = self.discipline.meaning(before, level) else { return false };
        let table = table.get();
        self.frozen.range(table..table + self.discipline.table_bytes()).next().is_some()
    }
}
