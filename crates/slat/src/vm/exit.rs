//! The time between leaving a guest and entering it again: one section over several faults.

use core::fmt;

use super::Vm;
use super::fault::{Answer, Fault, Outcome, Step};
use super::handle::VmRef;
use super::lookup::{Mapping, look_up};
use super::quick::Quick;
use super::vcpu::{Memo, Vcpu};
use super::worker::AtomicsOf;
use crate::addr::Gpa;
use crate::host::{Access, Backing, Request, VcpuId};
use crate::reclaim::{OutOfMemory, Section};
use crate::space::Visit;
use crate::table::Cache;

/// A vCPU outside of its guest. See [`Vcpu::exit`].
///
/// A vCPU in guest mode holds nothing up: the ordering between it and those who free tables is paid here, where it leaves
/// its guest, and not by each fault.
#[must_use = "the vCPU stands inside the engine as long as this is kept"]
pub struct Exit<'v, R: VmRef> {
    vm: &'v Vm<R::Host, R::Format>,
    section: Section<'v, AtomicsOf<R>>,
    cache: &'v mut Cache,
    memo: &'v mut Memo<AtomicsOf<R>>,
    id: VcpuId,
}

impl<'v, R: VmRef> Exit<'v, R> {
    #[inline(always)]
    pub(super) fn new(vcpu: &'v mut Vcpu<R>) -> Self {
        let vm = vcpu.handle.vm.vm();
        let member = &mut vcpu.handle.member;
        let section = vm.space.domain.enter(&mut member.reader);
        Self { vm, section, cache: &mut member.cache, memo: &mut vcpu.memo, id: vcpu.id }
    }

    /// As [`Vcpu::fault`].
    #[inline]
    pub fn fault(&mut self, gpa: Gpa, access: Access) -> Outcome {
        let visit = Visit { space: &self.vm.space, section: self.section.inside(), tally: self.section.tally() };
        match (Quick { vm: self.vm, visit, memo: self.memo, vcpu: self.id, gpa, access }).serve() {
            Some(outcome) => outcome,
            None => self.fault_at_length(gpa, access),
        }
    }

    /// Everything that is not common, from the original arguments.
    #[cold]
    #[inline(never)]
    pub(super) fn fault_at_length(&mut self, gpa: Gpa, access: Access) -> Outcome {
        self.settle();
        let space = &self.vm.space;
        if gpa >= space.end {
            return Outcome::OutOfRange;
        }
        let tally = self.section.tally();
        let mut answer = None;
        let outcome = loop {
            let visit = Visit { space, section: self.section.inside(), tally };
            let Memo { last_used, stash } = &mut *self.memo;
            let (vm, cache, vcpu) = (self.vm, &mut *self.cache, Some(self.id));
            let mut fault = Fault { vm, visit, cache, last_used, stash, vcpu, gpa, access, whole: None, filled: 0 };
            match fault.serve(answer.take()) {
                Step::Done(outcome) => break outcome,
                Step::Blocked(request, ticket) => {
                    let ask = |_: &mut _| space.host.translate(Request { may_block: true, ..request });
                    let translation = self.section.outside(ask);
                    answer = Some(Answer { ticket, translation });
                }
            }
        };
        match outcome {
            Outcome::Mapped { .. } => tally.fault_mapped(),
            Outcome::Relaxed { .. } => tally.relaxed(),
            Outcome::Accessed { .. } => tally.accessed(),
            Outcome::Spurious => tally.spurious(),
            Outcome::Retry => tally.retried(),
            _ => {}
        }
        outcome
    }

    /// As [`Vcpu::lookup`].
    #[inline]
    pub fn lookup(&mut self, gpa: Gpa) -> Option<Mapping> {
        look_up(Visit { space: &self.vm.space, section: self.section.inside(), tally: self.section.tally() }, gpa)
    }

    /// As [`Vcpu::top_up`]. Stands outside meanwhile.
    pub fn top_up(&mut self, tables: usize) -> Result<(), OutOfMemory> {
        self.settle();
        let (space, cache, tally) = (&self.vm.space, &mut *self.cache, self.section.tally());
        self.section.outside(|_| cache.top_up(tables, &space.host, tally))
    }

    /// Stands outside if there is something to settle.
    fn settle(&mut self) {
        let (vm, memo, cache) = (self.vm, &mut *self.memo, &mut *self.cache);
        if memo.stash.is_some() || vm.space.domain.limbo(self.section.reader()).len() > 0 {
            self.section.outside(|reader| memo.settle(vm, reader, cache));
        }
    }
}

impl<R: VmRef> fmt::Debug for Exit<'_, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Exit").field("id", &self.id).finish_non_exhaustive()
    }
}
