//! One tree of tables, and the operations on it. Knows nothing of slots.

mod map;
mod protect;
mod remove;
mod selection;
mod shard;
mod split;

pub(crate) use map::Publish;
pub(crate) use protect::{Protection, What};
pub(crate) use remove::{CUTS, Removal};
pub(crate) use selection::{All, Marked, Selection};
pub(crate) use shard::{Shards, Ticket, TooManyOpen};
pub(crate) use split::Split;

use alloc::vec::Vec;

use crate::addr::{Gpa, GpaRange, Level};
use crate::format::{Format, Geometry, Kind};
use crate::host::Host;
use crate::reclaim::{Domain, OutOfMemory, Reader, Section, vec_with};
use crate::sync::Padded;
use crate::table::{Cache, Counts, Position, Root, Tally};
use crate::tlb::Gather;

/// A tree, those who may work on it, and what orders them.
pub(crate) struct Space<H: Host, F: Format> {
    pub(crate) host: H,
    pub(crate) format: F,
    pub(crate) root: Padded<Root<H>>,
    pub(crate) shards: Shards<H::Atomics>,
    pub(crate) domain: Domain<H::Atomics>,
    /// One per record of the domain; the last one belongs to the space itself.
    tallies: Vec<Padded<Tally<H::Atomics>>>,
    /// Flushes of more bytes than this become flushes of everything.
    flush_threshold: u64,
}

impl<H: Host, F: Format> Space<H, F> {
    /// An empty tree for at most `members` handles.
    pub(crate) fn new(host: H, format: F, members: usize, flush_threshold: u64) -> Result<Self, OutOfMemory> {
        let geometry = format.geometry();
        let domain = Domain::new(members)?;
        let shards = Shards::new::<F>(geometry)?;
        let tallies = vec_with(members + 1, || Padded(Tally::new()))?;
        let root = host.allocate(geometry.root_tables()).ok_or(OutOfMemory)?;
        let space = Self { host, format, root: Padded(Root::new(root)), shards, domain, tallies, flush_threshold };
        space.own_tally().allocated(geometry.root_tables());
        Ok(space)
    }

    pub(crate) fn geometry(&self) -> Geometry {
        self.format.geometry()
    }

    #[inline(always)]
    pub(crate) fn tally(&self, reader: &Reader) -> &Tally<H::Atomics> {
        &self.tallies[reader.index()]
    }

    /// The tally of what belongs to no handle. One thread at a time: creation and destruction.
    pub(crate) fn own_tally(&self) -> &Tally<H::Atomics> {
        &self.tallies[self.tallies.len() - 1]
    }

    pub(crate) fn counts(&self) -> Counts {
        let mut sum = Counts::default();
        for tally in &self.tallies {
            tally.add_to(&mut sum);
        }
        sum
    }

    pub(crate) fn gather(&self) -> Gather {
        Gather::new(self.flush_threshold)
    }
}

/// One handle's means: its place in the domain, and its tables.
pub(crate) struct Member {
    pub(crate) reader: Reader,
    pub(crate) cache: Cache,
}

/// One handle standing inside: what every operation on the tree works with.
pub(crate) struct Visit<'s, H: Host, F: Format> {
    pub(crate) space: &'s Space<H, F>,
    pub(crate) section: &'s Section<'s, H::Atomics>,
    pub(crate) tally: &'s Tally<H::Atomics>,
}

impl<H: Host, F: Format> Clone for Visit<'_, H, F> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<H: Host, F: Format> Copy for Visit<'_, H, F> {}

impl<'s, H: Host, F: Format> Visit<'s, H, F> {
    /// The lowest entry on the path to `gpa` that is not a table, or the entry of level `lowest`; `None` when the tree
    /// is gone.
    #[inline(always)]
    pub(crate) fn walk(self, gpa: Gpa, lowest: Level) -> Option<Position<'s, H>> {
        Some(self.at_root(gpa)?.descend(&self.space.host, self.space.format, self.section, gpa, lowest))
    }

    /// As [`walk`](Self::walk) down to the page level, unrolled for the depths that there are.
    #[inline(always)]
    pub(crate) fn walk_unrolled(self, gpa: Gpa) -> Option<Position<'s, H>> {
        match self.space.geometry().root_level().get() {
            3 => self.walk_levels::<3>(gpa),
            2 => self.walk_levels::<2>(gpa),
            _ => self.walk(gpa, Level::PAGE),
        }
    }

    #[inline(always)]
    fn walk_levels<const ROOT: u8>(self, gpa: Gpa) -> Option<Position<'s, H>> {
        let mut position = self.at_root_of(gpa, Level::new(ROOT))?;
        for level in (1..=ROOT).rev() {
            if self.space.format.kind(position.raw, Level::new(level)) != Kind::Table {
                return Some(position);
            }
            position = self.below(Position { level: Level::new(level), ..position }, gpa);
        }
        Some(position)
    }

    /// The root's entry for `gpa`.
    #[inline(always)]
    pub(crate) fn at_root(self, gpa: Gpa) -> Option<Position<'s, H>> {
        self.at_root_of(gpa, self.space.geometry().root_level())
    }

    #[inline(always)]
    fn at_root_of(self, gpa: Gpa, level: Level) -> Option<Position<'s, H>> {
        let root = self.space.root.load()?;
        Some(Position::at_root(&self.space.host, self.space.format, self.section, root, level, gpa))
    }

    /// The entry one level further down the path to `gpa` from one that was seen to be a table.
    #[inline(always)]
    pub(crate) fn below(self, position: Position<'s, H>, gpa: Gpa) -> Position<'s, H> {
        position.below(&self.space.host, self.space.format, self.section, gpa)
    }

    /// What an entry of `level` over `gpa` covers.
    #[inline]
    pub(crate) fn span(self, gpa: Gpa, level: Level) -> GpaRange {
        self.space.format.geometry().span(gpa, level)
    }

    /// Waits until `position`'s entry is no longer locked. The caller owns nothing that is locked and has closed its
    /// gather: the owner waits for nothing but its own flush (R4).
    pub(crate) fn wait_unlocked(self, position: Position<'s, H>) {
        while position.entry().load() == F::LOCKED {
            self.space.host.relax();
        }
    }
}

/// How far a range operation came.
pub(crate) struct Reached {
    /// Where it goes on; `None` when nothing is left to do.
    pub(crate) next: Option<Gpa>,
    /// Entries visited.
    pub(crate) visited: u64,
}
