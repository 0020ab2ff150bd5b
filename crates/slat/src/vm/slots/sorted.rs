//! A sorted sequence that never changes: a change makes another one, which shares with it whatever stays the same.
//!
//! The entries lie in chunks of a bounded length, behind a spine with a link to each chunk; chunks and spines are counted
//! by those who keep them. A change copies the chunk where it happens and the spine, which of many entries is the square
//! root, more or less. A search goes through the spine and one chunk.

use alloc::vec::Vec;
use core::ops::Range;

use crate::reclaim::{OutOfMemory, Shared};
use crate::sync::Atomics;

/// Most entries of a chunk. Two neighbours have more than half of that together, so that the spine stays short.
const MOST: usize = 64;

/// What can be sorted.
pub(super) trait Entry: Clone {
    /// By what; no two entries of a sequence have the same.
    type Key: Copy + Ord;

    fn key(&self) -> Self::Key;

    /// The first key past the entry, if it stands for a range of keys.
    fn end(&self) -> Self::Key {
        self.key()
    }
}

/// See the module.
pub(super) struct Sorted<T: Entry, A: Atomics> {
    spine: Shared<Vec<Link<T, A>>, A>,
}

/// A chunk, which is never empty, and what a search has to know of it.
struct Link<T: Entry, A: Atomics> {
    /// The key of its first entry.
    first: T::Key,
    /// The highest end of an entry.
    reach: T::Key,
    chunk: Shared<Vec<T>, A>,
}

impl<T: Entry, A: Atomics> Clone for Sorted<T, A> {
    fn clone(&self) -> Self {
        Self { spine: self.spine.clone() }
    }
}

impl<T: Entry, A: Atomics> Clone for Link<T, A> {
    fn clone(&self) -> Self {
        Self { chunk: self.chunk.clone(), ..*self }
    }
}

impl<T: Entry, A: Atomics> Sorted<T, A> {
    /// No entries.
    pub(super) fn empty() -> Result<Self, OutOfMemory> {
        Ok(Self { spine: Shared::new(Vec::new())? })
    }

    /// The last entry whose key is not above `key`.
    pub(super) fn last_at(&self, key: T::Key) -> Option<&T> {
        let link = self.spine.partition_point(|link| link.first <= key).checked_sub(1)?;
        let chunk = &self.spine[link].chunk;
        chunk.get(chunk.partition_point(|entry| entry.key() <= key).checked_sub(1)?)
    }

    /// The entries from the last one on whose key is not above `key`; all, if there is none.
    pub(super) fn from(&self, key: T::Key) -> impl Iterator<Item = &T> {
        let links = &self.spine[self.links_for(key).start..];
        let passed = links.first().map_or(0, |link| link.chunk.partition_point(|entry| entry.key() <= key));
        links.iter().flat_map(|link| link.chunk.iter()).skip(passed.saturating_sub(1))
    }

    /// The entries that begin before `end` and end after `start`, in order. Looks at every link, and into those chunks
    /// where there may be some.
    pub(super) fn overlapping(&self, start: T::Key, end: T::Key) -> impl Iterator<Item = &T> {
        let links = self.spine.iter().take_while(move |link| link.first < end).filter(move |link| link.reach > start);
        let entries = links.flat_map(|link| link.chunk.iter());
        entries.filter(move |entry| entry.key() < end && entry.end() > start)
    }

    /// With `entry`, in the place of the one of the same key if there is one.
    pub(super) fn with(&self, entry: T) -> Result<Self, OutOfMemory> {
        self.rebuilt(self.links_for(entry.key()), entry.key(), Some(entry))
    }

    /// Without the entry of this key. What is left of its chunk joins a neighbour if the two are small.
    pub(super) fn without(&self, key: T::Key) -> Result<Self, OutOfMemory> {
        let Range { start, end } = self.links_for(key);
        let len = |links: &[Link<T, A>]| links.iter().map(|link| link.chunk.len()).sum::<usize>();
        let are_small = |links: &Range<usize>| self.spine.get(links.clone()).is_some_and(|it| len(it) <= MOST / 2 + 1);
        let pairs = [start..end + 1, start.saturating_sub(1)..end];
        self.rebuilt(pairs.into_iter().find(are_small).unwrap_or(start..end), key, None)
    }

    /// The link of the chunk that has the key, or would have it: none only if there are none.
    fn links_for(&self, key: T::Key) -> Range<usize> {
        let start = self.spine.partition_point(|link| link.first <= key).saturating_sub(1);
        start..self.spine.len().min(start + 1)
    }

    /// A sequence with new chunks in the place of these links, which have `entry`, and nothing else of this key.
    fn rebuilt(&self, links: Range<usize>, key: T::Key, entry: Option<T>) -> Result<Self, OutOfMemory> {
        let (head, tail) = (&self.spine[..links.start], &self.spine[links.end..]);
        let old = self.spine[links].iter().flat_map(|link| link.chunk.iter());
        let before = old.clone().take_while(|other| other.key() < key);
        let after = old.skip_while(|other| other.key() <= key);
        let count = before.clone().count() + usize::from(entry.is_some()) + after.clone().count();
        // What grows at its end leaves full chunks behind.
        let grows_at_end = tail.is_empty() && after.clone().next().is_none();
        let first = if count <= MOST || grows_at_end { count.min(MOST) } else { count / 2 };
        let mut entries = before.cloned().chain(entry).chain(after.cloned());

        let mut spine = Vec::new();
        spine.try_reserve_exact(head.len() + 2 + tail.len()).map_err(|_| OutOfMemory)?;
        spine.extend_from_slice(head);
        for len in [first, count - first].into_iter().filter(|len| *len > 0) {
            spine.push(Link::to(entries.by_ref().take(len), len)?);
        }
        spine.extend_from_slice(tail);
        Ok(Self { spine: Shared::new(spine)? })
    }
}

impl<T: Entry, A: Atomics> Link<T, A> {
    /// A chunk of these entries: `len`, at least one.
    fn to(entries: impl Iterator<Item = T>, len: usize) -> Result<Self, OutOfMemory> {
        let mut chunk = Vec::new();
        chunk.try_reserve_exact(len).map_err(|_| OutOfMemory)?;
        chunk.extend(entries);
        let (first, reach) = (chunk[0].key(), chunk.iter().map(T::end).fold(chunk[0].end(), Ord::max));
        Ok(Self { first, reach, chunk: Shared::new(chunk)? })
    }
}

#[cfg(test)]
mod tests;
