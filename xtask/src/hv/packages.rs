//! What has to be installed: the emulator.

use anyhow::bail;
use std::path::PathBuf;
use std::process::Command;

use super::Missing;
use crate::tools::output;

const EMULATOR: &str = "qemu-system-aarch64";
const PACKAGE: &str = "qemu-system-arm";

/// The emulator; installs the distribution's if there is none and that is allowed.
pub(super) fn emulator() -> anyhow::Result<PathBuf> {
    if let Some(path) = find(EMULATOR) {
        return Ok(path);
    }
    let missing = |why: &str| Missing(format!("{EMULATOR} ({why}): install the package {PACKAGE}"));
    if find("apt-get").is_none() {
        bail!(missing("this machine has no apt-get to get it with"));
    }
    let Some(prefix) = privileges() else { bail!(missing("not root, and sudo asks for a password")) };
    println!("installing the package {PACKAGE} with apt-get");
    let apt = |arguments: &[&str]| {
        let mut words = prefix.iter().copied().chain(["env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "--quiet"]);
        let mut command = Command::new(words.next().unwrap_or("env"));
        command.args(words).args(arguments);
        command
    };
    let updated = output(&mut apt(&["update"]));
    if let Err(error) = output(&mut apt(&["install", "--yes", "--no-install-recommends", PACKAGE])) {
        let hint = if updated.is_err() { "no network?" } else { "see above" };
        bail!(missing(&format!("apt-get failed, {hint}: {error:#}")));
    }
    find(EMULATOR).ok_or_else(|| missing("apt-get has installed something else").into())
}

/// What to say before a command that needs root: nothing, `sudo`, or that there is no way.
fn privileges() -> Option<&'static [&'static str]> {
    let succeeds = |program: &str, arguments: &[&str]| {
        let output = Command::new(program).args(arguments).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    if succeeds("id", &["-u"])? == "0" {
        return Some(&[]);
    }
    succeeds("sudo", &["-n", "true"]).map(|_| &["sudo", "-n"][..])
}

/// A program on the path.
pub(super) fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join(program)).find(|file| file.is_file())
}
