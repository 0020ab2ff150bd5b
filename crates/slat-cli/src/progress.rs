//! Progress on standard error, for people: hidden where standard error is no terminal.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::IsTerminal;
use std::time::Duration;

/// One line that says what is going on.
pub(crate) struct Progress(ProgressBar);

impl Progress {
    /// A progress line over `runs` runs.
    pub(crate) fn new(runs: usize, hidden: bool) -> Self {
        let bar = ProgressBar::new(runs as u64);
        if hidden || !std::io::stderr().is_terminal() {
            bar.set_draw_target(ProgressDrawTarget::hidden());
        }
        if let Ok(style) = ProgressStyle::with_template("{spinner} [{elapsed}] run {pos}/{len}: {msg}") {
            bar.set_style(style);
        }
        bar.enable_steady_tick(Duration::from_millis(200));
        Self(bar)
    }

    /// What is being done now.
    pub(crate) fn say(&self, what: impl Into<String>) {
        self.0.set_message(what.into());
    }

    /// A run is over.
    pub(crate) fn next(&self) {
        self.0.inc(1);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
