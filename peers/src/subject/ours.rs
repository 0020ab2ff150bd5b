//! slat: whole faults, with an embedder that costs as little as the one of `slat-bench`.

use std::hint::black_box;
use std::ops::Range;
use std::ptr::with_exposed_provenance;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use slat::addr::{Gpa, GpaRange, HostAddress, Hpa, Level};
use slat::format::Arm64;
use slat::host::{
    Access, Backing, Flush, Hint, MemoryType, Permissions, Request, Run, SlotId, TableMemory, Tlb, Translation, VcpuId,
};
use slat::vm::{Budget, Config, Exit, LogMode, NewSlot, Outcome, Pages, SlotFlags, Vcpu, Vm, Worker};

use super::{AREA, AREAS, MEMORY, TESTED, Table, guest};
use crate::frames;

const GIB: u64 = 1 << 30;

/// Tables that a vCPU takes when it runs short, so that most faults that need one find it.
const CARRIED: usize = 8;

/// Tables from the arena, memory that is everywhere, TLBs that hold nothing.
pub(crate) struct Embedder;

// SAFETY: frames of the arena are aligned, zeroed here, given to nobody else until freed, and reached as atomics only.
unsafe impl TableMemory for Embedder {
    type Atomics = slat::sync::Core;

    fn allocate(&self, tables: usize) -> Option<Hpa> {
        (tables == 1).then(frames::take_zeroed)?.map(|frame| Hpa::new(frame as u64))
    }

    unsafe fn free(&self, table: Hpa, _: usize) {
        frames::give(table.get() as usize);
    }

    #[inline(always)]
    unsafe fn words(&self, table: Hpa) -> &[AtomicU64] {
        // SAFETY: the caller names an allocated table: 512 words.
        unsafe { std::slice::from_raw_parts(with_exposed_provenance(table.get() as usize), 512) }
    }
}

