//! The checker: whether a trace keeps the rules that hardware and the engine's own protocols rest on.
//!
//! A trace ([`event`]) holds every change of a table's word, every flush, every call and what the embedder declares, in the
//! order in which it happened. Two evaluators give verdicts ([`verdict`]): [`Checker`] runs beside the program and keeps
//! the state of every entry; [`replay`] is given the whole trace and asks of each event, from the history alone,
//! whether it was allowed. They share the reading of words ([`discipline`]) and no more, and have to agree.
//!
//! Hardware is a may-TLB: it may use any value that was visible since the last completed flush that covers it, so that
//! a missing flush, one of too small a scope or with a wrong hint shows whatever the schedule.

mod declared;
pub mod discipline;
pub mod event;
mod frames;
mod history;
mod may_tlb;
mod online;
pub mod replay;
pub mod verdict;

pub use discipline::{Discipline, Owned};
pub use event::{Event, How, Thread};
pub use online::Checker;
pub use verdict::{Finding, Verdict};
