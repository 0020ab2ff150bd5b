//! Sets of leaves that hardware may take for one, where the format makes them: all rules are those of one leaf.

use slat::addr::{GpaRange, Hpa};
use slat::format::Format;
use slat::host::{Flush, Hint};
use slat_machine::checker::{Event, Verdict};

use super::{Flaw, GPA, flushed, with_every_flush};
use crate::script::*;
use crate::subject::{PAGE, Subject};
use crate::tally::Tally;

/// A set of pages, mapped.
pub(super) struct Set<S: Subject> {
    pub(super) script: Script<S>,
    pub(super) entries: Vec<Hpa>,
    pub(super) span: GpaRange,
}

pub(super) fn count<S: Subject>() -> usize {
    match S::format().group_bits(PAGE) {
        0 => 0,
        bits => 1 << bits,
    }
}

/// First leaves of sets through which the guest may write; none where there are no sets.
pub(super) fn firsts<S: Subject>() -> impl Iterator<Item = u64> {
    writable::<S>(HERE, PAGE).filter(|_| count::<S>() > 0)
}

/// Page number `member` of the memory that begins with the leaf `first`, as a leaf of its own.
pub(super) fn single<S: Subject>(first: u64, member: usize) -> u64 {
    let leaf = S::format().decode(first, PAGE);
    let hpa = Hpa::new(leaf.hpa.get() + member as u64 * S::size(PAGE));
    S::format().leaf(slat::format::Leaf { hpa, ..leaf }, PAGE)
}

fn member<S: Subject>(first: u64, member: usize) -> u64 {
    S::format().grouped(single::<S>(first, member), PAGE)
}

impl<S: Subject> Set<S> {
    pub(super) fn mapped(first: u64) -> Self {
        let mut script = Script::new();
        let pages = (0..count::<S>()).map(|page| GPA + page as u64 * S::size(PAGE));
        let entries: Vec<_> = pages.map(|gpa| script.entry(gpa, PAGE)).collect();
        for (number, at) in entries.iter().enumerate().rev() {
            script.swap(ONE, *at, member::<S>(first, number));
        }
        let bytes = entries.len() as u64 * S::size(PAGE);
        let span = GpaRange::with_len(script.span(GPA, PAGE).start(), bytes).unwrap();
        Self { script, entries, span }
    }
}

/// As [`with_every_flush`], of a whole set; and flushes of a part of it, which may leave the rest.
fn with_every_flush_of_set<S: Subject>(play: &mut impl FnMut(Flush, Flaw, bool)) {
    let span = Set::<S>::mapped(firsts::<S>().next().unwrap()).span;
    with_every_flush(span, PAGE, &mut *play);
    for bytes in [S::size(PAGE), span.len() / 2, span.len() - S::size(PAGE)] {
        let part = GpaRange::with_len(span.start(), bytes).unwrap();
        play(Flush::Leaves { range: part, level: Hint::Level(PAGE) }, Flaw::None, false);
        play(Flush::Tables { range: part }, Flaw::None, false);
    }
}

/// Which entries are locked: all, or one that is in the middle.
fn locked<S: Subject>(script: &mut Script<S>, entries: &[Hpa], all: bool) {
    let middle = entries.len() / 2;
    entries.iter().enumerate().filter(|(number, _)| all || *number == middle).for_each(|(_, at)| script.lock(ONE, *at));
}

pub(super) fn break_before_make<S: Subject>(tally: &mut Tally) {
    for first in firsts::<S>().filter(|_| S::RULES.breaks) {
        let middle = count::<S>() / 2;
        with_every_flush_of_set::<S>(&mut |flush, flaw, is_good| {
            for all in [true, false] {
                let Set { mut script, entries, .. } = Set::<S>::mapped(first);
                flushed(&mut script, flush, flaw, |script| locked(script, &entries, all));
                script.store(ONE, entries[middle], single::<S>(first, middle));
                tally.case(Verdict::BreakBeforeMake, is_good && all, script);
            }
        });
    }
}

pub(super) fn empty_while_cached<S: Subject>(tally: &mut Tally) {
    for first in firsts::<S>() {
        with_every_flush_of_set::<S>(&mut |flush, flaw, is_good| {
            for all in [true, false] {
                let Set { mut script, entries, .. } = Set::<S>::mapped(first);
                flushed(&mut script, flush, flaw, |script| locked(script, &entries, all));
                script.store(ONE, entries[entries.len() / 2], 0);
                tally.case(Verdict::EmptyWhileCached, is_good && all, script);
            }
        });
    }
}

/// What one leaf of the set still says holds for all.
pub(super) fn returned_unflushed<S: Subject>(tally: &mut Tally) {
    for first in firsts::<S>() {
        with_every_flush_of_set::<S>(&mut |flush, flaw, is_good| {
            for spared in [None, Some(0), Some(count::<S>() - 1)] {
                let Set { mut script, entries, .. } = Set::<S>::mapped(first);
                script.note(Event::Called { thread: TWO });
                script.note(Event::Called { thread: ONE });
                flushed(&mut script, flush, flaw, |script| {
                    for (number, at) in entries.iter().enumerate().filter(|(number, _)| Some(*number) != spared) {
                        script.swap(ONE, *at, S::format().write_protected(member::<S>(first, number), PAGE));
                    }
                });
                script.note(Event::Returned { thread: ONE });
                tally.case(Verdict::ReturnedUnflushed, is_good && spared.is_none(), script);
            }
        });
        // Another thread may give the permission back meanwhile, leaf by leaf.
        let Set { mut script, entries, span } = Set::<S>::mapped(first);
        script.note(Event::Called { thread: TWO });
        script.note(Event::Called { thread: ONE });
        for (number, at) in entries.iter().enumerate() {
            script.swap(ONE, *at, S::format().write_protected(member::<S>(first, number), PAGE));
            if number == 0 {
                script.swap(TWO, *at, member::<S>(first, 0));
            }
        }
        script.flush(ONE, Flush::Leaves { range: span, level: Hint::Level(PAGE) });
        script.note(Event::Returned { thread: ONE });
        tally.good(Verdict::ReturnedUnflushed, script);
    }
}

/// The memory of one page of a set is taken.
pub(super) fn reaches_taken_memory<S: Subject>(tally: &mut Tally) {
    for first in firsts::<S>() {
        with_every_flush_of_set::<S>(&mut |flush, flaw, is_good| {
            for all in [true, false] {
                let Set { mut script, entries, .. } = Set::<S>::mapped(first);
                flushed(&mut script, flush, flaw, |script| locked(script, &entries, all));
                let page = entries.len() as u64 / 2;
                script.note(Event::Taken { start: Hpa::new(HERE + page * S::size(PAGE)), len: S::size(PAGE) });
                tally.case(Verdict::ReachesTakenMemory, is_good && all, script);
            }
        });
    }
}

/// A write through one leaf of a set may be one to any of its pages.
pub(super) fn lost_dirty_page<S: Subject>(tally: &mut Tally) {
    for first in firsts::<S>() {
        for named in [1, count::<S>() as u64] {
            let Set { mut script, entries, span } = Set::<S>::mapped(first);
            script.note(Event::Logged(span));
            for (number, at) in entries.iter().enumerate() {
                script.swap(ONE, *at, S::format().write_protected(member::<S>(first, number), PAGE));
            }
            script.flush(ONE, Flush::Leaves { range: span, level: Hint::Level(PAGE) });
            script.note(Event::Copied(GpaRange::with_len(span.start(), named * S::size(PAGE)).unwrap()));
            script.note(Event::Complete(span));
            tally.case(Verdict::LostDirtyPage, named > 1, script);
        }
    }
}
