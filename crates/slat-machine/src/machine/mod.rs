//! The machine as its embedder sees it: physical memory, cores, and the three traits that the engine asks for.
//!
//! A slot's host address is an offset into guest memory; where the guest's pages have places that change, it is a page
//! number of theirs, in bytes.

#[allow(unsafe_code)]
mod host;
mod inject;

use std::io;

use slat::addr::Level;
use slat::host::{Request, Translation};

use self::inject::Injections;
use crate::maintenance::{Attached, Cores};
pub use crate::maintenance::{FlushCounts, Maintenance, Pending, RequestCounts};
use crate::memory::{GuestMemory, MemoryError, PAGE_SIZE, Places, Source};
use crate::physical::{Arena, Physical, TABLES_BASE, most_tables};
use crate::tlb::TlbSize;
use crate::walk::Walker;

/// What a machine is made of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MachineConfig {
    /// Bytes of guest memory.
    pub memory: u64,
    /// What lies behind guest memory.
    pub source: Source,
    /// How many pages the guest sees, if the host changes their places ([`Places`]): fewer than `memory` has, whose
    /// other pages are what they move to. `None`: every page stays where it is.
    pub movable: Option<u64>,
    /// How many cores there are: one for each vCPU.
    pub cores: u32,
    /// How many tables there can be at a time.
    pub table_limit: usize,
    /// How much each core caches.
    pub tlb: TlbSize,
}

impl MachineConfig {
    /// So much guest memory and so many cores, with room for twice the tables that map the memory by pages of 4 KiB.
    pub fn new(memory: u64, source: Source, cores: u32) -> Self {
        let tables = memory / PAGE_SIZE / 256 + 64 * u64::from(cores) + 4096;
        let most = most_tables(PAGE_SIZE.ilog2());
        let table_limit = usize::try_from(tables).unwrap_or(most).min(most);
        Self { memory, source, movable: None, cores, table_limit, tlb: TlbSize::default() }
    }
}

/// Why there is no machine.
#[derive(Debug, thiserror::Error)]
pub enum MachineError {
    /// There is no guest memory.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// There are no frames for tables.
    #[error("the host gave no address space for {tables} page tables: {error}")]
    Tables {
        /// How many were to fit.
        tables: usize,
        /// What the host said.
        error: io::Error,
    },
    /// More tables than the physical address space has room for.
    #[error("{0} page tables do not fit into the machine's physical address space")]
    TableLimit(usize),
}

/// A software machine for one guest.
#[derive(Debug)]
pub struct Machine {
    physical: Physical,
    cores: Cores,
    walker: Box<dyn Walker>,
    tlb: TlbSize,
    injections: Injections,
}

impl Machine {
    /// A machine whose cores walk tables by `walker`. Its pages, and its tables, are as large as the walker's.
    pub fn new(config: MachineConfig, walker: Box<dyn Walker>) -> Result<Self, MachineError> {
        let (tables, page_shift) = (config.table_limit, walker.shift(Level::PAGE));
        if tables > most_tables(page_shift) {
            return Err(MachineError::TableLimit(tables));
        }
        let guest = GuestMemory::with_page_size(config.memory, config.source, 1 << page_shift)?;
        let arena =
            Arena::new(TABLES_BASE, tables, page_shift).map_err(|error| MachineError::Tables { tables, error })?;
        let block_pages = 1 << (walker.shift(Level::new(1)) - page_shift);
        Ok(Self {
            physical: Physical::new(arena, guest, config.movable, block_pages),
            cores: Cores::new(walker.maintenance(), config.cores),
            walker,
            tlb: config.tlb,
            injections: Injections::default(),
        })
    }

    /// The guest's memory.
    #[inline]
    pub fn memory(&self) -> &GuestMemory {
        self.physical.guest()
    }

    /// Where the guest's pages lie, if that changes.
    #[inline]
    pub fn places(&self) -> Option<&Places> {
        self.physical.places()
    }

    /// Everything that has a host physical address.
    #[inline]
    pub fn physical(&self) -> &Physical {
        &self.physical
    }

    /// How the cores walk tables.
    #[inline]
    pub fn walker(&self) -> &dyn Walker {
        &*self.walker
    }

    /// How many cores there are.
    pub fn cores(&self) -> u32 {
        self.cores.number()
    }

    /// How much each core caches.
    pub fn tlb_size(&self) -> TlbSize {
        self.tlb
    }

    /// How many tables are allocated.
    pub fn tables_now(&self) -> u64 {
        self.physical.tables().now()
    }

    /// The most tables that were allocated at a time, since the last [`reset_tables_peak`](Self::reset_tables_peak).
    pub fn tables_peak(&self) -> u64 {
        self.physical.tables().peak()
    }

    /// Starts the peak again from what is allocated now.
    pub fn reset_tables_peak(&self) {
        self.physical.tables().reset_peak();
    }

    /// How many flushes there have been.
    pub fn flushes(&self) -> FlushCounts {
        self.cores.counts()
    }

    /// What they came to, where cores are asked to flush.
    pub fn requests(&self) -> RequestCounts {
        self.cores.requests()
    }

    /// From now on `script` is asked before each translation, and its answer, if it has one, is given instead.
    pub fn inject_translation(&self, script: impl Fn(&Request) -> Option<Translation> + Send + Sync + 'static) {
        self.injections.set_translation(Box::new(script));
    }

    /// From now on an allocation of so many tables fails when `refuse` says so.
    pub fn inject_allocation(&self, refuse: impl Fn(usize) -> bool + Send + Sync + 'static) {
        self.injections.set_allocation(Box::new(refuse));
    }

    /// Nothing is injected any more.
    pub fn clear_injections(&self) {
        self.injections.clear();
    }

    #[inline]
    pub(crate) fn attach(&self, core: u32) -> Attached<'_> {
        self.cores.attach(core)
    }
}

#[cfg(test)]
mod tests;
