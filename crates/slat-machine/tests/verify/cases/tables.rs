//! The end of a table: what a walker keeps of it, and whose it is afterwards.

use slat::addr::{Gpa, GpaRange};
use slat::format::Format;
use slat::host::{Flush, Hint};
use slat_machine::checker::{Event, Verdict};

use super::{FLAWS, Flaw, GPA, flushed, mapped};
use crate::script::*;
use crate::subject::{PAGE, Subject};
use crate::tally::Tally;

/// Bytes of guest addresses that one root table is for.
fn of_a_root<S: Subject>() -> u64 {
    S::discipline(CORES).table_span(S::format().geometry().root_level())
}

/// A flush of leaves while the pointer to their table is cached drops nothing for good: they are read again. Once the pointer
/// is gone, only a flush of all of them is enough.
pub(super) fn read_again<S: Subject>(tally: &mut Tally) {
    for word in leaves::<S>(HERE, PAGE) {
        let span = S::format().geometry().span(Gpa::new(GPA), BLOCK);
        let first = GpaRange::with_len(span.start(), S::size(PAGE)).unwrap();
        let leaves_of = |range| Flush::Leaves { range, level: Hint::Unknown };
        let flushes = [
            ([leaves_of(span), Flush::Tables { range: first }], false),
            ([Flush::Tables { range: first }, leaves_of(span)], true),
            ([leaves_of(first), Flush::Tables { range: span }], true),
        ];
        for (flushes, is_good) in flushes {
            let (mut script, ..) = mapped::<S>(word, PAGE);
            let last = script.entry(GPA + S::size(BLOCK) - S::size(PAGE), PAGE);
            script.swap(ONE, last, word);
            let table = script.table_below(GPA, BLOCK);
            let at = script.entry(GPA, BLOCK);
            script.lock(ONE, at);
            flushes.into_iter().for_each(|flush| script.flush(ONE, flush));
            script.note(Event::Freed { table, tables: 1 });
            tally.case(Verdict::FreedWhileWalked, is_good, script);
        }
    }
}

/// What is stale of the tables around one is no reason to keep that one.
pub(super) fn freed_beside_others<S: Subject>(tally: &mut Tally) {
    for word in writable::<S>(HERE, PAGE) {
        let mut script = Script::<S>::new();
        let tables = [0, 1, 2].map(|number| GPA + number * S::size(BLOCK)).map(|gpa| (gpa, script.entry(gpa, PAGE)));
        tables.into_iter().for_each(|(_, at)| script.swap(ONE, at, word));
        let (gpa, at) = tables[1];
        let table = at.align_down(S::format().geometry().table_bytes());
        let above = script.entry(gpa, BLOCK);
        script.lock(ONE, above);
        [0, 2].into_iter().for_each(|other| script.swap(TWO, tables[other].1, S::format().write_protected(word, PAGE)));
        script.flush(ONE, Flush::Tables { range: script.span(gpa, BLOCK) });
        script.note(Event::Freed { table, tables: 1 });
        tally.good(Verdict::FreedWhileWalked, script);
    }
}

/// A guest's highest addresses are those of the last of several root tables.
pub(super) fn of_the_last_root<S: Subject>(tally: &mut Tally) {
    let gpa = GPA + (S::format().geometry().root_tables() as u64 - 1) * of_a_root::<S>();
    for word in writable::<S>(HERE, PAGE) {
        for (flushed, is_good) in [(gpa, true), (GPA, gpa == GPA)] {
            let mut script = Script::<S>::new();
            let at = script.entry(gpa, PAGE);
            script.swap(ONE, at, word);
            script.note(Event::Called { thread: TWO });
            script.note(Event::Called { thread: ONE });
            script.swap(ONE, at, S::format().write_protected(word, PAGE));
            let range = script.span(flushed, PAGE);
            script.flush(ONE, Flush::Leaves { range, level: Hint::Unknown });
            script.note(Event::Returned { thread: ONE });
            tally.case(Verdict::ReturnedUnflushed, is_good, script);
        }
    }
}

/// The root is loaded until everything is flushed, on every core, after it was cut off.
pub(super) fn uprooted<S: Subject>(tally: &mut Tally) {
    let whole = GpaRange::with_len(Gpa::new(0), of_a_root::<S>()).unwrap();
    let mut play = |flush, flaw, is_good| {
        let mut script = Script::<S>::new();
        let (root, tables) = (script.root, S::format().geometry().root_tables());
        flushed(&mut script, flush, flaw, |script| script.note(Event::Uprooted { thread: ONE }));
        script.note(Event::Freed { table: root, tables });
        tally.case(Verdict::FreedWhileWalked, is_good, script);
    };
    play(Flush::All, Flaw::None, true);
    play(Flush::Tables { range: whole }, Flaw::None, false);
    FLAWS.into_iter().for_each(|flaw| play(Flush::All, flaw, false));
}

/// What was unlinked and flushed belongs to whoever fills it anew, be it given back and out in between or not: others have no
/// business there by the pointers of before.
pub(super) fn filled_anew<S: Subject>(tally: &mut Tally) {
    for (owner, user) in [(ONE, ONE), (ONE, TWO), (TWO, ONE), (TWO, TWO)] {
        for is_given_out in [true, false] {
            let mut script = Script::<S>::new();
            let (table, at) = (script.table_below(GPA, BLOCK), script.entry(GPA, BLOCK));
            script.read(user, at);
            script.lock(ONE, at);
            script.flush(ONE, Flush::Tables { range: script.span(GPA, BLOCK) });
            script.store(ONE, at, 0);
            if is_given_out {
                script.note(Event::Freed { table, tables: 1 });
                script.note(Event::Allocated { table, tables: 1 });
            }
            script.store(owner, word_at(table, 0), 0);
            script.read(user, word_at(table, 1));
            tally.case(Verdict::UseAfterFree, owner == user, script);
        }
    }
}

/// Who fills a table anew that is cached has taken it too soon.
pub(super) fn filled_too_soon<S: Subject>(tally: &mut Tally) {
    let span = S::format().geometry().span(Gpa::new(GPA), BLOCK);
    for (flush, is_good) in [
        (Flush::Tables { range: span }, true),
        (Flush::All, true),
        (Flush::Leaves { range: span, level: Hint::Unknown }, false),
    ] {
        for flaw in [Flaw::None].into_iter().chain(FLAWS) {
            let (mut script, ..) = mapped::<S>(leaves::<S>(HERE, PAGE).next().unwrap(), PAGE);
            let (table, at) = (script.table_below(GPA, BLOCK), script.entry(GPA, BLOCK));
            flushed(&mut script, flush, flaw, |script| script.lock(ONE, at));
            script.store(ONE, word_at(table, 0), 0);
            tally.case(Verdict::DoubleUse, is_good && matches!(flaw, Flaw::None), script);
        }
    }
}
