//! One core: a TLB, a walker, and the window in which each guest access happens (see [`crate::broadcast`]).

use slat::addr::{Gpa, Hpa};
use slat::host::{Access, VcpuId};

use crate::broadcast::Attached;
use crate::machine::Machine;
use crate::tlb::{Lookup, Tlb};
use crate::walk::{self, Fault, FaultKind, Translation};

/// A core of the machine, driven by one thread.
#[derive(Debug)]
pub struct Cpu<'m> {
    machine: &'m Machine,
    attached: Attached<'m>,
    tlb: Tlb,
    root: Hpa,
    counts: CpuCounts,
}

/// What a core has done.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct CpuCounts {
    /// Guest accesses that took place.
    pub accesses: u64,
    /// Walks of the tables, for want of a translation in the TLB.
    pub walks: u64,
}

/// Why a guest access did not take place.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Exit {
    /// The tables do not allow it, or not yet: a stage-2 fault.
    Fault(Fault),
    /// The TLB held translations of two sizes: break-before-make was not kept.
    Conflict,
    /// The access, or the walk for it, went to a physical address where there is nothing (any more).
    External(Hpa),
}

impl<'m> Cpu<'m> {
    /// Core number `id` of `machine`, with `root` in its root register and its caches empty.
    ///
    /// # Panics
    ///
    /// When there is no such core, or another thread drives it.
    pub fn new(machine: &'m Machine, id: VcpuId, root: Hpa) -> Self {
        Self {
            machine,
            attached: machine.broadcast().attach(id.0),
            tlb: Tlb::new(machine.walker(), machine.tlb_size()),
            root,
            counts: CpuCounts::default(),
        }
    }

    /// Reads the word at `gpa`, a multiple of 8.
    #[inline]
    pub fn load(&mut self, gpa: Gpa) -> Result<u64, Exit> {
        self.window(gpa, Access::Read, |machine, offset| machine.memory().load(offset))
    }

    /// Writes the word at `gpa`, a multiple of 8.
    #[inline]
    pub fn store(&mut self, gpa: Gpa, value: u64) -> Result<(), Exit> {
        self.window(gpa, Access::Write, |machine, offset| machine.memory().store(offset, value))
    }

    /// Fetches the word at `gpa`, a multiple of 8, as an instruction.
    #[inline]
    pub fn fetch(&mut self, gpa: Gpa) -> Result<u64, Exit> {
        self.window(gpa, Access::Execute, |machine, offset| machine.memory().load(offset))
    }

    /// What the core has done so far.
    pub fn counts(&self) -> CpuCounts {
        self.counts
    }

    /// One access, in one window: nothing is looked up before it, and nothing is used of it afterwards.
    #[inline]
    fn window<T>(&mut self, gpa: Gpa, access: Access, act: impl FnOnce(&Machine, u64) -> T) -> Result<T, Exit> {
        self.attached.enter(|flush| self.tlb.flush(flush));
        let result = self.translate(gpa, access).and_then(|hpa| {
            let offset = self.machine.physical().guest_offset(hpa).ok_or(Exit::External(hpa))?;
            Ok(act(self.machine, offset))
        });
        self.attached.leave();
        self.counts.accesses += u64::from(result.is_ok());
        result
    }

    #[inline]
    fn translate(&mut self, gpa: Gpa, access: Access) -> Result<Hpa, Exit> {
        let translation = match self.tlb.lookup(gpa) {
            Lookup::Hit(translation) => translation,
            Lookup::Miss => self.walk(gpa)?,
            Lookup::Conflict => return Err(Exit::Conflict),
        };
        let Translation { output, level, .. } = translation.check(access).map_err(Exit::Fault)?;
        let offset = gpa.get() & ((1 << self.machine.walker().shift(level)) - 1);
        Ok(Hpa::new(output.get() + offset))
    }

    /// Walks, and remembers what was found even if it does not allow the access: hardware may, and software has to know.
    fn walk(&mut self, gpa: Gpa) -> Result<Translation, Exit> {
        self.counts.walks += 1;
        let machine = self.machine;
        let found = walk::walk(machine.walker(), machine.physical(), self.root, gpa, self.tlb.walks());
        let translation = found.map_err(|fault| match fault.kind {
            FaultKind::External(hpa) => Exit::External(hpa),
            _ => Exit::Fault(fault),
        })?;
        self.tlb.fill(gpa, translation);
        Ok(translation)
    }
}

#[cfg(test)]
mod tests;
