//! The engine on the machine: guests that run, and what they see.

mod common;
mod dirty_log;
mod invalidate;
mod populate;
mod races;
mod slots;
mod split;
mod stage;
mod stress;
mod teardown;
