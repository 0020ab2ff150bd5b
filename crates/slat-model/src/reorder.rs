//! Bugs that are a matter of what one thread does in which order: what each has read, locked and put off.

use std::collections::HashMap;

use crate::plant::{Plant, Shape};
use crate::word::Site;

/// What is known of each thread.
#[derive(Default)]
pub struct Threads(HashMap<usize, Thread>);

#[derive(Default)]
struct Thread {
    /// What words outside of tables said when they were read last, by address.
    read: HashMap<usize, u64>,
    has_locked: bool,
    has_marked: bool,
    put_off: Option<Change>,
}

/// A change of an entry that waits for another step.
#[derive(Clone, Copy, Debug)]
pub struct Change {
    /// Which entry.
    pub site: Site,
    /// What it holds.
    pub old: u64,
    /// What it is to hold.
    pub new: u64,
}

impl Threads {
    fn of(&mut self, thread: usize) -> &mut Thread {
        self.0.entry(thread).or_default()
    }

    /// What a word outside of tables is taken to say, instead of reading it.
    pub fn remembered(&mut self, thread: usize, word: usize) -> Option<u64> {
        let thread = self.of(thread);
        let again = Plant::NoRecheck.is_planted() && thread.has_locked;
        thread.read.get(&word).copied().filter(|_| again)
    }

    /// A word outside of tables was read.
    pub fn has_read(&mut self, thread: usize, word: usize, value: u64) {
        self.of(thread).read.insert(word, value);
    }

    /// A read-modify-write or a store was made; whether a mark came just before.
    pub fn has_changed(&mut self, thread: usize, shape: Shape) -> bool {
        let thread = self.of(thread);
        thread.has_locked = shape == Shape::Lock;
        std::mem::replace(&mut thread.has_marked, shape == Shape::Mark)
    }

    /// Puts a change off until the thread's next mark.
    pub fn put_off(&mut self, thread: usize, change: Change) {
        self.of(thread).put_off = Some(change);
    }

    /// What was put off and is due.
    pub fn take_put_off(&mut self, thread: usize) -> Option<Change> {
        self.of(thread).put_off.take()
    }
}
