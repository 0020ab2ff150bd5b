//! The embedder of a model: tables, a backing that can change, and hardware that walks the tables beside the engine.

mod host;
mod tables;

pub use host::Host;

use std::sync::Arc;

use slat::addr::{Gpa, GpaRange, Hpa, Level};
use slat::format::{Fake, Format};
use slat::host::{Access, VcpuId};
use slat::sync::Ordering;
use slat_spec::Operation;

use crate::book;
use crate::format::GROUP_BITS;
use crate::hardware::{Next, Reached, Walk};
use crate::history;
use crate::oracle::{Oracle, PageSet};
use crate::plant::Shape;
use crate::reorder::Change;
use crate::tool::{Raw, Tool};
use tables::Tables;

/// Bytes of a page.
pub const PAGE: u64 = 4096;
/// Pages that one table of pages serves, and one block.
pub const REGION: u64 = 4;

/// Where the frames of guest memory lie.
const FRAMES: u64 = 1 << 24;
/// Bytes between the frames of one generation of the backing and the next.
pub const GENERATION: u64 = 1 << 20;
/// How far a change of the backing moves the generation: one between two changes is that of a copy.
const CHANGE: u64 = 2;
/// Regions whose backing changes apart from the others'.
const REGIONS: usize = 2;

/// The guest address of a page.
pub fn gpa(page: u64) -> Gpa {
    Gpa::new(page * PAGE)
}

/// The guest addresses of pages `first..end`.
pub fn pages(first: u64, end: u64) -> GpaRange {
    GpaRange::new(gpa(first), gpa(end)).expect("the first page is not after the last")
}

/// The page of a guest address.
pub fn page_of(gpa: Gpa) -> u64 {
    gpa.get() / PAGE
}

/// The number of the table at an address.
pub fn number_of(table: Hpa) -> usize {
    (table.get() / PAGE) as usize - 1
}

/// The memory behind a page, in one generation of the backing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Frame {
    /// How often the backing had changed.
    pub generation: u64,
    /// The guest page that it belongs to.
    pub page: u64,
}

impl Frame {
    /// Its address.
    pub fn hpa(self) -> Hpa {
        Hpa::new(FRAMES + self.generation * GENERATION + self.page * PAGE)
    }

    /// The memory that a leaf maps at `page`.
    pub fn through(raw: u64, level: Level, page: u64) -> Self {
        let format = Fake::new(4);
        let group = if format.is_grouped(raw, level) { GROUP_BITS } else { 0 };
        let inside = page % (format.geometry().pages(level) << group);
        let frame = (format.decode(raw, level).hpa.get() + inside * PAGE).wrapping_sub(FRAMES);
        Self { generation: frame / GENERATION, page: frame % GENERATION / PAGE }
    }
}

/// How a world differs from the plainest, and where its slot lies.
#[derive(Clone, Copy, Debug)]
pub struct Setup {
    /// Levels of the tree.
    pub levels: u8,
    /// The first page of the slot.
    pub first: u64,
    /// Pages of the slot.
    pub count: u64,
    /// What kind of host backs it.
    pub backing: Kind,
    /// Whether hardware notes what it writes to.
    pub hardware_dirty: bool,
    /// Whether pages come in contiguous groups.
    pub groups: bool,
    /// Whether hardware may have cached leaves of two sizes for one address.
    pub overlaps: bool,
}

/// How the backing answers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// With pages.
    Pages,
    /// With blocks.
    Blocks,
    /// With pages that lie beside each other.
    Neighbours,
    /// With pages, and not inside of the engine: the answer would block.
    Blocking,
    /// With pages that may be read only; a write gets the page's memory of the next generation (copy on write).
    CopyOnWrite,
}

impl Setup {
    /// Two levels, and a slot of so many pages from page 0 on.
    pub const fn pages(count: u64) -> Self {
        Self { levels: 2, first: 0, count, backing: Kind::Pages, hardware_dirty: false, groups: false, overlaps: false }
    }

    /// As [`pages`](Self::pages), one block.
    pub const fn block() -> Self {
        Self::pages(REGION).backed(Kind::Blocks)
    }

    /// As [`pages`](Self::pages), one table in contiguous groups.
    pub const fn groups() -> Self {
        Self { groups: true, ..Self::pages(REGION).backed(Kind::Neighbours) }
    }

    /// The same on another backing.
    #[must_use]
    pub const fn backed(self, backing: Kind) -> Self {
        Self { backing, ..self }
    }

    /// The same with hardware that notes what it writes to.
    #[must_use]
    pub const fn with_hardware_dirty(self) -> Self {
        Self { hardware_dirty: true, ..self }
    }

    /// The same with hardware that may have cached leaves of two sizes for one address.
    #[must_use]
    pub const fn with_overlaps(self) -> Self {
        Self { overlaps: true, ..self }
    }

    /// Whether the specification speaks of it: not of memory that is replaced while it is mapped; and pages of the slot have
    /// to be those of the guest.
    pub const fn is_specified(&self) -> bool {
        self.first == 0 && !matches!(self.backing, Kind::CopyOnWrite)
    }