impl Backing for Embedder {
    /// A call of its own, as an embedder's would be.
    #[inline(never)]
    fn translate(&self, request: Request) -> Translation {
        let offset = request.host.get() % GIB;
        let Some(guest) = GpaRange::with_len(Gpa::new(request.gpa.get() - offset), GIB) else {
            return Translation::Denied;
        };
        let hpa = Hpa::new(request.host.get() - offset);
        let (largest, permissions) = (Level::PAGE, Permissions::ALL);
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

type Shared = Arc<Vm<Embedder, Arm64>>;

/// A VM of four levels and 64 slots.
pub(crate) fn vm(log: Option<LogMode>) -> Shared {
    let format = Arm64::new(48).expect("48 bits");
    let vm = Arc::new(Vm::new(Embedder, format, Config::default()).expect("memory"));
    let mut worker = Worker::new(Arc::clone(&vm)).expect("a free place");
    for number in 0..AREAS {
        let range = GpaRange::with_len(Gpa::new(number * AREA), AREA).expect("inside 64 bits");
        let flags = SlotFlags { log, ..SlotFlags::default() };
        let slot = NewSlot { range, host: HostAddress::new(MEMORY + number * AREA), flags };
        worker.create_slot(SlotId(number as u32), slot).expect("a good slot");
    }
    drop(worker);
    vm
}

/// A vCPU that faults.
pub(crate) struct Faulting(Vcpu<Shared>);

impl Faulting {
    pub(crate) fn new(vm: &Shared, number: u32) -> Self {
        Self(Vcpu::new(Arc::clone(vm), VcpuId(number)).expect("a free place"))
    }

    /// One whole fault of a guest that writes, with the answer to a shortage of tables.
    #[inline(never)]
    pub(crate) fn fault(&mut self, page: u64) -> Outcome {
        let at = Gpa::new(guest(page));
        match self.0.fault(at, Access::Write) {
            Outcome::NeedTables(tables) => self.fault_again(at, usize::from(tables)),
            outcome => outcome,
        }
    }

    #[cold]
    #[inline(never)]
    fn fault_again(&mut self, at: Gpa, tables: usize) -> Outcome {
        self.0.top_up(tables.max(CARRIED)).expect("frames");
        self.0.fault(at, Access::Write)
    }

    #[inline(always)]
    pub(crate) fn map(&mut self, page: u64) {
        let outcome = self.fault(page);
        assert!(matches!(outcome, Outcome::Mapped { .. }), "{page}: {outcome:?}");
    }

    #[inline(always)]
    pub(crate) fn fault_in_vain(&mut self, page: u64) {
        let outcome = self.fault(page);
        assert!(matches!(outcome, Outcome::Spurious), "{page}: {outcome:?}");
    }

    #[inline(always)]
    pub(crate) fn relax(&mut self, page: u64) {
        let outcome = self.fault(page);
        assert!(matches!(outcome, Outcome::Relaxed { .. }), "{page}: {outcome:?}");
    }
}

/// One whole fault of a vCPU that has left its guest, with the answer to a shortage of tables.
#[inline(never)]
fn fault_outside(exit: &mut Exit<'_, Shared>, page: u64) -> Outcome {
    let at = Gpa::new(guest(page));
    match exit.fault(at, Access::Write) {
        Outcome::NeedTables(tables) => fault_outside_again(exit, at, usize::from(tables)),
        outcome => outcome,
    }
}

#[cold]
#[inline(never)]
fn fault_outside_again(exit: &mut Exit<'_, Shared>, at: Gpa, tables: usize) -> Outcome {
    exit.top_up(tables.max(CARRIED)).expect("frames");
    exit.fault(at, Access::Write)
}

/// A worker that takes the log and protects.
pub(crate) struct Managing(Worker<Shared>);

impl Managing {
    pub(crate) fn new(vm: &Shared) -> Self {
        Self(Worker::new(Arc::clone(vm)).expect("a free place"))
    }

    /// Takes the marks of `pages`, all of which were written to.
    pub(crate) fn harvest(&mut self, pages: Range<u64>) {
        let pages = Pages { first: pages.start, count: pages.end - pages.start };
        let mut bitmap = vec![0; pages.count.div_ceil(64) as usize];
        let slot = SlotId(TESTED as u32);
        let harvest = self.0.harvest(slot, pages, &mut bitmap, Budget::UNLIMITED).expect("a logged slot");
        assert!(harvest.is_done() && harvest.dirty == pages.count, "{harvest:?}");
    }

    #[inline(never)]
    pub(crate) fn protect(&mut self, pages: Range<u64>) {
        let range = GpaRange::new(Gpa::new(guest(pages.start)), Gpa::new(guest(pages.end))).expect("in order");
        let progress = self.0.write_protect(range, Budget::UNLIMITED).expect("a good range");
        assert!(progress.is_done() && progress.changed == pages.end - pages.start, "{progress:?}");
    }
}

/// A VM with one vCPU, as a table.
pub(crate) struct Slat {
    vcpu: Faulting,
}

impl Table for Slat {
    fn new() -> Self {
        Self { vcpu: Faulting::new(&vm(None), 0) }
    }

    #[inline(always)]
    fn map(&mut self, page: u64) {
        self.vcpu.map(page);
    }
}

/// As [`Slat`], for a vCPU that has left its guest before.
pub(crate) struct Outside(Slat);

impl Table for Outside {
    fn new() -> Self {
        Self(Slat::new())
    }

    #[inline(always)]
    fn map(&mut self, page: u64) {
        self.map_all(std::iter::once(page));
    }

    #[inline(always)]
    fn map_all(&mut self, pages: impl Iterator<Item = u64>) {
        let mut exit = self.0.vcpu.0.exit();
        for page in pages {
            let outcome = fault_outside(black_box(&mut exit), page);
            assert!(matches!(outcome, Outcome::Mapped { .. }), "{page}: {outcome:?}");
        }
    }
}
