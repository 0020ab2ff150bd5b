//! What the embedder implements: memory for tables, the backing of guest memory, and TLB maintenance.
//!
//! The engine calls these and nothing else of the hypervisor around it. None of them may call back into the engine.

use core::fmt;
use core::marker::PhantomData;

use crate::addr::{Gpa, GpaRange, HostAddress, Hpa, Level};
use crate::sync::Atomics;

/// Everything the engine needs from its embedder; implemented by implementing the three parts.
pub trait Host: TableMemory + Backing + Tlb + Send + Sync {}

impl<T: TableMemory + Backing + Tlb + Send + Sync> Host for T {}

/// The word that this host's tables are made of.
pub type Word<H> = <<H as TableMemory>::Atomics as Atomics>::Word;

/// Memory for page tables, and the way from a table's physical address to its words.
///
/// # Safety
///
/// * Frames handed out by [`allocate`](Self::allocate) are zero, not used by anything else until
///   [`free`](Self::free), and aligned to their whole length.
/// * [`words`](Self::words) returns the words of that very frame, at an address that does not change while the frame is
///   allocated, and writes through them are what the hardware's walker reads.
/// * The [`Atomics`] family's operations are atomic, and order as they are asked to.
pub unsafe trait TableMemory {
    /// The atomics that table words are made of: [`sync::Core`](crate::sync::Core) outside model checkers.
    type Atomics: Atomics;

    /// Allocates `tables` contiguous tables, zeroed, aligned to their whole length (`tables` is a power of two, more
    /// than one only for a root), at an address that the format's entries can hold. A table has
    /// [`Geometry::table_bytes`](crate::format::Geometry::table_bytes). Runs outside of any fault's walk; may be slow. `None` when there is no memory.
    fn allocate(&self, tables: usize) -> Option<Hpa>;

    /// Takes back what [`allocate`](Self::allocate) gave. The contents are arbitrary.
    ///
    /// # Safety
    ///
    /// `table` and `tables` are those of one allocation, not freed before, which neither software nor a hardware walker
    /// can reach any more.
    unsafe fn free(&self, table: Hpa, tables: usize);

    /// The entries of the table at `table`. Called for every step of every walk: make it a cast.
    ///
    /// # Safety
    ///
    /// `table` is the address of one table inside an allocation that stays allocated while the result is used.
    unsafe fn words(&self, table: Hpa) -> &[<Self::Atomics as Atomics>::Word];
}

/// The backing of guest memory: which host physical memory lies behind a slot.
pub trait Backing {
    /// Where `request.host` lies now, as a run of contiguous memory of one kind around it.
    ///
    /// Called by a fault, after it has noted the state of invalidations: an answer that is invalidated later is never
    /// published, so no lock is needed here beyond what makes one answer consistent. With `may_block` false the caller
    /// stands inside the engine and holds up reclaim: answer at once, or say [`Translation::WouldBlock`] to be called
    /// again outside with `may_block` true. One fault may ask more than once.
    fn translate(&self, request: Request) -> Translation;

    /// Called before a leaf over this memory becomes visible to the guest, with nothing locked; a fault that is refused
    /// afterwards has called it in vain. For CPUs whose guests do not see the host's caches: clean the data cache for
    /// memory that is not accessed through it, or where FEAT_S2FWB is missing; invalidate the instruction cache for
    /// executable memory where `CTR_EL0.DIC` is 0 (Arm ARM, D7.5 and B2.7). Does nothing unless implemented.
    #[inline(always)]
    fn expose(&self, _memory: Exposed) {}
}

/// Host memory that is about to become visible to the guest.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Exposed {
    /// Where it lies.
    pub hpa: Hpa,
    /// Bytes.
    pub len: u64,
    /// What the guest may do with it.
    pub permissions: Permissions,
    /// How the guest accesses it.
    pub memory: MemoryType,
}

/// What a fault asks of [`Backing::translate`].
#[derive(Clone, Copy, Debug)]
pub struct Request {
    /// The slot that holds the page.
    pub slot: SlotId,
    /// The guest page asked for: the first byte of the page that faulted.
    pub gpa: Gpa,
    /// The same page for the embedder: the slot's host address plus the page's offset in the slot.
    pub host: HostAddress,
    /// What the guest wants to do.
    pub access: Access,
    /// Whether the answer may take long: false inside the engine, true outside.
    pub may_block: bool,
}

