//! The shards against what they stand for, range by range: trees small enough that every range can be tried.

use super::*;
use crate::addr::{Gpa, Level};
use crate::format::{Arm64, Fake, Sv57x4};
use crate::sync::Core;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;

const PAGE: u64 = 4096;
/// Pages in a region of [`TREE`].
const REGION: u64 = 16;
/// Four regions, in two shards that remember two events each.
const TREE: Fake = Fake::new(3);

fn pages(first: u64, end: u64) -> GpaRange {
    GpaRange::new(Gpa::new(first * PAGE), Gpa::new(end * PAGE)).unwrap()
}

/// Every range of whole pages in the first `most`, empty ones included.
fn ranges(most: u64) -> impl Iterator<Item = GpaRange> {
    (0..=most).flat_map(move |first| (first..=most).map(move |end| pages(first, end)))
}

/// The spans of every size that a leaf may have.
fn leaves(most: u64) -> impl Iterator<Item = GpaRange> {
    [1, 4, REGION].into_iter().flat_map(move |size| (0..most / size).map(move |n| pages(n * size, (n + 1) * size)))
}

fn shards() -> Shards<Core> {
    Shards::new::<Fake>(TREE.geometry()).unwrap()
}

#[test]
fn r4_a_packed_range_concerns_just_the_leaves_that_it_overlaps() {
    let geometry = TREE.geometry();
    for range in ranges(3 * REGION) {
        let packed = pack::range(range, geometry);
        let fits = !range.is_empty() && range.start().get() >> 16 == (range.end().get() - 1) >> 16;
        assert_eq!(packed == pack::WHOLE, !fits, "{range}");
        for leaf in leaves(3 * REGION) {
            assert_eq!(pack::concerns(packed, leaf, geometry), !fits || range.overlaps(leaf), "{range} and {leaf}");
        }
    }
    assert!(leaves(3 * REGION).all(|leaf| !pack::concerns(0, leaf, geometry)), "0 is no range");
}

#[test]
fn r4_bytes_stand_for_their_pages() {
    let geometry = TREE.geometry();
    for page in 1..REGION - 1 {
        let byte = GpaRange::with_len(Gpa::new(page * PAGE + 5), 1).unwrap();
        assert_eq!(pack::range(byte, geometry), pack::range(pages(page, page + 1), geometry));
        let more = GpaRange::with_len(Gpa::new(page * PAGE), PAGE + 1).unwrap();
        assert_eq!(pack::range(more, geometry), pack::range(pages(page, page + 2), geometry));
    }
}

#[test]
fn r4_ranges_at_both_ends_of_the_largest_tree_are_told_apart() {
    let geometry = Sv57x4::new().geometry();
    let (page, top) = (geometry.page_size(), 1 << geometry.address_bits());
    let at = |start| GpaRange::with_len(Gpa::new(start), page).unwrap();
    // 26 bits are left for a region's number.
    let told_apart = [0, (1 << 30) - page, 1 << 30, (1 << 56) - (1 << 30), (1 << 56) - page].map(at);
    for range in told_apart {
        let packed = pack::range(range, geometry);
        let concerned: Vec<_> = told_apart.into_iter().filter(|leaf| pack::concerns(packed, *leaf, geometry)).collect();
        assert_eq!(concerned, [range]);
        assert!([1 << 56, top - page].map(at).iter().all(|leaf| pack::concerns(packed, *leaf, geometry)), "to be safe");
    }
    assert_eq!([1 << 56, top - page].map(|start| pack::range(at(start), geometry)), [pack::WHOLE; 2]);
}

