//! What is counted: each operation as an embedder calls it, a function of its own that is not inlined. Instructions in
//! here count, those of the embedder's translation do not.

use slat::addr::{Gpa, GpaRange};
use slat::host::Access;
use slat::vm::{Budget, Outcome, Vcpu, Worker};

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
