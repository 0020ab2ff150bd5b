//! x86_64's `OffsetPageTable`.

use std::ops::Range;
use std::ptr::with_exposed_provenance_mut;

use x86_64::structures::paging::mapper::Mapper;
use x86_64::structures::paging::{
    FrameAllocator, OffsetPageTable, Page, PageTable, PageTableFlags, PhysFrame, Size4KiB,
};
use x86_64::{PhysAddr, VirtAddr};

use super::{Protect, Table, guest, memory};
use crate::frames;

const PROTECTED: PageTableFlags = PageTableFlags::PRESENT.union(PageTableFlags::USER_ACCESSIBLE);
const WRITABLE: PageTableFlags = PROTECTED.union(PageTableFlags::WRITABLE);

struct Arena;

// SAFETY: frames of the arena are given to nobody else until they are given back.
unsafe impl FrameAllocator<Size4KiB> for Arena {
    fn allocate_frame(&mut self) -> Option<PhysFrame> {
        frames::take().map(|frame| PhysFrame::containing_address(PhysAddr::new(frame as u64)))
    }
}

pub(crate) struct X86 {
    root: usize,
    mapper: OffsetPageTable<'static>,
}

fn at(page: u64) -> Page<Size4KiB> {
    Page::containing_address(VirtAddr::new(guest(page)))
}

impl Table for X86 {
    fn new() -> Self {
        let root = frames::take_zeroed().expect("frames");
        // SAFETY: the frame is aligned, holds zeroes, is this table's alone, and frames are mapped where they lie.
        let mapper = unsafe { OffsetPageTable::new(&mut *with_exposed_provenance_mut(root), VirtAddr::new(0)) };
        Self { root, mapper }
    }

    #[inline(never)]
    fn map(&mut self, page: u64) {
        let frame = PhysFrame::containing_address(PhysAddr::new(memory(page)));
        // SAFETY: no processor walks this table.
        unsafe { self.mapper.map_to(at(page), frame, WRITABLE, &mut Arena).expect("an empty entry").ignore() }
    }
}

impl Protect for X86 {
    /// It has no call for a range: a loop, under one lock.
    #[inline(never)]
    fn protect(&mut self, pages: Range<u64>) {
        for page in pages {
            // SAFETY: no processor walks this table.
            unsafe { self.mapper.update_flags(at(page), PROTECTED).expect("a page").ignore() }
        }
    }
}

impl Drop for X86 {
    /// The crate never frees tables.
    fn drop(&mut self) {
        give_back(self.root, 4);
    }
}

fn give_back(table: usize, level: u8) {
    // SAFETY: `table` is a table of this root, which is being dropped: nothing else refers to it.
    let entries: &PageTable = unsafe { &*with_exposed_provenance_mut(table) };
    if level > 1 {
        let linked = entries.iter().filter(|entry| !entry.is_unused());
        linked.for_each(|entry| give_back(entry.addr().as_u64() as usize, level - 1));
    }
    frames::give(table);
}
