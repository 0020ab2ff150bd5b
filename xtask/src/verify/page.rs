//! The report as a page.

use maud::{DOCTYPE, Markup, html};

use super::report::{Exhibit, Report};

const STYLE: &str = "body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:72rem;padding:0 1rem;color:#222}\
 table{border-collapse:collapse;margin:.5rem 0 1.5rem;font-size:13px}td,th{border-bottom:1px solid #ddd;padding:.25rem .6rem;\
 text-align:left;vertical-align:top}th{background:#f6f6f6}.good{color:#176117}.bad{color:#a11;font-weight:bold}\
 .skipped{color:#8a5a00}h2{margin-top:2rem}code{font-size:12px}";

/// The whole page.
pub(super) fn render(report: &Report) -> String {
    html! {
        (DOCTYPE)
        html lang="en" {
            head { meta charset="utf-8"; title { "slat: verification" } style { (maud::PreEscaped(STYLE)) } }
            body {
                h1 { "slat: verification" }
                p class=(if report.is_good() { "good" } else { "bad" }) { (report.summary()) }
                (findings(report))
                (properties(report))
                (rules(report))
                (museum(report))
                (conflicts(report))
                (checker(report))
                (counts(report))
                (steps(report))
            }
        }
    }
    .into_string()
}

fn findings(report: &Report) -> Markup {
    html! {
        h2 { "Findings" }
        @if report.findings.is_empty() { p class="good" { "None." } }
        ul { @for finding in &report.findings { li class="bad" { (finding) } } }
    }
}

fn properties(report: &Report) -> Markup {
    html! {
        h2 { "Properties" }
        table {
            tr { th { "id" } th { "property" } th { "how it is shown" } th { "made traces" } th { "bugs caught by it" } }
            @for property in &report.properties {
                tr {
                    td { (property.id) } td { (property.what) } td { (property.method) }
                    td { (property.cases) } td { (property.exhibits) }
                }
            }
        }
    }
}

fn rules(report: &Report) -> Markup {
    html! {
        h2 { "Rules" }
        p { "docs/rules.md has them sentence by sentence, with the tests, models and planted bugs of each." }
        table {
            tr { th { "rule" } th { "sentences, all held by tests" } th { "of them broken by planted bugs" } }
            @for (number, rule) in &report.rules { tr { td { "R" (number) } td { (rule.sentences) } td { (rule.planted) } } }
        }
    }
}

fn museum(report: &Report) -> Markup {
    let row = |exhibit: &Exhibit| {
        html! {
            tr {
                td { (exhibit.rule) } td { code { (exhibit.bug) } } td { (exhibit.history) } td { (exhibit.scenario) }
                td class=(if exhibit.caught { "good" } else { "bad" }) {
                    (if exhibit.caught { "caught" } else { "SURVIVED" })
                }
                td { (exhibit.found) }
            }
        }
    };
    html! {
        h2 { "The museum: " (report.museum.caught) " of " (report.museum.planted) " exhibits of " (report.museum.bugs) " bugs caught" }
        table {
            tr { th { "rule" } th { "bug" } th { "history" } th { "scenario" } th {} th { "found by, and as" } }
            @for exhibit in &report.museum.exhibits { (row(exhibit)) }
        }
        h3 { "Planted, and harmless" }
        table { @for (bug, why) in &report.museum.harmless { tr { td { code { (bug) } } td { (why) } } } }
    }
}

fn conflicts(report: &Report) -> Markup {
    let conflicts = &report.conflicts;
    html! {
        h2 { "Conflicts: " (conflicts.conflict_free) " of " (conflicts.commuting_pairs) " commuting pairs write no line in common" }
        p { "The others, and the files of the engine where they meet. An entry's line holds its seven neighbours; a shard's \
             word is for operations that are no faults; a summary bit is written once a region and harvest." }
        table { @for exception in &conflicts.exceptions { tr { td { (exception) } } } }
    }
}

fn checker(report: &Report) -> Markup {
    let checker = &report.checker;
    html! {
        h2 { "The checker" }
        p { "Both evaluators were given " (checker.damaged) " damaged traces of the engine and agreed on all; they found "
            (checker.damaged_noticed) " of them wrong." }
        table {
            tr { th { "verdict" } th { "property" } th { "traces that deserve it" } th { "traces that do not" } }
            @for (name, verdict) in &checker.verdicts {
                tr { td { (name) } td { (verdict.property) } td { (verdict.deserved) } td { (verdict.not_deserved) } }
            }
        }
        h3 { "Blind checkers" }
        table {
            tr { th { "blind in that" } th { "cases that notice" } }
            @for (what, noticed) in &checker.blind { tr { td { (what) } td { (noticed) } } }
        }
    }
}

fn counts(report: &Report) -> Markup {
    html! {
        h2 { "Counts" }
        table {
            tr { td { "models" } td { (report.models.scenarios.len()) " scenarios, " (report.models.searches) " searches, "
                (report.models.executions) " executions, " (report.models.explained) " of them explained by the specification ("
                (report.models.explained_calls) " calls on pages)" } }
            @for (preemptions, scenarios) in &report.models.bounds {
                tr { td { "models" } td { "every interleaving with " (preemptions) " preemptions: " (scenarios.len()) " scenarios"
                    details { summary { "which" } @for scenario in scenarios { (scenario) " " } } } }
            }
            tr { td { "entry formats" } td { (report.checker.formats.len()) ": "
                (report.checker.formats.iter().map(String::as_str).collect::<Vec<_>>().join(", ")) } }
            tr { td { "histories explained" } td { (report.histories.vms) " VMs, " (report.histories.calls) " calls on pages" } }
            tr { td { "random operations" } td { (report.soak.seconds / 60) " minutes, " (report.soak.rounds) " VMs, "
                (report.soak.events) " events checked, " (report.soak.findings) " findings" } }
            @for (what, refused) in &report.allocations { tr { td { "allocations refused" } td { (what) ": " (refused) } } }
            @for (what, cases) in &report.fuzz { tr { td { "by chance" } td { (what) ": " (cases) " cases" } } }
            @for check in &report.promela {
                tr { td { "Promela" } td { (check.what) ": " (check.states) " states, " (check.errors) " errors" } }
            }
            @if let Some(mutants) = &report.mutants {
                tr { td { "mutants of the source" } td { (mutants)
                    ul { @for (survivor, why) in &mutants.explained { li { code { (survivor) } " " (why) } } } } }
            }
        }
    }
}

fn steps(report: &Report) -> Markup {
    html! {
        h2 { "Steps" }
        table {
            @for step in &report.steps {
                tr { td { (step.name) }
                    td class=(if step.passed { "good" } else { "bad" }) { (if step.passed { "ok" } else { "FAILED" }) }
                    td { (step.seconds) " s" } }
            }
            @for skipped in &report.skipped {
                tr { td { (skipped.what) } td class="skipped" { "skipped" } td { (skipped.why) } }
            }
        }
    }
}
