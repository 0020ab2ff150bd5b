//! All runs that a call asks for, one for each format, number of vCPUs and kind of locking.

use super::setting::Setting;
use crate::failure::Failure;
use crate::locking::Locking;
use crate::progress::Progress;

/// One run among them.
#[derive(Clone, Copy)]
pub(crate) struct Case<'p> {
    pub(crate) format: &'static str,
    pub(crate) vcpus: u32,
    pub(crate) locking: Locking,
    progress: &'p Progress,
}

impl Case<'_> {
    /// Tells who waits what is being done now.
    pub(crate) fn say(&self, phase: &str) {
        let Self { format, vcpus, locking, .. } = self;
        self.progress.say(format!("{format}, vCPUs: {vcpus}, {}: {phase}", locking.name()));
    }
}

/// Makes all runs; where each is repeated, kinds of locking take turns, so that a disturbance hits them alike.
pub(crate) fn all<R: Clone>(
    setting: &Setting,
    quiet: bool,
    run: impl Fn(&Case<'_>) -> Result<R, Failure>,
    median: impl Fn(Vec<R>) -> Option<R>,
) -> Result<Vec<R>, Failure> {
    let sets = setting.formats.len() * setting.vcpus.len() * setting.lockings.len();
    let progress = Progress::new(sets * setting.repeat as usize, quiet);
    let mut medians = Vec::new();
    for &format in &setting.formats {
        for &vcpus in &setting.vcpus {
            let mut repeats = vec![Vec::new(); setting.lockings.len()];
            for _ in 0..setting.repeat {
                for (&locking, runs) in setting.lockings.iter().zip(&mut repeats) {
                    runs.push(run(&Case { format, vcpus, locking, progress: &progress })?);
                    progress.next();
                }
            }
            medians.extend(repeats.into_iter().filter_map(&median));
        }
    }
    Ok(medians)
}
