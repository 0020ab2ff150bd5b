//! Leaves that change their size under hardware's eyes: which traces of that deserve the verdict on break-before-make.

use slat::addr::Hpa;
use slat::format::Format;
use slat::host::Flush;
use slat_machine::checker::Verdict;

use super::{BLOCK, GPA, mapped};
use crate::script::*;
use crate::subject::{PAGE, Subject};
use crate::tally::Tally;

/// How a change of size is made.
#[derive(Clone, Copy)]
struct Change {
    is_held: bool,
    is_flushed: bool,
}

/// A block and a table that change places, where hardware may hold both: held, flushed, made.
pub(super) fn changes_of_size<S: Subject>(tally: &mut Tally) {
    if !S::format().overlaps() {
        return;
    }
    let sizes = |at: u64| leaves::<S>(at, BLOCK).zip(leaves::<S>(at, PAGE));
    let elsewhere = sizes(HERE).zip(sizes(THERE)).map(|((block, _), (_, page))| (block, page, false));
    for (block, first, is_same) in sizes(HERE).map(|(block, page)| (block, page, true)).chain(elsewhere) {
        for (is_held, is_flushed) in [(true, true), (true, false), (false, true)] {
            let change = Change { is_held, is_flushed };
            let is_good = is_held && is_flushed && is_same;
            tally.case(Verdict::BreakBeforeMake, is_good, split::<S>(block, first, change));
            tally.case(Verdict::BreakBeforeMake, is_good, collapse::<S>(block, first, change));
        }
    }
}

/// Fills the table with the leaves of pages that begin with `first`.
fn fill<S: Subject>(script: &mut Script<S>, table: Hpa, first: u64) {
    let word = |index: usize| first + ((index as u64) << 12);
    (0..S::format().geometry().entries()).for_each(|index| script.store(ONE, word_at(table, index), word(index)));
}

fn split<S: Subject>(block: u64, first: u64, change: Change) -> Script<S> {
    let (mut script, at, _) = mapped::<S>(block, BLOCK);
    let table = script.allocate();
    fill(&mut script, table, first);
    let linked = script.table_word(table, BLOCK);
    script.swap(ONE, at, if change.is_held { S::format().held(linked, BLOCK) } else { linked });
    if change.is_flushed {
        script.flush(ONE, Flush::All);
    }
    if change.is_held {
        script.store(ONE, at, linked);
    }
    script
}

fn collapse<S: Subject>(block: u64, first: u64, change: Change) -> Script<S> {
    let format = S::format();
    let mut script = Script::<S>::new();
    let at = script.entry(GPA, BLOCK);
    let table = script.allocate();
    fill(&mut script, table, first);
    let linked = script.table_word(table, BLOCK);
    script.swap(ONE, at, linked);
    script.swap(ONE, at, format.held(linked, BLOCK));
    for index in 0..format.geometry().entries() {
        let page = word_at(table, index);
        script.swap(ONE, page, format.frozen(script.word(page), PAGE));
    }
    if change.is_held {
        script.store(ONE, at, format.held(block, BLOCK));
    }
    if change.is_held && change.is_flushed {
        script.flush(ONE, Flush::All);
    }
    script.store(ONE, at, block);
    script
}
