//! The smallest complete embedder: one guest of 8 MiB on the arm64 format, its memory and tables from the allocator.
//!
//! There is no CPU behind it, so its TLB maintenance has nothing to do; a hypervisor issues the instructions there.

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::slice;
use std::sync::atomic::AtomicU64;

use slat::addr::{Gpa, GpaRange, HostAddress, Hpa, Level};
use slat::format::Arm64;
use slat::host::{
    Access, Backing, Flush, Hint, MemoryType, Permissions, Request, Run, SlotId, TableMemory, Tlb, Translation, VcpuId,
};
use slat::vm::{Budget, Config, LogMode, NewSlot, Outcome, Pages, SlotFlags, Teardown, Vcpu, Vm, Worker};

const GUEST: u64 = 8 << 20;

/// Guest memory, 2 MiB aligned, so that it can be mapped by blocks. On this host "physical" is the address itself.
struct Embedder {
    memory: *mut u8,
}

impl Embedder {
    fn new() -> Self {
        // SAFETY: the layout's size is not zero.
        Self { memory: unsafe { alloc_zeroed(Self::layout()) } }
    }

    fn layout() -> Layout {
        Layout::from_size_align(GUEST as usize, 2 << 20).expect("a valid layout")
    }

    fn table_layout(tables: usize) -> Layout {
        Layout::from_size_align(tables * 4096, tables * 4096).expect("a valid layout")
    }
}

impl Drop for Embedder {
    fn drop(&mut self) {
        // SAFETY: allocated in `new` with the same layout.
        unsafe { dealloc(self.memory, Self::layout()) }
    }
}

// SAFETY: the pointer is only turned into addresses.
unsafe impl Send for Embedder {}
// SAFETY: as above.
unsafe impl Sync for Embedder {}

// SAFETY: tables are zeroed, aligned to their length and owned by the engine until `free`; a table's address is its
// physical address, and its words are 512 atomics in that memory.
unsafe impl TableMemory for Embedder {
    type Atomics = slat::sync::Core;

    fn allocate(&self, tables: usize) -> Option<Hpa> {
        // SAFETY: the layout's size is not zero.
        let table = unsafe { alloc_zeroed(Self::table_layout(tables)) };
        (!table.is_null()).then(|| Hpa::new(table.expose_provenance() as u64))
    }

    unsafe fn free(&self, table: Hpa, tables: usize) {
        let table = std::ptr::with_exposed_provenance_mut(table.get() as usize);
        // SAFETY: the caller gives back what `allocate` gave, once.
        unsafe { dealloc(table, Self::table_layout(tables)) }
    }

    unsafe fn words(&self, table: Hpa) -> &[AtomicU64] {
        let words = std::ptr::with_exposed_provenance(table.get() as usize);
        // SAFETY: the caller names a table that is allocated: 4096 aligned bytes, reached as atomics only.
        unsafe { slice::from_raw_parts(words, 512) }
    }
}

impl Backing for Embedder {
    /// The slot's host address is the offset in guest memory: all of it is there, contiguous, and never moves.
    fn translate(&self, request: Request) -> Translation {
        let offset = request.host.get();
        let start = Gpa::new(request.gpa.get() - offset);
        Translation::Run(Run {
            guest: GpaRange::with_len(start, GUEST).expect("inside 64 bits"),
            hpa: Hpa::new(self.memory.expose_provenance() as u64),
            largest: Level::new(1),
            permissions: Permissions::ALL,
            memory: MemoryType::Normal,
        })
    }
}

impl Tlb for Embedder {
    type Pending = ();

    fn flush(&self, flush: Flush) {
        println!("  flush {flush:?}");
    }

    fn wait(&self, (): ()) {}

    fn flush_local(&self, _vcpu: VcpuId, page: Gpa, _level: Hint) {
        println!("  this CPU drops {page}");
    }

    fn relax(&self) {
        std::hint::spin_loop();
    }
}

fn main() {
    let vm = Vm::new(Embedder::new(), Arm64::new(40).expect("40 bits"), Config::default()).expect("memory");
    let mut worker = Worker::new(&vm).expect("a free place");
    let base = Gpa::new(0x4000_0000);
    let slot = NewSlot {
        range: GpaRange::with_len(base, GUEST).expect("inside 64 bits"),
        host: HostAddress::new(0),
        flags: SlotFlags::default(),
    };
    worker.create_slot(SlotId(0), slot).expect("a good slot");

    let mut vcpu = Vcpu::new(&vm, VcpuId(0)).expect("a free place");
    fault(&mut vcpu, base, Access::Read);

    let logged = SlotFlags { log: Some(LogMode::Protect), ..SlotFlags::default() };
    while !worker.set_flags(SlotId(0), logged, Budget::entries(512)).expect("a slot").is_done() {}
    fault(&mut vcpu, Gpa::new(base.get() + 0x5000), Access::Write);
    let mut bitmap = [0; 32];
    let pages = Pages { first: 0, count: GUEST / 4096 };
    let harvest = worker.harvest(SlotId(0), pages, &mut bitmap, Budget::UNLIMITED).expect("a logged slot");
    println!("dirty pages: {}, bitmap {:#b}, complete: {}", harvest.dirty, bitmap[0], harvest.complete);

    drop(vcpu);
    while worker.teardown(Budget::entries(512)) == Teardown::More {}
    drop(worker);
    assert_eq!(vm.statistics().tables, 0);
}

/// What a vCPU's exit handler does with a fault.
fn fault(vcpu: &mut Vcpu<&Vm<Embedder, Arm64>>, gpa: Gpa, access: Access) {
    loop {
        match vcpu.fault(gpa, access) {
            Outcome::NeedTables(tables) => vcpu.top_up(tables.into()).expect("memory for tables"),
            Outcome::Retry => continue,
            outcome => return println!("{access:?} of {gpa}: {outcome:?}"),
        }
    }
}
