//! Which slot has a number.

use super::Slot;
use super::sorted::Entry;
use crate::addr::Gpa;
use crate::host::SlotId;
use crate::sync::Atomics;

/// One slot's number, and where the slot begins.
#[derive(Clone, Copy)]
pub(super) struct Number {
    pub(super) id: SlotId,
    pub(super) start: Gpa,
}

impl Number {
    pub(super) fn of<A: Atomics>(slot: &Slot<A>) -> Self {
        Self { id: slot.id, start: slot.range.start() }
    }
}

impl Entry for Number {
    type Key = SlotId;

    fn key(&self) -> SlotId {
        self.id
    }
}
