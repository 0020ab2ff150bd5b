//! `core` and `alloc` for the hypervisor's target, with a stable compiler: whichever way works on this machine.

use anyhow::{Context, bail, ensure};
use std::ffi::OsString;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::apt::{Apt, Source};
use super::{Missing, apt, cache};
use crate::tools::{cargo, output, run};

/// Without floating point: guests' registers stay as they are.
pub(super) const TARGET: &str = "aarch64-unknown-none-softfloat";

/// What to build with.
pub(super) struct Toolchain {
    /// The compiler, if it is not the one that cargo finds.
    rustc: Option<PathBuf>,
    /// Where the target's libraries are, if not with the compiler.
    sysroot: Option<PathBuf>,
    linker: PathBuf,
    version: String,
}

impl fmt::Display for Toolchain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.sysroot {
            Some(sysroot) => write!(f, "rustc {}, {TARGET} in {}", self.version, sysroot.display()),
            None => write!(f, "rustc {}, with {TARGET}", self.version),
        }
    }
}

impl Toolchain {
    /// A cargo command that builds for the target.
    pub(super) fn cargo(&self, arguments: &[&str]) -> Command {
        let mut command = cargo(arguments);
        if let Some(rustc) = &self.rustc {
            command.env("RUSTC", rustc).env("LD_LIBRARY_PATH", libraries_of(rustc));
        }
        let sysroot = self.sysroot.as_ref().map_or(String::new(), |path| format!("--sysroot {} ", path.display()));
        let flags = format!("{sysroot}-Clinker={} -Ctarget-feature=+lse", self.linker.display());
        let variable = format!("CARGO_TARGET_{}_RUSTFLAGS", TARGET.replace('-', "_").to_uppercase());
        command.env(variable, flags).env_remove("RUSTFLAGS").env_remove("CARGO_ENCODED_RUSTFLAGS");
        command
    }
}

/// A compiler, and what it says about itself.
struct Compiler {
    path: Option<PathBuf>,
    /// As in `1.95.0`.
    version: String,
    /// Tells builds of the same version apart.
    commit: String,
    host: String,
    sysroot: PathBuf,
}

impl Compiler {
    fn ask(path: Option<PathBuf>) -> anyhow::Result<Self> {
        let program = path.clone().unwrap_or_else(|| std::env::var_os("RUSTC").unwrap_or("rustc".into()).into());
        let ask = |arguments: &[&str]| {
            let mut command = Command::new(&program);
            if let Some(path) = &path {
                command.env("LD_LIBRARY_PATH", libraries_of(path));
            }
            output(command.args(arguments)).map(|text| String::from_utf8_lossy(&text).into_owned())
        };
        let text = ask(&["-vV"])?;
        let field = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
            line.map(str::to_owned).with_context(|| format!("rustc -vV says no {name}"))
        };
        let sysroot = PathBuf::from(ask(&["--print", "sysroot"])?.trim());
        Ok(Self { version: field("release")?, commit: field("commit-hash")?, host: field("host")?, path, sysroot })
    }

    fn libraries(sysroot: &Path) -> PathBuf {
        sysroot.join("lib/rustlib").join(TARGET).join("lib")
    }

    /// rustup's compilers bring a linker; a distribution's linker will do.
    fn linker(&self) -> anyhow::Result<PathBuf> {
        let own = self.sysroot.join("lib/rustlib").join(&self.host).join("bin/rust-lld");
        if own.is_file() {
            return Ok(own);
        }
        let other = output(Command::new("rustc").args(["--print", "sysroot"])).unwrap_or_default();
        let other = PathBuf::from(String::from_utf8_lossy(&other).trim());
        let other = other.join("lib/rustlib").join(&self.host).join("bin/rust-lld");
        let candidates = [Some(other).filter(|path| path.is_file()), super::packages::find("ld.lld")];
        candidates.into_iter().flatten().next().ok_or_else(|| Missing("rust-lld or ld.lld, to link with".into()).into())
    }

    fn toolchain(self, sysroot: Option<PathBuf>) -> anyhow::Result<Toolchain> {
        Ok(Toolchain { linker: self.linker()?, rustc: self.path, sysroot, version: self.version })
    }
}

