//! What became of the cases.

use std::collections::BTreeMap;

use slat_machine::checker::{Checker, Event, Finding, Verdict, replay};

use crate::blind::Blindness;
use crate::script::{CORES, Script};
use crate::subject::Subject;

/// What the cases came to: how many deserve each verdict, and how many do not.
#[derive(Default)]
pub(crate) struct Tally {
    pub(crate) counts: BTreeMap<Verdict, (usize, usize)>,
    /// What the checker is made blind to, to see that the cases notice; and how many do.
    pub(crate) blindness: Option<Blindness>,
    pub(crate) noticed: usize,
}

impl Tally {
    /// The trace deserves the verdict.
    pub(crate) fn bad<S: Subject>(&mut self, verdict: Verdict, script: Script<S>) {
        let found = self.judged::<S>(&script.trace);
        let wanted = found.iter().any(|finding| finding.verdict == verdict);
        if self.blindness.is_some() {
            self.noticed += usize::from(!wanted);
            return;
        }
        assert!(wanted, "{}: {verdict:?} is deserved, but found was {found:?} in\n{}", S::NAME, text(&script.trace));
        self.counts.entry(verdict).or_default().0 += 1;
    }

    /// The trace deserves no verdict; it is the innocent sister of one that deserves this one.
    pub(crate) fn good<S: Subject>(&mut self, verdict: Verdict, script: Script<S>) {
        let found = self.judged::<S>(&script.trace);
        if self.blindness.is_some() {
            self.noticed += usize::from(!found.is_empty());
            return;
        }
        assert_eq!(found, [], "{}: innocent of {verdict:?}:\n{}", S::NAME, text(&script.trace));
        self.counts.entry(verdict).or_default().1 += 1;
    }

    /// What the checker finds; what both evaluators find, if it is not blind.
    fn judged<S: Subject>(&self, trace: &[Event]) -> Vec<Finding> {
        match self.blindness {
            Some(Blindness { discipline, event, .. }) => {
                let seen: Vec<_> = trace.iter().copied().map(event).collect();
                Checker::judge(discipline(S::discipline(CORES)), &seen)
            }
            None => judged::<S>(trace),
        }
    }

    pub(crate) fn case<S: Subject>(&mut self, verdict: Verdict, is_good: bool, script: Script<S>) {
        if is_good { self.good(verdict, script) } else { self.bad(verdict, script) }
    }
}

fn text(trace: &[Event]) -> String {
    trace.iter().enumerate().map(|(number, event)| format!("{number:4} {event:x?}\n")).collect()
}

/// What both evaluators find: the same.
fn judged<S: Subject>(trace: &[Event]) -> Vec<Finding> {
    let mut online = Checker::judge(S::discipline(CORES), trace);
    online.sort_unstable();
    let replayed = replay::judge(&S::discipline(CORES), trace);
    assert_eq!(online, replayed, "{}: the evaluators differ on\n{}", S::NAME, text(trace));
    online
}
