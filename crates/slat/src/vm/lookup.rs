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
    /// The level in the low half, the group's bits in the high one: the answer fits in one register.
    size: u8,
    /// What it allows: the next fault may give more, where the dirty log withholds writing.
    pub permissions: Permissions,
}

impl Mapping {
    #[inline(always)]
    fn of<F: Format>(format: F, raw: u64, level: Level) -> Self {
        let group_bits = if format.is_grouped(raw, level) { format.group_bits(level) as u8 } else { 0 };
        Self { size: level.get() | group_bits << 4, permissions: format.decode(raw, level).permissions }
    }

    /// The size of the leaf.
    pub const fn level(self) -> Level {
        Level::new(self.size & 0xf)
    }

    /// Leaves in the contiguous group that it is a member of, as a power of two: 0 for a leaf by itself.
    pub const fn group_bits(self) -> u32 {
        (self.size >> 4) as u32
    }

    /// Bytes that the leaf maps, or its whole group, around the address.
    pub fn size<F: Format>(self, format: F) -> u64 {
        format.geometry().size(self.level()) << self.group_bits()
    }
}

impl<R: VmRef> Vcpu<R> {
    /// What maps `gpa` now; `None` where nothing does, and for the moment in which somebody changes the entry, as in
    /// splitting a block. Another thread may change it at any time.
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
        Kind::Leaf => Some(Mapping::of(format, raw, level)),
        _ => None,
    }
}