#[test]
fn r4_each_shard_of_a_range_counts_it_once() {
    let (shards, geometry) = (shards(), TREE.geometry());
    for range in ranges(4 * REGION) {
        let mut expected = BTreeMap::<usize, Vec<u64>>::new();
        for region in 0..4 {
            let part = pages(region * REGION, (region + 1) * REGION).intersection(range);
            expected.entry(region as usize % 2).or_default().extend(part.map(|part| pack::range(part, geometry)));
        }
        // More regions than shards: no shard says which of its parts is meant.
        let is_wide = expected.values().any(|parts| parts.len() > 1);
        let expected: Vec<_> = expected
            .into_iter()
            .filter_map(|(shard, parts)| Some((shard, if is_wide { pack::WHOLE } else { *parts.first()? })))
            .collect();
        let mut found: Vec<_> = shards.over(range).collect();
        found.sort_unstable();
        assert_eq!(found, expected, "{range}");
    }
}

#[test]
fn r4_what_happens_refuses_just_the_leaves_that_it_overlaps() {
    let whole = pages(0, 2 * REGION);
    for (range, leaf) in [3, 17].into_iter().flat_map(|page| {
        let other = |other: u64| (pages(page, page + 2), pages(other, other + 1));
        [page - 1, page, page + 1, page + 2, (page + REGION) % (2 * REGION)].map(other)
    }) {
        let (shards, overlaps) = (shards(), range.overlaps(leaf));
        let admits = |ticket: &Ticket| shards.admits(ticket, leaf);
        let ticket = shards.ticket(leaf.start());
        assert!(admits(&ticket), "nothing has happened");
        shards.event(range);
        assert_eq!(admits(&ticket), !overlaps, "{leaf} after an event over {range}");
        let ticket = shards.ticket(leaf.start());
        assert!(admits(&ticket), "what happened before is no matter");
        shards.open(range).unwrap();
        assert_eq!(admits(&ticket), !overlaps, "{leaf} after {range} was opened");
        let among = shards.ticket(leaf.start());
        assert_eq!(admits(&among), !overlaps, "{leaf} while {range} is open");
        shards.close(range);
        assert_eq!(admits(&among), !overlaps, "{leaf}: what was looked up while {range} was open");
        assert!(admits(&shards.ticket(leaf.start())), "and that is over");
        assert!(shards.over(whole).all(|(shard, _)| shards.words.at(shard).load(Ordering::Relaxed) & OPEN_MASK == 0));
    }
}

#[test]
fn r4_so_many_events_are_remembered_and_no_more() {
    let (shards, leaf) = (shards(), pages(3, 4));
    for round in 0..5 {
        for events in 0..=3 {
            let ticket = shards.ticket(leaf.start());
            (0..events).for_each(|event| shards.event(pages(8 + event, 9 + event)));
            assert_eq!(shards.admits(&ticket, leaf), events <= Fake::REMEMBERED as u64, "{events} in round {round}");
            let ticket = shards.ticket(leaf.start());
            (0..events).for_each(|event| shards.event(pages(REGION + event, REGION + event + 1)));
            assert!(shards.admits(&ticket, leaf), "those are events of another shard");
        }
    }
    // The first of two that are remembered counts as much as the last.
    let ticket = shards.ticket(leaf.start());
    [leaf, pages(8, 9)].into_iter().for_each(|range| shards.event(range));
    assert!(!shards.admits(&ticket, leaf));
}

#[test]
fn r4_a_late_note_of_an_event_does_not_replace_a_later_one() {
    let memory = &shards().shards[0].memory;
    let events = [1, 2].map(|page| pack::range(pages(page, page + 1), TREE.geometry()));
    memory.remember(5, events[0]);
    memory.remember(3, events[1]);
    memory.remember(5, events[1]);
    assert_eq!([3, 5, 7].map(|number| memory.event(number)), [None, Some(events[0]), None]);
    memory.remember(7, events[1]);
    assert_eq!([3, 5, 7].map(|number| memory.event(number)), [None, None, Some(events[1])]);
    // One that another thread is writing: neither read nor replaced.
    memory.events[0].stamp.store(8 << 1 | 1, Ordering::Relaxed);
    memory.remember(10, events[0]);
    assert_eq!([8, 10].map(|number| memory.event(number)), [None, None]);
}

