//! The life of tables: given out, linked, unlinked, used again, given back; and what their words hold.

use std::collections::HashMap;

use slat::addr::{Gpa, Hpa, Level};

use super::event::Thread;
use crate::trace::{FRAME_SIZE, FRAME_WORDS};

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
    pub(super) words: Box<[u64; FRAME_WORDS]>,
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

/// The first address of the table that holds `at`.
pub(super) const fn table_of(at: u64) -> u64 {
    at & !(FRAME_SIZE - 1)
}

/// The number of the word at `at` in its table.
pub(super) const fn index_of(at: u64) -> usize {
    (at % FRAME_SIZE / 8) as usize
}

impl Frame {
    fn fresh(generation: u32) -> Self {
        Self {
            status: Status::Private(None),
            generation,
            level: Level::PAGE,
            base: Gpa::new(0),
            above: 0,
            words: vec![0; FRAME_WORDS].try_into().expect("so many words"),
        }
    }
}

impl Frames {
    /// `tables` tables from `table` on are given out; whether all were free.
    pub(super) fn allocate(&mut self, table: Hpa, tables: usize) -> bool {
        let mut all_free = true;
        for at in addresses(table, tables) {
            let old = self.0.get(&at);
            all_free &= old.is_none_or(|old| old.status == Status::Free);
            self.0.insert(at, Frame::fresh(old.map_or(0, |old| old.generation)));
        }
        all_free
    }

    pub(super) fn get(&self, table: u64) -> Option<&Frame> {
        self.0.get(&table)
    }

    pub(super) fn get_mut(&mut self, table: u64) -> Option<&mut Frame> {
        self.0.get_mut(&table)
    }

    /// The word at `at`; 0 where there is no table.
    pub(super) fn word(&self, at: u64) -> u64 {
        self.0.get(&table_of(at)).map_or(0, |frame| frame.words[index_of(at)])
    }

    /// All tables with their addresses.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u64, &Frame)> {
        self.0.iter().map(|(&at, frame)| (at, frame))
    }
}

/// The addresses of `tables` tables from `table` on.
pub(super) fn addresses(table: Hpa, tables: usize) -> impl Iterator<Item = u64> {
    (0..tables as u64).map(move |number| table.get() + number * FRAME_SIZE)
}
