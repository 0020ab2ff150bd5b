//! A VM's memory as its embedder sees it: slots, vCPUs that fault, workers that do everything else.

mod age;
mod annotate;
mod budget;
mod collapse;
mod dirty;
mod exit;
mod fault;
mod group;
mod handle;
mod harvest;
mod invalidate;
mod invalidate_host;
mod log;
mod lookup;
mod moving;
mod prefault;
mod quick;
mod slots;
mod split;
mod statistics;
mod step;
mod vcpu;
mod worker;

pub use age::Aged;
pub use annotate::AnnotateError;
pub use budget::{Budget, Progress};
pub use collapse::Collapse;
pub use exit::Exit;
pub use fault::Outcome;
pub use handle::{JoinError, VmRef};
pub use invalidate::{InvalidateError, Invalidation};
pub use invalidate_host::HostInvalidation;
pub use log::{Harvest, LogError, LogProgress, Pages};
pub use lookup::Mapping;
pub use prefault::PrefaultError;
pub use slots::{LogMode, NewSlot, SlotError, SlotFlags};
pub use split::SplitError;
pub use statistics::Statistics;
pub use vcpu::Vcpu;
pub use worker::{RangeError, Reclaim, Teardown, Worker};

use core::fmt;

use crate::addr::{Gpa, Hpa};
use crate::format::Format;
use crate::host::{Host, TableMemory, Trust};
use crate::reclaim::{Inside, OutOfMemory, Subtree, drain_exclusive, take_apart_now};
use crate::space::Space;

use slots::Slots;

/// How many handles a VM may have at a time, and when a flush becomes a flush of everything.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// Most [`Vcpu`]s at a time.
    pub vcpus: u32,
    /// Most [`Worker`]s at a time.
    pub workers: u32,
    /// Extents of more bytes than this are flushed as everything of the VM, with one operation.
    pub flush_threshold: u64,
}

impl Default for Config {
    /// 64 vCPUs, 8 workers, extents of more than 1 GiB flushed as everything.
    fn default() -> Self {
        Self { vcpus: 64, workers: 8, flush_threshold: 1 << 30 }
    }
}

/// Why a VM could not be made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum VmError {
    /// There is no memory for its root or its records.
    OutOfMemory,
    /// A VM has at least one vCPU and one worker, and at most 65,535 of each.
    Config,
}

impl fmt::Display for VmError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OutOfMemory => f.write_str("out of memory"),
            Self::Config => f.write_str("a VM has 1 to 65,535 vCPUs and 1 to 65,535 workers"),
        }
    }
}

impl core::error::Error for VmError {}

impl From<OutOfMemory> for VmError {
    fn from(_: OutOfMemory) -> Self {
        Self::OutOfMemory
    }
}

/// The second-stage memory of one virtual machine.
///
/// Shared by reference or by `Arc`; all work is done through the handles: a [`Vcpu`] for each vCPU thread, and
/// [`Worker`]s for slots, dirty logs, protection and teardown. None of their operations locks the VM.
pub struct Vm<H: Host, F: Format> {
    pub(crate) space: Space<H, F>,
    pub(crate) slots: Slots<H::Atomics>,
    pub(crate) config: Config,
}

impl<H: Host, F: Format> Vm<H, F> {
    /// An empty VM. Allocates the root from `host`.
    pub fn new(host: H, format: F, config: Config) -> Result<Self, VmError> {
        let _: Trust<F> = F::TRUST;
        let possible = 1..=65_535;
        if !possible.contains(&config.vcpus) || !possible.contains(&config.workers) {
            return Err(VmError::Config);
        }
        let members = (config.vcpus + config.workers) as usize;
        let slots = Slots::new(config.workers as usize)?;
        Ok(Self { space: Space::new(host, format, members, config.flush_threshold)?, slots, config })
    }

    /// The embedder.
    pub fn host(&self) -> &H {
        &self.space.host
    }

    /// The entry format.
    pub fn format(&self) -> F {
        self.space.format
    }

    /// The root table: what the architecture's root register points to. `None` once torn down.
    pub fn root(&self) -> Option<Hpa> {
        self.space.root.load()
    }

    /// Whether the format has the log that `flags` ask for.
    fn can_log(&self, flags: SlotFlags) -> Result<(), SlotError> {
        let possible = !flags.is_logged_by_hardware() || self.space.format.hardware_dirty();
        possible.then_some(()).ok_or(SlotError::LogMode)
    }

    /// Marks a page whose entry was dirty when it was taken out, if its slot is logged.
    fn mark_moved(&self, section: Inside<'_, H::Atomics>, page: u64) {
        let gpa = Gpa::new(page << self.space.geometry().page_shift());
        if let Some(slot) = self.slots.read(section).at(gpa)
            && let Some(log) = &slot.log
        {
            log.mark_page(page);
        }
    }

    /// The sums of all handles' counters. Exact when no handle is at work, else a moment's blur.
    pub fn statistics(&self) -> Statistics {
        Statistics::of(&self.space.counts())
    }
}

impl<H: Host, F: Format> Drop for Vm<H, F> {
    /// Frees everything that teardown has not freed. No handle is left, so there is nobody to wait for but a hardware
    /// walker: one flush of everything, then table by table.
    fn drop(&mut self) {
        let Space { host, format, root, domain, .. } = &mut self.space;
        self.slots.drain_exclusive(domain);
        let root = root.detach();
        if root.is_some() {
            host.wait(host.flush(crate::host::Flush::All));
        }
        let tally = crate::table::Tally::<<H as TableMemory>::Atomics>::new();
        for limbo in domain.limbos() {
            drain_exclusive(limbo, host, *format, &tally);
        }
        if let Some(root) = root {
            take_apart_now(Subtree::whole(*format, root), host, *format, &tally);
        }
    }
}

impl<H: Host, F: Format> fmt::Debug for Vm<H, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Vm").field("format", &F::NAME).field("root", &self.root()).finish_non_exhaustive()
    }
}