#[test]
fn r4_open_invalidations_past_the_listed_ones_concern_everything_in_their_shard() {
    let shards = shards();
    let open = |page| shards.open(pages(page, page + 1)).unwrap();
    let close = |page| shards.close(pages(page, page + 1));
    let admits = |page| shards.admits(&shards.ticket(Gpa::new(page * PAGE)), pages(page, page + 1));
    let admitted = || [0, 1, 2, 3, 4, 9, REGION].map(admits);
    const LISTED_ONLY: [bool; 7] = [false, false, false, false, true, true, true];
    (0..4).for_each(open);
    assert_eq!(admitted(), LISTED_ONLY);
    open(4);
    assert_eq!(admitted(), [false, false, false, false, false, false, true], "one is listed nowhere");
    close(4);
    assert_eq!(admitted(), LISTED_ONLY);
    // The one that is not listed stays when one that is listed goes.
    open(4);
    close(0);
    assert!(!admits(4) && !admits(9));
    (1..5).for_each(close);
    assert!(admitted().iter().all(|admits| *admits));
    open(9);
    assert_eq!([admits(8), admits(9)], [true, false], "the places are free again");
    close(9);
}

#[test]
fn r4_more_than_can_be_counted_is_refused_and_changes_nothing() {
    let shards = shards();
    let (one, both) = (pages(REGION + 3, REGION + 4), pages(REGION - 1, REGION + 1));
    for _ in 0..OPEN_MASK {
        shards.open(one).unwrap();
    }
    let ticket = shards.ticket(Gpa::new(0));
    assert_eq!((shards.open(one), shards.open(both)), (Err(TooManyOpen), Err(TooManyOpen)));
    assert!(!shards.admits(&ticket, pages(REGION - 1, REGION)), "the shard that had room was opened, and closed");
    let word = |shard: usize| shards.words.at(shard).load(Ordering::Relaxed);
    assert_eq!((word(0), word(1)), (2 * EVENT, OPEN_MASK * (EVENT + 1)));
    for _ in 0..OPEN_MASK {
        shards.close(one);
    }
    assert_eq!(word(1), OPEN_MASK * 2 * EVENT);
    for shard in &shards.shards {
        let open = shard.memory.open.iter().chain([&shard.memory.unlisted]);
        assert!(open.map(|place| place.load(Ordering::Relaxed)).all(|place| place == 0), "nothing is left noted");
    }
    assert!(shards.admits(&shards.ticket(one.start()), one));
}

#[test]
fn a_quiet_word_is_the_one_that_an_event_changes() {
    let format = Arm64::new(40).unwrap();
    let shards = Shards::<Core>::new::<Arm64>(format.geometry()).unwrap();
    for region in [0u64, 1, 63, 64, 130] {
        let gpa = Gpa::new(region << 30 | 0x1234_5000);
        let range = format.geometry().span(gpa, Level::PAGE);
        let (word, seen) = shards.quiet_word(format, gpa).expect("nothing is open");
        shards.event(range);
        assert_eq!(word.load(Ordering::Relaxed), seen + EVENT);
        shards.open(range).unwrap();
        assert!(shards.quiet_word(format, gpa).is_none());
        assert!(shards.quiet_word(format, Gpa::new((region + 1) << 30)).is_some(), "the neighbour is quiet");
        shards.close(range);
        assert!(shards.quiet_word(format, gpa).is_some());
    }
}

