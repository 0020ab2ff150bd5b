//! The engine without `std`: everything is instantiated, linked and, by `run`, called.

#![no_std]

use core::alloc::{GlobalAlloc, Layout};
use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use slat::addr::{Gpa, GpaRange, HostAddress, Hpa, Level};
use slat::format::Arm64;
use slat::host::*;
use slat::vm::{Budget, Config, LogMode, NewSlot, Outcome, Pages, SlotFlags, Teardown, Vcpu, Vm, Worker};

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {
        core::hint::spin_loop();
    }
}

/// The prebuilt `core` was compiled for unwinding and names this in its unwind tables; nothing unwinds here.
#[unsafe(no_mangle)]
extern "C" fn rust_eh_personality() {}

const ARENA: usize = 4 << 20;

/// Memory that is handed out from the front and never taken back.
#[repr(align(65536))]
struct Bump {
    memory: UnsafeCell<[u8; ARENA]>,
    used: AtomicUsize,
}

// SAFETY: parts of the memory are handed out once each, by `used`.
unsafe impl Sync for Bump {}

impl Bump {
    const fn new() -> Self {
        Self { memory: UnsafeCell::new([0; ARENA]), used: AtomicUsize::new(0) }
    }

    fn take(&self, layout: Layout) -> *mut u8 {
        let fit = |used: usize| {
            let start = used.next_multiple_of(layout.align());
            start.checked_add(layout.size()).filter(|end| *end <= ARENA)
        };
        match self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fit) {
            // SAFETY: the offset is inside of the arena: `fit` has seen to it.
            Ok(used) => unsafe { self.memory.get().cast::<u8>().add(used.next_multiple_of(layout.align())) },
            Err(_) => core::ptr::null_mut(),
        }
    }
}

// SAFETY: `take` returns memory of the layout's size and alignment that nobody else has, or null.
unsafe impl GlobalAlloc for Bump {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        self.take(layout)
    }

    unsafe fn dealloc(&self, _: *mut u8, _: Layout) {}
}

#[global_allocator]
static HEAP: Bump = Bump::new();
static TABLES: Bump = Bump::new();

struct Embedder;

// SAFETY: tables come from an arena that starts zeroed and are handed out once, aligned to their length.
unsafe impl TableMemory for Embedder {
    type Atomics = slat::sync::Core;

    fn allocate(&self, tables: usize) -> Option<Hpa> {
        let layout = Layout::from_size_align(tables * 4096, tables * 4096).ok()?;
        let table = TABLES.take(layout);
        (!table.is_null()).then(|| Hpa::new(table.expose_provenance() as u64))
    }

    unsafe fn free(&self, _: Hpa, _: usize) {}

    unsafe fn words(&self, table: Hpa) -> &[AtomicU64] {
        // SAFETY: the caller names a table of the arena: 4096 aligned bytes, reached as atomics only.
        unsafe { core::slice::from_raw_parts(core::ptr::with_exposed_provenance(table.get() as usize), 512) }
    }
}

impl Backing for Embedder {
    fn translate(&self, request: Request) -> Translation {
        let offset = request.host.get();
        let Some(guest) = GpaRange::with_len(Gpa::new(request.gpa.get() - offset), 4 << 20) else {
            return Translation::Denied;
        };
        let (hpa, permissions) = (Hpa::new(1 << 30), Permissions::ALL);
        Translation::Run(Run { guest, hpa, largest: Level::new(1), permissions, memory: MemoryType::Normal })
    }
}

impl Tlb for Embedder {
    type Pending = ();
    fn flush(&self, _: Flush) {}
    fn wait(&self, (): ()) {}
    fn flush_local(&self, _: VcpuId, _: Gpa, _: Hint) {}
    fn relax(&self) {}
}

/// Maps, logs, splits, harvests, unmaps and tears down; 0 if all went as it should, else the step that did not.
#[unsafe(no_mangle)]
pub extern "C" fn slat_no_std_run() -> i32 {
    run().err().unwrap_or(0)
}

fn run() -> Result<(), i32> {
    let format = Arm64::new(40).map_err(|_| 1)?;
    let vm = Vm::new(Embedder, format, Config { vcpus: 1, workers: 1, ..Config::default() }).map_err(|_| 2)?;
    let mut worker = Worker::new(&vm).map_err(|_| 3)?;
    let base = Gpa::new(0x4000_0000);
    let range = GpaRange::with_len(base, 4 << 20).ok_or(4)?;
    let slot = NewSlot { range, host: HostAddress::new(0), flags: SlotFlags::default() };
    worker.create_slot(SlotId(0), slot).map_err(|_| 5)?;
    let mut vcpu = Vcpu::new(&vm, VcpuId(0)).map_err(|_| 6)?;
    vcpu.top_up(8).map_err(|_| 7)?;
    let mapped = Outcome::Mapped { level: Level::new(1), writable: true };
    (vcpu.fault(base, Access::Read) == mapped).then_some(()).ok_or(8)?;
    let logged = SlotFlags { log: Some(LogMode::Protect), ..SlotFlags::default() };
    while !worker.set_flags(SlotId(0), logged, Budget::entries(64)).map_err(|_| 9)?.is_done() {}
    (vcpu.fault(base, Access::Write) == Outcome::Relaxed { level: Level::PAGE }).then_some(()).ok_or(10)?;
    let mut bitmap = [0; 16];
    let pages = Pages { first: 0, count: 1024 };
    let harvest = worker.harvest(SlotId(0), pages, &mut bitmap, Budget::UNLIMITED).map_err(|_| 11)?;
    (harvest.complete && bitmap[0] == 1).then_some(()).ok_or(12)?;
    while !worker.unmap(range, Budget::UNLIMITED).map_err(|_| 13)?.is_done() {}
    drop(vcpu);
    while worker.teardown(Budget::entries(64)) == Teardown::More {}
    drop(worker);
    (vm.statistics().tables == 0).then_some(()).ok_or(14)
}
