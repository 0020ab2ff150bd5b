//! What a trace is made of: every change of a table's word, every flush, every call, and what the embedder declares.

use serde::{Deserialize, Serialize};
use slat::addr::{GpaRange, Hpa};
use slat::host::Flush;

use crate::trace::plain::{FlushText, address, guest, word};

/// A thread of the traced program.
pub type Thread = u16;

/// One thing that happened. The events of a trace are in the order in which they happened.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub enum Event {
    /// The embedder gave out so many contiguous tables, zeroed.
    Allocated {
        /// The first.
        #[serde(with = "address")]
        table: Hpa,
        /// How many.
        tables: usize,
    },
    /// The embedder got them back.
    Freed {
        /// The first.
        #[serde(with = "address")]
        table: Hpa,
        /// How many.
        tables: usize,
    },
    /// Hardware walks from here on, from now on.
    Rooted {
        /// The root.
        #[serde(with = "address")]
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
        #[serde(with = "address")]
        at: Hpa,
        /// What it held.
        #[serde(with = "word")]
        value: u64,
    },
    /// Software changed a word of a table.
    Wrote {
        /// Who.
        thread: Thread,
        /// Where the word lies.
        #[serde(with = "address")]
        at: Hpa,
        /// What it held before.
        #[serde(with = "word")]
        old: u64,
        /// What it holds now.
        #[serde(with = "word")]
        new: u64,
        /// By which kind of operation.
        how: How,
    },
    /// Hardware changed a word of a table: it noted that a leaf was accessed, or written through.
    Updated {
        /// The thread whose core did it.
        thread: Thread,
        /// Where the word lies.
        #[serde(with = "address")]
        at: Hpa,
        /// What it held before.
        #[serde(with = "word")]
        old: u64,
        /// What it holds now.
        #[serde(with = "word")]
        new: u64,
    },
    /// A flush was begun: it may take effect from now on.
    FlushBegun {
        /// Who began it.
        thread: Thread,
        /// Its number in the trace.
        id: u64,
        /// What it covers.
        #[serde(with = "FlushText")]
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
    /// A vCPU has left its guest: what its thread reads of tables it may use until it enters again, over several calls.
    Left {
        /// Its thread.
        thread: Thread,
    },
    /// It enters its guest again.
    Entered {
        /// Its thread.
        thread: Thread,
    },
    /// From now on no access may reach these bytes of host memory.
    Taken {
        /// The first.
        #[serde(with = "address")]
        start: Hpa,
        /// How many.
        len: u64,
    },
    /// They belong to the guest again.
    Given {
        /// The first.
        #[serde(with = "address")]
        start: Hpa,
        /// How many.
        len: u64,
    },
    /// From now on no write may be made through these guest addresses.
    Withdrawn(#[serde(with = "guest")] GpaRange),
    /// Writes may be allowed there again.
    Granted(#[serde(with = "guest")] GpaRange),
    /// From now on every write is logged there: the log is armed.
    Logged(#[serde(with = "guest")] GpaRange),
    /// No longer.
    Unlogged(#[serde(with = "guest")] GpaRange),
    /// What was written to these pages so far has been copied, after the log named them.
    Copied(#[serde(with = "guest")] GpaRange),
    /// The log said that nothing is left: every write that was not copied has been named.
    Complete(#[serde(with = "guest")] GpaRange),
    /// From now on an annotation stands in the place of these guest addresses.
    Annotated {
        /// The addresses.
        #[serde(with = "guest")]
        range: GpaRange,
        /// The word that says it.
        #[serde(with = "word")]
        word: u64,
    },
    /// It may be cleared, or become another one.
    Cleared(#[serde(with = "guest")] GpaRange),
    /// No thread is in the engine.
    Quiet,
    /// The VM is gone.
    Ended,
}

/// The kinds of change.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum How {
    /// A store, whatever was there.
    Store,
    /// A compare-and-swap from the value seen.
    Swap,
    /// A read-modify-write that takes whatever is there: an exchange, an AND, an OR.
    Exchange,
}
