//! Page walkers, written from the architectures' manuals and from nothing else.
//!
//! An architecture says, one descriptor at a time, where a walk goes on or how it ends ([`Walker`]); the walk itself,
//! the reads and the hardware's own updates of descriptors, is the same for all ([`walk`]). No line is shared with
//! `slat::format`, which these walkers hold to account.

pub mod arm64;
pub mod ept;
pub mod npt;
pub mod riscv;
#[cfg(test)]
mod sparse;

use std::fmt;

use slat::addr::{Gpa, Hpa, Level};
use slat::host::{Access, Permissions};

use crate::maintenance::Maintenance;
use crate::tlb::{TablePath, WalkCache};

/// Physical memory as a walker sees it.
pub trait DescriptorMemory {
    /// Reads the descriptor at `hpa`.
    fn read(&self, hpa: Hpa) -> Result<u64, Abort>;

    /// Replaces the descriptor `current` at `hpa` by `new`, atomically; the inner error is what was there instead.
    fn update(&self, hpa: Hpa, current: u64, new: u64) -> Result<Result<u64, u64>, Abort>;

    /// Changes whenever the frame that holds `hpa` is given to another use; `None` while it is no table at all.
    fn generation(&self, hpa: Hpa) -> Option<u32>;
}

/// There is no table at a physical address that a walk came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Abort {
    /// Where the walk looked.
    pub hpa: Hpa,
}

/// One architecture's reading of its descriptors.
pub trait Walker: fmt::Debug + Send + Sync {
    /// The level of the root, where a walk for `gpa` begins.
    fn start(&self, gpa: Gpa) -> Result<Level, Fault>;

    /// What a hypervisor writes into the root register to have the tables at `root` walked.
    fn register(&self, root: Hpa) -> Hpa {
        root
    }

    /// Where the root's tables begin, from what the root register holds.
    fn root(&self, register: Hpa) -> Result<Hpa, Fault>;

    /// Where, in the table at `table`, the descriptor of `level` for `gpa` lies. `table` is the root when `level` is
    /// the one that the walk began at.
    fn descriptor(&self, table: Hpa, level: Level, gpa: Gpa) -> Hpa;

    /// What a descriptor read at `level` says.
    fn resolve(&self, descriptor: u64, level: Level) -> Step;

    /// Where the leaf's memory lies for an access to `gpa`, where the descriptor alone does not say so.
    fn output_at(&self, translation: Translation, _gpa: Gpa) -> Hpa {
        translation.output
    }

    /// What hardware turns a leaf's descriptor into before it writes through it, where it keeps a dirty flag.
    fn dirtied(&self, descriptor: u64) -> u64 {
        descriptor
    }

    /// Bytes that a leaf of `level` maps, as a power of two.
    fn shift(&self, level: Level) -> u32;

    /// How the architecture's TLBs are told that tables were changed.
    fn maintenance(&self) -> Maintenance;

    /// Whether a core may hold leaves of two sizes for one address, and use either, if they are of the same memory (arm64:
    /// FEAT_BBML2).
    fn mixes_sizes(&self) -> bool {
        false
    }

    /// Whether a core forgets what it has cached for an address when an access there faults.
    fn forgets_faults(&self) -> bool {
        false
    }
}

/// What one descriptor says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    /// The walk goes on in a table of the level below.
    Table {
        /// Where the table lies.
        table: Hpa,
        /// What may be done at most through everything below.
        permissions: Permissions,
        /// What hardware turns the descriptor into before it goes on, if it does.
        update: Option<u64>,
    },
    /// The walk ends.
    Leaf {
        /// What it found.
        translation: Translation,
        /// What hardware turns the descriptor into before it uses the translation, if it does.
        update: Option<u64>,
    },
    /// The walk fails.
    Fault(FaultKind),
}

/// What a complete walk found: all that a TLB keeps.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Translation {
    /// Where the leaf's first byte lies.
    pub output: Hpa,
    /// The leaf's level.
    pub level: Level,
    /// What may be done through it.
    pub permissions: Permissions,
    /// How the memory is accessed.
    pub memory: Memory,
    /// Whether writing needs no more than permission. False where hardware keeps a dirty flag that is clear: the first
    /// write walks again to set it.
    pub dirty: bool,
    /// How many leaves the descriptor says that it stands for, as a power of two: those of the aligned set around it, which
    /// lie beside each other in memory and say the same. 0 for itself alone.
    pub set_bits: u32,
}

/// How the memory behind a leaf is accessed: the weaker, if its inner and outer attributes differ.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Memory {
    /// Cacheable, write-back.
    WriteBack,
    /// Cacheable, write-through.
    WriteThrough,
    /// Cacheable for reads; writes go to memory and drop cached copies.
    WriteProtected,
    /// Normal memory that is not cached.
    NonCacheable,
    /// Device registers.
    Device,
}

