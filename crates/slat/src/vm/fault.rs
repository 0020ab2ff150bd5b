//! Serving one fault, whatever it takes; `quick` has the common cases. The entry decides: neither what the hardware reported nor what was looked up is trusted about it
//! (R12).

use super::Vm;
use super::collapse::collapse_around;
use super::slots::{LastUsed, Slot};
use crate::addr::{Gpa, GpaRange, Hpa, Level};
use crate::format::{Format, Kind, Leaf};
use crate::host::{Access, Exposed, Hint, Host, Request, Run, Translation, VcpuId};
use crate::reclaim::Subtree;
use crate::space::{Grouping, Publish, Split, Ticket, Visit};
use crate::sync::Atomics;
use crate::table::{Cache, Position};

/// What became of a fault. Small enough to be returned in one register.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use = "only some outcomes let the guest go on"]
#[non_exhaustive]
pub enum Outcome {
    /// Memory is mapped now. Let the guest go on.
    Mapped {
        /// The size of the new leaf.
        level: Level,
        /// Whether the guest may write to it without another fault.
        writable: bool,
    },
    /// Write permission was given back, and the page marked dirty if its slot is logged. Let the guest go on.
    Relaxed {
        /// The size of the leaf.
        level: Level,
    },
    /// The accessed flag was set. Let the guest go on.
    Accessed {
        /// The size of the leaf.
        level: Level,
    },
    /// The entry already allowed the access: another vCPU was first, or this CPU's TLB was stale and has been told. Let
    /// the guest go on.
    Spurious,
    /// Somebody is changing this entry, or has changed what lies behind it. Nothing was done; let the guest go on, it
    /// will come back.
    Retry,
    /// There is no slot at this address: emulate a device, or report an error to the guest.
    NoSlot,
    /// A write to a read-only slot: emulate it.
    Mmio,
    /// The backing refuses the access ([`Translation::Denied`], or a run without the permission or not covering the
    /// page).
    Denied,
    /// The embedder has noted something at the address ([`Worker::annotate`](super::Worker::annotate)); what, says
    /// [`Vcpu::annotation`](super::Vcpu::annotation).
    Annotated {
        /// The size of the entry that holds the note.
        level: Level,
    },
    /// The vCPU carries too few tables: [`top_up`](super::Vcpu::top_up) with this number, then call again. Nothing was
    /// done.
    NeedTables(u8),
    /// The address lies outside of the guest physical address space.
    OutOfRange,
    /// The VM was torn down.
    Gone,
}

const _: () = assert!(size_of::<Outcome>() <= 4);

/// How one look at the tree ended.
pub(crate) enum Step {
    Done(Outcome),
    /// The translation would block: ask again outside of the section, and come back with the answer.
    Blocked(Request, Ticket),
}

/// A translation that was asked for outside of a section, and what was noted before it was asked for.
pub(crate) struct Answer {
    pub(crate) ticket: Ticket,
    pub(crate) translation: Translation,
}

/// How often a fault looks again itself before it sends the guest round.
const LOOKS: usize = 4;

/// Whole tables that are mapped inside one section.
const TABLES_PER_SECTION: u64 = 8;

/// One fault, inside a section.
pub(crate) struct Fault<'a, H: Host, F: Format> {
    pub(crate) vm: &'a Vm<H, F>,
    pub(crate) visit: Visit<'a, H, F>,
    pub(crate) cache: &'a mut Cache,
    pub(crate) last_used: &'a mut LastUsed<H::Atomics>,
    pub(crate) stash: &'a mut Option<Subtree>,
    /// `None` for a worker, on whose CPU no guest faulted.
    pub(crate) vcpu: Option<VcpuId>,
    pub(crate) gpa: Gpa,
    pub(crate) access: Access,
    /// A range that shall be mapped as a whole: missing tables of pages in it are filled before they are linked.
    pub(crate) whole: Option<GpaRange>,
    /// Tables that were mapped as a whole.
    pub(crate) filled: u64,
}

