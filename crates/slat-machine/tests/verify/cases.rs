//! For every verdict, traces that deserve it and traces that do not, made from the formats' own words: so the checker
//! cannot go blind, nor cry wolf.

mod accessed;
mod annotations;
mod given_back;
mod hardware;
mod sets;
mod sizes;
mod tables;

use slat::addr::{GpaRange, Hpa, Level};
use slat::format::Format;
use slat::host::{Flush, Hint};
use slat_machine::checker::{Event, How, Verdict};

use crate::script::*;
use crate::subject::{PAGE, Subject, VMID, test_every_subject};
use crate::tally::Tally;

/// Where leaves of both levels may begin: a table of tables is not full, nor is it empty before it.
const GPA: u64 = 3 << 29;

/// A script in which `word` is mapped at [`GPA`], and where.
fn mapped<S: Subject>(word: u64, level: Level) -> (Script<S>, Hpa, GpaRange) {
    let mut script = Script::new();
    let at = script.entry(GPA, level);
    script.swap(ONE, at, word);
    let span = script.span(GPA, level);
    (script, at, span)
}

/// How a flush that would be enough fails to be: it is not.
#[derive(Clone, Copy)]
enum Flaw {
    None,
    WrongGuest,
    OneCore,
    NotWaitedFor,
    BegunBefore,
    Missing,
}
const FLAWS: [Flaw; 5] = [Flaw::WrongGuest, Flaw::OneCore, Flaw::NotWaitedFor, Flaw::BegunBefore, Flaw::Missing];

/// `change`, then a flush with a flaw.
fn flushed<S: Subject>(script: &mut Script<S>, flush: Flush, flaw: Flaw, change: impl FnOnce(&mut Script<S>)) {
    let early = matches!(flaw, Flaw::BegunBefore).then(|| script.begin(ONE, flush, VMID, all_cores()));
    change(script);
    let late = match flaw {
        Flaw::None | Flaw::NotWaitedFor => Some(script.begin(ONE, flush, VMID, all_cores())),
        Flaw::WrongGuest => Some(script.begin(ONE, flush, VMID + 1, all_cores())),
        Flaw::OneCore => Some(script.begin(ONE, flush, VMID, 0b1)),
        Flaw::BegunBefore => early,
        Flaw::Missing => None,
    };
    if let Some(id) = late.filter(|_| !matches!(flaw, Flaw::NotWaitedFor)) {
        script.done(id);
    }
}

/// Does `play` with every flush of a leaf of `level` at `span` that is enough (good), that is too little, and with every
/// flaw.
fn with_every_flush(span: GpaRange, level: Level, mut play: impl FnMut(Flush, Flaw, bool)) {
    enough(span, level).into_iter().for_each(|flush| play(flush, Flaw::None, true));
    too_little(span, level).into_iter().for_each(|flush| play(flush, Flaw::None, false));
    FLAWS.into_iter().for_each(|flaw| play(Flush::Tables { range: span }, flaw, false));
}

fn break_before_make<S: Subject>(tally: &mut Tally) {
    let verdict = Verdict::BreakBeforeMake;
    for level in [PAGE, BLOCK] {
        for (old, new) in leaves::<S>(HERE, level).zip(leaves::<S>(THERE, level)) {
            let (_, _, span) = mapped::<S>(old, level);
            with_every_flush(span, level, |flush, flaw, is_good| {
                let (mut script, at, _) = mapped::<S>(old, level);
                flushed(&mut script, flush, flaw, |script| script.lock(ONE, at));
                script.store(ONE, at, new);
                // Where the architecture has no such rule, a flush has to come before the call returns, and no sooner.
                if S::RULES.breaks || is_good {
                    tally.case(verdict, is_good, script);
                }
            });
            let (mut script, at, _) = mapped::<S>(old, level);
            script.swap(ONE, at, new);
            if S::RULES.breaks {
                tally.bad(verdict, script);
            }
        }
    }
}

