//! One core: a TLB, a walker, and the window in which each guest access happens (see [`crate::maintenance`]).

use slat::addr::GpaRange;
use slat::addr::{Gpa, Hpa, Level};
use slat::host::{Access, Flush, VcpuId};

use crate::machine::Machine;
use crate::maintenance::Attached;
use crate::tlb::{Lookup, Tlb};
use crate::walk::{self, Fault, FaultKind, Translation};

/// A core of the machine, driven by one thread.
#[derive(Debug)]
pub struct Cpu<'m> {
    machine: &'m Machine,
    attached: Attached<'m>,
    tlb: Tlb,
    register: Hpa,
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
    /// The tables, or the root register, hold what the architecture reserves. No access anywhere should find that.
    Misconfiguration(Fault),
    /// The access, or the walk for it, went to a physical address where there is nothing (any more).
    External(Hpa),
}

impl<'m> Cpu<'m> {
    /// Core number `id` of `machine`, whose root register points to the tables at `root` and whose caches are empty.
    ///
    /// # Panics
    ///
    /// When there is no such core, or another thread drives it.
    pub fn new(machine: &'m Machine, id: VcpuId, root: Hpa) -> Self {
        Self {
            machine,
            attached: machine.attach(id.0),
            tlb: Tlb::new(machine.walker(), machine.tlb_size()),
            register: machine.walker().register(root),
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

    /// Whether the core stays in its guest from one access to the next, until something takes it out (a fault, an
    /// interrupt), where flushes are requested. Whoever waits for a flush then waits for this thread's next access: it
    /// must not wait for them. Without it, each access is a stay of its own.
    pub fn remain_in_guest(&mut self, remain: bool) {
        self.attached.remain(remain);
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
        match &result {
            Ok(_) => {
                self.counts.accesses += 1;
                self.attached.leave();
            }
            Err(exit) => self.come_out(gpa, *exit),
        }
        result
    }

    /// Out of the guest, with a fault or worse.
    #[cold]
    fn come_out(&mut self, gpa: Gpa, exit: Exit) {
        if matches!(exit, Exit::Fault(_)) && self.machine.walker().forgets_faults() {
            self.tlb.flush(Flush::Tables { range: GpaRange::around(gpa, 1) });
        }
        self.attached.exit();
    }

    #[inline]
    fn translate(&mut self, gpa: Gpa, access: Access) -> Result<Hpa, Exit> {
        let translation = match self.tlb.lookup(gpa) {
            Lookup::Hit(translation) if translation.suffices(access) => {
                if self.tlb.mixes_sizes() && translation.level > Level::PAGE {
                    self.walk_ahead(gpa);
                }
                translation
            }
            Lookup::Hit(_) | Lookup::Miss => self.walk(gpa, access)?,
            Lookup::Conflict => return Err(Exit::Conflict),
        };
        let Translation { output, level, .. } = translation.check(access).map_err(Exit::Fault)?;
        let offset = gpa.get() & ((1 << self.machine.walker().shift(level)) - 1);
        Ok(Hpa::new(output.get() + offset))
    }

    /// Walks where nothing has to be walked for, as hardware may at any time: so a core that mixes sizes has both.
    #[cold]
    fn walk_ahead(&mut self, gpa: Gpa) {
        let machine = self.machine;
        let access = Access::Read;
        let found = walk::walk(machine.walker(), machine.physical(), self.register, gpa, access, self.tlb.walks());
        if let Ok(translation) = found {
            self.tlb.fill(gpa, translation);
        }
    }

    /// Walks, and remembers what was found even if it does not allow the access: hardware may, and software has to know.
    fn walk(&mut self, gpa: Gpa, access: Access) -> Result<Translation, Exit> {
        self.counts.walks += 1;
        let machine = self.machine;
        let found = walk::walk(machine.walker(), machine.physical(), self.register, gpa, access, self.tlb.walks());
        let translation = found.map_err(|fault| match fault.kind {
            FaultKind::External(hpa) => Exit::External(hpa),
            FaultKind::Misconfiguration | FaultKind::Root => Exit::Misconfiguration(fault),
            _ => Exit::Fault(fault),
        })?;
        self.tlb.fill(gpa, translation);
        Ok(translation)
    }
}

#[cfg(test)]
mod ept_tests;
#[cfg(test)]
mod tests;
