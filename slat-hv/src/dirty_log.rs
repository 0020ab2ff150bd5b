//! dl
use crate::arguments::Arguments;
use crate::machine::Machine;
pub(crate) fn run(_: &Machine, _: Arguments) -> bool {
    false
}
