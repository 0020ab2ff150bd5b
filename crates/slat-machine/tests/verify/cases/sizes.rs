//! Leaves that change their size under hardware's eyes: which traces of that deserve the verdict on break-before-make.

use slat::addr::{GpaRange, Hpa};
use slat::format::Format;
use slat::host::{Flush, Hint};
use slat_machine::checker::{Event, Verdict};

use super::{BLOCK, GPA, mapped};
use crate::script::*;
use crate::subject::{PAGE, Subject};
use crate::tally::Tally;

/// How a change of size is made.
#[derive(Clone, Copy)]
struct Change {
    is_held: bool,
    flush: Option<Flush>,
}

/// Leaves of a block and of its first page, of the same memory.
fn of_both_sizes<S: Subject>(at: u64) -> impl Iterator<Item = (u64, u64)> {
    leaves::<S>(at, BLOCK).zip(leaves::<S>(at, PAGE))
}

/// Flushes by address of all that the block covers.
fn by_address(range: GpaRange) -> [Flush; 3] {
    let leaves = |level| Flush::Leaves { range, level };
    [Flush::Tables { range }, leaves(Hint::Unknown), leaves(Hint::Level(BLOCK))]
}

/// A block and a table that change places, where hardware may hold both: held, flushed, made.
pub(super) fn changes_of_size<S: Subject>(tally: &mut Tally) {
    if !S::format().overlaps() {
        return;
    }
    let here = of_both_sizes::<S>(HERE);
    let elsewhere = here.zip(of_both_sizes::<S>(THERE)).map(|((block, _), (_, page))| (block, page, false));
    let same = of_both_sizes::<S>(HERE).map(|(block, page)| (block, page, true));
    for (block, first, is_same) in same.chain(elsewhere) {
        for (is_held, flush) in [(true, Some(Flush::All)), (true, None), (false, Some(Flush::All))] {
            let change = Change { is_held, flush };
            let is_good = is_held && flush.is_some() && is_same;
            tally.case(Verdict::BreakBeforeMake, is_good, split::<S>(block, first, change));
            tally.case(Verdict::BreakBeforeMake, is_good, collapse::<S>(block, first, change));
        }
    }
}

/// While hardware may hold both sizes, no flush by address is sure to drop either.
pub(super) fn flushed_by_address<S: Subject>(tally: &mut Tally) {
    if !S::format().overlaps() {
        return;
    }
    let span = Script::<S>::new().span(GPA, BLOCK);
    for (block, first) in of_both_sizes::<S>(HERE) {
        for flush in by_address(span) {
            let change = Change { is_held: true, flush: Some(flush) };
            tally.bad(Verdict::BreakBeforeMake, split::<S>(block, first, change));
            tally.bad(Verdict::BreakBeforeMake, collapse::<S>(block, first, change));
        }
    }
}

/// A page whose block may still be cached is taken away: that of a table that has its block's place, by a flush of everything;
/// that of a table that has it since nobody has the block any more, by its address.
pub(super) fn used_beside_a_block<S: Subject>(tally: &mut Tally) {
    if !S::format().overlaps() {
        return;
    }
    for (block, first) in of_both_sizes::<S>(HERE) {
        let page = Script::<S>::new().span(GPA, PAGE);
        let leaf = Flush::Leaves { range: page, level: Hint::Level(PAGE) };
        for (before, after, is_good) in [
            (None, leaf, false),
            (None, Flush::Tables { range: page }, false),
            (None, Flush::All, true),
            (Some(Flush::All), leaf, true),
        ] {
            let (mut script, at, _) = mapped::<S>(block, BLOCK);
            let table = script.allocate();
            fill(&mut script, table, first);
            script.swap(ONE, at, S::format().held(script.table_word(table, BLOCK), BLOCK));
            before.into_iter().for_each(|flush| script.flush(ONE, flush));
            script.lock(ONE, word_at(table, 0));
            script.flush(ONE, after);
            script.note(Event::Taken { start: Hpa::new(HERE), len: 4096 });
            tally.case(Verdict::ReachesTakenMemory, is_good, script);
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
    change.flush.into_iter().for_each(|flush| script.flush(ONE, flush));
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
    change.flush.into_iter().filter(|_| change.is_held).for_each(|flush| script.flush(ONE, flush));
    script.store(ONE, at, block);
    script
}
