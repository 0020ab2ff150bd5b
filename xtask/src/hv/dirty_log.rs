//! `cargo xtask hv dirty-log`: KVM's dirty_log_perf_test on the emulated machine.

use anyhow::{Context, ensure};
use clap::Args;
use std::time::Duration;

use super::machine::{Machine, Ran};
use super::{build, packages};

/// What is measured.
#[derive(Args)]
pub(crate) struct Options {
    /// vCPUs, one run each
    #[arg(long, value_delimiter = ',', default_value = "1,2,4,8")]
    cpus: Vec<u32>,
    /// Memory of each vCPU
    #[arg(short, long, default_value = "64M")]
    bytes: String,
    /// Iterations
    #[arg(short, long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(2..))]
    iterations: u32,
    /// Sizes in which memory is got: `2m`, `4k`
    #[arg(long, default_value = "2m")]
    pages: String,
    /// Have the first write to each block split it, rather than all be split when the log is turned on
    #[arg(long)]
    no_eager_page_split: bool,
    /// Repeat each run, and take medians
    #[arg(long, default_value_t = 3)]
    repeat: u32,
}

/// Most instructions that the hypervisor may execute per page dirtied, get and clear included.
const INSTRUCTIONS: f64 = 600.0;
/// Most that eight vCPUs on two cores may take of one's time.
const RATIO: f64 = 4.4;

/// One run's times in seconds.
struct Times {
    populate: f64,
    /// Of splitting blocks when the log is turned on; 0 where faults split them.
    split: f64,
    dirty: f64,
    get: f64,
    clear: f64,
    disable: f64,
}

pub(super) fn run(options: &Options) -> anyhow::Result<()> {
    let mebibytes = mebibytes(&options.bytes)?;
    let mut rows = Vec::new();
    for &vcpus in &options.cpus {
        let single = options.cpus.len() == 1;
        let mut times = Vec::new();
        for _ in 0..options.repeat.max(1) {
            let ran = start(options, vcpus, mebibytes, false, single)?;
            times.push(Times::of(&ran, options.iterations)?);
        }
        rows.push((vcpus, Times::medians(&times)));
    }
    println!(
        "Measured on an emulated machine (QEMU); times by its counter, medians of {} runs.\n",
        options.repeat.max(1)
    );
    println!("vCPUs   populate    split  iteration {} dirty     get   clear  disable   of one's", options.iterations);
    let one = rows.iter().find(|(vcpus, _)| *vcpus == 1).map(|(_, times)| times.dirty);
    for (vcpus, Times { populate, split, dirty, get, clear, disable }) in &rows {
        let ratio = one.map_or("-".to_owned(), |one| format!("{:.2}x", dirty / one));
        println!(
            "{vcpus:5} {populate:9.3}s {split:7.4}s {dirty:16.3}s {get:7.4}s {clear:6.4}s {disable:7.4}s {ratio:>9}"
        );
    }
    println!();
    println!("EL2 instructions per page dirtied in iteration {} (exact, one vCPU):", options.iterations);
    let per_page = instructions(&start(options, 1, mebibytes, true, false)?, options.iterations)?;
    println!("{per_page:.1} of {INSTRUCTIONS:.0} at most: {}", verdict(per_page <= INSTRUCTIONS));
    let eight = rows.iter().find(|(vcpus, _)| *vcpus == 8).map(|(_, times)| times.dirty);
    if let (Some(one), Some(eight)) = (one, eight) {
        println!("8 vCPUs take {:.2}x of one's time, {RATIO}x at most: {}", eight / one, verdict(eight / one <= RATIO));
        println!("load of this machine: {}", std::fs::read_to_string("/proc/loadavg").unwrap_or_default().trim());
        if let Some((one, eight)) = processor_time(options, 1, mebibytes)?.zip(processor_time(options, 8, mebibytes)?) {
            println!(
                "processor time of each vCPU in each later iteration, whatever the load: {:.1} ms with one, {:.1} ms with 8: \
                 two idle cores would take {:.2}x",
                one * 1e3,
                eight * 1e3,
                8.0 * eight / 2.0 / one
            );
        }
    }
    Ok(())
}

/// Iterations that the emulator's processor time is measured over.
const MORE: u32 = 8;

/// Seconds of the host's processor that one vCPU takes for one iteration, the first ones apart.
fn processor_time(options: &Options, vcpus: u32, mebibytes: u64) -> anyhow::Result<Option<f64>> {
    let of = |iterations: u32| {
        let options = Options {
            cpus: vec![vcpus],
            bytes: String::new(),
            pages: options.pages.clone(),
            iterations,
            no_eager_page_split: options.no_eager_page_split,
            repeat: 1,
        };
        start(&options, vcpus, mebibytes, false, false).map(|ran| ran.processor)
    };
    let (short, long) = (of(options.iterations)?, of(options.iterations + MORE)?);
    Ok(long
        .zip(short)
        .map(|(long, short)| long.saturating_sub(short).as_secs_f64() / f64::from(MORE) / f64::from(vcpus)))
}

