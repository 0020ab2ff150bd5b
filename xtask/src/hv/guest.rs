//! Linux, and what it runs: Debian's kernel and busybox for arm64.

use anyhow::{Context, bail, ensure};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::apt::{self, Apt};
use super::cpio::Archive;
use super::{Missing, cache};
use crate::tools::output;

/// What the guest is booted with.
pub(super) struct Guest {
    pub(super) kernel: PathBuf,
    pub(super) disk: PathBuf,
}

/// What the guest's first process does.
const WORKLOAD: &str = include_str!("workload.sh");

/// Debian's metapackage of the kernel for virtual machines.
const KERNEL: &str = "linux-image-cloud-arm64";
const BUSYBOX: &str = "busybox-static";

/// Gets both, once. `SLAT_HV_KERNEL` and `SLAT_HV_BUSYBOX` name files to take instead.
pub(super) fn get() -> anyhow::Result<Guest> {
    let own = |name: &str| std::env::var_os(name).map(PathBuf::from);
    let folder = cache()?.join("guest");
    let (kernel, busybox) = match (own("SLAT_HV_KERNEL"), own("SLAT_HV_BUSYBOX")) {
        (Some(kernel), Some(busybox)) => (kernel, busybox),
        _ => {
            let both = (folder.join("vmlinuz"), folder.join("busybox"));
            if !both.0.is_file() || !both.1.is_file() {
                download(&folder).map_err(as_missing)?;
            }
            both
        }
    };
    let made = cache()?.join("images");
    fs::create_dir_all(&made)?;
    let guest = Guest { kernel: made.join("Image"), disk: made.join("disk.cpio") };
    fs::write(&guest.kernel, raw_image(&kernel)?)?;
    fs::write(&guest.disk, disk(&fs::read(&busybox).with_context(|| busybox.display().to_string())?))?;
    Ok(guest)
}

fn as_missing(error: anyhow::Error) -> anyhow::Error {
    if error.is::<Missing>() {
        return error;
    }
    Missing(format!(
        "an arm64 Linux: {error:#}; or set SLAT_HV_KERNEL and SLAT_HV_BUSYBOX to a kernel image and a static busybox"
    ))
    .into()
}

fn download(folder: &Path) -> anyhow::Result<()> {
    println!("looking for Debian's {KERNEL}");
    let apt = Apt::new(&cache()?.join("apt-arm64"), Some("arm64"), &apt::sources()?)?;
    let images = apt.dependencies(KERNEL)?;
    let Some(image) = images.iter().find(|name| name.starts_with("linux-image-")) else {
        bail!("{KERNEL} names no kernel");
    };
    let unpacked = apt.folder().join("unpacked");
    apt.unpack(BUSYBOX, &unpacked)?;
    apt.unpack(image, &unpacked)?;
    // Debian 13 and later have /usr/bin only.
    let busybox =
        ["bin/busybox", "usr/bin/busybox"].map(|name| unpacked.join(name)).into_iter().find(|path| path.is_file());
    fs::create_dir_all(folder)?;
    fs::copy(busybox.with_context(|| format!("{BUSYBOX} has no busybox"))?, folder.join("busybox"))?;
    fs::copy(kernel_in(&unpacked).with_context(|| format!("{image} has no boot/vmlinuz"))?, folder.join("vmlinuz"))?;
    apt.remove()
}

fn kernel_in(folder: &Path) -> Option<PathBuf> {
    let files = fs::read_dir(folder.join("boot")).ok()?;
    let kernel = |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("vmlinuz"));
    files.filter_map(|entry| Some(entry.ok()?.path())).find(kernel)
}

/// The kernel as the boot protocol for arm64 wants it: not compressed.
fn raw_image(path: &Path) -> anyhow::Result<Vec<u8>> {
    let bytes = fs::read(path).with_context(|| path.display().to_string())?;
    let bytes = match bytes.starts_with(&[0x1f, 0x8b]) {
        true => output(Command::new("gzip").args(["--decompress", "--stdout"]).arg(path))?,
        false => bytes,
    };
    ensure!(bytes.get(56..60) == Some(b"ARM\x64"), "{} is no raw arm64 kernel image", path.display());
    Ok(bytes)
}

fn disk(busybox: &[u8]) -> Vec<u8> {
    let mut archive = Archive::default();
    ["bin", "dev", "proc", "sys", "tmp"].into_iter().for_each(|name| archive.folder(name));
    archive.program("bin/busybox", busybox);
    archive.program("init", WORKLOAD.as_bytes());
    archive.finish()
}
