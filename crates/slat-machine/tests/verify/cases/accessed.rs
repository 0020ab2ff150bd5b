//! Leaves that are made of others: one of them was accessed, and what is made of them says so, or not.

use slat::addr::Hpa;
use slat::format::{Format, Leaf};
use slat::host::Flush;
use slat_machine::checker::Verdict;

use super::sets::{Set, count, firsts, single};
use super::{BLOCK, GPA};
use crate::script::*;
use crate::subject::{PAGE, Subject};
use crate::tally::Tally;

/// Makes all entries but number `spared` old, as ageing does.
fn age<S: Subject>(script: &mut Script<S>, entries: &[Hpa], spared: Option<usize>) {
    for (_, at) in entries.iter().enumerate().filter(|(number, _)| Some(*number) != spared) {
        let old = S::format().made_old(script.word(*at), PAGE);
        script.swap(ONE, *at, old);
    }
}

/// What becomes of the members of a set that is broken.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Made {
    /// Leaves that were accessed.
    Accessed,
    /// Leaves that were not.
    Old,
    /// Each as it was, by itself.
    Singly,
    /// The accessed one is emptied, and of the others old leaves are made.
    Part,
}

/// A set of which one member was accessed, or none, is broken, and made leaves of their own.
pub(super) fn forgotten_by_sets<S: Subject>(tally: &mut Tally) {
    for first in firsts::<S>() {
        for young in [None, Some(0), Some(count::<S>() / 2), Some(count::<S>() - 1)] {
            for made in [Made::Accessed, Made::Old, Made::Singly, Made::Part] {
                let is_good = made == Made::Accessed || young.is_none();
                tally.case(Verdict::AccessForgotten, is_good, dissolved::<S>(first, young, made));
            }
            // Given back as they were.
            let Set { mut script, entries, .. } = Set::<S>::mapped(first);
            age(&mut script, &entries, young);
            let words: Vec<_> = entries.iter().map(|at| script.word(*at)).collect();
            entries.iter().for_each(|at| script.lock(ONE, *at));
            entries.iter().zip(words).rev().for_each(|(at, word)| script.store(ONE, *at, word));
            tally.good(Verdict::AccessForgotten, script);
        }
    }
}

fn dissolved<S: Subject>(first: u64, young: Option<usize>, made: Made) -> Script<S> {
    let Set { mut script, entries, span } = Set::<S>::mapped(first);
    age(&mut script, &entries, young);
    entries.iter().for_each(|at| script.lock(ONE, *at));
    script.flush(ONE, Flush::Tables { range: span });
    if made == Made::Part {
        young.into_iter().for_each(|young| script.store(ONE, entries[young], 0));
    }
    for (number, at) in entries.iter().enumerate().rev() {
        let leaf = single::<S>(first, number);
        let is_accessed = made == Made::Accessed || (made == Made::Singly && young == Some(number));
        if made != Made::Part || young != Some(number) {
            script.store(ONE, *at, if is_accessed { leaf } else { S::format().made_old(leaf, PAGE) });
        }
    }
    script
}

/// A full table of pages, of which one was accessed or none, becomes a block.
pub(super) fn forgotten_by_blocks<S: Subject>(tally: &mut Tally) {
    let (block, first) = (leaves::<S>(HERE, BLOCK).next().unwrap(), leaves::<S>(HERE, PAGE).next().unwrap());
    let words = S::format().geometry().entries();
    for young in [None, Some(0), Some(words - 1)] {
        for is_accessed in [true, false] {
            let made = if is_accessed { block } else { S::format().made_old(block, BLOCK) };
            let script = collapsed::<S>(first, young, made);
            tally.case(Verdict::AccessForgotten, is_accessed || young.is_none(), script);
        }
    }
}

fn collapsed<S: Subject>(first: u64, young: Option<usize>, block: u64) -> Script<S> {
    let format = S::format();
    let mut script = Script::<S>::new();
    let at = script.entry(GPA, BLOCK);
    let table = script.allocate();
    let entries: Vec<_> = (0..format.geometry().entries()).map(|index| word_at(table, index)).collect();
    let leaf = format.decode(first, PAGE);
    for (number, entry) in entries.iter().enumerate() {
        let hpa = Hpa::new(leaf.hpa.get() + number as u64 * S::size(PAGE));
        script.store(ONE, *entry, format.leaf(Leaf { hpa, ..leaf }, PAGE));
    }
    script.swap(ONE, at, script.table_word(table, BLOCK));
    age(&mut script, &entries, young);
    script.lock(ONE, at);
    entries.iter().for_each(|entry| script.swap(ONE, *entry, S::Format::FROZEN));
    script.flush(ONE, Flush::Tables { range: script.span(GPA, BLOCK) });
    script.store(ONE, at, block);
    script
}
