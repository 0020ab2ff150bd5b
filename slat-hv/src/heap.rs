//! The global allocator: lists of blocks by size up to half a frame, frames above.

use core::alloc::{GlobalAlloc, Layout};
use core::ptr;

use crate::frames::{self, FRAME};
use crate::lock::Lock;
use crate::memory::pointer;

/// Sizes are 16 bytes times a power of two, up to 2 KiB.
const CLASSES: usize = 8;

/// A free block's first word is the address of the next one.
struct Heap(Lock<[u64; CLASSES]>);

#[global_allocator]
static HEAP: Heap = Heap(Lock::new([0; CLASSES]));

/// The class that a layout belongs to, if any.
fn class_of(layout: Layout) -> Option<usize> {
    let size = layout.size().max(layout.align()).max(16).next_power_of_two();
    let class = size.trailing_zeros() as usize - 4;
    (class < CLASSES).then_some(class)
}

fn frames_of(layout: Layout) -> u64 {
    (layout.size().max(layout.align()) as u64).div_ceil(FRAME).next_power_of_two()
}

// SAFETY: blocks are cut from frames that nobody else has, are as large and aligned as their class, and are in one list or
// in one owner's hands.
unsafe impl GlobalAlloc for Heap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let Some(class) = class_of(layout) else {
            return frames::allocate(frames_of(layout)).map_or(ptr::null_mut(), pointer);
        };
        let mut lists = self.0.lock();
        if lists[class] == 0 {
            let Some(frame) = frames::allocate(1) else { return ptr::null_mut() };
            for block in (frame..frame + FRAME).step_by(16 << class) {
                // SAFETY: the block lies in the frame just allocated.
                unsafe { pointer::<u64>(block).write(lists[class]) };
                lists[class] = block;
            }
        }
        let block = pointer::<u64>(lists[class]);
        // SAFETY: blocks in a list hold the next one's address.
        lists[class] = unsafe { block.read() };
        block.cast()
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        let Some(class) = class_of(layout) else {
            return frames::free(block.addr() as u64, frames_of(layout));
        };
        let mut lists = self.0.lock();
        // SAFETY: the caller gives back a block of this class, which is at least a word long.
        unsafe { block.cast::<u64>().write(lists[class]) };
        lists[class] = block.expose_provenance() as u64;
    }
}
