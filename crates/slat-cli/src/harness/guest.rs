//! The vCPU threads: each waits for a command, runs it, and reports when it was done.

use slat::host::VcpuId;
use slat_machine::program::Program;
use slat_machine::{FaultEntry, Runner};
use std::sync::atomic::AtomicBool;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::Scope;
use std::time::{Duration, Instant};

use crate::failure::{Failure, engine};

/// What vCPUs can be given to do.
pub(crate) trait Work: Copy + Send {
    /// Does it as vCPU number `vcpu`, for the time number `pass`, until it is over or `stop` is set; whether it was
    /// stopped.
    fn run<E: FaultEntry>(
        &self,
        runner: &mut Runner<'_, E>,
        vcpu: u32,
        pass: u64,
        stop: Option<&AtomicBool>,
    ) -> Result<bool, Failure>;
}

impl Work for Program {
    fn run<E: FaultEntry>(
        &self,
        runner: &mut Runner<'_, E>,
        vcpu: u32,
        pass: u64,
        stop: Option<&AtomicBool>,
    ) -> Result<bool, Failure> {
        Ok(runner.execute(self, vcpu, pass, stop)?.stopped)
    }
}

/// What a vCPU thread is told.
#[derive(Clone, Copy)]
enum Order<W> {
    /// One pass of the work, numbered.
    Pass(W, u64),
    /// Passes without end, from this number on, until the stop flag is set.
    Background(W, u64),
}

struct Report {
    done: Instant,
    result: Result<(), Failure>,
}

/// All vCPU threads of one run.
pub(crate) struct Guest<'s, W> {
    orders: Vec<Sender<Order<W>>>,
    reports: Receiver<Report>,
    stop: &'s AtomicBool,
}

impl<'s, W: Work> Guest<'s, W> {
    /// Starts one thread for each runner, pinned where `pins` says so. They end when the guest is dropped.
    pub(crate) fn start<'m: 's, E: FaultEntry + Send + 's>(
        scope: &'s Scope<'s, '_>,
        runners: impl IntoIterator<Item = Runner<'m, E>>,
        pins: &[usize],
        stop: &'s AtomicBool,
    ) -> Self
    where
        W: 's,
    {
        let (report, reports) = channel();
        let orders = runners.into_iter().enumerate().map(|(number, runner)| {
            let (order, ordered) = channel();
            let pin = pins.get(number).copied();
            let report = report.clone();
            scope.spawn(move || run_vcpu(runner, number as u32, pin, ordered, &report, stop));
            order
        });
        Self { orders: orders.collect(), reports, stop }
    }

    /// One pass of all vCPUs; how long until the slowest was done.
    pub(crate) fn pass(&self, work: &W, number: u64) -> Result<Duration, Failure> {
        let begun = Instant::now();
        self.order(Order::Pass(*work, number));
        let slowest = self.wait()?;
        Ok(slowest.saturating_duration_since(begun))
    }

    /// Lets all vCPUs run without end while `main` is done, then stops them.
    pub(crate) fn beside<T>(
        &self,
        work: &W,
        number: u64,
        main: impl FnOnce() -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        self.stop.store(false, std::sync::atomic::Ordering::Relaxed);
        self.order(Order::Background(*work, number));
        let result = main();
        self.stop.store(true, std::sync::atomic::Ordering::Relaxed);
        self.wait()?;
        result
    }

    fn order(&self, order: Order<W>) {
        for thread in &self.orders {
            // A thread that is gone has panicked: `wait` finds its report missing.
            let _ = thread.send(order);
        }
    }

    fn wait(&self) -> Result<Instant, Failure> {
        let mut slowest = None;
        let mut failed = None;
        for _ in &self.orders {
            let report = self.reports.recv().map_err(|_| engine("a vCPU thread ended"))?;
            slowest = slowest.max(Some(report.done));
            failed = failed.or(report.result.err());
        }
        match (failed, slowest) {
            (Some(failure), _) => Err(failure),
            (None, Some(slowest)) => Ok(slowest),
            (None, None) => Err(engine("a guest without vCPUs")),
        }
    }
}

fn run_vcpu<E: FaultEntry, W: Work>(
    mut runner: Runner<'_, E>,
    vcpu: u32,
    pin: Option<usize>,
    orders: Receiver<Order<W>>,
    report: &Sender<Report>,
    stop: &AtomicBool,
) {
    if let Some(id) = pin {
        core_affinity::set_for_current(core_affinity::CoreId { id });
    }
    for order in orders {
        let result = match order {
            Order::Pass(work, pass) => work.run(&mut runner, vcpu, pass, None).map(drop),
            Order::Background(work, from) => run_until_stopped(&mut runner, &work, vcpu, from, stop),
        };
        if report.send(Report { done: Instant::now(), result }).is_err() {
            return;
        }
    }
}

fn run_until_stopped<E: FaultEntry, W: Work>(
    runner: &mut Runner<'_, E>,
    work: &W,
    vcpu: u32,
    from: u64,
    stop: &AtomicBool,
) -> Result<(), Failure> {
    for pass in from.. {
        if work.run(runner, vcpu, pass, Some(stop))? {
            break;
        }
    }
    Ok(())
}

/// The number of a vCPU as the engine takes it.
pub(crate) fn id(number: u32) -> VcpuId {
    VcpuId(number)
}
