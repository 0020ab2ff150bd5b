//! A machine whose calls are written down.

use std::sync::Arc;

use slat::OutOfMemory;
use slat::addr::{Gpa, Hpa, Level};
use slat::host::{Access, Backing, Exposed, Flush, Hint, Request, TableMemory, Tlb, Translation, VcpuId};
use slat::vm::Outcome;

use super::word::current;
use super::{Recorder, Traced, TracedWord};
use crate::checker::Event;
use crate::machine::{Machine, Pending};
use crate::physical::TABLES_BASE;
use crate::vcpu::FaultEntry;

/// A machine as the host of an engine that is traced.
#[derive(Debug)]
pub struct Watched<'m> {
    machine: &'m Machine,
    recorder: Arc<Recorder>,
    vmid: u16,
}

impl<'m> Watched<'m> {
    /// `machine`, whose guest is number `vmid`, written down by `recorder`.
    pub fn new(machine: &'m Machine, recorder: Arc<Recorder>, vmid: u16) -> Self {
        Self { machine, recorder, vmid }
    }

    /// The machine.
    pub fn machine(&self) -> &'m Machine {
        self.machine
    }

    /// What writes it down.
    pub fn recorder(&self) -> &Arc<Recorder> {
        &self.recorder
    }

    fn all_cores(&self) -> u64 {
        u64::MAX >> (64 - self.machine.cores().min(64))
    }

    /// Notes the beginning of a flush; its number.
    fn begun(&self, flush: Flush, cores: u64) -> u64 {
        let thread = current().map_or(0, |(_, thread)| thread);
        let mut book = self.recorder.lock();
        let id = book.next_flush();
        book.note(Event::FlushBegun { thread, id, flush, vmid: self.vmid, cores });
        id
    }
}

// SAFETY: the machine keeps the contract; the words are its own, behind a transparent wrapper.
#[allow(unsafe_code)]
unsafe impl TableMemory for Watched<'_> {
    type Atomics = Traced;

    fn allocate(&self, tables: usize) -> Option<Hpa> {
        let table = TableMemory::allocate(self.machine, tables)?;
        let arena = self.machine.physical().tables();
        let bytes = arena.frames() << self.machine.walker().shift(Level::PAGE);
        self.recorder.set_tables(table, TABLES_BASE, arena.words(table).as_ptr().addr(), bytes);
        self.recorder.note(Event::Allocated { table, tables });
        Some(table)
    }

    unsafe fn free(&self, table: Hpa, tables: usize) {
        // Before it: another thread may be given the table at once.
        self.recorder.note(Event::Freed { table, tables });
        // SAFETY: the caller's promise, passed on.
        unsafe { TableMemory::free(self.machine, table, tables) }
    }

    unsafe fn words(&self, table: Hpa) -> &[TracedWord] {
        TracedWord::of(self.machine.physical().tables().words(table))
    }
}

impl Backing for Watched<'_> {
    fn translate(&self, request: Request) -> Translation {
        self.machine.translate(request)
    }

    fn expose(&self, memory: Exposed) {
        self.machine.expose(memory);
    }
}

impl Tlb for Watched<'_> {
    type Pending = (u64, Pending);

    fn flush(&self, flush: Flush) -> (u64, Pending) {
        let id = self.begun(flush, self.all_cores());
        (id, self.machine.flush(flush))
    }

    fn wait(&self, (id, pending): (u64, Pending)) {
        self.machine.wait(pending);
        self.recorder.note(Event::FlushDone { id });
    }

    /// Takes effect before the core's next access. Nobody relies on it but for that, so the checker is not told: what
    /// it drops is at most less than the tables say.
    fn flush_local(&self, vcpu: VcpuId, page: Gpa, level: Hint) {
        self.machine.flush_local(vcpu, page, level);
    }

    fn relax(&self) {
        self.machine.relax();
    }
}

/// The way of a guest's faults into an engine that is traced: each is a call.
#[derive(Debug)]
pub struct Entry<E>(pub E);

impl<E: FaultEntry> FaultEntry for Entry<E> {
    fn fault(&mut self, gpa: Gpa, access: Access) -> Outcome {
        Recorder::call(|| self.0.fault(gpa, access))
    }

    fn top_up(&mut self, tables: usize) -> Result<(), OutOfMemory> {
        self.0.top_up(tables)
    }
}
