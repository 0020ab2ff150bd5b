//! `cargo xtask hv`: sets up, builds and runs the bare-metal hypervisor.

mod apt;
mod build;
mod cpio;
mod dirty_log;
mod guest;
mod linux;
mod machine;
mod packages;
mod suite;
mod toolchain;

use anyhow::{Context, bail};
use clap::Subcommand;
use std::fmt;
use std::path::PathBuf;
use std::process::ExitCode;

/// What can be done with the hypervisor.
#[derive(Subcommand)]
pub(crate) enum Command {
    /// Gets everything that the others need, and says what it gets
    Setup,
    /// Runs the suite that checks itself, and sees that it sees planted mistakes
    Suite(suite::Options),
    /// Boots Debian's Linux, its memory logged, collapsed and moved while a workload runs
    Linux(linux::Options),
    /// Times the dirty log, as KVM's dirty_log_perf_test does; counts instructions
    DirtyLog(dirty_log::Options),
}

/// Something that has to be on this machine and is not, and could not be got.
#[derive(Debug)]
pub(crate) struct Missing(pub(crate) String);

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "missing: {}", self.0)
    }
}

impl std::error::Error for Missing {}

/// Whether what was asked for was done.
pub(crate) enum Done {
    Yes,
    /// It was not, for want of this.
    Skipped(String),
}

/// Runs a command from the shell. What is missing is a failure in CI, and a loud skip elsewhere.
pub(crate) fn run(command: &Command) -> anyhow::Result<ExitCode> {
    let done = or_skip(|| match command {
        Command::Setup => setup(),
        Command::Suite(options) => suite::run(options),
        Command::Linux(options) => linux::run(options),
        Command::DirtyLog(options) => dirty_log::run(options),
    })?;
    if let Done::Skipped(what) = done {
        println!("SKIPPED: {what}");
    }
    Ok(ExitCode::SUCCESS)
}

/// Does `work`; what is missing on this machine is no error outside of CI.
fn or_skip(work: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<Done> {
    match work() {
        Ok(()) => Ok(Done::Yes),
        Err(error) => match error.downcast_ref::<Missing>() {
            Some(missing) if !in_ci() => Ok(Done::Skipped(missing.0.clone())),
            _ => Err(error),
        },
    }
}

fn in_ci() -> bool {
    std::env::var_os("CI").is_some_and(|value| value == "true")
}

/// The hypervisor's own formatting and lints.
pub(crate) fn check_lints() -> anyhow::Result<Done> {
    or_skip(build::lint)
}

/// What `cargo xtask test` runs of the suite: on two vCPUs, on a CPU with range operations and on one without, and with
/// each mistake planted.
pub(crate) fn check_suite() -> anyhow::Result<Done> {
    or_skip(|| suite::run(&suite::Options::for_tests()))
}

/// What `cargo xtask test` runs of Linux: two vCPUs, by pages and by blocks.
pub(crate) fn check_linux() -> anyhow::Result<Done> {
    or_skip(|| linux::run(&linux::Options::for_tests()))
}

/// What `cargo xtask test` measures: instructions, which do not depend on the machine.
pub(crate) fn check_instructions() -> anyhow::Result<Done> {
    or_skip(dirty_log::check_instructions)
}

fn setup() -> anyhow::Result<()> {
    let emulator = packages::emulator()?;
    println!("emulator: {}", emulator.display());
    println!("toolchain: {}", toolchain::get()?);
    println!("hypervisor: {}", build::hypervisor()?.display());
    let guest = guest::get()?;
    println!("guest: {}, {}", guest.kernel.display(), guest.disk.display());
    Ok(())
}

/// Where things are kept that were got or built: `$XDG_CACHE_HOME/slat-hv`, or `~/.cache/slat-hv`.
fn cache() -> anyhow::Result<PathBuf> {
    let base = std::env::var_os("XDG_CACHE_HOME").filter(|value| !value.is_empty()).map(PathBuf::from);
    let base = base.or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache")));
    let Some(base) = base else { bail!(Missing("neither XDG_CACHE_HOME nor HOME is set".to_owned())) };
    let path = base.join("slat-hv");
    std::fs::create_dir_all(&path).with_context(|| path.display().to_string())?;
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_skipped_and_what_fails_is_not() {
        let skipped = or_skip(|| bail!(Missing("a kernel".to_owned())));
        match in_ci() {
            true => assert!(skipped.is_err()),
            false => assert!(matches!(skipped, Ok(Done::Skipped(what)) if what == "a kernel")),
        }
        assert!(or_skip(|| bail!("broken")).is_err());
        assert!(matches!(or_skip(|| Ok(())), Ok(Done::Yes)));
    }
}