/// What a fault may publish: where it comes from and how large it may be.
pub(super) struct Plan<'a, A: Atomics> {
    slot: &'a Slot<A>,
    pub(super) ticket: Ticket,
    pub(super) level: Level,
    pub(super) raw: u64,
    writable: bool,
    /// Where the first page of the table around the address lies, and how many whole tables from there on are to be
    /// mapped, if any.
    tables: Option<(Hpa, u64)>,
    pub(super) exposed: Exposed,
    /// Where the group around the address begins in host memory, if there may be one.
    pub(super) group: Option<Hpa>,
}

impl<'a, H: Host, F: Format> Fault<'a, H, F> {
    /// Walks first and lets the entry decide.
    #[inline(always)]
    pub(crate) fn serve(&mut self, mut answer: Option<Answer>) -> Step {
        for _ in 0..LOOKS {
            let Some(position) = self.visit.walk(self.gpa, Level::PAGE) else { return Step::Done(Outcome::Gone) };
            let step = match self.visit.space.format.kind(position.raw, position.level) {
                Kind::Leaf => self.leaf(position, &mut answer),
                Kind::Empty if position.raw != 0 => {
                    return Step::Done(Outcome::Annotated { level: position.level });
                }
                Kind::Empty => self.map(position, &mut answer),
                // The owner may be waiting for its flush: give way to the guest, which acknowledges it.
                Kind::Locked => return Step::Done(Outcome::Retry),
                Kind::Frozen | Kind::Table => None,
            };
            if let Some(step) = step {
                return step;
            }
        }
        Step::Done(Outcome::Retry)
    }

    /// The path ends in a leaf.
    #[inline(always)]
    fn leaf(&mut self, position: Position<'a, H>, answer: &mut Option<Answer>) -> Option<Step> {
        let (format, raw, level) = (self.visit.space.format, position.raw, position.level);
        if format.permits(raw, level, self.access) {
            // The hardware may have faulted on what it had cached of an earlier value.
            self.flush_local(level);
            return Some(Step::Done(Outcome::Spurious));
        }
        if self.access == Access::Write && format.may_write(raw, level) {
            return self.relax(position);
        }
        if format.decode(raw, level).permissions.allow(self.access) {
            position.entry().change(raw, format.made_accessed(raw, level)).ok()?;
            self.visit.published();
            return Some(Step::Done(Outcome::Accessed { level }));
        }
        self.replace(position, answer)
    }

    /// Gives write permission back: a pure function of the entry seen and of the slots after the change (R6).
    #[inline(always)]
    fn relax(&mut self, position: Position<'a, H>) -> Option<Step> {
        let level = position.level;
        if self.visit.space.format.is_grouped(position.raw, level) {
            return self.relax_group(position);
        }
        if level > Level::PAGE && self.is_logged() {
            return self.split(position, Level::PAGE);
        }
        let format = self.visit.space.format;
        position.entry().change(position.raw, format.made_writable(position.raw, level)).ok()?;
        // Between the change and the second reading of the slots: who turned logging on meanwhile either is seen here,
        // or finds the entry writable and protects it (R6).
        H::Atomics::full_fence_after_rmw();
        self.relaxed(self.visit.span(self.gpa, level), level)
    }

    /// What was made writable is marked by the slots of now.
    #[inline(always)]
    pub(super) fn relaxed(&mut self, span: GpaRange, level: Level) -> Option<Step> {
        if let Some(slot) = self.vm.slots.read(self.visit.section).find_any(self.gpa, self.last_used) {
            mark(slot, span, self.page_shift());
            if slot.log.is_none() && level == Level::PAGE && self.vcpu.is_some() {
                collapse_around(self.vm, self.visit, slot, self.stash, self.gpa);
            }
        }
        self.visit.published();
        self.flush_local(level);
        Some(Step::Done(Outcome::Relaxed { level }))
    }

