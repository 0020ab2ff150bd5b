//! The slat engine under model checkers.

#![deny(unsafe_code)]

pub mod book;
pub mod explored;
pub mod format;
pub mod hardware;
pub mod history;
pub mod museum;
pub mod oracle;
pub mod plant;
pub mod quarantine;
pub mod reorder;
pub mod run;
pub mod scenario;
pub mod stage;
#[allow(unsafe_code)]
pub mod tool;
pub mod word;
pub mod worker;
pub mod world;