/// A block that becomes a table, and a table that becomes a block.
fn break_before_make_of_tables<S: Subject>(tally: &mut Tally) {
    for (block, page) in leaves::<S>(HERE, BLOCK).zip(leaves::<S>(HERE, PAGE)) {
        for is_flushed in [true, false] {
            let (mut script, at, span) = mapped::<S>(block, BLOCK);
            let table = script.allocate();
            script.lock(ONE, at);
            if is_flushed {
                script.flush(ONE, Flush::Tables { range: span });
            }
            script.store(ONE, at, script.table_word(table, BLOCK));
            if is_flushed || S::RULES.breaks {
                tally.case(Verdict::BreakBeforeMake, is_flushed, script);
            }

            let (mut script, ..) = mapped::<S>(page, PAGE);
            let at = script.entry(GPA, BLOCK);
            script.lock(ONE, at);
            if is_flushed {
                script.flush(ONE, Flush::Tables { range: span });
            }
            script.store(ONE, at, block);
            if is_flushed || S::RULES.breaks {
                tally.case(Verdict::BreakBeforeMake, is_flushed, script);
            }
        }
    }
}

/// Changes of permission, of notes of software and of the accessed flag need no break.
fn changes_in_place<S: Subject>(tally: &mut Tally) {
    let format = S::format();
    for level in [PAGE, BLOCK] {
        for word in writable::<S>(HERE, level) {
            let (mut script, at, span) = mapped::<S>(word, level);
            script.note(Event::Called { thread: ONE });
            script.note(Event::Called { thread: TWO });
            script.swap(ONE, at, format.write_protected(word, level));
            script.swap(ONE, at, format.write_revoked(word, level));
            script.swap(TWO, at, format.made_writable(word, level));
            script.swap(TWO, at, format.made_old(word, level));
            script.swap(TWO, at, format.made_accessed(word, level));
            script.flush(ONE, enough(span, level)[3]);
            script.note(Event::Returned { thread: ONE });
            tally.good(Verdict::BreakBeforeMake, script);
        }
    }
}

fn empty_while_cached<S: Subject>(tally: &mut Tally) {
    for level in [PAGE, BLOCK] {
        for word in leaves::<S>(HERE, level) {
            let (_, _, span) = mapped::<S>(word, level);
            with_every_flush(span, level, |flush, flaw, is_good| {
                let (mut script, at, _) = mapped::<S>(word, level);
                flushed(&mut script, flush, flaw, |script| script.lock(ONE, at));
                script.store(ONE, at, 0);
                tally.case(Verdict::EmptyWhileCached, is_good, script);
            });
        }
    }
}

fn returned_unflushed<S: Subject>(tally: &mut Tally) {
    for level in [PAGE, BLOCK] {
        for word in writable::<S>(HERE, level) {
            let (_, _, span) = mapped::<S>(word, level);
            with_every_flush(span, level, |flush, flaw, is_good| {
                let (mut script, at, _) = mapped::<S>(word, level);
                // Another call is on its way, so that nobody asks whether the flush has a cause.
                script.note(Event::Called { thread: TWO });
                script.note(Event::Called { thread: ONE });
                let protected = S::format().write_protected(word, level);
                flushed(&mut script, flush, flaw, |script| script.swap(ONE, at, protected));
                script.note(Event::Returned { thread: ONE });
                tally.case(Verdict::ReturnedUnflushed, is_good, script);
            });
        }
    }
}

fn flush_without_cause<S: Subject>(tally: &mut Tally) {
    for level in [PAGE, BLOCK] {
        for word in writable::<S>(HERE, level) {
            let (_, _, span) = mapped::<S>(word, level);
            let wider = GpaRange::with_len(span.start(), 2 * span.len()).unwrap();
            for (flush, is_changed) in enough(span, level)
                .into_iter()
                .flat_map(|flush| [(flush, true), (flush, false)])
                .chain([(Flush::Tables { range: wider }, true)])
            {
                let (mut script, at, _) = mapped::<S>(word, level);
                script.note(Event::Called { thread: ONE });
                if is_changed {
                    script.swap(ONE, at, S::format().write_protected(word, level));
                }
                script.flush(ONE, flush);
                script.note(Event::Returned { thread: ONE });
                let is_good = is_changed && flush != Flush::Tables { range: wider };
                tally.case(Verdict::FlushWithoutCause, is_good, script);
            }
        }
    }
}

