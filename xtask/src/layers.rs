//! The house, checked: imports against the floors, atomics and `unsafe` outside of their rooms, files that are too long.

use anyhow::{Context, bail};
use proc_macro2::{TokenStream, TokenTree};
use quote::ToTokens;
use std::path::{Path, PathBuf};
use syn::Item;

use crate::tools::root;

/// The floors of the engine's modules (DESIGN: the house). A module uses its own floor and those below.
const FLOORS: [(&str, u8); 9] = [
    ("addr", 0),
    ("host", 0),
    ("sync", 0),
    ("format", 1),
    ("table", 2),
    ("reclaim", 2),
    ("tlb", 2),
    ("space", 3),
    ("vm", 4),
];

/// Modules of the engine that may say `unsafe`.
const UNSAFE: [&str; 3] = ["table", "reclaim", "host"];

/// Files and folders of the hypervisor that may say `unsafe`: they touch the machine. What is done with it may not.
const UNSAFE_HV: [&str; 17] = [
    "boot",
    "clock",
    "console",
    "cpu",
    "firmware",
    "frames",
    "heap",
    "interrupts",
    "linux",
    "lock",
    "machine",
    "memory",
    "mmu",
    "payload",
    "team",
    "vcpu",
    "vectors",
];

/// The module of `slat-arch` that may: the instructions themselves.
const UNSAFE_ARCH: &str = "instructions";

/// Which of our crates a crate may use.
const CRATES: [(&str, &[&str]); 9] = [
    ("slat", &[]),
    ("slat-arch", &["slat"]),
    ("slat-spec", &["slat"]),
    ("slat-machine", &["slat", "slat-spec"]),
    ("slat-model", &["slat", "slat-spec"]),
    ("slat-bench", &["slat"]),
    ("slat-cli", &["slat", "slat-machine"]),
    ("slat-hv", &["slat", "slat-arch"]),
    ("xtask", &[]),
];

/// Most lines of a file, tests apart.
const LINES: usize = 600;

/// Checks everything; the error lists every violation.
pub(crate) fn check() -> anyhow::Result<()> {
    let mut found = crate_violations()?;
    for path in sources()? {
        let text = std::fs::read_to_string(&path)?;
        let name = path.strip_prefix(root())?.to_string_lossy().replace('\\', "/");
        found.extend(file_violations(&name, &text).with_context(|| name.clone())?);
    }
    if found.is_empty() {
        println!("the house stands: {} modules on their floors", FLOORS.len());
        return Ok(());
    }
    bail!("{} violations:\n  {}", found.len(), found.join("\n  "))
}

/// All source files of our crates, tests of the `tests` folders apart.
fn sources() -> anyhow::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for folder in ["crates", "slat-hv/src", "xtask"] {
        for entry in walkdir::WalkDir::new(root().join(folder)) {
            let path = entry?.into_path();
            let is_source = path.extension().is_some_and(|ending| ending == "rs");
            if is_source && path.components().any(|part| part.as_os_str() == "src") {
                files.push(path);
            }
        }
    }
    Ok(files)
}

fn crate_violations() -> anyhow::Result<Vec<String>> {
    let mut packages = cargo_metadata::MetadataCommand::new().current_dir(root()).no_deps().exec()?.packages;
    // The hypervisor is a workspace of its own.
    let own = cargo_metadata::MetadataCommand::new().current_dir(root().join("slat-hv")).no_deps().exec()?;
    packages.extend(own.packages);
    let ours: Vec<String> = packages.iter().map(|package| package.name.to_string()).collect();
    let mut found = Vec::new();
    for package in &packages {
        let name = package.name.to_string();
        let used = package.dependencies.iter().filter(|dependency| ours.contains(&dependency.name));
        for dependency in used {
            let allowed = CRATES
                .iter()
                .find(|(known, _)| *known == name)
                .is_some_and(|(_, allowed)| allowed.contains(&dependency.name.as_str()));
            if !allowed {
                found.push(format!("{name}: may not use {}", dependency.name));
            }
        }
    }
    Ok(found)
}

