//! The frames that page tables live in.
//!
//! One reservation of address space, so that a table's words are an addition away from its address. Free frames are
//! kept in shards, one lock each: threads meet at a lock only when they were dealt the same shard, or when one runs dry
//! and helps itself from the others.
//!
//! Each frame has a tag that says whether it is allocated, in a run of how many, and how often it has been handed out.
//! It makes a double or mistaken free a panic, and lets the machine's walkers notice a table that is gone (M1, M2).

use std::cell::Cell;
use std::io;
use std::sync::Mutex;
use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize};

use slat::addr::Hpa;
use slat::sync::Padded;

use crate::mapping::{Backed, Mapping};

/// What freed frames are filled with where debug assertions are on: to a walker of arm64, a valid entry of every level that
/// leads to no memory of the machine; to one of EPT, a misconfiguration at every level.
const POISON: u64 = 0x0000_dead_dead_d7ff;

const SHARDS: usize = 64;
/// How many untouched frames a dry shard takes at once.
const BATCH: usize = 16;

/// Frames for page tables.
#[derive(Debug)]
pub struct Arena {
    base: Hpa,
    /// Bytes in a frame, which is one table, as a power of two.
    frame_shift: u32,
    memory: Mapping,
    tags: Box<[Tag]>,
    /// Frames from here on were never used, and are zero.
    untouched: AtomicUsize,
    shards: Box<[Padded<Mutex<Vec<u32>>>]>,
    runs: Mutex<Vec<(u32, usize)>>,
    now: AtomicU64,
    peak: AtomicU64,
}

/// Whether a frame is allocated, as part of a run of how many, and its generation.
#[derive(Debug, Default)]
struct Tag(AtomicU32);

impl Tag {
    const ALLOCATED: u32 = 1 << 0;
    const FREED: u32 = 1 << 1;
    const ORDER_SHIFT: u32 = 2;
    const ORDER: u32 = 0b111 << Self::ORDER_SHIFT;
    const GENERATION: u32 = 1 << 5;
    const GENERATIONS: u32 = !(Self::GENERATION - 1);

    /// Marks the frame as allocated, in a new generation; whether it was used before. Only whoever took the frame
    /// from a free list calls this.
    fn allocate(&self, order: u32) -> bool {
        let old = self.0.load(Relaxed);
        let generation = (old & Self::GENERATIONS).wrapping_add(Self::GENERATION);
        self.0.store(generation | order << Self::ORDER_SHIFT | Self::ALLOCATED, Release);
        old & Self::FREED != 0
    }

    /// Marks the frame as freed; false when it is not allocated in a run of that order.
    fn free(&self, order: u32) -> bool {
        let allocated = order << Self::ORDER_SHIFT | Self::ALLOCATED;
        let old = self.0.load(Relaxed);
        let freed = old & Self::GENERATIONS | Self::FREED;
        let matches = old & (Self::ORDER | Self::ALLOCATED) == allocated;
        // A read-modify-write, so that of two threads that free a frame at once, one is told.
        matches && self.0.compare_exchange(old, freed, AcqRel, Relaxed).is_ok()
    }

    fn generation(&self) -> Option<u32> {
        let tag = self.0.load(Acquire);
        (tag & Self::ALLOCATED != 0).then_some(tag & Self::GENERATIONS)
    }
}

impl Arena {
    /// Address space at `base` for `frames` frames of `1 << frame_shift` bytes.
    pub(crate) fn new(base: Hpa, frames: usize, frame_shift: u32) -> io::Result<Self> {
        assert!(u32::try_from(frames).is_ok(), "frames are numbered by 32 bits");
        let bytes = (frames.max(1) as u64) << frame_shift;
        Ok(Self {
            base,
            frame_shift,
            memory: Mapping::new(bytes, 2 << 20, Backed::Pages)?,
            tags: (0..frames).map(|_| Tag::default()).collect(),
            untouched: AtomicUsize::new(0),
            shards: (0..SHARDS).map(|_| Padded::default()).collect(),
            runs: Mutex::default(),
            now: AtomicU64::new(0),
            peak: AtomicU64::new(0),
        })
    }

    /// Allocates `count` contiguous zeroed frames, a power of two up to 16, aligned to their whole length.
    pub fn allocate(&self, count: usize) -> Option<Hpa> {
        assert!(count.is_power_of_two() && count <= 16, "runs of 1, 2, 4, 8 or 16 frames, not {count}");
        let first = if count == 1 { self.take_frame()? } else { self.take_run(count)? };
        for frame in first..first + count {
            if self.tags[frame].allocate(count.ilog2()) {
                self.fill(frame, 0);
            }
        }
        let now = self.now.fetch_add(count as u64, Relaxed) + count as u64;
        if now > self.peak.load(Relaxed) {
            self.peak.fetch_max(now, Relaxed);
        }
        Some(self.address(first))
    }

