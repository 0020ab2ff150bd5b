//! How fast the dirty log is: the phases of KVM's dirty_log_perf_test, on this machine.

use alloc::format;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;

use slat::addr::Level;
use slat::vm::{Budget, LogMode, Pages, Worker};

use crate::arguments::Arguments;
use crate::clock::{self, Ticks};
use crate::console::say;
use crate::counts::Counts;
use crate::machine::Machine;
use crate::memory::{GuestVm, Plant, Unit};
use crate::payload::{Program, Task};
use crate::stage::{DATA, DATA_GPA, PAGE, Settings, Stage, ensure};
use crate::{cpu, interrupts, team};

/// What is run.
struct Plan {
    vcpus: usize,
    /// Bytes that each vCPU writes to.
    bytes: u64,
    iterations: u64,
    unit: Unit,
    /// Whether blocks are split when the log is turned on, rather than by the first write to each.
    splits: bool,
}

/// One iteration's figures.
struct Iteration {
    dirty: Ticks,
    get: Ticks,
    clear: Ticks,
    pages: u64,
    counts: Counts,
    /// Instructions of getting and of clearing.
    instructions: (u64, u64),
}

/// Runs the phases and prints them. Whether everything was as it should be.
pub(crate) fn run(machine: &Machine, arguments: Arguments) -> bool {
    let vcpus = arguments.value("vcpus", 1);
    assert!(vcpus < machine.cpus, "{vcpus} vCPUs want {} CPUs, there are {}", vcpus + 1, machine.cpus);
    let unit = match arguments.text("pages") {
        None | Some("2m") => Unit::BLOCK,
        Some("4k") => Unit::PAGE,
        Some(other) => panic!("slat.pages={other}: 4k or 2m"),
    };
    let splits = arguments.value("split", true);
    let (bytes, iterations) = (arguments.value("mebibytes", 64u64) << 20, arguments.value("iterations", 2));
    interrupts::start_cpu();
    cpu::prepare_for(cpu::Kind::Payload);
    if arguments.value("count", false) {
        clock::allow_counting();
        clock::start_counting();
    }
    team::assemble(vcpus);
    let result = Plan { vcpus, bytes, iterations, unit, splits }.run();
    if let Err(why) = &result {
        say!("slat-hv: dirty-log: FAILED: {why}");
    }
    result.is_ok()
}

impl Plan {
    fn run(&self) -> Result<(), String> {
        let all = self.bytes * self.vcpus as u64;
        let stage = Stage::new(Settings { vcpus: self.vcpus, plant: Plant::Nothing }, self.unit, all)?;
        let mut worker = stage.worker();
        say!("Test iterations: {}", self.iterations);
        say!("Testing format: arm64-4k, 40 bits of guest physical address, units of {} KiB", self.unit.bytes() >> 10);
        say!("guest physical test memory: [{:#x}, {:#x})", DATA_GPA, DATA_GPA + all);
        let (populate, counts) = Ticks::of(|| stage.pass(|vcpu| self.task(vcpu, 0)));
        say!("Populate memory time: {populate}");
        say!("Populate memory faults: {}", counts?.faults());
        let (enable, result) = Ticks::of(|| stage.set_log(&mut worker, Some(LogMode::InitiallySet)));
        result?;
        say!("Enabling dirty logging time: {enable}");
        if self.splits {
            self.split(&stage, &mut worker)?;
        }
        say!("");
        let mut bitmap = vec![0; (all / PAGE).div_ceil(64) as usize];
        let mut iterations = Vec::new();
        for number in 1..=self.iterations {
            iterations.push(self.iteration(&stage, &mut worker, &mut bitmap, number)?);
        }
        let (disable, result) = Ticks::of(|| stage.set_log(&mut worker, None));
        result?;
        self.report(&iterations);
        say!("Disabling dirty logging time: {disable}");
        let statistics = stage.vm.statistics();
        let (flushes, tables, retries) = (statistics.flushes(), statistics.tables, statistics.retries);
        drop(worker);
        stage.finish()?;
        say!("TLB flushes: {flushes}, page tables: {tables}, after teardown: 0, faults retried: {retries}");
        Ok(())
    }

    fn split(&self, stage: &Stage, worker: &mut Worker<&GuestVm>) -> Result<(), String> {
        let before = clock::instructions();
        let (split, result) = Ticks::of(|| worker.split(stage.range(), Level::PAGE, Budget::UNLIMITED));
        let instructions = clock::instructions().wrapping_sub(before);
        let progress = result.map_err(|error| format!("split: {error}"))?;
        ensure!(progress.is_done(), "splitting without a budget did not finish");
        say!("Splitting blocks time: {split}");
        say!("Blocks split: {}, EL2 instructions: {instructions}", progress.changed);
        Ok(())
    }

    /// Each vCPU has its own part of the memory.
    fn task(&self, vcpu: usize, value: u64) -> Task {
        let (start, pages) = (DATA_GPA + vcpu as u64 * self.bytes, self.bytes / PAGE);
        Task { program: Program::Write, start, pages, stride: PAGE, word: 8, value }
    }

    fn iteration(
        &self,
        stage: &Stage,
        worker: &mut Worker<&GuestVm>,
        bitmap: &mut [u64],
        number: u64,
    ) -> Result<Iteration, String> {
        let all = Pages { first: 0, count: stage.pages().end };
        let (dirty, counts) = Ticks::of(|| stage.pass(|vcpu| self.task(vcpu, number)));
        let before = clock::instructions();
        let (get, pages) = Ticks::of(|| worker.get_dirty(DATA, all, bitmap));
        let between = clock::instructions();
        let (clear, cleared) = Ticks::of(|| worker.clear_dirty(DATA, all, bitmap, Budget::UNLIMITED));
        let after = clock::instructions();
        ensure!(cleared.map_err(|error| format!("clear: {error}"))?.is_done(), "clearing is not done");
        let pages = pages.map_err(|error| format!("get: {error}"))?;
        ensure!(pages == all.count, "{pages} of {} pages are dirty, and all were written", all.count);
        let instructions = (between.wrapping_sub(before).into(), after.wrapping_sub(between).into());
        Ok(Iteration { dirty, get, clear, pages, counts: counts?, instructions })
    }

    fn report(&self, iterations: &[Iteration]) {
        for (number, iteration) in (1..).zip(iterations) {
            say!("Iteration {number} dirty memory time: {}", iteration.dirty);
            say!("Iteration {number} get dirty log time: {}", iteration.get);
            say!("Iteration {number} clear dirty log time: {}", iteration.clear);
            say!("Iteration {number} dirty pages: {}", iteration.pages);
            say!("Iteration {number} faults: {}", iteration.counts.faults());
            let (in_faults, (get, clear)) = (iteration.counts.instructions, iteration.instructions);
            if in_faults + get + clear > 0 {
                let per_page = |instructions: u64| instructions * 10 / iteration.pages;
                let all = per_page(in_faults + get + clear);
                say!(
                    "Iteration {number} EL2 instructions per page: {}.{} (faults {in_faults}, get {get}, clear {clear})",
                    all / 10,
                    all % 10
                );
            }
        }
        for (name, time) in [("Get", (|i| i.get) as fn(&Iteration) -> Ticks), ("Clear", |i| i.clear)] {
            let sum = Ticks(iterations.iter().map(|iteration| time(iteration).0).sum());
            let average = Ticks(sum.0 / iterations.len() as u64);
            let count = iterations.len();
            say!("{name} dirty log over {count} iterations took {sum}. (Avg {average}/iteration)");
        }
    }
}
