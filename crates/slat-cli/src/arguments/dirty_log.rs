//! The options of `slat dirty-log`.

use clap::Args;

use super::common::{Common, MEASURED};
use crate::size;

const PHASES: &str = "\
Times populating a guest's memory, dirtying it under a dirty log, and taking the log: the counterpart of KVM's \
dirty_log_perf_test, with its letters, phases and output.

  populate   every vCPU writes every page of its memory once, in order: faults
             that map
  enable     the dirty log is turned on for all slots (initially set; with -g
             by write-protecting them)
  split      with --eager-page-split, all blocks are split, each to one table
  dirty      per iteration, every vCPU makes one pass over its memory: faults
             that give write permission back, once something is protected.
             Without -g that is from iteration 2 on
  get        per iteration, the log is read; with -g also taken: cleared,
             protected, flushed
  clear      per iteration, without -g: the marks are cleared and their pages
             protected again, slot by slot
  disable    the log is turned off

Each phase is timed from its trigger until the slowest vCPU reports. In populate the host also provides the memory, \
unless --prefault did.";

pub(super) const EXAMPLES: &str = "\
Examples:
  slat dirty-log                          a comparison of two kinds of locking, verified, in well under 30 s
  slat dirty-log -v 4 -b 256M             one run: 4 vCPUs with 256 MiB each
  slat dirty-log -v 1,2,4 --locking exclusive,shared-relax,shared-fault,lock-free --verify
  slat dirty-log -v 2 -b 64M --format arm64-4k,ept
  slat dirty-log -v 2 -b 64M -x 8 -a -w 50 -i 5 --json

Exit codes: 0 good, 1 a page was lost or the engine failed, 2 bad input, 3 this computer cannot do that.";

pub(super) fn long() -> String {
    format!("{PHASES}\n\n{MEASURED}")
}

/// The options of `slat dirty-log`.
#[derive(Args, Debug)]
pub(crate) struct DirtyLog {
    /// Touch pages in random order
    #[arg(short = 'a', long)]
    pub(crate) random: bool,

    /// Memory of each vCPU, such as 64M or 1G [default: 1G; 64M without any option]
    #[arg(short = 'b', long, value_name = "SIZE", value_parser = size::parse)]
    pub(crate) bytes: Option<u64>,

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

    /// Seed of all that is random
    #[arg(short = 'r', long, value_name = "SEED", default_value_t = 1)]
    pub(crate) seed: u64,

    /// Split all blocks once the log is on, rather than each by the first write to it (KVM: eager page splitting)
    #[arg(long)]
    pub(crate) eager_page_split: bool,

    /// Let hardware keep the log: its dirty state is the mark, and writes take no fault (KVM: PML; arm64: FEAT_HAFDBS)
    #[arg(long)]
    pub(crate) hardware_log: bool,

    /// Percentage of accesses that write
    #[arg(short = 'w', long, value_name = "PERCENT", default_value_t = 100)]
    pub(crate) write_percent: u32,

    /// Split the memory into this many slots
    #[arg(short = 'x', long, value_name = "N", default_value_t = 1)]
    pub(crate) slots: u32,

    /// KVM's nested guests: slat has none
    #[arg(short = 'n', hide_short_help = true)]
    pub(crate) nested: bool,

    /// Migrate the guest by its dirty log alone while it keeps writing, and compare the copy bit for bit
    #[arg(long)]
    pub(crate) verify: bool,

    /// Break something on purpose, to show that the verification sees it
    #[arg(long, hide = true, value_enum)]
    pub(crate) plant: Option<Plant>,

    #[command(flatten)]
    pub(crate) common: Common,
}

/// What can be broken on purpose.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub(crate) enum Plant {
    /// One page that the final harvest names is not copied.
    SkipPage,
}
