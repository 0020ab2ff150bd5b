//! A VM for a test: a slot of memory, a control slot, and vCPUs that run programs.

use alloc::format;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;

use slat::addr::{Gpa, GpaRange};
use slat::host::{Access, SlotId};
use slat::vm::{Budget, LogMode, NewSlot, SlotFlags, Teardown, Worker};

use crate::counts::{Counts, Live};
use crate::lock::Lock;
use crate::memory::{self, Backed, GuestVm, Memory, Place, Plant, Unit};
use crate::payload::{self, CONTROL, CONTROL_BYTES, CONTROL_GPA, End, Program, Task};
use crate::vcpu::{Exit, Guest};
use crate::{clock, cpu, team};

/// How a test is run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Settings {
    pub(crate) vcpus: usize,
    pub(crate) plant: Plant,
}

/// An error unless the condition holds.
macro_rules! ensure {
    ($condition:expr, $($argument:tt)*) => {
        if !$condition {
            return Err(alloc::format!($($argument)*));
        }
    };
}

pub(crate) use ensure;

/// The slot that the test is about.
pub(crate) const DATA: SlotId = SlotId(0);
/// Where it begins.
pub(crate) const DATA_GPA: u64 = 0x8000_0000;
/// Bytes of a page.
pub(crate) const PAGE: u64 = Unit::PAGE.bytes();
/// Bytes of a block.
pub(crate) const BLOCK: u64 = Unit::BLOCK.bytes();
/// A budget that stops in between, so that going on is tested, too.
pub(crate) const STEP: Budget = Budget::entries(1000);

/// A VM, and how its programs are run.
pub(crate) struct Stage {
    pub(crate) vm: GuestVm,
    settings: Settings,
    bytes: u64,
    /// Whether hardware sets the accessed flag.
    hardware_accessed: bool,
}

