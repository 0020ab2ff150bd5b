//! Migrating the guest by its dirty log alone: everything first, then what each harvest names, then a final stop.

use slat::vm::VmRef;
use slat_machine::Machine;
use slat_machine::copy::Destination;
use slat_machine::program::{Order, Program};
use std::time::{Duration, Instant};

use super::plan::Plan;
use crate::arguments::DirtyLogPlant as Plant;
use crate::failure::Failure;
use crate::harness::guest::Guest;
use crate::harness::manager::Manager;

/// Rounds of the live phase: harvest and copy while the guest writes.
const ROUNDS: usize = 4;
/// How long a round waits for the guest.
const PATIENCE: Duration = Duration::from_secs(2);
/// Rounds after the final stop. Two are needed; more would mean that something marks pages while nobody runs.
const FINAL_ROUNDS: usize = 16;

/// The copy that the log makes.
pub(crate) struct Copy {
    destination: Destination,
    pages: u64,
}

impl Copy {
    /// Copies all of guest memory, the log being on.
    pub(crate) fn everything(machine: &Machine) -> Result<Self, Failure> {
        let destination = Destination::with_page_size(machine.memory().len(), machine.memory().page_size())?;
        destination.copy_everything(machine.memory());
        Ok(Self { destination, pages: 0 })
    }

    /// Copies what the bitmaps name. What they name was protected, and flushed, before this is called.
    pub(crate) fn named<R: VmRef>(&mut self, machine: &Machine, manager: &Manager<'_, R>) {
        for (first, bitmap) in manager.bitmaps() {
            self.pages += self.destination.copy_named(machine.memory(), first, bitmap);
        }
    }

    /// Rounds of harvest and copy while the guest writes in random order, a final stop, the last harvests, and the
    /// comparison; the pages copied.
    pub(crate) fn live<R: VmRef>(
        mut self,
        machine: &Machine,
        program: &Program,
        guest: &Guest<'_, Program>,
        manager: &mut Manager<'_, R>,
        plan: &Plan,
        pass: u64,
    ) -> Result<u64, Failure> {
        let writing = Program { order: Order::Random, write_percent: program.write_percent.max(50), ..*program };
        guest.beside(&writing, pass, || {
            for _ in 0..ROUNDS {
                until_written(manager, PATIENCE)?;
                take(manager, plan)?;
                self.named(machine, manager);
            }
            // A page can be forgotten only if there is one.
            until_written(manager, if plan.plant.is_some() { Duration::MAX } else { PATIENCE })
        })?;
        // All vCPUs are out of their faults: the harvest is final once it is complete.
        let mut planted = plan.plant == Some(Plant::SkipPage);
        let mut complete = false;
        for _ in 0..FINAL_ROUNDS {
            complete = take(manager, plan)?;
            if planted {
                planted = !manager.forget_one_page();
            }
            self.named(machine, manager);
            if complete {
                break;
            }
        }
        if !complete {
            return Err(Failure::Verification("the dirty log did not come to rest after the final stop".to_owned()));
        }
        self.compare(machine, program)
    }

    fn compare(&self, machine: &Machine, program: &Program) -> Result<u64, Failure> {
        match self.destination.first_difference(machine.memory()) {
            None => Ok(self.pages),
            Some(difference) => Err(Failure::Verification(format!(
                "verification failed: page {} (GPA {:#x}) differs at byte {}: the guest has {:#018x}, its copy {:#018x}",
                difference.page,
                program.base.get() + difference.page * program.page_size,
                difference.offset,
                difference.source_word,
                difference.destination_word,
            ))),
        }
    }
}

/// Waits until the guest has written to a good part of its memory since the last harvest, or for a while: a round in which
/// nothing was written proves nothing.
fn until_written<R: VmRef>(manager: &mut Manager<'_, R>, patience: Duration) -> Result<(), Failure> {
    let begun = Instant::now();
    while manager.get()? <= manager.pages_in_all() / 16 && begun.elapsed() < patience {
        std::thread::sleep(Duration::from_micros(100));
    }
    Ok(())
}

/// Takes the log once; whether nothing was left of it.
fn take<R: VmRef>(manager: &mut Manager<'_, R>, plan: &Plan) -> Result<bool, Failure> {
    if plan.manual {
        let dirty = manager.get()?;
        manager.clear()?;
        Ok(dirty == 0)
    } else {
        manager.harvest().map(|(_, complete)| complete)
    }
}
