//! The accessed flag: set by the CPU, or by faults.

use alloc::format;

use slat::host::{Flush, Tlb};

use super::Verdict;
use crate::counts::Counts;
use crate::memory::{self, Unit};
use crate::payload::{Program, Task};
use crate::stage::{PAGE, STEP, Settings, Stage, ensure};

const BYTES: u64 = 1024 * PAGE;
const PAGES: u64 = BYTES / PAGE;

/// The CPU sets it: no fault is taken.
pub(super) fn by_hardware(settings: Settings) -> Verdict {
    let stage = Stage::new(settings, Unit::PAGE, BYTES)?;
    let counts = touch_half(&stage)?;
    ensure!(counts.accessed == 0, "{} faults for the accessed flag", counts.accessed);
    ensure!(counts.faults() == 0, "faults where only a flag was to be set: {counts}");
    stage.finish()
}

/// Faults set it: at least one a page, and one a vCPU at most.
pub(super) fn by_fault(settings: Settings) -> Verdict {
    let stage = Stage::new(settings, Unit::PAGE, BYTES)?.without_hardware_accessed();
    memory::load(&stage.vm, false);
    let counts = touch_half(&stage)?;
    let (least, most) = (PAGES / 2, PAGES / 2 * stage.vcpus() as u64);
    let all = counts.accessed + counts.spurious + counts.retried;
    ensure!(counts.accessed == least, "{} faults set the flag of {least} pages", counts.accessed);
    ensure!(all <= most + stage.vcpus() as u64, "{all} faults, at most {most}: {counts}");
    stage.finish()
}

/// Maps all, makes it old, reads every other page: those are young, no others.
fn touch_half(stage: &Stage) -> Result<Counts, alloc::string::String> {
    stage.pass(stage.all(Program::Write, 7))?;
    let mut worker = stage.worker();
    let mut young = |forget: bool| {
        let (mut next, mut young) = (Some(stage.range().start()), 0);
        while let Some(at) = next {
            let range = stage.range().from(at);
            let aged = if forget { worker.age(range, STEP) } else { worker.test_young(range, STEP) };
            let aged = aged.map_err(|error| format!("{error}"))?;
            (next, young) = (aged.next, young + aged.young);
        }
        Ok::<_, alloc::string::String>(young)
    };
    ensure!(young(true)? == PAGES, "not all pages are young after they were written");
    ensure!(young(false)? == 0, "pages stay young");
    // Ageing flushes nothing: what is cached may be used without setting the flag.
    stage.memory().flush(Flush::All);
    stage.memory().wait(());
    let all = stage.all(Program::Check, 7);
    let counts = stage.pass(|vcpu| Task { pages: PAGES / 2, stride: 2 * PAGE, ..all(vcpu) })?;
    let found = young(false)?;
    ensure!(found == PAGES / 2, "{found} pages are young, {} were read", PAGES / 2);
    Ok(counts)
}
