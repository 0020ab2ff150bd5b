//! One run: the phases of KVM's dirty_log_perf_test, timed.

use slat::format::Format;
use slat::vm::{Config, LogMode, Vcpu, Vm, Worker};
use slat_machine::program::Program;
use slat_machine::walk::Walker;
use slat_machine::{Machine, MachineConfig, Runner};
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use super::guest::{self, Guest};
use super::manager::Manager;
use super::plan::Plan;
use super::verify::Copy;
use crate::failure::{Failure, engine};
use crate::formats::WithFormat;
use crate::locking::{Gate, Gated, Locking};
use crate::progress::Progress;

/// What one run measured.
#[derive(Clone, Debug)]
pub(crate) struct Run {
    pub(crate) vcpus: u32,
    pub(crate) locking: Locking,
    pub(crate) memory: (u64, u64),
    pub(crate) populate: Duration,
    pub(crate) enable: Duration,
    pub(crate) iterations: Vec<Iteration>,
    pub(crate) disable: Duration,
    /// Pages that the live phase of the verification copied while the guest wrote, if there was one.
    pub(crate) verified: Option<u64>,
    pub(crate) tlb_flushes: u64,
    pub(crate) tables_peak: u64,
    pub(crate) tables_after_teardown: u64,
    pub(crate) retries: u64,
}

impl Run {
    /// The median of each time over repeats of the same run; counts are the last repeat's, peaks the highest.
    pub(crate) fn median(repeats: Vec<Run>) -> Option<Run> {
        let mut median = repeats.last()?.clone();
        median.populate = median_of(&repeats, |run| run.populate);
        median.enable = median_of(&repeats, |run| run.enable);
        median.disable = median_of(&repeats, |run| run.disable);
        for (index, iteration) in median.iterations.iter_mut().enumerate() {
            iteration.dirty = median_of(&repeats, |run| run.iterations[index].dirty);
            iteration.get = median_of(&repeats, |run| run.iterations[index].get);
            iteration.clear =
                iteration.clear.map(|_| median_of(&repeats, |run| run.iterations[index].clear.unwrap_or_default()));
        }
        median.tables_peak = repeats.iter().map(|run| run.tables_peak).max().unwrap_or_default();
        Some(median)
    }
}

fn median_of(repeats: &[Run], time: impl Fn(&Run) -> Duration) -> Duration {
    let mut times: Vec<Duration> = repeats.iter().map(time).collect();
    times.sort_unstable();
    times[times.len() / 2]
}

/// What one iteration measured.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Iteration {
    pub(crate) dirty: Duration,
    pub(crate) get: Duration,
    /// `None` where getting the log also clears it.
    pub(crate) clear: Option<Duration>,
    pub(crate) dirty_pages: u64,
}

/// A run that is to be made with some format.
pub(crate) struct OneRun<'p> {
    pub(crate) plan: &'p Plan,
    pub(crate) vcpus: u32,
    pub(crate) locking: Locking,
    pub(crate) progress: &'p Progress,
}

impl WithFormat for OneRun<'_> {
    type Output = Run;

    fn with<F: Format>(self, format: F, walker: Box<dyn Walker>) -> Result<Run, Failure> {
        let bytes = self.plan.bytes(self.vcpus);
        let config = MachineConfig::new(bytes, self.plan.source, self.vcpus);
        let machine = Machine::new(config, walker)?;
        let vm =
            Vm::new(machine, format, Config { vcpus: self.vcpus, workers: 1, ..Config::default() }).map_err(engine)?;
        let mut run = self.measure(&vm)?;
        run.tables_peak = vm.host().tables_peak();
        run.tables_after_teardown = vm.host().tables_now();
        run.tlb_flushes = vm.statistics().flushes();
        run.retries = vm.statistics().retries;
        if run.tables_after_teardown != 0 {
            let left = run.tables_after_teardown;
            return Err(Failure::Verification(format!("{left} page tables were left after the VM's teardown")));
        }
        Ok(run)
    }
}

