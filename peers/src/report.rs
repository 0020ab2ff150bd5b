//! A run's figures, for people and for programs.

use serde::Serialize;

use crate::claims::Claim;
use crate::measure::single::{self, Single};
use crate::measure::{Repeats, latency, pair};

/// Everything that one run measured.
#[derive(Serialize)]
pub(crate) struct Report {
    pub(crate) machine: Machine,
    pub(crate) single: Single,
    pub(crate) pair: Vec<pair::Row>,
    pub(crate) latency: Vec<latency::Row>,
    pub(crate) claims: Vec<Claim>,
}

/// Where and how it was measured, without names.
#[derive(Serialize)]
pub(crate) struct Machine {
    processor: String,
    cpus: usize,
    virtualized: bool,
    system: String,
    compiler: &'static str,
    passes: usize,
    trials: usize,
}

impl Machine {
    pub(crate) fn of_this_run(repeats: Repeats) -> Self {
        let read = |path| std::fs::read_to_string(path).unwrap_or_default();
        let info = read("/proc/cpuinfo");
        let field = |name: &str| {
            let line = info.lines().find(|line| line.starts_with(name))?;
            line.split_once(':').map(|(_, value)| value.trim().to_owned())
        };
        let release = read("/proc/sys/kernel/osrelease");
        let version: Vec<&str> = release.trim().split(['.', '-']).take(2).collect();
        Self {
            processor: field("model name").unwrap_or_else(|| "unknown".to_owned()),
            cpus: std::thread::available_parallelism().map_or(1, usize::from),
            virtualized: field("flags").is_some_and(|flags| flags.split(' ').any(|flag| flag == "hypervisor")),
            system: format!("Linux {}", version.join(".")),
            compiler: env!("SLAT_PEERS_RUSTC"),
            passes: repeats.passes,
            trials: repeats.trials,
        }
    }
}

impl pair::Layout {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Halves => "halves",
            Self::Interleaved => "interleaved",
        }
    }
}

impl Report {
    pub(crate) fn print_json(&self) {
        println!("{}", serde_json::to_string_pretty(self).expect("plain values"));
    }

    pub(crate) fn print_table(&self) {
        let Machine { processor, cpus, system, compiler, .. } = &self.machine;
        println!("{processor}, {cpus} CPUs, {system}, {compiler}");
        self.print_single();
        self.print_pair();
        self.print_latency();
        println!("\nClaims");
        for Claim { claim, measured, at_least, at_most, holds } in &self.claims {
            let bound = match (at_least, at_most) {
                (Some(bound), _) => format!("at least {bound}"),
                (_, bound) => format!("at most {}", bound.unwrap_or(f64::NAN)),
            };
            let holds = match holds {
                Some(true) => "holds",
                Some(false) => "FAILS",
                None => "cannot be told here",
            };
            println!("  {claim:66} {measured:7.2}   {bound:14} {holds}");
        }
    }

    fn print_single(&self) {
        println!(
            "\nOne thread, mapping 1 GiB page by page, ns of CPU time a page        sequential   random  quietest  discarded"
        );
        for row in &self.single.rows {
            let who = format!("{} ({})", row.who, row.what);
            let single::Row { sequential_ns, random_ns, quietest_ns, discarded, .. } = row;
            println!("  {who:66} {sequential_ns:9.2} {random_ns:8.2} {quietest_ns:9.2} {discarded:10}");
        }
        let zeroing = self.single.zeroing_a_table_ns;
        println!(
            "  of which zeroing tables, for everybody: {zeroing:.0} a table of 512 pages, {:.2} a page",
            zeroing / 512.0
        );
    }

    fn print_pair(&self) {
        println!(
            "\nTwo threads beside one, wall ns a page                                one      two  speedup  quietest  discarded"
        );
        for row in &self.pair {
            let what = format!("{}: {}, {}", row.who, row.operation, row.layout.name());
            let pair::Row { one_ns, two_ns, speedup, quietest_speedup, discarded, .. } = row;
            println!("  {what:64} {one_ns:7.2} {two_ns:8.2} {speedup:8.2} {quietest_speedup:9.2} {discarded:10}");
        }
    }

    fn print_latency(&self) {
        println!(
            "\nFaults while another thread protects 1 GiB      call us   faults   median ns    worst us  discarded"
        );
        for row in &self.latency {
            let latency::Row { who, call_us, faults, median_ns, worst_us, stalled, discarded } = row;
            println!(
                "  {who:44} {call_us:8.0} {faults:8.0} {median_ns:11.1} {worst_us:11.2} {:6.1} % {discarded:10}",
                stalled * 100.0
            );
        }
    }
}
