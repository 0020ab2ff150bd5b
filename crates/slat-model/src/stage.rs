//! What a scenario plays on: one VM in one world, guests on its vCPUs, workers.

use std::sync::Arc;

use slat::addr::HostAddress;
use slat::host::{Access, SlotId, VcpuId};
use slat::vm::{Budget, Config, LogMode, NewSlot, Outcome, Pages, SlotError, SlotFlags, Teardown, Vcpu, Vm, Worker};

use crate::book::{self, Event};
use crate::format::ModelFormat;
use crate::hardware::{Reached, VCPUS};
use crate::oracle::PageSet;
use crate::plant::Plant;
use crate::tool::Tool;
use crate::world::{Host, PAGE, REGION, Setup, World, gpa, number_of, pages};

/// The VM of a model.
pub type ModelVm<T> = Vm<Host<T>, ModelFormat>;
/// A worker of a model.
pub type ModelWorker<T> = Worker<Arc<ModelVm<T>>>;

/// No more than this, and all of it.
pub const ALL: Budget = Budget::UNLIMITED;
/// Reading.
pub const READ: Access = Access::Read;
/// Writing.
pub const WRITE: Access = Access::Write;
/// A logged slot.
pub const LOGGED: SlotFlags = SlotFlags { read_only: false, log: Some(LogMode::Protect) };
/// A slot that cannot be written to.
pub const READ_ONLY: SlotFlags = SlotFlags { read_only: true, log: None };
/// A slot with nothing special.
pub const PLAIN: SlotFlags = SlotFlags { read_only: false, log: None };
/// The slot of every scenario.
pub const SLOT: SlotId = SlotId(0);

/// Tries before a guest gives up: more than any scenario's other threads can spoil.
const TRIES: usize = 8;

/// One VM and its world.
pub struct Stage<T: Tool> {
    /// The world.
    pub world: Arc<World<T>>,
    /// The VM.
    pub vm: Arc<ModelVm<T>>,
}

impl<T: Tool> Stage<T> {
    /// A VM without slots.
    pub fn new(setup: Setup) -> Self {
        let world = World::new(setup);
        let config = Config { vcpus: VCPUS as u32, workers: 2, flush_threshold: u64::MAX };
        let vm =
            Arc::new(Vm::new(Host(world.clone()), ModelFormat::new(setup.levels), config).expect("there is memory"));
        let root = number_of(vm.root().expect("a new VM has a root"));
        book::with(|book| book.root = root);
        Self { world, vm }
    }

    /// A VM with one slot of `count` pages from page 0 on, and a worker.
    pub fn with_slot(setup: Setup, count: u64, flags: SlotFlags) -> (Self, ModelWorker<T>) {
        let stage = Self::new(setup);
        let mut worker = stage.worker();
        worker.create_slot(SLOT, slot(count, flags)).expect("the first slot");
        if flags.log.is_some() {
            stage.log_all(count);
        }
        (stage, worker)
    }

    /// A worker.
    pub fn worker(&self) -> ModelWorker<T> {
        Worker::new(self.vm.clone()).expect("few workers")
    }

    /// A vCPU and its guest, carrying the tables that one fault can need.
    pub fn guest(&self, id: u32) -> Guest<T> {
        let mut vcpu = Vcpu::new(self.vm.clone(), VcpuId(id)).expect("few vCPUs");
        vcpu.top_up(vcpu.tables_per_fault()).expect("there is memory");
        Guest { world: self.world.clone(), vcpu }
    }

    /// From now on every write to the slot's pages has to be reported.
    pub fn log_all(&self, count: u64) {
        self.world.declare(|oracle| {
            oracle.logged = PageSet::range(0, count);
            oracle.unreported = PageSet::default();
        });
    }

    /// Every vCPU's hardware tries to write to every page, with no help by a fault: what it reaches, it reaches.
    pub fn poke(&self, count: u64, access: Access) {
        for vcpu in (0..VCPUS as u32).map(VcpuId) {
            for page in 0..count {
                let _ = self.world.access(vcpu, page, access);
            }
        }
    }

    /// The last harvests, with all vCPUs out of their faults, until one is complete; then nothing may be unreported.
    pub fn last_harvest(&self, worker: &mut ModelWorker<T>, count: u64) {
        self.poke(count, WRITE);
        let complete = (0..TRIES).any(|_| harvest(&self.world, worker, Pages { first: 0, count }));
        assert!(complete, "S4: harvests of a guest that does nothing are complete at some time");
        let lost = book::with(|book| book.oracle.unreported);
        if !lost.is_empty() {
            book::report(format_args!("S4: written to, and in no harvest: {lost:?}"));
        }
    }

    /// Frees the VM, whose handles are dropped: nothing may be left.
    pub fn close(self) {
        let Ok(vm) = Arc::try_unwrap(self.vm) else { panic!("a handle is left") };
        drop(vm);
        check_no_table_left();
    }

    /// As [`close`](Self::close), by way of a teardown, after which the counters have to say zero (R11).
    pub fn tear_down(self, mut worker: ModelWorker<T>) {
        tear_down(&mut worker);
        drop(worker);
        self.close_after_teardown();
    }

