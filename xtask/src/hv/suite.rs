//! `cargo xtask hv suite`.

use anyhow::{bail, ensure};
use clap::Args;
use std::time::Duration;

use super::machine::{Machine, Ran};
use super::{build, packages};

/// What is run of the suite.
#[derive(Args)]
pub(crate) struct Options {
    /// vCPUs, one run each
    #[arg(long, value_delimiter = ',', default_value = "1,2,4,8")]
    cpus: Vec<u32>,
    /// Models of CPUs that the emulator knows: `max` has range operations and level hints, `neoverse-n1` has neither
    #[arg(long, value_delimiter = ',', default_value = "max,neoverse-n1")]
    cpu_models: Vec<String>,
    /// Tests with this in their names only
    #[arg(long)]
    only: Option<String>,
    /// Plant no mistakes
    #[arg(long)]
    no_plants: bool,
}

/// Mistakes in flushing that the emulator shows.
const PLANTS: [&str; 3] = ["no-flush", "no-stage-one", "local-only"];

impl Options {
    pub(super) fn for_tests() -> Self {
        let cpu_models = ["max", "neoverse-n1"].map(str::to_owned).to_vec();
        Self { cpus: vec![2], cpu_models, only: None, no_plants: false }
    }
}

pub(super) fn run(options: &Options) -> anyhow::Result<()> {
    let (emulator, hypervisor) = (packages::emulator()?, build::hypervisor()?);
    let machine = |cpu: &str, vcpus: u32, arguments: String| Machine {
        emulator: emulator.clone(),
        hypervisor: hypervisor.clone(),
        cpu: cpu.to_owned(),
        cpus: vcpus + 1,
        gibibytes: 3,
        loaded: Vec::new(),
        counted: false,
        arguments: format!("slat.mode=suite slat.vcpus={vcpus} {arguments}"),
        limit: Duration::from_secs(240),
        echo: true,
    };
    let only = options.only.as_ref().map_or(String::new(), |only| format!("slat.only={only}"));
    for cpu in &options.cpu_models {
        for &vcpus in &options.cpus {
            println!("suite: {vcpus} vCPUs, {cpu}");
            let ran = machine(cpu, vcpus, only.clone()).run()?;
            ran.succeeded()?;
            ensure!(failed(&ran) == Some(0), "the suite did not say that all passed");
        }
    }
    if options.no_plants {
        return Ok(());
    }
    let vcpus = options.cpus.iter().copied().max().unwrap_or(1).min(2);
    for plant in PLANTS {
        println!("suite: {plant}: has to be seen");
        let ran = machine("max", vcpus, format!("slat.plant={plant} slat.only=invalidate")).run()?;
        if ran.status != 1 || failed(&ran).unwrap_or(0) == 0 {
            bail!("nobody saw {plant}: status {}, {:?}", ran.status, ran.lines.last());
        }
    }
    Ok(())
}

/// How many tests failed, by the suite's last line.
fn failed(ran: &Ran) -> Option<u32> {
    let rest = ran.lines.iter().rev().find_map(|line| line.strip_prefix("slat-hv: suite: "))?;
    let (passed, failed) = rest.split_once(" passed, ")?;
    passed.parse::<u32>().ok()?;
    failed.strip_suffix(" failed")?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_line_is_read() {
        let ran = |line: &str| Ran { lines: vec![line.to_owned()], status: 0 };
        assert_eq!(failed(&ran("slat-hv: suite: 13 passed, 2 failed")), Some(2));
        assert_eq!(failed(&ran("slat-hv: suite: 2 vCPUs, plant Nothing")), None);
        assert_eq!(failed(&ran("slat-hv: test x ... ok")), None);
    }
}
