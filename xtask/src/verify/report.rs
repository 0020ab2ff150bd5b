//! What the steps came to.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

/// Everything that the report says.
#[derive(Default, Serialize)]
pub(super) struct Report {
    pub(super) museum: Museum,
    pub(super) conflicts: Conflicts,
    pub(super) checker: Checker,
    pub(super) models: Models,
    pub(super) histories: Counted,
    pub(super) soak: Soak,
    pub(super) allocations: BTreeMap<String, u64>,
    pub(super) fuzz: BTreeMap<String, u64>,
    pub(super) promela: Vec<Promela>,
    pub(super) mutants: Option<Mutants>,
    pub(super) properties: Vec<Property>,
    pub(super) findings: Vec<String>,
    pub(super) steps: Vec<Step>,
    pub(super) skipped: Vec<Skipped>,
}

#[derive(Default, Serialize)]
pub(super) struct Museum {
    /// Different bugs.
    pub(super) bugs: u64,
    /// Exhibits: a bug in a scenario.
    pub(super) planted: u64,
    pub(super) caught: u64,
    pub(super) exhibits: Vec<Exhibit>,
    /// Bugs that something else in the engine makes up for, and what.
    pub(super) harmless: BTreeMap<String, String>,
}

#[derive(Serialize)]
pub(super) struct Exhibit {
    pub(super) name: String,
    pub(super) rule: String,
    pub(super) bug: String,
    pub(super) history: String,
    pub(super) scenario: String,
    pub(super) caught: bool,
    pub(super) found: String,
}

#[derive(Default, Serialize)]
pub(super) struct Conflicts {
    pub(super) commuting_pairs: u64,
    pub(super) conflict_free: u64,
    /// The others, and where in the engine they meet.
    pub(super) exceptions: Vec<String>,
}

#[derive(Default, Serialize)]
pub(super) struct Checker {
    /// For each verdict: the property, traces that deserve it, traces that do not.
    pub(super) verdicts: BTreeMap<String, Verdict>,
    /// Entry formats whose traces were judged.
    pub(super) formats: BTreeSet<String>,
    /// Ways to be blind, and how many cases notice each.
    pub(super) blind: BTreeMap<String, u64>,
    /// Damaged traces that both evaluators were given, and how many they found wrong.
    pub(super) damaged: u64,
    pub(super) damaged_noticed: u64,
}

#[derive(Default, Serialize)]
pub(super) struct Verdict {
    pub(super) property: String,
    pub(super) deserved: u64,
    pub(super) not_deserved: u64,
}

#[derive(Default, Serialize)]
pub(super) struct Models {
    pub(super) scenarios: BTreeSet<String>,
    /// Preemptions, and the scenarios of which every interleaving with so many was looked at.
    pub(super) bounds: BTreeMap<u64, BTreeSet<String>>,
    pub(super) searches: u64,
    pub(super) executions: u64,
    /// Executions whose histories the specification explains, and the calls on pages in them.
    pub(super) explained: u64,
    pub(super) explained_calls: u64,
}

#[derive(Default, Serialize)]
pub(super) struct Counted {
    pub(super) vms: u64,
    pub(super) calls: u64,
}

#[derive(Default, Serialize)]
pub(super) struct Soak {
    pub(super) seconds: u64,
    pub(super) rounds: u64,
    pub(super) events: u64,
    pub(super) findings: u64,
}

#[derive(Serialize)]
pub(super) struct Promela {
    /// A claim, or the bug edited into the model, which has to be found.
    pub(super) what: String,
    pub(super) states: u64,
    pub(super) errors: u64,
}

/// Small changes of the source, and what came of them.
#[derive(Default, Serialize)]
pub(super) struct Mutants {
    pub(super) tried: u64,
    /// By a test that fails.
    pub(super) caught: u64,
    /// By a test that does not end.
    pub(super) timed_out: u64,
    /// They do not compile.
    pub(super) unviable: u64,
    /// Survivors that make no difference, and why.
    pub(super) explained: Vec<(String, String)>,
    pub(super) unexplained: Vec<String>,
    /// Files that have some.
    pub(super) files: BTreeSet<String>,
}

impl std::fmt::Display for Mutants {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { tried, caught, timed_out, unviable, explained, unexplained, files } = self;
        write!(
            f,
            "{tried} tried in {} files: {caught} caught, {timed_out} hung, {unviable} do not compile",
            files.len()
        )?;
        write!(f, ", {} explained, {} unexplained", explained.len(), unexplained.len())
    }
}

/// A property, and how it is shown.
#[derive(Serialize)]
pub(super) struct Property {
    pub(super) id: &'static str,
    pub(super) what: &'static str,
    pub(super) method: &'static str,
    /// Made traces that break it and are reported, and exhibits of the museum that break it and are caught.
    pub(super) cases: u64,
    pub(super) exhibits: u64,
}

