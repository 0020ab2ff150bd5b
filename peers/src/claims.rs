//! What slat claims to be beside its peers, held against a run.

use serde::Serialize;

use crate::measure::latency;
use crate::measure::pair;
use crate::measure::single::{self, Single};

/// One claim.
#[derive(Serialize)]
pub(crate) struct Claim {
    pub(crate) claim: String,
    pub(crate) measured: f64,
    pub(crate) at_least: Option<f64>,
    pub(crate) at_most: Option<f64>,
    /// Nothing where this machine cannot tell.
    pub(crate) holds: Option<bool>,
}

/// A whole fault costs at most so many bare maps of page_table_multiarch.
const OF_A_BARE_MAP: f64 = 1.5;
/// A whole fault costs at most this part of axaddrspace's.
const OF_A_PEERS_FAULT: f64 = 0.5;
/// Two threads do at least so many times the work of one.
const TWO_THREADS: f64 = 1.9;
/// The worst fault beside a long call takes at most so many microseconds.
const WORST_US: f64 = 1.0;
/// Long faults take at most so many percent of a long call's time more than they do without the call.
const STALLED: f64 = 1.0;

impl Claim {
    fn at_most(claim: impl Into<String>, measured: f64, bound: f64) -> Self {
        Self { claim: claim.into(), measured, at_least: None, at_most: Some(bound), holds: Some(measured <= bound) }
    }

    fn at_least(claim: impl Into<String>, measured: f64, bound: f64) -> Self {
        Self { claim: claim.into(), measured, at_least: Some(bound), at_most: None, holds: Some(measured >= bound) }
    }
}

pub(crate) fn judge(single: &Single, pair: &[pair::Row], latency: &[latency::Row]) -> Vec<Claim> {
    let mut claims = Vec::from(single_thread(single));
    claims.extend(pair.iter().filter(|row| row.who == "slat").map(|row| two_threads(row, pair)));
    claims.extend(latencies(latency));
    claims
}

/// A whole fault beside a bare map can be judged only where a single compare-and-swap is not dearer already.
fn single_thread(single: &Single) -> [Claim; 2] {
    let row = |who, what: Option<&str>| {
        let is = |row: &&single::Row| row.who == who && what.is_none_or(|what| row.what == what);
        single.rows.iter().find(is).map_or(f64::NAN, |row| row.sequential_ns)
    };
    let (ours, bare, fault) =
        (row("slat", Some(single::FAULT)), row("page_table_multiarch", None), row("axaddrspace", None));
    let mut map =
        Claim::at_most("a whole fault of slat, in bare maps of page_table_multiarch", ours / bare, OF_A_BARE_MAP);
    if row("control", Some(single::FLOOR)) / bare > OF_A_BARE_MAP {
        map.holds = map.holds.filter(|holds| *holds);
    }
    [map, Claim::at_most("a whole fault of slat, in faults of axaddrspace", ours / fault, OF_A_PEERS_FAULT)]
}

/// Two threads can be judged only where the machine lets them run beside each other.
fn two_threads(row: &pair::Row, all: &[pair::Row]) -> Claim {
    let control = all.iter().find(|other| other.who == pair::CONTROL && other.layout == row.layout);
    let claim = format!("two threads beside one: {}, {}", row.operation, row.layout.name());
    let mut claim = Claim::at_least(claim, row.speedup, TWO_THREADS);
    if control.is_some_and(|control| control.speedup < TWO_THREADS) {
        claim.holds = claim.holds.filter(|holds| *holds);
    }
    claim
}

/// The worst fault of slat can be judged only where the machine itself does not stop a thread for longer.
fn latencies(rows: &[latency::Row]) -> [Claim; 2] {
    let find = |who| rows.iter().find(|row| row.who == who).expect("a row that is always there");
    let (ours, control) = (find("slat"), find(latency::CONTROL));
    let mut worst = Claim::at_most("the worst fault beside protecting 1 GiB, in microseconds", ours.worst_us, WORST_US);
    if control.worst_us > WORST_US {
        worst.holds = worst.holds.filter(|holds| *holds);
    }
    let stalled = (ours.stalled - control.stalled) * 100.0;
    [worst, Claim::at_most("time in faults of more than 1 us, above the control's, in percent", stalled, STALLED)]
}
