//! An embedder that costs as little as it can: what is counted is the engine.

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::ptr::{with_exposed_provenance, with_exposed_provenance_mut};
use std::sync::atomic::AtomicU64;

use slat::addr::{Gpa, GpaRange, Hpa, Level};
use slat::host::{Backing, Flush, Hint, MemoryType, Permissions, Request, Run, TableMemory, Tlb, Translation, VcpuId};

const GIB: u64 = 1 << 30;

/// Tables from the allocator, memory that is everywhere, TLBs that hold nothing.
pub struct Embedder {
    /// The largest leaf that the memory may be mapped by.
    pub largest: Level,
}

fn layout(tables: usize) -> Layout {
    Layout::from_size_align(tables * 4096, tables * 4096).expect("a power of two of tables")
}

// SAFETY: tables are zeroed allocations, aligned to their length, reached as atomics only until they are freed.
unsafe impl TableMemory for Embedder {
    type Atomics = slat::sync::Core;

    fn allocate(&self, tables: usize) -> Option<Hpa> {
        // SAFETY: the layout's size is not zero.
        let table = unsafe { alloc_zeroed(layout(tables)) };
        (!table.is_null()).then(|| Hpa::new(table.expose_provenance() as u64))
    }

    unsafe fn free(&self, table: Hpa, tables: usize) {
        // SAFETY: it was allocated with this layout, and is freed once.
        unsafe { dealloc(with_exposed_provenance_mut(table.get() as usize), layout(tables)) }
    }

    #[inline(always)]
    unsafe fn words(&self, table: Hpa) -> &[AtomicU64] {
        // SAFETY: the caller names an allocated table: 512 words.
        unsafe { std::slice::from_raw_parts(with_exposed_provenance(table.get() as usize), 512) }
    }
}

impl Backing for Embedder {
    /// Not inlined, so that its own instructions can be told from the engine's.
    #[inline(never)]
    fn translate(&self, request: Request) -> Translation {
        let offset = request.host.get() % GIB;
        let Some(guest) = GpaRange::with_len(Gpa::new(request.gpa.get() - offset), GIB) else {
            return Translation::Denied;
        };
        let hpa = Hpa::new((1 << 40) + request.host.get() - offset);
        let (largest, permissions) = (self.largest, Permissions::ALL);
        Translation::Run(Run { guest, hpa, largest, permissions, memory: MemoryType::Normal })
    }
}

impl Tlb for Embedder {
    type Pending = ();

    #[inline(always)]
    fn flush(&self, _: Flush) {}

    #[inline(always)]
    fn wait(&self, (): ()) {}

    #[inline(always)]
    fn flush_local(&self, _: VcpuId, _: Gpa, _: Hint) {}

    fn relax(&self) {
        std::hint::spin_loop();
    }
}