    /// As [`close`](Self::close), after a teardown.
    pub fn close_after_teardown(self) {
        let statistics = self.vm.statistics();
        let left = (statistics.tables, statistics.leaves.iter().sum::<u64>(), statistics.awaiting);
        if left != (0, 0, 0) {
            book::report(format_args!("R11: tables, leaves, subtrees counted after teardown: {left:?}"));
        }
        self.close();
    }
}

fn check_no_table_left() {
    let left = book::with(|book| book.live_tables);
    if left != 0 {
        book::report(format_args!("M3: {left} tables are left"));
    }
}

/// A slot of `count` pages from page 0 on.
pub fn slot(count: u64, flags: SlotFlags) -> NewSlot {
    NewSlot { range: pages(0, count), host: HostAddress::new(0), flags }
}

/// Changes the slot's flags to the end.
pub fn set_flags<T: Tool>(worker: &mut ModelWorker<T>, flags: SlotFlags) {
    until_done(|| worker.set_flags(SLOT, flags, ALL));
}

/// Deletes the slot to the end.
pub fn delete_slot<T: Tool>(worker: &mut ModelWorker<T>) {
    until_done(|| worker.delete_slot(SLOT, ALL));
}

fn until_done(mut step: impl FnMut() -> Result<slat::vm::Progress, SlotError>) {
    while !step().expect("one writer of slots").is_done() {}
}

/// Unmaps pages `first..end` to the end.
pub fn unmap<T: Tool>(worker: &mut ModelWorker<T>, first: u64, end: u64) {
    while !worker.unmap(pages(first, end), ALL).expect("a good range").is_done() {}
}

/// Tears the VM down to the end.
pub fn tear_down<T: Tool>(worker: &mut ModelWorker<T>) {
    while worker.teardown(ALL) != Teardown::Done {
        T::yield_now();
    }
}

/// One harvest to its end, and the copy of what it names; whether it was complete.
pub fn harvest<T: Tool>(world: &World<T>, worker: &mut ModelWorker<T>, pages: Pages) -> bool {
    if Plant::CopiedTooEarly.is_planted() {
        let mut bitmap = [0];
        worker.get_dirty(SLOT, pages, &mut bitmap).expect("a logged slot");
        world.declare(|oracle| oracle.copied(PageSet::of(bitmap[0] << pages.first)));
    }
    let mut bitmap = [0];
    let harvest = worker.harvest(SLOT, pages, &mut bitmap, ALL).expect("a logged slot");
    assert!(harvest.is_done(), "an unlimited budget is enough");
    book::note(Event::Note(if bitmap[0] == 0 { "a harvest brought nothing" } else { "a harvest brought pages" }));
    if !Plant::CopiedTooEarly.is_planted() {
        world.declare(|oracle| oracle.copied(PageSet::of(bitmap[0] << pages.first)));
    }
    harvest.complete
}

/// A guest on its vCPU.
pub struct Guest<T: Tool> {
    world: Arc<World<T>>,
    vcpu: Vcpu<Arc<ModelVm<T>>>,
}

impl<T: Tool> Guest<T> {
    /// What the hardware does on its own; whether it reached memory.
    pub fn try_access(&self, page: u64, access: Access) -> bool {
        self.world.access(self.vcpu.id(), page, access) == Reached::Memory
    }

    /// One fault.
    pub fn fault(&mut self, page: u64, access: Access) -> Outcome {
        let outcome = self.vcpu.fault(gpa(page), access);
        book::note(Event::Fault { vcpu: self.vcpu.id(), page, access, outcome });
        outcome
    }

    /// One fault, whatever comes of it, and then the access that it was for, if the hardware can do it now.
    pub fn fault_once(&mut self, page: u64, access: Access) {
        let _ = self.fault(page, access);
        self.try_access(page, access);
    }

    /// Accesses a page, faulting as often as that takes; what became of it: `None` when it reached memory.
    pub fn access(&mut self, page: u64, access: Access) -> Option<Outcome> {
        let mut last = None;
        for _ in 0..TRIES {
            match self.world.access(self.vcpu.id(), page, access) {
                Reached::Memory => return None,
                Reached::Nothing => continue,
                Reached::Fault => {}
            }
            let outcome = self.fault(page, access);
            last = Some(outcome);
            match outcome {
                Outcome::NeedTables(tables) => self.vcpu.top_up(tables).expect("there is memory"),
                Outcome::Retry => T::yield_now(),
                Outcome::Mapped { .. } | Outcome::Relaxed { .. } | Outcome::Accessed { .. } | Outcome::Spurious => {}
                _ => break,
            }
        }
        last
    }

    /// Accesses a page that nobody keeps it from.
    pub fn reach(&mut self, page: u64, access: Access) {
        if let Some(outcome) = self.access(page, access) {
            book::report(format_args!("L1: a guest does not get at its page {page}: {outcome:?} again and again"));
        }
    }
}

/// Pages of one region, as the address range that it is.
pub fn region(number: u64) -> slat::addr::GpaRange {
    debug_assert!(number * REGION * PAGE < 1 << 20, "regions lie in the address space");
    pages(number * REGION, (number + 1) * REGION)
}
