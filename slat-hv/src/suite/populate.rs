//! Mapping memory by faults, in each size.

use super::Verdict;
use crate::memory::Unit;
use crate::payload::Program;
use crate::stage::{BLOCK, PAGE, Settings, Stage, ensure};

const VALUE: u64 = 0x5eed_0000;

/// By pages: each is mapped once, whoever is first.
pub(super) fn pages(settings: Settings) -> Verdict {
    populate(settings, Unit::PAGE, 4096 * PAGE)
}

/// By blocks of 2 MiB.
pub(super) fn blocks(settings: Settings) -> Verdict {
    populate(settings, Unit::BLOCK, 8 * BLOCK)
}

/// By one leaf of 1 GiB.
pub(super) fn gigabyte(settings: Settings) -> Verdict {
    populate(settings, Unit::GIGABYTE, Unit::GIGABYTE.bytes())
}

fn populate(settings: Settings, unit: Unit, bytes: u64) -> Verdict {
    let stage = Stage::new(settings, unit, bytes)?;
    let counts = stage.pass(stage.all(Program::Write, VALUE))?;
    stage.pass(stage.all(Program::Check, VALUE))?;
    for page in stage.pages().step_by(509) {
        for vcpu in 0..stage.vcpus() {
            let word = stage.words(page)[1 + vcpu].load(crate::stage::RELAXED);
            ensure!(word == VALUE, "page {page} holds {word:#x} for vCPU {vcpu}");
        }
    }
    let mut expected = [0; slat::addr::Level::COUNT];
    expected[unit.0.index()] = bytes / unit.bytes();
    expected[Unit::BLOCK.0.index()] += 1; // the control slot
    let leaves = stage.vm.statistics().leaves;
    ensure!(leaves == expected, "leaves {leaves:?}, not {expected:?}");
    ensure!(counts.mapped == expected, "faults mapped {:?}, not {expected:?}", counts.mapped);
    stage.finish()
}