fn not_owner<S: Subject>(tally: &mut Tally) {
    for level in [PAGE, BLOCK] {
        for word in leaves::<S>(HERE, level) {
            for thread in [ONE, TWO] {
                let (mut script, at, span) = mapped::<S>(word, level);
                script.lock(ONE, at);
                script.flush(ONE, Flush::Tables { range: span });
                script.store(thread, at, word);
                tally.case(Verdict::NotOwner, thread == ONE, script);
            }
            let (mut script, at, _) = mapped::<S>(word, level);
            script.store(ONE, at, S::format().write_protected(word, level));
            tally.bad(Verdict::NotOwner, script);
            let (mut script, at, _) = mapped::<S>(word, level);
            script.lock(ONE, at);
            script.swap(TWO, at, word);
            tally.bad(Verdict::NotOwner, script);
        }
    }
    // Children are frozen and thawed by the owner of their table's entry.
    for (thread, word) in [ONE, TWO].into_iter().flat_map(|thread| leaves::<S>(HERE, PAGE).map(move |w| (thread, w))) {
        let (mut script, at, _) = mapped::<S>(word, PAGE);
        script.freeze_and_give_back(ONE, GPA, |script| script.store(thread, at, word));
        tally.case(Verdict::NotOwner, thread == ONE, script);
    }
}

fn blind_change<S: Subject>(tally: &mut Tally) {
    for how in [How::Swap, How::Exchange] {
        for new in [S::Format::LOCKED, S::Format::FROZEN] {
            for word in leaves::<S>(HERE, PAGE) {
                let (mut script, at, _) = mapped::<S>(word, PAGE);
                script.write(ONE, at, new, how);
                tally.case(Verdict::BlindChange, how == How::Swap, script);
            }
        }
    }
}

fn left_locked<S: Subject>(tally: &mut Tally) {
    for word in leaves::<S>(HERE, PAGE) {
        for is_restored in [true, false] {
            let (mut script, at, _) = mapped::<S>(word, PAGE);
            script.note(Event::Called { thread: ONE });
            script.lock(ONE, at);
            if is_restored {
                script.store(ONE, at, word);
            }
            script.note(Event::Returned { thread: ONE });
            tally.case(Verdict::LeftLocked, is_restored, script);

            let (mut script, at, _) = mapped::<S>(word, PAGE);
            script.freeze_and_give_back(ONE, GPA, |script| {
                if is_restored {
                    script.store(ONE, at, word);
                }
            });
            script.note(Event::Quiet);
            tally.case(Verdict::LeftLocked, is_restored, script);
        }
    }
}

/// What can happen to a table that is cut off, once nobody comes to it any more.
const ENDS: [fn(Hpa) -> Event; 2] = [
    |table| Event::Freed { table, tables: 1 },
    |table| Event::Wrote { thread: ONE, at: table, old: 0, new: 0, how: How::Exchange },
];

fn freed_while_walked<S: Subject>(tally: &mut Tally) {
    for word in leaves::<S>(HERE, PAGE) {
        let (mut script, ..) = mapped::<S>(word, PAGE);
        let span = script.span(GPA, BLOCK);
        let middle = GpaRange::with_len(span.start(), S::size(PAGE)).unwrap();
        let leaves_only = Flush::Leaves { range: span, level: Hint::Unknown };
        let whole = [(Flush::All, true), (Flush::Tables { range: span }, true), (leaves_only, false)];
        let table = script.table_below(GPA, BLOCK);
        drop(script);
        for end in ENDS {
            let mut play = |flush, flaw, is_good| {
                let (mut script, ..) = mapped::<S>(word, PAGE);
                // The first and the last page of the table are cached: a flush of the first one leaves the other.
                let last = script.entry(GPA + S::size(BLOCK) - S::size(PAGE), PAGE);
                script.swap(ONE, last, word);
                let at = script.entry(GPA, BLOCK);
                flushed(&mut script, flush, flaw, |script| script.lock(ONE, at));
                script.note(end(table));
                if is_good {
                    script.store(ONE, at, 0);
                }
                tally.case(Verdict::FreedWhileWalked, is_good, script);
            };
            whole.into_iter().for_each(|(flush, is_good)| play(flush, Flaw::None, is_good));
            FLAWS.into_iter().for_each(|flaw| play(Flush::Tables { range: span }, flaw, false));
            play(Flush::Tables { range: middle }, Flaw::None, false);
        }
    }
    let (mut script, ..) = mapped::<S>(leaves::<S>(HERE, PAGE).next().unwrap(), PAGE);
    let table = script.table_below(GPA, BLOCK);
    script.note(Event::Freed { table, tables: 1 });
    tally.bad(Verdict::FreedWhileWalked, script);
}

