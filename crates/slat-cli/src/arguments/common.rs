//! The options that all performance tests have.

use clap::Args;

use crate::locking::Locking;
use crate::size;

/// Where the guest runs, on what, how often, and how that is told.
#[derive(Args, Debug)]
pub(crate) struct Common {
    /// Pin vCPU threads to these CPUs, in order; one more number pins the main thread
    #[arg(short = 'c', long = "pin", value_name = "CPU,...", value_delimiter = ',')]
    pub(crate) cpus: Vec<usize>,

    /// Guest physical address of the memory [default: the top of the address space]
    #[arg(short = 'p', long, value_name = "GPA", value_parser = size::parse_address)]
    pub(crate) offset: Option<u64>,

    /// What backs guest memory: anonymous, anonymous_thp, anonymous_hugetlb[_2mb|_1gb], shmem, shared_hugetlb
    #[arg(short = 's', long, value_name = "SOURCE", default_value = "anonymous_thp")]
    pub(crate) source: String,

    /// Numbers of vCPUs, one run each [default: 1; 1,2,4 without any option]
    #[arg(short = 'v', long, value_name = "N,...", value_delimiter = ',')]
    pub(crate) vcpus: Vec<u32>,

    /// KVM's guest modes: slat has --format
    #[arg(short = 'm', value_name = "MODE", num_args = 0..=1, default_missing_value = "", hide_short_help = true)]
    pub(crate) mode: Option<String>,

    /// Entry formats, one run each; `list` prints the names, one a line
    #[arg(long = "format", value_name = "NAME,...", value_delimiter = ',', default_value = "arm64-4k")]
    pub(crate) formats: Vec<String>,

    /// Kinds of locking round the VM, one run each [default: lock-free; exclusive,lock-free without any option]
    #[arg(long, value_name = "KIND,...", value_delimiter = ',', value_enum)]
    pub(crate) locking: Vec<Locking>,

    /// Make each run this many times, taking turns, and report medians [default: 1; 3 without any option]
    #[arg(long, value_name = "N")]
    pub(crate) repeat: Option<u32>,

    /// Have the host provide all guest memory before anything is timed, so that first touches are faults alone
    #[arg(long)]
    pub(crate) prefault: bool,

    /// Print one JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

/// What every long help says of the figures.
pub(super) const MEASURED: &str = "\
Measured for real: the engine's work on its tables, the atomics, guest memory, one OS thread a vCPU. Modelled: the TLBs \
and the page walker are software, and a fault is a call, so that neither the cost of leaving and entering a guest nor of \
hardware TLB maintenance is in the figures. With more vCPUs than CPUs the threads take turns, and times say little.

--locking compares the engine with what it replaces; the lock is this program's, and the engine runs unchanged behind it:

  lock-free     no lock: slat
  shared-fault  a readers-writer lock; faults share it, every other operation
                has it alone (KVM on arm64 with parallel faults)
  shared-relax  the same lock; only faults that give write permission back to
                a mapped page under a dirty log share it (KVM on arm64 before)
  exclusive     a mutex round every operation (a page-table crate with `&mut
                self`)

The locks are parking_lot's. They spin for a moment, then sleep; a lock that is let go goes to whoever comes first, so \
that waiters can be overtaken; readers wait for a waiting writer. The locks of Linux, which KVM takes, never sleep and \
queue all waiters. Under a log, shared-relax looks up what each fault's page is mapped by, which hardware would tell \
for nothing: that is in its times.";
