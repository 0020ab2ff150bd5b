//! What a trace is made of: every change of a table's word, every flush, every call, and what the embedder declares.

use slat::addr::{GpaRange, Hpa};
use slat::host::Flush;

/// A thread of the traced program.
pub type Thread = u16;

/// One thing that happened. The events of a trace are in the order in which they happened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Event {
    /// The embedder gave out so many contiguous tables, zeroed.
    Allocated {
        /// The first.
        table: Hpa,
        /// How many.
        tables: usize,
    },
    /// The embedder got them back.
    Freed {
        /// The first.
        table: Hpa,
        /// How many.
        tables: usize,
    },
    /// Hardware walks from here on, from now on.
    Rooted {
        /// The root.
        root: Hpa,
        /// Tables in it.
        tables: usize,
    },
    /// The tree is cut off at its root by this thread.
    Uprooted {
        /// Who did it.
        thread: Thread,
    },
    /// Software read a word of a table.
    Read {
        /// Who.
        thread: Thread,
        /// Where the word lies.
        at: Hpa,
        /// What it held.
        value: u64,
    },
    /// Software changed a word of a table.
    Wrote {
        /// Who.
        thread: Thread,
        /// Where the word lies.
        at: Hpa,
        /// What it held before.
        old: u64,
        /// What it holds now.
        new: u64,
        /// By which kind of operation.
        how: How,
    },
    /// A flush was begun: it may take effect from now on.
    FlushBegun {
        /// Who began it.
        thread: Thread,
        /// Its number in the trace.
        id: u64,
        /// What it covers.
        flush: Flush,
        /// The guest whose translations it is for.
        vmid: u16,
        /// The cores that it reaches, a bit each.
        cores: u64,
    },
    /// A flush is complete on every core that it reaches.
    FlushDone {
        /// Its number in the trace.
        id: u64,
    },
    /// A thread enters the engine.
    Called {
        /// Who.
        thread: Thread,
    },
    /// It returns to its embedder.
    Returned {
        /// Who.
        thread: Thread,
    },
    /// From now on no access may reach these bytes of host memory.
    Taken {
        /// The first.
        start: Hpa,
        /// How many.
        len: u64,
    },
    /// They belong to the guest again.
    Given {
        /// The first.
        start: Hpa,
        /// How many.
        len: u64,
    },
    /// From now on no write may be made through these guest addresses.
    Withdrawn(GpaRange),
    /// Writes may be allowed there again.
    Granted(GpaRange),
    /// From now on every write is logged there: the log is armed.
    Logged(GpaRange),
    /// No longer.
    Unlogged(GpaRange),
    /// What was written to these pages so far has been copied, after the log named them.
    Copied(GpaRange),
    /// The log said that nothing is left: every write that was not copied has been named.
    Complete(GpaRange),
    /// No thread is in the engine.
    Quiet,
    /// The VM is gone.
    Ended,
}

/// The kinds of change.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum How {
    /// A store, whatever was there.
    Store,
    /// A compare-and-swap from the value seen.
    Swap,
    /// A read-modify-write that takes whatever is there: an exchange, an AND, an OR.
    Exchange,
}
