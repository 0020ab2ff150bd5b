//! Building the hypervisor.

use anyhow::{Context, ensure};
use std::path::PathBuf;

use super::{Missing, toolchain};
use crate::tools::{cargo, root, run, target};

/// The table formats that it can be built for: the first unless a feature says otherwise.
pub(super) const FORMATS: [&str; 7] = ["4k", "fwb", "hd", "bbm2", "lpa2", "16k", "64k"];

const MANIFEST: &str = "slat-hv/Cargo.toml";

/// Builds it for pages of 4 KiB; where it is.
pub(super) fn hypervisor() -> anyhow::Result<PathBuf> {
    hypervisor_for("4k")
}

/// Builds it for one of [`FORMATS`]; where it is, until the next one is built.
pub(super) fn hypervisor_for(format: &str) -> anyhow::Result<PathBuf> {
    let target = target_folder();
    let toolchain = toolchain::get()?;
    let mut command = toolchain.cargo(&["build", "--quiet", "--release", "--locked", "--manifest-path", MANIFEST]);
    command.args(["--target", toolchain::TARGET]).arg("--target-dir").arg(&target);
    if format != FORMATS[0] {
        command.args(["--features", format]);
    }
    run(&mut command).context("the hypervisor does not build")?;
    let program = target.join(toolchain::TARGET).join("release/slat-hv");
    ensure!(program.is_file(), "{} was not built", program.display());
    Ok(program)
}

/// Its formatting and its lints, where the toolchain has the tools.
pub(super) fn lint() -> anyhow::Result<()> {
    for component in ["fmt", "clippy"] {
        let there = cargo(&[component, "--version"]).output().is_ok_and(|output| output.status.success());
        if !there {
            return Err(Missing(format!("cargo {component}")).into());
        }
    }
    run(&mut cargo(&["fmt", "--manifest-path", MANIFEST, "--check"]))?;
    let toolchain = toolchain::get()?;
    let mut command = toolchain.cargo(&["clippy", "--quiet", "--release", "--locked", "--manifest-path", MANIFEST]);
    command
        .args(["--target", toolchain::TARGET])
        .arg("--target-dir")
        .arg(target_folder())
        .args(["--", "-D", "warnings"]);
    run(&mut command)
}

/// Where it is built: below the workspace's own target folder.
fn target_folder() -> PathBuf {
    root().join(target()).join("slat-hv")
}
