//! Sorted sequences beside a plain map, and at the borders of chunks.

use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;

use proptest::prelude::*;

use super::*;
use crate::sync::Core;

/// An entry for the numbers from `key` on, so many; `owner` counts the copies there are.
#[derive(Clone, Debug)]
struct Span {
    key: u32,
    len: u32,
    _owner: Arc<()>,
}

impl Entry for Span {
    type Key = u32;

    fn key(&self) -> u32 {
        self.key
    }

    fn end(&self) -> u32 {
        self.key + self.len
    }
}

impl<T: Entry, A: Atomics> Sorted<T, A> {
    /// Whether the two are one, not only alike.
    pub(in crate::vm::slots) fn is_shared_with(&self, other: &Self) -> bool {
        core::ptr::eq(&*self.spine, &*other.spine)
    }
}

type Spans = Sorted<Span, Core>;

fn span(key: u32, len: u32) -> Span {
    Span { key, len, _owner: Arc::default() }
}

fn empty() -> Spans {
    Spans::empty().unwrap()
}

fn of(keys: impl IntoIterator<Item = u32>) -> Spans {
    keys.into_iter().fold(empty(), |spans, key| spans.with(span(key, 1)).unwrap())
}

fn all(spans: &Spans) -> Vec<(u32, u32)> {
    spans.from(0).map(|span| (span.key, span.len)).collect()
}

fn lengths(spans: &Spans) -> Vec<usize> {
    spans.spine.iter().map(|link| link.chunk.entries.len()).collect()
}

/// What the module promises of chunks and links.
fn check(spans: &Spans) {
    for Link { first, reach, chunk } in spans.spine.iter() {
        let Chunk { keys, entries } = &**chunk;
        assert!((1..=MOST).contains(&entries.len()) && keys.windows(2).all(|pair| pair[0] < pair[1]));
        assert!(entries.iter().map(Span::key).eq(keys.iter().copied()));
        assert_eq!((Some(first), Some(*reach)), (keys.first(), entries.iter().map(Span::end).max()));
    }
    for pair in spans.spine.windows(2) {
        assert!(pair[0].chunk.keys.last() < Some(&pair[1].first));
        assert!(len(pair) > MOST / 2, "{:?}", lengths(spans));
    }
}

/// Holds all answers against those of a plain map from keys to lengths.
fn compare(spans: &Spans, expected: &BTreeMap<u32, u32>, (key, len): (u32, u32)) {
    check(spans);
    let entry = |(key, len): (&u32, &u32)| (*key, *len);
    assert!(all(spans).into_iter().eq(expected.iter().map(entry)));
    let last = expected.range(..=key).next_back().map(entry);
    assert_eq!(spans.last_at(key).map(|span| (span.key, span.len)), last);
    let from = last.map_or(0, |(key, _)| key);
    assert!(spans.from(key).map(Span::key).eq(expected.range(from..).map(|(key, _)| *key)));
    let end = key + len;
    let overlapping = expected.iter().filter(|(other, len)| **other < end && *other + *len > key);
    assert!(spans.overlapping(key, end).map(Span::key).eq(overlapping.map(|(key, _)| *key)));
}

/// One change: a key, and the length of the entry that it shall have, if any.
type Step = (u32, Option<u32>);

/// Runs of changes, forwards, backwards or wherever: they fill chunks and empty them.
fn steps() -> impl Strategy<Value = Vec<Step>> {
    let run =
        (0..400u32, 1..150u32, prop_oneof![Just(1u32), Just(399), Just(7)], prop::option::weighted(0.6, 1..30u32));
    let run = run.prop_map(|(first, count, stride, len)| (0..count).map(move |n| ((first + n * stride) % 400, len)));
    prop::collection::vec(run, 1..9).prop_map(|runs| runs.into_iter().flatten().collect())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    /// After any changes a sequence is what a map is, and those before are what they were.
    #[test]
    fn a_sorted_sequence_is_a_map(steps in steps(), queries in prop::collection::vec((0..450u32, 0..60u32), 50)) {
        let (mut spans, mut expected) = (empty(), BTreeMap::new());
        let mut kept = Vec::new();
        for (number, (key, len)) in steps.into_iter().enumerate() {
            match len {
                Some(len) => {
                    spans = spans.with(span(key, len)).unwrap();
                    expected.insert(key, len);
                }
                None => {
                    spans = spans.without(key).unwrap();
                    expected.remove(&key);
                }
            }
            let query = queries[number % queries.len()];
            compare(&spans, &expected, query);
            if number % 16 == 0 {
                kept.push((spans.clone(), expected.clone(), query));
            }
        }
        kept.iter().for_each(|(spans, expected, query)| compare(spans, expected, *query));
    }
}