/// The answer of [`Backing::translate`].
#[derive(Clone, Copy, Debug)]
pub enum Translation {
    /// The memory is there.
    Run(Run),
    /// The answer would take long (a page-in); ask again with `may_block`.
    WouldBlock,
    /// The backing is being changed; the guest shall try again.
    Retry,
    /// The access is refused: there is no memory behind the page, or not for this kind of access.
    Denied,
}

/// A run of contiguous host memory of one kind behind contiguous guest memory.
#[derive(Clone, Copy, Debug)]
pub struct Run {
    /// The guest addresses that the run covers. Must hold the page asked for; is cut to the slot by the engine.
    pub guest: GpaRange,
    /// Where the run's first byte lies in host physical memory.
    pub hpa: Hpa,
    /// The largest leaf that may map this memory. Blocks larger than the host's own pages get more pages invalidated
    /// than the host meant to.
    pub largest: Level,
    /// What the host itself allows the guest to do. Without writing it asks for another fault before the first write
    /// (copy on write).
    pub permissions: Permissions,
    /// How the memory is to be accessed.
    pub memory: MemoryType,
}

impl Run {
    /// Whether this is normal memory with all permissions.
    #[inline(always)]
    pub(crate) fn is_plain(&self) -> bool {
        self.permissions == Permissions::ALL && self.memory == MemoryType::Normal
    }
}

/// TLB maintenance for this VM. The embedder knows the VM's VMID and roots, and on which CPUs they may be loaded.
///
/// A flush must complete without progress by any thread that is inside the engine: a CPU outside guest mode counts as
/// done at once (it flushes, or loads a fresh root, before it enters the guest again), and whoever waits for another
/// CPU polls [`relax`](Self::relax). A flush that panics leaves entries locked: it is the VM's end.
pub trait Tlb {
    /// A flush that was begun and may still be running on other CPUs.
    type Pending;

    /// Begins a flush. Every earlier write to the tables by this thread must be visible to hardware walkers before the
    /// flush takes effect anywhere (arm64: `dsb ishst` first).
    fn flush(&self, flush: Flush) -> Self::Pending;

    /// Waits until `pending` is complete on every CPU: no CPU uses or keeps a translation that the flush covers, and
    /// no access through one is still on its way.
    fn wait(&self, pending: Self::Pending);

    /// Drops what the calling CPU itself may cache for the page at `page`, whose permissions were relaxed, as leaf of
    /// `level`. Stale copies on other CPUs are harmless: they fault and come here themselves.
    fn flush_local(&self, vcpu: VcpuId, page: Gpa, level: Hint);

    /// Called after entries were published and before the fault returns, for architectures whose walkers need a
    /// barrier to see them (arm64: `dsb ishst`; the exception return does the rest).
    fn published(&self) {}

    /// One turn of a wait inside the engine: a pause instruction, or a yield where threads share a CPU.
    fn relax(&self);
}

/// A promise about the entry format `F`, which memory safety rests on: the engine follows the table addresses that a
/// format decodes. The engine's own formats keep it; whoever writes another one makes it.
pub struct Trust<F>(PhantomData<fn(F)>);

impl<F> Trust<F> {
    /// For the formats of this crate, which their tests hold to the contract.
    pub(crate) const OURS: Self = Self(PhantomData);

    /// The promise.
    ///
    /// # Safety
    ///
    /// At every level, a word that `F::table` made decodes as a table at the same address, and no word that any other of
    /// its functions made, nor `F::LOCKED`, `F::FROZEN` or 0, decodes as a table. `F::geometry` is always the same, and
    /// says the size of the tables that [`TableMemory`] provides.
    pub const unsafe fn new() -> Self {
        Self(PhantomData)
    }
}

impl<F> fmt::Debug for Trust<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Trust")
    }
}