/// Why an access does not happen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fault {
    /// What is wrong.
    pub kind: FaultKind,
    /// The level of the descriptor that says so.
    pub level: Level,
    /// What all descriptors on the way allow together; nothing, where the walk did not come to its end.
    pub permissions: Permissions,
}

impl Fault {
    /// A walk that did not come to its end: it stopped at a descriptor of `level`.
    pub const fn at(level: Level, kind: FaultKind) -> Self {
        Self { kind, level, permissions: Permissions::NONE }
    }
}

/// What is wrong with an access or its walk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FaultKind {
    /// Nothing is mapped.
    Translation,
    /// An address is larger than the configuration allows.
    AddressSize,
    /// The leaf has not been marked as accessed, and hardware does not do it.
    AccessFlag,
    /// The leaf, or a table on the way to it, does not allow the access.
    Permission,
    /// A descriptor has a value that the architecture reserves (x86: EPT misconfiguration).
    Misconfiguration,
    /// The root register has a value that the architecture does not take (x86: the VM entry fails).
    Root,
    /// The walk came to a physical address where there is no table: an external abort.
    External(Hpa),
}

/// Walks from the root register's value for `access` to `gpa`, beginning at the lowest table that `cache` knows, and
/// leaving there the tables that it came through.
///
/// The result is what a TLB may keep. Whether it allows the access is the caller's question.
pub fn walk(
    walker: &dyn Walker,
    memory: &dyn DescriptorMemory,
    register: Hpa,
    gpa: Gpa,
    access: Access,
    cache: &mut WalkCache,
) -> Result<Translation, Fault> {
    let start = walker.start(gpa)?;
    let mut path = match cache.lookup(memory, gpa, start)? {
        Some(cached) => cached,
        None => TablePath { table: walker.root(register)?, level: start, permissions: Permissions::ALL },
    };
    loop {
        match read(walker, memory, path, gpa, access)? {
            Step::Table { table, permissions, .. } => {
                let level = path.level.below().expect("no architecture has tables below the page level");
                path = TablePath { table, level, permissions: path.permissions.and(permissions) };
                cache.fill(memory, gpa, path);
            }
            Step::Leaf { translation, .. } => {
                let output = walker.output_at(translation, gpa);
                return Ok(Translation { output, ..translation });
            }
            Step::Fault(kind) => return Err(Fault::at(path.level, kind)),
        }
    }
}

/// Reads one descriptor, updating it as hardware would; reads it again when somebody else changed it meanwhile.
fn read(
    walker: &dyn Walker,
    memory: &dyn DescriptorMemory,
    path: TablePath,
    gpa: Gpa,
    access: Access,
) -> Result<Step, Fault> {
    let external = |abort: Abort| Fault::at(path.level, FaultKind::External(abort.hpa));
    let at = walker.descriptor(path.table, path.level, gpa);
    let mut descriptor = memory.read(at).map_err(external)?;
    loop {
        let (step, used) = step(walker, descriptor, path, access);
        if used == descriptor {
            return Ok(step);
        }
        match memory.update(at, descriptor, used).map_err(external)? {
            Ok(_) => return Ok(step),
            Err(found) => descriptor = found,
        }
    }
}

/// What a descriptor at the end of `path` comes to, and what hardware leaves there.
fn step(walker: &dyn Walker, descriptor: u64, path: TablePath, access: Access) -> (Step, u64) {
    match walker.resolve(descriptor, path.level) {
        Step::Leaf { mut translation, update } => {
            let mut used = update.unwrap_or(descriptor);
            translation.permissions = translation.permissions.and(path.permissions);
            if access == Access::Write && translation.permissions.write() && !translation.dirty {
                used = walker.dirtied(used);
                translation.dirty = true;
            }
            (Step::Leaf { translation, update }, used)
        }
        step @ Step::Table { update, .. } => (step, update.unwrap_or(descriptor)),
        step @ Step::Fault(_) => (step, descriptor),
    }
}

/// What becomes of `access` at `gpa`, without any cache: the whole verdict of the manual, permissions included.
pub fn translate(
    walker: &dyn Walker,
    memory: &dyn DescriptorMemory,
    register: Hpa,
    gpa: Gpa,
    access: Access,
) -> Result<Translation, Fault> {
    let translation = walk(walker, memory, register, gpa, access, &mut WalkCache::without_entries())?;
    translation.check(access)
}

impl Translation {
    /// The translation, if it allows `access`.
    #[inline]
    pub fn check(self, access: Access) -> Result<Self, Fault> {
        let Self { level, permissions, .. } = self;
        if permissions.allow(access) {
            Ok(self)
        } else {
            Err(Fault { kind: FaultKind::Permission, level, permissions })
        }
    }

    /// Whether hardware performs `access` through a cached copy, or refuses it, without looking at the tables again.
    #[inline]
    pub const fn suffices(self, access: Access) -> bool {
        self.dirty || !matches!(access, Access::Write) || !self.permissions.write()
    }
}