/// The folders that a distribution's compiler has its libraries in, as LD_LIBRARY_PATH wants them.
fn libraries_of(rustc: &Path) -> OsString {
    let lib = rustc.parent().and_then(Path::parent).map(|usr| usr.join("lib")).unwrap_or_default();
    let folders = fs::read_dir(&lib).into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path()));
    let multiarch = folders.filter(|folder| folder.to_string_lossy().ends_with("-linux-gnu"));
    std::env::join_paths(multiarch.chain([lib.clone()])).unwrap_or_default()
}

/// Tries one way after the other; what was built once is kept. `SLAT_HV_TOOLCHAIN=distribution` goes straight to the last.
pub(super) fn get() -> anyhow::Result<Toolchain> {
    if std::env::var("SLAT_HV_TOOLCHAIN").is_ok_and(|way| way == "distribution") {
        return distributions_compiler();
    }
    let compiler = Compiler::ask(None)?;
    if has_core(&Compiler::libraries(&compiler.sysroot)) {
        return compiler.toolchain(None);
    }
    let built =
        cache()?.join(format!("sysroot-{}-{}", compiler.version, &compiler.commit[..9.min(compiler.commit.len())]));
    if has_core(&Compiler::libraries(&built)) {
        return compiler.toolchain(Some(built));
    }
    let component = compiler.sysroot.join("lib/rustlib/src/rust/library");
    let mut failures = vec![format!("the compiler has no {TARGET} (`rustup target add {TARGET}` would add it)")];
    let same_version = if component.is_dir() { Ok(component) } else { sources_of(&compiler.version) };
    match same_version.and_then(|library| build(&compiler, &library, &built)) {
        Ok(()) => {
            // Large, and built once.
            let _ = fs::remove_dir_all(source_folder(&compiler.version)?);
            return compiler.toolchain(Some(built));
        }
        Err(error) => failures.push(first_line(&error)),
    }
    match distributions_compiler() {
        Ok(toolchain) => Ok(toolchain),
        Err(error) => {
            failures.push(first_line(&error));
            bail!(Missing(format!("core and alloc for {TARGET}: {}", failures.join("; "))))
        }
    }
}

/// What went wrong, without the command line that it went wrong in.
fn first_line(error: &anyhow::Error) -> String {
    error.to_string().trim_start_matches("missing: ").to_owned()
}

fn has_core(libraries: &Path) -> bool {
    let Ok(files) = fs::read_dir(libraries) else { return false };
    files.filter_map(Result::ok).any(|file| file.file_name().to_string_lossy().starts_with("libcore-"))
}

fn source_folder(version: &str) -> anyhow::Result<PathBuf> {
    Ok(cache()?.join(format!("rust-src-{version}")))
}

/// Debian's `rust-src` of exactly this version, from whichever of its suites has it. A suite keeps a version for a while
/// only.
fn sources_of(version: &str) -> anyhow::Result<PathBuf> {
    const SUITES: [&str; 6] =
        ["stable-backports", "trixie-backports", "bookworm-backports", "forky-backports", "testing", "unstable"];
    let folder = source_folder(version)?;
    let library = folder.join(format!("usr/src/rustc-{version}/library"));
    if library.is_dir() {
        return Ok(library);
    }
    println!("looking for Debian's rust-src {version}");
    let mut wanted: Vec<Source> = Vec::new();
    for source in apt::sources()? {
        let others = SUITES.map(|suite| Source { suite: suite.to_owned(), ..source.clone() });
        for source in [source].into_iter().chain(others) {
            if !wanted.contains(&source) && !source.uri.contains("security") {
                wanted.push(source);
            }
        }
    }
    let apt = Apt::new(&cache()?.join("apt-src"), None, &wanted)?;
    let versions = apt.versions("rust-src")?;
    let matches =
        |candidate: &&String| candidate.strip_prefix(version).is_some_and(|rest| rest.starts_with(['+', '-']));
    let Some(exact) = versions.iter().find(matches) else {
        bail!(Missing(format!("Debian's rust-src {version} (there are: {})", versions.join(", "))));
    };
    apt.unpack(&format!("rust-src={exact}"), &folder)?;
    ensure!(library.is_dir(), "rust-src has no {}", library.display());
    apt.remove()?;
    Ok(library)
}

