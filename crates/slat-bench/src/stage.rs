//! A VM with one vCPU and one worker, and what brings it into the state that an operation starts from.
//!
//! Four levels, 64 slots of 1 GiB, 16 blocks of 2 MiB in one of them. The last page of each block is mapped and stays so:
//! it keeps the block's table.

use std::sync::Arc;

use slat::addr::{Gpa, GpaRange, HostAddress, Level};
use slat::format::Arm64;
use slat::host::{Access, SlotId, VcpuId};
use slat::vm::{Budget, Config, LogMode, NewSlot, Outcome, Pages, SlotFlags, Vcpu, Vm, Worker};

use crate::embedder::Embedder;

/// Slots of the VM.
pub const SLOTS: u32 = 64;
/// The slot of all operations.
pub const SLOT: SlotId = SlotId(5);
/// Where it begins.
pub const BASE: u64 = 5 << 30;
/// Bytes of a page.
pub const PAGE: u64 = 4096;
/// Bytes of a block.
pub const BLOCK: u64 = 2 << 20;
/// Blocks that are used.
pub const BLOCKS: u64 = 16;
/// Pages of a block that come and go.
pub const PER_BLOCK: u64 = BLOCK / PAGE - 1;

/// How handles name the VM.
pub type Shared = Arc<Vm<Embedder, Arm64>>;

/// The VM's handles.
pub struct Stage {
    /// Faults.
    pub vcpu: Vcpu<Shared>,
    /// Does everything else.
    pub worker: Worker<Shared>,
}

impl Stage {
    /// An empty VM without slots, with leaves up to `largest`.
    pub fn empty(largest: Level) -> Self {
        let format = Arm64::new(48).expect("48 bits");
        let vm = Arc::new(Vm::new(Embedder { largest }, format, Config::default()).expect("memory"));
        let worker = Worker::new(Arc::clone(&vm)).expect("a free place");
        let vcpu = Vcpu::new(vm, VcpuId(0)).expect("a free place");
        Self { vcpu, worker }
    }

    /// A VM with its slots, logged or not.
    pub fn new(largest: Level, log: Option<LogMode>) -> Self {
        let mut stage = Self::empty(largest);
        for number in 0..SLOTS {
            let start = u64::from(number) << 30;
            stage.create_slot(number, range(start, 1 << 30), log);
        }
        stage
    }

    /// A VM whose pages have their tables.
    pub fn with_tables(log: Option<LogMode>) -> Self {
        let mut stage = Self::new(Level::PAGE, log);
        for block in 0..BLOCKS {
            stage.vcpu.top_up(4).expect("memory");
            stage.fault(BASE + (block + 1) * BLOCK - PAGE, Access::Read);
        }
        stage
    }

    /// Adds a slot.
    pub fn create_slot(&mut self, number: u32, range: GpaRange, log: Option<LogMode>) {
        let host = HostAddress::new(range.start().get());
        let flags = SlotFlags { log, ..SlotFlags::default() };
        self.worker.create_slot(SlotId(number), NewSlot { range, host, flags }).expect("a good slot");
    }

    /// A fault that lets the guest go on.
    #[inline(always)]
    pub fn fault(&mut self, at: u64, access: Access) {
        let outcome = self.vcpu.fault(Gpa::new(at), access);
        assert!(
            matches!(outcome, Outcome::Mapped { .. } | Outcome::Relaxed { .. } | Outcome::Spurious),
            "{at:#x}: {outcome:?}"
        );
    }

    /// Maps all pages, or makes them writable.
    pub fn map_all(&mut self) {
        (0..BLOCKS * BLOCK / PAGE).for_each(|page| self.fault(BASE + page * PAGE, Access::Write));
    }

    /// Unmaps the first `pages` pages of those that come and go. Their tables stay.
    pub fn unmap(&mut self, pages: u64) {
        for block in 0..pages.div_ceil(PER_BLOCK) {
            let pages = (pages - block * PER_BLOCK).min(PER_BLOCK);
            self.unmap_range(range(BASE + block * BLOCK, pages * PAGE));
        }
    }

    /// Unmaps in one call.
    pub fn unmap_range(&mut self, range: GpaRange) {
        let progress = self.worker.unmap(range, Budget::UNLIMITED).expect("a good range");
        assert!(progress.is_done());
    }

    /// Write-protects in one call.
    pub fn write_protect(&mut self, range: GpaRange) {
        let progress = self.worker.write_protect(range, Budget::UNLIMITED).expect("a good range");
        assert!(progress.is_done());
    }

    /// Maps in one call, for writing.
    pub fn prefault(&mut self, range: GpaRange) {
        let progress = self.worker.prefault(range, Access::Write, Budget::UNLIMITED).expect("a good range");
        assert!(progress.is_done());
    }

    /// Takes all marks, and protects what was marked.
    pub fn harvest(&mut self) {
        let pages = Pages { first: 0, count: BLOCKS * BLOCK / PAGE };
        let mut bitmap = vec![0; (pages.count / 64) as usize];
        let harvest = self.worker.harvest(SLOT, pages, &mut bitmap, Budget::UNLIMITED).expect("a logged slot");
        assert!(harvest.is_done() && harvest.complete);
    }
}

/// The `number`-th page of those that come and go.
#[inline(always)]
pub const fn address(number: u64) -> u64 {
    BASE + number / PER_BLOCK * BLOCK + number % PER_BLOCK * PAGE
}

/// `len` bytes from `start`.
pub fn range(start: u64, len: u64) -> GpaRange {
    GpaRange::with_len(Gpa::new(start), len).expect("inside 64 bits")
}