/// The count alone: the same on every machine.
pub(super) fn check_instructions() -> anyhow::Result<()> {
    let options = Options {
        cpus: vec![1],
        bytes: "16M".into(),
        iterations: 2,
        pages: "2m".into(),
        no_eager_page_split: false,
        repeat: 1,
    };
    let per_page = instructions(&start(&options, 1, 16, true, false)?, 2)?;
    println!("   {per_page:.1} EL2 instructions per page dirtied");
    ensure!(per_page <= INSTRUCTIONS, "{per_page:.1} EL2 instructions per page dirtied; at most {INSTRUCTIONS}");
    Ok(())
}

fn start(options: &Options, vcpus: u32, mebibytes: u64, counted: bool, echo: bool) -> anyhow::Result<Ran> {
    let machine = Machine {
        emulator: packages::emulator()?,
        hypervisor: build::hypervisor()?,
        cpu: "neoverse-n1".to_owned(),
        cpus: vcpus + 1,
        gibibytes: 3,
        loaded: Vec::new(),
        counted,
        arguments: format!(
            "slat.mode=dirty-log slat.vcpus={vcpus} slat.mebibytes={mebibytes} slat.iterations={} slat.pages={} slat.count={counted} slat.split={}",
            options.iterations, options.pages, !options.no_eager_page_split
        ),
        limit: Duration::from_secs(300),
        echo,
    };
    let ran = machine.run()?;
    ran.succeeded()?;
    Ok(ran)
}

impl Times {
    fn of(ran: &Ran, iteration: u32) -> anyhow::Result<Self> {
        let seconds = |what: &str| {
            let text = ran.after(&format!("{what} time: ")).with_context(|| format!("no {what} time"))?;
            text.trim_end_matches('s').parse::<f64>().with_context(|| format!("{what} time: {text}"))
        };
        Ok(Self {
            populate: seconds("Populate memory")?,
            split: if ran.after("Splitting blocks time: ").is_some() { seconds("Splitting blocks")? } else { 0.0 },
            dirty: seconds(&format!("Iteration {iteration} dirty memory"))?,
            get: seconds(&format!("Iteration {iteration} get dirty log"))?,
            clear: seconds(&format!("Iteration {iteration} clear dirty log"))?,
            disable: seconds("Disabling dirty logging")?,
        })
    }

    fn medians(runs: &[Self]) -> Self {
        let median = |of: fn(&Self) -> f64| {
            let mut all: Vec<f64> = runs.iter().map(of).collect();
            all.sort_by(f64::total_cmp);
            all[all.len() / 2]
        };
        Self {
            populate: median(|run| run.populate),
            split: median(|run| run.split),
            dirty: median(|run| run.dirty),
            get: median(|run| run.get),
            clear: median(|run| run.clear),
            disable: median(|run| run.disable),
        }
    }
}

fn instructions(ran: &Ran, iteration: u32) -> anyhow::Result<f64> {
    let text =
        ran.after(&format!("Iteration {iteration} EL2 instructions per page: ")).context("nothing was counted")?;
    println!("   {text}");
    if let Some(split) = ran.after("Blocks split: ") {
        println!("   blocks split before: {split}");
    }
    let number = text.split_whitespace().next().unwrap_or_default();
    number.parse().with_context(|| format!("instructions: {text}"))
}

fn verdict(holds: bool) -> &'static str {
    if holds { "yes" } else { "NO" }
}

/// `64M` or `1G` in MiB.
fn mebibytes(text: &str) -> anyhow::Result<u64> {
    let (number, factor) = match (text.strip_suffix(['M', 'm']), text.strip_suffix(['G', 'g'])) {
        (Some(number), _) => (number, 1),
        (_, Some(number)) => (number, 1024),
        _ => (text, 0),
    };
    ensure!(factor > 0, "-b {text}: a number with M or G");
    let mebibytes = number.parse::<u64>().with_context(|| format!("-b {text}"))? * factor;
    ensure!(mebibytes > 0 && mebibytes.is_multiple_of(2), "-b {text}: a multiple of 2M");
    Ok(mebibytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read() {
        assert_eq!(mebibytes("64M").unwrap(), 64);
        assert_eq!(mebibytes("1G").unwrap(), 1024);
        for bad in ["64", "M", "0M", "3M", "-2M"] {
            assert!(mebibytes(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_hypervisors_lines_are_read() {
        let text = "Populate memory time: 0.01s\nIteration 2 dirty memory time: 0.25s\nIteration 2 get dirty log time: 0.5s\n\
                    Iteration 2 clear dirty log time: 1.5s\nDisabling dirty logging time: 0.0s\n\
                    Iteration 2 EL2 instructions per page: 336.2 (faults 1, get 2, clear 3)";
        let ran = Ran { lines: text.lines().map(str::to_owned).collect(), status: 0, processor: None };
        let times = Times::of(&ran, 2).unwrap();
        assert_eq!((times.populate, times.split, times.dirty, times.clear), (0.01, 0.0, 0.25, 1.5));
        assert_eq!(instructions(&ran, 2).unwrap(), 336.2);
        assert!(Times::of(&ran, 3).is_err());
    }
}
