//! page-table-generic, with entries of Intel's EPT, which it leaves to its user.

use std::ops::Range;
use std::ptr::with_exposed_provenance_mut;

use axvm_types::MappingFlags;
use page_table_generic::{
    FrameAllocator, PageTable, PageTableEntry, PagingError, PagingResult, PhysAddr, TableMeta, VirtAddr,
};

use super::{Protect, Table, bytes, guest, memory};
use crate::frames;

const WRITABLE: MappingFlags = MappingFlags::READ.union(MappingFlags::WRITE).union(MappingFlags::EXECUTE);
const PROTECTED: MappingFlags = MappingFlags::READ.union(MappingFlags::EXECUTE);

/// Takes tables from the arena.
#[derive(Clone, Copy)]
pub(super) struct Arena;

impl FrameAllocator for Arena {
    fn alloc_frame(&self) -> Option<PhysAddr> {
        frames::take().map(PhysAddr::from_usize)
    }

    fn dealloc_frame(&self, frame: PhysAddr) {
        frames::give(frame.as_usize());
    }

    fn phys_to_virt(&self, frame: PhysAddr) -> *mut u8 {
        with_exposed_provenance_mut(frame.as_usize())
    }
}

/// Four levels of 512 entries.
#[derive(Clone, Copy)]
pub(super) struct FourLevels;

impl TableMeta for FourLevels {
    type P = Ept;

    const PAGE_SIZE: usize = 4096;
    const LEVEL_BITS: &[usize] = &[9, 9, 9, 9];
    const MAX_BLOCK_LEVEL: usize = 3;

    fn flush(_: Option<VirtAddr>) {}
}

/// An entry: permissions in bits 0 to 2, memory type in 3 to 5, block in 7.
#[derive(Clone, Copy, Debug)]
#[repr(transparent)]
pub(super) struct Ept(u64);

const ADDRESS: u64 = 0x000f_ffff_ffff_f000;
const PERMISSIONS: u64 = 7;
const WRITE_BACK: u64 = 6 << 3;
const BLOCK: u64 = 1 << 7;

impl PageTableEntry for Ept {
    type PteConfig = MappingFlags;

    #[inline]
    fn new_page(memory: PhysAddr, flags: MappingFlags, is_block: bool) -> Self {
        let block = if is_block { BLOCK } else { 0 };
        Self(memory.as_usize() as u64 & ADDRESS | flags.bits() as u64 & PERMISSIONS | WRITE_BACK | block)
    }

    #[inline]
    fn new_table(table: PhysAddr) -> Self {
        Self(table.as_usize() as u64 & ADDRESS | PERMISSIONS)
    }

    #[inline]
    fn paddr(&self, _: bool) -> PhysAddr {
        PhysAddr::from_usize((self.0 & ADDRESS) as usize)
    }

    #[inline]
    fn config(&self, _: bool) -> MappingFlags {
        MappingFlags::from_bits_truncate((self.0 & PERMISSIONS) as usize)
    }

    #[inline]
    fn present(&self) -> bool {
        self.0 & PERMISSIONS != 0
    }

    #[inline]
    fn huge(&self, is_directory: bool) -> bool {
        is_directory && self.0 & BLOCK != 0
    }

    #[inline]
    fn unused(&self) -> bool {
        self.0 == 0
    }

    #[inline]
    fn clear(&mut self) {
        self.0 = 0;
    }
}

pub(crate) struct Generic(PageTable<FourLevels, Arena>);

fn at(page: u64) -> VirtAddr {
    VirtAddr::from_usize(guest(page) as usize)
}

impl Table for Generic {
    fn new() -> Self {
        Self(PageTable::new(Arena).expect("frames"))
    }

    #[inline(never)]
    fn map(&mut self, page: u64) {
        let frame = PhysAddr::from_usize(memory(page) as usize);
        self.0.map_page(at(page), frame, 4096, WRITABLE).expect("an empty entry");
    }
}

impl Protect for Generic {
    #[inline(never)]
    fn protect(&mut self, pages: Range<u64>) {
        self.0.protect_region(at(pages.start), bytes(&pages), PROTECTED).expect("pages");
    }
}

/// What axaddrspace builds on.
pub(super) struct Nested(PageTable<FourLevels, Arena>);

impl Nested {
    pub(super) fn new() -> Self {
        Self(PageTable::new(Arena).expect("frames"))
    }

    pub(super) fn root(&self) -> PhysAddr {
        self.0.root_paddr()
    }

    pub(super) fn map(&mut self, at: usize, memory: PhysAddr, flags: MappingFlags) -> PagingResult {
        self.0.map_page(VirtAddr::from_usize(at), memory, 4096, flags)
    }

    pub(super) fn unmap(&mut self, at: usize) -> PagingResult<(PhysAddr, MappingFlags)> {
        let (memory, flags) = self.query(at)?;
        self.0.unmap(VirtAddr::from_usize(at), 4096)?;
        Ok((memory, flags))
    }

    pub(super) fn query(&self, at: usize) -> PagingResult<(PhysAddr, MappingFlags)> {
        let (memory, entry) = self.0.translate(VirtAddr::from_usize(at))?;
        if entry.present() { Ok((memory, entry.config(false))) } else { Err(PagingError::NotMapped) }
    }
}
