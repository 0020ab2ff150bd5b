//! Whether a history of one page can be explained: Wing and Gong's search, with Lowe's memory of what was tried.

use std::collections::HashSet;

use super::{Operation, Page};

/// An operation and when it was called and had returned, by a clock that all threads share.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Call {
    /// When it was called.
    pub from: u64,
    /// When it had returned.
    pub to: u64,
    /// What it was, and what came of it.
    pub operation: Operation,
}

/// A history that no order of its calls explains.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("no order of {} calls explains what was seen; at most {longest} can be put in order", .calls.len())]
pub struct Unexplained {
    /// The calls.
    pub calls: Vec<Call>,
    /// How many can be explained, at most.
    pub longest: usize,
}

/// Finds an order of `calls` on a page that began as `page`.
///
/// Effects of a call lie between its call and its return. Takes time and memory that grow with how many calls overlap, not
/// with how many there are.
pub fn explain(page: Page, calls: &[Call]) -> Result<(), Unexplained> {
    let met = calls.iter().filter(|call| !call.operation.is_beside() && !may_have_met_a_change(call, calls));
    let mut calls: Vec<_> = met.map(|call| may_have_met_a_taker(*call, calls)).collect();
    calls.sort_unstable_by_key(|call| call.from);
    let mut search = Search { calls: &calls, tried: HashSet::new(), longest: 0 };
    if search.from(page, Done::default()) {
        return Ok(());
    }
    let longest = search.longest;
    Err(Unexplained { calls, longest })
}

/// Whether the call saw nothing mapped while another was on its way: an entry that is being changed is nothing to whoever
/// looks, as it is nothing to hardware.
fn may_have_met_a_change(looked: &Call, calls: &[Call]) -> bool {
    let overlaps = |call: &Call| call != looked && call.from < looked.to && looked.from < call.to;
    looked.operation == Operation::Looked(None) && calls.iter().any(overlaps)
}

/// Who clears a mark while another takes some may miss it, which stays then.
fn may_have_met_a_taker(cleared: Call, calls: &[Call]) -> Call {
    let Operation::Cleared { by } = cleared.operation else { return cleared };
    let is_other = |call: &Call| (call.from, call.to) != (cleared.from, cleared.to);
    let overlaps = |call: &Call| is_other(call) && call.from < cleared.to && cleared.from < call.to;
    let missed = calls.iter().any(|call| call.operation.takes_marks() && overlaps(call));
    if missed { Call { operation: Operation::ClearedPerhaps { by }, ..cleared } } else { cleared }
}

/// Words of bits for the calls that may overlap.
const WORDS: usize = 16;

/// Which calls are in the order already: all before `first`, and those that the bits name after it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
struct Done {
    first: usize,
    later: [u64; WORDS],
}

impl Done {
    fn has(self, call: usize) -> bool {
        let is_later = |at: usize| at < 64 * WORDS && self.later[at / 64] >> (at % 64) & 1 != 0;
        call < self.first || is_later(call - self.first)
    }

    fn with(mut self, call: usize) -> Self {
        let at = call - self.first;
        assert!(at < 64 * WORDS, "more than {} calls overlap", 64 * WORDS);
        self.later[at / 64] |= 1 << (at % 64);
        while self.later[0] & 1 != 0 {
            self.skip(self.later[0].trailing_ones());
        }
        self
    }

    /// Goes on behind so many calls.
    fn skip(&mut self, count: u32) {
        self.first += count as usize;
        for word in 0..WORDS {
            let above = self.later.get(word + 1).copied().unwrap_or(0);
            let both = u128::from(above) << 64 | u128::from(self.later[word]);
            self.later[word] = (both >> count) as u64;
        }
    }

    fn count(self) -> usize {
        self.first + self.later.iter().map(|word| word.count_ones() as usize).sum::<usize>()
    }
}

struct Search<'c> {
    calls: &'c [Call],
    tried: HashSet<(Done, Page)>,
    longest: usize,
}

impl Search<'_> {
    /// Whether the calls that are not done can be put in order, on a page that is now `page`.
    fn from(&mut self, page: Page, done: Done) -> bool {
        let mut stack = vec![(page, done)];
        while let Some((page, done)) = stack.pop() {
            self.longest = self.longest.max(done.count());
            if done.first == self.calls.len() && page.is_settled() {
                return true;
            }
            if self.tried.insert((done, page)) {
                // Who returns first has most likely been first: it is tried first, and what it does before what it may not do.
                let mut next = self.next(done);
                next.sort_by_key(|&call| (self.calls[call].to, call));
                stack.extend(next.into_iter().rev().flat_map(|call| {
                    page.after(self.calls[call].operation).into_iter().rev().map(move |page| (page, done.with(call)))
                }));
            }
        }
        false
    }

    /// The calls that may come next: those that were called before any other that is left had returned.
    fn next(&self, done: Done) -> Vec<usize> {
        let left = |&call: &usize| !done.has(call);
        let mut soonest = u64::MAX;
        let mut next = Vec::new();
        for call in (done.first..self.calls.len()).filter(left) {
            if self.calls[call].from > soonest {
                break;
            }
            soonest = soonest.min(self.calls[call].to);
            next.push(call);
        }
        next.retain(|&call| self.calls[call].from <= soonest);
        next
    }
}