    /// Makes a table of a leaf on the way down to `target`, then looks again. A shortage is told before anything is
    /// changed (R10).
    #[cold]
    fn split(&mut self, position: Position<'a, H>, target: Level) -> Option<Step> {
        let tables = position.level.get() - target.get();
        if self.cache.len() < tables.into() {
            return Some(Step::Done(Outcome::NeedTables(tables)));
        }
        match self.visit.split(position, self.gpa, self.cache) {
            Split::Done if tables == 1 => self.relax_below(position),
            Split::Done | Split::Lost => None,
            Split::NoTable => Some(Step::Done(Outcome::NeedTables(tables))),
        }
    }

    /// Goes on below an entry that was just made a table, rather than from the root.
    fn relax_below(&mut self, position: Position<'a, H>) -> Option<Step> {
        let format = self.visit.space.format;
        let table = Position { raw: position.entry().load(), ..position };
        if !format.is_table(table.raw, table.level) {
            return None;
        }
        let below = self.visit.below(table, self.gpa);
        let relaxes = self.access == Access::Write && format.may_write(below.raw, below.level);
        if relaxes && below.level == Level::PAGE { self.relax(below) } else { None }
    }

    /// The path ends in an empty entry.
    #[inline]
    fn map(&mut self, position: Position<'a, H>, answer: &mut Option<Answer>) -> Option<Step> {
        let plan = match self.plan(position.level, answer) {
            Ok(plan) => plan,
            Err(step) => return Some(step),
        };
        let tables = position.level.get() - plan.level.get();
        if self.cache.len() < tables.into() {
            return Some(Step::Done(Outcome::NeedTables(tables)));
        }
        let group = self.group_to_make(position, &plan);
        self.visit.space.host.expose(group.map_or(plan.exposed, |group| group.exposed));
        if let Some(tables) = plan.tables.filter(|_| plan.level == Level::PAGE && position.level > Level::PAGE) {
            return self.map_tables(position, plan, tables);
        }
        let position = self.visit.link_down(position, self.gpa, plan.level, self.cache).ok()?;
        if let Some(group) = group {
            return self.map_group(position, &plan, group);
        }
        let span = self.visit.span(self.gpa, plan.level);
        let shards = &self.visit.space.shards;
        let published = self.visit.publish_leaf(position, plan.raw, || shards.admits(&plan.ticket, span));
        self.finish(published, &plan)
    }

    /// Whole tables of pages where there were none, each behind one entry, as far as entries are empty and the answer
    /// reaches.
    #[cold]
    fn map_tables(
        &mut self,
        position: Position<'a, H>,
        plan: Plan<'a, H::Atomics>,
        (first, count): (Hpa, u64),
    ) -> Option<Step> {
        let geometry = self.visit.space.geometry();
        let level = Level::new(1);
        let mut position = self.visit.link_down(position, self.gpa, level, self.cache).ok()?;
        let mut leaf = Leaf { hpa: first, ..self.visit.space.format.decode(plan.raw, Level::PAGE) };
        let mut span = self.visit.span(self.gpa, level);
        let plan = Plan { level, ..plan };
        let grouping = if plan.slot.log.is_none() { Grouping::Groups } else { Grouping::Singles };
        let mut step = None;
        for _ in 0..count.min(TABLES_PER_SECTION) {
            let shards = &self.visit.space.shards;
            let admit = || shards.admits(&plan.ticket, span);
            let published = self.visit.publish_table(position, leaf, self.cache, grouping, admit);
            let done = matches!(published, Publish::Done);
            if done || self.filled == 0 {
                step = self.finish_over(published, &plan, span);
            }
            self.filled += u64::from(done);
            let Some(next) = position.next_empty().filter(|_| done && self.cache.len() > 0) else { break };
            position = next;
            leaf.hpa = Hpa::new(leaf.hpa.get() + geometry.size(level));
            span = self.visit.span(span.end(), level);
        }
        step
    }

