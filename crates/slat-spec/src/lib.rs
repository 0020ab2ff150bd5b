//! What the memory of a VM is, without its tables: an abstract map, and the operations on it.
//!
//! A [`Page`] is mapped or not, writable or not, marked or not; hardware may still use what was taken from it, until that is
//! flushed. An operation on a range is one on each of its pages, in any order; leaves larger than a page are not seen. What
//! happened is a *history*: calls and returns, with results. It is explained if the operations of each page can be put into
//! an order that agrees with what was called after what had returned, in which the specification gives the results that were
//! seen, and which leaves nothing half done ([`history`]). A page is an object of its own, so that histories of all pages are
//! explained when each page's is.

#![forbid(unsafe_code)]

mod flags;
pub mod history;
mod operation;
mod page;

pub use flags::{Flags, Log};
pub use history::{Call, Unexplained, explain};
pub use operation::{Fault, Operation, Place};
pub use page::Page;
