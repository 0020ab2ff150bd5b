//! Tables made by hand, descriptor by descriptor, for tests of the machine without an engine.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{Acquire, Release};

use slat::addr::{Gpa, GpaRange, Hpa, Level};
use slat::host::{TableMemory, VcpuId};

use crate::cpu::Cpu;
use crate::machine::{Machine, MachineConfig};
use crate::memory::Source;
use crate::physical::GUEST_BASE;
use crate::walk::Walker;
use crate::walk::arm64::{Stage2, Vtcr};
use crate::walk::ept::{Ept, Processor};

/// Bits of a descriptor, by the manual's names.
pub(crate) const VALID: u64 = 1 << 0;
pub(crate) const TABLE_OR_PAGE: u64 = 1 << 1;
pub(crate) const NORMAL: u64 = 0b1111 << 2;
pub(crate) const READ: u64 = 1 << 6;
pub(crate) const WRITE: u64 = 1 << 7;
pub(crate) const ACCESSED: u64 = 1 << 10;
/// A page or block that may be read and written.
pub(crate) const OPEN: u64 = VALID | NORMAL | READ | WRITE | ACCESSED;
/// A page or block that may only be read.
pub(crate) const READ_ONLY: u64 = OPEN & !WRITE;

pub(crate) const PAGE: Level = Level::PAGE;
pub(crate) const BLOCK: Level = Level::new(1);
pub(crate) const TWO_MEBIBYTES: u64 = 2 << 20;

pub(crate) fn gpa(bytes: u64) -> Gpa {
    Gpa::new(bytes)
}

pub(crate) fn range(start: u64, bytes: u64) -> GpaRange {
    GpaRange::with_len(gpa(start), bytes).unwrap()
}

/// What an entry of EPT that points to a table holds besides its address: everything is allowed.
pub(crate) const EPT_TABLE: u64 = 0b111;
/// An EPT page that may be read and written.
pub(crate) const EPT_OPEN: u64 = 6 << 3 | 0b011;
/// An EPT page that may only be read.
pub(crate) const EPT_READ_ONLY: u64 = 6 << 3 | 0b001;

/// A machine with 8 MiB of guest memory: arm64, with 39 bits of guest address, so that tables start at the manual's level
/// 1; or EPT.
pub(crate) struct Bench {
    pub(crate) machine: Machine,
    pub(crate) root: Hpa,
    top: Level,
    table_bits: u64,
}

impl Bench {
    pub(crate) fn new() -> Self {
        let walker = Box::new(Stage2::new(Vtcr::for_ipa_bits(39).unwrap()));
        Self::of(Self::config(), walker, Level::new(2), TABLE_OR_PAGE | VALID)
    }

    pub(crate) fn config() -> MachineConfig {
        MachineConfig { table_limit: 64, ..MachineConfig::new(8 << 20, Source::Anonymous, 2) }
    }

    /// EPT, with accessed and dirty flags or without.
    pub(crate) fn ept(accessed_dirty: bool) -> Self {
        Self::ept_of(Self::config(), accessed_dirty)
    }

    pub(crate) fn ept_of(config: MachineConfig, accessed_dirty: bool) -> Self {
        let walker = Box::new(Ept::of(Processor::default(), accessed_dirty));
        Self::of(config, walker, Level::new(3), EPT_TABLE)
    }

    fn of(config: MachineConfig, walker: Box<dyn Walker>, top: Level, table_bits: u64) -> Self {
        let machine = Machine::new(config, walker).unwrap();
        let root = machine.allocate(1).unwrap();
        Self { machine, root, top, table_bits }
    }

    pub(crate) fn cpu(&self, id: u32) -> Cpu<'_> {
        Cpu::new(&self.machine, VcpuId(id), self.root)
    }

    /// The descriptor of `level` for `at`; the tables above it are made if there are none.
    pub(crate) fn entry(&self, at: u64, level: Level) -> &AtomicU64 {
        let (mut table, mut above) = (self.root, self.top);
        while above > level {
            let descriptor = self.word(table, at, above);
            if descriptor.load(Acquire) & VALID == 0 {
                let below = self.machine.allocate(1).unwrap();
                descriptor.store(below.get() | self.table_bits, Release);
            }
            table = self.table(at, above);
            above = above.below().unwrap();
        }
        self.word(table, at, level)
    }

    /// The table that the descriptor of `level` for `at` points to.
    pub(crate) fn table(&self, at: u64, level: Level) -> Hpa {
        Hpa::new(self.entry(at, level).load(Acquire) & !0xfff)
    }

    /// Maps the page at `at` to the page of guest memory at `offset` by an entry of EPT.
    pub(crate) fn map_ept_page(&self, at: u64, offset: u64, bits: u64) {
        self.entry(at, PAGE).store((GUEST_BASE.get() + offset) | bits, Release);
    }

    /// Maps the page at `at` to the page of guest memory at `offset`.
    pub(crate) fn map_page(&self, at: u64, offset: u64, bits: u64) {
        self.entry(at, PAGE).store((GUEST_BASE.get() + offset) | bits | TABLE_OR_PAGE, Release);
    }

    /// Maps the 2 MiB at `at` to the 2 MiB of guest memory at `offset`.
    pub(crate) fn map_block(&self, at: u64, offset: u64, bits: u64) {
        self.entry(at, BLOCK).store((GUEST_BASE.get() + offset) | bits, Release);
    }

    fn word(&self, table: Hpa, at: u64, level: Level) -> &AtomicU64 {
        let index = (at >> (12 + 9 * u32::from(level.get()))) as usize & 511;
        &self.machine.physical().tables().words(table)[index]
    }
}
