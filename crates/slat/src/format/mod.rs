//! What an entry's bits mean: pure functions, one file per architecture.
//!
//! A format reads no memory, knows no atomics and contains no `unsafe`. [`exemplar`] documents the contract in code.

mod arm64;
mod ept;
pub mod exemplar;
mod fake;
mod fields;
mod geometry;
mod npt;
#[cfg(test)]
mod registers;
mod riscv;
#[cfg(test)]
mod shapes;
#[cfg(test)]
mod words;

pub use arm64::{
    Arm64, Arm64_16k, Arm64_16kContiguous, Arm64_16kFwb, Arm64_16kLpa2, Arm64_16kLpa2Fwb, Arm64_64k,
    Arm64_64kContiguous, Arm64_64kFwb, Arm64Bbm2, Arm64Contiguous, Arm64Error, Arm64Fwb, Arm64Hd, Arm64Lpa2,
    Arm64Lpa2Fwb, Stage2,
};
pub use ept::{Ept, Ept5, Ept5Ad, EptAd, ExtendedPageTables};
pub use fake::Fake;
pub use geometry::Geometry;
pub use npt::{NESTED_CONTROL, NestedPageTables, Npt, Npt5, Npt5Ad, NptAd};
pub use riscv::{GStage, Sv39x4, Sv39x4Adu, Sv48x4, Sv48x4Adu, Sv48x4Napot, Sv57x4, Sv57x4Adu};

use crate::addr::{Hpa, Level};
use crate::host::{Access, MemoryType, Permissions, Trust};

/// Members of the largest group that any architecture has (arm64, pages of 16 KiB).
pub const MOST_MEMBERS: usize = 128;

