//! Whether memory and tables are what a stage has to leave.

use slat::addr::{Gpa, GpaRange};
use slat::format::Format;
use slat::host::Access;
use slat::vm::VmRef;
use slat_machine::Machine;
use slat_machine::physical::GUEST_BASE;
use slat_machine::walk::translate;

use super::leaves::Leaves;
use super::touch::{Layout, Stage};
use crate::arguments::Collapse;
use crate::failure::{Failure, engine};

/// Checks the memory, and that `leaves`, which the engine counts, are there and are those that have to be.
pub(super) fn check<R>(
    vm: &R,
    layout: &Layout,
    stage: Stage,
    collapse: Collapse,
    leaves: &Leaves,
) -> Result<(), Failure>
where
    R: VmRef<Host = Machine>,
{
    contents(vm.vm().host(), layout, stage)?;
    let wrong =
        |what: String| Err(Failure::Verification(format!("verification failed: after {}, {what}", stage.name())));
    let found = walked(vm, layout.memory)?;
    if found != *leaves {
        return wrong(format!("the engine counts these leaves: {leaves}; the machine's walker finds {found}"));
    }
    match Leaves::expected(vm.vm().format().geometry(), layout, stage, collapse) {
        Some(expected) if expected != found => {
            wrong(format!("there are these leaves: {found}; there have to be {expected}"))
        }
        Some(_) => Ok(()),
        None if found.bytes() != layout.memory.len() => {
            wrong(format!("the leaves map {} bytes of {}", found.bytes(), layout.memory.len()))
        }
        None => Ok(()),
    }
}

/// Checks the dirty log's length after `update`.
pub(super) fn check_log(layout: &Layout, dirty: u64) -> Result<(), Failure> {
    let written = layout.pages_updated();
    if dirty == written {
        return Ok(());
    }
    Err(Failure::Verification(format!("verification failed: the guest wrote {written} pages, the log names {dirty}")))
}

/// The first word of each page is what the guest wrote last; nobody ever wrote another.
fn contents(machine: &Machine, layout: &Layout, stage: Stage) -> Result<(), Failure> {
    let mut words = vec![0; (layout.page / 8) as usize];
    for page in 0..machine.memory().pages() {
        let gpa = Gpa::new(layout.memory.start().get() + page * layout.page);
        machine.memory().read_page(page, &mut words);
        let first = layout.word_after(Some(stage), gpa);
        let expected = |index| if index == 0 { first } else { 0 };
        if let Some(index) = (0..words.len()).find(|&index| words[index] != expected(index)) {
            return Err(Failure::Verification(format!(
                "verification failed: after {}, page {page} (GPA {:#x}) holds {:#018x} at byte {}, and {:#018x} has to be there",
                stage.name(),
                gpa.get(),
                words[index],
                index * 8,
                expected(index),
            )));
        }
    }
    Ok(())
}

/// The leaves that the machine's walker finds, each of which has to lead where its memory is.
fn walked<R: VmRef<Host = Machine>>(vm: &R, memory: GpaRange) -> Result<Leaves, Failure> {
    let (vm, machine) = (vm.vm(), vm.vm().host());
    let geometry = vm.format().geometry();
    let register = machine.walker().register(vm.root().ok_or_else(|| engine("a VM without a root"))?);
    let mut leaves = Leaves::none(geometry);
    let mut gpa = memory.start();
    while gpa < memory.end() {
        let leaf = translate(machine.walker(), machine.physical(), register, gpa, Access::Read).map_err(|fault| {
            Failure::Verification(format!("verification failed: no leaf maps GPA {:#x}: {fault:?}", gpa.get()))
        })?;
        let offset = gpa.get() - memory.start().get();
        let size = geometry.size(leaf.level);
        if leaf.output.get() != GUEST_BASE.get() + offset || !gpa.is_aligned(size) {
            return Err(Failure::Verification(format!(
                "verification failed: the leaf for GPA {:#x} leads to {:#x}, its memory is at {:#x}",
                gpa.get(),
                leaf.output.get(),
                GUEST_BASE.get() + offset,
            )));
        }
        leaves.add(size, 1);
        gpa = Gpa::new(gpa.get() + size);
    }
    Ok(leaves)
}