    /// Takes back what [`allocate`](Self::allocate) gave.
    ///
    /// # Panics
    ///
    /// When the frames are not one allocation: freed before, freed in part, or never handed out.
    pub fn free(&self, hpa: Hpa, count: usize) {
        let first = self.frame(hpa).unwrap_or_else(|| panic!("{hpa:?} is freed, but is no table of this machine"));
        assert!(count.is_power_of_two() && first.is_multiple_of(count), "{count} tables at {hpa:?} are no allocation");
        for frame in first..first + count {
            let freed = self.tags.get(frame).is_some_and(|tag| tag.free(count.ilog2()));
            assert!(freed, "{:?} is freed in a run of {count}, but is not allocated so", self.address(frame));
            if cfg!(debug_assertions) {
                self.fill(frame, POISON);
            }
        }
        self.now.fetch_sub(count as u64, Relaxed);
        if count == 1 {
            self.shard().lock().unwrap().push(first as u32);
        } else {
            self.runs.lock().unwrap().push((first as u32, count));
        }
    }

    /// The words of the frame at `hpa`. Panics when the arena ends before it.
    #[inline(always)]
    pub fn words(&self, hpa: Hpa) -> &[AtomicU64] {
        debug_assert!(self.generation(hpa).is_some(), "{hpa:?} is used as a table, but is none now");
        let first = ((hpa.get() - self.base.get()) / 8) as usize;
        &self.memory.words()[first..first + self.frame_words()]
    }

    /// The word at `hpa`, an aligned address inside an allocated frame; `None` when it is not.
    #[inline]
    pub fn word(&self, hpa: Hpa) -> Option<&AtomicU64> {
        self.generation(hpa)?;
        self.memory.words().get(((hpa.get() - self.base.get()) / 8) as usize)
    }

    /// How often, in units of no meaning, the frame that holds `hpa` has been handed out; `None` when it is not
    /// allocated. Whoever finds another value than before looks at another table.
    #[inline]
    pub fn generation(&self, hpa: Hpa) -> Option<u32> {
        self.tags[self.frame(hpa)?].generation()
    }

    /// How many frames there are.
    pub fn frames(&self) -> usize {
        self.tags.len()
    }

    /// How many frames are allocated.
    pub fn now(&self) -> u64 {
        self.now.load(Relaxed)
    }

    /// The most that were allocated at a time, since the last [`reset_peak`](Self::reset_peak).
    pub fn peak(&self) -> u64 {
        self.peak.load(Relaxed)
    }

    /// Starts the peak again from what is allocated now.
    pub fn reset_peak(&self) {
        self.peak.store(self.now(), Relaxed);
    }

    fn take_frame(&self) -> Option<usize> {
        let mut own = self.shard().lock().unwrap();
        if let Some(frame) = own.pop() {
            return Some(frame as usize);
        }
        // A batch may start past the end, and then holds nothing; the counter cannot overflow in this universe.
        let start = self.untouched.fetch_add(BATCH, Relaxed).min(self.tags.len());
        let batch = start..(start + BATCH).min(self.tags.len());
        own.extend(batch.rev().map(|frame| frame as u32));
        if let Some(frame) = own.pop() {
            return Some(frame as usize);
        }
        drop(own);
        self.shards.iter().find_map(|shard| shard.lock().unwrap().pop()).map(|frame| frame as usize)
    }

    fn take_run(&self, count: usize) -> Option<usize> {
        let mut runs = self.runs.lock().unwrap();
        if let Some(found) = runs.iter().position(|&(_, length)| length == count) {
            return Some(runs.swap_remove(found).0 as usize);
        }
        let aligned = |untouched: usize| untouched.next_multiple_of(count);
        let take = |untouched| Some(aligned(untouched) + count).filter(|&end| end <= self.tags.len());
        let skipped = self.untouched.try_update(Relaxed, Relaxed, take).ok()?;
        self.shard().lock().unwrap().extend(skipped as u32..aligned(skipped) as u32);
        Some(aligned(skipped))
    }

    /// The shard that this thread was dealt.
    fn shard(&self) -> &Mutex<Vec<u32>> {
        static DEALT: AtomicUsize = AtomicUsize::new(0);
        thread_local!(static MINE: Cell<usize> = Cell::new(DEALT.fetch_add(1, Relaxed)));
        &self.shards[MINE.get() % SHARDS].0
    }

    fn fill(&self, frame: usize, value: u64) {
        let words = self.frame_words();
        for word in &self.memory.words()[frame * words..][..words] {
            word.store(value, Relaxed);
        }
    }

    fn frame(&self, hpa: Hpa) -> Option<usize> {
        let frame = hpa.checked_offset_from(self.base)? >> self.frame_shift;
        (frame < self.tags.len() as u64).then_some(frame as usize)
    }

    fn address(&self, frame: usize) -> Hpa {
        Hpa::new(self.base.get() + ((frame as u64) << self.frame_shift))
    }

