//! How a handle refers to its VM, and what every handle owns.

use alloc::sync::Arc;
use core::fmt;

use super::Vm;
use crate::format::Format;
use crate::host::{Host, TableMemory};
use crate::reclaim::OutOfMemory;
use crate::space::Member;
use crate::table::Cache;

/// A reference to a VM that a handle can keep: `&Vm` or `Arc<Vm>`.
pub trait VmRef: sealed::Sealed {
    /// The VM's embedder.
    type Host: Host;
    /// The VM's entry format.
    type Format: Format;

    /// The VM.
    fn vm(&self) -> &Vm<Self::Host, Self::Format>;
}

impl<H: Host, F: Format> VmRef for &Vm<H, F> {
    type Host = H;
    type Format = F;

    #[inline(always)]
    fn vm(&self) -> &Vm<H, F> {
        self
    }
}

impl<H: Host, F: Format> VmRef for Arc<Vm<H, F>> {
    type Host = H;
    type Format = F;

    #[inline(always)]
    fn vm(&self) -> &Vm<H, F> {
        self
    }
}

mod sealed {
    /// A handle's record belongs to one VM: a reference that could name another one later would break that.
    pub trait Sealed {}
    impl<H: super::Host, F: super::Format> Sealed for &super::Vm<H, F> {}
    impl<H: super::Host, F: super::Format> Sealed for super::Arc<super::Vm<H, F>> {}
}

/// Why a handle could not be had.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum JoinError {
    /// The VM was made for fewer handles (see [`Config`](super::Config)).
    Full,
    /// The vCPU's number is not below the VM's maximum.
    NoSuchVcpu,
}

impl fmt::Display for JoinError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Full => f.write_str("the VM was made for fewer handles"),
            Self::NoSuchVcpu => f.write_str("the vCPU's number is not below the VM's maximum"),
        }
    }
}

impl core::error::Error for JoinError {}

/// What every handle owns: its place among the VM's readers, and its tables.
pub(crate) struct Handle<R: VmRef> {
    pub(crate) vm: R,
    pub(crate) member: Member<<R::Host as TableMemory>::Atomics>,
}

impl<R: VmRef> Handle<R> {
    pub(crate) fn new(vm: R) -> Result<Self, JoinError> {
        let reader = vm.vm().space.domain.join().ok_or(JoinError::Full)?;
        Ok(Self { vm, member: Member { reader, cache: Cache::new() } })
    }

    /// See [`Vcpu::top_up`](super::Vcpu::top_up).
    pub(crate) fn top_up(&mut self, tables: usize) -> Result<(), OutOfMemory> {
        let space = &self.vm.vm().space;
        self.member.cache.top_up(tables, &space.host, space.tally(&self.member.reader))
    }
}

impl<R: VmRef> Drop for Handle<R> {
    fn drop(&mut self) {
        let space = &self.vm.vm().space;
        self.member.cache.drain(&space.host, space.tally(&self.member.reader));
        space.domain.leave(&mut self.member.reader);
    }
}