fn double_use<S: Subject>(tally: &mut Tally) {
    let verdict = Verdict::DoubleUse;
    let block = S::size(BLOCK);
    for elsewhere in [GPA, GPA + block] {
        // Linked while it is linked.
        let mut script = Script::<S>::new();
        let table = script.table_below(GPA, BLOCK);
        let at = script.entry(GPA + 2 * block, BLOCK);
        script.swap(ONE, at, script.table_word(table, BLOCK));
        tally.bad(verdict, script);
        for is_flushed in [true, false] {
            // Linked again, before and after walkers have forgotten it.
            let mut script = Script::<S>::new();
            let table = script.table_below(GPA, BLOCK);
            let at = script.entry(GPA, BLOCK);
            let span = script.span(GPA, BLOCK);
            script.lock(ONE, at);
            if is_flushed {
                script.flush(ONE, Flush::Tables { range: span });
                script.store(ONE, at, 0);
            }
            let other = script.entry(elsewhere + block, BLOCK);
            script.swap(ONE, other, script.table_word(table, BLOCK));
            tally.case(verdict, is_flushed, script);
        }
    }
    // Never given out, given out twice, freed twice.
    let mut script = Script::<S>::new();
    let at = script.entry(GPA, BLOCK);
    script.swap(ONE, at, script.table_word(Hpa::new(8 << 30), BLOCK));
    tally.bad(verdict, script);
    for event in
        [Event::Allocated { table: Hpa::new(8 << 30), tables: 1 }, Event::Freed { table: Hpa::new(8 << 30), tables: 1 }]
    {
        let mut script = Script::<S>::new();
        script.note(Event::Allocated { table: Hpa::new(8 << 30), tables: 1 });
        script.note(event);
        script.note(event);
        tally.bad(verdict, script);
    }
}

fn linked_unclean<S: Subject>(tally: &mut Tally) {
    for word in leaves::<S>(HERE, PAGE).chain([S::Format::LOCKED, S::Format::FROZEN]) {
        let is_leaf = word != S::Format::LOCKED && word != S::Format::FROZEN;
        let words = S::format().geometry().entries();
        for written in [0, 1, words] {
            let mut script = Script::<S>::new();
            let at = script.entry(GPA, BLOCK);
            let table = script.allocate();
            (0..written).for_each(|index| script.store(ONE, word_at(table, index), word));
            script.swap(ONE, at, script.table_word(table, BLOCK));
            tally.case(Verdict::LinkedUnclean, written == 0 || (is_leaf && written == words), script);
        }
    }
}

fn use_after_free<S: Subject>(tally: &mut Tally) {
    for (is_freed, is_walked_again) in [(false, true), (true, false), (true, true)] {
        let mut script = Script::<S>::new();
        let table = script.table_below(GPA, BLOCK);
        let at = script.entry(GPA, BLOCK);
        let span = script.span(GPA, BLOCK);
        let pointer = Event::Read { thread: TWO, at, value: script.word(at) };
        script.note(pointer);
        if is_freed {
            script.lock(ONE, at);
            script.flush(ONE, Flush::Tables { range: span });
            script.store(ONE, at, 0);
            script.swap(ONE, at, script.table_word(table, BLOCK));
        }
        if is_walked_again {
            script.note(pointer);
        }
        script.note(Event::Read { thread: TWO, at: table, value: 0 });
        tally.case(Verdict::UseAfterFree, is_walked_again, script);
    }
    for access in [
        Event::Read { thread: TWO, at: Hpa::new(8 << 30), value: 0 },
        Event::Wrote { thread: TWO, at: Hpa::new(8 << 30), old: 0, new: 1 << 60, how: How::Swap },
    ] {
        for is_freed in [true, false] {
            let mut script = Script::<S>::new();
            script.note(Event::Allocated { table: Hpa::new(8 << 30), tables: 1 });
            if is_freed {
                script.note(Event::Freed { table: Hpa::new(8 << 30), tables: 1 });
            }
            script.note(access);
            tally.case(Verdict::UseAfterFree, !is_freed, script);
        }
    }
}

