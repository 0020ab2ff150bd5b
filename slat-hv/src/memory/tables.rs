//! Memory for tables: frames, a few of them kept by each CPU.

use core::slice;
use core::sync::atomic::AtomicU64;

use slat::addr::Hpa;
use slat::host::TableMemory;
use slat::sync::Padded;

use super::format::PAGE_SHIFT;
use super::{Memory, pointer};
use crate::cpu::{self, CPUS};
use crate::frames::{self, FRAME};
use crate::lock::Lock;

/// Words of a table, which is as large as a page.
const WORDS: usize = 1 << (PAGE_SHIFT - 3);
/// Frames of a table.
const FRAMES: u64 = (1 << PAGE_SHIFT) / FRAME;
/// Most tables that a CPU keeps.
const KEPT: usize = 32;

/// One CPU's frames; their contents are arbitrary. Its lock is taken by that CPU alone, but for `drain`.
struct Cache {
    frames: [u64; KEPT],
    len: usize,
}

static CACHES: [Padded<Lock<Cache>>; CPUS] = [const { Padded(Lock::new(Cache { frames: [0; KEPT], len: 0 })) }; CPUS];

impl Cache {
    fn take(&mut self) -> Option<u64> {
        if self.len == 0 {
            while self.len < KEPT / 2 {
                let Some(frame) = frames::allocate(FRAMES) else { break };
                self.frames[self.len] = frame;
                self.len += 1;
            }
        }
        self.len = self.len.checked_sub(1)?;
        Some(self.frames[self.len])
    }

    fn put(&mut self, frame: u64) {
        if self.len == KEPT {
            return frames::free(frame, FRAMES);
        }
        self.frames[self.len] = frame;
        self.len += 1;
    }
}

/// Gives back what all CPUs keep.
pub(crate) fn drain() {
    for cache in &CACHES {
        let mut cache = cache.lock();
        let len = cache.len;
        cache.frames[..len].iter().for_each(|&frame| frames::free(frame, FRAMES));
        cache.len = 0;
    }
}

// SAFETY: frames are zeroed when they are handed out, aligned to their run's length by the frame allocator, and nobody
// else's until they are freed; a table's words are its frame, at its physical address, where the walker reads them: both
// sides use cacheable, inner-shareable memory.
unsafe impl TableMemory for Memory {
    type Atomics = slat::sync::Core;

    fn allocate(&self, tables: usize) -> Option<Hpa> {
        let frame = match tables {
            1 => CACHES[cpu::number()].lock().take(),
            many => frames::allocate(many as u64 * FRAMES),
        }?;
        // SAFETY: the frames were just allocated.
        unsafe { pointer::<[u64; WORDS]>(frame).write_bytes(0, tables) };
        Some(Hpa::new(frame))
    }

    unsafe fn free(&self, table: Hpa, tables: usize) {
        match tables {
            1 => CACHES[cpu::number()].lock().put(table.get()),
            many => frames::free(table.get(), many as u64 * FRAMES),
        }
    }

    #[inline(always)]
    unsafe fn words(&self, table: Hpa) -> &[AtomicU64] {
        // SAFETY: the caller names a table that is allocated, and is reached as atomics only.
        unsafe { slice::from_raw_parts(pointer(table.get()), WORDS) }
    }
}
