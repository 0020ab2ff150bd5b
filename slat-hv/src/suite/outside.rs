//! Accesses where there is no slot: reported with their address and kind.

use alloc::format;

use slat::addr::Gpa;
use slat::host::Access;

use super::Verdict;
use crate::lock::Lock;
use crate::memory::Unit;
use crate::payload::{Program, Task};
use crate::stage::{DATA_GPA, PAGE, Settings, Stage, ensure};

const BYTES: u64 = 2 << 20;

/// Reads, writes and jumps, next to a slot and far from it.
pub(super) fn is_reported(settings: Settings) -> Verdict {
    let stage = Stage::new(settings, Unit::PAGE, BYTES)?;
    let programs = [(Program::Read, Access::Read), (Program::Store, Access::Write), (Program::Jump, Access::Execute)];
    for address in [DATA_GPA - 8, DATA_GPA + BYTES, 0x1000_0000, 0x7f_ffff_fff0] {
        for (program, access) in programs {
            let seen = Lock::new(None);
            let task = |_| Task { program, start: address, pages: 1, stride: PAGE, word: 0, value: 0 };
            let report = |_: &mut crate::vcpu::Guest<'_>, gpa: Gpa, access: Access| {
                *seen.lock() = Some((gpa, access));
                false
            };
            let result = stage.run_reporting(&task, &report);
            ensure!(result.is_err(), "{access:?} of {address:#x} went through");
            let expected = Some((Gpa::new(address), access));
            let seen = *seen.lock();
            ensure!(
                seen == expected,
                "{access:?} of {address:#x} was reported as {seen:x?}: {}",
                format!("{result:?}")
            );
        }
    }
    stage.finish()
}
