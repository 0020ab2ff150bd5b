//! The checker, the specification and the conflict tables: what they say of the engine, and that they can say the opposite.

mod agree;
mod cases;
mod conflicts;
mod histories;
mod play;
mod script;
mod subject;
mod traced;