#[derive(Serialize)]
pub(super) struct Step {
    pub(super) name: String,
    pub(super) passed: bool,
    pub(super) seconds: u64,
}

#[derive(Serialize)]
pub(super) struct Skipped {
    pub(super) what: String,
    pub(super) why: String,
}

const PROPERTIES: [(&str, &str, &str); 19] = [
    (
        "S1",
        "Map semantics: results and tables are the abstract map's",
        "histories of threads and of models, page by page; fuzzing against the specification",
    ),
    (
        "S2",
        "Guest view: no access through what was taken away",
        "may-TLB in the checker; models' oracle; guests that know what they wrote",
    ),
    ("S3", "Permissions never widen by a race", "checker; models' oracle"),
    ("S4", "Dirty completeness: no write is lost", "checker, by all pages that may have been written; models' oracle"),
    ("S5", "Annotations stay until they are cleared", "checker, by what was declared; models"),
    ("S6", "What is made of several leaves was accessed if one of them was", "checker"),
    ("T1", "Break-before-make, one owner, no blind change", "checker; models' book of entries"),
    ("T2", "Nothing returns, is emptied or made before its flush", "checker; models' book of entries"),
    ("T3", "No flush without cause, none wider than its cause", "checker, where a thread is alone"),
    (
        "M1",
        "No use of a freed table by software",
        "checker, by pointers read and the stay that each was read in; models",
    ),
    ("M2", "None by hardware walkers", "checker, by the may-TLB; models"),
    ("M3", "No leak", "checker; counts after teardown; every allocation refused in turn"),
    ("M4", "What is linked is initialised, and nothing reserved", "checker; loom for orderings"),
    ("M5", "No entry left locked or frozen", "checker"),
    ("L1", "Nobody waits for ever", "models: bounded waits; Promela: a fault under a busy neighbour ends"),
    (
        "L2",
        "What stays mapped is never faulted on, where leaves of two sizes mix",
        "models; a core that looks on at flushes",
    ),
    ("C1", "Operations that commute share no written line", "line tracing, all pairs at five distances"),
    ("R8", "Empty means that nothing is cached (models)", "models' book of entries"),
    ("R11", "Counts return to zero", "models and machine, after teardown"),
];

impl Report {
    /// Takes in one line that a test has printed.
    pub(super) fn take(&mut self, line: &str) {
        let fields: Vec<&str> = line.trim_end().split('|').collect();
        let number = |index: usize| fields.get(index).and_then(|field: &&str| field.parse().ok()).unwrap_or(0);
        match fields[..] {
            ["museum", name, rule, bug, history, scenario, caught, ref found @ ..] => {
                self.museum.planted += 1;
                self.museum.caught += u64::from(caught == "caught");
                self.museum.exhibits.push(Exhibit {
                    name: name.to_owned(),
                    rule: rule.to_owned(),
                    bug: bug.to_owned(),
                    history: history.to_owned(),
                    scenario: scenario.to_owned(),
                    caught: caught == "caught",
                    found: found.join("|"),
                });
            }
            ["planted", ..] => self.museum.bugs = number(1),
            ["harmless", bug, why] => _ = self.museum.harmless.insert(bug.to_owned(), why.to_owned()),
            ["conflicts", ..] => {
                (self.conflicts.commuting_pairs, self.conflicts.conflict_free) = (number(1), number(2));
            }
            ["case", format, verdict, property, ..] => {
                self.checker.formats.insert(format.to_owned());
                let entry = self.checker.verdicts.entry(verdict.to_owned()).or_default();
                entry.property = property.to_owned();
                entry.deserved += number(4);
                entry.not_deserved += number(5);
            }
            ["blind", what, _] => _ = self.checker.blind.insert(what.to_owned(), number(2)),
            ["agree", ..] => {
                self.checker.damaged += number(2);
                self.checker.damaged_noticed += number(3);
            }
            ["histories", ..] => {
                self.histories.vms += number(2);
                self.histories.calls += number(3);
            }
            ["soak", ..] => {
                self.soak = Soak { seconds: number(1), rounds: number(2), events: number(3), findings: number(4) };
            }
            ["promela", what, ..] => {
                self.promela.push(Promela { what: what.to_owned(), states: number(2), errors: number(3) });
            }
            ["explained", ..] => {
                self.models.explained += number(2);
                self.models.explained_calls += number(3);
            }
            ["finding", finding] => self.findings.push(finding.to_owned()),
            ["allocations", what, _] => *self.allocations.entry(what.to_owned()).or_default() += number(2),
            ["fuzz", what, _] => *self.fuzz.entry(what.to_owned()).or_default() += number(2),
            _ => self.take_model(line),
        }
    }

