//! Entries that many threads change at once, the walk to them, and the pages that new tables are made of.

mod cache;
mod entry;
mod group;
mod tally;
mod walk;

pub(crate) use cache::Cache;
pub(crate) use entry::{Broken, Entry};
pub(crate) use group::{Members, Singles};
pub(crate) use tally::{Counts, Tally};
pub(crate) use walk::{Position, Root, TableRef, Unlinked};
