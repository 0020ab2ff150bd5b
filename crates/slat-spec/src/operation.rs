//! What can be done to a page, and what was seen of it.

use slat::addr::Level;
use slat::host::Access;
use slat::vm::Outcome;

use super::Flags;

/// An operation on one page, with what was seen of its result, or a step of one: the steps of a fault under the log, of a
/// harvest and of a change of flags lie between its call and its return.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Operation {
    /// A fault mapped the page; the fault may have been on another page of the same leaf.
    Mapped {
        /// What the guest wanted to do.
        access: Access,
        /// Whether it may write to the page.
        writable: bool,
    },
    /// A fault mapped another page of the page's group; this one, too, if the leaf was the whole group.
    MappedBeside {
        /// What the guest wanted to do.
        access: Access,
        /// Whether it may write to the page.
        writable: bool,
    },
    /// The page was mapped, or given write permission back, or left as it was.
    Prefaulted {
        /// Whether the guest may write to it, if anything was done.
        writable: bool,
    },
    /// A fault gave write permission back to the page, or to a leaf around it.
    Relaxed,
    /// A fault gave write permission back to another page of the page's group; to this one, too, if to the whole group.
    RelaxedBeside,
    /// The page was aged, if it was mapped.
    Aged,
    /// A fault had perhaps marked the page already where only who reads the log sees it.
    Marking,
    /// A fault marked the page, which it had made writable, if the slot was logged when it did.
    Marked,
    /// The same, or it marked the page along with another one of its group.
    MarkedBeside,
    /// A fault found that the access was allowed already.
    Spurious(Access),
    /// A fault found that the slot is not to be written to.
    Refused,
    /// The page was unmapped; beside a range that was meant, perhaps.
    Unmapped {
        /// Whether the page was meant.
        meant: bool,
    },
    /// What hardware had noted of a page that was unmapped is in the log that hardware keeps, if it was on.
    Moved,
    /// Write permission was withheld; beside a range that was meant, perhaps.
    Protected {
        /// Whether the page was meant.
        meant: bool,
    },
    /// What was taken from the page before is cached by nobody any more.
    Flushed,
    /// A harvest took the mark, and what hardware had noted, if there was any.
    Harvested {
        /// Whether there was any.
        dirty: bool,
    },
    /// A harvest protected the page, or had hardware note the next write anew, after it had taken the mark.
    Secured,
    /// The log was read; a log that hardware keeps, by taking what was noted.
    Read {
        /// Whether it had the page.
        dirty: bool,
        /// The worker's number, below 4.
        by: u8,
    },
    /// What the worker that read the log found noted is in the log.
    Collected {
        /// The worker's number, below 4.
        by: u8,
    },
    /// A worker took the mark of a page that it was told of, if there still was one.
    Cleared {
        /// The worker's number, below 4.
        by: u8,
    },
    /// The same, and it may have missed a mark, which stays then: another worker took marks at that time.
    ClearedPerhaps {
        /// The worker's number, below 4.
        by: u8,
    },
    /// A worker took marks of pages near this one.
    TookBeside,
    /// Something was done to a page near this one: an entry that is for both may have been changed for a while.
    Beside,
    /// The worker protected the page, or had hardware note the next write anew, if it had taken a mark.
    Withheld {
        /// The worker's number, below 4.
        by: u8,
    },
    /// What the worker took from the page, if anything, is cached by nobody any more.
    FlushedFor {
        /// The worker's number, below 4.
        by: u8,
    },
    /// The guest wrote to the page without a fault.
    Written {
        /// Whether hardware may have taken another page's word for it: that of one of its group.
        grouped: bool,
    },
    /// Hardware may have noted a write to the page: one that did not come to memory, or to another page of its group.
    Noted,
    /// The slot got new flags: until [`Settled`](Self::Settled), faults may have gone by either.
    Announced(Flags),
    /// What the new flags take from the page is taken.
    Settled {
        /// The worker's number, below 4.
        by: u8,
    },
    /// A worker found that there is no log, or not yet.
    NotLogged,
    /// Somebody looked: it was mapped writable, mapped, or not.
    Looked(Option<bool>),
    /// The table around the page was made one leaf, which allows what all of its pages did; or it was not.
    Collapsed,
    /// The table around the page was dropped; or it was not.
    Dropped,
}

