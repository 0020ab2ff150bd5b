//! A vCPU's handle, and what its thread faults through.

use core::fmt;

use super::Vm;
use super::exit::Exit;
use super::fault::Outcome;
use super::handle::{Handle, JoinError, VmRef};
use super::quick::Quick;
use super::slots::LastUsed;
use super::worker::AtomicsOf;
use crate::addr::Gpa;
use crate::format::Format;
use crate::host::{Access, Host, VcpuId};
use crate::reclaim::{OutOfMemory, Reader, Subtree};
use crate::space::{Member, Visit};
use crate::sync::Atomics;
use crate::table::Cache;

/// The handle of one vCPU, owned by the thread that runs it.
///
/// It carries the vCPU's tables, its counters, its last-used slot and its place among the VM's readers; nothing in it is
/// shared with another vCPU. While the guest runs, no method of the handle does, and the vCPU holds nothing up.
#[repr(align(128))] // neighbours in an array share no line (R3)
pub struct Vcpu<R: VmRef> {
    pub(super) handle: Handle<R>,
    pub(super) id: VcpuId,
    pub(super) memo: Memo<AtomicsOf<R>>,
}

/// What one fault leaves for the next ones.
pub(super) struct Memo<A: Atomics> {
    pub(super) last_used: LastUsed<A>,
    /// A table that a fault has collapsed and that is not yet among what waits for its grace period.
    pub(super) stash: Option<Subtree>,
}

impl<A: Atomics> Memo<A> {
    /// Retires the table that a fault collapsed, and takes apart what nobody can see any more: its tables serve the next
    /// faults. Outside of any section.
    #[inline]
    pub(super) fn settle<H: Host<Atomics = A>, F: Format>(
        &mut self,
        vm: &Vm<H, F>,
        reader: &mut Reader<A>,
        cache: &mut Cache,
    ) {
        let space = &vm.space;
        if let Some(subtree) = self.stash.take() {
            core::hint::cold_path();
            let tag = space.domain.tag();
            space.domain.limbo(reader).push(subtree, tag);
        }
        if space.domain.limbo(reader).len() > 0 {
            core::hint::cold_path();
            let (memory, tally) = ((&space.host, space.format), space.tally(reader));
            space.domain.reclaim(reader, memory, tally, cache, ENTRIES_SETTLED);
        }
    }
}

impl<R: VmRef> Vcpu<R> {
    /// Joins `vm` as the vCPU with number `id`, which is what [`Tlb::flush_local`](crate::host::Tlb::flush_local) is
    /// told. One handle per number is the embedder's to see to.
    pub fn new(vm: R, id: VcpuId) -> Result<Self, JoinError> {
        if id.0 >= vm.vm().config.vcpus {
            return Err(JoinError::NoSuchVcpu);
        }
        Ok(Self { handle: Handle::new(vm)?, id, memo: Memo { last_used: LastUsed::default(), stash: None } })
    }

    /// Serves a fault of the guest at `gpa`. Takes no lock and allocates nothing; any number of vCPUs may fault at once,
    /// beside every operation of a [`Worker`](super::Worker).
    ///
    /// On return the tables say what the outcome says. No other CPU's TLB was flushed unless a block was split or a leaf
    /// replaced; this CPU's was told about the page if it may have been stale.
    ///
    /// One of the two full barriers of a fault is that of entering the engine: a thread that comes here straight from its
    /// guest pays it once, and cheaper, with [`exit`](Self::exit).
    #[inline]
    pub fn fault(&mut self, gpa: Gpa, access: Access) -> Outcome {
        let vm = self.handle.vm.vm();
        let space = &vm.space;
        let member = &mut self.handle.member;
        let section = space.domain.enter(&mut member.reader);
        let visit = Visit { space, section: section.inside(), tally: section.tally() };
        match (Quick { vm, visit, memo: &mut self.memo, vcpu: self.id, gpa, access }).serve() {
            Some(outcome) => outcome,
            None => {
                core::hint::cold_path();
                drop(section);
                self.fault_at_length(gpa, access)
            }
        }
    }

    /// Everything that is not common, from the original arguments.
    #[inline(never)]
    fn fault_at_length(&mut self, gpa: Gpa, access: Access) -> Outcome {
        self.exit().fault_at_length(gpa, access)
    }

    /// The vCPU has left its guest: until the result is dropped its thread stands inside the engine, and faults through it
    /// cost one full barrier less.
    ///
    /// To be dropped before the guest is entered again, and before anything that takes long: what waits for a grace period
    /// (freed tables, replaced slots, a teardown) waits for it.
    ///
    #[inline]
    pub fn exit(&mut self) -> Exit<'_, R> {
        Exit::new(self)
    }

    /// Carries at least `tables` tables from now on (at most 64), allocating the missing ones from the host. To be called
    /// before the first fault and after [`Outcome::NeedTables`], where allocating is allowed.
    pub fn top_up(&mut self, tables: usize) -> Result<(), OutOfMemory> {
        self.settle();
        self.handle.top_up(tables)
    }

    #[inline]
    fn settle(&mut self) {
        let Handle { vm, member } = &mut self.handle;
        let Member { reader, cache } = member;
        self.memo.settle(vm.vm(), reader, cache);
    }

    /// The most tables that one fault can need: a whole path below the root.
    pub fn tables_per_fault(&self) -> usize {
        usize::from(self.handle.vm.vm().space.format.geometry().root_level().get()).max(1)
    }

    /// The vCPU's number.
    pub fn id(&self) -> VcpuId {
        self.id
    }
}

/// How much of what it collapsed a vCPU takes apart at a time.
const ENTRIES_SETTLED: u64 = 1024;

impl<R: VmRef> Drop for Vcpu<R> {
    fn drop(&mut self) {
        self.settle();
    }
}

impl<R: VmRef> fmt::Debug for Vcpu<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Vcpu").field("id", &self.id).finish_non_exhaustive()
    }
}
