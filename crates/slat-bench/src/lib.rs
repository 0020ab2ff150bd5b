//! The stage on which slat's operations are counted and timed.

pub mod embedder;
pub mod stage;
