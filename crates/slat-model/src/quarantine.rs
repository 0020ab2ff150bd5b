//! The allocator of this crate's tests: during an execution nothing that was freed is reused.
//!
//! The engine frees slots and logs itself, with `Box`. A reader that comes too late then finds the words of a freed log
//! as they were left, marked as ended, rather than somebody else's memory: an error to report, not undefined behaviour
//! to be lucky with.

#![allow(unsafe_code)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::UnsafeCell;
use std::ptr;

/// The system's allocator, with a quarantine on each thread that asks for one.
#[derive(Debug)]
pub struct Quarantine;

#[global_allocator]
static ALLOCATOR: Quarantine = Quarantine;

type Block = (*mut u8, Layout);

/// What one thread holds back. Made of nothing that allocates through [`ALLOCATOR`].
struct Held {
    active: bool,
    blocks: *mut Block,
    len: usize,
    capacity: usize,
}

thread_local! {
    static HELD: UnsafeCell<Held> =
        const { UnsafeCell::new(Held { active: false, blocks: ptr::null_mut(), len: 0, capacity: 0 }) };
}

/// Frees what this thread has held back, and holds back what it frees from now on.
pub fn renew() {
    release();
    set_active(true);
}

/// Frees what this thread has held back; from now on it frees at once.
pub fn release() {
    set_active(false);
    // The list stays as it is meanwhile: freeing through `System` comes back to none of this.
    HELD.with(|held| {
        // SAFETY: the cell is this thread's, and nothing called here reaches it again.
        let held = unsafe { &mut *held.get() };
        for (block, layout) in slice(held).iter().copied() {
            // SAFETY: the block was allocated by `System` with this layout, and is freed once, since `len` becomes 0.
            unsafe { System.dealloc(block, layout) };
        }
        held.len = 0;
    });
}

/// As [`release`], after an execution in which something was wrong: what it has freed twice is freed once.
pub fn release_after_failure() {
    HELD.with(|held| {
        // SAFETY: the cell is this thread's; sorting and comparing in place allocate nothing and come back to none of
        // this.
        let held = unsafe { &mut *held.get() };
        let blocks = slice(held);
        blocks.sort_unstable_by_key(|(block, _)| *block);
        let mut kept = 0;
        for index in 0..blocks.len() {
            if kept == 0 || blocks[kept - 1].0 != blocks[index].0 {
                blocks[kept] = blocks[index];
                kept += 1;
            }
        }
        held.len = kept;
    });
    release();
}

fn slice(held: &mut Held) -> &mut [Block] {
    if held.len == 0 {
        return &mut [];
    }
    // SAFETY: the first `len` blocks of the list are initialized, and the list is borrowed with `held`.
    unsafe { std::slice::from_raw_parts_mut(held.blocks, held.len) }
}

fn set_active(active: bool) {
    // SAFETY: the cell is this thread's, and the reference does not outlive the statement.
    HELD.with(|held| unsafe { (*held.get()).active = active });
}

/// Holds a block back; false when this thread does not.
fn hold(block: *mut u8, layout: Layout) -> bool {
    let held = HELD.try_with(|held| {
        let held = held.get();
        // SAFETY: the cell is this thread's; `System` does not come back here. The list has room for `capacity` blocks.
        unsafe {
            if !(*held).active {
                return false;
            }
            if (*held).len == (*held).capacity && !grow(&mut *held) {
                return false;
            }
            (*held).blocks.add((*held).len).write((block, layout));
            (*held).len += 1;
        }
        true
    });
    held.unwrap_or(false)
}

fn grow(held: &mut Held) -> bool {
    let capacity = (2 * held.capacity).max(1024);
    let Ok(layout) = Layout::array::<Block>(capacity) else { return false };
    // SAFETY: the layout's size is not zero; the old list, if there is one, was allocated here with `capacity` blocks,
    // of which `len` are initialized, and the new one is larger.
    unsafe {
        let blocks = System.alloc(layout).cast::<Block>();
        if blocks.is_null() {
            return false;
        }
        if let (Ok(old), false) = (Layout::array::<Block>(held.capacity), held.blocks.is_null()) {
            ptr::copy_nonoverlapping(held.blocks, blocks, held.len);
            System.dealloc(held.blocks.cast(), old);
        }
        (held.blocks, held.capacity) = (blocks, capacity);
    }
    true
}

// SAFETY: everything is `System`'s; a block that is held back is freed later with the same layout, or never.
unsafe impl GlobalAlloc for Quarantine {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        if !hold(block, layout) {
            // SAFETY: the caller's promise is passed on.
            unsafe { System.dealloc(block, layout) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_freed_stays_as_it_was_until_the_next_execution() {
        let layout = Layout::new::<u64>();
        renew();
        // SAFETY: the layout's size is not zero; what is freed is what was just allocated; the quarantine then holds the
        // block, so that it may still be read.
        let (kept, others) = unsafe {
            let block = Quarantine.alloc(layout).cast::<u64>();
            block.write(0x1234_5678_9abc);
            Quarantine.dealloc(block.cast(), layout);
            let others: Vec<_> = (0..100_u64).map(Box::new).collect();
            (block.read(), others.iter().any(|other| ptr::eq(&raw const **other, block)))
        };
        release();
        assert_eq!((kept, others), (0x1234_5678_9abc, false));
    }
}
