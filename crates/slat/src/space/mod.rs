//! One tree of tables, and the operations on it. Knows nothing of slots.

mod age;
mod annotate;
mod collapse;
mod dirty;
mod group;
mod map;
mod protect;
mod remove;
mod selection;
mod shard;
mod split;
mod split_ahead;

pub(crate) use annotate::Divide;
pub(crate) use group::Grouping;
pub(crate) use map::Publish;
pub(crate) use protect::{Protection, What};
pub(crate) use remove::{CUTS, Removal};
pub(crate) use selection::{All, Marked, Selection};
pub(crate) use shard::{Shards, Ticket, TooManyOpen};
pub(crate) use split::Split;

use crate::addr::{Gpa, GpaRange, Level};
use crate::format::{Format, Geometry, Kind};
use crate::host::Host;
use crate::reclaim::{Domain, Inside, OutOfMemory, Reader};
use crate::sync::{Atomics, Padded};
use crate::table::{Cache, Counts, Entry, Position, Root, Tally};
use crate::tlb::Gather;

/// A tree, those who may work on it, and what orders them.
pub(crate) struct Space<H: Host, F: Format> {
    pub(crate) host: H,
    pub(crate) format: F,
    pub(crate) root: Padded<Root<H>>,
    pub(crate) shards: Shards<H::Atomics>,
    pub(crate) domain: Domain<H::Atomics>,
    /// The first address past the guest physical address space.
    pub(crate) end: Gpa,
    /// The same if the root is one table of level 3, else 0: one comparison finds both out.
    end_of_four_levels: Gpa,
    /// Counts what belongs to no handle.
    own_tally: Tally<H::Atomics>,
    /// Flushes of more bytes than this become flushes of everything.
    flush_threshold: u64,
}

impl<H: Host, F: Format> Space<H, F> {
    /// An empty tree for at most `members` handles.
    pub(crate) fn new(host: H, format: F, members: usize, flush_threshold: u64) -> Result<Self, OutOfMemory> {
        let geometry = format.geometry();
        let domain = Domain::new(members)?;
        let shards = Shards::new::<F>(geometry)?;
        let root = host.allocate(geometry.root_tables()).ok_or(OutOfMemory)?;
        let has_four_levels = geometry.root_level() == Level::new(3) && geometry.root_tables() == 1;
        let space = Self {
            host,
            format,
            root: Padded(Root::new(root)),
            shards,
            domain,
            end: geometry.address_space().end(),
            end_of_four_levels: if has_four_levels { geometry.address_space().end() } else { Gpa::new(0) },
            own_tally: Tally::new(),
            flush_threshold,
        };
        space.own_tally().allocated(geometry.root_tables());
        Ok(space)
    }

    pub(crate) fn geometry(&self) -> Geometry {
        self.format.geometry()
    }

    #[inline(always)]
    pub(crate) fn tally(&self, reader: &Reader<H::Atomics>) -> &Tally<H::Atomics> {
        self.domain.tally(reader)
    }

    /// The tally of what belongs to no handle. One thread at a time: creation and destruction.
    pub(crate) fn own_tally(&self) -> &Tally<H::Atomics> {
        &self.own_tally
    }

    pub(crate) fn counts(&self) -> Counts {
        let mut sum = Counts::default();
        self.own_tally.add_to(&mut sum);
        self.domain.tallies().for_each(|tally| tally.add_to(&mut sum));
        sum
    }

    pub(crate) fn gather(&self) -> Gather {
        Gather::new(self.flush_threshold, self.format.overlaps())
    }
}

/// One handle's means: its place in the domain, and its tables.
pub(crate) struct Member<A: Atomics> {
    pub(crate) reader: Reader<A>,
    pub(crate) cache: Cache,
}

/// One handle standing inside: what every operation on the tree works with.
pub(crate) struct Visit<'s, H: Host, F: Format> {
    pub(crate) space: &'s Space<H, F>,
    pub(crate) section: Inside<'s, H::Atomics>,
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

    /// Does `work` with the page entry for `gpa` and the value seen there, if tables lead to it: [`walk`](Self::walk)
    /// unrolled for trees of two to four levels.
    #[inline(always)]
    pub(crate) fn at_page<T>(self, gpa: Gpa, work: impl FnOnce(Entry<'s, H::Atomics>, u64) -> Option<T>) -> Option<T> {
        const ONE: Level = Level::new(1);
        const TWO: Level = Level::new(2);
        const THREE: Level = Level::new(3);
        let format = self.space.format;
        let root = self.space.root.load()?;
        let at_root = |level| {
            let index = (gpa.get() >> self.space.geometry().shift(level)) as usize;
            Position::at_root(&self.space.host, format, self.section, root, level, index)
        };
        let is_table = |position: Position<'s, H>, level| format.is_table(position.raw, level);
        let position = if gpa < self.space.end_of_four_levels {
            let index = self.space.geometry().index(gpa, THREE);
            let three = Position::at_root(&self.space.host, format, self.section, root, THREE, index);
            if !is_table(three, THREE) {
                return None;
            }
            let two = self.below(three, gpa);
            if !is_table(two, TWO) {
                return None;
            }
            self.below(two, gpa)
        } else {
            core::hint::cold_path();
            if gpa >= self.space.end {
                return None;
            }
            match self.space.geometry().root_level() {
                TWO => {
                    let two = at_root(TWO);
                    if !is_table(two, TWO) {
                        return None;
                    }
                    self.below(two, gpa)
                }
                ONE => at_root(ONE),
                _ => return None,
            }
        };
        let position = Position { level: ONE, ..position };
        if !is_table(position, ONE) {
            return None;
        }
        let page = self.below(position, gpa);
        work(page.entry(), page.raw)
    }

    /// The root's entry for `gpa`.
    #[inline(always)]
    pub(crate) fn at_root(self, gpa: Gpa) -> Option<Position<'s, H>> {
        let root = self.space.root.load()?;
        let geometry = self.space.geometry();
        let (level, index) = (geometry.root_level(), geometry.root_index(gpa));
        Some(Position::at_root(&self.space.host, self.space.format, self.section, root, level, index))
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

    /// Waits until `position`'s entry is no longer locked; what it says then, which another look need not find again. The
    /// caller owns nothing that is locked and has closed its gather: the owner waits for nothing but its own flush (R4).
    pub(crate) fn wait_unlocked(self, position: Position<'s, H>) -> u64 {
        loop {
            let raw = position.entry().load();
            if self.space.format.kind(raw, position.level) != Kind::Locked {
                return raw;
            }
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
