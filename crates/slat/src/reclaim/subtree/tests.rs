//! Limbo and taking apart, on a host that knows of each table what became of it.

use super::*;
use crate::format::{Fake, Leaf, Sv39x4};
use crate::host::{MemoryType, Permissions};
use crate::sync::Core;
use crate::table::Counts;
use alloc::vec::Vec;
use core::cell::RefCell;
use core::sync::atomic::AtomicU64;

/// Three levels of tables of four entries.
const FORMAT: Fake = Fake::new(3);
const ROOT: Level = Level::new(2);
/// One root, 4 tables and 16 of pages; 64 leaves.
const TABLES: usize = 21;
const ENTRIES: u64 = 4 + 16 + 64;

const LEAF: Leaf = Leaf {
    hpa: Hpa::new(0x8000),
    permissions: Permissions::ALL,
    may_write: true,
    memory: MemoryType::Normal,
    accessed: true,
};

/// Tables by number, a page apart.
struct Tables<const ENTRIES: usize> {
    words: Vec<[AtomicU64; ENTRIES]>,
    /// The first, and how many.
    freed: RefCell<Vec<(Hpa, usize)>>,
}

// SAFETY: the tables are there as long as the host, whatever is freed.
unsafe impl<const ENTRIES: usize> TableMemory for Tables<ENTRIES> {
    type Atomics = Core;

    fn allocate(&self, _: usize) -> Option<Hpa> {
        None
    }

    unsafe fn free(&self, table: Hpa, tables: usize) {
        self.freed.borrow_mut().push((table, tables));
    }

    unsafe fn words(&self, table: Hpa) -> &[AtomicU64] {
        &self.words[(table.get() >> 12) as usize]
    }
}

/// A full tree; its root is table 0, the children of table `n` are `4n + 1` and those after it.
fn tree() -> (Tables<4>, Subtree) {
    let entry = |table: usize, index: usize| match table {
        0..=4 => {
            let child = Hpa::new(((4 * table + 1 + index) as u64) << 12);
            FORMAT.table(child, if table == 0 { ROOT } else { Level::new(1) })
        }
        _ => FORMAT.leaf(LEAF, Level::PAGE),
    };
    let words = (0..TABLES).map(|table| core::array::from_fn(|index| AtomicU64::new(entry(table, index)))).collect();
    (Tables { words, freed: RefCell::default() }, Subtree::new(FORMAT, Hpa::new(0), ROOT))
}

impl Tables<4> {
    /// Nothing is linked any more; each table comes after all those that were below it.
    fn check(&self, freed: &[(Hpa, usize)]) {
        assert!(self.words.iter().flatten().all(|word| word.load(Ordering::Relaxed) == 0));
        let place = |table: usize| {
            let freed = freed.iter().position(|freed| *freed == (Hpa::new((table as u64) << 12), 1));
            freed.expect("each is freed by itself")
        };
        assert_eq!(freed.len(), TABLES);
        assert!((1..TABLES).all(|table| place(table) < place((table - 1) / 4)));
    }
}

fn counted(tally: &Tally<Core>) -> Counts {
    let mut counts = Counts::default();
    tally.add_to(&mut counts);
    counts
}

fn numbered(number: u64) -> Subtree {
    Subtree::new(FORMAT, Hpa::new(number << 12), Level::PAGE)
}

#[test]
fn r2_limbo_gives_subtrees_back_in_their_order() {
    let domain = Domain::<Core>::new(1).unwrap();
    let (mut limbo, mut pushed, mut popped) = (Limbo::new(), 0, 0);
    for batch in [1, 40, 63, 64, 3, 64] {
        for count in 1..=batch {
            limbo.push(numbered(pushed), domain.tag());
            pushed += 1;
            assert_eq!((limbo.len(), limbo.room()), (count, 63usize.saturating_sub(count)), "one place is kept");
        }
        while let Some(subtree) = limbo.pop_if(&domain) {
            assert_eq!(subtree.table, Hpa::new(popped << 12));
            popped += 1;
        }
        assert_eq!((limbo.len(), popped), (0, pushed));
    }
}

#[test]
fn r2_a_subtree_stays_in_limbo_while_somebody_may_see_it() {
    let domain = Domain::<Core>::new(1).unwrap();
    let (mut reader, mut limbo) = (domain.join().unwrap(), Limbo::new());
    let inside = domain.enter(&mut reader);
    limbo.push(numbered(7), domain.tag());
    assert!(limbo.pop_if(&domain).is_none() && limbo.len() == 1);
    drop(inside);
    assert!(limbo.pop_if(&domain).is_some() && limbo.len() == 0);
}