impl OneRun<'_> {
    fn measure<F: Format>(&self, vm: &Vm<Machine, F>) -> Result<Run, Failure> {
        let gate = Gate::new(self.locking);
        let program = self.plan.program(self.vcpus)?;
        let worker = Worker::new(vm).map_err(engine)?;
        let bytes = self.plan.bytes(self.vcpus);
        let mut manager = Manager::new(worker, &gate, self.plan, program.base, bytes)?;
        let root = vm.root().ok_or_else(|| engine("a VM without a root"))?;
        let runners = (0..self.vcpus).map(|number| {
            let id = guest::id(number);
            let mut entry = Vcpu::new(vm, id).map_err(engine)?;
            entry.top_up(entry.tables_per_fault()).map_err(engine)?;
            Ok(Runner::new(vm.host(), id, root, Gated { gate: &gate, entry }))
        });
        let runners = runners.collect::<Result<Vec<_>, Failure>>()?;
        let stop = AtomicBool::new(false);
        let run = std::thread::scope(|scope| {
            let guest = Guest::start(scope, runners, &self.plan.pins, &stop);
            self.phases(vm.host(), &program, &guest, &mut manager)
        })?;
        manager.teardown();
        Ok(run)
    }

    fn phases<R: slat::vm::VmRef>(
        &self,
        machine: &Machine,
        program: &Program,
        guest: &Guest<'_>,
        manager: &mut Manager<'_, R>,
    ) -> Result<Run, Failure> {
        self.say("populate");
        let populate = guest.pass(&program.populate(), 0)?;
        self.say("enable");
        let mode = if self.plan.manual { LogMode::InitiallySet } else { LogMode::Protect };
        let enable = timed(|| manager.set_log(Some(mode)))?.0;
        let mut copy = self.plan.verify.then(|| Copy::everything(machine)).transpose()?;

        let mut iterations = Vec::new();
        for number in 1..=self.plan.iterations {
            self.say(&format!("iteration {number}"));
            iterations.push(self.iteration(program, guest, manager, u64::from(number))?);
            if let Some(copy) = &mut copy {
                copy.named(machine, manager);
            }
        }

        let next_pass = u64::from(self.plan.iterations) + 1;
        let verified = match copy {
            Some(copy) => {
                self.say("verify");
                Some(copy.live(machine, program, guest, manager, self.plan, next_pass)?)
            }
            None => None,
        };
        self.say("disable");
        let off = |manager: &mut Manager<'_, R>| timed(|| manager.set_log(None)).map(|(time, ())| time);
        let disable = match self.plan.run_while_disabling {
            true => guest.beside(program, next_pass + (1 << 32), || off(manager))?,
            false => off(manager)?,
        };
        let range = program.range();
        Ok(Run {
            vcpus: self.vcpus,
            locking: self.locking,
            memory: (range.start().get(), range.end().get()),
            populate,
            enable,
            iterations,
            disable,
            verified,
            tlb_flushes: 0,
            tables_peak: 0,
            tables_after_teardown: 0,
            retries: 0,
        })
    }

    fn iteration<R: slat::vm::VmRef>(
        &self,
        program: &Program,
        guest: &Guest<'_>,
        manager: &mut Manager<'_, R>,
        number: u64,
    ) -> Result<Iteration, Failure> {
        let dirty = guest.pass(program, number)?;
        if self.plan.manual {
            let (get, dirty_pages) = timed(|| manager.get())?;
            let (clear, ()) = timed(|| manager.clear())?;
            Ok(Iteration { dirty, get, clear: Some(clear), dirty_pages })
        } else {
            let (get, (dirty_pages, _)) = timed(|| manager.harvest())?;
            Ok(Iteration { dirty, get, clear: None, dirty_pages })
        }
    }

    fn say(&self, phase: &str) {
        self.progress.say(format!("{} vCPUs, {}: {phase}", self.vcpus, self.locking.name()));
    }
}

fn timed<T>(work: impl FnOnce() -> Result<T, Failure>) -> Result<(Duration, T), Failure> {
    let begun = Instant::now();
    let result = work()?;
    Ok((begun.elapsed(), result))
}
