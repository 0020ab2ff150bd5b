//! axaddrspace over page-table-generic: its fault on a lazily filled area. The frames of guest memory are numbers.

use std::cell::Cell;

use ax_memory_addr::{PhysAddr, VirtAddr};
use axaddrspace::{AddrSpace, AddrSpaceError, AddrSpaceResult, NestedPageTableOps, PageSize};
use axvm_types::{GuestPhysAddr, MappingFlags};

use super::generic::Nested;
use super::{AREA, AREAS, MEMORY, Table, guest};

const WRITABLE: MappingFlags = MappingFlags::READ.union(MappingFlags::WRITE).union(MappingFlags::EXECUTE);

/// The nested table that axaddrspace asks its user for.
struct Npt {
    table: Nested,
    next_frame: Cell<usize>,
}

fn failed<E>(_: E) -> AddrSpaceError {
    AddrSpaceError::MappingState
}

impl NestedPageTableOps for Npt {
    fn root_paddr(&self) -> PhysAddr {
        self.table.root()
    }

    fn levels(&self) -> usize {
        4
    }

    #[inline]
    fn alloc_frame(&self) -> Option<PhysAddr> {
        let frame = self.next_frame.get();
        self.next_frame.set(frame + 4096);
        Some(PhysAddr::from_usize(frame))
    }

    fn dealloc_frame(&self, _: PhysAddr) {}

    fn phys_to_virt(&self, frame: PhysAddr) -> VirtAddr {
        VirtAddr::from_usize(frame.as_usize())
    }

    fn map(&mut self, at: GuestPhysAddr, memory: PhysAddr, _: PageSize, flags: MappingFlags) -> AddrSpaceResult {
        self.table.map(at.as_usize(), memory, flags).map_err(failed)
    }

    fn unmap(&mut self, at: GuestPhysAddr) -> AddrSpaceResult<(PhysAddr, MappingFlags, PageSize)> {
        let (memory, flags) = self.table.unmap(at.as_usize()).map_err(failed)?;
        Ok((memory, flags, PageSize::Size4K))
    }

    fn map_linear(&mut self, _: GuestPhysAddr, _: PhysAddr, _: usize, _: MappingFlags, _: bool) -> AddrSpaceResult {
        Err(AddrSpaceError::MappingState) // lazy areas only
    }

    fn unmap_region(&mut self, _: GuestPhysAddr, _: usize) -> AddrSpaceResult {
        Err(AddrSpaceError::MappingState)
    }

    /// What was mapped goes, if anything was: a fault on a lazy area arrives here.
    #[inline]
    fn remap(&mut self, at: GuestPhysAddr, memory: PhysAddr, flags: MappingFlags) -> bool {
        let at = at.as_usize() & !0xfff;
        let _ = self.table.unmap(at);
        self.table.map(at, memory, flags).is_ok()
    }

    fn protect_region(&mut self, _: GuestPhysAddr, _: usize, _: MappingFlags) -> bool {
        false
    }

    fn query(&self, at: GuestPhysAddr) -> AddrSpaceResult<(PhysAddr, MappingFlags, PageSize)> {
        let (memory, flags) = self.table.query(at.as_usize()).map_err(failed)?;
        Ok((memory, flags, PageSize::Size4K))
    }
}

pub(crate) struct Axaddrspace(AddrSpace<Npt>);

impl Table for Axaddrspace {
    fn new() -> Self {
        let npt = Npt { table: Nested::new(), next_frame: Cell::new(MEMORY as usize) };
        let size = (AREAS * AREA) as usize;
        let mut space = AddrSpace::new_empty(npt, GuestPhysAddr::from_usize(0), size).expect("a good size");
        for area in 0..AREAS {
            let start = GuestPhysAddr::from_usize((area * AREA) as usize);
            space.map_alloc(start, AREA as usize, WRITABLE, false).expect("a free area");
        }
        Self(space)
    }

    #[inline(never)]
    fn map(&mut self, page: u64) {
        let at = GuestPhysAddr::from_usize(guest(page) as usize);
        assert!(self.0.handle_page_fault(at, MappingFlags::WRITE), "{page}");
    }
}
