//! A host for tests: tables from the allocator, a backing that answers as told, TLB operations written down.

#![allow(dead_code, unreachable_pub)]

mod hooked;

pub use hooked::*;

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use slat::addr::{Gpa, GpaRange, HostAddress, Hpa, Level};
use slat::format::{Arm64, Format, Kind};
use slat::host::*;
use slat::vm::*;

pub const PAGE: u64 = 4096;
pub const BLOCK: u64 = 2 << 20;
pub const GIB: u64 = 1 << 30;
/// Where the backing of host address 0 lies.
pub const FRAMES: u64 = 0x10_0000_0000;

pub type TestVm = Vm<TestHost, Arm64>;

type Translate = dyn Fn(&TestHost, Request) -> Translation + Send + Sync;
type OnFlush = dyn Fn(&TestHost, Flush) + Send + Sync;

/// See the module.
pub struct TestHost {
    tables: Mutex<HashMap<u64, usize>>,
    pub allocated: AtomicUsize,
    pub freed: AtomicUsize,
    /// Allocations that still succeed.
    pub allowed: AtomicUsize,
    pub flushes: Mutex<Vec<Flush>>,
    pub exposed: Mutex<Vec<Exposed>>,
    pub local: AtomicUsize,
    translate: Mutex<Arc<Translate>>,
    on_flush: Mutex<Arc<OnFlush>>,
}

impl TestHost {
    pub fn new() -> Self {
        Self {
            tables: Mutex::default(),
            allocated: AtomicUsize::new(0),
            freed: AtomicUsize::new(0),
            allowed: AtomicUsize::new(usize::MAX),
            flushes: Mutex::default(),
            exposed: Mutex::default(),
            local: AtomicUsize::new(0),
            translate: Mutex::new(Arc::new(|_, request| Translation::Run(run(request)))),
            on_flush: Mutex::new(Arc::new(|_, _| {})),
        }
    }

    pub fn translate_with(&self, translate: impl Fn(&TestHost, Request) -> Translation + Send + Sync + 'static) {
        *self.translate.lock().unwrap() = Arc::new(translate);
    }

    pub fn on_flush(&self, on_flush: impl Fn(&TestHost, Flush) + Send + Sync + 'static) {
        *self.on_flush.lock().unwrap() = Arc::new(on_flush);
    }

    pub fn take_flushes(&self) -> Vec<Flush> {
        std::mem::take(&mut self.flushes.lock().unwrap())
    }

    pub fn live_tables(&self) -> usize {
        self.allocated.load(Ordering::Relaxed) - self.freed.load(Ordering::Relaxed)
    }

    fn layout(tables: usize) -> Layout {
        Layout::from_size_align(tables * 4096, tables * 4096).unwrap()
    }
}

/// The whole backing as one run around the page, blocks of 2 MiB allowed.
pub fn run(request: Request) -> Run {
    let offset = request.host.get() % GIB;
    Run {
        guest: GpaRange::with_len(Gpa::new(request.gpa.get() - offset), GIB).unwrap(),
        hpa: Hpa::new(FRAMES + request.host.get() - offset),
        largest: Level::new(1),
        permissions: Permissions::ALL,
        memory: MemoryType::Normal,
    }
}

// SAFETY: tables are zeroed allocations aligned to their length, reached as atomics only until they are freed.
unsafe impl TableMemory for TestHost {
    type Atomics = Hooked;

    fn allocate(&self, tables: usize) -> Option<Hpa> {
        self.allowed.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).ok()?;
        // SAFETY: the layout's size is not zero.
        let table = unsafe { alloc_zeroed(Self::layout(tables)) }.expose_provenance() as u64;
        self.tables.lock().unwrap().insert(table, tables);
        self.allocated.fetch_add(tables, Ordering::Relaxed);
        Some(Hpa::new(table))
    }

    unsafe fn free(&self, table: Hpa, tables: usize) {
        assert_eq!(self.tables.lock().unwrap().remove(&table.get()), Some(tables), "freed what was not allocated");
        self.freed.fetch_add(tables, Ordering::Relaxed);
        // SAFETY: it was allocated, with this layout, and is freed once.
        unsafe { dealloc(std::ptr::with_exposed_provenance_mut(table.get() as usize), Self::layout(tables)) }
    }

    unsafe fn words(&self, table: Hpa) -> &[HookedWord] {
        hook(Op::Words);
        // SAFETY: the caller names an allocated table.
        unsafe { std::slice::from_raw_parts(std::ptr::with_exposed_provenance(table.get() as usize), 512) }
    }
}

impl Backing for TestHost {
    fn translate(&self, request: Request) -> Translation {
        let translate = self.translate.lock().unwrap().clone();
        translate(self, request)
    }

    fn expose(&self, memory: Exposed) {
        self.exposed.lock().unwrap().push(memory);
    }
}

impl Tlb for TestHost {
    type Pending = ();

    fn flush(&self, flush: Flush) {
        self.flushes.lock().unwrap().push(flush);
        let on_flush = self.on_flush.lock().unwrap().clone();
        on_flush(self, flush);
    }

