//! What a call of `slat dirty-log` asks for, checked before anything is run.

use slat::vm::LogMode;
use slat_machine::program::{Order, Program};

use crate::arguments::{DirtyLog, DirtyLogPlant as Plant};
use crate::failure::Failure;
use crate::formats;
use crate::harness::setting::Setting;

/// Most slots: what KVM has for users.
const MOST_SLOTS: u32 = 32_764;

/// All parameters, valid.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) setting: Setting,
    pub(crate) slots: u32,
    pub(crate) iterations: u32,
    pub(crate) order: Order,
    pub(crate) write_percent: u32,
    pub(crate) seed: u64,
    pub(crate) overlap: bool,
    pub(crate) manual: bool,
    pub(crate) splits_ahead: bool,
    pub(crate) by_hardware: bool,
    pub(crate) run_while_disabling: bool,
    pub(crate) plant: Option<Plant>,
}

impl Plan {
    pub(crate) fn new(options: &DirtyLog) -> Result<Self, Failure> {
        if options.nested {
            return Err(Failure::option(
                "-n",
                "KVM's test runs its guest nested with it; slat's machine has no nested guests",
            ));
        }
        let plan = Self {
            setting: Setting::new(&options.common, options.bytes, options.verify)?,
            slots: options.slots,
            iterations: options.iterations,
            order: if options.random { Order::Random } else { Order::Sequential },
            write_percent: options.write_percent,
            seed: options.seed,
            overlap: options.overlap,
            manual: !options.no_manual_protect,
            splits_ahead: options.eager_page_split,
            by_hardware: options.hardware_log,
            run_while_disabling: options.run_while_disabling,
            plant: options.plant,
        };
        plan.check()?;
        Ok(plan)
    }

    /// Bytes of guest memory with this many vCPUs.
    pub(crate) fn bytes(&self, vcpus: u32) -> u64 {
        let bytes = self.setting.bytes;
        if self.overlap { bytes } else { bytes.saturating_mul(u64::from(vcpus)) }
    }

    /// How the log is kept.
    pub(crate) fn log_mode(&self) -> LogMode {
        match (self.by_hardware, self.manual) {
            (true, _) => LogMode::Hardware,
            (false, true) => LogMode::InitiallySet,
            (false, false) => LogMode::Protect,
        }
    }

    /// The program that the vCPUs run.
    pub(crate) fn program(&self, format: &str, vcpus: u32) -> Result<Program, Failure> {
        Ok(Program {
            base: self.setting.memory(format, self.bytes(vcpus))?.start(),
            page_size: formats::geometry(format)?.page_size(),
            vcpus,
            bytes_per_vcpu: self.setting.bytes,
            overlap: self.overlap,
            order: self.order,
            write_percent: self.write_percent,
            seed: self.seed,
        })
    }

    fn check(&self) -> Result<(), Failure> {
        if self.iterations < 2 {
            return Err(Failure::option("-i", format!("{} iterations are too few: at least 2", self.iterations)));
        }
        if self.write_percent > 100 {
            return Err(Failure::option("-w", format!("{} percent: 0 to 100", self.write_percent)));
        }
        if self.slots == 0 || self.slots > MOST_SLOTS {
            return Err(Failure::option("-x", format!("{} slots: 1 to {MOST_SLOTS}", self.slots)));
        }
        self.setting.check(|vcpus| self.bytes(vcpus), self.setting.verify)?;
        for format in &self.setting.formats {
            if self.by_hardware && !formats::hardware_dirty(format)? {
                let able = formats::NAMES.iter().filter(|name| formats::hardware_dirty(name).unwrap_or(false));
                let able = able.copied().collect::<Vec<_>>().join(", ");
                let what = format!("{format} has no dirty state that hardware sets; of --format, there are: {able}");
                return Err(Failure::option("--hardware-log", what));
            }
            let page = formats::geometry(format)?.page_size();
            let mut pages = self.setting.vcpus.iter().map(|&vcpus| self.bytes(vcpus) / page);
            if let Some(pages) = pages.find(|pages| !pages.is_multiple_of(u64::from(self.slots))) {
                let what = format!("{} slots do not divide {pages} pages evenly ({format})", self.slots);
                return Err(Failure::option("-x", what));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use proptest::prelude::*;

    use super::*;
    use crate::arguments::tests::command_line;
    use crate::arguments::{Arguments, Command};

    proptest! {
        /// What a plan says can be run; what cannot be has a reason.
        #[test]
        fn any_command_line_is_a_plan_or_refused(line in command_line("dirty-log")) {
            let Ok(Arguments { command: Command::DirtyLog(options) }) = Arguments::try_parse_from(line) else { return Ok(()) };
            let plan = Plan::new(&options);
            prop_assert!(plan.as_ref().err().is_none_or(|failure| !failure.to_string().is_empty()));
            let Ok(plan) = plan else { return Ok(()) };
            for &vcpus in &plan.setting.vcpus {
                for format in &plan.setting.formats {
                    let memory = plan.setting.memory(format, plan.bytes(vcpus)).unwrap();
                    prop_assert!(plan.program(format, vcpus).is_ok() && memory.len() == plan.bytes(vcpus));
                    prop_assert!((1..=MOST_SLOTS).contains(&plan.slots) && plan.write_percent <= 100);
                }
            }
        }
    }
}
