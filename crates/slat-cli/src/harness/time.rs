//! Wall-clock time: taken, summed up, printed.

use std::time::{Duration, Instant};

use crate::failure::Failure;

/// Does `work`, and how long it took.
pub(crate) fn timed<T>(work: impl FnOnce() -> Result<T, Failure>) -> Result<(Duration, T), Failure> {
    let begun = Instant::now();
    let result = work()?;
    Ok((begun.elapsed(), result))
}

/// The median of one time over repeats of a run, of which there is at least one.
pub(crate) fn median_of<R>(repeats: &[R], time: impl Fn(&R) -> Duration) -> Duration {
    let mut times: Vec<Duration> = repeats.iter().map(time).collect();
    times.sort_unstable();
    times[times.len() / 2]
}

/// Seconds as KVM's tests print them: nine digits.
pub(crate) fn seconds(time: Duration) -> String {
    format!("{}.{:09}s", time.as_secs(), time.subsec_nanos())
}
