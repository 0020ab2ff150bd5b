//! The shape of a tree of tables.

use crate::addr::{Gpa, GpaRange, Level};

/// Levels, index widths and leaf sizes of a format. All levels below the root resolve the same number of bits; the root
/// may resolve more (concatenated tables on arm64, the widened root of RISC-V).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Geometry {
    page_shift: u8,
    index_bits: u8,
    root: Level,
    root_bits: u8,
    largest_leaf: Level,
    shard_shift: u8,
}

impl Geometry {
    /// A geometry with pages of `1 << page_shift` bytes, tables of `1 << index_bits` entries, a root table of level
    /// `root` that resolves `root_bits` bits, and leaves up to level `largest_leaf`.
    ///
    /// Invalidations are counted per region of `1 << shard_shift` bytes, which no leaf may exceed (R4). The numbers must
    /// not contradict each other, which debug builds check.
    #[inline(always)]
    pub const fn new(
        page_shift: u8,
        index_bits: u8,
        root: Level,
        root_bits: u8,
        largest_leaf: Level,
        shard_shift: u8,
    ) -> Self {
        debug_assert!(root_bits > 0 && root_bits <= index_bits + 4, "a root is at most 16 tables");
        debug_assert!(largest_leaf.get() <= root.get(), "a leaf fits in the tree");
        debug_assert!(page_shift + index_bits * largest_leaf.get() <= shard_shift, "a leaf fits in a shard's region");
        debug_assert!(page_shift + index_bits <= shard_shift, "a table of pages fits in a shard's region");
        debug_assert!(page_shift + index_bits * root.get() + root_bits <= 59, "no architecture has larger addresses");
        Self { page_shift, index_bits, root, root_bits, largest_leaf, shard_shift }
    }

    /// Bytes in a page.
    #[inline]
    pub const fn page_size(&self) -> u64 {
        1 << self.page_shift
    }

    /// The page size as a power of two.
    #[inline]
    pub const fn page_shift(&self) -> u32 {
        self.page_shift as u32
    }

    /// Entries in a table below the root.
    #[inline]
    pub const fn entries(&self) -> usize {
        1 << self.index_bits
    }

    /// Entries in the root.
    #[inline]
    pub const fn root_entries(&self) -> usize {
        1 << self.root_bits
    }

    /// Contiguous tables that make up the root: more than one when they are concatenated.
    #[inline]
    pub const fn root_tables(&self) -> usize {
        1 << self.root_bits.saturating_sub(self.index_bits)
    }

    /// The level of the root's entries.
    #[inline]
    pub const fn root_level(&self) -> Level {
        self.root
    }

    /// The highest level that may hold a leaf.
    #[inline]
    pub const fn largest_leaf(&self) -> Level {
        self.largest_leaf
    }

    /// Bytes of a table in memory.
    #[inline]
    pub const fn table_bytes(&self) -> u64 {
        8 << self.index_bits
    }

    /// Bits of a guest physical address.
    #[inline]
    pub const fn address_bits(&self) -> u32 {
        self.shift(self.root) + self.root_bits as u32
    }

    /// All guest physical addresses.
    #[inline]
    pub const fn address_space(&self) -> GpaRange {
        GpaRange::around(Gpa::new(0), 1 << self.address_bits())
    }

    /// Bytes that one entry of `level` covers, as a power of two.
    #[inline(always)]
    pub const fn shift(&self, level: Level) -> u32 {
        self.page_shift as u32 + self.index_bits as u32 * level.get() as u32
    }

    /// Bytes that one entry of `level` covers.
    #[inline(always)]
    pub const fn size(&self, level: Level) -> u64 {
        1 << self.shift(level)
    }

    /// Pages that one entry of `level` covers.
    #[inline]
    pub const fn pages(&self, level: Level) -> u64 {
        1 << (self.index_bits as u32 * level.get() as u32)
    }

    /// Bytes of the regions that invalidations are counted by, as a power of two.
    #[inline]
    pub const fn shard_shift(&self) -> u32 {
        self.shard_shift as u32
    }

    /// The index, in a table of `level` below the root, of the entry that covers `gpa`.
    #[inline(always)]
    pub const fn index(&self, gpa: Gpa, level: Level) -> usize {
        (gpa.get() >> self.shift(level)) as usize & (self.entries() - 1)
    }

    /// The index in the root of the entry that covers `gpa`, an address inside [`address_space`](Self::address_space).
    #[inline(always)]
    pub const fn root_index(&self, gpa: Gpa) -> usize {
        (gpa.get() >> self.shift(self.root)) as usize & (self.root_entries() - 1)
    }

    /// The guest addresses that an entry of `level` around `gpa` covers.
    #[inline]
    pub const fn span(&self, gpa: Gpa, level: Level) -> GpaRange {
        GpaRange::around(gpa, self.size(level))
    }
}
