//! Page walkers, written from the architectures' manuals and from nothing else.
//!
//! An architecture says, one descriptor at a time, where a walk goes on or how it ends ([`Walker`]); the walk itself,
//! the reads and the hardware's own updates of descriptors, is the same for all ([`walk`]). No line is shared with
//! `slat::format`, which these walkers hold to account.

pub mod arm64;

use std::fmt;

use slat::addr::{Gpa, Hpa, Level};
use slat::host::{Access, Permissions};

use crate::tlb::WalkCache;

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

    /// Where the root's tables begin, from what the root register holds.
    fn root(&self, register: Hpa) -> Result<Hpa, Fault>;

    /// Where, in the table at `table`, the descriptor of `level` for `gpa` lies. `table` is the root when `level` is
    /// the one that the walk began at.
    fn descriptor(&self, table: Hpa, level: Level, gpa: Gpa) -> Hpa;

    /// What a descriptor read at `level` says.
    fn resolve(&self, descriptor: u64, level: Level) -> Step;

    /// Bytes that a leaf of `level` maps, as a power of two.
    fn shift(&self, level: Level) -> u32;
}

/// What one descriptor says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    /// The walk goes on in the table of the level below that lies here.
    Table(Hpa),
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
}

/// How the memory behind a leaf is accessed: the weaker, if its inner and outer attributes differ.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Memory {
    /// Cacheable, write-back.
    WriteBack,
    /// Cacheable, write-through.
    WriteThrough,
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
    /// The leaf does not allow the access.
    Permission,
    /// The walk came to a physical address where there is no table: an external abort.
    External(Hpa),
}

/// Walks from the root register's value for `gpa`, beginning at the lowest table that `cache` knows, and leaving there
/// the tables that it came through.
///
/// The result is what a TLB may keep. Whether it allows the access is the caller's question.
pub fn walk(
    walker: &dyn Walker,
    memory: &dyn DescriptorMemory,
    root: Hpa,
    gpa: Gpa,
    cache: &mut WalkCache,
) -> Result<Translation, Fault> {
    let start = walker.start(gpa)?;
    let (mut table, mut level) = match cache.lookup(memory, gpa, start)? {
        Some(cached) => cached,
        None => (walker.root(root)?, start),
    };
    loop {
        match read(walker, memory, walker.descriptor(table, level, gpa), level)? {
            Step::Table(below) => {
                table = below;
                level = level.below().expect("no architecture has tables below the page level");
                cache.fill(memory, gpa, level, table);
            }
            Step::Leaf { translation, .. } => return Ok(translation),
            Step::Fault(kind) => return Err(Fault { kind, level }),
        }
    }
}

/// Reads one descriptor, updating it as hardware would; reads it again when somebody else changed it meanwhile.
fn read(walker: &dyn Walker, memory: &dyn DescriptorMemory, at: Hpa, level: Level) -> Result<Step, Fault> {
    let external = |abort: Abort| Fault { kind: FaultKind::External(abort.hpa), level };
    let mut descriptor = memory.read(at).map_err(external)?;
    loop {
        let step = walker.resolve(descriptor, level);
        let Step::Leaf { update: Some(updated), .. } = step else { return Ok(step) };
        match memory.update(at, descriptor, updated).map_err(external)? {
            Ok(_) => return Ok(step),
            Err(found) => descriptor = found,
        }
    }
}

/// What becomes of `access` at `gpa`, without any cache: the whole verdict of the manual, permissions included.
pub fn translate(
    walker: &dyn Walker,
    memory: &dyn DescriptorMemory,
    root: Hpa,
    gpa: Gpa,
    access: Access,
) -> Result<Translation, Fault> {
    let translation = walk(walker, memory, root, gpa, &mut WalkCache::without_entries())?;
    translation.check(access)
}

impl Translation {
    /// The translation, if it allows `access`.
    pub fn check(self, access: Access) -> Result<Self, Fault> {
        let Self { level, permissions, .. } = self;
        if permissions.allow(access) { Ok(self) } else { Err(Fault { kind: FaultKind::Permission, level }) }
    }
}
