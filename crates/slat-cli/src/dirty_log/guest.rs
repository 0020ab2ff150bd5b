//! The vCPU threads: each waits for a command, runs it, and reports when it was done.

use slat::host::VcpuId;
use slat_machine::program::Program;
use slat_machine::{FaultEntry, GuestError, Runner};
use std::sync::atomic::AtomicBool;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::Scope;
use std::time::{Duration, Instant};

use crate::failure::{Failure, engine};

/// What a vCPU thread is told.
#[derive(Clone, Copy)]
enum Order {
    /// One pass of the program, numbered.
    Pass(Program, u64),
    /// Passes without end, from this number on, until the stop flag is set.
    Background(Program, u64),
}

struct Report {
    done: Instant,
    result: Result<(), GuestError>,
}

/// All vCPU threads of one run.
pub(crate) struct Guest<'s> {
    orders: Vec<Sender<Order>>,
    reports: Receiver<Report>,
    stop: &'s AtomicBool,
}

impl<'s> Guest<'s> {
    /// Starts one thread for each runner, pinned where `pins` says so. They end when the guest is dropped.
    pub(crate) fn start<'m: 's, E: FaultEntry + Send + 's>(
        scope: &'s Scope<'s, '_>,
        runners: impl IntoIterator<Item = Runner<'m, E>>,
        pins: &[usize],
        stop: &'s AtomicBool,
    ) -> Self {
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
    pub(crate) fn pass(&self, program: &Program, number: u64) -> Result<Duration, Failure> {
        let begun = Instant::now();
        self.order(Order::Pass(*program, number));
        let slowest = self.wait()?;
        Ok(slowest.saturating_duration_since(begun))
    }

    /// Lets all vCPUs run without end while `work` is done, then stops them.
    pub(crate) fn beside<T>(
        &self,
        program: &Program,
        number: u64,
        work: impl FnOnce() -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        self.stop.store(false, std::sync::atomic::Ordering::Relaxed);
        self.order(Order::Background(*program, number));
        let result = work();
        self.stop.store(true, std::sync::atomic::Ordering::Relaxed);
        self.wait()?;
        result
    }

    fn order(&self, order: Order) {
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
            (Some(error), _) => Err(error.into()),
            (None, Some(slowest)) => Ok(slowest),
            (None, None) => Err(engine("a guest without vCPUs")),
        }
    }
}

fn run_vcpu<E: FaultEntry>(
    mut runner: Runner<'_, E>,
    number: u32,
    pin: Option<usize>,
    orders: Receiver<Order>,
    report: &Sender<Report>,
    stop: &AtomicBool,
) {
    if let Some(id) = pin {
        core_affinity::set_for_current(core_affinity::CoreId { id });
    }
    for order in orders {
        let result = match order {
            Order::Pass(program, pass) => runner.execute(&program, number, pass, None).map(drop),
            Order::Background(program, from) => run_until_stopped(&mut runner, &program, number, from, stop),
        };
        if report.send(Report { done: Instant::now(), result }).is_err() {
            return;
        }
    }
}

fn run_until_stopped<E: FaultEntry>(
    runner: &mut Runner<'_, E>,
    program: &Program,
    number: u32,
    from: u64,
    stop: &AtomicBool,
) -> Result<(), GuestError> {
    for pass in from.. {
        if runner.execute(program, number, pass, Some(stop))?.stopped {
            break;
        }
    }
    Ok(())
}

/// The number of a vCPU as the engine takes it.
pub(crate) fn id(number: u32) -> VcpuId {
    VcpuId(number)
}
