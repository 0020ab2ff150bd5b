//! Flushes, and what a call owes when it returns.

use std::collections::BTreeSet;

use slat::host::Flush;

use super::Checker;
use crate::checker::event::Thread;
use crate::checker::frames::Status;
use crate::checker::may_tlb::{MayTlb, Stale};
use crate::checker::verdict::Verdict;

/// A flush that is not complete yet.
#[derive(Clone, Copy, Debug)]
pub(super) struct Begun {
    flush: Flush,
    at: usize,
    cores: u64,
}

impl Checker {
    pub(super) fn flush_begun(&mut self, thread: Thread, id: u64, flush: Flush, vmid: u16, cores: u64) {
        if vmid != self.discipline.vmid {
            return;
        }
        self.flushes.insert(id, Begun { flush, at: self.now, cores });
        let is_alone = self.inside.get(&thread).is_some_and(|inside| inside.is_alone);
        self.find_if(is_alone && !self.has_cause(thread, flush), Verdict::FlushWithoutCause);
    }

    /// Whether somebody waits for what the flush covers, and for nothing less.
    fn has_cause(&self, thread: Thread, flush: Flush) -> bool {
        let owed = self.tlb.all().filter(|(_, stale)| stale.owed.is_some());
        let spans = owed.filter_map(|(at, stale)| self.covered_span(flush, at, stale));
        let spans = spans.chain(self.noted.get(&thread).copied());
        let hull = spans.reduce(|(start, end), (first, last)| (start.min(first), end.max(last)));
        match (hull, flush) {
            (None, _) => self.loaded.is_some(),
            (Some(_), Flush::All) => true,
            (Some((start, end)), Flush::Leaves { range, .. } | Flush::Tables { range }) => {
                start <= range.start().get() && range.end().get() <= end
            }
        }
    }

    /// The guest addresses of the stale word at `at`, if the flush drops it.
    fn covered_span(&self, flush: Flush, at: u64, stale: &Stale) -> Option<(u64, u64)> {
        let level = self.frames.get(self.discipline.table_of(at))?.level;
        let start = self.address_of(at, level).get();
        let meaning = self.discipline.meaning(stale.value, level);
        self.discipline.covers(flush, meaning, start, level).then(|| self.discipline.reach(meaning, start, level))
    }

    pub(super) fn flush_done(&mut self, id: u64) {
        let Some(Begun { flush, at: begun, cores }) = self.flushes.remove(&id) else { return };
        if flush == Flush::All && cores == self.discipline.cores {
            self.loaded = self.loaded.filter(|&cut| cut > begun);
        }
        let mut tlb = std::mem::take(&mut self.tlb);
        let kept = |at, stale: &Stale| {
            (matches!(flush, Flush::Leaves { .. }) && self.may_be_read_again(&tlb, at, stale))
                || self.is_said_by_others(at, stale)
                || (flush != Flush::All && self.is_doubled(&tlb, at, stale))
        };
        let again: BTreeSet<_> =
            tlb.all().filter(|(at, stale)| kept(*at, stale)).map(|(at, s)| (at, s.value)).collect();
        tlb.flush(cores, |at, stale| {
            stale.since <= begun && !again.contains(&(at, stale.value)) && self.covered_span(flush, at, stale).is_some()
        });
        self.tlb = tlb;
    }

    /// Whether the word is what an unlinked table still says, to which a pointer is cached that a flush of leaves spares.
    fn may_be_read_again(&self, tlb: &MayTlb, at: u64, stale: &Stale) -> bool {
        let Some(frame) = self.frames.get(self.discipline.table_of(at)) else { return false };
        matches!(frame.status, Status::Unlinked(_)) && self.word(at) == stale.value && !tlb.at(frame.above).is_empty()
    }

    pub(super) fn returned(&mut self, thread: Thread) {
        self.inside.remove(&thread);
        let unflushed = self.tlb.forgive(thread);
        self.find_if(unflushed, Verdict::ReturnedUnflushed);
        let owns = self.owners.values().any(|owner| owner.thread == thread);
        self.find_if(owns, Verdict::LeftLocked);
        self.owners.retain(|_, owner| owner.thread != thread);
    }

    pub(super) fn quiet(&mut self) {
        let discipline = &self.discipline;
        let is_left = |word, level| discipline.is_locked(word, level) || discipline.is_frozen(word, level);
        let linked = self.frames.iter().filter(|(_, frame)| frame.status == Status::Linked);
        let mut words = linked.flat_map(|(_, frame)| frame.words.iter().map(|&word| (word, frame.level)));
        let left = words.any(|(word, level)| is_left(word, level));
        drop(words);
        self.find_if(left, Verdict::LeftLocked);
    }
}
