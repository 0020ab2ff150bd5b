//! What the engine asks of its embedder.

use std::cell::Cell;
use std::ops::Range;
use std::sync::atomic::AtomicU64;

use slat::addr::{Gpa, GpaRange, Hpa};
use slat::host::{Backing, Flush, Hint, MemoryType, Permissions, Request, Run, TableMemory, Tlb, Translation, VcpuId};

use super::Machine;
use crate::maintenance::Pending;
use crate::memory::{HugeSize, Places};
use crate::physical::GUEST_BASE;

// SAFETY:
// * The arena hands out zeroed frames, each to one caller until it is freed, runs of them aligned to their length.
// * `words` is the arena's mapping at the frame's own place, which does not move while the machine exists; the
//   machine's walkers read the same words.
unsafe impl TableMemory for Machine {
    type Atomics = slat::sync::Core;

    fn allocate(&self, tables: usize) -> Option<Hpa> {
        if self.injections.refuses_allocation(tables) {
            return None;
        }
        self.physical.tables().allocate(tables)
    }

    unsafe fn free(&self, table: Hpa, tables: usize) {
        self.physical.tables().free(table, tables);
    }

    #[inline(always)]
    unsafe fn words(&self, table: Hpa) -> &[AtomicU64] {
        self.physical.tables().words(table)
    }
}

impl Backing for Machine {
    fn translate(&self, request: Request) -> Translation {
        match (self.injections.translation(&request), self.places()) {
            (Some(planted), _) => planted,
            (None, Some(places)) => self.translate_movable(request, places),
            (None, None) => self.translate_fixed(request),
        }
    }
}

impl Machine {
    /// The aligned piece of guest memory around the page, as large as the largest leaf, but never less than 2 MiB.
    fn translate_fixed(&self, request: Request) -> Translation {
        let memory = self.memory();
        let offset = request.host.get();
        if offset >= memory.len() {
            return Translation::Denied;
        }
        let largest = 1 << self.walker.shift(memory.source().largest_leaf());
        let piece = HugeSize::TwoMebibytes.bytes().max(largest);
        let start = offset & !(piece - 1);
        let end = (start + piece).min(memory.len());
        self.run(request, start..end, start)
    }

    /// The page, or the block around it if it lies together. The places may change while they are read: then an
    /// invalidation is open, and the engine does not use what it is told.
    fn translate_movable(&self, request: Request, places: &Places) -> Translation {
        let page_size = self.memory().page_size();
        let page = request.host.get() / page_size;
        if page >= places.pages() {
            return Translation::Denied;
        }
        let (pages, frame) = places.run(page);
        self.run(request, pages.start * page_size..pages.end * page_size, frame * page_size)
    }

    /// The run of host addresses `host`, around the one asked for, that begins at `offset` of the machine's memory.
    fn run(&self, request: Request, host: Range<u64>, offset: u64) -> Translation {
        // It may begin before the guest's addresses do, when a slot lies low but its memory high.
        let before = (request.host.get() - host.start).min(request.gpa.get());
        let cut = request.host.get() - host.start - before;
        let guest = Gpa::new(request.gpa.get() - before);
        let guest = GpaRange::with_len(guest, host.end - host.start - cut);
        Translation::Run(Run {
            guest: guest.expect("guest memory ends before the guest's addresses do"),
            hpa: Hpa::new(GUEST_BASE.get() + offset + cut),
            largest: self.memory().source().largest_leaf(),
            permissions: Permissions::ALL,
            memory: MemoryType::Normal,
        })
    }
}

/// Turns of a wait that spin before one yields the processor: the machine often has more cores than its host.
const SPINS: u32 = 32;

impl Tlb for Machine {
    type Pending = Pending;

    fn flush(&self, flush: Flush) -> Pending {
        self.cores.post(flush)
    }

    fn wait(&self, pending: Pending) {
        self.cores.wait(&pending);
    }

    fn flush_local(&self, vcpu: VcpuId, page: Gpa, level: Hint) {
        self.cores.post_local(vcpu.0, page, level);
    }

    fn relax(&self) {
        thread_local!(static TURNS: Cell<u32> = const { Cell::new(0) });
        let turn = TURNS.get().wrapping_add(1);
        TURNS.set(turn);
        if turn.is_multiple_of(SPINS) {
            std::thread::yield_now();
        } else {
            std::hint::spin_loop();
        }
    }
}

// A VM that borrows its machine: who made the machine can look at it after the VM is gone.

// SAFETY: the machine that is referred to keeps the contract.
unsafe impl TableMemory for &Machine {
    type Atomics = slat::sync::Core;

    fn allocate(&self, tables: usize) -> Option<Hpa> {
        Machine::allocate(self, tables)
    }

    unsafe fn free(&self, table: Hpa, tables: usize) {
        // SAFETY: the caller's promise, passed on.
        unsafe { Machine::free(self, table, tables) }
    }

    #[inline(always)]
    unsafe fn words(&self, table: Hpa) -> &[AtomicU64] {
        // SAFETY: the caller's promise, passed on.
        unsafe { Machine::words(self, table) }
    }
}

impl Backing for &Machine {
    fn translate(&self, request: Request) -> Translation {
        Machine::translate(self, request)
    }
}

impl Tlb for &Machine {
    type Pending = Pending;

    fn flush(&self, flush: Flush) -> Pending {
        Machine::flush(self, flush)
    }

    fn wait(&self, pending: Pending) {
        Machine::wait(self, pending);
    }

    fn flush_local(&self, vcpu: VcpuId, page: Gpa, level: Hint) {
        Machine::flush_local(self, vcpu, page, level);
    }

    fn relax(&self) {
        Machine::relax(self);
    }
}
