//! A sorted sequence that never changes: a change makes another one, which shares with it whatever stays the same.
//!
//! The entries lie in chunks of a bounded length, behind a spine with a link to each chunk; chunks and spines are counted
//! by those who keep them. A change copies the chunk where it happens and the spine, which of many entries is the square
//! root, more or less. A search goes through the spine and one chunk.

use alloc::vec::Vec;
use core::ops::Range;

use crate::reclaim::{OutOfMemory, Shared, vec_for};
use crate::sync::Atomics;

/// Most entries of a chunk. Two neighbours have more than half of that together, so that the spine stays short.
const MOST: usize = 64;

/// What can be sorted.
pub(super) trait Entry: Clone {
    /// By what; no two entries of a sequence have the same.
    type Key: Copy + Ord;

    fn key(&self) -> Self::Key;

    /// The first key past the entry, where entries are ranges of keys: see [`Sorted::overlapping`].
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
    chunk: Shared<Chunk<T>, A>,
}

/// Entries, and their keys apart from them: a search touches few cache lines.
struct Chunk<T: Entry> {
    keys: Vec<T::Key>,
    entries: Vec<T>,
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
        let Chunk { keys, entries } = &*self.spine[link].chunk;
        entries.get(keys.partition_point(|other| *other <= key).checked_sub(1)?)
    }

    /// The entries from the last one on whose key is not above `key`; all, if there is none.
    pub(super) fn from(&self, key: T::Key) -> impl Iterator<Item = &T> {
        let links = &self.spine[self.links_for(key).start..];
        let passed = links.first().map_or(0, |link| link.chunk.keys.partition_point(|other| *other <= key));
        links.iter().flat_map(|link| link.chunk.entries.iter()).skip(passed.saturating_sub(1))
    }

    /// The entries that begin before `end` and end after `start`, in order. Looks at every link, and into those chunks
    /// where there may be some.
    pub(super) fn overlapping(&self, start: T::Key, end: T::Key) -> impl Iterator<Item = &T> {
        let links = self.spine.iter().take_while(move |link| link.first < end).filter(move |link| link.reach > start);
        let entries = links.flat_map(|link| link.chunk.entries.iter());
        entries.filter(move |entry| entry.key() < end && entry.end() > start)
    }

    /// With `entry`, in the place of the one of the same key if there is one.
    pub(super) fn with(&self, entry: T) -> Result<Self, OutOfMemory> {
        self.rebuilt(self.links_for(entry.key()), entry.key(), Some(entry))
    }

    /// Without the entry of this key. What is left of its chunk joins a neighbour if the two are small.
    pub(super) fn without(&self, key: T::Key) -> Result<Self, OutOfMemory> {
        let Range { start, end } = self.links_for(key);
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
        let (head, old, tail) = (&self.spine[..links.start], &self.spine[links.clone()], &self.spine[links.end..]);
        let mut entries = vec_for(len(old) + 1)?;
        for Link { chunk, .. } in old {
            entries.extend_from_slice(&chunk.entries[..chunk.keys.partition_point(|other| *other < key)]);
        }
        entries.extend(entry);
        let through = entries.len();
        for Link { chunk, .. } in old {
            entries.extend_from_slice(&chunk.entries[chunk.keys.partition_point(|other| *other <= key)..]);
        }
        // What grows at its end leaves full chunks behind.
        let grows_at_end = tail.is_empty() && through == entries.len();
        let first = if entries.len() <= MOST || grows_at_end { MOST } else { entries.len() / 2 };
        let mut others = vec_for(entries.len().saturating_sub(first))?;
        others.extend(entries.drain(first.min(entries.len())..));

        let mut spine = vec_for(head.len() + 2 + tail.len())?;
        spine.extend_from_slice(head);
        for entries in [entries, others] {
            spine.extend(Link::to(entries)?);
        }
        spine.extend_from_slice(tail);
        Ok(Self { spine: Shared::new(spine)? })
    }
}

impl<T: Entry, A: Atomics> Link<T, A> {
    /// The link to these entries, if there are any.
    fn to(entries: Vec<T>) -> Result<Option<Self>, OutOfMemory> {
        let (Some(first), Some(reach)) = (entries.first().map(T::key), entries.iter().map(T::end).max()) else {
            return Ok(None);
        };
        let mut keys = vec_for(entries.len())?;
        keys.extend(entries.iter().map(T::key));
        Ok(Some(Self { first, reach, chunk: Shared::new(Chunk { keys, entries })? }))
    }
}

/// How many entries they lead to.
fn len<T: Entry, A: Atomics>(links: &[Link<T, A>]) -> usize {
    links.iter().map(|link| link.chunk.entries.len()).sum()
}

#[cfg(test)]
mod tests;
