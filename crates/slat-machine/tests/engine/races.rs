//! Races that are decided: a vCPU is held inside its fault, where it asks the backing, while a worker does its work.

use std::sync::Mutex;
use std::sync::mpsc::{Receiver, Sender, channel};

use slat::addr::{Gpa, Hpa};
use slat::format::Format;
use slat::host::{MemoryType, Permissions, Request, Run, SlotId, Translation};
use slat::vm::{Budget, Outcome};
use slat_machine::memory::Source;
use slat_machine::physical::GUEST_BASE;
use slat_machine::vcpu::FaultEntry;
use slat_machine::{GuestError, Machine};

use super::common::*;

const BASE: u64 = 5 << 30;
const SLOT: SlotId = SlotId(1);
const AT: Gpa = Gpa::new(BASE + 7 * PAGE_SIZE);
/// In the same table, and in no contiguous group with it.
const BESIDE: Gpa = Gpa::new(BASE + 200 * PAGE_SIZE);

/// The first question to the backing waits here, inside the fault that asks it.
struct Held {
    asked: Receiver<()>,
    answer: Sender<()>,
}

impl Held {
    /// Answers `first` to the first question, once it was let go, and `later` to all others. A backing that may block
    /// is asked twice: inside of the engine, where it says so, and outside, where it is held.
    fn new(
        machine: &Machine,
        may_block: bool,
        first: impl Fn(&Request) -> Translation + Send + Sync + 'static,
        later: impl Fn(&Request) -> Translation + Send + Sync + 'static,
    ) -> Self {
        let (ask, asked) = channel();
        let (answer, answered) = channel();
        let gate = Mutex::new(Some((ask, answered)));
        machine.inject_translation(move |request| {
            let mut gate = gate.lock().unwrap();
            if gate.is_some() && request.may_block != may_block {
                return Some(Translation::WouldBlock);
            }
            let Some((ask, answered)) = gate.take() else { return Some(later(request)) };
            drop(gate);
            ask.send(()).unwrap();
            let _ = answered.recv();
            Some(first(request))
        });
        Self { asked, answer }
    }

    /// Lets `work` happen while `fault` stands at the gate; what the fault came to.
    fn during<T: Send>(self, fault: impl FnOnce() -> T + Send, work: impl FnOnce()) -> T {
        std::thread::scope(|scope| {
            let fault = scope.spawn(fault);
            // Dropped, if the work fails, so that the fault is let go.
            let answer = self.answer;
            self.asked.recv().unwrap();
            work();
            answer.send(()).unwrap();
            fault.join().unwrap()
        })
    }
}

/// The page asked for lies `shift` bytes further on in guest memory than the slot says.
fn page_at(request: &Request, shift: u64) -> Translation {
    Translation::Run(Run {
        guest: slat::addr::GpaRange::around(request.gpa, PAGE_SIZE),
        hpa: Hpa::new(GUEST_BASE.get() + request.host.get() + shift),
        largest: slat::addr::Level::PAGE,
        permissions: Permissions::ALL,
        memory: MemoryType::Normal,
    })
}

fn vm_with_half(machine: &Machine) -> TestVm<'_> {
    let vm = vm(machine);
    worker(&vm).create_slot(SLOT, slot(BASE, machine.memory().len() / 2, 0)).unwrap();
    vm
}

#[test]
fn an_answer_from_before_an_unmapping_is_not_published_after_it() {
    for may_block in [false, true] {
        let machine = machine(8 * MIB, Source::Anonymous, 1);
        let vm = vm_with_half(&machine);
        let (mut vcpu, mut worker) = (vcpu(&vm, 0), worker(&vm));
        vcpu.store(BESIDE, 1).unwrap();
        // The memory moves from offset 0 to 4 MiB while the fault asks where it is.
        let held = Held::new(&machine, may_block, |request| page_at(request, 0), |request| page_at(request, 4 * MIB));
        let part = range(AT.get(), PAGE_SIZE);
        let unmap = || assert!(worker.unmap(part, Budget::UNLIMITED).unwrap().is_done());
        assert_eq!(held.during(|| vcpu.store(AT, 9), unmap), Ok(()));
        let words = [0, 4 * MIB].map(|offset| machine.memory().load(offset + 7 * PAGE_SIZE));
        assert_eq!(words, [0, 9], "the guest writes where its memory is now");
    }
}

/// What the guest gets that is at its write to [`AT`] while a worker changes the slot, and what memory holds then.
fn write_during(change: impl Fn(&mut TestWorker<'_, '_>)) -> [(Result<(), GuestError>, u64); 2] {
    [false, true].map(|may_block| {
        let machine = machine(8 * MIB, Source::Anonymous, 1);
        let vm = vm_with_half(&machine);
        let (mut vcpu, mut worker) = (vcpu(&vm, 0), worker(&vm));
        vcpu.store(BESIDE, 1).unwrap();
        let held = Held::new(&machine, may_block, |request| page_at(request, 0), |request| page_at(request, 0));
        let stored = held.during(|| vcpu.store(AT, 9), || change(&mut worker));
        (stored, machine.memory().load(7 * PAGE_SIZE))
    })
}

