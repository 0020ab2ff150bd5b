//! The main thread's side of the VM: slots, and the log read and taken slot by slot.

use slat::addr::{GpaRange, HostAddress, Level};
use slat::host::SlotId;
use slat::vm::{Budget, Collapse, LogMode, NewSlot, Pages, SlotError, SlotFlags, Teardown, VmRef, Worker};

use crate::failure::{Failure, engine};
use crate::locking::Gate;

/// Entries between two steps of a collapse or a split: a few tables.
const STEP: Budget = Budget::entries(8 * 512);

/// A worker behind a gate, and the bitmaps of its slots.
pub(crate) struct Manager<'g, R: VmRef> {
    worker: Worker<R>,
    gate: &'g Gate,
    pages_per_slot: u64,
    bitmaps: Vec<Vec<u64>>,
}

impl<'g, R: VmRef> Manager<'g, R> {
    /// Divides `memory`, in pages of so many bytes, into `slots` slots, which it is a multiple of.
    pub(crate) fn new(
        worker: Worker<R>,
        gate: &'g Gate,
        memory: GpaRange,
        page: u64,
        slots: u32,
    ) -> Result<Self, Failure> {
        let slot_bytes = memory.len() / u64::from(slots);
        let pages_per_slot = slot_bytes / page;
        let bitmaps = vec![vec![0; pages_per_slot.div_ceil(64) as usize]; slots as usize];
        let mut manager = Self { worker, gate, pages_per_slot, bitmaps };
        for number in 0..slots {
            let offset = u64::from(number) * slot_bytes;
            let start = memory.start().checked_add(offset);
            let range = start.and_then(|start| GpaRange::with_len(start, slot_bytes));
            let range = range.ok_or_else(|| engine("the memory leaves 64 bits"))?;
            let slot = NewSlot { range, host: HostAddress::new(offset), flags: SlotFlags::default() };
            manager.until_not_busy(|worker| worker.create_slot(SlotId(number), slot))?;
        }
        Ok(manager)
    }

    /// Turns the log of all slots on or off.
    pub(crate) fn set_log(&mut self, log: Option<LogMode>) -> Result<(), Failure> {
        let flags = SlotFlags { log, ..SlotFlags::default() };
        self.gate.set_logging(log.is_some());
        for number in 0..self.bitmaps.len() as u32 {
            while !self.until_not_busy(|worker| worker.set_flags(SlotId(number), flags, Budget::UNLIMITED))?.is_done() {
            }
        }
        Ok(())
    }

    /// Splits all blocks of `memory` to pages.
    pub(crate) fn split(&mut self, memory: GpaRange) -> Result<(), Failure> {
        let mut rest = Some(memory);
        while let Some(range) = rest {
            let _inside = self.gate.operation();
            let progress = self.worker.split(range, Level::PAGE, STEP).map_err(engine)?;
            rest = progress.next.map(|next| range.from(next));
        }
        Ok(())
    }

    /// Reads the log of all slots into the bitmaps; how many pages are dirty.
    pub(crate) fn get(&mut self) -> Result<u64, Failure> {
        let pages = self.pages();
        let mut dirty = 0;
        for (number, bitmap) in self.bitmaps.iter_mut().enumerate() {
            let _inside = self.gate.operation();
            dirty += self.worker.get_dirty(SlotId(number as u32), pages, bitmap).map_err(engine)?;
        }
        Ok(dirty)
    }

    /// Clears what the bitmaps name.
    pub(crate) fn clear(&mut self) -> Result<(), Failure> {
        let pages = self.pages();
        for (number, bitmap) in self.bitmaps.iter().enumerate() {
            let _inside = self.gate.operation();
            let clear = self.worker.clear_dirty(SlotId(number as u32), pages, bitmap, Budget::UNLIMITED);
            if !clear.map_err(engine)?.is_done() {
                return Err(engine("clearing without a budget did not finish"));
            }
        }
        Ok(())
    }

    /// Takes the log of all slots into the bitmaps; how many pages were dirty, and whether that was all.
    pub(crate) fn harvest(&mut self) -> Result<(u64, bool), Failure> {
        let pages = self.pages();
        let (mut dirty, mut complete) = (0, true);
        for (number, bitmap) in self.bitmaps.iter_mut().enumerate() {
            bitmap.fill(0);
            let _inside = self.gate.operation();
            let id = SlotId(number as u32);
            let harvest = self.worker.harvest(id, pages, bitmap, Budget::UNLIMITED).map_err(engine)?;
            dirty += harvest.dirty;
            complete &= harvest.complete;
        }
        Ok((dirty, complete))
    }

    /// Collapses what can be collapsed in `memory`; no slot may be logged. Between steps others get in, and what was
    /// unlinked is freed, so that there is always room for more.
    pub(crate) fn collapse(&mut self, memory: GpaRange, how: Collapse) -> Result<(), Failure> {
        let mut rest = Some(memory);
        while let Some(range) = rest {
            let _inside = self.gate.operation();
            let progress = self.worker.collapse(range, how, STEP).map_err(engine)?;
            rest = progress.next.map(|next| range.from(next));
            while self.worker.reclaim(Budget::UNLIMITED).awaiting > 0 {
                std::thread::yield_now();
            }
        }
        Ok(())
    }

    /// The bitmaps, each with the first page of its slot.
    pub(crate) fn bitmaps(&self) -> impl Iterator<Item = (u64, &[u64])> {
        let pages = self.pages_per_slot;
        self.bitmaps.iter().enumerate().map(move |(number, bitmap)| (number as u64 * pages, &bitmap[..]))
    }

    /// Pages of all slots.
    pub(crate) fn pages_in_all(&self) -> u64 {
        self.pages_per_slot * self.bitmaps.len() as u64
    }

    /// Forgets one page that the bitmaps name, to show that the verification sees it; whether there was one.
    pub(crate) fn forget_one_page(&mut self) -> bool {
        match self.bitmaps.iter_mut().flatten().find(|word| **word != 0) {
            Some(word) => {
                *word &= *word - 1;
                true
            }
            None => false,
        }
    }

    /// Tears the VM down.
    pub(crate) fn teardown(mut self) {
        let _inside = self.gate.operation();
        while self.worker.teardown(Budget::UNLIMITED) == Teardown::More {}
    }

    fn pages(&self) -> Pages {
        Pages { first: 0, count: self.pages_per_slot }
    }

    /// Slots have one writer at a time, and replaced snapshots wait for vCPUs that are inside: call again.
    fn until_not_busy<T>(
        &mut self,
        mut call: impl FnMut(&mut Worker<R>) -> Result<T, SlotError>,
    ) -> Result<T, Failure> {
        loop {
            let result = {
                let _inside = self.gate.operation();
                call(&mut self.worker)
            };
            match result {
                Err(SlotError::Busy) => std::thread::yield_now(),
                other => return other.map_err(engine),
            }
        }
    }
}