/// What is wrong with one file, named by its path from the root.
fn file_violations(name: &str, text: &str) -> anyhow::Result<Vec<String>> {
    let mut file = syn::parse_file(text)?;
    let is_test_file = Path::new(name).file_stem().is_some_and(|stem| stem == "tests");
    let test_lines: usize = file.items.iter().filter(|item| is_test(item)).map(lines).sum();
    let mut found = Vec::new();
    let length = text.lines().count() - test_lines;
    if length > LINES && !is_test_file {
        found.push(format!("{name}: {length} lines, tests apart; at most {LINES}"));
    }
    if is_test_file {
        return Ok(found);
    }
    file.items.retain(|item| !is_test(item));
    let words = words(file.into_token_stream());
    if let Some(module) = name.strip_prefix("crates/slat/src/").and_then(module_of) {
        found.extend(engine_violations(name, module, &words));
    } else if name.starts_with("crates/slat-machine/src/") {
        found.extend(machine_violations(name, &words));
    } else if let Some(module) = name.strip_prefix("slat-hv/src/").and_then(module_of) {
        found.extend(unsafe_violations(name, &words, &UNSAFE_HV, UNSAFE_HV.contains(&module)));
    } else if name.starts_with("crates/slat-arch/src/") {
        let allowed = Path::new(name).file_stem().is_some_and(|stem| stem == UNSAFE_ARCH);
        found.extend(unsafe_violations(name, &words, &[UNSAFE_ARCH], allowed));
    }
    Ok(found)
}

/// The top module that a file of the engine belongs to; `lib.rs` is the house itself.
fn module_of(path: &str) -> Option<&str> {
    let module = path.split('/').next()?.trim_end_matches(".rs");
    (module != "lib").then_some(module)
}

fn engine_violations(name: &str, module: &str, words: &[Word]) -> Vec<String> {
    let floor_of = |module: &str| FLOORS.iter().find(|(known, _)| *known == module).map(|(_, floor)| *floor);
    let Some(floor) = floor_of(module) else { return vec![format!("{name}: {module} is on no floor")] };
    let mut found = Vec::new();
    for (line, used) in after_path(words, "crate") {
        if floor_of(&used).is_some_and(|used| used > floor) {
            found.push(format!("{name}:{line}: floor {floor} ({module}) uses {used}, which is above it"));
        }
    }
    for word in words {
        let line = word.line;
        if is_atomic(&word.text) && module != "sync" {
            found.push(format!("{name}:{line}: names {}; only sync does", word.text));
        }
    }
    found.extend(unsafe_violations(name, words, &UNSAFE, UNSAFE.contains(&module)));
    found
}

fn unsafe_violations(name: &str, words: &[Word], rooms: &[&str], allowed: bool) -> Vec<String> {
    let found = words.iter().filter(|word| word.text == "unsafe" && !allowed);
    found.map(|word| format!("{name}:{}: unsafe, outside of {rooms:?}", word.line)).collect()
}

/// The machine is the independent reading of the manuals: of the engine's formats it may know the trait only.
fn machine_violations(name: &str, words: &[Word]) -> Vec<String> {
    after_path(words, "format")
        .filter(|(_, used)| used != "Format" && used.starts_with(char::is_uppercase))
        .map(|(line, used)| format!("{name}:{line}: uses slat::format::{used}; the machine reads the manual itself"))
        .collect()
}

fn is_atomic(word: &str) -> bool {
    let rest = word.strip_prefix("Atomic").unwrap_or_default();
    rest.starts_with(['U', 'I']) || rest == "Bool" || rest == "Ptr"
}

/// What follows `name::`, also in braces: `crate::a`, `crate::{a::b, c}`.
fn after_path<'w>(words: &'w [Word], name: &'w str) -> impl Iterator<Item = (usize, String)> + 'w {
    words.iter().enumerate().filter(move |(_, word)| word.text == name).flat_map(move |(index, _)| {
        let rest = &words[index + 1..];
        let is_path = rest.len() > 2 && rest[0].text == ":" && rest[1].text == ":";
        let mut firsts = Vec::new();
        if is_path && rest[2].text != "{" {
            firsts.push((rest[2].line, rest[2].text.clone()));
        } else if is_path {
            firsts.extend(firsts_in_braces(&rest[3..]));
        }
        firsts
    })
}

/// The first word of each part of `{a::b, c}`, the opening brace apart.
fn firsts_in_braces(words: &[Word]) -> Vec<(usize, String)> {
    let (mut depth, mut firsts, mut is_first) = (0, Vec::new(), true);
    for word in words {
        match word.text.as_str() {
            "{" => depth += 1,
            "}" if depth == 0 => break,
            "}" => depth -= 1,
            "," if depth == 0 => {
                is_first = true;
                continue;
            }
            _ if is_first => firsts.push((word.line, word.text.clone())),
            _ => {}
        }
        is_first = false;
    }
    firsts
}

/// One token, flattened out of its groups.
struct Word {
    text: String,
    line: usize,
}

fn words(tokens: TokenStream) -> Vec<Word> {
    let mut flat = Vec::new();
    flatten(tokens, &mut flat);
    flat
}

