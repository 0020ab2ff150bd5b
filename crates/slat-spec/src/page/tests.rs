//! What the specification explains and what it does not, one call after the other unless a test says otherwise.

use super::*;
use crate::{Call, Place, explain};
use slat::addr::Level;
use slat::vm::Outcome;

use Operation::*;

const PLAIN: Flags = Flags { read_only: false, log: Log::Off };
const LOGGED: Flags = Flags { read_only: false, log: Log::Protect };
const INITIALLY_SET: Flags = Flags { read_only: false, log: Log::InitiallySet };
const BY_HARDWARE: Flags = Flags { read_only: false, log: Log::Hardware };
const READ_ONLY: Flags = Flags { read_only: true, log: Log::Off };

const MAPPED: Operation = Mapped { access: Access::Write, writable: true };
const MAPPED_BY_READING: Operation = Mapped { access: Access::Read, writable: true };
const MAPPED_TO_READ: Operation = Mapped { access: Access::Read, writable: false };
const WRITTEN: Operation = Written { grouped: false };
const SETTLED: Operation = Settled { by: 0 };
const CLEAN: Operation = Harvested { dirty: false };
const DIRTY: Operation = Harvested { dirty: true };

const fn read(dirty: bool) -> Operation {
    Read { dirty, by: 0 }
}

const fn collected(by: u8) -> Operation {
    Collected { by }
}

fn is_explained(flags: Flags, operations: &[Operation]) -> bool {
    let calls = (0..).step_by(2).zip(operations).map(|(from, &operation)| Call { from, to: from + 1, operation });
    explain(Page::new(flags), &calls.collect::<Vec<_>>()).is_ok()
}

#[track_caller]
fn right(flags: Flags, operations: &[Operation]) {
    assert!(is_explained(flags, operations), "{operations:?}");
}

#[track_caller]
fn wrong(flags: Flags, operations: &[Operation]) {
    assert!(!is_explained(flags, operations), "{operations:?}");
}

#[test]
fn turning_the_log_on_protects_every_page_before_it_is_settled() {
    let on = [Announced(LOGGED), SETTLED];
    let then = |rest: &[Operation]| [&[MAPPED, Marked], &on[..], rest].concat();
    right(PLAIN, &then(&[Looked(Some(false)), Relaxed, Marked, DIRTY, Secured, CLEAN]));
    wrong(PLAIN, &then(&[Looked(Some(true))]));
    wrong(PLAIN, &then(&[Spurious(Access::Write)]));
    wrong(PLAIN, &then(&[DIRTY, Secured]));
    wrong(PLAIN, &then(&[Relaxed, Marked, CLEAN]));
    right(PLAIN, &[&[MAPPED, Marked], &on[..1], &[Looked(Some(true)), SETTLED]].concat());
}

#[test]
fn what_a_fault_gives_under_the_log_it_marks() {
    let on = [Announced(LOGGED), SETTLED];
    wrong(PLAIN, &[&on[..], &[MAPPED]].concat());
    wrong(PLAIN, &[&on[..], &[MAPPED_BY_READING, Marked]].concat());
    right(PLAIN, &[&on[..], &[MAPPED_TO_READ]].concat());
    // By the old flags, while the new ones are on their way.
    right(PLAIN, &[on[0], MAPPED_BY_READING, Marked, on[1], Looked(Some(false)), CLEAN]);
    wrong(PLAIN, &[on[0], MAPPED_BY_READING, Marked, on[1], Looked(Some(true))]);
}

#[test]
fn turning_the_log_off_takes_its_marks_and_gives_nothing() {
    let off = [Announced(PLAIN), SETTLED];
    let then = |rest: &[Operation]| [&[MAPPED_TO_READ], &off[..], rest].concat();
    right(LOGGED, &then(&[NotLogged, Looked(Some(false)), Relaxed, Marked]));
    wrong(LOGGED, &then(&[Looked(Some(true))]));
    wrong(LOGGED, &then(&[CLEAN]));
    wrong(LOGGED, &[NotLogged]);
    let again = [Announced(LOGGED), SETTLED];
    let twice = |rest: &[Operation]| [&[MAPPED, Marked], &off[..], &again, rest].concat();
    right(LOGGED, &twice(&[CLEAN]));
    wrong(LOGGED, &twice(&[DIRTY, Secured]));
}

