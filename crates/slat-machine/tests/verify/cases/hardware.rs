//! Hardware that notes what it writes to, where the format has that.

use slat::format::Format;
use slat::host::Flush;
use slat_machine::checker::{Event, Verdict};

use super::{BLOCK, flushed, mapped, with_every_flush};
use crate::script::*;
use crate::subject::{PAGE, Subject};
use crate::tally::Tally;

/// Leaves that are written through only after a note.
fn clean<S: Subject>() -> impl Iterator<Item = u64> {
    let has_note = S::format().hardware_dirty();
    writable::<S>(HERE, PAGE).filter(move |_| has_note).map(|word| S::format().made_clean(word, PAGE))
}

/// The note is the mark: who takes it out of an entry names the page.
pub(super) fn lost_dirty_page<S: Subject>(tally: &mut Tally) {
    let verdict = Verdict::LostDirtyPage;
    for word in clean::<S>() {
        let dirty = S::boxed_walker().dirtied(word);
        for (is_written, is_named) in [(false, false), (true, false), (true, true)] {
            for after in [S::format().made_clean(dirty, PAGE), S::format().write_protected(dirty, PAGE), 0] {
                let (mut script, at, span) = mapped::<S>(word, PAGE);
                script.note(Event::Logged(span));
                if is_written {
                    script.update(at, dirty);
                }
                script.lock(ONE, at);
                script.flush(ONE, Flush::Tables { range: span });
                script.store(ONE, at, after);
                if is_named {
                    script.note(Event::Copied(span));
                }
                script.note(Event::Complete(span));
                tally.case(verdict, is_named || !is_written, script);
            }
        }
        // What is cached as written is written through again, without a note.
        let (_, _, span) = mapped::<S>(word, PAGE);
        with_every_flush(span, PAGE, |flush, flaw, is_good| {
            let (mut script, at, _) = mapped::<S>(word, PAGE);
            script.note(Event::Logged(span));
            script.update(at, dirty);
            flushed(&mut script, flush, flaw, |script| script.swap(ONE, at, S::format().made_clean(dirty, PAGE)));
            script.note(Event::Copied(span));
            script.note(Event::Complete(span));
            tally.case(verdict, is_good, script);
        });
    }
}

pub(super) fn returned_unflushed<S: Subject>(tally: &mut Tally) {
    for word in clean::<S>() {
        let dirty = S::boxed_walker().dirtied(word);
        let (_, _, span) = mapped::<S>(word, PAGE);
        with_every_flush(span, PAGE, |flush, flaw, is_good| {
            let (mut script, at, _) = mapped::<S>(word, PAGE);
            script.update(at, dirty);
            script.note(Event::Called { thread: TWO });
            script.note(Event::Called { thread: ONE });
            flushed(&mut script, flush, flaw, |script| script.swap(ONE, at, word));
            script.note(Event::Returned { thread: ONE });
            tally.case(Verdict::ReturnedUnflushed, is_good, script);
        });
    }
}

/// Hardware comes to no table that all cores have forgotten.
pub(super) fn freed_while_walked<S: Subject>(tally: &mut Tally) {
    for word in clean::<S>() {
        let dirty = S::boxed_walker().dirtied(word);
        for (is_cut, is_flushed) in [(false, false), (true, false), (true, true)] {
            let (mut script, at, _) = mapped::<S>(word, PAGE);
            let above = script.entry(super::GPA, BLOCK);
            let span = script.span(super::GPA, BLOCK);
            if is_cut {
                script.lock(ONE, above);
            }
            if is_flushed {
                script.flush(ONE, Flush::Tables { range: span });
            }
            script.update(at, dirty);
            tally.case(Verdict::FreedWhileWalked, !is_flushed, script);
        }
    }
}