const FULL: u32 = MOST as u32;

#[test]
fn a_full_chunk_becomes_two() {
    let full = of((0..FULL).map(|key| 2 * key));
    assert_eq!(lengths(&full), [MOST]);
    for key in [1, FULL - 1, 2 * FULL - 3] {
        let split = full.with(span(key, 1)).unwrap();
        assert_eq!(lengths(&split), [MOST / 2, MOST / 2 + 1]);
        assert_eq!(split.last_at(key).map(Span::key), Some(key));
        check(&split);
    }
    assert_eq!(lengths(&full.with(span(4, 9)).unwrap()), [MOST], "one that is replaced takes no room");
    assert_eq!(lengths(&full), [MOST], "and this one is as it was");
}

#[test]
fn what_grows_at_its_end_leaves_full_chunks_behind() {
    assert_eq!(lengths(&of(0..3 * FULL + 1)), [MOST, MOST, MOST, 1]);
    let between = of((0..2 * FULL).map(|key| 2 * key)).with(span(2 * FULL - 1, 1)).unwrap();
    assert_eq!(lengths(&between), [MOST / 2, MOST / 2 + 1, MOST], "after a chunk that is not the last");
}

#[test]
fn small_neighbours_become_one() {
    let two = of(0..FULL + 1);
    let few = (0..FULL - 32).fold(two, |spans, key| spans.without(key).unwrap());
    assert_eq!(lengths(&few), [32, 1]);
    assert_eq!(lengths(&few.without(FULL - 1).unwrap()), [32], "the one after joins");
    assert_eq!(lengths(&few.without(FULL).unwrap()), [32]);
    let three = of(0..2 * FULL + 1);
    let few = (FULL..2 * FULL - 31).fold(three, |spans, key| spans.without(key).unwrap());
    assert_eq!(lengths(&few), [MOST, 32]);
    let few = (0..FULL - 2).fold(few, |spans, key| spans.without(key).unwrap());
    assert_eq!(lengths(&few), [2, 32]);
    assert_eq!(lengths(&few.without(2 * FULL).unwrap()), [2, 31]);
    let few = few.without(2 * FULL).unwrap();
    assert_eq!(lengths(&few.without(2 * FULL - 1).unwrap()), [32], "the one before joins");
}

#[test]
fn an_empty_chunk_is_dropped() {
    let two = of(0..FULL + 1);
    assert_eq!(lengths(&two.without(FULL).unwrap()), [MOST]);
    let one = of([7]);
    assert_eq!(lengths(&one.without(7).unwrap()), []);
    assert_eq!(lengths(&one.without(6).unwrap()), [1], "it was not there");
    assert_eq!(lengths(&empty().without(7).unwrap()), []);
    assert_eq!((all(&one), all(&empty())), (Vec::from([(7, 1)]), Vec::new()));
}

#[test]
fn chunks_are_shared_until_they_change() {
    let two = of(0..2 * FULL);
    let changed = two.with(span(1, 5)).unwrap();
    let is_shared = |n: usize| core::ptr::eq(&*two.spine[n].chunk, &*changed.spine[n].chunk);
    assert_eq!((is_shared(0), is_shared(1)), (false, true));
    assert!(two.is_shared_with(&two.clone()) && !two.is_shared_with(&changed));
}

#[test]
fn entries_are_dropped_with_the_last_sequence_that_has_them() {
    let owner = Arc::new(());
    let copies = || Arc::strong_count(&owner) - 1;
    let spans = of(0..FULL).with(Span { key: 9, len: 1, _owner: owner.clone() }).unwrap();
    assert_eq!(copies(), 1);
    let other = spans.with(span(10, 2)).unwrap();
    assert_eq!(copies(), 2, "its chunk was copied");
    let without = other.without(9).unwrap();
    drop((spans, other));
    assert_eq!((copies(), without.last_at(9).map(Span::key)), (0, Some(8)));
}
