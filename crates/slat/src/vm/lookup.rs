//! What is mapped now, without changing anything.

use super::handle::{Handle, VmRef};
use super::{Vcpu, Worker};
use crate::addr::{Gpa, Level};
use crate::format::{Format, Kind};
use crate::host::{Host, Permissions};
use crate::space::Visit;

/// What a guest physical address is mapped by.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Mapping {
    /// The size of the leaf.
    pub level: Level,
    /// What it allows: the next fault may give more, where the dirty log withholds writing.
    pub permissions: Permissions,
}

impl<R: VmRef> Vcpu<R> {
    /// What maps `gpa` now; `None` where nothing does. Another thread may change it at any time.
    #[inline]
    pub fn lookup(&mut self, gpa: Gpa) -> Option<Mapping> {
        self.handle.lookup(gpa)
    }
}

impl<R: VmRef> Worker<R> {
    /// As [`Vcpu::lookup`].
    #[inline]
    pub fn lookup(&mut self, gpa: Gpa) -> Option<Mapping> {
        self.handle.lookup(gpa)
    }
}

impl<R: VmRef> Handle<R> {
    #[inline(always)]
    fn lookup(&mut self, gpa: Gpa) -> Option<Mapping> {
        let space = &self.vm.vm().space;
        let section = space.domain.enter(&mut self.member.reader);
        look_up(Visit { space, section: section.inside(), tally: section.tally() }, gpa)
    }
}

#[inline(always)]
pub(super) fn look_up<H: Host, F: Format>(visit: Visit<'_, H, F>, gpa: Gpa) -> Option<Mapping> {
    match visit.at_page(gpa, |_, raw| Some(raw)) {
        Some(raw) => mapping(visit.space.format, raw, Level::PAGE),
        None => upper(visit, gpa),
    }
}

/// No page: a block, an address outside of the address space, or a tree that is not walked unrolled.
#[cold]
#[inline(never)]
fn upper<H: Host, F: Format>(visit: Visit<'_, H, F>, gpa: Gpa) -> Option<Mapping> {
    if gpa >= visit.space.end {
        return None;
    }
    let position = visit.walk(gpa, Level::PAGE)?;
    mapping(visit.space.format, position.raw, position.level)
}

#[inline(always)]
fn mapping<F: Format>(format: F, raw: u64, level: Level) -> Option<Mapping> {
    match format.kind(raw, level) {
        Kind::Leaf => Some(Mapping { level, permissions: format.decode(raw, level).permissions }),
        _ => None,
    }
}
