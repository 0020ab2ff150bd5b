//! slat beside what it replaces, in one process: `slat-peers [--quick] [--json] [--check]`. See README.md.

mod claims;
mod clock;
mod frames;
mod locked;
mod measure;
mod report;
mod subject;

use std::process::ExitCode;

use measure::{Repeats, latency, pair, single};
use report::{Machine, Report};

const USAGE: &str = "slat-peers [--quick] [--json] [--check]

    --quick   few repeats: to try it out
    --json    the report as JSON instead of a table
    --check   fail when a claim does not hold";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.iter().any(|argument| !["--quick", "--json", "--check"].contains(&&**argument)) {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    }
    let given = |option: &str| arguments.iter().any(|argument| argument == option);
    let cpus = clock::two_cpus();
    if cpus[0] == cpus[1] {
        eprintln!("slat-peers needs two cores");
        return ExitCode::from(2);
    }
    let report = measure_all(given("--quick"), cpus);
    if given("--json") {
        report.print_json()
    } else {
        report.print_table()
    }
    if given("--check") && report.claims.iter().any(|claim| claim.holds == Some(false)) {
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

fn measure_all(quick: bool, cpus: [usize; 2]) -> Report {
    frames::prepare();
    let repeats = if quick { Repeats { passes: 3, trials: 5 } } else { Repeats { passes: 15, trials: 41 } };
    let single = single::measure(repeats, cpus[0]);
    let pair = pair::measure(repeats, cpus);
    let latency = latency::measure(repeats, cpus, clock::tick_length());
    let claims = claims::judge(&single, &pair, &latency);
    Report { machine: Machine::of_this_run(repeats), single, pair, latency, claims }
}
