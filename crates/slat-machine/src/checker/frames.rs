//! The life of tables: given out, linked, unlinked, used again, given back; and what their words hold.

use std::collections::HashMap;

use slat::addr::{Gpa, Level};

use super::discipline::Discipline;
use super::event::Thread;

/// A table.
#[derive(Clone, Debug)]
pub(super) struct Frame {
    pub(super) status: Status,
    /// How often it was linked.
    pub(super) generation: u32,
    /// The level of its entries, and the first guest address that they are for, since it was last linked.
    pub(super) level: Level,
    pub(super) base: Gpa,
    /// The word that it was last linked from; 0 for a root.
    pub(super) above: u64,
    pub(super) words: Box<[u64]>,
}

/// Where a table is in its life.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Status {
    /// Nobody's.
    Free,
    /// Some thread's alone: the one who last wrote to it, if anybody has.
    Private(Option<Thread>),
    /// A walk from the root comes to it.
    Linked,
    /// No walk from the root does since this event.
    Unlinked(usize),
}

/// Every table there ever was.
#[derive(Clone, Debug, Default)]
pub(super) struct Frames(HashMap<u64, Frame>);

impl Frame {
    fn fresh(generation: u32, words: usize) -> Self {
        Self {
            status: Status::Private(None),
            generation,
            level: Level::PAGE,
            base: Gpa::new(0),
            above: 0,
            words: vec![0; words].into(),
        }
    }
}

impl Frames {
    /// The table at `at` is given out; whether it was free.
    pub(super) fn allocate(&mut self, at: u64, words: usize) -> bool {
        let old = self.0.get(&at);
        let was_free = old.is_none_or(|old| old.status == Status::Free);
        self.0.insert(at, Frame::fresh(old.map_or(0, |old| old.generation), words));
        was_free
    }

    pub(super) fn get(&self, table: u64) -> Option<&Frame> {
        self.0.get(&table)
    }

    pub(super) fn get_mut(&mut self, table: u64) -> Option<&mut Frame> {
        self.0.get_mut(&table)
    }

    /// The word at `at`; 0 where there is no table.
    pub(super) fn word(&self, at: u64, discipline: &Discipline) -> u64 {
        self.0.get(&discipline.table_of(at)).map_or(0, |frame| frame.words[discipline.index_of(at)])
    }

    /// All tables with their addresses.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u64, &Frame)> {
        self.0.iter().map(|(&at, frame)| (at, frame))
    }
}
