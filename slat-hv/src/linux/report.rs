//! What is printed when Linux has powered off.

use super::Linux;
use crate::clock::Ticks;
use crate::console::say;
use crate::counts::{Counts, counts_of};

/// Prints what its memory went through.
pub(super) fn print(linux: &Linux) {
    let mut counts = Counts::default();
    (0..linux.vcpus).for_each(|cpu| counts.add(&counts_of(cpu)));
    let statistics = linux.vm.statistics();
    let journal = linux.journal.lock();
    say!("slat-hv: linux: faults {}: {counts}", counts.faults());
    say!("slat-hv: linux: worst fault {} ({})", Ticks(counts.worst.0), counts.worst.1);
    say!("slat-hv: linux: dirty pages per harvest {:?}, logging on {} times", journal.dirty, journal.enabled);
    say!(
        "slat-hv: linux: splits {}, ahead of writes {}, tables collapsed {}",
        statistics.splits,
        journal.split,
        journal.collapsed
    );
    say!("slat-hv: linux: units moved {} of {} KiB", journal.moved, linux.unit.bytes() >> 10);
    say!(
        "slat-hv: linux: flushes of leaves {}, tables {}, everything {}; retried inside {}",
        statistics.flushes_leaves,
        statistics.flushes_tables,
        statistics.flushes_all,
        statistics.retries
    );
    let [pages, blocks, ..] = statistics.leaves;
    say!("slat-hv: linux: tables {}, leaves 4K {pages}, 2M {blocks}", statistics.tables);
}