#[test]
fn r8_others_see_what_is_unflushed_and_its_owner_does_not() {
    let format = Arm64::new(40).unwrap();
    let shards = Shards::<Core>::new::<Arm64>(format.geometry()).unwrap();
    let gib = |first: u64, end: u64| GpaRange::new(Gpa::new(first << 30), Gpa::new(end << 30)).unwrap();
    let (mut mine, nobody) = (Raised::none(), Raised::none());
    for region in [3, 3, 40, 64 + 40] {
        shards.raise_unflushed(Gpa::new(region << 30), &mut mine);
    }
    for (range, seen) in
        [(gib(3, 4), true), (gib(40, 41), true), (gib(4, 40), false), (gib(0, 64), true), (gib(0, 0), false)]
    {
        assert_eq!(shards.unflushed_by_others(range, &nobody), seen, "{range}");
        assert!(!shards.unflushed_by_others(range, &mine), "one's own: {range}");
    }
    let mut other = Raised::none();
    shards.raise_unflushed(Gpa::new(3 << 30), &mut other);
    assert!(shards.unflushed_by_others(gib(3, 4), &mine), "the other's");
    shards.lower_unflushed(other);
    assert!(!shards.unflushed_by_others(gib(3, 4), &mine), "which is over");
    shards.lower_unflushed(mine);
    assert!(!shards.unflushed_by_others(gib(0, 64), &nobody));
}

#[test]
#[cfg(debug_assertions)]
#[should_panic(expected = "stayed counted")]
fn r8_a_gather_that_stays_counted_as_unflushed_complains() {
    shards().raise_unflushed(Gpa::new(0), &mut Raised::none());
}

/// Atomics that write down, for each thread, what is stored.
mod noting {
    extern crate std;

    use crate::sync::{Atomics, Core, Ordering};
    use alloc::vec::Vec;
    use core::cell::RefCell;
    use core::sync::atomic::AtomicU64;

    std::thread_local! {
        static NOTED: RefCell<Vec<u64>> = const { RefCell::new(Vec::new()) };
    }

    pub(super) struct Noting;

    pub(super) struct Noted(AtomicU64);

    /// What was stored since the last call.
    pub(super) fn take() -> Vec<u64> {
        NOTED.take()
    }

    fn noted(value: u64) -> u64 {
        NOTED.with_borrow_mut(|noted| noted.push(value));
        value
    }

    impl Noted {
        fn load(&self, order: Ordering) -> u64 {
            self.0.load(order)
        }

        fn store(&self, value: u64, order: Ordering) {
            self.0.store(noted(value), order);
        }

        fn compare_exchange(&self, seen: u64, new: u64, success: Ordering, failure: Ordering) -> Result<u64, u64> {
            self.0.compare_exchange(seen, noted(new), success, failure)
        }

        fn swap(&self, value: u64, order: Ordering) -> u64 {
            self.0.swap(noted(value), order)
        }

        fn fetch_add(&self, value: u64, order: Ordering) -> u64 {
            self.0.fetch_add(value, order)
        }

        fn fetch_sub(&self, value: u64, order: Ordering) -> u64 {
            self.0.fetch_sub(value, order)
        }

        fn fetch_or(&self, bits: u64, order: Ordering) -> u64 {
            self.0.fetch_or(bits, order)
        }

        fn fetch_and(&self, bits: u64, order: Ordering) -> u64 {
            self.0.fetch_and(bits, order)
        }
    }

    crate::forward_word!(Noted, |value| Noted(AtomicU64::new(value)));

    impl Atomics for Noting {
        type Word = Noted;
        type Statistic = AtomicU64;

        fn full_fence() {
            Core::full_fence();
        }

        fn acquire_fence() {
            Core::acquire_fence();
        }

        fn spin_hint() {}
    }
}

#[test]
fn r4_the_note_of_an_event_says_that_it_is_being_written_while_it_is() {
    let shards = Shards::<noting::Noting>::new::<Fake>(TREE.geometry()).unwrap();
    let packed = pack::range(pages(1, 2), TREE.geometry());
    noting::take();
    for number in [1, 2, 3, 8] {
        shards.shards[0].memory.remember(number, packed);
        let stored = noting::take();
        assert_eq!(stored[1..], [packed, number << 1], "the range, then whose it is");
        assert_eq!(stored[0] & 1, 1, "bit 0 while it is being written");
    }
}
