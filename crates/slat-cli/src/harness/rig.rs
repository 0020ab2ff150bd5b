//! One run's machine, the VM on it, its vCPU threads and its manager: built, used by a test, taken down.

use slat::addr::GpaRange;
use slat::format::Format;
use slat::vm::{Config, Vcpu, Vm, VmRef, Worker};
use slat_machine::memory::GuestMemory;
use slat_machine::walk::Walker;
use slat_machine::{Machine, MachineConfig, Runner};
use std::fmt;
use std::sync::atomic::AtomicBool;

use super::PAGE;
use super::guest::{self, Guest, Work};
use super::manager::Manager;
use super::runs::Case;
use super::setting::Setting;
use crate::failure::{Failure, engine};
use crate::formats::{self, WithFormat};
use crate::locking::{Gate, Gated};

/// What is done in a run.
pub(crate) trait Test {
    /// What the vCPUs are given to do.
    type Work: Work;
    /// What it comes to.
    type Output;

    /// Does it. All vCPU threads wait for orders.
    fn run<R: VmRef<Host = Machine>>(
        &self,
        vm: R,
        guest: &Guest<'_, Self::Work>,
        manager: &mut Manager<'_, R>,
    ) -> Result<Self::Output, Failure>;
}

/// What a run took and left, whatever the test was.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Footprint {
    pub(crate) tlb_flushes: u64,
    pub(crate) tables_peak: u64,
    pub(crate) tables_after_teardown: u64,
    pub(crate) retries: u64,
    pub(crate) splits: u64,
    pub(crate) collapses: u64,
}

impl fmt::Display for Footprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { tlb_flushes, tables_peak, tables_after_teardown, retries, .. } = self;
        write!(f, "TLB flushes: {tlb_flushes}, page tables at most: {tables_peak}, ")?;
        write!(f, "after teardown: {tables_after_teardown}, faults retried: {retries}")
    }
}

/// A run that is to be made.
pub(crate) struct Rig<'a, T> {
    pub(crate) setting: &'a Setting,
    pub(crate) case: &'a Case<'a>,
    pub(crate) memory: GpaRange,
    pub(crate) slots: u32,
    pub(crate) test: T,
}

impl<T: Test> Rig<'_, T> {
    /// Makes the run.
    pub(crate) fn run(self) -> Result<(T::Output, Footprint), Failure> {
        formats::with(self.case.format, self)
    }

    fn use_and_tear_down<F: Format>(&self, vm: &Vm<Machine, F>) -> Result<T::Output, Failure> {
        let gate = Gate::new(self.case.locking);
        let worker = Worker::new(vm).map_err(engine)?;
        let mut manager = Manager::new(worker, &gate, self.memory, vm.format().geometry().page_size(), self.slots)?;
        let root = vm.root().ok_or_else(|| engine("a VM without a root"))?;
        let runners = (0..self.case.vcpus).map(|number| {
            let id = guest::id(number);
            let mut vcpu = Vcpu::new(vm, id).map_err(engine)?;
            vcpu.top_up(vcpu.tables_per_fault()).map_err(engine)?;
            Ok(Runner::new(vm.host(), id, root, Gated { gate: &gate, vcpu }))
        });
        let runners = runners.collect::<Result<Vec<_>, Failure>>()?;
        let stop = AtomicBool::new(false);
        let output = std::thread::scope(|scope| {
            let guest = Guest::start(scope, runners, &self.setting.pins, &stop);
            self.test.run(vm, &guest, &mut manager)
        })?;
        manager.teardown();
        Ok(output)
    }
}

impl<T: Test> WithFormat for Rig<'_, T> {
    type Output = (T::Output, Footprint);

    fn with<F: Format>(self, format: F, walker: Box<dyn Walker>) -> Result<Self::Output, Failure> {
        let vcpus = self.case.vcpus;
        let machine = Machine::new(MachineConfig::new(self.memory.len(), self.setting.source, vcpus), walker)?;
        if self.setting.prefault {
            self.case.say("prefault");
            prefault(machine.memory());
        }
        let vm = Vm::new(machine, format, Config { vcpus, workers: 1, ..Config::default() }).map_err(engine)?;
        let output = self.use_and_tear_down(&vm)?;
        let (machine, statistics) = (vm.host(), vm.statistics());
        let left = machine.tables_now();
        if left != 0 {
            return Err(Failure::Verification(format!("{left} page tables were left after the VM's teardown")));
        }
        let footprint = Footprint {
            tlb_flushes: statistics.flushes(),
            tables_peak: machine.tables_peak(),
            tables_after_teardown: left,
            retries: statistics.retries,
            splits: statistics.splits,
            collapses: statistics.collapses,
        };
        Ok((output, footprint))
    }
}

/// Makes the host provide fresh memory. `GuestMemory::prefault` compiles to reads, which the host answers with a page of
/// zeroes that all share.
fn prefault(memory: &GuestMemory) {
    (0..memory.len()).step_by(PAGE as usize).for_each(|offset| memory.store(offset, 0));
}