    /// The slot's pages.
    pub fn slot(&self) -> PageSet {
        PageSet::range(self.first, self.first + self.count)
    }
}

/// What engine and hardware of one execution share, beside the book.
pub struct World<T: Tool> {
    /// What it is like.
    pub setup: Setup,
    tables: Tables<T>,
    /// How often the backing of each region has changed.
    generations: Vec<T::Raw>,
    /// Changed by every flush and every step of hardware: that one comes before the other makes two executions.
    clock: T::Raw,
}

impl<T: Tool> World<T> {
    /// A world without tables, in the first generation.
    pub fn new(setup: Setup) -> Arc<Self> {
        let generations = (0..REGIONS).map(|_| T::Raw::new(0)).collect();
        let world = Arc::new(Self { setup, tables: Tables::new(), generations, clock: T::Raw::new(0) });
        let tables = Arc::downgrade(&world);
        crate::word::set_tables(move |Change { site, old, new }| {
            if let Some(world) = tables.upgrade() {
                let word = world.tables.word(site);
                let _ = word.exchange(Shape::Change, old, new, Ordering::AcqRel, Ordering::Acquire);
            }
        });
        world
    }

    /// The hardware's own reading of the format, on which no bug is planted.
    fn format(&self) -> Fake {
        let format = Fake::new(self.setup.levels);
        let format = if self.setup.groups { format.with_groups(GROUP_BITS) } else { format };
        let format = if self.setup.overlaps { format.with_overlaps() } else { format };
        if self.setup.hardware_dirty { format.with_hardware_dirty() } else { format }
    }

    /// A step that hardware and host see in one order. None while a thread unwinds.
    fn tick(&self, order: Ordering) {
        if !std::thread::panicking() {
            self.clock.fetch_add(1, order);
        }
    }

    /// Tells the oracle what holds from now on.
    pub fn declare(&self, what: impl FnOnce(&mut Oracle)) {
        self.tick(Ordering::Relaxed);
        book::with(|book| what(&mut book.oracle));
    }

    /// The host changes its own tables: the backing of a region moves to new memory.
    pub fn change_backing(&self, region: u64) {
        self.generation(region).fetch_add(CHANGE, Ordering::Relaxed);
    }

    /// The host gives the old memory of a region to somebody else: nothing may reach it any more.
    pub fn take_old_memory(&self, region: u64) {
        self.take_old_pages(region * REGION, (region + 1) * REGION);
    }

    /// The same for pages `first..end` of one region.
    pub fn take_old_pages(&self, first: u64, end: u64) {
        let now = self.generation(first / REGION).load(Ordering::Relaxed);
        self.declare(|oracle| oracle.taken(PageSet::range(first, end), now));
    }

    fn generation(&self, region: u64) -> &T::Raw {
        &self.generations[region as usize % REGIONS]
    }

    /// A vCPU's hardware tries an access: through what it has cached, else with a walk, which it caches.
    pub fn access(&self, vcpu: VcpuId, page: u64, access: Access) -> Reached {
        let reach = || {
            self.tick(Ordering::Acquire);
            match book::with(|book| book.begin_access(self.format(), vcpu, page, access)) {
                Ok(walk) => self.walk(walk),
                Err(reached) => reached,
            }
        };
        match access {
            Access::Write => history::call(reach, |reached, other| self.written(*reached, page, other)),
            _ => reach(),
        }
    }

    /// What a write to `page` did to `other`: hardware may note it in another page of the group, and may have noted one that
    /// does not come to memory.
    fn written(&self, reached: Reached, page: u64, other: u64) -> Vec<Operation> {
        let Setup { groups, hardware_dirty, .. } = self.setup;
        let is_beside = other == page || (groups && other >> GROUP_BITS == page >> GROUP_BITS);
        match reached {
            Reached::Memory if other == page => vec![Operation::Written { grouped: groups }],
            _ if hardware_dirty && is_beside => vec![Operation::Noted],
            _ => Vec::new(),
        }
    }

    /// A vCPU's hardware walks for a page whether it has it cached or not, as it may at any time, and caches what it finds.
    pub fn walk_ahead(&self, vcpu: VcpuId, page: u64) {
        self.tick(Ordering::Acquire);
        let walk = book::with(|book| book.begin_walk(self.format(), vcpu, page, Access::Read));
        let _ = self.walk(walk);
    }

    fn walk(&self, mut walk: Walk) -> Reached {
        let mut site = walk.site();
        loop {
            let read = self.tables.word(site).load_as_hardware();
            match book::with(|book| book.was_read(&mut walk, read)) {
                Next::Read(next) => site = next,
                Next::Abandoned => return Reached::Nothing,
                Next::Fill => break,
            }
        }
        // The first write through a leaf is noted in it, in one step with finding it unchanged.
        if let Some((site, raw, written)) = walk.first_write() {
            if !self.tables.word(site).change_as_hardware(raw, written) {
                return Reached::Nothing;
            }
            walk.was_written(written);
            self.tick(Ordering::Release); // a flush that completes later is behind it
        }
        self.tick(Ordering::Acquire);
        book::with(|book| book.fill(walk))
    }
}
