//! Times of slat's operations, nanoseconds of the thread's CPU time each: `cargo bench -p slat-bench`. With `-- --keep`
//! the medians go to `times.json`, beside those that were kept before.

mod clock;
mod kept;
mod operations;
mod slots;

use std::path::{Path, PathBuf};
use std::time::Duration;

use criterion::Criterion;

fn main() {
    let keep = std::env::args().any(|argument| argument == "--keep");
    let results = results();
    let criterion = Criterion::default()
        .without_plots()
        .output_directory(&results)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2));
    // Criterion would refuse the option, and nothing but everything is kept.
    let mut criterion = if keep { criterion } else { criterion.configure_from_args() };
    let mut names = operations::bench(&mut criterion);
    names.extend(slots::bench(&mut criterion));
    criterion.final_summary();
    if keep {
        kept::keep(&results, &names);
    }
}

fn results() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("times")
}
