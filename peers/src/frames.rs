//! Frames for everybody's tables: one arena, touched beforehand, in huge pages where the system gives them.
//!
//! There are two free lists, and a frame returns to the one it came from whoever frees it. So the tables of a thread lie
//! in its own core's cache however often tables are built and dropped, for every peer alike.

use std::cell::RefCell;
use std::ptr::{null_mut, with_exposed_provenance_mut};
use std::sync::{Mutex, MutexGuard, OnceLock};

/// Bytes of a frame.
pub(crate) const FRAME: usize = 4096;

/// How many free lists there are: one a measured thread.
pub(crate) const LISTS: usize = 2;

/// Frames of a list: 2 GiB of guest memory take 1,029 tables.
const PER_LIST: usize = 4096;

/// Where the arena begins.
static BASE: OnceLock<usize> = OnceLock::new();

/// The lists that no thread holds.
static FREE: [Mutex<Vec<usize>>; LISTS] = [const { Mutex::new(Vec::new()) }; LISTS];

thread_local! {
    static HELD: RefCell<Option<Held>> = const { RefCell::new(None) };
}

/// A list that a thread took for itself.
struct Held {
    list: usize,
    frames: Vec<usize>,
}

impl Drop for Held {
    fn drop(&mut self) {
        free(self.list).append(&mut self.frames);
    }
}

fn free(list: usize) -> MutexGuard<'static, Vec<usize>> {
    FREE[list].lock().expect("nobody panics here")
}

/// Makes the arena. To be called once, before anything else.
pub(crate) fn prepare() {
    let bytes = LISTS * PER_LIST * FRAME;
    // SAFETY: an anonymous mapping at an address of the system's choice touches nothing that exists.
    let base = unsafe {
        let (access, kind) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        libc::mmap(null_mut(), 2 * bytes, access, kind, -1, 0)
    };
    assert_ne!(base, libc::MAP_FAILED, "no memory for the arena");
    let base = base.expose_provenance().next_multiple_of(bytes);
    let start: *mut u8 = with_exposed_provenance_mut(base);
    // SAFETY: the mapping is twice as long as the arena, which starts at the first multiple of its own length in it.
    unsafe {
        libc::madvise(start.cast(), bytes, libc::MADV_HUGEPAGE);
        start.write_bytes(1, bytes);
    }
    BASE.set(base).expect("called once");
    for list in 0..LISTS {
        free(list).extend((0..PER_LIST).rev().map(|frame| base + (list * PER_LIST + frame) * FRAME));
    }
}

/// The calling thread takes from this list from now on, until it ends.
pub(crate) fn hold(list: usize) {
    let frames = std::mem::take(&mut *free(list));
    HELD.with_borrow_mut(|held| *held = Some(Held { list, frames }));
}

/// A frame of the list that the thread holds (of the first list where it holds none). Its contents are arbitrary.
#[inline]
pub(crate) fn take() -> Option<usize> {
    HELD.with_borrow_mut(|held| match held {
        Some(held) => held.frames.pop(),
        None => free(0).pop(),
    })
}

/// Gives a frame back to the list that it came from.
#[inline]
pub(crate) fn give(frame: usize) {
    let list = (frame - BASE.get().expect("prepared")) / (PER_LIST * FRAME);
    HELD.with_borrow_mut(|held| match held {
        Some(held) if held.list == list => held.frames.push(frame),
        _ => free(list).push(frame),
    });
}

/// A frame of zeroes, for those who expect one.
#[inline]
pub(crate) fn take_zeroed() -> Option<usize> {
    let frame = take()?;
    zero(frame);
    Some(frame)
}

/// Zeroes a frame, as each peer does once for each of its tables.
#[inline]
pub(crate) fn zero(frame: usize) {
    // SAFETY: the frame lies in the arena, and who calls this has just taken it: nobody else uses it.
    unsafe { with_exposed_provenance_mut::<u8>(frame).write_bytes(0, FRAME) }
}

/// How many frames nobody uses. Who compares it before and after knows whether a peer gave everything back.
pub(crate) fn free_frames() -> usize {
    (0..LISTS).map(|list| free(list).len()).sum()
}
