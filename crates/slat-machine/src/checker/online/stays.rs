//! Threads inside of the engine, and how long what they read there is good.

use super::Checker;
use crate::checker::event::Thread;

/// A thread's stays inside: calls, or, for a vCPU that is kept out of its guest, all calls until it enters again.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Stay {
    number: u32,
    is_out_of_guest: bool,
}

/// A call that has not returned.
#[derive(Clone, Copy, Debug)]
pub(super) struct Inside {
    pub(super) since: usize,
    /// Whether nobody else has been inside since.
    pub(super) is_alone: bool,
}

/// A pointer to a table, as a thread has read it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pointer {
    /// How often the table had been linked.
    pub(super) generation: u32,
    /// In which of the thread's stays.
    pub(super) stay: u32,
}

impl Checker {
    /// The number of the stay that a thread is in, or was in last.
    pub(super) fn stay(&self, thread: Thread) -> u32 {
        self.stays.get(&thread).map_or(0, |stay| stay.number)
    }

    pub(super) fn called(&mut self, thread: Thread) {
        let is_alone = self.inside.is_empty();
        self.inside.values_mut().for_each(|inside| inside.is_alone = false);
        self.inside.insert(thread, Inside { since: self.now, is_alone });
        self.noted.remove(&thread);
        let stay = self.stays.entry(thread).or_default();
        stay.number += u32::from(!stay.is_out_of_guest);
    }

    pub(super) fn left(&mut self, thread: Thread) {
        let number = self.stay(thread) + 1;
        self.stays.insert(thread, Stay { number, is_out_of_guest: true });
    }

    pub(super) fn entered(&mut self, thread: Thread) {
        let number = self.stay(thread) + 1;
        self.stays.insert(thread, Stay { number, is_out_of_guest: false });
    }
}
