//! Which machine memory lies behind a guest's.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};

use slat::addr::{GpaRange, HostAddress, Hpa, Level};
use slat::host::{Backing, Exposed, MemoryType, Permissions, Request, Run, SlotId, Translation};
use slat_arch::aarch64::cache::{self, Maintenance};
use slat_arch::aarch64::instructions;

use super::format::{FORCES_WRITE_BACK, PAGE_SHIFT};
use super::{Memory, pointer};
use crate::frames::{self, FRAME};
use crate::lock::Lock;

/// The size in which memory was got for a guest, and may be mapped: a leaf's.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Unit(pub(crate) Level);

impl Unit {
    /// A page: 4 KiB, unless built for another granule.
    pub(crate) const PAGE: Self = Self(Level::PAGE);
    /// A block: 2 MiB.
    pub(crate) const BLOCK: Self = Self(Level::new(1));
    /// A block of blocks: 1 GiB, where there is one.
    pub(crate) const GIGABYTE: Self = Self(Level::new(2));

    /// Bytes, as a power of two.
    #[inline(always)]
    pub(crate) const fn shift(self) -> u32 {
        PAGE_SHIFT + (PAGE_SHIFT - 3) * self.0.get() as u32
    }

    /// Bytes.
    #[inline(always)]
    pub(crate) const fn bytes(self) -> u64 {
        1 << self.shift()
    }
}

/// What lies behind one slot.
pub(crate) enum Place {
    /// Memory of the machine: unit by unit, anywhere, and it may move.
    Movable { unit: Unit, units: Vec<AtomicU64>, left: Box<Lock<Left>> },
    /// Devices, at their own addresses.
    Devices { end: u64 },
}

/// Places that were moved away from, the last few of them: nobody else gets them yet, so that an access through a stale
/// translation is seen rather than harmful.
#[derive(Default)]
pub(crate) struct Left {
    places: [u64; Left::KEPT],
    count: usize,
}

impl Left {
    const KEPT: usize = 32;

    /// Keeps `place`; what has been kept longest is nobody's any more.
    fn keep(&mut self, place: u64) -> Option<u64> {
        let kept = core::mem::replace(&mut self.places[self.count % Self::KEPT], place);
        self.count += 1;
        (kept != 0).then_some(kept)
    }
}

impl Place {
    /// `bytes` of memory in units, taken from the machine. `None` if there is not enough.
    pub(crate) fn movable(unit: Unit, bytes: u64) -> Option<Self> {
        let wanted = bytes.div_ceil(unit.bytes()) as usize;
        let frames = (0..wanted).map_while(|_| frames::allocate(unit.bytes() / FRAME));
        let units: Vec<AtomicU64> = frames.map(AtomicU64::new).collect();
        let is_whole = units.len() == wanted;
        // What was got of one that is not whole goes back with it.
        let place = Self::Movable { unit, units, left: Box::new(Lock::new(Left::default())) };
        is_whole.then_some(place)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Self::Movable { unit, units, left } = self {
            let all = units.iter_mut().map(|place| *place.get_mut());
            let left = left.lock().places;
            let all = all.chain(left.into_iter().filter(|&place| place != 0));
            all.for_each(|place| frames::free(place, unit.bytes() / FRAME));
        }
    }
}

/// All places of a guest, by the number of their slot.
pub(crate) struct Backed(pub(crate) Vec<Place>);

impl Backed {
    /// Where the byte of a slot is that lies `offset` behind its first one.
    pub(crate) fn address(&self, slot: SlotId, offset: u64) -> u64 {
        match &self.0[slot.0 as usize] {
            Place::Movable { unit, units, .. } => {
                let place = units[(offset >> unit.shift()) as usize].load(Ordering::Acquire);
                place + (offset & (unit.bytes() - 1))
            }
            Place::Devices { .. } => offset,
        }
    }

    /// A pointer to that byte, good until the memory moves.
    pub(crate) fn pointer<T>(&self, slot: SlotId, offset: u64) -> *mut T {
        pointer(self.address(slot, offset))
    }

    /// Another place for the unit `index` of a slot, with the same contents; `scrub` is what is left in every word of the
    /// old one, which is free again after some more moves. The caller has invalidated the unit, and holds the invalidation open.
    pub(crate) fn move_unit(&self, slot: SlotId, index: usize, scrub: u64) -> Option<()> {
        let Place::Movable { unit, units, left } = &self.0[slot.0 as usize] else { return None };
        let new = frames::allocate(unit.bytes() / FRAME)?;
        let old = units[index].load(Ordering::Acquire);
        let words = (unit.bytes() / 8) as usize;
        // SAFETY: the new place is ours, and no guest reaches the old one.
        unsafe {
            core::ptr::copy_nonoverlapping(pointer::<u64>(old), pointer(new), words);
            core::slice::from_raw_parts_mut(pointer::<u64>(old), words).fill(scrub);
        }
        units[index].store(new, Ordering::Release);
        if let Some(place) = left.lock().keep(old) {
            frames::free(place, unit.bytes() / FRAME);
        }
        Some(())
    }
}

impl Backing for Memory {
    #[inline(always)]
    fn translate(&self, request: Request) -> Translation {
        let (host, gpa) = (request.host.get(), request.gpa.get());
        match self.backed.0.get(request.slot.0 as usize) {
            Some(Place::Movable { unit, units, .. }) => {
                let Some(place) = units.get((host >> unit.shift()) as usize) else { return Translation::Denied };
                let hpa = place.load(Ordering::Acquire);
                let inside = host & (unit.bytes() - 1);
                run(gpa, inside, unit.bytes(), hpa, unit.0, MemoryType::Normal)
            }
            Some(Place::Devices { end }) if host < *end => {
                let block = Unit::BLOCK.bytes();
                run(gpa, host & (block - 1), block, host & !(block - 1), Unit::BLOCK.0, MemoryType::Device)
            }
            _ => Translation::Denied,
        }
    }

    /// Guests begin with their caches off: they have to see what EL2 wrote through its own.
    #[inline(always)]
    fn expose(&self, memory: Exposed) {
        if memory.memory != MemoryType::Normal {
            return;
        }
        let needed = Maintenance::needed(&self.features, FORCES_WRITE_BACK, memory.permissions.execute());
        if needed.clean_data {
            cache::lines(memory.hpa.get(), memory.len, self.features.data_line)
                // SAFETY: all memory is mapped at EL2.
                .for_each(|line| unsafe { instructions::clean_data(line) });
        }
        if needed.invalidate_instructions {
            instructions::invalidate_instructions();
        }
        instructions::finish_maintenance();
    }
}

/// The unit of `bytes` around the page at `gpa`, which lies `inside` bytes behind its beginning.
#[inline(always)]
fn run(gpa: u64, inside: u64, bytes: u64, hpa: u64, largest: Level, memory: MemoryType) -> Translation {
    // A slot may begin inside a unit, near address 0.
    let before = inside.min(gpa);
    let start = slat::addr::Gpa::new(gpa - before);
    match GpaRange::with_len(start, bytes - (inside - before)) {
        Some(guest) => Translation::Run(Run {
            guest,
            hpa: Hpa::new(hpa + (inside - before)),
            largest,
            permissions: Permissions::ALL,
            memory,
        }),
        None => Translation::Denied,
    }
}

/// The host address of a slot's first byte: its own places are numbered from 0.
pub(crate) const FIRST: HostAddress = HostAddress::new(0);
