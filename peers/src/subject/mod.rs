//! What is measured: tables of several makers, told to do the same work.

pub(crate) mod aarch64_paging;
pub(crate) mod axaddrspace;
pub(crate) mod floor;
pub(crate) mod generic;
pub(crate) mod multiarch;
pub(crate) mod ours;
pub(crate) mod x86;

use std::hint::black_box;
use std::ops::Range;

/// Areas of guest memory there are: slots of `slat`, areas of axaddrspace.
pub(crate) const AREAS: u64 = 64;
/// Bytes of an area.
pub(crate) const AREA: u64 = 2 << 30;
/// Which area the pages of the tests lie in.
pub(crate) const TESTED: u64 = 5;
/// Where the memory behind guest address 0 lies. No peer touches it.
pub(crate) const MEMORY: u64 = 1 << 40;
/// Pages that a leaf table maps.
pub(crate) const PER_TABLE: u64 = 512;
/// Pages of 1 GiB.
pub(crate) const GIB_PAGES: u64 = 1 << 18;

/// A table in the hands of one thread.
pub(crate) trait Table: Sized {
    /// An empty one.
    fn new() -> Self;

    /// Maps one page, present in no table: each implementation is a function of its own, not inlined.
    fn map(&mut self, page: u64);

    /// Maps pages one after the other.
    #[inline(always)]
    fn map_all(&mut self, pages: impl Iterator<Item = u64>) {
        pages.for_each(|page| black_box(&mut *self).map(page));
    }
}

/// A table of which a range can be write-protected, in one call if the peer has such a call.
pub(crate) trait Protect: Table {
    /// Protects pages that are all mapped.
    fn protect(&mut self, pages: Range<u64>);
}

/// The guest address of one of the test's pages.
#[inline(always)]
pub(crate) const fn guest(page: u64) -> u64 {
    TESTED * AREA + page * 4096
}

/// The memory behind one of the test's pages.
#[inline(always)]
pub(crate) const fn memory(page: u64) -> u64 {
    MEMORY + guest(page)
}

/// The bytes of `pages`.
pub(crate) const fn bytes(pages: &Range<u64>) -> usize {
    ((pages.end - pages.start) * 4096) as usize
}