    /// 64-bit words in a frame.
    #[inline(always)]
    fn frame_words(&self) -> usize {
        1 << (self.frame_shift - 3)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    const FRAME_SIZE: u64 = 4096;

    fn arena(frames: usize) -> Arena {
        Arena::new(Hpa::new(1 << 32), frames, 12).unwrap()
    }

    #[test]
    fn frames_are_distinct_zeroed_and_counted() {
        let arena = arena(40);
        for _ in 0..3 {
            let frames: Vec<_> = std::iter::from_fn(|| arena.allocate(1)).collect();
            assert_eq!((frames.len(), arena.now(), arena.peak()), (40, 40, 40));
            assert_eq!(frames.iter().collect::<HashSet<_>>().len(), 40);
            for &frame in &frames {
                assert!(frame.is_aligned(FRAME_SIZE));
                assert!(arena.words(frame).iter().all(|word| word.load(Relaxed) == 0));
                arena.words(frame)[511].store(1, Relaxed);
            }
            frames.into_iter().for_each(|frame| arena.free(frame, 1));
        }
        arena.reset_peak();
        assert_eq!((arena.now(), arena.peak()), (0, 0));
    }

    #[test]
    fn frames_are_as_large_as_tables() {
        for shift in [12, 14, 16] {
            let arena = Arena::new(Hpa::new(1 << 32), 20, shift).unwrap();
            let (one, run) = (arena.allocate(1).unwrap(), arena.allocate(4).unwrap());
            assert!(one.is_aligned(1 << shift) && run.is_aligned(4 << shift));
            assert_eq!(arena.words(one).len(), 1 << (shift - 3));
            let inside = |frames: u64| arena.word(Hpa::new(run.get() + (frames << shift) - 8)).is_some();
            assert!(inside(4) && !inside(5), "frames of {shift} bits");
        }
    }

    #[test]
    fn runs_are_aligned_to_their_length_and_used_again() {
        let arena = arena(64);
        let single = arena.allocate(1).unwrap();
        for count in [2, 4, 8, 16] {
            let run = arena.allocate(count).unwrap();
            assert!(run.is_aligned(count as u64 * FRAME_SIZE));
            arena.words(Hpa::new(run.get() + (count as u64 - 1) * FRAME_SIZE))[0].store(9, Relaxed);
            arena.free(run, count);
            assert_eq!(arena.allocate(count), Some(run));
            assert_eq!(arena.word(Hpa::new(run.get() + (count as u64 - 1) * FRAME_SIZE)).unwrap().load(Relaxed), 0);
        }
        arena.free(single, 1);
        assert_eq!(arena.now(), 30);
    }

    #[test]
    fn a_thread_whose_shard_is_dry_helps_itself_from_the_others() {
        let arena = arena(32);
        let take = || std::iter::from_fn(|| arena.allocate(1)).collect::<Vec<_>>();
        let frames = take();
        std::thread::scope(|scope| {
            let free = || frames.iter().for_each(|&frame| arena.free(frame, 1));
            scope.spawn(free).join().unwrap();
        });
        assert_eq!(take().len(), 32);
    }

    #[test]
    fn many_threads_leave_nothing_behind() {
        let arena = arena(8 * 64);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for round in 0..200 {
                        let mine: Vec<_> = (0..round % 40).map(|_| arena.allocate(1).unwrap()).collect();
                        for &frame in &mine {
                            assert_eq!(arena.words(frame)[7].swap(1, Relaxed), 0, "a frame that another thread has");
                        }
                        mine.into_iter().for_each(|frame| arena.free(frame, 1));
                    }
                });
            }
        });
        assert_eq!(arena.now(), 0);
    }

    #[test]
    fn a_freed_frame_has_no_generation_and_a_reused_one_another() {
        let arena = arena(1);
        let frame = arena.allocate(1).unwrap();
        let generation = arena.generation(frame);
        assert!(generation.is_some());
        arena.free(frame, 1);
        assert!(arena.generation(frame).is_none() && arena.word(frame).is_none());
        assert_eq!(arena.allocate(1), Some(frame));
        assert_ne!(arena.generation(frame), generation);
    }

    #[test]
    #[should_panic(expected = "not allocated so")]
    fn a_double_free_is_noticed() {
        let arena = arena(2);
        let frame = arena.allocate(1).unwrap();
        arena.free(frame, 1);
        arena.free(frame, 1);
    }

    #[test]
    #[should_panic(expected = "not allocated so")]
    fn freeing_a_part_of_a_run_is_noticed() {
        let arena = arena(4);
        let run = arena.allocate(4).unwrap();
        arena.free(run, 1);
    }

    #[test]
    #[should_panic(expected = "no table of this machine")]
    fn freeing_what_was_never_a_table_is_noticed() {
        arena(4).free(Hpa::new(0x1000), 1);
    }

    #[test]
    #[cfg(debug_assertions)]
    fn freed_frames_are_poisoned() {
        let arena = arena(1);
        let frame = arena.allocate(1).unwrap();
        arena.free(frame, 1);
        assert!(arena.memory.words()[..512].iter().all(|word| word.load(Relaxed) == POISON));
    }
}