/// The distribution's own newest compiler (`rustc-web`), unpacked, with its own sources.
fn distributions_compiler() -> anyhow::Result<Toolchain> {
    let folder = cache()?.join("rustc-web");
    let rustc = folder.join("usr/bin/rustc");
    if !rustc.is_file() {
        let sources = apt::sources()?;
        let apt = Apt::new(&cache()?.join("apt-web"), None, &sources)?;
        let unpacked = unpack_compiler(&apt, &folder);
        unpacked.map_err(|error| Missing(format!("Debian's rustc-web: {}", first_line(&error))))?;
        apt.remove()?;
    }
    let compiler = Compiler::ask(Some(rustc))?;
    let built = cache()?.join(format!("sysroot-web-{}", compiler.version));
    if !has_core(&Compiler::libraries(&built)) {
        let library = folder.join(format!("usr/src/rustc-{}/library", compiler.version));
        build(&compiler, &library, &built)?;
    }
    compiler.toolchain(Some(built))
}

/// The compiler's sources, then the compiler with those of its libraries that not every machine has.
fn unpack_compiler(apt: &Apt, folder: &Path) -> anyhow::Result<()> {
    const WITH: [&str; 3] = ["libstd-rust-web", "libllvm", "libz3"];
    apt.unpack("rust-web-src", folder)?;
    let mut wanted = vec!["rustc-web".to_owned()];
    let mut next = 0;
    while let Some(package) = wanted.get(next).cloned() {
        next += 1;
        let dependencies = apt.dependencies(&package)?;
        let own = dependencies.into_iter().filter(|name| WITH.iter().any(|start| name.starts_with(start)));
        own.for_each(|name| wanted.extend((!wanted.contains(&name)).then_some(name)));
    }
    // The compiler itself comes last: it says that all is there.
    wanted.iter().rev().try_for_each(|package| apt.unpack(package, folder))
}

/// Builds `core`, `alloc` and `compiler_builtins` from `library` once, and keeps them in `sysroot`.
fn build(compiler: &Compiler, library: &Path, sysroot: &Path) -> anyhow::Result<()> {
    println!("building core and alloc {} for {TARGET}", compiler.version);
    let seed = cache()?.join(format!("seed-{}", compiler.version));
    let _ = fs::remove_dir_all(&seed);
    fs::create_dir_all(seed.join("src"))?;
    let manifest = "[package]\nname = \"seed\"\nversion = \"0.0.0\"\nedition = \"2024\"\n[workspace]\n";
    fs::write(seed.join("Cargo.toml"), manifest)?;
    fs::write(seed.join("src/lib.rs"), "#![no_std]\n")?;
    let mut command = cargo(&["build", "--quiet", "--release", "-Zbuild-std=core,alloc"]);
    command.args(["-Zbuild-std-features=compiler-builtins-mem", "--target", TARGET]).current_dir(&seed);
    // Bitcode, so that the hypervisor can be optimised as a whole; a lone library would be built without.
    command.env("RUSTFLAGS", "-Cembed-bitcode=yes").env_remove("CARGO_ENCODED_RUSTFLAGS");
    command.env("RUSTC_BOOTSTRAP", "1").env("__CARGO_TESTS_ONLY_SRC_ROOT", library);
    command.env("CARGO_TARGET_DIR", seed.join("target"));
    if let Some(rustc) = &compiler.path {
        command.env("RUSTC", rustc).env("LD_LIBRARY_PATH", libraries_of(rustc));
    }
    run(&mut command).with_context(|| format!("core and alloc of {} cannot be built", library.display()))?;
    let libraries = Compiler::libraries(sysroot);
    fs::create_dir_all(&libraries)?;
    for entry in fs::read_dir(seed.join("target").join(TARGET).join("release/deps"))? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let wanted = ["libcore-", "liballoc-", "libcompiler_builtins-"].iter().any(|start| name.starts_with(start));
        if wanted && name.ends_with(".rlib") {
            fs::copy(&path, libraries.join(&name))?;
        }
    }
    ensure!(has_core(&libraries), "building core brought none");
    let _ = fs::remove_dir_all(&seed);
    Ok(())
}
