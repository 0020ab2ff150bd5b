//! lx
use crate::arguments::Arguments;
use crate::machine::Machine;
pub(crate) fn run(_: Machine, _: Arguments) -> bool {
    false
}
pub(crate) fn is_running() -> bool {
    false
}
pub(crate) fn secondary(_: usize) -> ! {
    loop {}
}
