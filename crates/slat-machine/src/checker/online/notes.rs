//! Annotations: what the embedder has declared of them, held against what the tables say; and the marks that guard them.

use slat::addr::{GpaRange, Level};

use super::{Change, Checker};
use crate::checker::declared::guest_pages;
use crate::checker::discipline::Meaning;
use crate::checker::verdict::Verdict;
use crate::memory::PAGE_SIZE;

impl Checker {
    pub(super) fn annotated(&mut self, range: GpaRange, word: u64) {
        self.declared.annotate(range, word);
        let lost = guest_pages(range).any(|page| !self.stands(page, word));
        self.find_if(lost, Verdict::AnnotationLost);
    }

    /// A linked word was changed; `before` is what its owner found there, if it was locked.
    pub(super) fn check_notes(&mut self, change: Change, before: Option<u64>) {
        let Change { at, old, new, is, level, .. } = change;
        if matches!(is, Meaning::Locked | Meaning::Frozen) {
            return;
        }
        let start = self.address_of(at, level).get();
        let pages = start / PAGE_SIZE..(start + self.discipline.span(level)) / PAGE_SIZE;
        let mut declared = self.declared.notes(pages);
        let lost = match is {
            Meaning::Note(word) => declared.any(|(_, noted)| noted != word),
            Meaning::Table(_) => declared.any(|(page, noted)| !self.stands(page, noted)),
            _ => declared.next().is_some(),
        };
        drop(declared);
        self.find_if(lost, Verdict::AnnotationLost);
        let last = if change.was == Meaning::Locked { before.unwrap_or(0) } else { old };
        let was_marked = self.is_marked(last, level);
        let unguarded = match is {
            Meaning::Note(_) => !self.is_guarded(at),
            Meaning::Table(table) => {
                let is_marked = self.is_marked(new, level);
                (was_marked && !is_marked) || (self.holds_notes(table.get()) && !(is_marked && self.is_guarded(at)))
            }
            Meaning::Empty => was_marked,
            _ => false,
        };
        self.find_if(unguarded, Verdict::AnnotationUnguarded);
    }

    /// Whether the walk to a page ends in this annotation, or at an entry that somebody is changing.
    fn stands(&self, page: u64, note: u64) -> bool {
        let gpa = page * PAGE_SIZE;
        let (mut level, mut span) =
            (self.discipline.root_level, self.discipline.table_span(self.discipline.root_level));
        let Some(&(mut table)) = self.root.get((gpa / span) as usize) else { return false };
        loop {
            span = self.discipline.span(level);
            let index = gpa / span % self.discipline.table_words() as u64;
            match (self.discipline.meaning(self.word(table + 8 * index), level), level.below()) {
                (Meaning::Table(next), Some(below)) => (table, level) = (next.get(), below),
                (Meaning::Note(word), _) => return word == note,
                (meaning, _) => return matches!(meaning, Meaning::Locked | Meaning::Frozen),
            }
        }
    }

    /// Whether a word is a pointer to a table that is marked for annotations below.
    fn is_marked(&self, word: u64, level: Level) -> bool {
        matches!(self.discipline.meaning(word, level), Meaning::Table(_)) && word & self.discipline.kept != 0
    }

    /// Whether every pointer on the way to the word at `at` is marked. One that is locked, for what it was.
    fn is_guarded(&self, at: u64) -> bool {
        let above = |at: u64| {
            let above = self.frames.get(self.discipline.table_of(at))?.above;
            let level = self.frames.get(self.discipline.table_of(above))?.level;
            Some((above, level))
        };
        std::iter::successors(above(at), |(at, _)| above(*at)).all(|(at, level)| {
            let word = self.owners.get(&at).map_or(self.word(at), |owner| owner.before);
            self.discipline.is_frozen(word, level) || self.is_marked(word, level)
        })
    }

    fn holds_notes(&self, table: u64) -> bool {
        self.frames.get(table).is_some_and(|frame| {
            let is_note = |word| matches!(self.discipline.meaning(word, frame.level), Meaning::Note(_));
            frame.words.iter().any(|&word| word != 0 && is_note(word))
        })
    }
}
