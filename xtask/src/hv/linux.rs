//! `cargo xtask hv linux`.

use anyhow::{Context, ensure};
use clap::Args;
use std::time::Duration;

use super::machine::{Machine, Ran};
use super::{build, guest, packages};

/// How Linux is booted.
#[derive(Args)]
pub(crate) struct Options {
    /// vCPUs, one run each
    #[arg(long, value_delimiter = ',', default_value = "1,2,4")]
    cpus: Vec<u32>,
    /// Sizes of mappings: `4k`, `2m`
    #[arg(long, value_delimiter = ',', default_value = "4k,2m")]
    pages: Vec<String>,
    /// How long the workload runs
    #[arg(long, default_value_t = 5)]
    seconds: u32,
    /// The CPU's model; others than the default are slower, or need `max,pauth-impdef=on` not to be
    #[arg(long, default_value = "neoverse-n1")]
    cpu_model: String,
    /// Let the kernel say what it does
    #[arg(long)]
    verbose: bool,
}

/// Where the loader puts what is booted.
const KERNEL: u64 = 0x4400_0000;
const DISK: u64 = 0x4800_0000;
const LOADED_END: u64 = 0x5000_0000;

impl Options {
    pub(super) fn for_tests() -> Self {
        let (pages, cpu_model) = (["4k", "2m"].map(str::to_owned).to_vec(), "neoverse-n1".to_owned());
        Self { cpus: vec![2], pages, seconds: 4, cpu_model, verbose: false }
    }
}

pub(super) fn run(options: &Options) -> anyhow::Result<()> {
    let (emulator, hypervisor, guest) = (packages::emulator()?, build::hypervisor()?, guest::get()?);
    let size = |path: &std::path::Path| path.metadata().map(|data| data.len()).context("an image");
    let (kernel, disk) = (size(&guest.kernel)?, size(&guest.disk)?);
    ensure!(KERNEL + kernel <= DISK && DISK + disk <= LOADED_END, "kernel or RAM disk is too large");
    for &vcpus in &options.cpus {
        for pages in &options.pages {
            println!("linux: {vcpus} vCPUs, {pages} mappings");
            let quiet = if options.verbose { "loglevel=7" } else { "quiet" };
            let ours = format!(
                "slat.mode=linux slat.vcpus={vcpus} slat.pages={pages} slat.kernel={KERNEL:#x},{kernel:#x} \
                 slat.initrd={DISK:#x},{disk:#x}"
            );
            // The guest's memory begins where the machine's does, so the RAM disk is where the loader puts it.
            let theirs = format!(
                "mem=512M nr_cpus={vcpus} initrd={DISK:#x},{disk:#x} console=ttyAMA0 panic=-1 {quiet} workload={}",
                options.seconds
            );
            let machine = Machine {
                emulator: emulator.clone(),
                hypervisor: hypervisor.clone(),
                cpu: options.cpu_model.clone(),
                cpus: vcpus + 1,
                gibibytes: 2,
                loaded: vec![(guest.kernel.clone(), KERNEL), (guest.disk.clone(), DISK)],
                counted: false,
                arguments: format!("{ours} {theirs}"),
                limit: Duration::from_secs(u64::from(options.seconds) + 180),
                echo: true,
            };
            check(&machine.run()?, vcpus, pages)?;
        }
    }
    Ok(())
}

/// The guest's own word, and that what was to happen to its memory did.
fn check(ran: &Ran, vcpus: u32, pages: &str) -> anyhow::Result<()> {
    ran.succeeded()?;
    let wrong = ran.lines.iter().find(|line| line.contains("WRONG"));
    ensure!(wrong.is_none(), "the guest saw something wrong: {wrong:?}");
    let said = ran.after("workload: ").unwrap_or_default();
    ensure!(said.starts_with(&format!("{vcpus} CPUs")), "the guest has other CPUs: {said}");
    ensure!(ran.lines.iter().any(|line| line.ends_with("workload: done")), "the workload was not done");
    let rounds = ran.lines.iter().filter(|line| line.contains("workload: worker")).count();
    ensure!(rounds == vcpus as usize, "{rounds} of {vcpus} workers came to their ends");
    let harvests = ran.after("dirty pages per harvest [").and_then(|rest| rest.split_once(']')).map(|(list, _)| list);
    let harvests: Vec<u64> = harvests.unwrap_or_default().split(", ").filter_map(|word| word.parse().ok()).collect();
    ensure!(harvests.len() >= 3, "only {} harvests", harvests.len());
    ensure!(harvests.iter().all(|&pages| pages > 0), "a harvest of a busy guest brought nothing: {harvests:?}");
    ensure!(number(ran, "units moved ")? > 0, "no memory was moved");
    if pages == "2m" {
        ensure!(
            number(ran, "splits ")? > number(ran, "ahead of writes ")? && number(ran, "tables collapsed ")? > 0,
            "nothing was split by a write, or collapsed"
        );
        ensure!(number(ran, "ahead of writes ")? > 0, "nothing was split ahead of writes");
    }
    Ok(())
}

/// The number that follows `start`.
fn number(ran: &Ran, start: &str) -> anyhow::Result<u64> {
    let rest = ran.after(start).with_context(|| format!("the hypervisor did not say {start}"))?;
    let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().with_context(|| format!("{start}{rest}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ran(change: impl Fn(&str) -> String) -> Ran {
        let text = "workload: 1 CPUs, Linux\nworkload: worker 0 made 3 rounds\n[  1.0] x workload: done\n\
                    slat-hv: linux: dirty pages per harvest [10, 20, 30], logging on 1 times\n\
                    slat-hv: linux: splits 3, ahead of writes 1, tables collapsed 2\nslat-hv: linux: units moved 5 of 4 KiB";
        Ran { lines: text.lines().map(change).collect(), status: 0, processor: None }
    }

    #[test]
    fn a_run_is_judged_by_what_it_says() {
        assert!(check(&ran(str::to_owned), 1, "2m").is_ok());
        assert!(check(&ran(str::to_owned), 2, "4k").is_err(), "another number of CPUs");
        for (from, to) in [
            ("20", "0"),
            ("moved 5", "moved 0"),
            ("splits 3", "splits 1"),
            ("writes 1", "writes 0"),
            ("done", "WRONG"),
            (", 30", ""),
        ] {
            assert!(check(&ran(|line| line.replace(from, to)), 1, "2m").is_err(), "{from} -> {to}");
        }
        let failed = Ran { status: 1, ..ran(str::to_owned) };
        assert!(check(&failed, 1, "4k").is_err());
    }
}
