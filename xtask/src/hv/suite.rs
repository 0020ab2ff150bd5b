//! `cargo xtask hv suite`.

use anyhow::{bail, ensure};
use clap::Args;
use std::path::Path;
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
    /// Formats of the tables, of `4k`, `fwb`, `hd` (hardware keeps the dirty state), `bbm2` (FEAT_BBML2), `lpa2`, `16k` and `64k`; others than the first on 2 vCPUs of `max`
    #[arg(long, value_delimiter = ',', default_value = "4k,fwb,hd,bbm2,lpa2,16k,64k")]
    formats: Vec<String>,
    /// Plant no mistakes
    #[arg(long)]
    no_plants: bool,
}

/// Mistakes in flushing that the emulator shows.
const PLANTS: [&str; 3] = ["no-flush", "no-stage-one", "local-only"];

impl Options {
    pub(super) fn for_tests() -> Self {
        let cpu_models = ["max", "neoverse-n1"].map(str::to_owned).to_vec();
        let formats = build::FORMATS.map(str::to_owned).to_vec();
        Self { cpus: vec![2], cpu_models, only: None, formats, no_plants: false }
    }
}

pub(super) fn run(options: &Options) -> anyhow::Result<()> {
    let only = options.only.as_ref().map_or(String::new(), |only| format!("slat.only={only}"));
    for format in &options.formats {
        ensure!(build::FORMATS.contains(&&**format), "--formats {format}: one of {}", build::FORMATS.join(", "));
        if format == build::FORMATS[0] {
            continue;
        }
        // Blocks of 64 KiB pages are 512 MiB: too large for the machine to have some of.
        let only = if format == "64k" && only.is_empty() { "slat.only=pages" } else { &only };
        passes(&build::hypervisor_for(format)?, format, "max", 2, only)?;
    }
    let hypervisor = build::hypervisor()?;
    for cpu in &options.cpu_models {
        for &vcpus in &options.cpus {
            passes(&hypervisor, build::FORMATS[0], cpu, vcpus, &only)?;
        }
    }
    if options.no_plants {
        return Ok(());
    }
    let vcpus = options.cpus.iter().copied().max().unwrap_or(1).min(2);
    for plant in PLANTS {
        println!("suite: {plant}: has to be seen");
        let arguments = format!("slat.plant={plant} slat.only=invalidate");
        let ran = machine(&hypervisor, "max", vcpus, &arguments)?.run()?;
        if ran.status != 1 || failed(&ran).unwrap_or(0) == 0 {
            bail!("nobody saw {plant}: status {}, {:?}", ran.status, ran.lines.last());
        }
    }
    Ok(())
}

/// Runs the suite, which has to pass.
fn passes(hypervisor: &Path, format: &str, cpu: &str, vcpus: u32, arguments: &str) -> anyhow::Result<()> {
    println!("suite: {format}, {vcpus} vCPUs, {cpu}");
    let ran = machine(hypervisor, cpu, vcpus, arguments)?.run()?;
    ran.succeeded()?;
    ensure!(failed(&ran) == Some(0), "the suite did not say that all passed");
    Ok(())
}

fn machine(hypervisor: &Path, cpu: &str, vcpus: u32, arguments: &str) -> anyhow::Result<Machine> {
    Ok(Machine {
        emulator: packages::emulator()?,
        hypervisor: hypervisor.to_owned(),
        cpu: cpu.to_owned(),
        cpus: vcpus + 1,
        gibibytes: 3,
        loaded: Vec::new(),
        counted: false,
        arguments: format!("slat.mode=suite slat.vcpus={vcpus} {arguments}"),
        limit: Duration::from_secs(240),
        echo: true,
    })
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
        let ran = |line: &str| Ran { lines: vec![line.to_owned()], status: 0, processor: None };
        assert_eq!(failed(&ran("slat-hv: suite: 13 passed, 2 failed")), Some(2));
        assert_eq!(failed(&ran("slat-hv: suite: 2 vCPUs, plant Nothing")), None);
        assert_eq!(failed(&ran("slat-hv: test x ... ok")), None);
    }
}
