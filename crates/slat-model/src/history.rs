//! What calls did to the guest's pages, and whether the specification explains it (S1).
//!
//! Every execution of a scenario under shuttle with nothing planted is a history (under loom one call may be over and
//! another know nothing of it, so that time says too much): each call with when it began and ended, and what it did
//! to each page as far as its result says. At the end the specification is asked for an order of the calls on each page that
//! gives those results. A scenario that does what the specification does not speak of (slots that move, copy on write) is not
//! explained.

use std::cell::Cell;

use slat::addr::GpaRange;
use slat_spec::{Call, Flags, Operation, Page, explain};

use crate::book;
use crate::plant::Plant;
use crate::world::{Setup, page_of};

/// The history of one execution.
#[derive(Default)]
pub struct History {
    clock: u64,
    /// How many workers there are.
    workers: u8,
    /// The flags of the slot at first.
    flags: Flags,
    groups: bool,
    hardware_dirty: bool,
    /// Of each page that is watched; nothing once the specification does not speak of what happens.
    pages: Vec<Watched>,
}

/// A page, and the calls that did something to it.
struct Watched {
    page: u64,
    calls: Vec<Call>,
}

impl History {
    fn tick(&mut self) -> u64 {
        self.clock += 1;
        self.clock
    }

    /// What the specification does not explain, if anything.
    fn unexplained(&self) -> Option<String> {
        self.pages.iter().find_map(|Watched { page, calls }| {
            let unexplained = explain(Page::new(self.flags), calls).err()?;
            Some(format!("S1: page {page}: {unexplained}: {:?}", unexplained.calls))
        })
    }
}

/// From now on what happens to the pages of a world's slot is written down; nothing is mapped yet.
pub fn begin(setup: &Setup, flags: Flags) {
    let pages = setup.first..setup.first + setup.count;
    let watched = pages.map(|page| Watched { page, calls: Vec::new() }).collect();
    book::with(|book| {
        let calls = &mut book.calls;
        (calls.pages, calls.flags) = (watched, flags);
        (calls.groups, calls.hardware_dirty) = (setup.groups, setup.hardware_dirty);
    });
}

/// The number of a worker that is new.
pub fn number_worker() -> u8 {
    book::with(|book| {
        book.calls.workers += 1;
        book.calls.workers - 1
    })
}

/// Whether a page may be one of a group, which is dissolved if only a part of it is meant.
pub fn has_groups() -> bool {
    book::with(|book| book.calls.groups)
}

/// Something happens that the specification does not speak of.
pub fn give_up() {
    book::with(|book| book.calls.pages.clear());
}

/// Whether hardware notes what it writes to.
pub fn has_hardware_dirty() -> bool {
    book::with(|book| book.calls.hardware_dirty)
}

/// Makes a call, and writes down what it did: `operations` is given its result and a page.
pub fn call<R>(call: impl FnOnce() -> R, operations: impl Fn(&R, u64) -> Vec<Operation>) -> R {
    let from = book::with(|book| book.calls.tick());
    let result = call();
    let to = book::with(|book| book.calls.tick());
    add(from, to, |page| operations(&result, page));
    result
}

/// A call is made whose effects come at any time from now on.
pub fn lasting(operations: impl Fn(u64) -> Vec<Operation>) {
    let from = book::with(|book| book.calls.tick());
    add(from, u64::MAX, operations);
}

/// Adds what a call did between two times; `operations` may look into the book.
fn add(from: u64, to: u64, operations: impl Fn(u64) -> Vec<Operation>) {
    let mut pages = book::with(|book| std::mem::take(&mut book.calls.pages));
    for Watched { page, calls } in &mut pages {
        calls.extend(operations(*page).into_iter().map(|operation| Call { from, to, operation }));
    }
    book::with(|book| book.calls.pages = pages);
}

/// The execution is over: reports what the specification does not explain. A planted bug has its own detectors.
pub fn end() {
    if !Plant::Nothing.is_planted() {
        return;
    }
    book::with(|book| {
        let calls: u64 = book.calls.pages.iter().map(|page| page.calls.len() as u64).sum();
        EXPLAINED.set(EXPLAINED.get().and(Explained { executions: u64::from(calls > 0), calls }));
        if let Some(unexplained) = book.calls.unexplained() {
            book.report(unexplained);
        }
    });
}

/// How much was explained.
#[derive(Clone, Copy, Default, Debug)]
pub struct Explained {
    /// Executions.
    pub executions: u64,
    /// Calls on pages in them.
    pub calls: u64,
}

impl Explained {
    fn and(self, other: Self) -> Self {
        Self { executions: self.executions + other.executions, calls: self.calls + other.calls }
    }
}

thread_local! {
    static EXPLAINED: Cell<Explained> = const { Cell::new(Explained { executions: 0, calls: 0 }) };
}

/// What was explained on this operating-system thread since this was last called.
pub fn take_explained() -> Explained {
    EXPLAINED.take()
}

/// Whether a page is in a range.
pub fn is_in(range: GpaRange, page: u64) -> bool {
    (page_of(range.start())..page_of(range.end())).contains(&page)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAPPED: Operation = Operation::Mapped { access: slat::host::Access::Write, writable: true };

    /// One page, to which these things are done one after the other.
    fn found(operations: &[Operation]) -> Option<String> {
        book::begin();
        begin(&Setup { first: 3, ..Setup::pages(1) }, Flags::default());
        operations.iter().for_each(|&did| call(|| (), |_, _| vec![did]));
        end();
        book::verdict()
    }

    #[test]
    fn what_cannot_be_explained_is_reported_for_its_page() {
        assert_eq!(found(&[MAPPED, Operation::Unmapped { meant: true }, MAPPED]), None);
        let verdict = found(&[MAPPED, MAPPED]).expect("mapped twice");
        assert!(verdict.starts_with("S1: page 3"), "{verdict}");
    }

    #[test]
    fn an_unmapping_that_lasts_explains_a_mapping_later_and_giving_up_everything() {
        book::begin();
        begin(&Setup::pages(1), Flags::default());
        call(|| (), |_, _| vec![MAPPED]);
        lasting(|_| vec![Operation::Unmapped { meant: false }]);
        call(|| (), |_, _| vec![MAPPED]);
        end();
        assert_eq!(book::verdict(), None);
        call(|| (), |_, _| vec![MAPPED]);
        give_up();
        end();
        assert_eq!(book::verdict(), None);
    }
}
