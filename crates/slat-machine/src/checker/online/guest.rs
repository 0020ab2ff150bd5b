//! What the guest may do, held against what the embedder has declared.

use slat::addr::{Gpa, GpaRange, Level};

use super::Checker;
use crate::checker::Verdict;
use crate::checker::declared::guest_pages;
use crate::checker::discipline::{Leaf, Meaning};
use crate::checker::frames::{Status, table_of};
use crate::memory::PAGE_SIZE;
use crate::trace::FRAME_WORDS;

impl Checker {
    pub(super) fn reaches_taken(&self, _start: Gpa, level: Level, leaf: Leaf) -> bool {
        leaf.permissions != slat::host::Permissions::NONE
            && self.declared.is_taken(leaf.output, self.discipline.span(level))
    }

    pub(super) fn writes_where_withdrawn(&self, start: Gpa, level: Level, leaf: Leaf) -> bool {
        leaf.permissions.write() && self.declared.is_withdrawn(self.pages_of(start, level))
    }

    pub(super) fn pages_of(&self, start: Gpa, level: Level) -> std::ops::Range<u64> {
        let first = start.get() / PAGE_SIZE;
        first..first + self.discipline.span(level) / PAGE_SIZE
    }

    pub(super) fn look_at_all_leaves(&mut self, verdict: Verdict, is_wrong: impl Fn(&Self, Gpa, Level, Leaf) -> bool) {
        let wrong = self.leaves().into_iter().any(|(start, level, leaf)| is_wrong(self, start, level, leaf));
        self.find_if(wrong, verdict);
    }

    /// Every leaf that hardware may use: what linked tables say, and what is stale.
    fn leaves(&self) -> Vec<(Gpa, Level, Leaf)> {
        let linked = self.frames.iter().filter(|(_, frame)| frame.status == Status::Linked);
        let current = linked.flat_map(|(at, _)| (0..FRAME_WORDS as u64).map(move |index| at + 8 * index));
        let current = current.map(|at| (at, self.frames.word(at))).filter(|(_, word)| *word != 0);
        let stale = self.tlb.all().map(|(at, stale)| (at, stale.value));
        current.chain(stale).filter_map(|(at, word)| self.leaf_at(at, word)).collect()
    }

    fn leaf_at(&self, at: u64, word: u64) -> Option<(Gpa, Level, Leaf)> {
        let level = self.frames.get(table_of(at))?.level;
        match self.discipline.meaning(word, level) {
            Meaning::Leaf(leaf) => Some((self.address_of(at, level), level, leaf)),
            _ => None,
        }
    }

    pub(super) fn logged(&mut self, range: GpaRange) {
        self.declared.log(range);
        for (start, level, leaf) in self.leaves() {
            if leaf.permissions.write() {
                let pages = self.pages_of(start, level);
                self.declared.expose(pages);
            }
        }
    }

    pub(super) fn copied(&mut self, range: GpaRange) {
        let writable = self.leaves().into_iter().filter(|(.., leaf)| leaf.permissions.write());
        let writable: Vec<_> = writable.map(|(start, level, _)| self.pages_of(start, level)).collect();
        for page in guest_pages(range) {
            let may_be_written = writable.iter().any(|pages| pages.contains(&page));
            self.declared.copied(page, may_be_written);
        }
    }
}