#[test]
fn r9_reclaim_visits_each_entry_once_and_as_many_as_it_may() {
    for budget in [1, 2, 3, 5, 7, ENTRIES - 1, ENTRIES, ENTRIES + 1, 1000] {
        let domain = Domain::<Core>::new(1).unwrap();
        let ((tables, subtree), tally, mut cache) = (tree(), Tally::new(), Cache::new());
        let mut reader = domain.join().unwrap();
        domain.limbo(&mut reader).push(subtree, domain.tag());
        let mut left = ENTRIES;
        while left > 0 {
            assert_eq!(domain.limbo(&mut reader).len(), 1, "awaiting until its last entry");
            let visited = domain.reclaim(&mut reader, (&tables, FORMAT), &tally, &mut cache, budget);
            assert_eq!(visited, budget.min(left));
            left -= visited;
        }
        // What is left of it is no entry: the tables on the way back to the root.
        assert_eq!(domain.reclaim(&mut reader, (&tables, FORMAT), &tally, &mut cache, budget), 0);
        assert_eq!(domain.limbo(&mut reader).len(), 0);
        let kept: Vec<_> = core::iter::from_fn(|| cache.pop()).map(|table| (table, 1)).collect();
        tables.check(&kept.into_iter().rev().collect::<Vec<_>>());
        assert!(tables.freed.borrow().is_empty(), "a handle keeps them while it has room");
        let counts = counted(&tally);
        assert_eq!((counts.leaves()[0], counts.waiting()), (64u64.wrapping_neg(), 1u64.wrapping_neg()));
        assert_eq!(counts.tables(), 0, "none came or went");
    }
}

#[test]
fn r9_a_budget_is_for_all_subtrees_together() {
    let domain = Domain::<Core>::new(1).unwrap();
    let ((tables, _), tally, mut cache) = (tree(), Tally::new(), Cache::new());
    let mut reader = domain.join().unwrap();
    // The tables of pages, four entries each.
    (5..21).for_each(|table| domain.limbo(&mut reader).push(numbered(table), domain.tag()));
    let mut reclaim = |budget| domain.reclaim(&mut reader, (&tables, FORMAT), &tally, &mut cache, budget);
    assert_eq!([reclaim(3), reclaim(6), reclaim(10), reclaim(44)], [3, 6, 10, 44]);
    assert_eq!([reclaim(9), reclaim(9)], [1, 0], "the last entry");
}

#[test]
fn r11_what_is_left_at_the_end_is_freed_whole() {
    for begun in [0, 30] {
        let mut domain = Domain::<Core>::new(1).unwrap();
        let ((tables, subtree), tally, mut cache) = (tree(), Tally::new(), Cache::new());
        let mut reader = domain.join().unwrap();
        domain.limbo(&mut reader).push(subtree, domain.tag());
        assert_eq!(domain.reclaim(&mut reader, (&tables, FORMAT), &tally, &mut cache, begun), begun);
        let kept: Vec<_> = core::iter::from_fn(|| cache.pop()).map(|table| (table, 1)).collect();
        tables.freed.borrow_mut().extend(kept.iter().rev());
        for limbo in domain.limbos() {
            drain_exclusive(limbo, &tables, FORMAT, &tally);
            assert_eq!(limbo.len(), 0);
        }
        tables.check(&tables.freed.borrow());
        let counts = counted(&tally);
        assert_eq!(counts.leaves()[0], 64u64.wrapping_neg());
        assert_eq!(counts.tables(), ((TABLES - kept.len()) as u64).wrapping_neg());
    }
    let ((tables, subtree), tally) = (tree(), Tally::new());
    take_apart_now(subtree, &tables, FORMAT, &tally);
    tables.check(&tables.freed.borrow());
}

#[test]
fn r2_a_root_of_several_tables_is_taken_apart_to_its_last_entry() {
    let format = Sv39x4::new();
    let (level, entries) = (format.geometry().root_level(), [0, 511, 512, 1023, 1536, 2047]);
    let words = (0..5).map(|_| core::array::from_fn(|_| AtomicU64::new(0))).collect();
    let tables = Tables::<512> { words, freed: RefCell::default() };
    // The root lies in tables 1 to 4.
    for index in entries {
        tables.words[1 + index / 512][index % 512].store(format.leaf(LEAF, level), Ordering::Relaxed);
    }
    let (domain, tally, mut cache) = (Domain::<Core>::new(1).unwrap(), Tally::new(), Cache::new());
    let mut reader = domain.join().unwrap();
    domain.limbo(&mut reader).push(Subtree::whole(format, Hpa::new(1 << 12)), domain.tag());
    assert_eq!(domain.reclaim(&mut reader, (&tables, format), &tally, &mut cache, 5000), 2048);
    assert!(tables.words.iter().flatten().all(|word| word.load(Ordering::Relaxed) == 0));
    assert_eq!((tables.freed.take(), cache.len()), (alloc::vec![(Hpa::new(1 << 12), 4)], 0), "one allocation");
    let counts = counted(&tally);
    assert_eq!((counts.leaves()[2], counts.tables()), (6u64.wrapping_neg(), 4u64.wrapping_neg()));
}
