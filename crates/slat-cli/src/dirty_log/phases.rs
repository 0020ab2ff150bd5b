//! One run: the phases of KVM's dirty_log_perf_test, timed.

use slat::addr::GpaRange;
use slat::vm::VmRef;
use slat_machine::Machine;
use slat_machine::program::Program;
use std::time::Duration;

use super::plan::Plan;
use super::verify::Copy;
use crate::failure::Failure;
use crate::harness::guest::Guest;
use crate::harness::manager::Manager;
use crate::harness::rig::{Footprint, Rig, Test};
use crate::harness::runs::Case;
use crate::harness::time::{median_of, timed};
use crate::locking::Locking;

/// What one run measured.
#[derive(Clone, Debug)]
pub(crate) struct Run {
    pub(crate) format: &'static str,
    pub(crate) vcpus: u32,
    pub(crate) locking: Locking,
    pub(crate) memory: GpaRange,
    pub(crate) populate: Duration,
    pub(crate) enable: Duration,
    /// `None` where the first write to each block splits it.
    pub(crate) split: Option<Duration>,
    pub(crate) iterations: Vec<Iteration>,
    pub(crate) disable: Duration,
    /// Pages that the live phase of the verification copied while the guest wrote, if there was one.
    pub(crate) verified: Option<u64>,
    pub(crate) footprint: Footprint,
}

impl Run {
    /// The median of each time over repeats of the same run; counts are the last repeat's, peaks the highest.
    pub(crate) fn median(repeats: Vec<Run>) -> Option<Run> {
        let mut median = repeats.last()?.clone();
        median.populate = median_of(&repeats, |run| run.populate);
        median.enable = median_of(&repeats, |run| run.enable);
        median.split = median.split.map(|_| median_of(&repeats, |run| run.split.unwrap_or_default()));
        median.disable = median_of(&repeats, |run| run.disable);
        for (index, iteration) in median.iterations.iter_mut().enumerate() {
            iteration.dirty = median_of(&repeats, |run| run.iterations[index].dirty);
            iteration.get = median_of(&repeats, |run| run.iterations[index].get);
            iteration.clear =
                iteration.clear.map(|_| median_of(&repeats, |run| run.iterations[index].clear.unwrap_or_default()));
        }
        median.footprint.tables_peak = repeats.iter().map(|run| run.footprint.tables_peak).max().unwrap_or_default();
        Some(median)
    }
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

/// What the phases took.
pub(crate) struct Measured {
    populate: Duration,
    enable: Duration,
    split: Option<Duration>,
    iterations: Vec<Iteration>,
    verified: Option<u64>,
    disable: Duration,
}

/// The phases of one run.
pub(crate) struct Phases<'p> {
    plan: &'p Plan,
    case: &'p Case<'p>,
    program: Program,
    memory: GpaRange,
}

impl<'p> Phases<'p> {
    /// Makes the run.
    pub(crate) fn run(plan: &'p Plan, case: &'p Case<'p>) -> Result<Run, Failure> {
        let Case { format, vcpus, locking, .. } = *case;
        let memory = plan.setting.memory(format, plan.bytes(vcpus))?;
        let test = Self { plan, case, program: plan.program(format, vcpus)?, memory };
        let (measured, footprint) = Rig { setting: &plan.setting, case, memory, slots: plan.slots, test }.run()?;
        let Measured { populate, enable, split, iterations, verified, disable } = measured;
        Ok(Run { format, vcpus, locking, memory, populate, enable, split, iterations, disable, verified, footprint })
    }

    fn iteration<R: VmRef>(
        &self,
        guest: &Guest<'_, Program>,
        manager: &mut Manager<'_, R>,
        number: u64,
    ) -> Result<Iteration, Failure> {
        let dirty = guest.pass(&self.program, number)?;
        if self.plan.manual {
            let (get, dirty_pages) = timed(|| manager.get())?;
            let (clear, ()) = timed(|| manager.clear())?;
            Ok(Iteration { dirty, get, clear: Some(clear), dirty_pages })
        } else {
            let (get, (dirty_pages, _)) = timed(|| manager.harvest())?;
            Ok(Iteration { dirty, get, clear: None, dirty_pages })
        }
    }
}

impl Test for Phases<'_> {
    type Work = Program;
    type Output = Measured;

    fn run<R: VmRef<Host = Machine>>(
        &self,
        vm: R,
        guest: &Guest<'_, Program>,
        manager: &mut Manager<'_, R>,
    ) -> Result<Measured, Failure> {
        let (plan, program, machine) = (self.plan, &self.program, vm.vm().host());
        self.case.say("populate");
        let populate = guest.pass(&program.populate(), 0)?;
        self.case.say("enable");
        let (enable, ()) = timed(|| manager.set_log(Some(plan.log_mode())))?;
        let split = match plan.splits_ahead {
            true => {
                self.case.say("split");
                Some(timed(|| manager.split(self.memory))?.0)
            }
            false => None,
        };
        let mut copy = plan.setting.verify.then(|| Copy::everything(machine)).transpose()?;

        let mut iterations = Vec::new();
        for number in 1..=plan.iterations {
            self.case.say(&format!("iteration {number}"));
            iterations.push(self.iteration(guest, manager, u64::from(number))?);
            if let Some(copy) = &mut copy {
                copy.named(machine, manager);
            }
        }

        let next_pass = u64::from(plan.iterations) + 1;
        let verified = match copy {
            Some(copy) => {
                self.case.say("verify");
                Some(copy.live(machine, program, guest, manager, plan, next_pass)?)
            }
            None => None,
        };
        self.case.say("disable");
        let off = |manager: &mut Manager<'_, R>| timed(|| manager.set_log(None)).map(|(time, ())| time);
        let disable = match plan.run_while_disabling {
            true => guest.beside(program, next_pass + (1 << 32), || off(manager))?,
            false => off(manager)?,
        };
        Ok(Measured { populate, enable, split, iterations, verified, disable })
    }
}
