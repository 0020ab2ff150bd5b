//! page_table_multiarch, with the x86-64 entries that come with it.

use std::ops::Range;

use memory_addr::{PhysAddr, VirtAddr};
use page_table_multiarch::x86_64::X64PageTable;
use page_table_multiarch::{MappingFlags, PageSize, PagingHandler};

use super::{Protect, Table, bytes, guest, memory};
use crate::frames;

const WRITABLE: MappingFlags = MappingFlags::READ.union(MappingFlags::WRITE).union(MappingFlags::EXECUTE);
const PROTECTED: MappingFlags = MappingFlags::READ.union(MappingFlags::EXECUTE);

struct Handler;

impl PagingHandler for Handler {
    fn alloc_frames(count: usize, _: usize) -> Option<PhysAddr> {
        (count == 1).then(frames::take)?.map(PhysAddr::from_usize)
    }

    fn dealloc_frames(frame: PhysAddr, _: usize) {
        frames::give(frame.as_usize());
    }

    fn phys_to_virt(frame: PhysAddr) -> VirtAddr {
        VirtAddr::from_usize(frame.as_usize())
    }
}

pub(crate) struct Multiarch(X64PageTable<Handler>);

fn at(page: u64) -> VirtAddr {
    VirtAddr::from_usize(guest(page) as usize)
}

impl Table for Multiarch {
    fn new() -> Self {
        Self(X64PageTable::try_new().expect("frames"))
    }

    #[inline(never)]
    fn map(&mut self, page: u64) {
        let frame = PhysAddr::from_usize(memory(page) as usize);
        self.0.cursor().map(at(page), frame, PageSize::Size4K, WRITABLE).expect("an empty entry");
    }
}

impl Protect for Multiarch {
    #[inline(never)]
    fn protect(&mut self, pages: Range<u64>) {
        self.0.cursor().protect_region(at(pages.start), bytes(&pages), PROTECTED).expect("pages");
    }
}
