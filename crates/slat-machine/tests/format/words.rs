//! Every word that a leaf can have, wherever it can stand, and what the walker makes of it.

use slat::addr::{Gpa, Hpa, Level};
use slat::format::{Format, Leaf};
use slat::host::{Access, MemoryType, Permissions};
use slat_machine::walk::{FaultKind, Memory, Step, Translation, Walker};

pub(super) const ACCESSES: [Access; 3] = [Access::Read, Access::Write, Access::Execute];

pub(super) fn levels(format: impl Format) -> impl Iterator<Item = Level> {
    (0..=format.geometry().root_level().get()).map(Level::new)
}

pub(super) fn leaf_levels(format: impl Format) -> impl Iterator<Item = Level> {
    (0..=format.geometry().largest_leaf().get()).map(Level::new)
}

/// Every combination of attributes.
pub(super) fn leaves(hpa: u64) -> impl Iterator<Item = Leaf> {
    (0..32u32).flat_map(move |bits| {
        [MemoryType::Normal, MemoryType::NonCacheable, MemoryType::Device].map(move |memory| Leaf {
            hpa: Hpa::new(hpa),
            permissions: Permissions::new(bits & 1 != 0, bits & 2 != 0, bits & 4 != 0),
            may_write: bits & 8 != 0,
            memory,
            accessed: bits & 16 != 0,
        })
    })
}

/// Where a word stands: by itself, or as this member of a contiguous group.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub(super) level: Level,
    pub(super) member: Option<usize>,
}

/// Everywhere that a leaf's word can stand.
pub(super) fn places(format: impl Format) -> Vec<Place> {
    let members = |level| 0..if format.group_bits(level) > 0 { 1usize << format.group_bits(level) } else { 0 };
    let all = |level| [None].into_iter().chain(members(level).map(Some)).map(move |member| Place { level, member });
    leaf_levels(format).flat_map(all).collect()
}

impl Place {
    /// A guest address there.
    pub(super) fn gpa(self, format: impl Format) -> Gpa {
        Gpa::new(self.offset(format))
    }

    /// The leaf that maps what lies there of the memory at `first`.
    pub(super) fn leaf(self, format: impl Format, first: Leaf) -> Leaf {
        Leaf { hpa: Hpa::new(first.hpa.get() + self.offset(format)), ..first }
    }

    /// Its word.
    pub(super) fn word(self, format: impl Format, leaf: Leaf) -> u64 {
        self.made(format, format.leaf(leaf, self.level))
    }

    /// The word of a leaf by itself made what stands there.
    pub(super) fn made(self, format: impl Format, raw: u64) -> u64 {
        if self.member.is_some() { format.grouped(raw, self.level) } else { raw }
    }

    pub(super) fn offset(self, format: impl Format) -> u64 {
        format.geometry().size(self.level) * self.member.unwrap_or(0) as u64
    }

    /// How many leaves hardware may take the word for, as a power of two.
    pub(super) fn set_bits(self, format: impl Format) -> u32 {
        self.member.map_or(0, |_| format.group_bits(self.level))
    }
}

/// What the walker makes of a word for an access to `gpa`.
pub(super) fn verdict_at(
    walker: &dyn Walker,
    raw: u64,
    level: Level,
    gpa: Gpa,
    access: Access,
) -> Result<Translation, FaultKind> {
    let placed = |translation| Translation { output: walker.output_at(translation, gpa), ..translation };
    verdict(walker, raw, level, access).map(placed)
}

/// What the walker makes of a word, `access` included.
pub(super) fn verdict(walker: &dyn Walker, raw: u64, level: Level, access: Access) -> Result<Translation, FaultKind> {
    match walker.resolve(raw, level) {
        Step::Leaf { translation, .. } => translation.check(access).map_err(|fault| fault.kind),
        Step::Fault(kind) => {
            assert!(
                matches!(kind, FaultKind::Translation | FaultKind::AccessFlag),
                "{raw:#x} at {level} is no well-formed entry: {kind:?}"
            );
            Err(kind)
        }
        Step::Table { table, .. } => panic!("{raw:#x} at {level} leads to a table at {table}"),
    }
}

pub(super) fn kind_of(memory: Memory) -> MemoryType {
    match memory {
        Memory::WriteBack => MemoryType::Normal,
        Memory::NonCacheable => MemoryType::NonCacheable,
        Memory::Device => MemoryType::Device,
        other => panic!("the engine maps nothing as {other:?}"),
    }
}
