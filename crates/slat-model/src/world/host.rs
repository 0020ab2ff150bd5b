//! The embedder's traits.

use std::ops::Deref;
use std::sync::Arc;

use slat::addr::{Gpa, GpaRange, Hpa, Level};
use slat::host::{
    Access, Backing, Flush, Hint, MemoryType, Permissions, Request, Run, TableMemory, Tlb, Translation, VcpuId,
};
use slat::sync::Ordering;

use super::{Frame, GENERATION, Kind, PAGE, REGION, World, number_of, page_of, pages};
use crate::book::{self, Event};
use crate::hardware::Reach;
use crate::plant::Plant;
use crate::tool::{Raw, Tool};
use crate::word::{Checked, Family};

/// Turns of waiting inside the engine that one execution may take.
const PATIENCE: u32 = 200;

/// The host that a VM of the model is given.
pub struct Host<T: Tool>(pub Arc<World<T>>);

impl<T: Tool> Deref for Host<T> {
    type Target = World<T>;

    fn deref(&self) -> &World<T> {
        &self.0
    }
}

// SAFETY: a table is zeroed when it is allocated (unless the bug is planted that it is not, which the model is to find),
// its frame is never used for another, and its words live as long as the world.
#[allow(unsafe_code)]
unsafe impl<T: Tool> TableMemory for Host<T> {
    type Atomics = Family<T>;

    fn allocate(&self, tables: usize) -> Option<Hpa> {
        assert!(tables == 1, "the fake format has no concatenated root");
        self.tables.allocate()
    }

    unsafe fn free(&self, table: Hpa, _tables: usize) {
        self.tables.free(number_of(table));
    }

    unsafe fn words(&self, table: Hpa) -> &[Checked<T>] {
        self.tables.words(number_of(table))
    }
}

impl<T: Tool> Backing for Host<T> {
    /// The memory of now: of the region's generation, counted from the one that the slot was created with.
    fn translate(&self, request: Request) -> Translation {
        let kind = self.setup.backing;
        if kind == Kind::Blocking && !request.may_block {
            return Translation::WouldBlock;
        }
        let page = page_of(request.gpa);
        let region = page / REGION;
        // Relaxed: that an answer is new enough is for the engine to see to (R4).
        let changed = match Plant::AnswersFromMemory.is_planted() {
            true => 0,
            false => self.generation(region).load(Ordering::Relaxed),
        };
        let copied = u64::from(kind == Kind::CopyOnWrite && request.access == Access::Write);
        let generation = request.host.get() / GENERATION + changed + copied;
        let is_run = matches!(kind, Kind::Blocks | Kind::Neighbours);
        let (first, end) = if is_run { (region * REGION, (region + 1) * REGION) } else { (page, page + 1) };
        let write = kind != Kind::CopyOnWrite || copied != 0;
        Translation::Run(Run {
            guest: pages(first, end),
            hpa: Frame { generation, page: first }.hpa(),
            largest: Level::new(u8::from(kind == Kind::Blocks)),
            permissions: Permissions::ALL.with_write(write),
            memory: MemoryType::Normal,
        })
    }
}

impl<T: Tool> Tlb for Host<T> {
    type Pending = Flush;

    fn flush(&self, flush: Flush) -> Flush {
        flush
    }

    /// Complete on every CPU at once. Release: a walk that begins later reads what was written before. Acquire: what
    /// hardware has noted through what is flushed now is there.
    fn wait(&self, flush: Flush) {
        self.tick(Ordering::AcqRel);
        book::with(|book| {
            book.note(Event::Flush { flush });
            let flush = if Plant::LateFlush.is_planted() { book.late_flush.replace(flush) } else { Some(flush) };
            if let Some((flush, reach)) = flush.and_then(planted) {
                book.hardware.flush(flush, reach);
            }
        });
    }

    fn flush_local(&self, vcpu: VcpuId, page: Gpa, level: Hint) {
        self.tick(Ordering::Release);
        book::with(|book| {
            book.note(Event::LocalFlush { vcpu, page: page_of(page) });
            if !Plant::NoLocalFlush.is_planted() {
                let range = GpaRange::around(page, PAGE);
                book.hardware.flush(Flush::Leaves { range, level }, Reach::Only(vcpu));
            }
        });
    }

    fn relax(&self) {
        let turns = book::with(|book| {
            book.relaxed += 1;
            book.relaxed
        });
        assert!(turns <= PATIENCE, "L1: an operation waits for something that does not come");
        T::yield_now();
    }
}

/// What is really flushed.
fn planted(flush: Flush) -> Option<(Flush, Reach)> {
    let behind = |range: GpaRange| GpaRange::around(range.end(), PAGE);
    let first_page = |range: GpaRange| GpaRange::around(range.start(), PAGE);
    let flush = match (Plant::current(), flush) {
        (Plant::NoFlush, _) => return None,
        (Plant::FlushesFirstPage, Flush::Leaves { range, level }) => Flush::Leaves { range: first_page(range), level },
        (Plant::FlushesLastPage, Flush::Leaves { range, level }) => {
            Flush::Leaves { range: GpaRange::around(Gpa::new(range.end().get() - PAGE), PAGE), level }
        }
        (Plant::FlushesFirstPage, Flush::Tables { range }) => Flush::Tables { range: first_page(range) },
        (Plant::FlushesLevelBelow, Flush::Leaves { range, level: Hint::Level(level) }) => {
            Flush::Leaves { range, level: Hint::Level(level.below()?) }
        }
        (Plant::FlushKeepsWalks, Flush::Tables { range }) => Flush::Leaves { range, level: Hint::Unknown },
        (Plant::FlushesPagesOfTables, Flush::Tables { range }) => {
            Flush::Leaves { range, level: Hint::Level(Level::PAGE) }
        }
        (Plant::FlushesNeighbour, Flush::Leaves { range, level }) => Flush::Leaves { range: behind(range), level },
        (Plant::FlushesNeighbour, Flush::Tables { range }) => Flush::Tables { range: behind(range) },
        (Plant::FlushesOneVcpu, flush) => return Some((flush, Reach::Only(VcpuId(0)))),
        (_, flush) => flush,
    };
    Some((flush, Reach::Everywhere))
}
