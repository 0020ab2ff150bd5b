//! The museum of bugs: each was made by somebody once, or is a sentence of the rules left out; each is planted where the
//! engine stands on something, chosen at run time, and has to be caught.
//!
//! No bug is in the engine's source. What is planted is a lie of its atomics, its format or its host, which makes the
//! engine do what the bug would have done.

mod exhibits;
mod history;

pub use exhibits::EXHIBITS;
pub use history::{HARMLESS, History, history};

use crate::plant::Plant;
use crate::run::{Report, Scenario};
use crate::tool::Search;

/// Executions after which a random search gives up.
const SAMPLES: usize = 20_000;

/// A bug in a scenario.
#[derive(Clone, Copy, Debug)]
pub struct Exhibit {
    /// Its name, by the rule that is broken.
    pub name: &'static str,
    /// Where it shows.
    pub scenario: Scenario,
    /// What is planted.
    pub plant: Plant,
    /// Who has to find it. Orderings are loom's alone: shuttle's atomics are sequentially consistent.
    pub by: By,
    /// How the finding begins, by the property that is broken: one of these.
    pub detectors: &'static [&'static str],
}

/// Who has to find a bug.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum By {
    /// loom: a matter of orderings.
    Loom,
    /// loom, and shuttle's search by priorities: a matter of interleavings that chance alone seldom meets.
    Both,
    /// loom, and both searches of shuttle's.
    All,
}

const fn exhibit(
    name: &'static str,
    scenario: Scenario,
    plant: Plant,
    by: By,
    detectors: &'static [&'static str],
) -> Exhibit {
    Exhibit { name, scenario, plant, by, detectors }
}

impl Exhibit {
    /// All searches, and whether each has to find the bug.
    pub fn searches(&self) -> [(Search, bool); 3] {
        [
            (self.scenario.bounded(), true),
            (Search::Random(SAMPLES), self.by == By::All),
            (Search::Priorities(SAMPLES), self.by != By::Loom),
        ]
    }

    /// The searches that have to find the bug, and what each found.
    pub fn show(&self) -> Vec<(Search, Report)> {
        let required = self.searches().into_iter().filter(|(_, required)| *required);
        required.map(|(search, _)| (search, self.scenario.run(search, self.plant))).collect()
    }

    /// Whether what was found is what the bug breaks.
    pub fn is_caught(&self, report: &Report) -> bool {
        let found = report.found.as_deref().unwrap_or_default();
        self.detectors.iter().any(|detector| found.starts_with(detector))
    }
}
