//! What is given back as it was is nobody's debt.

use slat::format::Format;
use slat_machine::checker::{Event, Verdict};

use super::{BLOCK, GPA, mapped};
use crate::script::*;
use crate::subject::{PAGE, Subject};
use crate::tally::Tally;

/// A leaf that was made writable is frozen and given back with its table, by who gives up a collapse; then another thread takes
/// it away. The first one owes nothing when it returns, unless the leaf was less when it was given back.
pub(super) fn with_its_table<S: Subject>(tally: &mut Tally) {
    for word in writable::<S>(HERE, PAGE) {
        let protected = S::format().write_protected(word, PAGE);
        for (back, is_good) in [(word, true), (protected, false)] {
            let (mut script, at, _) = mapped::<S>(protected, PAGE);
            script.note(Event::Called { thread: TWO });
            script.note(Event::Called { thread: ONE });
            script.swap(ONE, at, word);
            script.freeze_and_give_back(ONE, GPA, |script| script.store(ONE, at, back));
            script.lock(TWO, at);
            script.note(Event::Returned { thread: ONE });
            tally.case(Verdict::ReturnedUnflushed, is_good, script);
        }
    }
}

/// Who locks an entry and gives it back as it was has taken nothing; who took something before owes it still.
pub(super) fn unflushed<S: Subject>(tally: &mut Tally) {
    for level in [PAGE, BLOCK] {
        for word in writable::<S>(HERE, level) {
            let changes =
                [(S::format().made_old(word, level), true), (S::format().write_protected(word, level), false)];
            for (changed, is_good) in changes {
                let (mut script, at, _) = mapped::<S>(word, level);
                script.note(Event::Called { thread: TWO });
                script.note(Event::Called { thread: ONE });
                script.swap(TWO, at, changed);
                script.lock(ONE, at);
                script.store(ONE, at, changed);
                script.note(Event::Returned { thread: ONE });
                script.note(Event::Returned { thread: TWO });
                tally.case(Verdict::ReturnedUnflushed, is_good, script);
            }
        }
    }
}

/// A leaf that was made old: a note of software's is nobody's debt, and a permission is, which may be cached from before it was
/// old.
pub(super) fn but_for_a_note<S: Subject>(tally: &mut Tally) {
    let format = S::format();
    for level in [PAGE, BLOCK] {
        for word in writable::<S>(HERE, level).flat_map(|word| [word, format.write_protected(word, level)]) {
            let old = format.made_old(word, level);
            for new in [format.write_protected(old, level), format.write_revoked(old, level)] {
                let (mut script, at, _) = mapped::<S>(word, level);
                script.swap(TWO, at, old);
                script.note(Event::Called { thread: ONE });
                script.swap(ONE, at, new);
                script.note(Event::Returned { thread: ONE });
                tally.case(Verdict::ReturnedUnflushed, (old ^ new) & !S::RULES.notes == 0, script);
            }
        }
    }
}