    fn wait(&self, (): ()) {}

    fn flush_local(&self, _vcpu: VcpuId, _page: Gpa, _level: Hint) {
        self.local.fetch_add(1, Ordering::Relaxed);
    }

    fn relax(&self) {
        std::thread::yield_now();
    }
}

pub fn gpa(bytes: u64) -> Gpa {
    Gpa::new(bytes)
}

pub fn range(start: u64, len: u64) -> GpaRange {
    GpaRange::with_len(gpa(start), len).unwrap()
}

pub fn vm() -> Arc<TestVm> {
    Arc::new(Vm::new(TestHost::new(), Arm64::new(40).unwrap(), Config::default()).unwrap())
}

/// A VM with one writable slot of `len` bytes at `start`, backed from host address 0.
pub fn vm_with_slot(start: u64, len: u64) -> (Arc<TestVm>, Worker<Arc<TestVm>>, Vcpu<Arc<TestVm>>) {
    let vm = vm();
    let mut worker = Worker::new(vm.clone()).unwrap();
    worker.create_slot(SlotId(0), slot(start, len)).unwrap();
    let vcpu = vcpu(&vm, 0);
    (vm, worker, vcpu)
}

pub fn slot(start: u64, len: u64) -> NewSlot {
    NewSlot { range: range(start, len), host: HostAddress::new(0), flags: SlotFlags::default() }
}

pub fn vcpu<F: Format>(vm: &Arc<Vm<TestHost, F>>, id: u32) -> Vcpu<Arc<Vm<TestHost, F>>> {
    let mut vcpu = Vcpu::new(vm.clone(), VcpuId(id)).unwrap();
    vcpu.top_up(8).unwrap();
    vcpu
}

pub const LOGGED: SlotFlags = SlotFlags { read_only: false, log: Some(LogMode::Protect) };
pub const INITIALLY_SET: SlotFlags = SlotFlags { read_only: false, log: Some(LogMode::InitiallySet) };
pub const READ_ONLY: SlotFlags = SlotFlags { read_only: true, log: None };
pub const PLAIN: SlotFlags = SlotFlags { read_only: false, log: None };

pub fn set_flags<F: Format>(worker: &mut Worker<Arc<Vm<TestHost, F>>>, flags: SlotFlags) {
    while !worker.set_flags(SlotId(0), flags, Budget::UNLIMITED).unwrap().is_done() {}
}

pub fn harvest<F: Format>(worker: &mut Worker<Arc<Vm<TestHost, F>>>, pages: Pages) -> (Vec<u64>, Harvest) {
    let mut bitmap = vec![0; pages.count.div_ceil(64) as usize];
    let harvest = worker.harvest(SlotId(0), pages, &mut bitmap, Budget::UNLIMITED).unwrap();
    let named = (0..pages.count).filter(|page| bitmap[*page as usize / 64] >> (page % 64) & 1 != 0);
    (named.map(|page| pages.first + page).collect(), harvest)
}

/// Where the entry for `at` lies, by a walk of the test's own: its level, its table, its index there.
pub fn place<F: Format>(vm: &Vm<TestHost, F>, at: u64) -> (Level, Hpa, usize) {
    let format = vm.format();
    let geometry = format.geometry();
    let mut level = geometry.root_level();
    let index = geometry.root_index(gpa(at));
    let mut table = Hpa::new(vm.root().unwrap().get() + (index / 512 * 4096) as u64);
    let mut index = index % 512;
    loop {
        let raw = word(vm, table, index).load(Ordering::Acquire);
        if format.kind(raw, level) != Kind::Table {
            return (level, table, index);
        }
        table = format.table_address(raw, level);
        level = level.below().unwrap();
        index = geometry.index(gpa(at), level);
    }
}

/// The entry that the tables hold for `at`: its level, its word, its state.
pub fn entry<F: Format>(vm: &Vm<TestHost, F>, at: u64) -> (Level, u64, Kind) {
    let (level, table, index) = place(vm, at);
    let raw = word(vm, table, index).load(Ordering::Acquire);
    (level, raw, vm.format().kind(raw, level))
}

/// The word of the table at `table`.
pub fn word<F: Format>(vm: &Vm<TestHost, F>, table: Hpa, index: usize) -> &HookedWord {
    // SAFETY: tests look at tables that are linked, while nothing is being freed.
    let words = unsafe { vm.host().words(table) };
    &words[index]
}

/// Where `at` is mapped, and whether it may be written to now.
pub fn mapping<F: Format>(vm: &Vm<TestHost, F>, at: u64) -> Option<(Hpa, Level, bool)> {
    let (level, raw, kind) = entry(vm, at);
    let leaf = (kind == Kind::Leaf).then(|| vm.format().decode(raw, level))?;
    let offset = at & (vm.format().geometry().size(level) - 1) & !(PAGE - 1);
    Some((Hpa::new(leaf.hpa.get() + offset), level, leaf.permissions.write()))
}