#[test]
fn an_answer_from_before_a_slot_was_deleted_is_not_published_after_it() {
    let results = write_during(|worker| _ = delete_slot(worker, SLOT, Budget::UNLIMITED));
    assert_eq!(results, [(Err(GuestError::NoSlot(AT)), 0); 2]);
}

#[test]
fn an_answer_from_before_a_slot_became_read_only_maps_nothing_writable() {
    let flags = slat::vm::SlotFlags { read_only: true, log: None };
    let results = write_during(|worker| _ = set_flags(worker, SLOT, flags, Budget::UNLIMITED));
    assert_eq!(results, [(Err(GuestError::Mmio(AT)), 0); 2]);
}

#[test]
fn a_write_that_was_on_its_way_when_logging_began_is_logged() {
    let machine = machine(8 * MIB, Source::Anonymous, 1);
    let vm = vm_with_half(&machine);
    let (mut vcpu, mut worker) = (vcpu(&vm, 0), worker(&vm));
    vcpu.store(BESIDE, 1).unwrap();
    let held = Held::new(&machine, false, |request| page_at(request, 0), |request| page_at(request, 0));
    let stored = held.during(|| vcpu.store(AT, 9), || _ = set_flags(&mut worker, SLOT, LOGGED, Budget::UNLIMITED));
    assert_eq!(stored, Ok(()));
    let pages = slat::vm::Pages { first: 0, count: 64 };
    let mut bitmap = [0];
    assert_eq!(worker.get_dirty(SLOT, pages, &mut bitmap), Ok(1));
    assert_eq!(bitmap, [1 << 7]);
}

/// The fault has walked to the table before it asks; the table is cut off and its flush is over, but it stays.
#[test]
fn a_table_that_a_fault_stands_in_is_not_freed() {
    let machine = machine(8 * MIB, Source::Anonymous, 1);
    let vm = vm_with_half(&machine);
    let (mut vcpu, mut worker) = (vcpu(&vm, 0), worker(&vm));
    vcpu.store(BESIDE, 1).unwrap();
    let tables = machine.tables_now();
    let held = Held::new(&machine, false, |request| page_at(request, 0), |request| page_at(request, 0));
    let stored = held.during(
        || vcpu.store(AT, 9),
        || {
            let cut = worker.unmap(range(BASE, BLOCK), Budget::UNLIMITED).unwrap();
            assert_eq!((cut.is_done(), cut.changed), (true, 1), "the table is cut off at its top");
            assert_eq!(worker.reclaim(Budget::UNLIMITED).awaiting, 1);
            assert_eq!(machine.tables_now(), tables);
        },
    );
    assert_eq!((stored, machine.memory().load(7 * PAGE_SIZE)), (Ok(()), 9));
    assert_eq!(worker.reclaim(Budget::UNLIMITED).awaiting, 0);
    assert_tables_agree(&vm);
}

/// Both vCPUs have cached the page as protected. One gets its permission back; the other finds out by a fault of its own.
#[test]
fn a_stale_refusal_is_spurious_once() {
    let machine = machine(8 * MIB, Source::Anonymous, 2);
    let vm = vm_with_half(&machine);
    let mut vcpus = [vcpu(&vm, 0), vcpu(&vm, 1)];
    vcpus[0].store(AT, 1).unwrap();
    assert!(worker(&vm).write_protect(range(BASE, BLOCK), Budget::UNLIMITED).unwrap().is_done());
    let [first, second] = vcpus.each_mut().map(|vcpu| {
        assert_eq!(vcpu.load(AT), Ok(1));
        vcpu.counts()
    });
    for vcpu in &mut vcpus {
        (0..3).for_each(|value| vcpu.store(AT, value).unwrap());
    }
    let [first, second] = [vcpus[0].counts() - first, vcpus[1].counts() - second];
    assert_eq!((first.faults, first.relaxed), (1, 1));
    assert_eq!((second.faults, second.spurious), (1, 1));
}

#[test]
fn what_a_fault_lacks_is_asked_for_and_nothing_is_done() {
    let machine = machine(8 * MIB, Source::Anonymous, 1);
    let vm = vm_with_half(&machine);
    let mut entry = slat::vm::Vcpu::new(&vm, slat::host::VcpuId(0)).unwrap();
    let Outcome::NeedTables(tables) = entry.fault(AT, slat::host::Access::Read) else { panic!("no tables are there") };
    let geometry = vm.format().geometry();
    let below = geometry.root_level().get();
    assert_eq!((tables, machine.tables_now()), (below, geometry.root_tables() as u64), "the root alone is there");
    FaultEntry::top_up(&mut entry, tables.into()).unwrap();
    assert!(matches!(entry.fault(AT, slat::host::Access::Read), Outcome::Mapped { .. }));
}
