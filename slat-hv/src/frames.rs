//! The machine's memory, in frames of 4 KiB: a bitmap with one bit a frame.

use core::ops::Range;

use crate::lock::Lock;

/// Bytes of a frame.
pub(crate) const FRAME: u64 = 4096;

static FRAMES: Lock<Option<Bitmap>> = Lock::new(None);

struct Bitmap {
    start: u64,
    /// A set bit is a frame in use.
    words: &'static mut [u64],
    free: u64,
    /// Where looking for a single frame begins.
    next: usize,
}

impl Bitmap {
    /// All of `memory` but `reserved`, which lies at its beginning. The bitmap itself goes behind that.
    fn new(memory: Range<u64>, reserved: u64) -> Self {
        let frames = (memory.end - memory.start) / FRAME;
        let words = frames.div_ceil(64) as usize;
        let bitmap = reserved.next_multiple_of(FRAME);
        // SAFETY: this memory is nobody's yet, and will be marked as used.
        let words = unsafe { core::slice::from_raw_parts_mut(crate::memory::pointer(bitmap), words) };
        words.fill(u64::MAX);
        let mut new = Self { start: memory.start, words, free: 0, next: 0 };
        let first = bitmap + (new.words.len() as u64 * 8).next_multiple_of(FRAME);
        new.mark(first..memory.end, false);
        new
    }

    /// Marks frames as used or free; they have to be the other.
    fn mark(&mut self, range: Range<u64>, used: bool) {
        for frame in (range.start - self.start) / FRAME..(range.end - self.start) / FRAME {
            let (word, bit) = (&mut self.words[(frame / 64) as usize], 1 << (frame % 64));
            assert!((*word & bit != 0) != used, "frame {frame} is used={used} already");
            *word ^= bit;
            self.free = if used { self.free - 1 } else { self.free + 1 };
        }
    }

    /// A run of `frames`, a power of two, aligned to its length.
    fn find(&mut self, frames: u64) -> Option<u64> {
        // Alignment is that of the address, not that of the place in the bitmap.
        let skew = self.start / FRAME % frames;
        if frames < 64 {
            let mask = u64::MAX >> (64 - frames);
            let count = self.words.len();
            for index in (self.next..count).chain(0..self.next) {
                let word = self.words[index];
                let fits = |bit: &u64| (word >> bit) & mask == 0;
                if let Some(bit) = (0..64).step_by(frames as usize).find(fits).filter(|_| word != u64::MAX) {
                    self.next = index;
                    return Some(self.start + (index as u64 * 64 + bit) * FRAME);
                }
            }
            return None;
        }
        let first = ((frames - skew) % frames / 64) as usize;
        let words = (frames / 64) as usize;
        let index = (first..self.words.len()).step_by(words).find(|&index| {
            self.words.get(index..index + words).is_some_and(|words| words.iter().all(|&word| word == 0))
        })?;
        Some(self.start + index as u64 * 64 * FRAME)
    }
}

/// Takes over the machine's memory, but for what lies before `reserved`.
pub(crate) fn take_over(memory: Range<u64>, reserved: u64) {
    *FRAMES.lock() = Some(Bitmap::new(memory, reserved));
}

/// A run of frames, a power of two, aligned to its length; its contents are arbitrary.
pub(crate) fn allocate(frames: u64) -> Option<u64> {
    assert!(frames.is_power_of_two());
    let mut held = FRAMES.lock();
    let bitmap = held.as_mut()?;
    let start = bitmap.find(frames)?;
    bitmap.mark(start..start + frames * FRAME, true);
    Some(start)
}

/// Gives a run back.
pub(crate) fn free(start: u64, frames: u64) {
    if let Some(bitmap) = FRAMES.lock().as_mut() {
        bitmap.mark(start..start + frames * FRAME, false);
    }
}

/// Frames that are free.
pub(crate) fn available() -> u64 {
    FRAMES.lock().as_ref().map_or(0, |bitmap| bitmap.free)
}
