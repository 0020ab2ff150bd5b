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
            let above = script.entry(GPA, BLOCK);
            let table = script.word(above);
            script.lock(ONE, above);
            script.swap(ONE, at, S::Format::FROZEN);
            script.store(ONE, at, back);
            script.store(ONE, above, table);
            script.lock(TWO, at);
            script.note(Event::Returned { thread: ONE });
            tally.case(Verdict::ReturnedUnflushed, is_good, script);
        }
    }
}