/// A pointer is good for the call in which it was read, or for the vCPU's stay out of its guest.
fn use_in_another_stay<S: Subject>(tally: &mut Tally) {
    let [called, returned] = [Event::Called { thread: TWO }, Event::Returned { thread: TWO }];
    let [left, entered] = [Event::Left { thread: TWO }, Event::Entered { thread: TWO }];
    let between: [(&[Event], &[Event], bool); 5] = [
        (&[called], &[], true),
        (&[called], &[returned, called], false),
        (&[left, called], &[returned, called], true),
        (&[left, called], &[returned, entered, called], false),
        (&[left, called], &[returned, entered, left, called], false),
    ];
    for (before, between, is_good) in between {
        let mut script = Script::<S>::new();
        let table = script.table_below(GPA, BLOCK);
        let at = script.entry(GPA, BLOCK);
        before.iter().for_each(|event| script.note(*event));
        script.read(TWO, at);
        between.iter().for_each(|event| script.note(*event));
        script.read(TWO, table);
        tally.case(Verdict::UseAfterFree, is_good, script);
    }
}

fn leak<S: Subject>(tally: &mut Tally) {
    for is_freed in [true, false] {
        let mut script = Script::<S>::new();
        let tables = S::format().geometry().root_tables();
        let table = script.allocate();
        script.note(Event::Uprooted { thread: ONE });
        script.flush(ONE, Flush::All);
        let root = script.root;
        script.note(Event::Freed { table: root, tables });
        if is_freed {
            script.note(Event::Freed { table, tables: 1 });
        }
        script.note(Event::Ended);
        tally.case(Verdict::Leak, is_freed, script);
    }
}

fn misconfigured<S: Subject>(tally: &mut Tally) {
    for (word, is_good) in leaves::<S>(HERE, PAGE).map(|word| (word, true)).chain([(S::RULES.reserved, false)]) {
        let (script, ..) = mapped::<S>(word, PAGE);
        tally.case(Verdict::Misconfigured, is_good, script);
    }
}

fn reaches_taken_memory<S: Subject>(tally: &mut Tally) {
    let verdict = Verdict::ReachesTakenMemory;
    for level in [PAGE, BLOCK] {
        for word in leaves::<S>(HERE, level) {
            let (_, _, span) = mapped::<S>(word, level);
            let len = span.len();
            let memory = Hpa::new(HERE);
            with_every_flush(span, level, |flush, flaw, is_good| {
                let (mut script, at, _) = mapped::<S>(word, level);
                flushed(&mut script, flush, flaw, |script| script.lock(ONE, at));
                script.note(Event::Taken { start: memory, len: 4096 });
                tally.case(verdict, is_good, script);
            });
            // Still mapped; mapped afterwards; mapped after it was given back.
            let (mut script, ..) = mapped::<S>(word, level);
            script.note(Event::Taken { start: Hpa::new(HERE + len - 4096), len: 4096 });
            tally.bad(verdict, script);
            for is_given in [true, false] {
                let mut script = Script::<S>::new();
                script.note(Event::Taken { start: memory, len });
                if is_given {
                    script.note(Event::Given { start: memory, len });
                }
                let at = script.entry(GPA, level);
                script.swap(ONE, at, word);
                tally.case(verdict, is_given, script);
            }
        }
    }
}

fn writes_where_withdrawn<S: Subject>(tally: &mut Tally) {
    let verdict = Verdict::WritesWhereWithdrawn;
    for level in [PAGE, BLOCK] {
        for word in writable::<S>(HERE, level) {
            let revoked = S::format().write_revoked(word, level);
            let (_, _, span) = mapped::<S>(word, level);
            let page = GpaRange::with_len(span.start(), S::size(PAGE)).unwrap();
            with_every_flush(span, level, |flush, flaw, is_good| {
                let (mut script, at, _) = mapped::<S>(word, level);
                flushed(&mut script, flush, flaw, |script| script.swap(ONE, at, revoked));
                script.note(Event::Withdrawn(page));
                tally.case(verdict, is_good, script);
            });
            for is_granted in [true, false] {
                let (mut script, at, _) = mapped::<S>(revoked, level);
                script.note(Event::Withdrawn(page));
                if is_granted {
                    script.note(Event::Granted(page));
                }
                script.swap(ONE, at, word);
                tally.case(verdict, is_granted, script);
            }
        }
    }
}

