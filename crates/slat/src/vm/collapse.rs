//! Making large leaves of small ones again, once nothing needs the small ones.

use super::fault::aligned;
use super::handle::{Handle, VmRef};
use super::slots::Slot;
use super::worker::{RangeError, Worker};
use super::{Budget, Progress, Vm};
use crate::addr::{Gpa, GpaRange, Level};
use crate::format::Format;
use crate::host::{Access, Host, Request, Translation};
use crate::reclaim::Subtree;
use crate::space::Visit;
use crate::sync::Atomics;

/// How tables are collapsed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Collapse {
    /// A table of leaves becomes one leaf, if they map neighbouring memory and differ in nothing but write permission and
    /// the accessed flag. The guest takes no fault for it.
    InPlace,
    /// Tables that could be a leaf are dropped, whatever they map, and faults map the leaf. Cheaper where little of a
    /// table is in use, and the only way where pages are missing.
    Lazily,
}

impl<R: VmRef> Worker<R> {
    /// Collapses tables in `range` whose memory the backing would map by a larger leaf now, outside of logged slots: what
    /// to do when logging has stopped. Progress counts tables collapsed.
    ///
    /// A table costs its number of entries of the budget, an entry that is no table one. Every table collapsed is flushed
    /// and awaits its grace period; when too many do, tables are passed over.
    pub fn collapse(&mut self, range: GpaRange, how: Collapse, budget: Budget) -> Result<Progress, RangeError> {
        self.check(range)?;
        let geometry = self.handle.vm.vm().space.geometry();
        let mut progress = Progress { next: None, changed: 0, widened: false };
        let (mut at, mut left) = (range.start(), budget.get());
        while at < range.end() {
            if left == 0 {
                progress.next = Some(at);
                return Ok(progress);
            }
            if let Some(whole) = self.droppable(at, range).filter(|_| how == Collapse::Lazily) {
                left = left.saturating_sub(1);
                progress.changed += u64::from(self.remove(whole, Budget::UNLIMITED).changed > 0);
                at = whole.end();
                continue;
            }
            let found = self.table_at(at, range);
            at = found.span.end();
            left = left.saturating_sub(if found.collapses { geometry.entries() as u64 } else { 1 });
            progress.changed += u64::from(match how {
                _ if !found.collapses => false,
                Collapse::Lazily if found.is_kept => false, // it would lose its leaves and stay
                Collapse::InPlace => self.collapse_in_place(found.span.start(), ONE),
                Collapse::Lazily => self.remove(found.span, Budget::UNLIMITED).changed > 0,
            });
            // One level at a time: behind the last block of a larger one.
            for level in 2..=geometry.largest_leaf().get() {
                let whole = geometry.span(found.span.start(), Level::new(level));
                if how == Collapse::InPlace && whole.end() == at && range.covers(whole) {
                    progress.changed += u64::from(self.collapse_in_place(whole.start(), Level::new(level)));
                }
            }
        }
        Ok(progress)
    }

    /// What the table above the blocks around `at` covers, if `at` is its first address and it may become a leaf.
    fn droppable(&mut self, at: Gpa, range: GpaRange) -> Option<GpaRange> {
        let Handle { vm, member } = &mut self.handle;
        let vm = vm.vm();
        let section = vm.space.domain.enter(&mut member.reader);
        let visit = Visit { space: &vm.space, section: section.inside(), tally: section.tally() };
        (2..=visit.space.geometry().largest_leaf().get()).rev().map(Level::new).find_map(|level| {
            let span = visit.span(at, level);
            let meant = span.start() == at && range.covers(span);
            let position = if meant { visit.walk(at, level)? } else { return None };
            let format = vm.space.format;
            let is_table = position.level == level && format.is_table(position.raw, level);
            (is_table && !format.is_kept(position.raw) && wants_leaf(vm, visit, at, level)).then_some(span)
        })
    }