/// Where a page lies, seen from one that faulted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Place {
    /// It is that page.
    Here {
        /// Whether it may be one of a group.
        grouped: bool,
    },
    /// It is another one of that page's group.
    Group,
    /// Neither.
    Elsewhere,
}

/// A fault, as far as it concerns one page.
#[derive(Clone, Copy, Debug)]
pub struct Fault {
    /// What the guest wanted to do.
    pub access: Access,
    /// What came of it.
    pub outcome: Outcome,
    /// Where the page lies.
    pub place: Place,
}

impl Operation {
    /// Whether it does nothing to the page itself: wherever it comes in an order, the others may come as they do without it.
    pub(crate) const fn is_beside(self) -> bool {
        matches!(self, Self::Beside | Self::TookBeside)
    }

    /// Whether it takes marks, or may do so for this page or one near it.
    pub(crate) const fn takes_marks(self) -> bool {
        matches!(self, Self::Harvested { .. } | Self::Cleared { .. } | Self::TookBeside) || self.moves_notes()
    }

    /// Whether it marks what hardware has noted, in two steps: the mark, then where to find it.
    const fn moves_notes(self) -> bool {
        matches!(self, Self::Collected { .. } | Self::Moved)
    }
}

impl Fault {
    /// What the fault did to the page; `is_near` says whether a leaf of a level above the page level on the page that
    /// faulted is the page's, too.
    pub fn operations(self, is_near: impl Fn(Level) -> bool) -> impl Iterator<Item = Operation> {
        let Self { access, outcome, place } = self;
        let is_here = matches!(place, Place::Here { .. });
        let is_in = |level: Level| if level == Level::PAGE { is_here } else { is_near(level) };
        let is_beside = |level: Level| level == Level::PAGE && place == Place::Group;
        let [first, second] = match outcome {
            Outcome::Mapped { level, writable } if is_in(level) => {
                [Some(Operation::Mapped { access, writable }), writable.then_some(Operation::Marked)]
            }
            Outcome::Mapped { level, writable } if is_beside(level) => {
                [Some(Operation::MappedBeside { access, writable }), writable.then_some(Operation::MarkedBeside)]
            }
            Outcome::Relaxed { level } if is_in(level) => [Some(Operation::Relaxed), Some(Operation::Marked)],
            Outcome::Relaxed { level } if is_beside(level) => {
                [Some(Operation::RelaxedBeside), Some(Operation::MarkedBeside)]
            }
            Outcome::Spurious if is_here => [Some(Operation::Spurious(access)), None],
            Outcome::Mmio if is_here => [Some(Operation::Refused), None],
            _ => [None, None],
        };
        // Outside of a log it may collapse the table around it.
        let is_around = is_here || place == Place::Group || is_near(Level::new(1));
        let collapsed = matches!(outcome, Outcome::Relaxed { .. }) && is_around;
        // A group of which only one page is meant is dissolved: what one page may not, none may then.
        let is_of_group = matches!(place, Place::Here { grouped: true } | Place::Group);
        let dissolved = access == Access::Write && is_of_group;
        let marks = matches!(second, Some(Operation::Marked | Operation::MarkedBeside));
        let perhaps = |did: bool, operation| did.then_some(operation);
        [
            perhaps(dissolved, Operation::Protected { meant: false }),
            first,
            perhaps(marks, Operation::Marking),
            second,
            perhaps(collapsed, Operation::Collapsed),
        ]
        .into_iter()
        .flatten()
    }
}
