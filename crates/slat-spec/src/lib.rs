//! The specification: what a VM's memory is, page by page, and what each operation may do to a page.
//!
//! A page is mapped or not, writable or not, marked or not. An operation on a range is one on each of its pages, in any
//! order; leaves larger than a page are not seen. What happened is a *history*: calls and returns, with results. It is
//! explained if the operations of each page can be put into an order that agrees with what was called after what had
//! returned, and in which the specification gives the results that were seen ([`history`]). A page is an object of its
//! own, so that histories of all pages are explained when each page's is.

#![forbid(unsafe_code)]

pub mod history;

use slat::addr::Level;
use slat::host::Access;
use slat::vm::Outcome;

pub use history::{Call, Unexplained, explain};

/// A page of a guest, as the specification sees it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Page {
    /// Whether anything is mapped.
    pub mapped: bool,
    /// Whether the guest may write without a fault.
    pub writable: bool,
    /// Whether the log has it.
    pub dirty: bool,
    /// Whether writes are logged.
    pub logged: bool,
    /// Whether it was made old since it was last accessed: the next write may find it so.
    pub old: bool,
    /// Faults that have made it writable and have not marked it yet.
    pub unmarked: u8,
    /// Harvests that have taken its mark and have not protected it yet.
    pub taken: u8,
}

/// An operation on one page, with what was seen of its result, or a step of one: both steps of a fault under the log, and
/// of a harvest, lie between its call and its return.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Operation {
    /// A fault mapped the page; the fault may have been on another page of the same leaf.
    Mapped {
        /// Whether the guest may write to it.
        writable: bool,
    },
    /// The page was mapped, or given write permission back, or left as it was.
    Prefaulted {
        /// Whether the guest may write to it, if anything was done.
        writable: bool,
    },
    /// A fault gave write permission back to the page, or to a leaf around it.
    Relaxed,
    /// The page was aged, if it was mapped.
    Aged,
    /// A fault marked the page, which it had made writable.
    Marked,
    /// A fault found that the access was allowed already.
    Spurious(Access),
    /// The page was unmapped; beside a range that was meant, perhaps.
    Unmapped {
        /// Whether the page was meant.
        meant: bool,
    },
    /// Write permission was withheld; beside a range that was meant, perhaps.
    Protected {
        /// Whether the page was meant.
        meant: bool,
    },
    /// A harvest took the mark, if there was one.
    Harvested {
        /// Whether there was one.
        dirty: bool,
    },
    /// A harvest protected the page, whose mark it had taken.
    Secured,
    /// Somebody looked: it was mapped writable, mapped, or not.
    Looked(Option<bool>),
    /// The table around the page was made one leaf, which allows what all of its pages did; or it was not.
    Collapsed,
    /// The table around the page was dropped; or it was not.
    Dropped,
}

/// A fault, as far as it concerns one page.
#[derive(Clone, Copy, Debug)]
pub struct Fault {
    /// What the guest wanted to do.
    pub access: Access,
    /// What came of it.
    pub outcome: Outcome,
    /// Whether it was a fault on this page, and not on one near it.
    pub is_here: bool,
    /// Whether writes to the page are logged.
    pub logged: bool,
}

impl Fault {
    /// What the fault did to the page; `is_in` says whether a leaf of a level on the page that faulted is the page's, too.
    pub fn operations(self, is_in: impl Fn(Level) -> bool) -> impl Iterator<Item = Operation> {
        let Self { access, outcome, is_here, logged } = self;
        let marked = |writable: bool| (writable && logged).then_some(Operation::Marked);
        let [first, second] = match outcome {
            Outcome::Mapped { level, writable } if is_in(level) => {
                [Some(Operation::Mapped { writable }), marked(writable)]
            }
            Outcome::Relaxed { level } if is_in(level) => [Some(Operation::Relaxed), marked(true)],
            Outcome::Spurious if is_here => [Some(Operation::Spurious(access)), None],
            _ => [None, None],
        };
        // Outside of a log it may collapse the table around it.
        let collapsed = matches!(outcome, Outcome::Relaxed { .. }) && !logged;
        [first, second, collapsed.then_some(Operation::Collapsed)].into_iter().flatten()
    }
}

impl Page {
    /// A page of a slot that is logged or not, before anything happened.
    pub const fn new(logged: bool) -> Self {
        Self { mapped: false, writable: false, dirty: false, logged, old: false, unmarked: 0, taken: 0 }
    }

    /// What the page may be after the operation; nothing, if the operation cannot have had that result here.
    pub fn after(self, operation: Operation) -> impl Iterator<Item = Self> {
        let same = Some(self);
        let only = |possible: bool, page: Self| [possible.then_some(page), None];
        let [first, second] = match operation {
            Operation::Mapped { writable } => only(!self.mapped, self.made(writable)),
            Operation::Prefaulted { writable } => {
                let changes = !self.mapped || (writable && !self.writable);
                [same, changes.then(|| self.made(writable))]
            }
            Operation::Relaxed => only(self.mapped && (!self.writable || self.old), self.made(true)),
            Operation::Aged => only(true, Self { old: self.mapped, ..self }),
            Operation::Marked => {
                only(self.unmarked > 0, Self { dirty: true, unmarked: self.unmarked.saturating_sub(1), ..self })
            }
            Operation::Spurious(access) => only(self.allows(access), self),
            Operation::Unmapped { meant } => [Some(self.unmapped()), same.filter(|_| !meant)],
            Operation::Protected { meant } => [Some(self.protected()), same.filter(|_| !meant)],
            Operation::Harvested { dirty } => {
                let taken = Self { dirty: false, taken: self.taken + u8::from(dirty), ..self };
                only(self.dirty == dirty, taken)
            }
            Operation::Secured => {
                only(self.taken > 0, Self { taken: self.taken.saturating_sub(1), ..self.protected() })
            }
            Operation::Looked(seen) => only(self.mapped.then_some(self.writable) == seen, self),
            Operation::Collapsed => [same, Some(self.protected())],
            Operation::Dropped => [same, Some(self.unmapped())],
        };
        first.into_iter().chain(second)
    }

    const fn allows(self, access: Access) -> bool {
        self.mapped && (self.writable || !matches!(access, Access::Write))
    }

    /// Mapped; who makes it writable has to mark it.
    const fn made(self, writable: bool) -> Self {
        Self { mapped: true, writable, old: false, unmarked: self.unmarked + (writable && self.logged) as u8, ..self }
    }

    const fn unmapped(self) -> Self {
        Self { mapped: false, writable: false, old: false, ..self }
    }

    const fn protected(self) -> Self {
        Self { writable: false, ..self }
    }
}