    /// What lies at `at`: a table of pages that may become a block, or something to pass over.
    fn table_at(&mut self, at: Gpa, range: GpaRange) -> Found {
        let Handle { vm, member } = &mut self.handle;
        let vm = vm.vm();
        let section = vm.space.domain.enter(&mut member.reader);
        let visit = Visit { space: &vm.space, section: section.inside(), tally: section.tally() };
        let Some(position) = visit.walk(at, ONE) else {
            return Found { span: range.from(at), collapses: false, is_kept: false };
        };
        let span = visit.span(at, position.level);
        let is_table = position.level == ONE && vm.space.format.is_table(position.raw, ONE);
        let collapses = is_table && range.covers(span) && wants_leaf(vm, visit, span.start(), ONE);
        Found { span, collapses, is_kept: is_table && vm.space.format.is_kept(position.raw) }
    }

    fn collapse_in_place(&mut self, at: Gpa, level: Level) -> bool {
        let Handle { vm, member } = &mut self.handle;
        let vm = vm.vm();
        let space = &vm.space;
        if space.domain.limbo(&mut member.reader).room() == 0 {
            return false;
        }
        let section = space.domain.enter(&mut member.reader);
        let visit = Visit { space, section: section.inside(), tally: section.tally() };
        let collapsed = if wants_leaf(vm, visit, at, level) { collapse_at(vm, visit, at, level) } else { None };
        drop(section);
        let Some(subtree) = collapsed else { return false };
        let tag = space.domain.tag();
        space.domain.limbo(&mut member.reader).push(subtree, tag);
        true
    }
}

const ONE: Level = Level::new(1);

struct Found {
    span: GpaRange,
    collapses: bool,
    /// Annotations lie below, or have.
    is_kept: bool,
}

/// As [`may_be_leaf`], for whatever slot is there.
fn wants_leaf<H: Host, F: Format>(vm: &Vm<H, F>, visit: Visit<'_, H, F>, at: Gpa, level: Level) -> bool {
    vm.slots.read(visit.section).at(at).is_some_and(|slot| may_be_leaf(visit, slot, at, level))
}

/// After a fault gave write permission back to a page outside of any log: the table around it may not be needed any more
/// (collapse by fault). The table that is left over goes to `stash`, unless that is taken.
#[cold]
#[inline(never)]
pub(super) fn collapse_around<H: Host, F: Format>(
    vm: &Vm<H, F>,
    visit: Visit<'_, H, F>,
    slot: &Slot<H::Atomics>,
    stash: &mut Option<Subtree>,
    gpa: Gpa,
) {
    if stash.is_none() && may_be_leaf(visit, slot, gpa, ONE) {
        *stash = collapse_at(vm, visit, gpa, ONE);
    }
}

/// Collapses the table of `level` around `at`, if there is one. Who turned a log on since the slot was looked at either is
/// seen by the second look, under the locked parent, or meets the parent and then the leaf (R6).
fn collapse_at<H: Host, F: Format>(vm: &Vm<H, F>, visit: Visit<'_, H, F>, at: Gpa, level: Level) -> Option<Subtree> {
    let position = visit.walk(at, level)?;
    if position.level != level || !visit.space.format.is_table(position.raw, level) {
        return None;
    }
    visit.collapse(position, at, || {
        let slot = vm.slots.read(visit.section).at(at).filter(|slot| !slot.dying);
        slot.is_some_and(|slot| slot.log.is_none() && slot.range.covers(visit.span(at, level)))
    })
}

/// Whether slot and backing would have the memory around `at` mapped by a leaf of `level`. Asked for the decision only:
/// what is published comes from entries that were there.
fn may_be_leaf<H: Host, F: Format, A: Atomics>(visit: Visit<'_, H, F>, slot: &Slot<A>, at: Gpa, level: Level) -> bool {
    let geometry = visit.space.geometry();
    if slot.log.is_some() || slot.dying || level > geometry.largest_leaf() {
        return false;
    }
    let gpa = at.align_down(geometry.page_size());
    let host = slot.host_address(gpa);
    let request = Request { slot: slot.id, gpa, host, access: Access::Read, may_block: false };
    match visit.space.host.translate(request) {
        Translation::Run(run) => run.largest >= level && aligned(slot, &run, geometry.span(at, level)).is_some(),
        _ => false,
    }
}
