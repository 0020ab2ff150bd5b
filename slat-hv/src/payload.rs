//! Small programs that run at EL1, in a guest without an operating system.
//!
//! They are copied into the guest's control slot, with a translation of their own (everything at its own address), so that
//! the CPU caches combined entries of both stages.

use core::arch::global_asm;

use slat::host::SlotId;

use crate::cpu::{self, write_register};
use crate::memory::{Backed, Unit};
use crate::vcpu::Guest;

/// The slot that programs, their tables and the control page lie in.
pub(crate) const CONTROL: SlotId = SlotId(1);
/// Where the control slot is for the guest.
pub(crate) const CONTROL_GPA: u64 = 0x4000_0000;
/// Its size.
pub(crate) const CONTROL_BYTES: u64 = Unit::BLOCK.bytes();
/// Where in it the tables are.
const TABLE: u64 = 0x2000;
/// Where in it the control page is: the first word ends programs that go on until they are told to stop; a word each vCPU
/// says how far it is.
const WORDS: u64 = 0x3000;

/// Bytes of the control slot that are used.
const USED: usize = 0x4000;

/// What a word holds that no program writes: what is left in memory that was taken away.
pub(crate) const SCRUBBED: u64 = 0xdead_dead_dead_dead;

/// How a program ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum End {
    /// It did what it should.
    Done,
    /// A word was not what it should be.
    Wrong { address: u64, found: u64, expected: u64 },
    /// An exception in the guest itself.
    Exception { cause: u64 },
}

/// A program.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Program {
    /// Writes a value to each page.
    Write,
    /// Sees that each page has the value.
    Check,
    /// Counts its word of each page up, and sees that nobody else changes it, until it is told to stop.
    Churn,
    /// Reads one word and goes on.
    Read,
    /// Writes one word and goes on.
    Store,
    /// Jumps to an address.
    Jump,
}

/// What a program is told.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Task {
    pub(crate) program: Program,
    /// The first byte.
    pub(crate) start: u64,
    /// How many steps.
    pub(crate) pages: u64,
    /// Bytes from one to the next.
    pub(crate) stride: u64,
    /// Which word of each page.
    pub(crate) word: u64,
    /// What is written or expected, or counted from.
    pub(crate) value: u64,
}

unsafe extern "C" {
    static payload_start: u8;
    static payload_end: u8;
    static payload_write: u8;
    static payload_check: u8;
    static payload_churn: u8;
    static payload_read: u8;
    static payload_store: u8;
    static payload_jump: u8;
}

// x0 first address, x1 steps, x2 stride, x3 offset of the word, x4 value, x5 control page, x6 what scrubbed memory holds.
// Calls: 1 done (x4 the value), 2 wrong (x7 the address, x8 found, x9 expected), 3 an exception of the guest's.
global_asm!(
    ".section .rodata.payload, \"a\"",
    ".balign 4096",
    "payload_start:",
    ".rept 16", // the guest's exception vectors
    "    .balign 0x80",
    "    hvc  #3",
    ".endr",
    "    .balign 0x80",
    "payload_write:",
    "    add  x7, x0, x3",
    "0:  str  x4, [x7]",
    "    add  x7, x7, x2",
    "    subs x1, x1, #1",
    "    b.ne 0b",
    "    hvc  #1",
    "payload_check:",
    "    add  x7, x0, x3",
    "0:  ldr  x8, [x7]",
    "    mov  x9, x4",
    "    cmp  x8, x9",
    "    b.ne payload_wrong",
    "    add  x7, x7, x2",
    "    subs x1, x1, #1",
    "    b.ne 0b",
    "    hvc  #1",
    "payload_wrong:",
    "    hvc  #2",
    "payload_churn:",
    "    add  x7, x0, x3",
    "    mov  x10, x1",
    "0:  ldr  x8, [x7]",
    "    mov  x9, x4",
    "    cmp  x8, x9",
    "    b.ne payload_wrong",
    "    add  x9, x4, #1",
    "    str  x9, [x7]",
    "    ldr  x8, [x7]",
    "    cmp  x8, x9",
    "    b.ne payload_wrong",
    "    add  x7, x7, x2",
    "    subs x10, x10, #1",
    "    b.ne 0b",
    "    add  x4, x4, #1",
    "    str  x4, [x5, x3]",
    "    ldr  x8, [x5]",
    "    yield",
    "    cbz  x8, payload_churn",
    "    hvc  #1",
    "payload_read:",
    "    ldr  x8, [x0]",
    "    hvc  #1",
    "payload_store:",
    "    str  x4, [x0]",
    "    hvc  #1",
    "payload_jump:",
    "    br   x0",
    "payload_end:",
);

