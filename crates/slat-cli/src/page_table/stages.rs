//! One run: the stages of KVM's kvm_page_table_test, timed.

use slat::vm::{self, LogMode, VmRef};
use slat_machine::Machine;
use std::time::Duration;

use super::leaves::Leaves;
use super::plan::Plan;
use super::touch::{Layout, Stage, Touch};
use super::verify;
use crate::arguments::{Collapse, PageTablePlant as Plant};
use crate::failure::Failure;
use crate::harness::guest::Guest;
use crate::harness::manager::Manager;
use crate::harness::rig::{Footprint, Rig, Test};
use crate::harness::runs::Case;
use crate::harness::time::{median_of, timed};
use crate::locking::Locking;

/// What a stage in which the guest ran took, and what it left.
#[derive(Clone, Debug)]
pub(crate) struct Staged {
    pub(crate) time: Duration,
    pub(crate) leaves: Leaves,
}

/// What the stages measured.
#[derive(Clone, Debug)]
pub(crate) struct Measured {
    pub(crate) create: Staged,
    pub(crate) enable: Duration,
    pub(crate) update: Staged,
    pub(crate) dirty_pages: u64,
    pub(crate) disable: Duration,
    /// `None` where only faults collapse.
    pub(crate) collapse: Option<Staged>,
    pub(crate) adjust: Staged,
}

/// What one run measured.
#[derive(Clone, Debug)]
pub(crate) struct Run {
    pub(crate) format: &'static str,
    pub(crate) vcpus: u32,
    pub(crate) locking: Locking,
    pub(crate) layout: Layout,
    pub(crate) measured: Measured,
    pub(crate) footprint: Footprint,
}

impl Run {
    /// How many blocks could map the memory, and how many do after `adjust`.
    pub(crate) fn blocks(&self) -> (u64, u64) {
        match self.layout.has_blocks() {
            true => (self.layout.pieces(), self.measured.adjust.leaves.of(self.layout.piece)),
            false => (0, 0),
        }
    }

    /// The median of each time over repeats of the same run; counts are the last repeat's, peaks the highest.
    pub(crate) fn median(repeats: Vec<Run>) -> Option<Run> {
        let mut median = repeats.last()?.clone();
        let measured = &mut median.measured;
        measured.create.time = median_of(&repeats, |run| run.measured.create.time);
        measured.enable = median_of(&repeats, |run| run.measured.enable);
        measured.update.time = median_of(&repeats, |run| run.measured.update.time);
        measured.disable = median_of(&repeats, |run| run.measured.disable);
        if let Some(collapse) = &mut measured.collapse {
            let time = |run: &Run| run.measured.collapse.as_ref().map(|staged| staged.time).unwrap_or_default();
            collapse.time = median_of(&repeats, time);
        }
        measured.adjust.time = median_of(&repeats, |run| run.measured.adjust.time);
        median.footprint.tables_peak = repeats.iter().map(|run| run.footprint.tables_peak).max().unwrap_or_default();
        Some(median)
    }
}

/// The stages of one run.
pub(crate) struct Stages<'p> {
    plan: &'p Plan,
    case: &'p Case<'p>,
    layout: Layout,
}

impl<'p> Stages<'p> {
    /// Makes the run.
    pub(crate) fn run(plan: &'p Plan, case: &'p Case<'p>) -> Result<Run, Failure> {
        let Case { format, vcpus, locking, .. } = *case;
        let layout = plan.layout(format)?;
        let test = Self { plan, case, layout };
        let rig = Rig { setting: &plan.setting, case, memory: layout.memory, slots: 1, test };
        let (measured, footprint) = rig.run()?;
        Ok(Run { format, vcpus, locking, layout, measured, footprint })
    }

    /// Lets the guest run, counts the leaves, and looks at what is there.
    fn stage<R: VmRef<Host = Machine>>(
        &self,
        vm: &R,
        guest: &Guest<'_, Touch>,
        stage: Stage,
    ) -> Result<Staged, Failure> {
        self.case.say(stage.name());
        let verify = self.plan.setting.verify;
        let time = guest.pass(&Touch { layout: self.layout, stage, verify }, 0)?;
        let leaves = Leaves::counted(vm);
        if stage == Stage::Create && self.plan.plant == Some(Plant::StrayWord) {
            vm.vm().host().memory().store(8, 1);
        }
        if verify {
            self.case.say(&format!("verify {}", stage.name()));
            verify::check(vm, &self.layout, stage, self.plan.collapse, &leaves)?;
        }
        Ok(Staged { time, leaves })
    }

    fn set_log<R: VmRef>(&self, manager: &mut Manager<'_, R>, log: Option<LogMode>) -> Result<Duration, Failure> {
        if self.plan.plant == Some(Plant::ForgetLog) {
            return Ok(Duration::ZERO);
        }
        timed(|| manager.set_log(log)).map(|(time, ())| time)
    }

    /// The scan, if one was asked for.
    fn collapse<R: VmRef>(&self, vm: &R, manager: &mut Manager<'_, R>) -> Result<Option<Staged>, Failure> {
        let how = match self.plan.collapse {
            Collapse::ByFaults => return Ok(None),
            Collapse::InPlace => vm::Collapse::InPlace,
            Collapse::Lazily => vm::Collapse::Lazily,
        };
        self.case.say("collapse");
        let (time, ()) = timed(|| manager.collapse(self.layout.memory, how))?;
        Ok(Some(Staged { time, leaves: Leaves::counted(vm) }))
    }
}

impl Test for Stages<'_> {
    type Work = Touch;
    type Output = Measured;

    fn run<R: VmRef<Host = Machine>>(
        &self,
        vm: R,
        guest: &Guest<'_, Touch>,
        manager: &mut Manager<'_, R>,
    ) -> Result<Measured, Failure> {
        let create = self.stage(&vm, guest, Stage::Create)?;
        let enable = self.set_log(manager, Some(LogMode::Protect))?;
        let update = self.stage(&vm, guest, Stage::Update)?;
        let dirty_pages = manager.get()?;
        if self.plan.setting.verify {
            verify::check_log(&self.layout, dirty_pages)?;
        }
        let disable = self.set_log(manager, None)?;
        let collapse = self.collapse(&vm, manager)?;
        let adjust = self.stage(&vm, guest, Stage::Adjust)?;
        Ok(Measured { create, enable, update, dirty_pages, disable, collapse, adjust })
    }
}
