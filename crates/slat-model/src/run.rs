//! Running a scenario under a tool, with a bug planted or none.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::book::{self, Quiet};
use crate::explored;
use crate::history;
use crate::plant::Plant;
use crate::quarantine;
use crate::tool::{Loom, Search, Shuttle, Tool};

/// One protocol under test: the same body for every tool.
#[derive(Clone, Copy, Debug)]
pub struct Scenario {
    /// Its name: the module's, and what varies.
    pub name: &'static str,
    /// Preemptions that a bounded search of it allows unless it is told otherwise.
    pub preemptions: usize,
    loom: fn(),
    shuttle: fn(),
}

impl Scenario {
    /// A scenario from the two instances of its body.
    pub const fn new(name: &'static str, loom: fn(), shuttle: fn()) -> Self {
        Self { name, preemptions: 2, loom, shuttle }
    }

    /// The scenario, searched with fewer preemptions: three threads that all do much. Or with more: what fewer do not show.
    #[must_use]
    pub const fn with_preemptions(self, preemptions: usize) -> Self {
        Self { preemptions, ..self }
    }

    /// The most preemptions with which a search of it ends within minutes.
    pub fn ceiling(&self) -> usize {
        explored::CEILINGS
            .iter()
            .find(|explored| explored.name == self.name)
            .map_or(self.preemptions, |it| it.preemptions)
    }

    /// The bounded search that tests make of it: with its own number of preemptions, or as many as are asked for, up to its
    /// ceiling.
    pub fn bounded(&self) -> Search {
        Search::bounded(self.preemptions, self.ceiling())
    }

    /// Looks at the interleavings that `search` asks for.
    pub fn run(&self, search: Search, plant: Plant) -> Report {
        self.run_at_most(u64::MAX, search, plant)
    }

    /// As [`run`](Self::run), giving up after so many executions.
    pub fn run_at_most(&self, limit: u64, search: Search, plant: Plant) -> Report {
        match search {
            Search::Bounded(_) => explore::<Loom>(self.loom, search, plant, limit),
            Search::Random(_) | Search::Priorities(_) => explore::<Shuttle>(self.shuttle, search, plant, limit),
        }
    }

    /// Panics, with what happened, if an interleaving goes wrong.
    pub fn holds(&self, search: Search) {
        let report = self.run(search, Plant::Nothing);
        println!("{} under {search:?}: {report}", self.name);
        let explained = history::take_explained();
        println!("explained|{}|{}|{}", self.name, explained.executions, explained.calls);
        if let Some(found) = report.found {
            panic!("{} under {search:?}, execution {}: {found}", self.name, report.executions);
        }
    }

    /// Panics if no interleaving goes wrong although `plant` is planted.
    pub fn catches(&self, plant: Plant, search: Search) {
        let report = self.run(search, plant);
        println!("{} with {plant} under {search:?}: {report}", self.name);
        assert!(report.found.is_some(), "{} does not notice {plant} under {search:?}: {report}", self.name);
    }
}

/// What came of a search.
#[derive(Clone, Debug)]
pub struct Report {
    /// Executions looked at.
    pub executions: u64,
    /// How long that took.
    pub elapsed: Duration,
    /// What was wrong in the last one.
    pub found: Option<String>,
}

impl std::fmt::Display for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} executions in {:.2} s", self.executions, self.elapsed.as_secs_f64())?;
        match &self.found {
            Some(found) => write!(f, ", found: {}", found.lines().next().unwrap_or_default()),
            None => Ok(()),
        }
    }
}

/// How an execution over the limit panics.
const LIMIT: &str = "the limit of executions";

fn explore<T: Tool>(body: fn(), search: Search, plant: Plant, limit: u64) -> Report {
    let _planted = plant.plant();
    let _quiet = Quiet::now(|| {
        Loom::explore(Search::Bounded(0), || ());
        Shuttle::explore(Search::Random(1), || ());
    });
    let executions = Arc::new(AtomicU64::new(0));
    let counter = executions.clone();
    let begun = Instant::now();
    let explored = catch_unwind(AssertUnwindSafe(|| {
        T::explore(search, move || {
            assert!(counter.fetch_add(1, Ordering::Relaxed) < limit, "{LIMIT}");
            execution::<T>(body);
        });
    }));
    match explored {
        Ok(()) => quarantine::release(),
        Err(_) => quarantine::release_after_failure(),
    }
    let found = explored.err().map(|panic| book::message(&*panic)).filter(|found| found != LIMIT);
    Report { executions: executions.load(Ordering::Relaxed), elapsed: begun.elapsed(), found }
}

/// One execution. The scenario runs on a thread of its own, which has the stack for it; this one panics when all others
/// are over, so that nobody is stopped half way.
fn execution<T: Tool>(body: fn()) {
    quarantine::renew();
    book::begin();
    T::begin(move || guarded(body));
    history::end();
    if let Some(verdict) = book::verdict() {
        panic!("{verdict}");
    }
}

/// Runs a thread's body; its panic goes into the book.
fn guarded<R>(body: impl FnOnce() -> R) -> Option<R> {
    let report = |panic: Box<dyn Any + Send>| {
        book::report(format_args!("a panic: {}{}", book::message(&*panic), book::panicked_at()));
    };
    catch_unwind(AssertUnwindSafe(body)).map_err(report).ok()
}

/// A thread of a scenario.
struct Thread<T: Tool, R: Send + 'static>(T::Handle<Option<R>>);

impl<T: Tool, R: Send + 'static> Thread<T, R> {
    fn spawn(body: impl FnOnce() -> R + Send + 'static) -> Self {
        Self(T::spawn(move || guarded(body)))
    }

    /// What it returned; `None` if it panicked, which is in the book.
    fn join(self) -> Option<R> {
        T::join(self.0)
    }
}

/// Runs two threads to their ends. Panics when one has panicked, once both are over.
pub fn both<T: Tool, A, B>(
    one: impl FnOnce() -> A + Send + 'static,
    other: impl FnOnce() -> B + Send + 'static,
) -> (A, B)
where
    A: Send + 'static,
    B: Send + 'static,
{
    let (one, other) = (Thread::<T, A>::spawn(one), Thread::<T, B>::spawn(other));
    let (one, other) = (one.join(), other.join());
    one.zip(other).expect("the panic is in the book")
}

/// Runs three threads to their ends; see [`both`].
pub fn all_three<T: Tool, A, B, C>(
    one: impl FnOnce() -> A + Send + 'static,
    other: impl FnOnce() -> B + Send + 'static,
    third: impl FnOnce() -> C + Send + 'static,
) -> (A, B, C)
where
    A: Send + 'static,
    B: Send + 'static,
    C: Send + 'static,
{
    let (one, other) = (Thread::<T, A>::spawn(one), Thread::<T, B>::spawn(other));
    let third = Thread::<T, C>::spawn(third);
    let (one, other, third) = (one.join(), other.join(), third.join());
    let ((one, other), third) = one.zip(other).zip(third).expect("the panic is in the book");
    (one, other, third)
}