impl Program {
    /// Where it begins, from the first byte of all programs.
    fn entry(self) -> u64 {
        let entry = match self {
            Self::Write => &raw const payload_write,
            Self::Check => &raw const payload_check,
            Self::Churn => &raw const payload_churn,
            Self::Read => &raw const payload_read,
            Self::Store => &raw const payload_store,
            Self::Jump => &raw const payload_jump,
        };
        entry as u64 - &raw const payload_start as u64
    }
}

/// Puts programs, tables and an empty control page into the control slot's memory.
pub(crate) fn install(backed: &Backed) {
    let len = &raw const payload_end as usize - &raw const payload_start as usize;
    // SAFETY: no guest runs yet; the control slot's memory is one block, and the programs are in the image.
    unsafe {
        backed.pointer::<[u8; USED]>(CONTROL, 0).write_bytes(0, 1);
        core::ptr::copy_nonoverlapping(&raw const payload_start, backed.pointer(CONTROL, 0), len);
        backed.pointer::<[u64; 512]>(CONTROL, TABLE).write(identity());
    }
}

/// Everything at its own address, by blocks of 1 GiB: valid, inner-shareable, accessed, attributes 0.
fn identity() -> [u64; 512] {
    core::array::from_fn(|gibibyte| (gibibyte as u64) << 30 | 1 | 0b11 << 8 | 1 << 10)
}

/// A word of the control page: 0 to stop all, `8 * (1 + vCPU)` for progress.
fn control(backed: &Backed, word: u64) -> &core::sync::atomic::AtomicU64 {
    // SAFETY: the control slot's memory does not move, lives as long as `backed`, and is reached atomically by both sides.
    unsafe { &*backed.pointer(CONTROL, WORDS + word) }
}

/// Tells programs that go on until they are stopped to stop, or not to.
pub(crate) fn stop(backed: &Backed, stop: bool) {
    control(backed, 0).store(stop.into(), core::sync::atomic::Ordering::Release);
}

/// Whether they are told to stop.
pub(crate) fn is_stopped(backed: &Backed) -> bool {
    control(backed, 0).load(core::sync::atomic::Ordering::Acquire) != 0
}

/// The words of a slot's page that lies `offset` behind its first byte, where they are now.
pub(crate) fn words(backed: &Backed, slot: SlotId, offset: u64) -> &[core::sync::atomic::AtomicU64; 512] {
    // SAFETY: the memory lives as long as `backed`: units that move are kept for some moves more. Both sides reach it
    // atomically.
    unsafe { &*backed.pointer(slot, offset) }
}

/// How many passes the vCPU has made.
pub(crate) fn passes(backed: &Backed, vcpu: usize) -> u64 {
    control(backed, word_of(vcpu)).load(core::sync::atomic::Ordering::Acquire)
}

/// Forgets all progress.
pub(crate) fn forget(backed: &Backed, vcpus: usize) {
    (0..vcpus).for_each(|vcpu| control(backed, word_of(vcpu)).store(0, core::sync::atomic::Ordering::Release));
}

/// The word of each page that is a vCPU's own.
pub(crate) const fn word_of(vcpu: usize) -> u64 {
    8 * (1 + vcpu as u64)
}

/// Cached translation by the table above: 39 bits, 40-bit physical addresses, no second table.
const TCR: u64 = 2 << 32 | 1 << 23 | 0b11 << 12 | 0b01 << 10 | 0b01 << 8 | 25;
/// RES1, instruction cache, data cache, MMU.
const SCTLR: u64 = 0x30d0_0800 | 1 << 12 | 1 << 2 | 1;

/// Makes the vCPU ready to do `task`.
pub(crate) fn begin(guest: &mut Guest<'_>, task: Task) {
    cpu::prepare_for(cpu::Kind::Payload);
    write_register!("mair_el1", 0xff);
    write_register!("tcr_el1", TCR);
    write_register!("ttbr0_el1", CONTROL_GPA + TABLE);
    write_register!("vbar_el1", CONTROL_GPA);
    write_register!("sctlr_el1", SCTLR);
    let Task { program, start, pages, stride, word, value } = task;
    let arguments = [start, pages, stride, word, value, CONTROL_GPA + WORDS, SCRUBBED];
    guest.registers.x[..arguments.len()].copy_from_slice(&arguments);
    cpu::start_guest_at(CONTROL_GPA + program.entry());
}

/// What the call with this number says; `None` if no program makes it.
pub(crate) fn end(guest: &Guest<'_>, number: u64) -> Option<End> {
    let [address, found, expected] = [7, 8, 9].map(|register| guest.registers.x[register]);
    match number {
        1 => Some(End::Done),
        2 => Some(End::Wrong { address, found, expected }),
        3 => Some(End::Exception { cause: cpu::read_register!("esr_el1") }),
        _ => None,
    }
}
