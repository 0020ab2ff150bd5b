//! What the vCPUs' hardware has cached of the tables: leaves, and walks that came part of the way.
//!
//! Nothing is ever evicted: a TLB keeps what it has until a flush reaches it, which is the worst it may do. Of a contiguous
//! group, the first vCPU caches the whole from any member; the second one passes the hint over, and caches pages.

use slat::addr::{Gpa, GpaRange, Level};
use slat::format::{Fake, Format, Kind};
use slat::host::{Access, Flush, Hint, VcpuId};

use crate::book::{Book, Event};
use crate::format::kind_of;
use crate::word::Site;
use crate::world::{Frame, PAGE, number_of, page_of};

/// vCPUs in a model.
pub const VCPUS: usize = 2;

/// An entry as a walker saw it.
#[derive(Clone, Copy)]
struct Cached {
    site: Site,
    /// The index of the first entry that it stands for, and how many there are: one, or a group.
    entries: (usize, usize),
    /// The guest addresses that it serves.
    range: GpaRange,
    level: Level,
    raw: u64,
}

/// All that is cached, and all that was flushed.
#[derive(Default)]
pub struct Hardware {
    tlbs: [Vec<Cached>; VCPUS],
    flushes: Vec<(Flush, Reach)>,
}

/// Which vCPUs a flush reaches.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reach {
    /// All of them.
    Everywhere,
    /// This one.
    Only(VcpuId),
}

/// A walk on its way: it uses what it has read until a flush covers that.
pub struct Walk {
    vcpu: VcpuId,
    page: u64,
    access: Access,
    /// Flushes that there had been when it began.
    since: usize,
    path: Vec<Cached>,
    format: Fake,
    table: usize,
    level: Level,
}

/// What hardware does next.
pub enum Next {
    /// Read this entry.
    Read(Site),
    /// Put what was read into the TLB, and access memory if there is a leaf.
    Fill,
    /// A flush has covered what the walk stands on: nothing came of it.
    Abandoned,
}

/// What became of an access.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reached {
    /// Memory.
    Memory,
    /// A fault.
    Fault,
    /// Nothing: the walk was overtaken by a flush.
    Nothing,
}

fn is_leaf(cached: &Cached) -> bool {
    kind_of(cached.raw) == Kind::Leaf
}

/// Whether a flush drops this.
fn drops((flush, reach): (Flush, Reach), vcpu: VcpuId, cached: &Cached) -> bool {
    if reach != Reach::Everywhere && reach != Reach::Only(vcpu) {
        return false;
    }
    match flush {
        Flush::All => true,
        Flush::Tables { range } => range.overlaps(cached.range),
        Flush::Leaves { range, level } => {
            let named = level == Hint::Unknown || level == Hint::Level(cached.level);
            named && is_leaf(cached) && range.overlaps(cached.range)
        }
    }
}

impl Hardware {
    /// What TLBs have cached of this entry, of leaves and walks.
    pub fn cached_from(&self, site: Site) -> impl Iterator<Item = u64> {
        let stands_for = move |cached: &&Cached| {
            let (first, count) = cached.entries;
            cached.site.table == site.table && (first..first + count).contains(&site.index)
        };
        self.tlbs.iter().flatten().filter(stands_for).map(|cached| cached.raw)
    }

    /// A flush is complete.
    pub fn flush(&mut self, flush: Flush, reach: Reach) {
        self.flushes.push((flush, reach));
        for (vcpu, tlb) in (0..).map(VcpuId).zip(&mut self.tlbs) {
            let pages: Vec<_> = tlb.iter().filter(|cached| is_leaf(cached)).copied().collect();
            // Of two sizes, no operation by address is sure to drop both.
            let is_doubled = |block: &Cached| {
                let inside = |page: &Cached| page.level < block.level && page.range.overlaps(block.range);
                flush != Flush::All && is_leaf(block) && pages.iter().any(inside)
            };
            tlb.retain(|cached| !drops((flush, reach), vcpu, cached) || is_doubled(cached));
        }
    }

    fn leaf_of(&self, vcpu: VcpuId, page: u64) -> Option<Cached> {
        let covers = |cached: &&Cached| is_leaf(cached) && cached.range.contains(Gpa::new(page * PAGE));
        self.tlbs[vcpu.0 as usize].iter().find(covers).copied()
    }

    /// The longest part of a walk to `page` that is cached.
    fn walk_of(&self, vcpu: VcpuId, page: u64) -> Option<Cached> {
        let covers = |cached: &&Cached| !is_leaf(cached) && cached.range.contains(Gpa::new(page * PAGE));
        self.tlbs[vcpu.0 as usize].iter().filter(covers).min_by_key(|cached| cached.level).copied()
    }

    /// Whether two TLBs, or one, hold translations of the same page that cannot both be right (T1). `overlaps`: their sizes
    /// may differ.
    fn conflicts(&self, new: &Cached, overlaps: bool) -> bool {
        let frame = |cached: &Cached, page| Frame::through(cached.raw, cached.level, page);
        let size = |cached: &Cached| (cached.level, Fake::new(4).is_grouped(cached.raw, cached.level));
        let contradicts = |cached: &&Cached| {
            let page = page_of(new.range.start().max(cached.range.start()));
            is_leaf(cached)
                && cached.range.overlaps(new.range)
                && ((!overlaps && size(cached) != size(new)) || frame(cached, page) != frame(new, page))
        };
        is_leaf(new) && self.tlbs.iter().flatten().any(|cached| contradicts(&cached))
    }
}

