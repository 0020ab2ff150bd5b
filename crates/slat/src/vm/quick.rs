//! The common faults, in as few instructions as they can be: an entry that allows the access already, a page whose write
//! permission comes back, a page that is mapped where its tables are. Anything else is `None`, and is served at length
//! from the original arguments; nothing was changed then.

use super::Vm;
use super::fault::Outcome;
use super::slots::{LastUsed, Slot};
use crate::addr::{Gpa, GpaRange, Hpa, Level};
use crate::format::{Format, Kind, Leaf};
use crate::host::{Access, Hint, Host, Permissions, Request, Run, Translation, VcpuId};
use crate::space::Visit;
use crate::sync::{Atomics, Ordering, Word};
use crate::table::Position;

#[inline(always)]
pub(super) fn quick<'a, H: Host, F: Format>(
    vm: &'a Vm<H, F>,
    visit: Visit<'a, H, F>,
    last_used: &'a mut LastUsed,
    vcpu: VcpuId,
    gpa: Gpa,
    access: Access,
) -> Option<Outcome> {
    let position = visit.walk_unrolled(gpa)?;
    let quick = Quick { vm, visit, position, last_used, vcpu, gpa, access };
    match visit.space.format.kind(position.raw, position.level) {
        Kind::Leaf => quick.leaf(),
        Kind::Empty if position.level == Level::PAGE => quick.map(),
        _ => None,
    }
}

struct Quick<'a, H: Host, F: Format> {
    vm: &'a Vm<H, F>,
    visit: Visit<'a, H, F>,
    position: Position<'a, H>,
    last_used: &'a mut LastUsed,
    vcpu: VcpuId,
    gpa: Gpa,
    access: Access,
}

impl<'a, H: Host, F: Format> Quick<'a, H, F> {
    #[inline(always)]
    fn leaf(self) -> Option<Outcome> {
        let (format, raw, level) = (self.visit.space.format, self.position.raw, self.position.level);
        if format.permits(raw, level, self.access) {
            self.flush_local(level);
            self.visit.tally.spurious();
            return Some(Outcome::Spurious);
        }
        let relaxes = self.access == Access::Write && format.may_write(raw, level);
        if relaxes && level == Level::PAGE { self.relax() } else { None }
    }

    /// See [`Fault::relax`](super::fault::Fault): the slot is looked at after the change (R6).
    #[inline(always)]
    fn relax(mut self) -> Option<Outcome> {
        let (format, raw) = (self.visit.space.format, self.position.raw);
        self.position.entry().change(raw, format.made_writable(raw, Level::PAGE)).ok()?;
        H::Atomics::full_fence_after_rmw();
        match self.slot() {
            Some(slot) => self.mark(slot),
            None => self.mark_by_search(),
        }
        self.visit.published();
        self.flush_local(Level::PAGE);
        self.visit.tally.relaxed();
        Some(Outcome::Relaxed { level: Level::PAGE })
    }

    /// R4 in its quiet form: the shard's word first, then slot and translation, then the entry, then the word again.
    #[inline(always)]
    fn map(self) -> Option<Outcome> {
        let (word, seen) = self.visit.space.shards.quiet_word(self.gpa)?;
        let slot = self.slot()?;
        if slot.flags.read_only && self.access == Access::Write {
            return None;
        }
        let run = match self.visit.space.host.translate(self.request(slot)) {
            Translation::Run(run) => run,
            Translation::WouldBlock => return None,
            Translation::Denied => return Some(Outcome::Denied),
            Translation::Retry => return self.retry(),
        };
        let leaf = self.leaf_of(slot, &run)?;
        let format = self.visit.space.format;
        let raw = format.leaf(leaf, Level::PAGE);
        if !format.permits(raw, Level::PAGE, self.access) || leaf.hpa.get() >> format.output_bits() != 0 {
            return None;
        }
        let claimed = self.position.entry().claim::<F>(self.position.raw).ok()?;
        if word.load(Ordering::Acquire) != seen {
            claimed.restore();
            return None;
        }
        claimed.publish(raw);
        // Publish, then mark (R5).
        let writable = leaf.permissions.write;
        if writable {
            self.mark(slot);
        }
        self.visit.published();
        self.visit.tally.mapped(Level::PAGE, 1);
        self.visit.tally.fault_mapped();
        Some(Outcome::Mapped { level: Level::PAGE, writable })
    }

    #[cold]
    fn retry(&self) -> Option<Outcome> {
        self.visit.tally.retried();
        Some(Outcome::Retry)
    }

    #[inline(always)]
    fn leaf_of(&self, slot: &Slot<H::Atomics>, run: &Run) -> Option<Leaf> {
        let page = self.page();
        let covered = run.guest.covers(GpaRange::around(page, self.visit.space.geometry().page_size()));
        let hpa = Hpa::new(run.hpa.get().wrapping_add(page.get().wrapping_sub(run.guest.start().get())));
        let fits = covered && hpa.is_aligned(self.visit.space.geometry().page_size());
        let may_write = run.permissions.write && !slot.flags.read_only;
        let write = may_write && (slot.log.is_none() || self.access == Access::Write);
        let permissions = Permissions { write, ..run.permissions };
        (fits && run.permissions.allow(self.access)).then_some(Leaf {
            hpa,
            permissions,
            may_write,
            memory: run.memory,
            accessed: true,
        })
    }

    #[inline(always)]
    fn slot(&self) -> Option<&'a Slot<H::Atomics>> {
        self.vm.slots.read(self.visit.section).guess(self.gpa, *self.last_used)
    }

    #[inline(always)]
    fn request(&self, slot: &Slot<H::Atomics>) -> Request {
        let gpa = self.page();
        Request { slot: slot.id, gpa, host: slot.host_address(gpa), access: self.access, may_block: false }
    }

    #[inline(always)]
    fn mark(&self, slot: &Slot<H::Atomics>) {
        if let Some(log) = &slot.log {
            log.mark_page(self.gpa.get() >> self.visit.space.geometry().page_shift());
        }
    }

    /// The guess was wrong: search, since the page is writable now and has to be marked.
    #[cold]
    fn mark_by_search(&mut self) {
        if let Some(slot) = self.vm.slots.read(self.visit.section).find(self.gpa, self.last_used) {
            self.mark(slot);
        }
    }

    #[inline(always)]
    fn page(&self) -> Gpa {
        self.gpa.align_down(self.visit.space.geometry().page_size())
    }

    #[inline(always)]
    fn flush_local(&self, level: Level) {
        self.visit.tally.flushed_local();
        self.visit.space.host.flush_local(self.vcpu, self.page(), Hint::Level(level));
    }
}
