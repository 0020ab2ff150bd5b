//! aarch64-paging: a stage-2 mapping that is marked as live, as that of a running guest is.

use std::ptr::{NonNull, with_exposed_provenance_mut};

use aarch64_paging::Mapping;
use aarch64_paging::descriptor::{PhysicalAddress, Stage2Attributes};
use aarch64_paging::paging::{Constraints, MemoryRegion, PageTable, Stage2, Translation};

use super::{Table, guest, memory};
use crate::frames;

const WRITABLE: Stage2Attributes = Stage2Attributes::VALID
    .union(Stage2Attributes::MEMATTR_NORMAL_INNER_WB)
    .union(Stage2Attributes::MEMATTR_NORMAL_OUTER_WB)
    .union(Stage2Attributes::S2AP_ACCESS_RW)
    .union(Stage2Attributes::SH_INNER)
    .union(Stage2Attributes::ACCESS_FLAG);

struct Arena;

type Stage2Table = PageTable<Stage2Attributes>;

fn pointer(frame: usize) -> NonNull<Stage2Table> {
    NonNull::new(with_exposed_provenance_mut(frame)).expect("the arena does not start at 0")
}

impl Translation<Stage2Attributes> for Arena {
    fn allocate_table(&mut self) -> (NonNull<Stage2Table>, PhysicalAddress) {
        let frame = frames::take_zeroed().expect("frames");
        (pointer(frame), PhysicalAddress(frame))
    }

    unsafe fn deallocate_table(&mut self, table: NonNull<Stage2Table>) {
        frames::give(table.as_ptr().expose_provenance());
    }

    fn physical_to_virtual(&self, table: PhysicalAddress) -> NonNull<Stage2Table> {
        pointer(table.0)
    }
}

pub(crate) struct Aarch64Paging(Mapping<Arena, Stage2>);

impl Table for Aarch64Paging {
    fn new() -> Self {
        let mapping = Mapping::new(Arena, 0, Stage2);
        mapping.mark_active();
        Self(mapping)
    }

    #[inline(never)]
    fn map(&mut self, page: u64) {
        let at = guest(page) as usize;
        let (region, memory) = (MemoryRegion::new(at, at + 4096), PhysicalAddress(memory(page) as usize));
        self.0.map_range(&region, memory, WRITABLE, Constraints::empty()).expect("an empty entry");
    }
}

impl Drop for Aarch64Paging {
    fn drop(&mut self) {
        self.0.mark_inactive(); // no CPU has loaded it
    }
}
