//! Moving a slot to other guest physical addresses.

use super::handle::VmRef;
use super::slots::{Slot, SlotError, Walk};
use super::worker::{Begin, Worker};
use super::{Budget, Progress};
use crate::addr::{Gpa, GpaRange};
use crate::host::SlotId;

impl<R: VmRef> Worker<R> {
    /// Moves a slot to where `to` is its first address; to be called, with the same address, until it is done. The memory
    /// behind it stays; what it maps is removed. From the first call on, faults find no slot at the old addresses, and the
    /// new ones are taken; from the last one on, they find it at the new addresses. The two ranges may overlap.
    ///
    /// A log starts over with every page marked, and cannot be read before the slot has arrived.
    pub fn move_slot(&mut self, id: SlotId, to: Gpa, budget: Budget) -> Result<Progress, SlotError> {
        let work = {
            let old = self.range_of(id)?;
            let to = GpaRange::with_len(to, old.len()).ok_or(SlotError::OutOfRange)?;
            self.check(to)?;
            self.begin(id, |section, slot, change| match change.unfinished(id) {
                Some(begun) if begun.walk == Walk::Move(to) => Ok(Begin::Continue(Some(begun))),
                Some(_) => Err(SlotError::Unfinished),
                None if slot.dying => Err(SlotError::NoSuchSlot),
                None if slot.range == to => Ok(Begin::Continue(None)),
                None => {
                    change.is_free(section, to, Some(id))?;
                    Ok(Begin::Publish(Slot { dying: true, ..slot.clone() }, Some(Walk::Move(to))))
                }
            })?
        };
        self.go_on(id, work, budget)
    }

    fn range_of(&mut self, id: SlotId) -> Result<GpaRange, SlotError> {
        let vm = self.handle.vm.vm();
        let section = vm.space.domain.enter(&mut self.handle.member.reader);
        vm.slots.read(section.inside()).by_id(id).map(|slot| slot.range).ok_or(SlotError::NoSuchSlot)
    }
}