/// One TLB maintenance operation on this VM's translations.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Flush {
    /// Leaf entries in `range` that were of level `level`. Cached walks to the tables above may stay.
    Leaves {
        /// The exact extent of what was changed.
        range: GpaRange,
        /// The level of all leaves that were changed.
        level: Hint,
    },
    /// Everything cached for `range`, walk caches included: a table was unlinked.
    Tables {
        /// The exact extent of what was unlinked.
        range: GpaRange,
    },
    /// Everything cached for this VM.
    All,
}

/// At which level the leaves were that a flush has to drop. A wrong hint lets hardware skip the invalidation, so
/// whoever is not sure says [`Hint::Unknown`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Hint {
    /// All leaves concerned were of this level.
    Level(Level),
    /// Leaves of several levels, or of a level that was not seen.
    Unknown,
}

impl Hint {
    /// The hint that covers both.
    #[inline]
    pub fn join(self, other: Self) -> Self {
        if self == other { self } else { Self::Unknown }
    }
}

/// What a guest access wants to do.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Access {
    /// Read data.
    Read,
    /// Write data (reads, too, for an atomic operation).
    Write,
    /// Fetch an instruction.
    Execute,
}

/// What is allowed: any of reading data, writing data and fetching instructions.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Permissions(u8); // one byte, so that a fault compares them at once

impl Permissions {
    const READ_BIT: u8 = 1 << 0;
    const WRITE_BIT: u8 = 1 << 1;
    const EXECUTE_BIT: u8 = 1 << 2;

    /// Nothing.
    pub const NONE: Self = Self(0);
    /// Reading.
    pub const READ: Self = Self(Self::READ_BIT);
    /// Everything.
    pub const ALL: Self = Self(Self::READ_BIT | Self::WRITE_BIT | Self::EXECUTE_BIT);
    /// Reading and fetching.
    pub const READ_EXECUTE: Self = Self(Self::READ_BIT | Self::EXECUTE_BIT);
    /// Reading and writing.
    pub const READ_WRITE: Self = Self(Self::READ_BIT | Self::WRITE_BIT);

    /// These.
    #[inline(always)]
    pub const fn new(read: bool, write: bool, execute: bool) -> Self {
        Self(read as u8 | (write as u8) << 1 | (execute as u8) << 2)
    }

    /// Whether data may be read.
    #[inline(always)]
    pub const fn read(self) -> bool {
        self.0 & Self::READ_BIT != 0
    }

    /// Whether data may be written.
    #[inline(always)]
    pub const fn write(self) -> bool {
        self.0 & Self::WRITE_BIT != 0
    }

    /// Whether instructions may be fetched.
    #[inline(always)]
    pub const fn execute(self) -> bool {
        self.0 & Self::EXECUTE_BIT != 0
    }

    /// The same with or without writing.
    #[inline(always)]
    pub const fn with_write(self, write: bool) -> Self {
        Self(self.0 & !Self::WRITE_BIT | (write as u8) << 1)
    }

    /// The same with or without fetching.
    #[inline(always)]
    pub const fn with_execute(self, execute: bool) -> Self {
        Self(self.0 & !Self::EXECUTE_BIT | (execute as u8) << 2)
    }

    /// Whether `access` is among them.
    #[inline(always)]
    pub const fn allow(self, access: Access) -> bool {
        match access {
            Access::Read => self.read(),
            Access::Write => self.write(),
            Access::Execute => self.execute(),
        }
    }

    /// What both allow.
    #[inline(always)]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }
}

impl fmt::Debug for Permissions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let letter = |on, letter| if on { letter } else { '-' };
        write!(f, "{}{}{}", letter(self.read(), 'r'), letter(self.write(), 'w'), letter(self.execute(), 'x'))
    }
}

/// How memory is to be accessed.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum MemoryType {
    /// Cacheable, write-back.
    #[default]
    Normal,
    /// Normal memory that is not cached.
    NonCacheable,
    /// Device registers: no speculation, no gathering, no execution.
    Device,
}

/// A vCPU's number, below the VM's maximum.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct VcpuId(pub u32);

/// A slot's number, chosen by the embedder.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct SlotId(pub u32);

impl fmt::Display for SlotId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "slot {}", self.0)
    }
}
