//! What changing the size of leaves costs a guest that only looks on: faults, counted while each change is flushed.

use std::sync::{Arc, Mutex};

use slat::addr::{Gpa, GpaRange, HostAddress, Hpa};
use slat::format::{Arm64, Arm64Bbm2, Format};
use slat::host::{Backing, Flush, Hint, Request, SlotId, TableMemory, Tlb, Translation, VcpuId};
use slat::vm::{Budget, Collapse, Config, LogMode, NewSlot, SlotFlags, Vcpu, Vm, Worker};
use slat_machine::machine::Pending;
use slat_machine::memory::{PAGE_SIZE, Source};
use slat_machine::walk::Walker;
use slat_machine::walk::arm64::{Stage2, Vtcr};
use slat_machine::{Cpu, Machine, MachineConfig};

const BASE: u64 = 4 << 30;
const PAGES: u64 = 512;
const BLOCK: u64 = PAGES * PAGE_SIZE;
const SLOT: SlotId = SlotId(0);
/// The core that looks on.
const OTHER: VcpuId = VcpuId(1);

/// What a core finds that reads every page each time that a flush is asked for.
#[derive(Default)]
struct Onlooker<'m> {
    cpu: Mutex<Option<Cpu<'m>>>,
    counts: Mutex<Counts>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Counts {
    flushes: u64,
    reads: u64,
    faults: u64,
}

/// A machine, and one who looks on at its flushes.
struct Watched<'m> {
    machine: &'m Machine,
    onlooker: Arc<Onlooker<'m>>,
}

impl Onlooker<'_> {
    fn look(&self) {
        let mut cpu = self.cpu.lock().unwrap();
        let Some(cpu) = cpu.as_mut() else { return };
        let counts = &mut *self.counts.lock().unwrap();
        counts.flushes += 1;
        for page in 0..PAGES {
            match cpu.load(Gpa::new(BASE + page * PAGE_SIZE)) {
                Ok(value) => {
                    assert_eq!(value, page, "the guest's memory");
                    counts.reads += 1;
                }
                Err(_) => counts.faults += 1,
            }
        }
    }
}

// SAFETY: the machine keeps the contract, and all calls are passed on to it.
unsafe impl TableMemory for Watched<'_> {
    type Atomics = slat::sync::Core;

    fn allocate(&self, tables: usize) -> Option<Hpa> {
        self.machine.allocate(tables)
    }

    unsafe fn free(&self, table: Hpa, tables: usize) {
        // SAFETY: the caller's promise, passed on.
        unsafe { self.machine.free(table, tables) }
    }

    unsafe fn words(&self, table: Hpa) -> &[std::sync::atomic::AtomicU64] {
        // SAFETY: the caller's promise, passed on.
        unsafe { self.machine.words(table) }
    }
}

impl Backing for Watched<'_> {
    fn translate(&self, request: Request) -> Translation {
        self.machine.translate(request)
    }
}

impl Tlb for Watched<'_> {
    type Pending = Pending;

    fn flush(&self, flush: Flush) -> Pending {
        self.onlooker.look();
        self.machine.flush(flush)
    }

    fn wait(&self, pending: Pending) {
        self.machine.wait(pending);
    }

    fn flush_local(&self, vcpu: VcpuId, page: Gpa, level: Hint) {
        self.machine.flush_local(vcpu, page, level);
    }

    fn relax(&self) {
        self.machine.relax();
    }
}

/// What the onlooker finds while a block is split, for a write under the log, and while its table is collapsed again.
fn split_and_collapse<F: Format>(format: F, walker: impl Walker + 'static) -> [Counts; 2] {
    let config = MachineConfig::new(BLOCK, Source::AnonymousThp, 2);
    let machine = Machine::new(config, Box::new(walker)).unwrap();
    (0..PAGES).for_each(|page| machine.memory().store(page * PAGE_SIZE, page));
    let onlooker = Arc::new(Onlooker::default());
    let host = Watched { machine: &machine, onlooker: onlooker.clone() };
    let vm = Vm::new(host, format, Config { vcpus: 2, workers: 1, ..Config::default() }).unwrap();
    let range = GpaRange::with_len(Gpa::new(BASE), BLOCK).unwrap();
    let logged = SlotFlags { read_only: false, log: Some(LogMode::Protect) };
    let mut worker = Worker::new(&vm).unwrap();
    worker.create_slot(SLOT, NewSlot { range, host: HostAddress::new(0), flags: logged }).unwrap();
    let mut vcpu = Vcpu::new(&vm, VcpuId(0)).unwrap();
    vcpu.top_up(8).unwrap();
    let _ = vcpu.fault(Gpa::new(BASE), slat::host::Access::Read);
    assert_eq!(vm.statistics().leaves[..2], [0, 1]);

    *onlooker.cpu.lock().unwrap() = Some(Cpu::new(&machine, OTHER, vm.root().unwrap()));
    let taken = || std::mem::take(&mut *onlooker.counts.lock().unwrap());
    let _ = vcpu.fault(Gpa::new(BASE), slat::host::Access::Write);
    let split = taken();
    assert_eq!(vm.statistics().splits, 1);
    while !worker.set_flags(SLOT, SlotFlags { log: None, ..logged }, Budget::UNLIMITED).unwrap().is_done() {}
    taken();
    assert_eq!(worker.collapse(range, Collapse::InPlace, Budget::UNLIMITED).unwrap().changed, 1);
    let collapse = taken();
    *onlooker.cpu.lock().unwrap() = None;
    [split, collapse]
}

fn walker() -> Stage2 {
    Stage2::new(Vtcr::for_ipa_bits(40).unwrap())
}

#[test]
fn a_guest_that_looks_on_faults_at_each_page_while_an_entry_is_broken() {
    let all_fault = Counts { flushes: 1, reads: 0, faults: PAGES };
    assert_eq!(split_and_collapse(Arm64::new(40).unwrap(), walker()), [all_fault; 2]);
}

#[test]
fn a_guest_that_looks_on_never_faults_where_sizes_mix() {
    let all_read = Counts { flushes: 1, reads: PAGES, faults: 0 };
    let counts = split_and_collapse(Arm64Bbm2::new(40).unwrap(), walker().with_mixed_sizes());
    assert_eq!(counts, [all_read; 2]);
}
