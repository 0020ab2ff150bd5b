//! Annotations, out of the history: what was declared of them against what walks find, and the marks that guard them.

use slat::addr::{GpaRange, Level};

use super::{Change, Replay, verdict_if};
use crate::checker::declared::guest_pages;
use crate::checker::discipline::Meaning;
use crate::checker::verdict::Verdict;
use crate::memory::PAGE_SIZE;

impl Replay {
    pub(super) fn annotated(&mut self, range: GpaRange, word: u64) -> Vec<Verdict> {
        self.declared.annotate(range, word);
        verdict_if(!guest_pages(range).all(|page| self.may_say(page, word)), Verdict::AnnotationLost)
    }

    /// Rules of a linked word that was changed, whose owner had found `before`.
    pub(super) fn note_rules(&self, change: Change, before: Option<u64>) -> Vec<Verdict> {
        let Change { at, old, new, is, link, .. } = change;
        let discipline = &self.history.discipline;
        if discipline.is_locked(new, link.level) || discipline.is_frozen(new, link.level) {
            return Vec::new();
        }
        let first = self.history.address(at, link) / PAGE_SIZE;
        let declared = self.declared.notes(first..first + discipline.span(link.level) / PAGE_SIZE);
        let lost = { declared }.any(|(page, note)| !self.may_say(page, note));
        let replaced = if discipline.is_locked(old, link.level) { before.unwrap_or(0) } else { old };
        let was_marked = self.is_marked(replaced, link.level);
        let (has_notes, loses_mark) = match is {
            Meaning::Table(table) => (self.holds_notes(table.get()), was_marked && new & discipline.kept == 0),
            _ => (matches!(is, Meaning::Note(_)), was_marked && new == 0),
        };
        let is_below_marks =
            self.is_below_marks(at) && (!matches!(is, Meaning::Table(_)) || new & discipline.kept != 0);
        let mut found = verdict_if(lost, Verdict::AnnotationLost);
        found.extend(verdict_if(loses_mark || (has_notes && !is_below_marks), Verdict::AnnotationUnguarded));
        found
    }

    /// What a walk for the page comes to: this annotation, or an entry that is being changed and may come to say it.
    fn may_say(&self, page: u64, note: u64) -> bool {
        let discipline = &self.history.discipline;
        let gpa = page * PAGE_SIZE;
        let mut level = discipline.root_level;
        let Some(mut table) = self.history.root.get((gpa / discipline.table_span(level)) as usize).copied() else {
            return false;
        };
        loop {
            let index = gpa / discipline.span(level) % discipline.table_words() as u64;
            let word = self.history.word(table + 8 * index);
            match discipline.meaning(word, level) {
                Meaning::Table(below) => table = below.get(),
                _ => return [note, discipline.locked, discipline.frozen].contains(&word),
            }
            let Some(below) = level.below() else { return false };
            level = below;
        }
    }

    fn holds_notes(&self, table: u64) -> bool {
        let Some(link) = self.history.last_link(table) else { return false };
        let is_note = |word| matches!(self.history.discipline.meaning(word, link.level), Meaning::Note(_));
        self.history.written_words(table).any(|(_, word)| is_note(word))
    }

    fn is_marked(&self, word: u64, level: Level) -> bool {
        word & self.history.discipline.kept != 0
            && matches!(self.history.discipline.meaning(word, level), Meaning::Table(_))
    }

    /// Whether all pointers above the word at `at` say that annotations lie below, or said so before they were locked.
    fn is_below_marks(&self, at: u64) -> bool {
        let table = self.history.discipline.table_of(at);
        let Some(above) = self.history.last_link(table).map(|link| link.above).filter(|above| *above != 0) else {
            return true;
        };
        let Some(link) = self.history.last_link(self.history.discipline.table_of(above)) else { return true };
        let word = self.history.before_locked(above).map_or(self.history.word(above), |(_, before)| before);
        let is_marked = self.history.discipline.is_frozen(word, link.level) || self.is_marked(word, link.level);
        is_marked && self.is_below_marks(above)
    }
}