fn flatten(tokens: TokenStream, into: &mut Vec<Word>) {
    for token in tokens {
        let line = token.span().start().line;
        let mut push = |text: &str| into.push(Word { text: text.to_owned(), line });
        match token {
            TokenTree::Group(group) => {
                let braces = group.delimiter() == proc_macro2::Delimiter::Brace;
                push(if braces { "{" } else { "(" });
                flatten(group.stream(), into);
                into.push(Word { text: if braces { "}" } else { ")" }.to_owned(), line });
            }
            other => push(&other.to_string()),
        }
    }
}

fn is_test(item: &Item) -> bool {
    let attributes = match item {
        Item::Mod(item) => &item.attrs,
        Item::Fn(item) => &item.attrs,
        Item::Use(item) => &item.attrs,
        Item::Impl(item) => &item.attrs,
        _ => return false,
    };
    attributes.iter().any(|attribute| attribute.to_token_stream().to_string().replace(' ', "") == "#[cfg(test)]")
}

fn lines(item: &Item) -> usize {
    let mut lines = words(item.to_token_stream()).into_iter().map(|word| word.line).collect::<Vec<_>>();
    lines.sort_unstable();
    match (lines.first(), lines.last()) {
        (Some(first), Some(last)) => last - first + 1,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn violations(name: &str, text: &str) -> Vec<String> {
        file_violations(name, text).unwrap()
    }

    #[test]
    fn the_house_stands() {
        check().unwrap();
    }

    #[test]
    fn an_import_against_the_floors_is_found_with_its_line() {
        let found = violations("crates/slat/src/format/x.rs", "use crate::addr::Gpa;\nuse crate::vm::Vm;\n");
        assert_eq!(found.len(), 1);
        assert!(found[0].starts_with("crates/slat/src/format/x.rs:2: floor 1 (format) uses vm"), "{found:?}");
        let braces = "use crate::{addr::{Gpa, Hpa}, space::Visit};";
        assert_eq!(violations("crates/slat/src/table/x.rs", braces).len(), 1);
        let inline = "fn f(x: crate::vm::Vm) {}";
        assert_eq!(violations("crates/slat/src/tlb/x.rs", inline).len(), 1);
        assert_eq!(violations("crates/slat/src/vm/x.rs", "use crate::space::Visit;"), Vec::<String>::new());
    }

    #[test]
    fn atomics_and_unsafe_outside_of_their_rooms_are_found() {
        let atomic = "use core::sync::atomic::AtomicU64;";
        assert_eq!(violations("crates/slat/src/vm/x.rs", atomic).len(), 1);
        assert_eq!(violations("crates/slat/src/sync.rs", atomic).len(), 0);
        let block = "fn f() { unsafe { g() } }";
        assert_eq!(violations("crates/slat/src/space/x.rs", block).len(), 1);
        assert_eq!(violations("crates/slat/src/reclaim/x.rs", block).len(), 0);
        let in_tests = "#[cfg(test)] mod tests { fn f() { unsafe { g() } } }";
        assert_eq!(violations("crates/slat/src/space/x.rs", in_tests).len(), 0);
    }

    #[test]
    fn the_hypervisor_and_the_instructions_have_rooms_for_unsafe_too() {
        let block = "fn f() { unsafe { g() } }";
        assert_eq!(violations("slat-hv/src/suite/x.rs", block).len(), 1);
        assert_eq!(violations("slat-hv/src/memory/x.rs", block).len(), 0);
        assert_eq!(violations("crates/slat-arch/src/aarch64/tlbi.rs", block).len(), 1);
        assert_eq!(violations("crates/slat-arch/src/aarch64/instructions.rs", block).len(), 0);
    }

    #[test]
    fn the_machine_may_not_use_the_engines_formats() {
        let own = "use slat::format::Format;";
        assert_eq!(violations("crates/slat-machine/src/x.rs", own).len(), 0);
        let borrowed = "use slat::format::{Arm64, Format};";
        assert_eq!(violations("crates/slat-machine/src/x.rs", borrowed).len(), 1);
    }

    #[test]
    fn long_files_are_found_and_tests_do_not_count() {
        let long = "fn f() {}\n".repeat(601);
        assert_eq!(violations("crates/slat-cli/src/x.rs", &long).len(), 1);
        let tests = format!("#[cfg(test)]\nmod tests {{\n{}}}\n", "fn f() {}\n".repeat(700));
        assert_eq!(violations("crates/slat-cli/src/x.rs", &tests).len(), 0);
    }
}