    /// The path ends in a leaf that does not allow the access and may not be relaxed: what lies behind it has changed,
    /// or the host gave it without the permission that is now asked for.
    #[cold]
    fn replace(&mut self, position: Position<'a, H>, answer: &mut Option<Answer>) -> Option<Step> {
        if self.visit.space.format.is_grouped(position.raw, position.level) {
            return self.dissolve(position);
        }
        let plan = match self.plan(position.level, answer) {
            Ok(plan) => plan,
            Err(step) => return Some(step),
        };
        if plan.level < position.level {
            return self.split(position, plan.level);
        }
        self.visit.space.host.expose(plan.exposed);
        let span = self.visit.span(self.gpa, plan.level);
        let shards = &self.visit.space.shards;
        let published = self.visit.replace_leaf(position, self.gpa, plan.raw, || shards.admits(&plan.ticket, span));
        let format = self.visit.space.format;
        if matches!(published, Publish::Done) && format.is_dirty(position.raw, position.level) {
            mark(plan.slot, span, self.page_shift()); // hardware's mark goes with the old leaf
        }
        self.flush_local(plan.level);
        self.visit.tally.flushed_local();
        self.finish(published, &plan)
    }

    /// Publish, then mark: a harvest that took the mark before the page was writable would lose the write (R5).
    #[inline]
    fn finish(&mut self, published: Publish, plan: &Plan<'_, H::Atomics>) -> Option<Step> {
        self.finish_over(published, plan, self.visit.span(self.gpa, plan.level))
    }

    #[inline]
    pub(super) fn finish_over(
        &mut self,
        published: Publish,
        plan: &Plan<'_, H::Atomics>,
        span: GpaRange,
    ) -> Option<Step> {
        match published {
            Publish::Lost => return None,
            Publish::Refused => return Some(Step::Done(Outcome::Retry)),
            Publish::Done => {}
        }
        let writable = plan.writable;
        if writable {
            mark(plan.slot, span, self.page_shift());
        }
        self.visit.published();
        Some(Step::Done(Outcome::Mapped { level: plan.level, writable }))
    }

