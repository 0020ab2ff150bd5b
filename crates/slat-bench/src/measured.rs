//! What is counted: each operation as an embedder calls it, a function of its own that is not inlined. Instructions in
//! here count, those of the embedder's translation do not.

use slat::addr::{Gpa, GpaRange, Level};
use slat::host::{Access, Permissions, SlotId};
use slat::vm::{Budget, Collapse, NewSlot, Outcome, Vcpu, Worker};

use crate::BenchVm;

/// One whole fault.
#[inline(never)]
pub(crate) fn fault(vcpu: &mut Vcpu<&BenchVm>, at: Gpa, access: Access) -> Outcome {
    vcpu.fault(at, access)
}

/// Write protection of a range in one call.
#[inline(never)]
pub(crate) fn write_protect(worker: &mut Worker<&BenchVm>, range: GpaRange) {
    assert!(worker.write_protect(range, Budget::UNLIMITED).is_ok_and(|progress| progress.is_done()));
}

/// Unmapping of a range in one call.
#[inline(never)]
pub(crate) fn unmap(worker: &mut Worker<&BenchVm>, range: GpaRange) {
    assert!(worker.unmap(range, Budget::UNLIMITED).is_ok_and(|progress| progress.is_done()));
}

/// One look at what is mapped.
#[inline(never)]
pub(crate) fn lookup(vcpu: &mut Vcpu<&BenchVm>, at: Gpa) -> bool {
    vcpu.lookup(at).is_some_and(|mapping| mapping.permissions == Permissions::ALL)
}

/// A range mapped in one call.
#[inline(never)]
pub(crate) fn prefault(worker: &mut Worker<&BenchVm>, range: GpaRange) {
    assert!(worker.prefault(range, Access::Write, Budget::UNLIMITED).is_ok_and(|progress| progress.is_done()));
}

/// Tables collapsed in place in one call.
#[inline(never)]
pub(crate) fn collapse(worker: &mut Worker<&BenchVm>, range: GpaRange) {
    let blocks = range.len() >> 21;
    let progress = worker.collapse(range, Collapse::InPlace, Budget::UNLIMITED);
    assert!(progress.is_ok_and(|progress| progress.changed == blocks));
}

/// Blocks split ahead of faults in one call.
#[inline(never)]
pub(crate) fn split(worker: &mut Worker<&BenchVm>, range: GpaRange) {
    let blocks = range.len() >> 21;
    let progress = worker.split(range, Level::PAGE, Budget::UNLIMITED);
    assert!(progress.is_ok_and(|progress| progress.changed == blocks && progress.is_done()));
}

/// One more slot.
#[inline(never)]
pub(crate) fn create_slot(worker: &mut Worker<&BenchVm>, id: SlotId, slot: NewSlot) {
    worker.create_slot(id, slot).expect("a good slot");
}
