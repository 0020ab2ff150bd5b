//! The operations that `slat-bench` counts the instructions of, under the same names.

use std::hint::black_box;
use std::time::Duration;

use criterion::Criterion;
use slat::addr::{Gpa, Level};
use slat::host::Access;
use slat::vm::{Budget, Collapse, LogMode};
use slat_bench::stage::{BASE, BLOCK, BLOCKS, PAGE, PER_BLOCK, Stage, address, range};

use crate::clock::{rounds, shuffled, time};

/// Pages that come and go.
const PAGES: u64 = BLOCKS * PER_BLOCK;
/// Blocks to split in a round: as many as a vCPU carries tables for.
const SPLITS: u64 = 64;

/// Times so many of an operation.
type Timed = fn(u64) -> Duration;

const OPERATIONS: [(&str, Timed); 12] = [
    ("map_4k", map_4k),
    ("map_4k_random", map_4k_random),
    ("map_4k_logged", map_4k_logged),
    ("spurious", spurious),
    ("relax_dirty", relax_dirty),
    ("lookup", lookup),
    ("protect_leaf", protect_leaf),
    ("unmap_leaf", unmap_leaf),
    ("range_map_leaf", range_map_leaf),
    ("split_block", split_block),
    ("split_ahead", split_ahead),
    ("collapse_block", collapse_block),
];

/// Times them all, and returns their names.
pub(crate) fn bench(criterion: &mut Criterion) -> Vec<&'static str> {
    for (name, operation) in OPERATIONS {
        criterion.bench_function(name, |bencher| bencher.iter_custom(operation));
    }
    OPERATIONS.map(|(name, _)| name).to_vec()
}

fn write_each(stage: &mut Stage, count: u64) -> Duration {
    time(|| (0..count).for_each(|page| black_box(&mut *stage).fault(address(page), Access::Write)))
}

fn map_4k(count: u64) -> Duration {
    let mut stage = Stage::with_tables(None);
    rounds(count, PAGES, |count| {
        let took = write_each(&mut stage, count);
        stage.unmap(count);
        took
    })
}

fn map_4k_random(count: u64) -> Duration {
    let mut stage = Stage::with_tables(None);
    let addresses: Vec<u64> = shuffled(PAGES).into_iter().map(address).collect();
    rounds(count, PAGES, |count| {
        let now = &addresses[..count as usize];
        let took = time(|| now.iter().for_each(|&at| black_box(&mut stage).fault(at, Access::Write)));
        stage.unmap(PAGES);
        took
    })
}

fn map_4k_logged(count: u64) -> Duration {
    let mut stage = Stage::with_tables(Some(LogMode::Protect));
    rounds(count, PAGES, |count| {
        let took = write_each(&mut stage, count);
        stage.unmap(count);
        stage.harvest();
        took
    })
}

fn spurious(count: u64) -> Duration {
    let mut stage = Stage::with_tables(None);
    stage.map_all();
    rounds(count, PAGES, |count| write_each(&mut stage, count))
}

fn relax_dirty(count: u64) -> Duration {
    let mut stage = Stage::with_tables(Some(LogMode::Protect));
    stage.map_all();
    rounds(count, PAGES, |count| {
        stage.harvest();
        let took = write_each(&mut stage, count);
        stage.map_all();
        took
    })
}

fn protect_leaf(count: u64) -> Duration {
    let mut stage = Stage::with_tables(None);
    rounds(count, BLOCKS * BLOCK / PAGE, |count| {
        stage.map_all();
        time(|| stage.write_protect(range(BASE, count * PAGE)))
    })
}

fn unmap_leaf(count: u64) -> Duration {
    let mut stage = Stage::with_tables(None);
    rounds(count, PAGES, |count| {
        stage.map_all();
        time(|| stage.unmap(count))
    })
}

fn split_block(count: u64) -> Duration {
    let mut stage = Stage::new(Level::new(1), Some(LogMode::Protect));
    rounds(count, SPLITS, |count| {
        for block in 0..SPLITS {
            stage.vcpu.top_up(4).expect("memory");
            stage.fault(BASE + block * BLOCK, Access::Read);
        }
        stage.vcpu.top_up(SPLITS as usize).expect("memory");
        let split = |block| black_box(&mut stage).fault(BASE + block * BLOCK, Access::Write);
        let took = time(|| (0..count).for_each(split));
        stage.unmap_range(range(BASE, SPLITS * BLOCK));
        stage.worker.reclaim(slat::vm::Budget::UNLIMITED);
        took
    })
}

fn split_ahead(count: u64) -> Duration {
    let mut stage = Stage::new(Level::new(1), None);
    rounds(count, BLOCKS, |count| {
        for block in 0..BLOCKS {
            stage.vcpu.top_up(4).expect("memory");
            stage.fault(BASE + block * BLOCK, Access::Write);
        }
        stage.worker.top_up(BLOCKS as usize).expect("memory");
        let mut split = || stage.worker.split(range(BASE, count * BLOCK), Level::PAGE, Budget::UNLIMITED);
        let took = time(|| assert_eq!(split().expect("a good range, and memory").changed, count));
        stage.unmap_range(range(BASE, BLOCKS * BLOCK));
        stage.worker.reclaim(Budget::UNLIMITED);
        took
    })
}

fn lookup(count: u64) -> Duration {
    let mut stage = Stage::with_tables(None);
    stage.map_all();
    rounds(count, PAGES, |count| {
        time(|| (0..count).for_each(|page| _ = black_box(black_box(&mut stage).vcpu.lookup(Gpa::new(address(page))))))
    })
}

fn range_map_leaf(count: u64) -> Duration {
    /// Past what the stage maps: no tables of pages are there.
    const AWAY: u64 = BASE + 2 * BLOCKS * BLOCK;
    let mut stage = Stage::with_tables(None);
    rounds(count, BLOCKS * BLOCK / PAGE, |count| {
        stage.worker.top_up(BLOCKS as usize + 1).expect("memory");
        let took = time(|| stage.prefault(range(AWAY, count * PAGE)));
        stage.unmap_range(range(AWAY, BLOCKS * BLOCK));
        stage.worker.reclaim(Budget::UNLIMITED);
        took
    })
}

fn collapse_block(count: u64) -> Duration {
    let mut stage = Stage::new(Level::new(1), None);
    rounds(count, BLOCKS, |count| {
        stage.worker.top_up(BLOCKS as usize).expect("memory");
        for block in 0..BLOCKS {
            let at = BASE + block * BLOCK;
            stage.vcpu.top_up(4).expect("memory");
            stage.fault(at, Access::Write);
            // A page that goes splits the block; it comes back, and all is as it was but for the table.
            stage.unmap_range(range(at, PAGE));
            stage.fault(at, Access::Write);
        }
        let mut collapse = || stage.worker.collapse(range(BASE, count * BLOCK), Collapse::InPlace, Budget::UNLIMITED);
        let took = time(|| assert_eq!(collapse().expect("a good range").changed, count));
        stage.unmap_range(range(BASE, BLOCKS * BLOCK));
        stage.worker.reclaim(Budget::UNLIMITED);
        took
    })
}
