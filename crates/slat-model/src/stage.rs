//! What a scenario plays on: one VM in one world, guests on its vCPUs, workers.

use std::sync::Arc;

use slat::addr::{HostAddress, Level};
use slat::host::{Access, SlotId, VcpuId};
use slat::vm::{
    Budget, Config, LogMode, Mapping, NewSlot, Outcome, Pages, Progress, SlotError, SlotFlags, Teardown, Vcpu, Vm,
    Worker,
};
use slat_spec::{Fault, Operation, Place};

use crate::book::{self, Event};
use crate::format::{GROUP_BITS, ModelFormat};
use crate::hardware::{Reached, VCPUS};
use crate::history;
use crate::oracle::PageSet;
use crate::plant::Plant;
use crate::run::both;
use crate::tool::Tool;
pub use crate::worker::ModelWorker;
use crate::world::{GENERATION, Host, REGION, Setup, World, gpa, number_of, page_of, pages};

/// The VM of a model.
pub type ModelVm<T> = Vm<Host<T>, ModelFormat>;
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
/// A slot that is logged, every page marked, none protected.
pub const MARKED: SlotFlags = SlotFlags { read_only: false, log: Some(LogMode::InitiallySet) };
/// A slot whose log hardware keeps.
pub const BY_HARDWARE: SlotFlags = SlotFlags { read_only: false, log: Some(LogMode::Hardware) };
/// A slot with nothing special.
pub const PLAIN: SlotFlags = SlotFlags { read_only: false, log: None };
/// The slot of every scenario.
pub const SLOT: SlotId = SlotId(0);

/// Tries before a guest, or a harvest, gives up: more than any scenario's other threads can spoil.
const TRIES: usize = 8;

/// One VM and its world.
pub struct Stage<T: Tool> {
    /// The world.
    pub world: Arc<World<T>>,
    /// The VM.
    pub vm: Arc<ModelVm<T>>,
}

impl<T: Tool> Stage<T> {
    /// A VM with its slot, and the worker that made it.
    pub fn new(setup: Setup, flags: SlotFlags) -> (Self, ModelWorker<T>) {
        let world = World::new(setup);
        let config = Config { vcpus: VCPUS as u32, workers: 2, flush_threshold: u64::MAX };
        let format = ModelFormat::new(setup.levels);
        let format = if setup.groups { format.with_groups() } else { format };
        let format = if setup.overlaps { format.with_overlaps() } else { format };
        let format = if setup.hardware_dirty { format.with_hardware_dirty() } else { format };
        let vm = Arc::new(Vm::new(Host(world.clone()), format, config).expect("there is memory"));
        let root = number_of(vm.root().expect("a new VM has a root"));
        book::with(|book| (book.root, book.overlaps) = (root, setup.overlaps));
        let stage = Self { world, vm };
        let mut worker = stage.worker();
        worker.create_slot(SLOT, stage.slot(flags, 0)).expect("the first slot");
        if setup.is_specified() && T::SEES_ALL {
            history::begin(&setup, flags.into());
        }
        if flags.log.is_some() {
            stage.world.log_begins();
        }
        (stage, worker)
    }

    /// The slot, backed from `generation` on.
    pub fn slot(&self, flags: SlotFlags, generation: u64) -> NewSlot {
        let Setup { first, count, .. } = self.world.setup;
        NewSlot { range: pages(first, first + count), host: HostAddress::new(generation * GENERATION), flags }
    }

    /// A worker.
    pub fn worker(&self) -> ModelWorker<T> {
        ModelWorker::new(Worker::new(self.vm.clone()).expect("few workers"))
    }

    /// A vCPU and its guest, carrying the tables that one fault can need.
    pub fn guest(&self, id: u32) -> Guest<T> {
        let mut guest = self.guest_without_tables(id);
        guest.top_up(guest.vcpu.tables_per_fault());
        guest
    }

    /// A vCPU and its guest, carrying no tables: they are made by the thread that needs them.
    pub fn guest_without_tables(&self, id: u32) -> Guest<T> {
        let vcpu = Vcpu::new(self.vm.clone(), VcpuId(id)).expect("few vCPUs");
        Guest { world: self.world.clone(), vcpu }
    }

    /// The last harvests, with all vCPUs out of their faults, until one is complete; then nothing may be unreported.
    pub fn last_harvest(&self, worker: &mut ModelWorker<T>) {
        self.world.poke(WRITE);
        let complete = (0..TRIES).any(|_| harvest(&self.world, worker, self.world.all_pages()));
        assert!(complete, "harvests of a guest that does nothing are complete at some time");
        self.world.check_reported();
    }

    /// Drops the worker and frees the VM, whose other handles are dropped: nothing may be left.
    pub fn close(self, mut worker: ModelWorker<T>) {
        self.look_at_all_pages(&mut worker);
        drop(worker);
        let Ok(vm) = Arc::try_unwrap(self.vm) else { panic!("a handle is left") };
        drop(vm);
        let left = book::with(|book| book.live_tables);
        if left != 0 {
            book::report(format_args!("M3: {left} tables are left"));
        }
    }

