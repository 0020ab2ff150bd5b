//! The common faults, in as few instructions as they can be: an entry that allows the access already, a page whose write
//! permission comes back, a page that is mapped where its tables are. Anything else is `None`, and is served at length
//! from the original arguments; nothing was changed then.
//!
//! One question is asked of the entry at a time, in the order of what most entries answer: see [`Format`] for what may be
//! asked of a word in any state.

use super::Vm;
use super::collapse::collapse_around;
use super::dirty::Log;
use super::fault::{Outcome, aligned};
use super::slots::Slot;
use super::vcpu::Memo;
use crate::addr::{Gpa, Hpa, Level};
use crate::format::{Format, Leaf};
use crate::host::{Access, Exposed, Hint, Host, MemoryType, Permissions, Request, Run, Translation, VcpuId};
use crate::space::Visit;
use crate::sync::{Atomics, Ordering, Word};
use crate::table::Entry;

/// One fault, inside a section.
pub(super) struct Quick<'a, H: Host, F: Format> {
    pub(super) vm: &'a Vm<H, F>,
    pub(super) visit: Visit<'a, H, F>,
    pub(super) memo: &'a mut Memo<H::Atomics>,
    pub(super) vcpu: VcpuId,
    pub(super) gpa: Gpa,
    pub(super) access: Access,
}

impl<'a, H: Host, F: Format> Quick<'a, H, F> {
    #[inline(always)]
    pub(super) fn serve(self) -> Option<Outcome> {
        let (visit, gpa) = (self.visit, self.gpa);
        visit.at_page(gpa, |entry, raw| self.decide(entry, raw))
    }

    #[inline(always)]
    fn decide(self, entry: Entry<'a, H::Atomics>, raw: u64) -> Option<Outcome> {
        let format = self.visit.space.format;
        if raw == 0 {
            self.map(entry)
        } else if format.permits(raw, Level::PAGE, self.access) {
            self.flush_local();
            self.visit.tally.spurious();
            Some(Outcome::Spurious)
        } else if self.access == Access::Write
            && format.may_write(raw, Level::PAGE)
            && !format.is_grouped(raw, Level::PAGE)
        {
            self.relax(entry, raw)
        } else {
            None
        }
    }

    /// See [`Fault::relax`](super::fault::Fault): the slot is looked at after the change (R6).
    #[inline(always)]
    fn relax(self, entry: Entry<'a, H::Atomics>, raw: u64) -> Option<Outcome> {
        entry.change(raw, self.visit.space.format.made_writable(raw, Level::PAGE)).ok()?;
        H::Atomics::full_fence_after_rmw();
        if let Some(slot) = self.vm.slots.read(self.visit.section).find_any(self.gpa, &mut self.memo.last_used) {
            match &slot.log {
                Some(log) => self.mark(log),
                None => collapse_around(self.vm, self.visit, slot, &mut self.memo.stash, self.gpa),
            }
        }
        self.visit.published();
        self.flush_local();
        self.visit.tally.relaxed();
        Some(Outcome::Relaxed { level: Level::PAGE })
    }

    /// R4 in its quiet form: the shard's word first, then slot and translation, then the entry, then the word again.
    #[inline(always)]
    fn map(self, entry: Entry<'a, H::Atomics>) -> Option<Outcome> {
        let (word, seen) = self.visit.space.shards.quiet_word(self.visit.space.format, self.gpa)?;
        let slot = self.vm.slots.read(self.visit.section).guess_plain(self.gpa, self.memo.last_used)?;
        let run = match self.visit.space.host.translate(self.request(slot)) {
            Translation::Run(run) if run.is_plain() => run,
            answer => return self.unusual(&answer),
        };
        let hpa = self.frame_of(&run)?;
        if self.may_be_grouped(slot, &run) {
            return None;
        }
        self.expose(hpa);
        let log = slot.log.as_deref();
        let claimed = entry.claim::<F>(0).ok()?;
        if word.load(Ordering::Acquire) != seen {
            claimed.restore();
            return None;
        }
        let format = self.visit.space.format;
        let Some(log) = log else {
            claimed.publish(plain_leaf(format, hpa, true));
            return Some(self.mapped(true));
        };
        let writable = self.access == Access::Write;
        claimed.publish(plain_leaf(format, hpa, writable));
        // Publish, then mark (R5).
        if writable {
            self.mark(log);
        }
        Some(self.mapped(writable))
    }

    /// What needs no second question; anything else is asked again at length.
    #[cold]
    #[inline(never)]
    fn unusual(&self, answer: &Translation) -> Option<Outcome> {
        match answer {
            Translation::Denied => Some(Outcome::Denied),
            Translation::Retry => {
                self.visit.tally.retried();
                Some(Outcome::Retry)
            }
            Translation::Run(_) | Translation::WouldBlock => None,
        }
    }

    #[inline(always)]
    fn mapped(&self, writable: bool) -> Outcome {
        self.visit.published();
        self.visit.tally.page_faulted_in();
        Outcome::Mapped { level: Level::PAGE, writable }
    }

    /// Where the page lies, if the run covers it.
    #[inline(always)]
    fn frame_of(&self, run: &Run) -> Option<Hpa> {
        let page_size = self.visit.space.geometry().page_size();
        let page = self.page();
        let offset = page.checked_offset_from(run.guest.start())?;
        if page.get() + page_size > run.guest.end().get() {
            return None;
        }
        let hpa = run.hpa.get().wrapping_add(offset);
        let expressible = ((1 << self.visit.space.format.output_bits()) - 1) & !(page_size - 1);
        if hpa & !expressible == 0 { Some(Hpa::new(hpa)) } else { None }
    }

    /// Whether the page may come with a whole group, which is made at length.
    #[inline(always)]
    fn may_be_grouped(&self, slot: &Slot<H::Atomics>, run: &Run) -> bool {
        self.visit.space.format.group_bits(Level::PAGE) > 0
            && slot.log.is_none()
            && aligned(slot, run, self.visit.group_span(self.gpa, Level::PAGE)).is_some()
    }

    #[inline(always)]
    fn expose(&self, hpa: Hpa) {
        let (len, permissions) = (self.visit.space.geometry().page_size(), Permissions::ALL);
        self.visit.space.host.expose(Exposed { hpa, len, permissions, memory: MemoryType::Normal });
    }

    #[inline(always)]
    fn request(&self, slot: &Slot<H::Atomics>) -> Request {
        let gpa = self.page();
        Request { slot: slot.id, gpa, host: slot.host_address(gpa), access: self.access, may_block: false }
    }

    #[inline(always)]
    fn mark(&self, log: &Log<H::Atomics>) {
        log.mark_page(self.gpa.get() >> self.visit.space.geometry().page_shift());
    }

    #[inline(always)]
    fn page(&self) -> Gpa {
        self.gpa.align_down(self.visit.space.geometry().page_size())
    }

    #[inline(always)]
    fn flush_local(&self) {
        self.visit.space.host.flush_local(self.vcpu, self.page(), Hint::Level(Level::PAGE));
    }
}

/// A page of normal memory with all permissions, writing withheld or not: nearly all of the word is known when this is
/// compiled.
#[inline(always)]
fn plain_leaf<F: Format>(format: F, hpa: Hpa, writable: bool) -> u64 {
    let leaf = Leaf { hpa, permissions: Permissions::ALL, may_write: true, memory: MemoryType::Normal, accessed: true };
    let raw = format.leaf(leaf, Level::PAGE);
    if writable { raw } else { format.write_protected(raw, Level::PAGE) }
}