#[test]
fn a_log_that_begins_with_every_mark_protects_what_is_taken_from_it() {
    let on = [Announced(INITIALLY_SET), SETTLED];
    let then = |rest: &[Operation]| [&[MAPPED, Marked], &on[..], rest].concat();
    right(PLAIN, &then(&[Looked(Some(true)), DIRTY, Secured, Looked(Some(false)), CLEAN]));
    wrong(PLAIN, &then(&[CLEAN]));
    wrong(PLAIN, &then(&[DIRTY, Secured, Looked(Some(true))]));
    wrong(PLAIN, &then(&[Looked(Some(false))]));
}

#[test]
fn a_slot_that_is_read_only_is_not_written_to_and_what_was_withdrawn_is_mapped_anew() {
    let on = [Announced(READ_ONLY), SETTLED];
    let off = [Announced(PLAIN), SETTLED];
    let then = |rest: &[Operation]| [&[MAPPED, Marked], &on[..], rest].concat();
    right(PLAIN, &then(&[Refused, Looked(Some(false))]));
    wrong(PLAIN, &then(&[Looked(Some(true))]));
    wrong(PLAIN, &then(&[Relaxed, Marked]));
    wrong(PLAIN, &then(&[MAPPED, Marked]));
    wrong(PLAIN, &[MAPPED, Marked, Refused]);
    right(PLAIN, &then(&[&off[..], &[MAPPED, Marked, WRITTEN]].concat()));
    wrong(PLAIN, &then(&[&off[..], &[Relaxed, Marked]].concat()));
    wrong(PLAIN, &then(&[&off[..], &[MAPPED_TO_READ]].concat()));
    right(READ_ONLY, &[MAPPED_TO_READ, Refused]);
}

#[test]
fn a_worker_that_clears_a_mark_protects_the_page_and_one_that_finds_none_need_not() {
    let clear = |by| [Cleared { by }, Withheld { by }, FlushedFor { by }];
    let dirty = [MAPPED, Marked, read(true)];
    let then = |rest: &[Operation]| [&dirty[..], &clear(0), rest].concat();
    right(LOGGED, &then(&[Looked(Some(false)), read(false), CLEAN]));
    wrong(LOGGED, &then(&[Looked(Some(true))]));
    wrong(LOGGED, &then(&[read(true)]));
    wrong(LOGGED, &then(&[DIRTY, Secured]));
    right(LOGGED, &then(&[Relaxed, Marked, read(true)]));
    wrong(LOGGED, &[MAPPED, Marked, read(false)]);
    // Taken by one, so that the other has nothing to protect; whose mark it was says who has to.
    let both = [Cleared { by: 0 }, Cleared { by: 1 }];
    right(LOGGED, &[&dirty[..], &both, &[Withheld { by: 1 }, Looked(Some(true)), Withheld { by: 0 }]].concat());
    wrong(LOGGED, &[&dirty[..], &both, &[Withheld { by: 0 }, Looked(Some(true)), Withheld { by: 1 }]].concat());
    wrong(LOGGED, &[&dirty[..], &both[..1]].concat());
}

#[test]
fn a_worker_that_clears_beside_another_taker_may_miss_a_mark_which_stays() {
    let call = |from, to, operation| Call { from, to, operation };
    let history = |beside: Call, named: Operation| {
        let dirty = [call(0, 1, MAPPED), call(0, 1, Marked)];
        let cleared = [Cleared { by: 0 }, Withheld { by: 0 }, FlushedFor { by: 0 }];
        let cleared = cleared.map(|operation| call(4, 7, operation));
        let secured = (named == DIRTY).then(|| call(8, 9, Secured));
        dirty.into_iter().chain(cleared).chain([beside, call(8, 9, named)]).chain(secured).collect::<Vec<_>>()
    };
    let explained = |calls: Vec<Call>| explain(Page::new(LOGGED), &calls).is_ok();
    for (from, to) in [(3, 5), (5, 6), (6, 8)] {
        assert!(explained(history(call(from, to, TookBeside), CLEAN)));
        assert!(explained(history(call(from, to, TookBeside), DIRTY)));
    }
    assert!(!explained(history(call(2, 3, TookBeside), DIRTY)));
    assert!(!explained(history(call(5, 6, Aged), DIRTY)));
}