    /// What may be published in an entry of level `most` or below. The shard's word is read first (R4).
    #[inline]
    fn plan(&mut self, most: Level, answer: &mut Option<Answer>) -> Result<Plan<'a, H::Atomics>, Step> {
        let (ticket, translation) = match answer.take() {
            // Asked where it may block, and still said that it would: nothing to do but go round.
            Some(Answer { translation: Translation::WouldBlock, .. }) => return Err(Step::Done(Outcome::Retry)),
            Some(Answer { ticket, translation }) => (ticket, Some(translation)),
            None => (self.visit.space.shards.ticket(self.gpa), None),
        };
        let slot = self.slot().ok_or(Step::Done(Outcome::NoSlot))?;
        if slot.flags.read_only && self.access == Access::Write {
            return Err(Step::Done(Outcome::Mmio));
        }
        let request = self.request(slot);
        let translation = translation.unwrap_or_else(|| self.visit.space.host.translate(request));
        let run = match translation {
            Translation::Run(run) => run,
            Translation::WouldBlock => return Err(Step::Blocked(request, ticket)),
            Translation::Retry => return Err(Step::Done(Outcome::Retry)),
            Translation::Denied => return Err(Step::Done(Outcome::Denied)),
        };
        let (level, leaf) = self.leaf_of(slot, &run, most).ok_or(Step::Done(Outcome::Denied))?;
        let format = self.visit.space.format;
        let raw = format.leaf(leaf, level);
        // What the format cannot grant (execution of device memory, frames it cannot name) is refused here: published,
        // it would fault again for ever.
        if !format.permits(raw, level, self.access) || leaf.hpa.get() >> format.output_bits() != 0 {
            return Err(Step::Done(Outcome::Denied));
        }
        let tables = self.tables_of(slot, &run);
        let (first, len) = match tables {
            Some((first, count)) if level == Level::PAGE => {
                (first, count.min(TABLES_PER_SECTION) * format.geometry().size(Level::new(1)))
            }
            _ => (leaf.hpa, format.geometry().size(level)),
        };
        let exposed = Exposed { hpa: first, len, permissions: leaf.permissions, memory: leaf.memory };
        let group = self.group_for(slot, &run, level);
        Ok(Plan { slot, ticket, level, raw, writable: leaf.permissions.write(), tables, exposed, group })
    }

    /// See [`Plan::tables`]: as far as all pages are meant, and slot and run have them, within one shard's region.
    fn tables_of(&self, slot: &Slot<H::Atomics>, run: &Run) -> Option<(Hpa, u64)> {
        let geometry = self.visit.space.geometry();
        let size = geometry.size(Level::new(1));
        let region = GpaRange::around(self.gpa, 1 << geometry.shard_shift());
        let span = geometry.span(self.gpa, Level::new(1));
        let usable = self.whole?.intersection(slot.range)?.intersection(run.guest)?.intersection(region)?;
        let bytes = usable.end().checked_offset_from(span.start()).filter(|_| usable.covers(span))?;
        let first = run.hpa.checked_add(span.start().checked_offset_from(run.guest.start())?)?;
        let last = first.checked_add(bytes / size * size - 1)?;
        let expressible = last.get() >> self.visit.space.format.output_bits() == 0;
        (expressible && first.is_aligned(geometry.page_size())).then_some((first, bytes / size))
    }

    /// The largest leaf that slot, backing, alignment and the log allow; `None` when the run does not serve the access.
    fn leaf_of(&self, slot: &Slot<H::Atomics>, run: &Run, most: Level) -> Option<(Level, Leaf)> {
        let format = self.visit.space.format;
        let geometry = format.geometry();
        if !run.permissions.allow(self.access) {
            return None;
        }
        let is_logged = slot.log.is_some();
        let mut level = most.min(run.largest).min(geometry.largest_leaf());
        if is_logged && self.access == Access::Write {
            level = Level::PAGE; // no block becomes writable under the log (R5)
        }
        let hpa = loop {
            match aligned(slot, run, geometry.span(self.gpa, level)) {
                Some(hpa) => break hpa,
                None => level = level.below()?,
            }
        };
        let may_write = run.permissions.write() && !slot.flags.read_only;
        let write = may_write && (!is_logged || self.access == Access::Write);
        let permissions = run.permissions.with_write(write);
        Some((level, Leaf { hpa, permissions, may_write, memory: run.memory, accessed: true }))
    }

    pub(super) fn request(&self, slot: &Slot<H::Atomics>) -> Request {
        let page = self.gpa.align_down(1 << self.page_shift());
        Request { slot: slot.id, gpa: page, host: slot.host_address(page), access: self.access, may_block: false }
    }

    /// The slot of now.
    #[inline(always)]
    fn slot(&mut self) -> Option<&'a Slot<H::Atomics>> {
        self.vm.slots.read(self.visit.section).find(self.gpa, self.last_used)
    }

    pub(super) fn is_logged(&mut self) -> bool {
        self.slot().is_some_and(|slot| slot.log.is_some())
    }

    #[inline(always)]
    pub(super) fn page_shift(&self) -> u32 {
        self.visit.space.format.geometry().page_shift()
    }

    #[inline(always)]
    pub(super) fn flush_local(&self, level: Level) {
        let page = self.gpa.align_down(1 << self.page_shift());
        if let Some(vcpu) = self.vcpu {
            self.visit.space.host.flush_local(vcpu, page, Hint::Level(level));
        }
    }
}

/// Marks all pages of a leaf that was just made writable, if its slot is logged. The log knows its own ends.
#[inline(always)]
fn mark<A: Atomics>(slot: &Slot<A>, leaf: GpaRange, page_shift: u32) {
    if let Some(log) = &slot.log {
        log.mark(leaf.start().get() >> page_shift, leaf.len() >> page_shift);
    }
}

/// Where `span` lies in host memory, if the slot and the run cover all of it and the address is aligned to its size.
#[inline]
pub(super) fn aligned<A: Atomics>(slot: &Slot<A>, run: &Run, span: GpaRange) -> Option<Hpa> {
    if !slot.range.covers(span) || !run.guest.covers(span) {
        return None;
    }
    let hpa = run.hpa.checked_add(span.start().checked_offset_from(run.guest.start())?)?;
    hpa.is_aligned(span.len()).then_some(hpa)
}
