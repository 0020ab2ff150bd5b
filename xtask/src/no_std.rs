//! The proof that the engine needs no `std`: `proofs/no-std`, a static library with its own panic handler.

use anyhow::{Context, ensure};
use object::read::archive::ArchiveFile;
use object::{Object, ObjectSymbol};
use std::collections::BTreeSet;
use std::process::Command;

use crate::tools::{cargo, root, run};

/// What any Rust code may need of its surroundings: memory functions, and the compiler's own helpers.
const ALLOWED: [&str; 6] = ["memcpy", "memmove", "memset", "memcmp", "bcmp", "strlen"];

const CALLER: &str = "int slat_no_std_run(void);\nint main(void) { return slat_no_std_run(); }\n";

/// Builds the library, looks at its undefined symbols, links it into a program without Rust's `std`, and runs that.
pub(crate) fn check() -> anyhow::Result<()> {
    let target = root().join("proofs/no-std/target");
    let mut build =
        cargo(&["build", "--quiet", "--release", "--locked", "--manifest-path", "proofs/no-std/Cargo.toml"]);
    run(build.arg("--target-dir").arg(&target))?;
    let built = target.join("release");
    let library = built.join("libslat_no_std.a");
    let foreign = foreign_symbols(&std::fs::read(&library).with_context(|| format!("{}", library.display()))?)?;
    ensure!(foreign.is_empty(), "the engine needs symbols from outside: {foreign:?}");

    let (source, program) = (built.join("caller.c"), built.join("caller"));
    std::fs::write(&source, CALLER)?;
    run(Command::new("cc").arg(&source).arg(&library).arg("-o").arg(&program))?;
    run(&mut Command::new(&program)).context("the engine without std did not do what it should")
}

/// Symbols that no member of the archive defines, and that are not allowed.
fn foreign_symbols(archive: &[u8]) -> anyhow::Result<BTreeSet<String>> {
    let (mut wanted, mut defined) = (BTreeSet::new(), BTreeSet::new());
    for member in ArchiveFile::parse(archive)?.members() {
        let data = member?.data(archive)?;
        let Ok(file) = object::File::parse(data) else { continue };
        for symbol in file.symbols() {
            let name = symbol.name()?.to_owned();
            if symbol.is_undefined() {
                wanted.insert(name)
            } else {
                defined.insert(name)
            };
        }
    }
    Ok(wanted.into_iter().filter(|name| !defined.contains(name) && !is_allowed(name)).collect())
}

/// The compiler's helpers are in the library itself where the target has none; `_GLOBAL_OFFSET_TABLE_` is the linker's.
fn is_allowed(name: &str) -> bool {
    name.is_empty() || ALLOWED.contains(&name) || name == "_GLOBAL_OFFSET_TABLE_" || name.starts_with("__compilerrt")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn symbols_of_the_surroundings_are_told_from_std() {
        assert!(is_allowed("memcpy") && is_allowed("_GLOBAL_OFFSET_TABLE_"));
        for name in ["malloc", "pthread_mutex_lock", "_ZN3std2io5stdio6_print17h0123E", "_Unwind_Resume", "abort"] {
            assert!(!is_allowed(name), "{name}");
        }
    }
}
