//! Annotations: what may become of their words, and the marks above them.

use slat::addr::{Gpa, GpaRange, Level};
use slat::format::Format;
use slat::host::Flush;
use slat_machine::checker::{Event, Verdict};

use super::{BLOCK, GPA};
use crate::script::*;
use crate::subject::{PAGE, Subject};
use crate::tally::Tally;

/// Annotations of all sizes.
fn notes<S: Subject>() -> impl Iterator<Item = u64> {
    let largest = (1 << S::Format::ANNOTATION.bits) - 1;
    [0, 1, 0x5a5a, largest].into_iter().map(|annotation| S::Format::ANNOTATION.word(annotation))
}

/// The last page of what the entry of `level` covers.
fn last_page<S: Subject>(script: &Script<S>, level: Level) -> GpaRange {
    let end = script.span(GPA, level).end().get();
    GpaRange::with_len(Gpa::new(end - S::size(PAGE)), S::size(PAGE)).unwrap()
}

/// An annotation in the entry of `level`, below marks, and declared.
fn annotated<S: Subject>(note: u64, level: Level) -> Script<S> {
    let mut script = Script::new();
    let at = script.entry(GPA, level);
    script.mark(GPA, level);
    script.swap(ONE, at, note);
    script.note(Event::Annotated { range: last_page(&script, level), word: note });
    script
}

/// Makes a table full of `note` of the block's entry.
fn divide<S: Subject>(script: &mut Script<S>, note: u64, holes: usize) {
    let at = script.entry(GPA, BLOCK);
    let table = script.allocate();
    let words = S::format().geometry().entries();
    (0..words - holes).for_each(|index| script.store(ONE, word_at(table, index), note));
    let pointer = script.table_word(table, BLOCK);
    script.swap(ONE, at, pointer | S::Format::KEPT);
}

pub(super) fn lost<S: Subject>(tally: &mut Tally) {
    let verdict = Verdict::AnnotationLost;
    for (level, note) in [PAGE, BLOCK].into_iter().flat_map(|level| notes::<S>().map(move |note| (level, note))) {
        let other = S::Format::ANNOTATION.word(7);
        for new in leaves::<S>(HERE, level).chain([0, other]) {
            for is_cleared in [false, true] {
                let mut script = annotated::<S>(note, level);
                let (at, range) = (script.entry(GPA, level), last_page(&script, level));
                if is_cleared {
                    script.note(Event::Cleared(range));
                }
                script.swap(ONE, at, new);
                tally.case(verdict, is_cleared, script);
            }
        }
        // Locked for a while; and given back, or not.
        for new in [note, 0, other] {
            let mut script = annotated::<S>(note, level);
            let at = script.entry(GPA, level);
            script.lock(ONE, at);
            script.store(ONE, at, new);
            tally.case(verdict, new == note, script);
        }
    }
    for (note, holes) in notes::<S>().flat_map(|note| [0, 1].map(|holes| (note, holes))) {
        let mut script = annotated::<S>(note, BLOCK);
        divide(&mut script, note, holes);
        tally.case(verdict, holes == 0, script);
    }
}

/// What is declared has to be there already, or be on its way.
pub(super) fn declared<S: Subject>(tally: &mut Tally) {
    for (note, leaf) in notes::<S>().flat_map(|note| leaves::<S>(HERE, PAGE).map(move |leaf| (note, leaf))) {
        for (word, is_good) in [(note, true), (S::Format::LOCKED, true), (leaf, false), (0, false)] {
            let mut script = Script::<S>::new();
            let at = script.entry(GPA, PAGE);
            script.mark(GPA, PAGE);
            if word != 0 {
                script.swap(ONE, at, word);
            }
            script.note(Event::Annotated { range: script.span(GPA, PAGE), word: note });
            tally.case(Verdict::AnnotationLost, is_good, script);
        }
    }
}

pub(super) fn unguarded<S: Subject>(tally: &mut Tally) {
    let verdict = Verdict::AnnotationUnguarded;
    let root = S::format().geometry().root_level();
    for note in notes::<S>() {
        // Without the mark of one level, or with all.
        for missing in (0..=root.get()).map(Level::new) {
            let mut script = Script::<S>::new();
            let at = script.entry(GPA, PAGE);
            for above in (1..=root.get()).map(Level::new).filter(|above| *above != missing) {
                let pointer = script.entry(GPA, above);
                script.swap(ONE, pointer, script.word(pointer) | S::Format::KEPT);
            }
            script.swap(ONE, at, note);
            tally.case(verdict, missing == PAGE, script);
        }
        // A marked table is cut for nothing, for an annotation of all that it covers, or given back; or loses its mark.
        let (marked, unmarked) = (1, 2);
        for after in [0, S::Format::ANNOTATION.word(3), marked, unmarked] {
            let mut script = Script::<S>::new();
            let at = script.entry(GPA, PAGE);
            script.mark(GPA, PAGE);
            script.swap(ONE, at, note);
            let pointer = script.entry(GPA, BLOCK);
            let table = script.word(pointer);
            script.lock(ONE, pointer);
            script.flush(ONE, Flush::Tables { range: script.span(GPA, BLOCK) });
            let new = match after {
                1 => table,
                2 => table & !S::RULES.kept,
                other => other,
            };
            script.store(ONE, pointer, new);
            tally.case(verdict, after != 0 && after != unmarked, script);
        }
    }
}