    /// `scenario under search: 123 executions in 0.50 s`.
    fn take_model(&mut self, line: &str) {
        let parts = line.split_once(" under ").and_then(|(scenario, rest)| Some((scenario, rest.split_once(": ")?)));
        let Some((scenario, (search, rest))) = parts else { return };
        let executions = rest.split_once(" executions in ");
        if let Some(executions) = executions.and_then(|(count, _)| count.parse::<u64>().ok()) {
            self.models.scenarios.insert(scenario.to_owned());
            self.models.searches += 1;
            self.models.executions += executions;
            let bound = search.strip_prefix("Bounded(").and_then(|rest| rest.strip_suffix(')')?.parse().ok());
            if let Some(bound) = bound {
                self.models.bounds.entry(bound).or_default().insert(scenario.to_owned());
            }
        }
    }

    /// Fills in what is worked out from the rest.
    pub(super) fn finish(&mut self) {
        self.properties = PROPERTIES
            .iter()
            .map(|&(id, what, method)| Property {
                id,
                what,
                method,
                cases: self.checker.verdicts.values().filter(|v| v.property == id).map(|v| v.deserved).sum(),
                exhibits: self.museum.exhibits.iter().filter(|e| e.caught && is_found_as(&e.found, id)).count() as u64,
            })
            .collect();
    }

    pub(super) fn skip(&mut self, what: &str, why: &str) {
        println!("== {what}\n   SKIPPED: {why}");
        self.skipped.push(Skipped { what: what.to_owned(), why: why.to_owned() });
    }

    pub(super) fn is_good(&self) -> bool {
        let survives_nothing = self.museum.planted > 0 && self.museum.planted == self.museum.caught;
        !self.has_findings() && survives_nothing
    }

    /// Whether a step failed, or something was found that should not be.
    pub(super) fn has_findings(&self) -> bool {
        !self.findings.is_empty() || self.steps.iter().any(|step| !step.passed)
    }

    pub(super) fn summary(&self) -> String {
        let failed: Vec<_> = self.steps.iter().filter(|step| !step.passed).map(|step| step.name.as_str()).collect();
        format!(
            "museum: {} of {} caught; {} of {} commuting pairs free of conflicts; {} events checked; findings: {}; \
             steps failed: {}; skipped: {}",
            self.museum.caught,
            self.museum.planted,
            self.conflicts.conflict_free,
            self.conflicts.commuting_pairs,
            self.soak.events,
            self.findings.len(),
            if failed.is_empty() { "none".to_owned() } else { failed.join(", ") },
            self.skipped.len(),
        )
    }
}

/// Whether one of the searches found the property broken.
fn is_found_as(found: &str, id: &str) -> bool {
    let prefix = format!("{id}:");
    found.split("; ").filter_map(|search| search.split_once(": ")).any(|(_, what)| what.contains(&prefix))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_tests_are_counted() {
        let mut report = Report::default();
        report.take("museum|a|R2|NoFlush|somebody|cut|caught|Bounded(2) after 3: S2: taken");
        report.take("museum|b|R2|NoFlush|somebody|cut|SURVIVED|Bounded(2) after 3: nothing");
        report.take("conflicts|10|9");
        report.take("case|arm64|BreakBeforeMake|T1|5|3");
        report.take("case|ept|BreakBeforeMake|T1|2|1");
        report.take("explained|unlink_walk/cut|120|960");
        report.take("unlink_walk/cut under Bounded(2): 120 executions in 0.10 s");
        report.take("unlink_walk/cut under Random(30): 30 executions in 0.01 s");
        report.take("test result: ok. 3 passed");
        report.finish();
        assert_eq!((report.museum.planted, report.museum.caught), (2, 1));
        assert_eq!((report.conflicts.commuting_pairs, report.conflicts.conflict_free), (10, 9));
        assert_eq!(report.checker.verdicts["BreakBeforeMake"].deserved, 7);
        assert_eq!((report.models.searches, report.models.executions), (2, 150));
        assert_eq!(report.models.bounds, BTreeMap::from([(2, BTreeSet::from(["unlink_walk/cut".to_owned()]))]));
        assert_eq!((report.models.explained, report.models.explained_calls), (120, 960));
        assert_eq!(report.checker.formats.len(), 2);
        let of = |id| report.properties.iter().find(|property| property.id == id).map(|p| (p.cases, p.exhibits));
        assert_eq!((of("T1"), of("S2")), (Some((7, 0)), Some((0, 1))));
        assert!(!report.is_good(), "one survives");
    }
}
