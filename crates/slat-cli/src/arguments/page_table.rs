//! The options of `slat page-table`.

use clap::Args;

use super::common::{Common, MEASURED};
use crate::size;

const STAGES: &str = "\
Times creating, splitting and joining mappings by vCPUs that all touch the same memory at once: the counterpart of KVM's \
kvm_page_table_test, with its letters and stages. A piece of the memory is what one leaf maps of it: with \
anonymous_thp a block, of 2 MiB where a page has 4 KiB, of 32 or 512 MiB where it has 16 or 64 KiB.

  create   every vCPU touches each piece once: even vCPUs write, odd ones
           read. Faults that map, by blocks where the backing allows
  enable   the dirty log is turned on by write-protecting the memory
  update   every vCPU writes the first page of each piece, which splits a
           block, and reads the pages of the piece's second half
  disable  the dirty log is turned off
  collapse with --collapse in-place or lazily, one scan makes blocks of pages
           again, or drops the tables so that faults map blocks
  adjust   every vCPU touches every page: even ones write, odd ones read

Each stage is timed from its trigger until the slowest vCPU reports; leaves are counted after it, so that it shows how \
many blocks there are. In create the host also provides the memory, unless --prefault did. In adjust all of KVM's vCPUs \
read; in slat a split leaves no page unmapped, so that reading would find nothing to do.";

pub(super) const EXAMPLES: &str = "\
Examples:
  slat page-table                         a comparison of two kinds of locking, verified, in a few seconds
  slat page-table -v 4 -b 256M            one run: 4 vCPUs on 256 MiB
  slat page-table -v 4 -b 64M --locking exclusive,shared-relax,shared-fault,lock-free --verify
  slat page-table -v 2 -b 64M --collapse in-place --verify
  slat page-table -v 2 -b 64M -s anonymous --format arm64-4k,ept --json

Exit codes: 0 good, 1 the memory or its tables were wrong or the engine failed, 2 bad input, 3 this computer cannot do that.";

pub(super) fn long() -> String {
    format!("{STAGES}\n\n{MEASURED}")
}

/// The options of `slat page-table`.
#[derive(Args, Debug)]
pub(crate) struct PageTable {
    /// Memory that all vCPUs share, such as 64M or 1G [default: 1G; 64M, or a block, without any option]
    #[arg(short = 'b', long, value_name = "SIZE", value_parser = size::parse)]
    pub(crate) bytes: Option<u64>,

    /// What makes blocks of pages again once the log is off
    #[arg(long, value_name = "HOW", value_enum, default_value_t = Collapse::ByFaults)]
    pub(crate) collapse: Collapse,

    /// After each stage, compare what the guest reads and the memory holds with what was written, and the leaves with
    /// what the machine's walker finds
    #[arg(long)]
    pub(crate) verify: bool,

    /// Break something on purpose, to show that the verification sees it
    #[arg(long, hide = true, value_enum)]
    pub(crate) plant: Option<Plant>,

    #[command(flatten)]
    pub(crate) common: Common,
}

/// What makes blocks of pages again.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub(crate) enum Collapse {
    /// Nothing but what the faults of adjust do
    ByFaults,
    /// A scan before adjust makes one leaf of each table
    InPlace,
    /// A scan before adjust drops the tables, and the faults of adjust map blocks
    Lazily,
}

impl Collapse {
    /// The name that options and reports use.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::ByFaults => "by-faults",
            Self::InPlace => "in-place",
            Self::Lazily => "lazily",
        }
    }
}

/// What can be broken on purpose.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub(crate) enum Plant {
    /// After create, one word of guest memory changes behind the guest's back.
    StrayWord,
    /// The log is not turned on before update, so that no block is split.
    ForgetLog,
}
