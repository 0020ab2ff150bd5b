//! Bugs planted in what the engine stands on: each is found by who has to, for what it breaks, or the scenarios prove nothing.
//!
//! `cargo test --profile checked -p slat-model --test museum -- --nocapture` prints the matrix.

use std::collections::BTreeSet;

use slat_model::museum::{EXHIBITS, Exhibit, HARMLESS, history};
use slat_model::plant;

/// Shows every exhibit whose number leaves this rest; fails when one survives.
fn show(rest: usize, of: usize) {
    let survivors: Vec<_> = EXHIBITS.iter().skip(rest).step_by(of).filter(|exhibit| !is_caught(exhibit)).collect();
    let names: Vec<_> = survivors.iter().map(|exhibit| exhibit.name).collect();
    assert!(survivors.is_empty(), "these survive: {names:?}");
}

fn is_caught(exhibit: &Exhibit) -> bool {
    let reports = exhibit.show();
    let is_caught = reports.iter().all(|(_, report)| exhibit.is_caught(report));
    let (history, scenario) = (history(exhibit.plant), exhibit.scenario.name);
    let found: Vec<_> = reports
        .iter()
        .map(|(search, report)| {
            let found = report.found.as_deref().unwrap_or("nothing").lines().next().unwrap_or_default();
            format!("{search:?} after {}: {found}", report.executions)
        })
        .collect();
    println!(
        "museum|{}|{}|{}|{}|{scenario}|{}|{}",
        exhibit.name,
        history.rule,
        exhibit.plant,
        history.text,
        if is_caught { "caught" } else { "SURVIVED" },
        found.join("; ")
    );
    is_caught
}

#[test]
fn a_first_half_is_caught() {
    show(0, 2);
}

#[test]
fn the_other_half_is_caught() {
    show(1, 2);
}

#[test]
fn every_bug_is_exhibited() {
    let shown: BTreeSet<_> = EXHIBITS.iter().map(|exhibit| exhibit.plant.to_string()).collect();
    let all: BTreeSet<_> = plant::ALL.iter().map(ToString::to_string).collect();
    let harmless: BTreeSet<_> = HARMLESS.iter().map(|(plant, _)| plant.to_string()).collect();
    HARMLESS.iter().for_each(|(plant, why)| println!("harmless|{plant}|{why}"));
    let missing: Vec<_> = all.difference(&shown).filter(|plant| !harmless.contains(*plant)).collect();
    println!("planted|{}|{}", shown.len(), EXHIBITS.len());
    assert!(shown.len() >= 35, "{} bugs", shown.len());
    assert!(missing.is_empty(), "planted, and in no exhibit: {missing:?}");
}
