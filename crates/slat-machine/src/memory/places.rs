//! Guest memory that does not stay where it is: the host gives a page another frame, and takes the old one back.
//!
//! A frame that is nobody's place is filled with [`Places::POISON`] and is no memory to a core: an access that comes to
//! it through something stale is an external abort, and a write that comes to it in spite of that is found when the
//! frame is used again, or by [`Places::check`].

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicBool, AtomicU64};

use super::GuestMemory;

/// Where each page of a guest lies, in frames of the machine's memory.
#[derive(Debug)]
pub struct Places {
    frames: Box<[AtomicU64]>,
    /// By frame: whether it is some page's place.
    lent: Box<[AtomicBool]>,
    /// Frames that are nobody's place, the one that has been free for longest first.
    free: Mutex<VecDeque<u64>>,
    /// Pages in a piece of memory that a block of level 1 maps.
    piece: u64,
}

/// What becomes of a page's contents when it is given another place.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Replacement {
    /// They move along.
    Move,
    /// They are lost: the page is zero.
    Discard,
}

/// Something was written to memory that was nobody's.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("frame {frame} was written to (word {word} holds {value:#x}) after it was taken back")]
pub struct Disturbed {
    /// The frame.
    pub frame: u64,
    /// The first word in it that was changed.
    pub word: usize,
    /// What it holds.
    pub value: u64,
}

impl Places {
    /// What free frames are filled with: to a guest, a value that it did not write.
    pub const POISON: u64 = 0xdead_beef_feed_dead;

    /// Places for `pages` pages, fewer than `memory` has, of which a block maps `piece`: at first, page *n* lies in frame
    /// *n*.
    pub(crate) fn new(memory: &GuestMemory, pages: u64, piece: u64) -> Self {
        assert!(pages < memory.pages(), "at least one frame has to be free");
        let places = Self {
            frames: (0..pages).map(AtomicU64::new).collect(),
            lent: (0..memory.pages()).map(|frame| AtomicBool::new(frame < pages)).collect(),
            free: Mutex::new((pages..memory.pages()).collect()),
            piece,
        };
        (pages..memory.pages()).for_each(|frame| memory.write_page(frame, &memory.page_of(Self::POISON)));
        places
    }

    /// How many pages there are.
    pub fn pages(&self) -> u64 {
        self.frames.len() as u64
    }

    /// The frame that page number `page` lies in.
    pub fn frame(&self, page: u64) -> u64 {
        // Acquire: pairs with the release in `replace`.
        self.frames[page as usize].load(Acquire)
    }

    /// Whether some page lies in the frame.
    #[inline]
    pub(crate) fn is_lent(&self, frame: u64) -> bool {
        self.lent[frame as usize].load(Relaxed)
    }

    /// The pages around `page` that a block could map, with the frame of the first; the page alone, if there is none.
    pub(crate) fn run(&self, page: u64) -> (Range<u64>, u64) {
        let piece = self.piece_around(page);
        let first = (piece.end <= self.pages()).then(|| self.frame(piece.start));
        match first.filter(|first| first.is_multiple_of(self.piece)) {
            Some(first) if piece.clone().all(|page| self.frame(page) == first + page % self.piece) => (piece, first),
            _ => (page..page + 1, self.frame(page)),
        }
    }

    fn piece_around(&self, page: u64) -> Range<u64> {
        let start = page - page % self.piece;
        start..start + self.piece
    }

    /// Gives each of `pages` another place. Nobody may have access to them: they are unmapped and flushed, and their
    /// invalidation is still open.
    ///
    /// Whole aligned pieces move to such pieces, if one is free. The error is that of a frame which was to
    /// become a place; the pages before it have moved.
    pub fn replace(&self, memory: &GuestMemory, pages: Range<u64>, how: Replacement) -> Result<(), Disturbed> {
        let mut free = self.free.lock().unwrap();
        let mut next = pages.start;
        while next < pages.end {
            let piece = self.piece_around(next);
            let whole = next == piece.start && piece.end <= pages.end;
            match whole.then(|| self.take_piece(&mut free)).flatten() {
                Some(first) => {
                    piece
                        .clone()
                        .try_for_each(|page| self.settle(memory, &mut free, page, first + page % self.piece, how))?;
                    next = piece.end;
                }
                None => {
                    let frame = free.pop_front().expect("as many frames are free as at the beginning");
                    self.settle(memory, &mut free, next, frame, how)?;
                    next += 1;
                }
            }
        }
        Ok(())
    }

