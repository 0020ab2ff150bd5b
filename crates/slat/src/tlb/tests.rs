//! What a gather flushes (R8), on a TLB that writes it down.

use super::*;
use crate::addr::Gpa;
use crate::host::VcpuId;
use crate::sync::Core;
use crate::table::Counts;
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};

/// Flushes that were begun, and how many of them were waited for.
#[derive(Default)]
struct Written {
    flushes: RefCell<Vec<Flush>>,
    over: Cell<usize>,
}

impl Tlb for Written {
    type Pending = usize;

    fn flush(&self, flush: Flush) -> usize {
        self.flushes.borrow_mut().push(flush);
        self.flushes.borrow().len()
    }

    fn wait(&self, pending: usize) {
        self.over.set(pending);
    }

    fn flush_local(&self, _: VcpuId, _: Gpa, _: Hint) {}

    fn relax(&self) {}
}

const THRESHOLD: u64 = 0x8000;
const PAGES: Hint = Hint::Level(Level::PAGE);

fn range(start: u64, end: u64) -> GpaRange {
    GpaRange::new(Gpa::new(start), Gpa::new(end)).unwrap()
}

/// What is flushed of what `fill` gathers: waited for, and counted as leaves, tables or everything.
fn flushed(fill: impl FnOnce(&mut Gather)) -> (Vec<Flush>, [u64; 3]) {
    flushed_where(false, fill)
}

/// The same where leaves of two sizes may be cached for one address, or not.
fn flushed_where(overlaps: bool, fill: impl FnOnce(&mut Gather)) -> (Vec<Flush>, [u64; 3]) {
    let (host, tally, mut counts) = (Written::default(), Tally::<Core>::new(), Counts::default());
    let mut gather = Gather::new(THRESHOLD, overlaps);
    fill(&mut gather);
    let _ = gather.close(&host, &tally);
    let _ = gather.close(&host, &tally); // nothing is left in it
    tally.add_to(&mut counts);
    let [leaves, tables, all, _] = counts.flushes();
    assert_eq!(host.over.get(), host.flushes.borrow().len(), "each is waited for");
    (host.flushes.take(), [leaves, tables, all])
}

#[test]
fn r8_nothing_gathered_nothing_flushed() {
    assert_eq!(flushed(|_| ()), (Vec::new(), [0; 3]));
}

#[test]
fn r8_leaves_are_flushed_as_what_they_were() {
    let leaves = |range, level| (alloc::vec![Flush::Leaves { range, level }], [1, 0, 0]);
    assert_eq!(flushed(|gather| gather.leaf(range(0x1000, 0x2000), Level::PAGE)), leaves(range(0x1000, 0x2000), PAGES));
    let two = |level| {
        move |gather: &mut Gather| {
            gather.leaf(range(0x5000, 0x6000), Level::PAGE);
            gather.leaf(range(0x1000, 0x2000), level);
        }
    };
    assert_eq!(flushed(two(Level::PAGE)), leaves(range(0x1000, 0x6000), PAGES), "one operation for both");
    assert_eq!(flushed(two(Level::new(1))), leaves(range(0x1000, 0x6000), Hint::Unknown));
    let unknown = |gather: &mut Gather| gather.leaves_of(range(0x1000, 0x3000), Hint::Unknown);
    assert_eq!(flushed(unknown), leaves(range(0x1000, 0x3000), Hint::Unknown));
}

#[test]
fn r8_tables_are_flushed_with_the_leaves_beside_them() {
    let tables = |range| (alloc::vec![Flush::Tables { range }], [0, 1, 0]);
    assert_eq!(flushed(|gather| gather.table(range(0x1000, 0x2000))), tables(range(0x1000, 0x2000)));
    let both = |gather: &mut Gather| {
        gather.table(range(0x4000, 0x5000));
        gather.table(range(0x2000, 0x3000));
        gather.leaf(range(0x6000, 0x7000), Level::PAGE);
    };
    assert_eq!(flushed(both), tables(range(0x2000, 0x7000)));
}

#[test]
fn r8_extents_past_the_threshold_are_flushed_as_everything() {
    let everything = (alloc::vec![Flush::All], [0, 0, 1]);
    let (most, more) = (range(0x1000, 0x1000 + THRESHOLD), range(0x1000, 0x1001 + THRESHOLD));
    assert_eq!(flushed(|gather| gather.leaf(most, Level::PAGE)).1, [1, 0, 0]);
    assert_eq!(flushed(|gather| gather.table(most)).1, [0, 1, 0]);
    assert_eq!(flushed(|gather| gather.leaf(more, Level::PAGE)), everything);
    assert_eq!(flushed(|gather| gather.table(more)), everything);
}

#[test]
fn r8_where_sizes_mix_a_table_that_comes_or_goes_is_flushed_as_everything() {
    let page = range(0x1000, 0x2000);
    assert_eq!(flushed_where(true, |gather| gather.table(page)), (alloc::vec![Flush::All], [0, 0, 1]));
    assert_eq!(flushed_where(true, |gather| gather.leaf(page, Level::PAGE)).1, [1, 0, 0], "not a leaf that goes");
}

#[test]
#[cfg(debug_assertions)]
#[should_panic(expected = "dropped unflushed")]
fn r8_a_gather_that_is_dropped_unflushed_complains() {
    Gather::new(THRESHOLD, false).leaf(range(0, 0x1000), Level::PAGE);
}