#[test]
fn what_hardware_has_noted_is_in_the_next_harvest() {
    let clean = [MAPPED, Marked, DIRTY, Secured, Flushed];
    let then = |rest: &[Operation]| [&clean[..], rest].concat();
    right(BY_HARDWARE, &then(&[CLEAN, WRITTEN, DIRTY, Secured, Flushed, CLEAN]));
    right(BY_HARDWARE, &then(&[WRITTEN, read(true), collected(0), read(true), DIRTY, Secured]));
    wrong(BY_HARDWARE, &then(&[WRITTEN, CLEAN]));
    wrong(BY_HARDWARE, &then(&[DIRTY, Secured]));
    wrong(BY_HARDWARE, &then(&[WRITTEN, read(false)]));
    // A removal moves it; what is written through what was cached before the flush belongs to the harvest that took it.
    let unmapped = |rest: &[Operation]| [&clean[..], &[WRITTEN, Unmapped { meant: true }], rest].concat();
    right(BY_HARDWARE, &unmapped(&[Moved, Flushed, DIRTY, Secured]));
    right(BY_HARDWARE, &unmapped(&[DIRTY, Secured, Moved, Flushed, DIRTY, Secured]));
    wrong(BY_HARDWARE, &unmapped(&[Moved, Flushed, CLEAN]));
    wrong(BY_HARDWARE, &unmapped(&[Flushed, CLEAN]));
    wrong(BY_HARDWARE, &unmapped(&[Moved, Flushed, DIRTY, Secured, DIRTY, Secured]));
    right(BY_HARDWARE, &then(&[WRITTEN, DIRTY, WRITTEN, Secured, Flushed, CLEAN]));
    wrong(BY_HARDWARE, &then(&[WRITTEN, DIRTY, Secured, Flushed, WRITTEN, CLEAN]));
    let clear =
        [read(true), collected(0), FlushedFor { by: 0 }, Cleared { by: 1 }, Withheld { by: 1 }, FlushedFor { by: 1 }];
    let cleared = |rest: &[Operation]| [&clean[..], &[WRITTEN], &clear, rest].concat();
    right(BY_HARDWARE, &cleared(&[CLEAN, WRITTEN, DIRTY, Secured]));
    wrong(BY_HARDWARE, &cleared(&[DIRTY, Secured]));
    wrong(BY_HARDWARE, &cleared(&[WRITTEN, CLEAN]));
}

#[test]
fn a_mark_that_is_half_made_is_read_and_may_be_missed_by_who_takes_it() {
    let half = [MAPPED, Marking, read(true)];
    let then = |rest: &[Operation]| [&half[..], rest].concat();
    let clear = [Cleared { by: 0 }, Withheld { by: 0 }];
    right(LOGGED, &then(&[&clear[..], &[read(true), Looked(Some(true)), Marked, DIRTY, Secured]].concat()));
    right(LOGGED, &then(&[&clear[..], &[read(false), Looked(Some(false)), Marked, CLEAN]].concat()));
    right(LOGGED, &then(&[CLEAN, Marked, DIRTY, Secured, CLEAN]));
    right(LOGGED, &then(&[DIRTY, Secured, CLEAN, Marked, CLEAN]));
    wrong(LOGGED, &then(&[DIRTY, Secured, Marked, DIRTY, Secured]));
    wrong(LOGGED, &then(&[Marked, CLEAN]));
    wrong(LOGGED, &then(&[Marked, clear[0], clear[1], read(true)]));
    wrong(LOGGED, &then(&[CLEAN]));
    // It had one before.
    right(LOGGED, &[MAPPED, Marked, Protected { meant: true }, Relaxed, Marking, DIRTY, Secured, Marked, CLEAN]);
    wrong(LOGGED, &[MAPPED, Marked, Protected { meant: true }, Relaxed, Marking, CLEAN, Marked]);
}

