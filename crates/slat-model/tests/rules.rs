//! `docs/rules.md` says what holds each sentence of the rules: the names in it exist, and nothing that is named after a rule
//! is missing from it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use slat_model::museum::EXHIBITS;
use slat_model::scenario;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// A sentence of a rule: what holds it, and the bugs that break it.
struct Row {
    rule: u8,
    says: String,
    held: String,
    planted: String,
}

/// The rows of the page's tables, under the headings of their rules.
fn rows(page: &str) -> Vec<Row> {
    let mut rule = 0;
    let mut rows = Vec::new();
    for line in page.lines() {
        if let Some(heading) = line.strip_prefix("## ") {
            let number = heading.strip_prefix('R').and_then(|heading| heading.split(' ').next());
            rule = number.and_then(|number| number.parse().ok()).unwrap_or_default();
        }
        let cells: Vec<_> = line.split('|').map(str::trim).collect();
        if let ["", says, held, planted, ""] = cells[..] {
            let is_row = says != "says" && !says.starts_with('-');
            let [says, held, planted] = [says, held, planted].map(str::to_owned);
            rows.extend(is_row.then_some(Row { rule, says, held, planted }));
        }
    }
    rows
}

/// The names of tests, models and exhibits in a cell: words in backquotes with an underscore or a slash and nothing that
/// such names lack.
fn names(cell: &str) -> impl Iterator<Item = &str> {
    let is_name = |word: &&str| {
        let is_plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '_' | '/');
        word.chars().all(is_plain) && word.contains(['_', '/'])
    };
    cell.split('`').skip(1).step_by(2).filter(is_name)
}

/// Every function of the workspace's crates.
fn functions(folder: &Path, found: &mut BTreeSet<String>) {
    for entry in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
        if entry.is_dir() {
            functions(&entry, found);
        } else if entry.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&entry).unwrap();
            let after_fn = text.split("fn ").skip(1);
            found.extend(after_fn.filter_map(|rest| Some(rest.split_once(['(', '<'])?.0.to_owned())));
        }
    }
}

/// Whether something is named after a rule: `r4_…`.
fn is_of_a_rule(name: &str) -> bool {
    let number = name.strip_prefix('r').and_then(|rest| rest.split_once('_')).map(|(number, _)| number);
    number.is_some_and(|number| number.parse::<u8>().is_ok())
}

struct Tree {
    rows: Vec<Row>,
    functions: BTreeSet<String>,
    exhibits: BTreeSet<&'static str>,
    scenarios: BTreeSet<&'static str>,
}

fn tree() -> Tree {
    let page = fs::read_to_string(root().join("docs/rules.md")).unwrap();
    let mut all = BTreeSet::new();
    functions(&root().join("crates"), &mut all);
    Tree {
        rows: rows(&page),
        functions: all,
        exhibits: EXHIBITS.iter().map(|exhibit| exhibit.name).collect(),
        scenarios: scenario::ALL.iter().map(|scenario| scenario.name).collect(),
    }
}

#[test]
fn every_name_on_the_page_is_somebodys() {
    let tree = tree();
    let is_known =
        |name: &&str| tree.functions.contains(*name) || tree.exhibits.contains(name) || tree.scenarios.contains(name);
    let cells = tree.rows.iter().flat_map(|row| [&row.held, &row.planted]);
    let unknown: Vec<_> = cells.flat_map(|cell| names(cell)).filter(|name| !is_known(name)).collect();
    assert!(unknown.is_empty(), "on the page, and nowhere else: {unknown:#?}");
}

#[test]
fn whatever_is_named_after_a_rule_is_on_the_page() {
    let tree = tree();
    let told: BTreeSet<_> = tree.rows.iter().flat_map(|row| names(&row.held).chain(names(&row.planted))).collect();
    let tests = tree.functions.iter().map(String::as_str).filter(|name| is_of_a_rule(name));
    let missing: Vec<_> = tests.chain(tree.exhibits.iter().copied()).filter(|name| !told.contains(name)).collect();
    assert!(missing.is_empty(), "not on the page: {missing:#?}");
}

#[test]
fn every_scenario_is_on_the_page() {
    let tree = tree();
    let told: BTreeSet<_> = tree.rows.iter().flat_map(|row| names(&row.held)).collect();
    let missing: Vec<_> = tree.scenarios.iter().filter(|name| !told.contains(*name)).collect();
    assert!(missing.is_empty(), "not on the page: {missing:#?}");
}

#[test]
fn every_sentence_is_held_and_says_what_breaks_it() {
    let rows = tree().rows;
    let mut rules: BTreeMap<u8, [usize; 2]> = BTreeMap::new();
    for row in &rows {
        assert!(!row.held.is_empty() && !row.planted.is_empty(), "R{}: {}", row.rule, row.says);
        let [sentences, planted] = rules.entry(row.rule).or_default();
        *sentences += 1;
        *planted += usize::from(names(&row.planted).next().is_some());
    }
    assert!(rules.keys().copied().eq(1..=12), "{rules:?}");
    rules.iter().for_each(|(rule, [sentences, planted])| println!("rule|{rule}|{sentences}|{planted}"));
}