/// An entry format of one architecture's second stage, with its run-time configuration (address size, features).
///
/// A format's words have these states: *empty* (the word 0, or an annotation), *locked*, *frozen*, *table* and *leaf*. To
/// the hardware the first three must be invalid, but for words that are [`held`](Self::held) or [`frozen`](Self::frozen),
/// with which it goes on meanwhile. Functions that ask one thing of a word ([`is_table`](Self::is_table),
/// [`permits`](Self::permits), [`is_writable`](Self::is_writable), [`may_write`](Self::may_write)) take any word and say
/// `false` of one in another state, so that a hot path asks nothing else; of a word with which hardware goes on, `permits`
/// may say what hardware does. A leaf word that is changed the same way twice is what it was after the first time.
pub trait Format: Copy + Send + Sync + 'static {
    /// The format's name, as commands take it: lower case, words joined by `-`.
    const NAME: &'static str;
    /// The promise that the format keeps its contract.
    const TRUST: Trust<Self>;
    /// The word of an entry that one owner is changing. Invalid to the hardware, not 0.
    const LOCKED: u64;
    /// The word of an entry whose table was unlinked. Invalid to the hardware, not 0.
    const FROZEN: u64;
    /// Into how many counters the regions of invalidations are folded; a power of two.
    const SHARDS: usize = 64;
    /// Where an empty word carries an annotation. The word is invalid to the hardware.
    const ANNOTATION: AnnotationField;
    /// The software bit of [`Kind::Table`] words that says that annotations lie below.
    const KEPT: u64;
    /// How many of its last events each shard remembers, so that a fault retries on overlap only; a power of two.
    const REMEMBERED: usize = 16;

    /// Levels, index widths and leaf sizes.
    fn geometry(&self) -> Geometry;

    /// Bits of a host physical address that the format's entries can hold.
    fn output_bits(&self) -> u32;

    /// The state of a word that was read at `level`.
    fn kind(&self, raw: u64, level: Level) -> Kind;

    /// Whether a word read at `level` points to a table: [`kind`](Self::kind) says [`Kind::Table`].
    #[inline(always)]
    fn is_table(&self, raw: u64, level: Level) -> bool {
        self.kind(raw, level) == Kind::Table
    }

    /// Whether a [`Kind::Table`] word says that annotations lie below.
    #[inline(always)]
    fn is_kept(&self, raw: u64) -> bool {
        raw & Self::KEPT != 0
    }

    /// The entry that points to the table at `table`, from `level` (never the page level).
    fn table(&self, table: Hpa, level: Level) -> u64;

    /// The table that a [`Kind::Table`] entry read at `level` points to.
    fn table_address(&self, raw: u64, level: Level) -> Hpa;

    /// The leaf that maps `leaf` at `level`. Allows nothing that `leaf` does not, and less where the architecture cannot
    /// express it or must not grant it (execution of memory that is not [`MemoryType::Normal`]); permissions that include
    /// reading are granted in full for normal memory.
    fn leaf(&self, leaf: Leaf, level: Level) -> u64;

    /// What a [`Kind::Leaf`] word read at `level` says.
    fn decode(&self, raw: u64, level: Level) -> Leaf;

    /// Whether the word read at `level` is a leaf through which hardware performs `access` without a fault, the accessed
    /// flag included.
    fn permits(&self, raw: u64, level: Level, access: Access) -> bool;

    /// Whether the word read at `level` is a leaf through which hardware may write. A leaf that is not accessed may say
    /// either.
    fn is_writable(&self, raw: u64, level: Level) -> bool;

    /// Whether the word read at `level` is a leaf that may be made writable again: slot and host allow it, only the
    /// dirty log withholds it.
    fn may_write(&self, raw: u64, level: Level) -> bool;

    /// The leaf word made writable, accessed and (where the format has it) dirty.
    fn made_writable(&self, raw: u64, level: Level) -> u64;

    /// The leaf word made accessed.
    fn made_accessed(&self, raw: u64, level: Level) -> u64;

    /// The leaf word made not accessed: the next access faults, or hardware notes it.
    fn made_old(&self, raw: u64, level: Level) -> u64;

    /// The leaf word with write permission withheld; `may_write` stays as it is.
    fn write_protected(&self, raw: u64, level: Level) -> u64;

    /// The leaf word with write permission withdrawn for good: `may_write` goes, too.
    fn write_revoked(&self, raw: u64, level: Level) -> u64;

    /// Whether hardware sets the accessed flag of leaves by itself, as this format is configured: an access through a leaf
    /// that is not accessed needs no fault.
    #[inline(always)]
    fn hardware_accessed(&self) -> bool {
        false
    }

    /// Whether hardware notes by itself what it writes to, as this format is configured: a leaf that it may write through is
    /// clean at first, and is made dirty by the first write, without a fault.
    #[inline(always)]
    fn hardware_dirty(&self) -> bool {
        false
    }

    /// Whether the word read at `level` is a leaf that has been written through, as far as hardware notes that. Withholding
    /// permissions and ageing keep what is noted. Takes any word.
    #[inline(always)]
    fn is_dirty(&self, _raw: u64, _level: Level) -> bool {
        false
    }

    /// The leaf word made clean, and as writable as before.
    #[inline(always)]
    fn made_clean(&self, raw: u64, _level: Level) -> u64 {
        raw
    }

    /// Leaves of `level` in a contiguous group, as a power of two; 0 where the architecture has no groups, or they are
    /// not asked for.
    ///
    /// A group is one leaf: aligned neighbouring entries of one table that map aligned neighbouring memory, of which
    /// hardware may cache any one for all. Its members differ in nothing but the accessed flag and, while somebody is
    /// changing that for all of them, write permission.
    #[inline(always)]
    fn group_bits(&self, _level: Level) -> u32 {
        0
    }

    /// Whether the word is a leaf that is a member of a group; `false` of a word in any other state.
    #[inline(always)]
    fn is_grouped(&self, _raw: u64, _level: Level) -> bool {
        false
    }

    /// The leaf word made that of a member of its group. All that is asked of leaves may be asked of it, and every change
    /// of a leaf be made to it, but where its memory lies is known only once it is [`ungrouped`](Self::ungrouped).
    #[inline(always)]
    fn grouped(&self, raw: u64, _level: Level) -> u64 {
        raw
    }

    /// The word of member number `member` of a group made that of a leaf of its own.
    #[inline(always)]
    fn ungrouped(&self, raw: u64, _level: Level, _member: usize) -> u64 {
        raw
    }

    /// What changing a valid entry of `level` from `old` to `new` needs from TLB maintenance.
    fn change(&self, old: u64, new: u64, level: Level) -> Change;

    /// Whether there is a change that is [`Change::Overlap`]: hardware may have cached leaves of two sizes for one address,
    /// and nothing less than a flush of everything is sure to drop both.
    #[inline(always)]
    fn overlaps(&self) -> bool {
        false
    }

    /// The [`Kind::Table`] or [`Kind::Leaf`] word as it stands while one owner changes the entry: what it was to hardware,
    /// [`Kind::Locked`] to software. Asked where a change is [`Change::Overlap`]: of the table that comes or goes, and of
    /// the leaf that comes.
    #[inline(always)]
    fn held(&self, _raw: u64, _level: Level) -> u64 {
        Self::LOCKED
    }

    /// The [`Kind::Leaf`] word below an entry that is [`held`](Self::held): what it was to hardware, [`Kind::Frozen`] to
    /// software.
    #[inline(always)]
    fn frozen(&self, _raw: u64, _level: Level) -> u64 {
        Self::FROZEN
    }
}

