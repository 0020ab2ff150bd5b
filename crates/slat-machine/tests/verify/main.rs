//! The checker, the specification and the conflict tables: what they say of the engine, and that they can say the opposite.

#[expect(clippy::ptr_arg, reason = "all damages have one type, and one of them shortens the trace")]
mod agree;
mod blind;
mod cases;
mod conflicts;
mod files;
mod histories;
mod play;
mod script;
mod subject;
mod tally;
mod traced;
