//! CPU time of the thread: what other programs do on a shared machine counts little.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

fn now() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// What `work` takes.
pub(crate) fn time(work: impl FnOnce()) -> Duration {
    let start = now();
    work();
    now() - start
}

/// What `count` operations take if a round holds at most `per_round` of them. `round` sets the stage for so many, and
/// times only them.
pub(crate) fn rounds(count: u64, per_round: u64, mut round: impl FnMut(u64) -> Duration) -> Duration {
    let mut time = Duration::ZERO;
    let mut left = count;
    while left > 0 {
        let now = left.min(per_round);
        time += round(now);
        left -= now;
    }
    time
}

/// The numbers below `count`, each once, in no order.
pub(crate) fn shuffled(count: u64) -> Vec<u64> {
    let mut numbers: Vec<u64> = (0..count).collect();
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    for last in (1..numbers.len()).rev() {
        state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        numbers.swap(last, ((state >> 33) as usize) % (last + 1));
    }
    numbers
}