fn lost_dirty_page<S: Subject>(tally: &mut Tally) {
    let verdict = Verdict::LostDirtyPage;
    for word in writable::<S>(HERE, PAGE) {
        let protected = S::format().write_protected(word, PAGE);
        let (_, _, span) = mapped::<S>(word, PAGE);
        with_every_flush(span, PAGE, |flush, flaw, is_good| {
            let (mut script, at, _) = mapped::<S>(word, PAGE);
            script.note(Event::Logged(span));
            flushed(&mut script, flush, flaw, |script| script.swap(ONE, at, protected));
            script.note(Event::Copied(span));
            script.note(Event::Complete(span));
            tally.case(verdict, is_good, script);
        });
        // Written again and not named; named and not copied; not logged any more.
        for (is_copied, is_logged) in [(true, true), (false, true), (false, false)] {
            let (mut script, at, _) = mapped::<S>(protected, PAGE);
            script.note(Event::Logged(span));
            script.swap(TWO, at, word);
            script.swap(ONE, at, protected);
            script.flush(ONE, Flush::All);
            if is_copied {
                script.note(Event::Copied(span));
            }
            if !is_logged {
                script.note(Event::Unlogged(span));
            }
            script.note(Event::Complete(span));
            tally.case(verdict, is_copied || !is_logged, script);
        }
    }
}

pub(crate) fn play_all<S: Subject>(tally: &mut Tally) {
    let cases: [fn(&mut Tally); 44] = [
        break_before_make::<S>,
        break_before_make_of_tables::<S>,
        sizes::changes_of_size::<S>,
        sizes::flushed_by_address::<S>,
        sizes::used_beside_a_block::<S>,
        changes_in_place::<S>,
        empty_while_cached::<S>,
        returned_unflushed::<S>,
        given_back::unflushed::<S>,
        given_back::with_its_table::<S>,
        flush_without_cause::<S>,
        not_owner::<S>,
        blind_change::<S>,
        left_locked::<S>,
        freed_while_walked::<S>,
        double_use::<S>,
        linked_unclean::<S>,
        use_after_free::<S>,
        leak::<S>,
        misconfigured::<S>,
        reaches_taken_memory::<S>,
        writes_where_withdrawn::<S>,
        lost_dirty_page::<S>,
        use_in_another_stay::<S>,
        hardware::lost_dirty_page::<S>,
        hardware::returned_unflushed::<S>,
        hardware::freed_while_walked::<S>,
        sets::break_before_make::<S>,
        sets::empty_while_cached::<S>,
        sets::returned_unflushed::<S>,
        sets::reaches_taken_memory::<S>,
        sets::lost_dirty_page::<S>,
        accessed::forgotten_by_sets::<S>,
        accessed::forgotten_by_blocks::<S>,
        annotations::lost::<S>,
        annotations::declared::<S>,
        annotations::unguarded::<S>,
        tables::read_again::<S>,
        tables::freed_beside_others::<S>,
        tables::of_the_last_root::<S>,
        tables::uprooted::<S>,
        tables::filled_anew::<S>,
        tables::filled_too_soon::<S>,
        given_back::but_for_a_note::<S>,
    ];
    cases.into_iter().for_each(|case| case(tally));
}

fn every_verdict_is_given_where_it_is_deserved_and_only_there<S: Subject>() {
    let mut tally = Tally::default();
    play_all::<S>(&mut tally);
    for verdict in Verdict::ALL {
        let (bad, good) = tally.counts.get(&verdict).copied().unwrap_or_default();
        println!("case|{}|{verdict:?}|{}|{bad}|{good}", S::NAME, verdict.property());
        let has_rule = S::RULES.breaks || verdict != Verdict::BreakBeforeMake;
        assert!(good > 0 && (bad > 0 || !has_rule), "{verdict:?} has {bad} cases against it and {good} for it");
    }
}

test_every_subject!(every_verdict: every_verdict_is_given_where_it_is_deserved_and_only_there);