#[test]
fn a_fault_that_gives_permission_back_notes_the_write_in_hardwares_stead() {
    let relaxed = [MAPPED_TO_READ, Relaxed];
    let then = |rest: &[Operation]| [&relaxed[..], rest].concat();
    right(BY_HARDWARE, &then(&[DIRTY, Secured, Marked, DIRTY, Secured, CLEAN]));
    right(BY_HARDWARE, &then(&[Marked, DIRTY, Secured, CLEAN]));
    right(
        BY_HARDWARE,
        &then(&[Marked, read(true), Cleared { by: 1 }, collected(0), DIRTY, Withheld { by: 1 }, Secured]),
    );
    // One harvest takes the mark, another one what is noted; what is written when both have, neither may.
    let both = [Marked, DIRTY, DIRTY, Secured];
    right(BY_HARDWARE, &then(&[&both[..], &[Secured, CLEAN]].concat()));
    right(BY_HARDWARE, &then(&[&both[..], &[WRITTEN, DIRTY, Secured, Secured, CLEAN]].concat()));
    wrong(BY_HARDWARE, &then(&[&both[..2], &[Secured, Flushed, WRITTEN, CLEAN]].concat()));
    wrong(BY_HARDWARE, &then(&[&both[..], &[Secured, Flushed, WRITTEN, CLEAN]].concat()));
    wrong(BY_HARDWARE, &then(&[CLEAN, Marked]));
    right(BY_HARDWARE, &[MAPPED, CLEAN, Marked, DIRTY, Secured]);
    wrong(BY_HARDWARE, &[MAPPED, DIRTY, Secured, Marked]);
}

#[test]
fn what_a_reader_has_taken_from_the_entry_is_marked_before_it_returns_and_others_may_see_it_twice() {
    let taken = [MAPPED, Marked, DIRTY, Secured, Flushed, WRITTEN, read(true)];
    let then = |rest: &[Operation]| [&taken[..], rest].concat();
    right(BY_HARDWARE, &then(&[CLEAN, collected(0), DIRTY, Secured]));
    right(BY_HARDWARE, &then(&[collected(0), collected(0), DIRTY, Secured, CLEAN]));
    wrong(BY_HARDWARE, &then(&[]));
    wrong(BY_HARDWARE, &then(&[collected(1)]));
    wrong(BY_HARDWARE, &then(&[collected(0), CLEAN]));
    wrong(BY_HARDWARE, &then(&[CLEAN, collected(0), CLEAN]));
    // The other worker finds what was written since, and clears it; then comes the mark of before.
    let other = [WRITTEN, Read { dirty: true, by: 1 }, collected(1), Cleared { by: 1 }, Withheld { by: 1 }];
    right(BY_HARDWARE, &then(&[&other[..], &[CLEAN, collected(0), DIRTY, Secured]].concat()));
    wrong(BY_HARDWARE, &then(&[&other[..], &[collected(0), CLEAN]].concat()));
    // A log that was turned off in between has no marks.
    let again = [Announced(PLAIN), SETTLED, Announced(BY_HARDWARE), SETTLED, collected(0), CLEAN];
    right(BY_HARDWARE, &then(&again));
}

#[test]
fn a_leaf_that_came_of_pages_near_ones_that_are_read_only_may_be_as_they_are() {
    let read_only = [Announced(READ_ONLY), SETTLED, Announced(PLAIN), SETTLED];
    let mapped = [Unmapped { meant: true }, MAPPED, Marked, Collapsed];
    let then = |rest: &[Operation]| [&read_only[..], &mapped, rest].concat();
    right(PLAIN, &then(&[Looked(Some(false)), MAPPED, Marked, WRITTEN]));
    right(PLAIN, &then(&[Looked(Some(false)), Relaxed, Marked]));
    right(PLAIN, &then(&[Looked(Some(true)), WRITTEN]));
    wrong(PLAIN, &then(&[Looked(Some(true)), MAPPED, Marked]));
    wrong(PLAIN, &[&mapped[..], &[MAPPED, Marked]].concat());
}

#[test]
fn turning_on_the_log_that_hardware_keeps_forgets_what_was_noted_before_and_nothing_after() {
    let on = [Announced(BY_HARDWARE), SETTLED, FlushedFor { by: 0 }];
    let then = |rest: &[Operation]| [&[MAPPED, Marked, WRITTEN], &on[..], rest].concat();
    right(PLAIN, &then(&[CLEAN, WRITTEN, DIRTY, Secured]));
    wrong(PLAIN, &then(&[WRITTEN, CLEAN]));
    wrong(PLAIN, &then(&[DIRTY, Secured]));
    // A second worker that makes the same change may protect once more, but clean nothing.
    wrong(PLAIN, &then(&[WRITTEN, SETTLED, CLEAN]));
}

