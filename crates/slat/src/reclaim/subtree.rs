//! Tables that were unlinked: they wait for their grace period, are then taken apart, and freed (R2).

use super::{Domain, Epoch, Reader};
use crate::addr::{Hpa, Level};
use crate::format::{Format, Kind};
use crate::host::TableMemory;
use crate::sync::{Atomics, Ordering, Word};
use crate::table::{Cache, Tally};

/// A table that was unlinked together with all below it, or a root. Its flush is complete.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Subtree {
    table: Hpa,
    level: Level,
    /// Tables in one allocation: more than one for a concatenated root.
    tables: usize,
    entries: usize,
}

impl Subtree {
    /// The subtree under `table`, whose entries are of `level`. To be made only once the flush of its whole span, walk
    /// caches included, is complete.
    pub(crate) fn new<F: Format>(format: F, table: Hpa, level: Level) -> Self {
        Self { table, level, tables: 1, entries: format.geometry().entries() }
    }

    /// A whole tree, from its root.
    pub(crate) fn whole<F: Format>(format: F, root: Hpa) -> Self {
        let geometry = format.geometry();
        Self {
            table: root,
            level: geometry.root_level(),
            tables: geometry.root_tables(),
            entries: geometry.root_entries(),
        }
    }
}

/// How many cut subtrees one handle may have waiting. At the bound it stops unlinking (R11).
const WAITING: usize = 64;

/// What one handle unlinked, in the order of its tags, and what it is taking apart.
pub(crate) struct Limbo {
    waiting: [Option<(Subtree, Epoch)>; WAITING],
    first: usize,
    count: usize,
    current: Option<TakeApart>,
}

impl Limbo {
    pub(crate) const fn new() -> Self {
        Self { waiting: [None; WAITING], first: 0, count: 0, current: None }
    }

    /// How many more subtrees may be unlinked. One place is kept for a root.
    pub(crate) fn room(&self) -> usize {
        (WAITING - 1).saturating_sub(self.count)
    }

    /// Subtrees that are not yet freed.
    pub(crate) fn len(&self) -> usize {
        self.count + usize::from(self.current.is_some())
    }

    /// Takes a subtree whose flush is complete. There is room: the caller asked before it unlinked.
    pub(crate) fn push(&mut self, subtree: Subtree, tag: Epoch) {
        debug_assert!(self.count < WAITING, "unlinking stops at the bound");
        self.waiting[(self.first + self.count) % WAITING] = Some((subtree, tag));
        self.count += 1;
    }

    fn pop_if<A: Atomics>(&mut self, domain: &Domain<A>) -> Option<Subtree> {
        let (subtree, tag) = self.waiting[self.first]?;
        if !domain.is_over(tag) {
            return None;
        }
        self.waiting[self.first] = None;
        self.first = (self.first + 1) % WAITING;
        self.count -= 1;
        Some(subtree)
    }
}

impl<A: Atomics> Domain<A> {
    /// Frees what this reader unlinked and what nobody can see any more, for at most `budget` entries; returns the
    /// entries visited. Outside of any section.
    pub(crate) fn reclaim<H, F>(
        &self,
        reader: &mut Reader<A>,
        memory: (&H, F),
        tally: &Tally<A>,
        cache: &mut Cache,
        budget: u64,
    ) -> u64
    where
        H: TableMemory<Atomics = A>,
        F: Format,
    {
        let mut spent = 0;
        let limbo = self.limbo(reader);
        while spent < budget {
            let Some(work) = &mut limbo.current else {
                match limbo.pop_if(self) {
                    Some(subtree) => limbo.current = Some(TakeApart::new(subtree)),
                    None => break,
                }
                continue;
            };
            spent += work.step(memory.0, memory.1, tally, Some(cache), budget - spent);
            if work.is_done() {
                limbo.current = None;
                tally.freed_subtree();
            }
        }
        spent
    }
}

