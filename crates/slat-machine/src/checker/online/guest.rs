//! What the guest may do, held against what the embedder has declared.

use slat::addr::{Gpa, GpaRange, Level};

use super::Checker;
use crate::checker::Verdict;
use crate::checker::declared::guest_pages;
use crate::checker::discipline::{Leaf, Meaning};
use crate::checker::frames::Status;
use crate::memory::PAGE_SIZE;

impl Checker {
    pub(super) fn reaches_taken(&self, _start: Gpa, level: Level, leaf: Leaf) -> bool {
        leaf.permissions != slat::host::Permissions::NONE
            && self.declared.is_taken(leaf.output, self.discipline.span(level) << leaf.set_bits)
    }

    pub(super) fn writes_where_withdrawn(&self, start: Gpa, level: Level, leaf: Leaf) -> bool {
        leaf.permissions.write() && self.declared.is_withdrawn(self.pages_of(start, level, leaf))
    }

    /// The pages for which hardware may use the leaf.
    pub(super) fn pages_of(&self, start: Gpa, level: Level, leaf: Leaf) -> std::ops::Range<u64> {
        let (first, end) = self.discipline.reach(Meaning::Leaf(leaf), start.get(), level);
        first / PAGE_SIZE..end / PAGE_SIZE
    }

    pub(super) fn look_at_all_leaves(&mut self, verdict: Verdict, is_wrong: impl Fn(&Self, Gpa, Level, Leaf) -> bool) {
        let wrong = self.leaves().into_iter().any(|(start, level, leaf)| is_wrong(self, start, level, leaf));
        self.find_if(wrong, verdict);
    }

    /// Every leaf that hardware may use: what linked tables say, and what is stale.
    fn leaves(&self) -> Vec<(Gpa, Level, Leaf)> {
        let linked = self.frames.iter().filter(|(_, frame)| frame.status == Status::Linked);
        let words = linked.flat_map(|(table, frame)| (table..).step_by(8).zip(frame.words.iter().copied()));
        let current = words.filter(|(_, word)| *word != 0);
        let stale = self.tlb.all().map(|(at, stale)| (at, stale.value));
        current.chain(stale).filter_map(|(at, word)| self.leaf_at(at, word)).collect()
    }

    fn leaf_at(&self, at: u64, word: u64) -> Option<(Gpa, Level, Leaf)> {
        let level = self.frames.get(self.discipline.table_of(at))?.level;
        match self.discipline.meaning(word, level) {
            Meaning::Leaf(leaf) => Some((self.address_of(at, level), level, leaf)),
            _ => None,
        }
    }

    pub(super) fn logged(&mut self, range: GpaRange) {
        self.declared.log(range);
        for (start, level, leaf) in self.leaves() {
            if leaf.unnoticed {
                self.declared.expose(self.pages_of(start, level, leaf));
            }
        }
    }

    pub(super) fn copied(&mut self, range: GpaRange) {
        let writable = self.leaves().into_iter().filter(|(.., leaf)| leaf.unnoticed);
        let writable: Vec<_> = writable.map(|(start, level, leaf)| self.pages_of(start, level, leaf)).collect();
        for page in guest_pages(range) {
            let may_be_written = writable.iter().any(|pages| pages.contains(&page));
            self.declared.copied(page, may_be_written);
        }
    }
}