#[test]
fn no_write_comes_through_what_was_taken_once_it_is_flushed() {
    for taken in [Unmapped { meant: true }, Protected { meant: true }] {
        right(PLAIN, &[MAPPED, Marked, taken, WRITTEN, Flushed]);
        wrong(PLAIN, &[MAPPED, Marked, taken, Flushed, WRITTEN]);
    }
    wrong(PLAIN, &[WRITTEN]);
    wrong(PLAIN, &[MAPPED_TO_READ, WRITTEN]);
    wrong(PLAIN, &[MAPPED_TO_READ, Protected { meant: true }, WRITTEN]);
}

#[test]
fn a_fault_may_map_all_of_a_group_and_give_permission_back_to_it_outside_of_a_log() {
    let beside = MappedBeside { access: Access::Read, writable: true };
    for seen in [None, Some(true)] {
        right(PLAIN, &[beside, MarkedBeside, Looked(seen)]);
    }
    wrong(PLAIN, &[beside, MarkedBeside, Looked(Some(false))]);
    right(LOGGED, &[MappedBeside { access: Access::Read, writable: false }, Looked(Some(false))]);
    wrong(LOGGED, &[beside, Looked(Some(true))]);
    for seen in [false, true] {
        right(PLAIN, &[MAPPED, Marked, Protected { meant: true }, RelaxedBeside, MarkedBeside, Looked(Some(seen))]);
    }
    wrong(READ_ONLY, &[MAPPED_TO_READ, RelaxedBeside, Looked(Some(true))]);
    wrong(LOGGED, &[MAPPED_TO_READ, RelaxedBeside, Looked(Some(true))]);
}

#[test]
fn hardware_may_take_the_word_of_one_page_of_a_group_for_another_and_the_log_has_both() {
    let clean = [MAPPED, Marked, DIRTY, Secured, Flushed];
    let then = |rest: &[Operation]| [&clean[..], rest].concat();
    let grouped = Written { grouped: true };
    wrong(BY_HARDWARE, &then(&[Protected { meant: true }, Flushed, WRITTEN]));
    right(BY_HARDWARE, &then(&[Protected { meant: true }, Flushed, grouped, DIRTY, Secured]));
    wrong(BY_HARDWARE, &then(&[Protected { meant: true }, Flushed, grouped, CLEAN]));
    wrong(BY_HARDWARE, &[grouped]);
    right(BY_HARDWARE, &then(&[Noted, DIRTY, Secured]));
    right(BY_HARDWARE, &then(&[Noted, CLEAN]));
}

/// What faults do to pages around them: what was seen of a neighbour is explained by its being one of the group, and by
/// nothing else.
#[test]
fn a_fault_reaches_the_pages_of_its_leaf_and_of_its_group() {
    let on_page = Outcome::Mapped { level: Level::PAGE, writable: true };
    let on_block = Outcome::Mapped { level: Level::new(1), writable: true };
    let is_explained = |outcome, place, is_near, seen| {
        let fault = crate::Fault { access: Access::Write, outcome, place };
        let operations: Vec<_> = fault.operations(|_| is_near).chain([Looked(seen)]).collect();
        is_explained(PLAIN, &operations)
    };
    let [here, group, elsewhere] = [Place::Here { grouped: true }, Place::Group, Place::Elsewhere];
    let [mapped, missing] = [Some(true), None];
    for (outcome, place, is_near, seen, explained) in [
        (on_page, here, true, mapped, true),
        (on_page, here, true, missing, false),
        (on_page, group, true, mapped, true),
        (on_page, group, true, missing, true),
        (on_page, elsewhere, true, mapped, false),
        (on_block, elsewhere, true, mapped, true),
        (on_block, elsewhere, true, missing, false),
        (on_block, elsewhere, false, mapped, false),
    ] {
        assert_eq!(is_explained(outcome, place, is_near, seen), explained, "{outcome:?} at {place:?}: {seen:?}");
    }
}