#[cfg(test)]
mod tests {
    use slat::host::Access;

    use super::*;
    use crate::{Flags, Log};

    fn call(from: u64, to: u64, operation: Operation) -> Call {
        Call { from, to, operation }
    }

    const MAPPED: Operation = Operation::Mapped { access: Access::Write, writable: true };
    const PLAIN: Flags = Flags { read_only: false, log: Log::Off };
    const LOGGED: Flags = Flags { read_only: false, log: Log::Protect };
    const UNMAPPED: Operation = Operation::Unmapped { meant: true };

    /// Calls one after the other.
    fn sequence(operations: &[Operation]) -> Vec<Call> {
        (0..).step_by(2).zip(operations).map(|(from, &operation)| call(from, from + 1, operation)).collect()
    }

    #[test]
    fn what_comes_one_after_the_other_is_explained_only_in_that_order() {
        let explained = |operations: &[Operation]| explain(Page::new(PLAIN), &sequence(operations));
        assert_eq!(explained(&[MAPPED, UNMAPPED, Operation::Looked(None)]), Ok(()));
        assert_eq!(explained(&[MAPPED, UNMAPPED, Operation::Looked(Some(true))]).unwrap_err().longest, 2);
        assert!(explained(&[MAPPED, MAPPED]).is_err());
        assert!(explained(&[MAPPED, Operation::Relaxed]).is_err());
        assert!(explained(&[Operation::Spurious(Access::Read)]).is_err());
        let protected = Operation::Protected { meant: true };
        assert!(explained(&[MAPPED, protected, Operation::Spurious(Access::Write)]).is_err());
        assert_eq!(explained(&[MAPPED, protected, Operation::Relaxed, Operation::Looked(Some(true))]), Ok(()));
    }

    #[test]
    fn what_overlaps_may_have_come_in_any_order_and_what_does_not_may_not() {
        let page = Page::new(PLAIN);
        for seen in [None, Some(true)] {
            let calls = [call(0, 9, MAPPED), call(1, 8, UNMAPPED), call(10, 11, Operation::Looked(seen))];
            assert_eq!(explain(page, &calls), Ok(()));
            let calls = [call(0, 1, MAPPED), call(2, 3, UNMAPPED), call(4, 5, Operation::Looked(seen))];
            assert_eq!(explain(page, &calls).is_ok(), seen.is_none());
        }
        let spurious = Operation::Spurious(Access::Write);
        let calls = [call(0, 9, MAPPED), call(1, 8, Operation::Looked(None)), call(2, 7, spurious)];
        assert_eq!(explain(page, &calls), Ok(()));
        let split = Operation::Protected { meant: false };
        let calls = [call(0, 1, MAPPED), call(2, 5, split), call(3, 4, Operation::Looked(None)), call(6, 7, spurious)];
        assert_eq!(explain(page, &calls), Ok(()), "the entry was locked when somebody looked");
    }

    #[test]
    fn a_mark_is_named_once_by_the_harvest_that_takes_it() {
        use Operation::{Harvested, Looked, Marked, Secured};
        let explained = |operations: &[Operation]| explain(Page::new(LOGGED), &sequence(operations)).is_ok();
        let named = Harvested { dirty: true };
        let not_named = Harvested { dirty: false };
        assert!(explained(&[MAPPED, Marked, named, Secured, not_named]));
        assert!(explained(&[MAPPED, not_named, Marked, named, Secured]), "between the mapping and the mark");
        assert!(!explained(&[MAPPED, Marked, not_named]), "lost");
        assert!(!explained(&[MAPPED, Marked, named, named]), "named twice");
        assert!(!explained(&[MAPPED, Marked, named, Secured, Looked(Some(true))]), "not protected");
        assert!(!explained(&[Marked]), "marked by nobody");
    }

    #[test]
    fn what_overlaps_with_many_others_is_explained_as_well() {
        let many = (0..900).flat_map(|n| [(n, MAPPED), (n, UNMAPPED)]).enumerate();
        let many = many.map(|(at, (_, operation))| call(2 * at as u64 + 1, 2 * at as u64 + 2, operation));
        let around = |seen| {
            let calls = many.clone().skip(1).take(999).chain([call(0, 5_000, MAPPED), call(5_001, 5_002, seen)]);
            explain(Page::new(PLAIN), &calls.collect::<Vec<_>>()).is_ok()
        };
        assert!(around(Operation::Looked(None)) && around(Operation::Looked(Some(true))));
        assert!(!around(Operation::Looked(Some(false))));
    }

    #[test]
    fn long_histories_with_few_overlaps_are_explained_quickly() {
        let calls = (0..5_000).map(|n| call(4 * n, 4 * n + 5, if n % 2 == 0 { MAPPED } else { UNMAPPED }));
        assert_eq!(explain(Page::new(PLAIN), &calls.collect::<Vec<_>>()), Ok(()));
    }
}