/// Where the empty words of a format carry an annotation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AnnotationField {
    /// The lowest bit of the annotation.
    pub shift: u32,
    /// Bits that an annotation can have, fewer than 64.
    pub bits: u32,
    /// What the word has beside: not 0, so that an annotation of 0 is not the zero word.
    pub mark: u64,
}

impl AnnotationField {
    /// The bits that the annotation takes.
    pub const fn mask(self) -> u64 {
        ((1 << self.bits) - 1) << self.shift
    }

    /// The empty word that carries `annotation`, of which bits that the field lacks are left out. Not 0.
    #[inline(always)]
    pub const fn word(self, annotation: u64) -> u64 {
        fields::union([(annotation << self.shift) & self.mask(), self.mark])
    }

    /// The annotation that a [`Kind::Empty`] word other than 0 carries.
    #[inline(always)]
    pub const fn read(self, raw: u64) -> u64 {
        (raw & self.mask()) >> self.shift
    }
}

/// The state of an entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Nothing is mapped here, and nothing is cached of what may have been.
    Empty,
    /// One owner is changing the entry, for a bounded time.
    Locked,
    /// The entry's table was unlinked: start again from the root.
    Frozen,
    /// The entry points to a table of the level below.
    Table,
    /// The entry maps memory.
    Leaf,
}

/// What a leaf says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Leaf {
    /// The host memory it maps, aligned to the leaf's size.
    pub hpa: Hpa,
    /// What the hardware allows now.
    pub permissions: Permissions,
    /// Software's note that slot and host allow writing, whatever the dirty log withholds.
    pub may_write: bool,
    /// How the memory is accessed.
    pub memory: MemoryType,
    /// The accessed flag: without it the next access faults, or hardware sets it.
    pub accessed: bool,
}

impl Leaf {
    /// The leaf that says what both say, where they differ in permissions or the accessed flag: permissions intersected,
    /// accessed united.
    pub(crate) fn united(self, other: Self) -> Self {
        Self {
            permissions: self.permissions.and(other.permissions),
            may_write: self.may_write && other.may_write,
            accessed: self.accessed || other.accessed,
            ..self
        }
    }
}

/// What changing one valid entry to another needs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Change {
    /// Nothing beyond the store: a stale copy is harmless, its user faults and finds the new entry.
    Free,
    /// A flush before the change may be relied on.
    Flush,
    /// Hardware may use the new entry at once, beside what it has cached of the old one, which is the same memory in leaves
    /// of another size. Software may not before a flush of everything: the entry is [held](Format::held) until then.
    Overlap,
    /// Break-before-make: an invalid entry and a flush in between (R1).
    Break,
}
