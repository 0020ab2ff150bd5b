//! The two evaluators on traces of the engine, as they were recorded and with something done to them: they agree.

use slat::addr::{GpaRange, Level};
use slat::host::{Flush, Hint};
use slat_machine::checker::{Checker, Event, Finding, How, replay};

use crate::files::keep;
use crate::play::{Dice, Play};
use crate::subject::{Subject, test_every_subject};
use crate::traced::{VCPUS, round};

/// Events of a trace that are looked at.
fn most<S: Subject>() -> usize {
    if S::is_thorough() { 40_000 } else { 10_000 }
}

/// What may be done to a trace.
const DAMAGES: [fn(&mut Vec<Event>, usize) -> bool; 7] =
    [drop_event, swap_neighbours, forget_completion, name_another_level, flush_half, store_instead, exchange_instead];

fn drop_event(trace: &mut Vec<Event>, at: usize) -> bool {
    let is_fair = matches!(trace[at], Event::FlushBegun { .. } | Event::FlushDone { .. } | Event::Copied(_));
    is_fair && {
        trace.remove(at);
        true
    }
}

fn swap_neighbours(trace: &mut Vec<Event>, at: usize) -> bool {
    let writes = |event: &Event| matches!(event, Event::Wrote { .. });
    let flushes = |event: &Event| matches!(event, Event::FlushBegun { .. } | Event::FlushDone { .. });
    let is_fair = at > 0 && writes(&trace[at - 1]) && flushes(&trace[at]);
    if is_fair {
        trace.swap(at - 1, at);
    }
    is_fair
}

fn forget_completion(trace: &mut Vec<Event>, at: usize) -> bool {
    match &mut trace[at] {
        Event::FlushBegun { cores, .. } => {
            *cores &= 1;
            true
        }
        _ => false,
    }
}

fn name_another_level(trace: &mut Vec<Event>, at: usize) -> bool {
    match &mut trace[at] {
        Event::FlushBegun { flush: Flush::Leaves { level, .. }, .. } => {
            *level =
                if *level == Hint::Level(Level::PAGE) { Hint::Level(Level::new(1)) } else { Hint::Level(Level::PAGE) };
            true
        }
        Event::FlushBegun { flush, .. } => match *flush {
            Flush::Tables { range } => {
                *flush = Flush::Leaves { range, level: Hint::Unknown };
                true
            }
            _ => false,
        },
        _ => false,
    }
}

fn flush_half(trace: &mut Vec<Event>, at: usize) -> bool {
    match &mut trace[at] {
        Event::FlushBegun { flush: Flush::Leaves { range, .. } | Flush::Tables { range }, .. } => {
            let half = (range.len() / 2) & !0xfff;
            *range = GpaRange::with_len(range.start(), half).unwrap();
            true
        }
        _ => false,
    }
}

fn store_instead(trace: &mut Vec<Event>, at: usize) -> bool {
    how_instead(trace, at, How::Store)
}

fn exchange_instead(trace: &mut Vec<Event>, at: usize) -> bool {
    how_instead(trace, at, How::Exchange)
}

fn how_instead(trace: &mut [Event], at: usize, instead: How) -> bool {
    match &mut trace[at] {
        Event::Wrote { how, .. } if *how == How::Swap => {
            *how = instead;
            true
        }
        _ => false,
    }
}

/// What both find first; whom they blame for what follows from it is not compared.
fn agree<S: Subject>(trace: &[Event], what: &str) -> usize {
    let mut online = Checker::judge(S::discipline(VCPUS), trace);
    online.sort_unstable();
    let replayed = replay::judge(&S::discipline(VCPUS), trace);
    let first = |found: &[Finding]| found.first().map_or(usize::MAX, |found| found.event);
    let end = first(&online).min(first(&replayed));
    let count = online.len();
    let online: Vec<_> = online.into_iter().filter(|found| found.event <= end).collect();
    let replayed: Vec<_> = replayed.into_iter().filter(|found| found.event <= end).collect();
    if online != replayed {
        let only = |one: &[Finding], other: &[Finding]| one.iter().copied().find(|found| !other.contains(found));
        let first = [only(&online, &replayed), only(&replayed, &online)].into_iter().flatten().min().unwrap();
        let mut checker = Checker::new(S::discipline(VCPUS));
        trace[..first.event].iter().for_each(|event| checker.step(event));
        let path = keep::<S>("differ", trace);
        let whose = if online.contains(&first) { "online" } else { "replay" };
        let owed = checker.owed();
        panic!("{} {what}: {first}, {whose} only; owed: {owed:x?}{path}", S::NAME);
    }
    count
}

fn both_evaluators_agree<S: Subject>() {
    let (mut damaged, mut noticed) = (0, 0);
    for (seed, play) in (0..).zip(Play::all::<S>()) {
        let mut trace = round::<S>(play, seed, 3).trace;
        trace.truncate(most::<S>());
        assert_eq!(agree::<S>(&trace, &format!("{play:?}")), 0);
        let mut dice = Dice(seed);
        for (number, damage) in DAMAGES.into_iter().enumerate() {
            let mut copy = trace.clone();
            let at = (0..1000).map(|_| dice.below(trace.len() as u64) as usize);
            if at.into_iter().any(|at| damage(&mut copy, at)) {
                damaged += 1;
                noticed += usize::from(agree::<S>(&copy, &format!("{play:?}, damaged by {number}")) > 0);
            }
        }
    }
    println!("agree|{}|{damaged}|{noticed}", S::NAME);
    assert!(2 * noticed > damaged, "of {damaged} damaged traces {noticed} were noticed");
}

test_every_subject!(on_traces_whole_and_damaged: both_evaluators_agree);