    /// Whether all free frames are as they were left.
    pub fn check(&self, memory: &GuestMemory) -> Result<(), Disturbed> {
        self.free.lock().unwrap().iter().try_for_each(|&frame| check_frame(memory, frame))
    }

    /// Takes the first frame of an aligned piece that is all free, and with it the others.
    fn take_piece(&self, free: &mut VecDeque<u64>) -> Option<u64> {
        let of_piece =
            |first, free: &VecDeque<u64>| free.iter().filter(|&&frame| self.piece_around(frame).start == first).count();
        let is_free = |&first: &u64| first.is_multiple_of(self.piece) && of_piece(first, free) as u64 == self.piece;
        let first = free.iter().copied().find(is_free)?;
        free.retain(|&frame| self.piece_around(frame).start != first);
        Some(first)
    }

    fn settle(
        &self,
        memory: &GuestMemory,
        free: &mut VecDeque<u64>,
        page: u64,
        frame: u64,
        how: Replacement,
    ) -> Result<(), Disturbed> {
        check_frame(memory, frame)?;
        let old = self.frame(page);
        let mut contents = memory.page_of(0);
        if how == Replacement::Move {
            memory.read_page(old, &mut contents);
        }
        memory.write_page(frame, &contents);
        self.lent[frame as usize].store(true, Relaxed);
        // Release: pairs with the acquire in `frame`.
        self.frames[page as usize].store(frame, Release);
        self.lent[old as usize].store(false, Relaxed);
        memory.write_page(old, &memory.page_of(Self::POISON));
        free.push_back(old);
        Ok(())
    }
}

fn check_frame(memory: &GuestMemory, frame: u64) -> Result<(), Disturbed> {
    let mut contents = memory.page_of(0);
    memory.read_page(frame, &mut contents);
    match contents.iter().position(|&word| word != Places::POISON) {
        Some(word) => Err(Disturbed { frame, word, value: contents[word] }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::{PAGE_SIZE, Source};

    const PIECE: u64 = 512;

    fn memory(pages: u64) -> GuestMemory {
        GuestMemory::new(pages * PAGE_SIZE, Source::Anonymous).unwrap()
    }

    #[test]
    fn contents_move_along_or_are_lost_and_old_frames_are_poisoned() {
        let memory = memory(6);
        let places = Places::new(&memory, 4, PIECE);
        memory.store(PAGE_SIZE, 7);
        memory.store(2 * PAGE_SIZE, 8);
        places.replace(&memory, 1..2, Replacement::Move).unwrap();
        places.replace(&memory, 2..3, Replacement::Discard).unwrap();
        let at = |page| memory.load(places.frame(page) * PAGE_SIZE);
        assert_eq!([0, 1, 2, 3].map(|page| places.frame(page)), [0, 4, 5, 3]);
        assert_eq!((at(1), at(2)), (7, 0));
        for frame in [1, 2] {
            assert!(!places.is_lent(frame));
            assert_eq!(memory.load(frame * PAGE_SIZE), Places::POISON);
        }
        assert_eq!(places.check(&memory), Ok(()));
    }

    #[test]
    fn writing_to_a_frame_that_was_taken_back_is_found() {
        let memory = memory(4);
        let places = Places::new(&memory, 2, PIECE);
        places.replace(&memory, 0..1, Replacement::Move).unwrap();
        memory.store(16, 5);
        let disturbed = Disturbed { frame: 0, word: 2, value: 5 };
        assert_eq!(places.check(&memory), Err(disturbed));
        assert_eq!(places.replace(&memory, 0..2, Replacement::Move), Err(disturbed), "when the frame is used again");
        assert!(disturbed.to_string().contains("0x5"));
    }

    #[test]
    fn pieces_that_lie_together_are_one_run_until_a_page_of_them_moves() {
        let memory = memory(4 * PIECE);
        let places = Places::new(&memory, 2 * PIECE, PIECE);
        assert_eq!(places.run(700), (512..1024, 512));
        places.replace(&memory, 600..601, Replacement::Move).unwrap();
        assert_eq!(places.run(700), (700..701, 700));
        assert_eq!(places.run(600), (600..601, 1024), "the frame that has been free for longest");
        places.replace(&memory, 512..1024, Replacement::Move).unwrap();
        assert_eq!(places.run(700), (512..1024, 1536));
        assert_eq!(places.run(3), (0..512, 0));
    }

    #[test]
    #[should_panic(expected = "at least one frame")]
    fn there_is_somewhere_to_move_to() {
        let _ = Places::new(&memory(2), 2, PIECE);
    }
}
