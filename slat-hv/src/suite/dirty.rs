//! The dirty log: what guests write is named, nothing is lost.

use alloc::format;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;

use slat::vm::{Budget, LogMode, Pages, Worker};

use super::Verdict;
use crate::memory::{GuestVm, Unit};
use crate::payload::{Program, Task};
use crate::stage::{BLOCK, DATA, PAGE, RELAXED, Settings, Stage, ensure};

const BYTES: u64 = 4 * BLOCK;
const ROUNDS: u64 = 6;

/// Each vCPU writes to pages of its own choice, and the log names those and no others.
pub(super) fn exact(settings: Settings) -> Verdict {
    for (unit, mode) in
        [(Unit::PAGE, LogMode::Protect), (Unit::BLOCK, LogMode::Protect), (Unit::PAGE, LogMode::InitiallySet)]
    {
        let stage = Stage::new(settings, unit, BYTES)?;
        stage.pass(stage.all(Program::Write, 1))?;
        let mut worker = stage.worker();
        worker.top_up(16).map_err(|error| format!("tables: {error}"))?;
        stage.set_log(&mut worker, Some(mode))?;
        let mut copy = Copy::new(&stage);
        if mode == LogMode::InitiallySet {
            let all = copy.harvest(&stage, &mut worker)?;
            ensure!(all.0 == BYTES / PAGE, "{} pages were set initially", all.0);
        }
        for round in 1..=3 {
            stage.pass(stage.every(3 + round, round))?;
            let (dirty, complete) = copy.harvest(&stage, &mut worker)?;
            ensure!(complete, "{unit:?}: the harvest is not complete, with all vCPUs out");
            let wrong = stage.pages().find(|&page| copy.names(page) != (page % (3 + round) == 0));
            ensure!(wrong.is_none(), "{unit:?}, round {round}: page {wrong:?} is named wrongly ({dirty} are named)");
            copy.compare(&stage)?;
        }
        drop(worker);
        stage.finish()?;
    }
    Ok(())
}

impl Stage {
    /// Writes `value` to every page whose number is a multiple of `step`.
    fn every(&self, step: u64, value: u64) -> impl Fn(usize) -> Task + Sync + use<> {
        let (all, pages) = (self.all(Program::Write, value << 8), self.pages().end);
        move |vcpu| Task { pages: pages.div_ceil(step), stride: step * PAGE, ..all(vcpu) }
    }
}

/// Under guests that write all the time, by pages.
pub(super) fn pages(settings: Settings) -> Verdict {
    live(settings, Unit::PAGE)
}

/// The same by blocks, which the log splits.
pub(super) fn blocks(settings: Settings) -> Verdict {
    live(settings, Unit::BLOCK)
}

fn live(settings: Settings, unit: Unit) -> Verdict {
    let stage = Stage::new(settings, unit, BYTES)?;
    let mut worker = stage.worker();
    let (mut copy, _) = stage.churn(&|_, _, _| false, || {
        stage.wait_for_passes(1);
        worker.top_up(16).map_err(|error| format!("tables: {error}"))?;
        stage.set_log(&mut worker, Some(LogMode::Protect))?;
        let mut copy = Copy::new(&stage);
        for round in 0..ROUNDS {
            stage.wait_for_passes(1);
            if round % 2 == 0 {
                copy.harvest(&stage, &mut worker)?.0
            } else {
                copy.get_and_clear(&stage, &mut worker)?
            };
        }
        Ok(copy)
    })?;
    // All vCPUs are out: what is taken now is the rest.
    ensure!(copy.harvest(&stage, &mut worker)?.1, "the last harvest is not complete");
    copy.compare(&stage)?;
    ensure!(copy.taken >= ROUNDS, "{} pages were dirty in all rounds", copy.taken);
    drop(worker);
    stage.finish()
}

/// What migration makes of the memory: everything once, then the pages that the log names.
struct Copy {
    /// The beginning of each page, which is all that programs write to.
    contents: Vec<u64>,
    bitmap: Vec<u64>,
    taken: u64,
}

impl Copy {
    /// Everything, after logging was turned on.
    fn new(stage: &Stage) -> Self {
        let pages = stage.pages().end;
        let contents = vec![0; (pages * 512) as usize];
        let mut copy = Self { contents, bitmap: vec![0; pages.div_ceil(64) as usize], taken: 0 };
        copy.bitmap.fill(u64::MAX);
        copy.named(stage);
        copy.bitmap.fill(0);
        copy
    }

    fn names(&self, page: u64) -> bool {
        self.bitmap[(page / 64) as usize] >> (page % 64) & 1 != 0
    }

    /// Copies what the bitmap names.
    fn named(&mut self, stage: &Stage) {
        for page in stage.pages().filter(|&page| self.names(page)).collect::<Vec<_>>() {
            let words = stage.words(page).iter().map(|word| word.load(RELAXED));
            self.contents[(page * 512) as usize..].iter_mut().zip(words).for_each(|(copy, word)| *copy = word);
        }
    }

    fn all(stage: &Stage) -> Pages {
        Pages { first: 0, count: stage.pages().end }
    }

    /// Takes the log and copies: how many pages, and whether that was all.
    fn harvest(&mut self, stage: &Stage, worker: &mut Worker<&GuestVm>) -> Result<(u64, bool), String> {
        self.bitmap.fill(0);
        let harvest = worker.harvest(DATA, Self::all(stage), &mut self.bitmap, Budget::UNLIMITED);
        let harvest = harvest.map_err(|error| format!("harvest: {error}"))?;
        self.named(stage);
        self.taken += harvest.dirty;
        Ok((harvest.dirty, harvest.complete))
    }

    /// The same in two steps, as KVM's interface has it.
    fn get_and_clear(&mut self, stage: &Stage, worker: &mut Worker<&GuestVm>) -> Result<u64, String> {
        let dirty =
            worker.get_dirty(DATA, Self::all(stage), &mut self.bitmap).map_err(|error| format!("get: {error}"))?;
        let cleared = worker.clear_dirty(DATA, Self::all(stage), &self.bitmap, Budget::UNLIMITED);
        ensure!(cleared.map_err(|error| format!("clear: {error}"))?.is_done(), "clearing is not done");
        self.named(stage);
        self.taken += dirty;
        Ok(dirty)
    }

    /// Compares word for word.
    fn compare(&self, stage: &Stage) -> Verdict {
        for page in stage.pages() {
            for (index, word) in stage.words(page).iter().enumerate() {
                let (copied, found) = (self.contents[page as usize * 512 + index], word.load(RELAXED));
                ensure!(copied == found, "page {page}, word {index}: the copy has {copied:#x}, the guest {found:#x}");
            }
        }
        Ok(())
    }
}
