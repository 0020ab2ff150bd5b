//! The command line.

use clap::{Args, Parser, Subcommand};

use crate::locking::Locking;
use crate::size;

/// The second-stage MMU for hypervisors, measured.
#[derive(Parser, Debug)]
#[command(name = "slat", version, about, subcommand_required = true, arg_required_else_help = true)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Subcommand, Debug)]
pub(crate) enum Command {
    /// Times populating memory, dirtying it under a dirty log, and taking the log (KVM's dirty_log_perf_test)
    #[command(long_about = LONG, after_help = EXAMPLES)]
    DirtyLog(DirtyLog),
}

const LONG: &str = "\
Times populating a guest's memory, dirtying it under a dirty log, and taking the log: the counterpart of KVM's
dirty_log_perf_test, with its letters, phases and output.

  populate   every vCPU writes every page of its memory once, in order: faults that map
  enable     the dirty log is turned on for all slots (initially set; with -g by write-protecting them)
  dirty      per iteration, every vCPU makes one pass over its memory: faults that give write permission back, once
             something has been protected. Without -g that is from iteration 2 on
  get        per iteration, the log is read; with -g also taken: cleared, protected, flushed
  clear      per iteration, without -g: the marks are cleared and their pages protected again, slot by slot
  disable    the log is turned off

Each phase is timed from its trigger until the slowest vCPU reports. Measured for real: the engine's work on its tables,
the atomics, guest memory, one OS thread a vCPU. Modelled: the TLBs and the page walker are software, and a fault is a
call, so that neither the cost of leaving and entering a guest nor of hardware TLB maintenance is in the figures. With more
vCPUs than CPUs the threads take turns, and times say little.";

const EXAMPLES: &str = "\
Examples:
  slat dirty-log                          a comparison of both kinds of locking, verified, in well under 30 s
  slat dirty-log -v 4 -b 256M             one run: 4 vCPUs with 256 MiB each
  slat dirty-log -v 1,2,4 --locking lock-free,exclusive --verify
  slat dirty-log -v 2 -b 64M -x 8 -a -w 50 -i 5 --json

Exit codes: 0 good, 1 a page was lost or the engine failed, 2 bad input, 3 this computer cannot do that.";

/// The options of `slat dirty-log`.
#[derive(Args, Debug)]
pub(crate) struct DirtyLog {
    /// Touch pages in random order
    #[arg(short = 'a', long)]
    pub(crate) random: bool,

    /// Memory of each vCPU, such as 64M or 1G [default: 1G; 64M without any option]
    #[arg(short = 'b', long, value_name = "SIZE", value_parser = size::parse)]
    pub(crate) bytes: Option<u64>,

    /// Pin vCPU threads to these CPUs, in order; one more number pins the main thread
    #[arg(short = 'c', long = "pin", value_name = "CPU,...", value_delimiter = ',')]
    pub(crate) cpus: Vec<usize>,

    /// Keep the vCPUs running while the dirty log is turned off
    #[arg(short = 'e', long)]
    pub(crate) run_while_disabling: bool,

    /// Do without manual protection: getting the log also clears, protects and flushes
    #[arg(short = 'g', long)]
    pub(crate) no_manual_protect: bool,

    /// Iterations of dirty, get, clear; at least 2
    #[arg(short = 'i', long, value_name = "N", default_value_t = 2)]
    pub(crate) iterations: u32,

    /// Let all vCPUs work on the same memory
    #[arg(short = 'o', long)]
    pub(crate) overlap: bool,

    /// Guest physical address of the memory [default: the top of the address space]
    #[arg(short = 'p', long, value_name = "GPA", value_parser = size::parse_address)]
    pub(crate) offset: Option<u64>,

    /// Seed of all that is random
    #[arg(short = 'r', long, value_name = "SEED", default_value_t = 1)]
    pub(crate) seed: u64,

    /// What backs guest memory: anonymous, anonymous_thp, anonymous_hugetlb[_2mb|_1gb], shmem, shared_hugetlb
    #[arg(short = 's', long, value_name = "SOURCE", default_value = "anonymous_thp")]
    pub(crate) source: String,

    /// Numbers of vCPUs, one run each [default: 1; 1,2,4 without any option]
    #[arg(short = 'v', long, value_name = "N,...", value_delimiter = ',')]
    pub(crate) vcpus: Vec<u32>,

    /// Percentage of accesses that write
    #[arg(short = 'w', long, value_name = "PERCENT", default_value_t = 100)]
    pub(crate) write_percent: u32,

    /// Split the memory into this many slots
    #[arg(short = 'x', long, value_name = "N", default_value_t = 1)]
    pub(crate) slots: u32,

    /// KVM's guest modes: slat has --format
    #[arg(short = 'm', value_name = "MODE", num_args = 0..=1, default_missing_value = "", hide_short_help = true)]
    pub(crate) mode: Option<String>,

    /// KVM's nested guests: slat has none
    #[arg(short = 'n', hide_short_help = true)]
    pub(crate) nested: bool,

    /// Entry format; `list` prints the names, one a line
    #[arg(long, value_name = "NAME", default_value = "arm64-4k")]
    pub(crate) format: String,

    /// Kinds of locking round the VM, one run each [default: lock-free; both without any option]
    #[arg(long, value_name = "KIND,...", value_delimiter = ',', value_enum)]
    pub(crate) locking: Vec<Locking>,

    /// Migrate the guest by its dirty log alone while it keeps writing, and compare the copy bit for bit
    #[arg(long)]
    pub(crate) verify: bool,

    /// Make each run this many times, taking turns, and report medians [default: 1; 3 without any option]
    #[arg(long, value_name = "N")]
    pub(crate) repeat: Option<u32>,

    /// Print one JSON object
    #[arg(long)]
    pub(crate) json: bool,

    /// Break something on purpose, to show that the verification sees it
    #[arg(long, hide = true, value_enum)]
    pub(crate) plant: Option<Plant>,
}

/// What can be broken on purpose.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub(crate) enum Plant {
    /// One page that the final harvest names is not copied.
    SkipPage,
}
