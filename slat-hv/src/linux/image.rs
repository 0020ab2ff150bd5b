//! Linux's own boot protocol for arm64: a raw image with a header, a device tree, a RAM disk.

use core::ops::Range;

use super::{MEMORY, MEMORY_GPA};
use crate::memory::{Backed, pointer};

/// Offsets in the guest's memory.
const TREE: u64 = 0;
const KERNEL: u64 = 0x20_0000;
const DISK: u64 = 0x800_0000;

/// The header's magic number, and where it is.
const MAGIC: u64 = 0x644d_5241;
const MAGIC_AT: u64 = 56;
const TEXT_OFFSET_AT: u64 = 8;

/// What the first CPU starts with.
pub(super) struct Kernel {
    pub(super) entry: u64,
    pub(super) tree: u64,
}

impl Kernel {
    /// Copies all three into the guest's memory. The command line says where the RAM disk is: `initrd=0x48000000,BYTES`.
    pub(super) fn load(backed: &Backed, kernel: Range<u64>, disk: Range<u64>, tree: &[u8]) -> Self {
        // SAFETY: the loader put a kernel there, and the allocator has nothing in that part of memory.
        let word = |at| unsafe { pointer::<u64>(kernel.start + at).read() };
        assert!(word(MAGIC_AT) & 0xffff_ffff == MAGIC, "this is no arm64 Linux image");
        let start = KERNEL + word(TEXT_OFFSET_AT);
        let tree_address = tree.as_ptr() as u64;
        copy(backed, start, kernel);
        copy(backed, DISK, disk);
        copy(backed, TREE, tree_address..tree_address + tree.len() as u64);
        Self { entry: MEMORY_GPA + start, tree: MEMORY_GPA + TREE }
    }
}

/// Copies what lies at `from` into the guest's memory, a frame at a time.
fn copy(backed: &Backed, offset: u64, from: Range<u64>) {
    const FRAME: u64 = crate::frames::FRAME;
    for at in (0..from.end - from.start).step_by(FRAME as usize) {
        let len = FRAME.min(from.end - from.start - at) as usize;
        let to = backed.pointer::<u8>(MEMORY, offset + at);
        // SAFETY: no guest runs yet; source and destination are whole frames, and different ones.
        unsafe { core::ptr::copy_nonoverlapping(pointer(from.start + at), to, len) };
    }
}