/// Takes everything in `limbo` apart, for a VM that nobody else uses any more: no grace period is needed.
pub(crate) fn drain_exclusive<H: TableMemory, F: Format>(
    limbo: &mut Limbo,
    host: &H,
    format: F,
    tally: &Tally<H::Atomics>,
) {
    let waiting = limbo.waiting.iter_mut().filter_map(|slot| slot.take()).map(|(subtree, _)| TakeApart::new(subtree));
    for mut work in limbo.current.take().into_iter().chain(waiting) {
        work.finish(host, format, tally);
    }
    limbo.count = 0;
}

/// Takes a whole tree apart at once, for a VM that nobody else uses any more.
pub(crate) fn take_apart_now<H: TableMemory, F: Format>(
    subtree: Subtree,
    host: &H,
    format: F,
    tally: &Tally<H::Atomics>,
) {
    TakeApart::new(subtree).finish(host, format, tally);
}

/// A subtree that is being taken apart, deepest tables first; can stop after any entry.
struct TakeApart {
    stack: [Option<(Subtree, usize)>; Level::COUNT],
    depth: usize,
}

impl TakeApart {
    fn new(subtree: Subtree) -> Self {
        let mut stack = [None; Level::COUNT];
        stack[0] = Some((subtree, 0));
        Self { stack, depth: 1 }
    }

    fn is_done(&self) -> bool {
        self.depth == 0
    }

    fn finish<H: TableMemory, F: Format>(&mut self, host: &H, format: F, tally: &Tally<H::Atomics>) {
        while !self.is_done() {
            self.step(host, format, tally, None, u64::MAX);
        }
    }

    /// Visits at most `budget` entries; returns how many.
    fn step<H: TableMemory, F: Format>(
        &mut self,
        host: &H,
        format: F,
        tally: &Tally<H::Atomics>,
        mut cache: Option<&mut Cache>,
        budget: u64,
    ) -> u64 {
        let mut visited = 0;
        while visited < budget && self.depth > 0 {
            let Some((subtree, index)) = &mut self.stack[self.depth - 1] else { break };
            let (table, level) = (*subtree, subtree.level);
            if *index == table.entries {
                self.depth -= 1;
                release(host, table, tally, cache.as_deref_mut());
                continue;
            }
            let raw = claim(host, format, table, *index);
            *index += 1;
            visited += 1;
            match format.kind(raw, level) {
                Kind::Table => {
                    let Some(below) = level.below() else { continue };
                    let child = Subtree::new(format, format.table_address(raw, level), below);
                    self.stack[self.depth] = Some((child, 0));
                    self.depth += 1;
                }
                Kind::Leaf => tally.unmapped(level, 1),
                Kind::Empty | Kind::Locked | Kind::Frozen => {}
            }
        }
        visited
    }
}

/// Takes one entry out, by exchange: nothing is retired twice (R2). Leaves the word zero, as the cache wants it.
fn claim<H: TableMemory, F: Format>(host: &H, format: F, subtree: Subtree, index: usize) -> u64 {
    let geometry = format.geometry();
    let (table, index) = (index / geometry.entries(), index % geometry.entries());
    let table = Hpa::new(subtree.table.get() + table as u64 * geometry.table_bytes());
    // SAFETY: the subtree's tables were allocated by this host and are freed only by `release`, after all their entries
    // were visited; its owner is the limbo that this call holds exclusively.
    let words = unsafe { host.words(table) };
    match words[index].load(Ordering::Relaxed) {
        0 => 0,
        _ => words[index].swap(0, Ordering::Acquire),
    }
}

fn release<H: TableMemory>(host: &H, subtree: Subtree, tally: &Tally<H::Atomics>, cache: Option<&mut Cache>) {
    if subtree.tables == 1 && cache.is_some_and(|cache| cache.push(subtree.table)) {
        return;
    }
    tally.freed(subtree.tables);
    // SAFETY: the flush was complete before the subtree was made, its grace period is over (or the VM is no longer
    // shared), and its entries are all taken out: neither kind of walker can reach it. It is freed once, since the
    // stack's element is popped with this call.
    unsafe { host.free(subtree.table, subtree.tables) };
}

#[cfg(test)]
mod tests;