impl Book {
    /// An access begins: through what is cached, or with a walk.
    pub fn begin_access(&mut self, format: Fake, vcpu: VcpuId, page: u64, access: Access) -> Result<Walk, Reached> {
        let first_write = |leaf: &Cached| access == Access::Write && is_first_write(format, leaf);
        if let Some(leaf) = self.hardware.leaf_of(vcpu, page).filter(|leaf| !first_write(leaf)) {
            return Err(self.through(leaf, format, vcpu, page, access));
        }
        Ok(self.begin_walk(format, vcpu, page, access))
    }

    /// A walk begins, from the lowest table that is cached.
    pub fn begin_walk(&mut self, format: Fake, vcpu: VcpuId, page: u64, access: Access) -> Walk {
        let known = self.hardware.walk_of(vcpu, page);
        let (table, level) = match known {
            Some(known) => (number_of(format.table_address(known.raw, known.level)), known.level.below()),
            None => (self.root, Some(format.geometry().root_level())),
        };
        let (since, path) = (self.hardware.flushes.len(), known.into_iter().collect());
        Walk { vcpu, page, access, since, path, format, table, level: level.unwrap_or_default() }
    }

    /// The entry that `site` named was read: what the walk does next.
    pub fn was_read(&mut self, walk: &mut Walk, (raw, freed): (u64, bool)) -> Next {
        if walk.path.iter().any(|cached| self.was_flushed(walk, cached)) {
            return Next::Abandoned;
        }
        if freed {
            self.report("M2: a hardware walker read a table that was freed");
            return Next::Abandoned;
        }
        let raw = Fake::seen_by_hardware(raw);
        let gpa = Gpa::new(walk.page * PAGE);
        if raw & 0b1000 != 0 && crate::format::level_of(raw) != walk.level {
            self.report("M2: a hardware walker read an entry made for another level");
            return Next::Abandoned;
        }
        let site = walk.site();
        let is_group = walk.vcpu == VcpuId(0) && walk.format.is_grouped(raw, walk.level);
        let bits = if is_group { walk.format.group_bits(walk.level) } else { 0 };
        let range = GpaRange::around(gpa, walk.format.geometry().size(walk.level) << bits);
        let entries = (site.index >> bits << bits, 1 << bits);
        let cached = Cached { site, entries, range, level: walk.level, raw };
        match (kind_of(raw), walk.level.below()) {
            (Kind::Table, Some(below)) => {
                walk.path.push(cached);
                (walk.table, walk.level) = (number_of(walk.format.table_address(raw, walk.level)), below);
                Next::Read(walk.site())
            }
            (Kind::Leaf, _) => {
                walk.path.push(cached);
                Next::Fill
            }
            _ => Next::Fill,
        }
    }

    /// Everything that the walk has read and that no flush has covered since goes into the TLB, and is used.
    pub fn fill(&mut self, walk: Walk) -> Reached {
        let mut leaf = None;
        for cached in &walk.path {
            if self.was_flushed(&walk, cached) {
                continue;
            }
            if self.hardware.conflicts(cached, walk.format.overlaps()) {
                self.report("T1: two TLBs hold translations of one page that contradict each other");
            }
            let tlb = &mut self.hardware.tlbs[walk.vcpu.0 as usize];
            tlb.retain(|other| other.site != cached.site || is_leaf(other) != is_leaf(cached));
            tlb.push(*cached);
            self.note(Event::Cached { vcpu: walk.vcpu, site: cached.site, raw: cached.raw });
            leaf = Some(*cached).filter(is_leaf);
        }
        match leaf {
            Some(leaf) => self.through(leaf, walk.format, walk.vcpu, walk.page, walk.access),
            None if walk.path.last().is_some_and(is_leaf) => Reached::Nothing,
            None => Reached::Fault,
        }
    }

    fn was_flushed(&self, walk: &Walk, cached: &Cached) -> bool {
        self.hardware.flushes[walk.since..].iter().any(|flush| drops(*flush, walk.vcpu, cached))
    }

    /// The access itself: one step with the look into the TLB, since a flush waits for accesses on their way.
    fn through(&mut self, leaf: Cached, format: Fake, vcpu: VcpuId, page: u64, access: Access) -> Reached {
        if !format.permits(leaf.raw, leaf.level, access) {
            return Reached::Fault;
        }
        let frame = Frame::through(leaf.raw, leaf.level, page);
        self.note(Event::Accessed { vcpu, page, access, hpa: frame.hpa() });
        if let Some(wrong) = self.oracle.access(page, access, frame) {
            self.report(wrong);
        }
        Reached::Memory
    }
}

/// Whether a write through this has to be noted in the entry before.
fn is_first_write(format: Fake, leaf: &Cached) -> bool {
    let (raw, level) = (leaf.raw, leaf.level);
    format.hardware_dirty() && format.permits(raw, level, Access::Write) && !format.is_dirty(raw, level)
}

impl Walk {
    /// The leaf that a write has to be noted in: where it lies, what it says, and what it is to say.
    pub fn first_write(&self) -> Option<(Site, u64, u64)> {
        let leaf = self.path.last().filter(|cached| is_leaf(cached) && self.access == Access::Write)?;
        is_first_write(self.format, leaf)
            .then(|| (leaf.site, leaf.raw, self.format.made_writable(leaf.raw, leaf.level)))
    }

    /// The leaf says this now.
    pub fn was_written(&mut self, raw: u64) {
        if let Some(leaf) = self.path.last_mut() {
            leaf.raw = raw;
        }
    }

    /// The entry to read.
    pub fn site(&self) -> Site {
        let geometry = self.format.geometry();
        let gpa = Gpa::new(self.page * PAGE);
        let index = if self.level == geometry.root_level() {
            geometry.root_index(gpa)
        } else {
            geometry.index(gpa, self.level)
        };
        Site { table: self.table, index }
    }
}
