//! Words in cache lines of eight, numbered through.

use alloc::vec::Vec;

use super::boxes::{OutOfMemory, vec_with};

/// Words in a line.
const WORDS: usize = 8;

/// Aligned so that the eight words of a line, 8 bytes each, are alone in a cache line.
#[repr(C, align(64))]
struct Line<W>([W; WORDS]);

/// Lines of eight words.
pub(crate) struct Lines<W> {
    lines: Vec<Line<W>>,
}

impl<W> Lines<W> {
    /// `len` lines, of words made by `make`.
    pub(crate) fn new(len: usize, make: impl Fn() -> W) -> Result<Self, OutOfMemory> {
        const { assert!(size_of::<Line<W>>() == WORDS * size_of::<W>(), "lines lie side by side") };
        Ok(Self { lines: vec_with(len, || Line(core::array::from_fn(|_| make())))? })
    }

    /// The words of a line.
    pub(crate) fn line(&self, line: usize) -> &[W; WORDS] {
        &self.lines[line].0
    }

    /// The word with this number, counted through all lines.
    #[inline(always)]
    pub(crate) fn word(&self, number: usize) -> Option<&W> {
        if number / WORDS >= self.lines.len() {
            return None;
        }
        // SAFETY: the line is one of the vector's. Lines are arrays of words without anything between two of them (see
        // `new`), so the word with this number lies in the vector's allocation, and the pointer is the vector's own.
        Some(unsafe { &*self.lines.as_ptr().cast::<W>().add(number) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_numbered_through_the_lines() {
        let next = core::cell::Cell::new(0);
        let lines = Lines::new(3, || next.replace(next.get() + 1)).unwrap();
        assert!((0..24).all(|number| lines.word(number) == Some(&number)));
        assert_eq!(lines.line(2)[7], 23);
        assert_eq!((lines.word(24), lines.word(usize::MAX)), (None, None));
        let aligned = core::ptr::from_ref(Lines::new(1, || 0u64).unwrap().line(0)).addr();
        assert_eq!(aligned % 64, 0);
    }
}