/// What vCPUs that reach unmapped memory do: the answer says whether to go on.
pub(crate) type OnUnmapped<'u> = &'u (dyn Fn(&mut Guest<'_>, Gpa, Access) -> bool + Sync);

impl Stage {
    /// `bytes` of memory in units, all zero (but for whole gigabytes, which are what they are).
    pub(crate) fn new(settings: Settings, unit: Unit, bytes: u64) -> Result<Self, String> {
        let place = |unit, bytes| Place::movable(unit, bytes).ok_or("not enough memory in the machine");
        let backed = Backed(vec![place(unit, bytes)?, place(Unit::BLOCK, CONTROL_BYTES)?]);
        payload::install(&backed);
        let vm = memory::new_vm(backed, settings.plant, settings.vcpus);
        let stage = Self { vm, settings, bytes, hardware_accessed: true };
        if unit != Unit::GIGABYTE {
            stage.pages().for_each(|page| stage.words(page).iter().for_each(|word| word.store(0, RELAXED)));
        }
        memory::load(&stage.vm, true);
        let mut worker = stage.worker();
        let slot = |gpa, bytes| NewSlot {
            range: GpaRange::with_len(Gpa::new(gpa), bytes).unwrap_or_default(),
            host: memory::FIRST,
            flags: SlotFlags::default(),
        };
        worker.create_slot(DATA, slot(DATA_GPA, bytes)).map_err(|error| format!("a slot: {error}"))?;
        worker.create_slot(CONTROL, slot(CONTROL_GPA, CONTROL_BYTES)).map_err(|error| format!("a slot: {error}"))?;
        drop(worker);
        Ok(stage)
    }

    /// The same, with faults for the accessed flag.
    pub(crate) fn without_hardware_accessed(self) -> Self {
        Self { hardware_accessed: false, ..self }
    }

    /// The embedder.
    pub(crate) fn memory(&self) -> &Memory {
        self.vm.host()
    }

    /// All memory.
    pub(crate) fn range(&self) -> GpaRange {
        GpaRange::with_len(Gpa::new(DATA_GPA), self.bytes).unwrap_or_default()
    }

    /// The numbers of all pages.
    pub(crate) fn pages(&self) -> core::ops::Range<u64> {
        0..self.bytes / PAGE
    }

    /// What the beginning of a page holds now, which is all that programs write to. Atomic, since guests may write to it.
    pub(crate) fn words(&self, page: u64) -> &[core::sync::atomic::AtomicU64; 512] {
        payload::words(&self.memory().backed, DATA, page * PAGE)
    }

    /// A handle for everything but faults.
    pub(crate) fn worker(&self) -> Worker<&GuestVm> {
        Worker::new(&self.vm).unwrap_or_else(|error| panic!("a worker: {error}"))
    }

    /// vCPUs.
    pub(crate) fn vcpus(&self) -> usize {
        self.settings.vcpus
    }

    /// `program` over all pages, on each vCPU with its own word of each.
    pub(crate) fn all(&self, program: Program, value: u64) -> impl Fn(usize) -> Task + Sync + use<> {
        let pages = self.bytes / PAGE;
        move |vcpu| Task { program, start: DATA_GPA, pages, stride: PAGE, word: payload::word_of(vcpu), value }
    }

    /// Has all vCPUs do their tasks to the end. Their faults.
    pub(crate) fn pass(&self, task: impl Fn(usize) -> Task + Sync) -> Result<Counts, String> {
        self.run(&task, &|_, _, _| false, || Ok(())).map(|((), counts)| counts)
    }

    /// The same, with somebody to tell about accesses where nothing is mapped.
    pub(crate) fn run_reporting(
        &self,
        task: &(dyn Fn(usize) -> Task + Sync),
        on_unmapped: OnUnmapped<'_>,
    ) -> Result<Counts, String> {
        self.run(task, on_unmapped, || Ok(())).map(|((), counts)| counts)
    }

    /// Has all vCPUs count up their words of all pages while `manage` does its work, at least one pass each; then stops
    /// them.
    pub(crate) fn churn<T>(
        &self,
        on_unmapped: OnUnmapped<'_>,
        manage: impl FnOnce() -> Result<T, String>,
    ) -> Result<(T, Counts), String> {
        let backed = &self.memory().backed;
        payload::stop(backed, false);
        payload::forget(backed, self.vcpus());
        let value = || {
            let value = manage();
            payload::stop(backed, true);
            value
        };
        self.run(&self.all(Program::Churn, 0), on_unmapped, value)
    }

    /// Waits until each vCPU has made `passes` more passes, or one has stopped for a reason of its own.
    pub(crate) fn wait_for_passes(&self, passes: u64) {
        let backed = &self.memory().backed;
        let progress = |vcpu| payload::passes(backed, vcpu);
        let goals: Vec<u64> = (0..self.vcpus()).map(|vcpu| progress(vcpu) + passes).collect();
        let end = cpu::ticks() + PATIENCE_SECONDS * cpu::tick_rate();
        while goals.iter().enumerate().any(|(vcpu, &goal)| progress(vcpu) < goal) && cpu::ticks() < end {
            crate::interrupts::sleep_for(cpu::tick_rate() / 2000);
            if payload::is_stopped(backed) {
                return;
            }
        }
    }

    fn run<T>(
        &self,
        task: &(dyn Fn(usize) -> Task + Sync),
        on_unmapped: OnUnmapped<'_>,
        manage: impl FnOnce() -> Result<T, String>,
    ) -> Result<(T, Counts), String> {
        let results: Lock<Vec<Result<Counts, String>>> = Lock::new(Vec::new());
        let work = |number: usize| {
            memory::load(&self.vm, self.hardware_accessed);
            let result = one_vcpu(&self.vm, number, task(number), on_unmapped);
            memory::unload();
            if result.is_err() {
                payload::stop(&self.memory().backed, true);
            }
            results.lock().push(result);
        };
        let value = team::run(self.vcpus(), &work, manage);
        let mut counts = Counts::default();
        for result in results.lock().iter() {
            counts.add(result.as_ref().map_err(Clone::clone)?);
        }
        Ok((value?, counts))
    }

    /// Tears the VM down, and sees that nothing is left.
    pub(crate) fn finish(self) -> Result<(), String> {
        let mut worker = self.worker();
        while worker.teardown(STEP) == Teardown::More {}
        memory::unload();
        drop(worker);
        let left = self.vm.statistics();
        ensure!(
            left.tables == 0 && left.awaiting == 0,
            "after teardown {} tables, {} awaiting",
            left.tables,
            left.awaiting
        );
        ensure!(left.leaves.iter().all(|&leaves| leaves == 0), "after teardown leaves are counted: {:?}", left.leaves);
        Ok(())
    }

    /// Turns the log of the memory on or off, to its end.
    pub(crate) fn set_log(&self, worker: &mut Worker<&GuestVm>, log: Option<LogMode>) -> Result<(), String> {
        let flags = SlotFlags { log, ..SlotFlags::default() };
        while !worker.set_flags(DATA, flags, STEP).map_err(|error| format!("flags: {error}"))?.is_done() {}
        Ok(())
    }
}

/// How long vCPUs may take for a pass.
const PATIENCE_SECONDS: u64 = 60;

pub(crate) const RELAXED: core::sync::atomic::Ordering = core::sync::atomic::Ordering::Relaxed;

/// Runs a program to its end.
fn one_vcpu(vm: &GuestVm, number: usize, task: Task, on_unmapped: OnUnmapped<'_>) -> Result<Counts, String> {
    Live::of_this_cpu().reset();
    let mut guest = Guest::new(vm, number);
    payload::begin(&mut guest, task);
    clock::start_counting();
    let mut instructions = 0;
    loop {
        let before = clock::instructions();
        let exit = guest.run();
        instructions += u64::from(clock::instructions().wrapping_sub(before));
        match exit {
            Exit::Call(call) => match payload::end(&guest, call) {
                Some(End::Done) => return Ok(Counts { instructions, ..guest.counts() }),
                Some(End::Wrong { address, found, expected }) => {
                    return Err(format!("vCPU {number}: {address:#x} holds {found:#x}, not {expected:#x}"));
                }
                other => return Err(format!("vCPU {number}: call {call}: {other:?}")),
            },
            Exit::Unmapped(gpa, access) if on_unmapped(&mut guest, gpa, access) => {}
            exit => return Err(format!("vCPU {number}: {exit:x?}")),
        }
    }
}