    /// What the tables say in the end is a part of the history, too.
    fn look_at_all_pages(&self, worker: &mut ModelWorker<T>) {
        let Setup { first, count, .. } = self.world.setup;
        for page in first..first + count {
            let looked = |seen: &Option<Mapping>, other: u64| {
                let looked = Operation::Looked(seen.map(|mapping| mapping.permissions.write()));
                (other == page).then_some(looked).into_iter().collect()
            };
            history::call(|| worker.lookup(gpa(page)), looked);
        }
    }

    /// As [`close`](Self::close), by way of a teardown, after which the counters have to say zero (R11).
    pub fn tear_down(self, mut worker: ModelWorker<T>) {
        tear_down(&mut worker);
        let statistics = self.vm.statistics();
        let left = (statistics.tables, statistics.leaves.iter().sum::<u64>(), statistics.awaiting);
        if left != (0, 0, 0) {
            book::report(format_args!("R11: tables, leaves, subtrees counted after teardown: {left:?}"));
        }
        self.close(worker);
    }
}

impl<T: Tool> World<T> {
    /// The slot's pages, as the dirty log counts them.
    pub fn all_pages(&self) -> Pages {
        Pages { first: 0, count: self.setup.count }
    }

    /// From now on every write to the slot has to be reported.
    pub fn log_begins(&self) {
        let slot = self.setup.slot();
        self.declare(|oracle| {
            if oracle.logged.is_empty() {
                (oracle.logged, oracle.unreported) = (slot, PageSet::default());
            }
        });
        book::note(Event::Note("the log has begun"));
    }

    /// Writes to the slot need not be reported any more.
    pub fn log_ends(&self) {
        self.declare(|oracle| oracle.logged = PageSet::default());
        book::note(Event::Note("the log has ended"));
    }

    /// The host has copied the pages of the slot that the bitmap names.
    pub fn copied(&self, pages: Pages, bitmap: u64) {
        let pages = PageSet::of(u128::from(bitmap) << (self.setup.first + pages.first));
        self.declare(|oracle| oracle.copied(pages));
    }

    /// Whatever was written is in some harvest that has returned.
    pub fn check_reported(&self) {
        let lost = book::with(|book| book.oracle.unreported);
        if !lost.is_empty() {
            book::report(format_args!("S4: written to, and in no harvest: {lost:?}"));
        }
    }

    /// From now on no write may reach the slot.
    pub fn read_only_begins(&self) {
        let slot = self.setup.slot();
        self.declare(|oracle| oracle.read_only = slot);
        book::note(Event::Note("write permission is withdrawn"));
    }

    /// From now on no access may reach the slot.
    pub fn slot_is_gone(&self) {
        let slot = self.setup.slot();
        self.declare(|oracle| oracle.forbidden = slot);
        book::note(Event::Note("the slot is gone"));
    }

    /// Every vCPU's hardware tries to access every page, with no help by a fault: what it reaches, it reaches.
    pub fn poke(&self, access: Access) {
        let Setup { first, count, .. } = self.setup;
        for vcpu in (0..VCPUS as u32).map(VcpuId) {
            for page in first..first + count {
                let _ = self.access(vcpu, page, access);
            }
        }
    }
}

/// Two workers at work, of which the second one is new, and gone afterwards; the first one comes back.
pub fn two_workers<T: Tool>(
    stage: &Stage<T>,
    mut worker: ModelWorker<T>,
    one: impl FnOnce(&World<T>, &mut ModelWorker<T>) + Send + 'static,
    another: impl FnOnce(&World<T>, &mut ModelWorker<T>) + Send + 'static,
) -> ModelWorker<T> {
    let mut other = stage.worker();
    let (world, other_world) = (stage.world.clone(), stage.world.clone());
    let (worker, ()) = both::<T, _, _>(
        move || {
            one(&world, &mut worker);
            worker
        },
        move || {
            another(&other_world, &mut other);
            reclaim_and_drop(other);
        },
    );
    worker
}

/// Changes the slot's flags to the end.
pub fn set_flags<T: Tool>(worker: &mut ModelWorker<T>, flags: SlotFlags) {
    until_done::<T>(|| worker.set_flags(SLOT, flags, ALL));
}

/// Creates the slot, as soon as it may be.
pub fn create_slot<T: Tool>(worker: &mut ModelWorker<T>, slot: NewSlot) {
    while let Err(error) = worker.create_slot(SLOT, slot) {
        assert!(matches!(error, SlotError::Invalidated | SlotError::Busy), "creating a slot: {error}");
        T::yield_now();
    }
}

/// Deletes the slot to the end.
pub fn delete_slot<T: Tool>(worker: &mut ModelWorker<T>) {
    until_done::<T>(|| worker.delete_slot(SLOT, ALL));
}

/// Moves the slot to `page`, to the end.
pub fn move_slot_to<T: Tool>(worker: &mut ModelWorker<T>, page: u64) {
    until_done::<T>(|| worker.move_slot(SLOT, gpa(page), ALL));
}

/// One step of a change of a slot after the other, until this one or another worker's is done.
fn until_done<T: Tool>(mut step: impl FnMut() -> Result<Progress, SlotError>) {
    loop {
        match step() {
            Ok(progress) if progress.is_done() => break,
            Ok(_) | Err(SlotError::Busy) => T::yield_now(),
            Err(SlotError::NoSuchSlot) => break,
            Err(error) => panic!("a change of a slot: {error}"),
        }
    }
}

/// Unmaps pages `first..end` to the end.
pub fn unmap<T: Tool>(worker: &mut ModelWorker<T>, first: u64, end: u64) {
    let mut next = gpa(first);
    while let Some(at) = worker.unmap(pages(page_of(next), end), ALL).expect("a good range").next {
        next = at;
    }
}

/// Splits what blocks map of pages `first..end`.
pub fn split<T: Tool>(worker: &mut ModelWorker<T>, first: u64, end: u64) {
    let progress = worker.split(pages(first, end), Level::PAGE, ALL).expect("pages of the guest, and memory");
    assert!(progress.is_done(), "an unlimited budget is enough");
}

/// Write-protects pages `first..end`.
pub fn write_protect<T: Tool>(worker: &mut ModelWorker<T>, first: u64, end: u64) {
    let progress = worker.write_protect(pages(first, end), ALL).expect("a good range");
    assert!(progress.is_done(), "an unlimited budget is enough");
}

/// Frees what the worker has unlinked, as far as that can be, and the worker.
pub fn reclaim_and_drop<T: Tool>(mut worker: ModelWorker<T>) {
    let _ = worker.reclaim(ALL);
    drop(worker);
}

/// Tears the VM down to the end.
pub fn tear_down<T: Tool>(worker: &mut ModelWorker<T>) {
    while worker.teardown(ALL) != Teardown::Done {
        T::yield_now();
    }
}

/// One harvest to its end, and the copy of what it names; whether it was complete.
pub fn harvest<T: Tool>(world: &World<T>, worker: &mut ModelWorker<T>, pages: Pages) -> bool {
    let mut bitmap = [0];
    if Plant::CopiedTooEarly.is_planted() {
        worker.get_dirty(SLOT, pages, &mut bitmap).expect("a logged slot");
        world.copied(pages, bitmap[0]);
        bitmap = [0];
    }
    let harvest = worker.harvest(SLOT, pages, &mut bitmap, ALL).expect("a logged slot");
    assert!(harvest.is_done(), "an unlimited budget is enough");
    book::note(Event::Note(if harvest.dirty == 0 { "a harvest brought nothing" } else { "a harvest brought pages" }));
    if !Plant::CopiedTooEarly.is_planted() {
        world.copied(pages, bitmap[0]);
    }
    harvest.complete
}

/// What a fault at `page` did to others: those that one leaf maps with it.
fn faulted(page: u64, access: Access) -> impl Fn(&Outcome, u64) -> Vec<Operation> {
    let grouped = history::has_groups();
    move |&outcome, other| {
        let place = match other {
            _ if other == page => Place::Here { grouped },
            _ if grouped && other >> GROUP_BITS == page >> GROUP_BITS => Place::Group,
            _ => Place::Elsewhere,
        };
        Fault { access, outcome, place }.operations(|_| other / REGION == page / REGION).collect()
    }
}

/// A guest on its vCPU.
pub struct Guest<T: Tool> {
    world: Arc<World<T>>,
    vcpu: Vcpu<Arc<ModelVm<T>>>,
}

impl<T: Tool> Guest<T> {
    /// Carries this many tables.
    pub fn top_up(&mut self, tables: usize) {
        self.vcpu.top_up(tables).expect("there is memory");
    }

    /// What the hardware does on its own; whether it reached memory.
    pub fn try_access(&self, page: u64, access: Access) -> bool {
        self.world.access(self.vcpu.id(), page, access) == Reached::Memory
    }

    /// What the hardware can do on its own all the time: no fault comes of it.
    pub fn keeps(&self, page: u64, access: Access) {
        if self.world.access(self.vcpu.id(), page, access) == Reached::Fault {
            book::report(format_args!("L2: a guest faulted at its page {page}, which was mapped all the time"));
        }
    }

    /// What the hardware caches without being asked for it.
    pub fn walk_ahead(&self, page: u64) {
        self.world.walk_ahead(self.vcpu.id(), page);
    }

    /// One fault.
    pub fn fault(&mut self, page: u64, access: Access) -> Outcome {
        let outcome = history::call(|| self.vcpu.fault(gpa(page), access), faulted(page, access));
        book::note(Event::Fault { vcpu: self.vcpu.id(), page, access, outcome });
        outcome
    }

    /// One fault after the other, all in one stay outside of the guest.
    pub fn faults_outside(&mut self, pages: &[u64], access: Access) {
        let vcpu = self.vcpu.id();
        let mut exit = self.vcpu.exit();
        for &page in pages {
            let outcome = history::call(|| exit.fault(gpa(page), access), faulted(page, access));
            book::note(Event::Fault { vcpu, page, access, outcome });
        }
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
                Outcome::NeedTables(tables) => self.top_up(tables.into()),
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
