//! Every allocation made to fail, one after the other: whatever an operation asks for and does not get, it says so,
//! changes nothing that it does not say, and leaks nothing.
//!
//! Of both kinds: tables, which the host gives, and memory of the program's, which this test's own allocator gives. A path of the
//! engine that takes memory it cannot be refused ends the process, which fails the test, too.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use slat::addr::{Gpa, GpaRange, HostAddress};
use slat::format::Arm64;
use slat::host::{Access, SlotId, VcpuId};
use slat::vm::{
    Budget, Collapse, Config, LogMode, NewSlot, Outcome, Pages, PrefaultError, SlotError, SlotFlags, Teardown, Vcpu,
    Vm, VmError, Worker,
};
use slat_machine::memory::{PAGE_SIZE, Source};
use slat_machine::walk::arm64::{Stage2, Vtcr};
use slat_machine::{Machine, MachineConfig};

thread_local! {
    /// Allocations by this thread that still succeed; at 0 the next one fails, and the ones after that succeed.
    static LEFT: Cell<usize> = const { Cell::new(usize::MAX) };
    static FAILED: Cell<bool> = const { Cell::new(false) };
}

struct Failing;

#[global_allocator]
static ALLOCATOR: Failing = Failing;

fn refuses() -> bool {
    let left = LEFT.try_with(Cell::get).unwrap_or(usize::MAX);
    if left == usize::MAX {
        return false;
    }
    LEFT.set(left.checked_sub(1).unwrap_or(usize::MAX));
    if left == 0 {
        FAILED.set(true);
    }
    left == 0
}

// SAFETY: everything is the system's; refusing is always allowed.
unsafe impl GlobalAlloc for Failing {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if refuses() {
            return std::ptr::null_mut();
        }
        // SAFETY: the caller's promise, passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise, passed on.
        unsafe { System.dealloc(block, layout) }
    }
}

const BASE: u64 = 1 << 30;
const BYTES: u64 = 8 << 20;
const PAGES: u64 = BYTES / PAGE_SIZE;
const SLOT: SlotId = SlotId(0);
const ALL: Budget = Budget::UNLIMITED;

type TestVm<'m> = Vm<&'m Machine, Arm64>;

fn machine(source: Source) -> Machine {
    let config = MachineConfig { table_limit: 256, ..MachineConfig::new(BYTES, source, 1) };
    Machine::new(config, Box::new(Stage2::new(Vtcr::for_ipa_bits(40).unwrap()))).unwrap()
}

fn range(first: u64, count: u64) -> GpaRange {
    GpaRange::with_len(Gpa::new(BASE + first * PAGE_SIZE), count * PAGE_SIZE).unwrap()
}

fn slot(flags: SlotFlags) -> NewSlot {
    NewSlot { range: range(0, PAGES), host: HostAddress::new(0), flags }
}

const PLAIN: SlotFlags = SlotFlags { read_only: false, log: None };
const LOGGED: SlotFlags = SlotFlags { read_only: false, log: Some(LogMode::Protect) };

/// What an operation said.
#[derive(PartialEq, Eq, Debug)]
enum Said {
    Done,
    OutOfMemory,
}

fn slot_said(result: Result<impl Sized, SlotError>) -> Said {
    match result {
        // There from before: its deletion was refused.
        Ok(_) | Err(SlotError::Exists | SlotError::Unfinished) => Said::Done,
        Err(SlotError::OutOfMemory) => Said::OutOfMemory,
        Err(error) => panic!("{error:?}"),
    }
}

/// Runs `operation` with its first, second, … allocation of the program's failing, until none fails any more; then with
/// its first, second, … table refused. How often it was refused something.
fn sweep(name: &str, source: Source, operation: impl Fn(&TestVm<'_>, &mut Worker<&TestVm<'_>>) -> Said) -> usize {
    let mut refused = 0;
    for kind in [fail_memory as fn(&Machine, usize), fail_tables] {
        for which in 0.. {
            let machine = machine(source);
            let vm = Vm::new(&machine, Arm64::new(40).unwrap(), Config { vcpus: 1, workers: 2, ..Config::default() })
                .unwrap();
            let mut worker = Worker::new(&vm).unwrap();
            worker.create_slot(SLOT, slot(PLAIN)).unwrap();
            FAILED.set(false);
            kind(&machine, which);
            let said = operation(&vm, &mut worker);
            LEFT.set(usize::MAX);
            machine.clear_injections();
            let failed = FAILED.get();
            // Once more, with everything there: what was refused has left it possible.
            assert_eq!(operation(&vm, &mut worker), Said::Done, "{name}: again, after refusal {which}");
            assert_eq!(vm.statistics().tables, machine.tables_now(), "{name}: refusal {which}");
            while worker.teardown(ALL) == Teardown::More {}
            drop(worker);
            assert_eq!((machine.tables_now(), vm.statistics().awaiting), (0, 0), "{name}: refusal {which} leaks");
            assert!(vm.statistics().leaves.iter().all(|&leaves| leaves == 0), "{name}: refusal {which} miscounts");
            if !failed {
                assert_eq!(said, Said::Done, "{name}: nothing was refused");
                break;
            }
            refused += 1;
        }
    }
    println!("allocations|{name}|{refused}");
    refused
}

fn fail_memory(machine: &Machine, which: usize) {
    // The machine's own lists of frames grow here rather than later.
    let tables: Vec<_> = (0..100).map_while(|_| machine.physical().tables().allocate(1)).collect();
    tables.into_iter().for_each(|table| machine.physical().tables().free(table, 1));
    LEFT.set(which);
}

fn fail_tables(machine: &Machine, which: usize) {
    let left = Arc::new(AtomicUsize::new(which + 1));
    machine.inject_allocation(move |_| {
        let refuses = left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)) == Ok(1);
        if refuses {
            FAILED.set(true);
        }
        refuses
    });
}

fn delete(worker: &mut Worker<&TestVm<'_>>, id: SlotId) -> Said {
    for _ in 0..4 {
        match worker.delete_slot(id, ALL) {
            Ok(progress) if progress.is_done() => return Said::Done,
            // The walk is over, and there was no memory for the snapshot without the slot.
            Ok(_) => {}
            Err(SlotError::OutOfMemory) => return Said::OutOfMemory,
            Err(error) => panic!("{error:?}"),
        }
    }
    panic!("a deletion that does not end")
}

#[test]
fn slots_and_logs_that_do_not_fit_change_nothing() {
    let refused = sweep("create, log, move and delete a slot", Source::Anonymous, |_, worker| {
        let log_on = slot_said(worker.set_flags(SLOT, LOGGED, ALL));
        let log_off = slot_said(worker.set_flags(SLOT, PLAIN, ALL));
        let other = SlotId(1);
        let place = NewSlot { range: range(4 * PAGES, PAGES), ..slot(LOGGED) };
        let created = slot_said(worker.create_slot(other, place));
        let deleted = if created == Said::Done { delete(worker, other) } else { Said::Done };
        while worker.reclaim(ALL).awaiting > 0 {}
        let all_done = [log_on, log_off, created, deleted].iter().all(|said| *said == Said::Done);
        if all_done { Said::Done } else { Said::OutOfMemory }
    });
    assert!(refused >= 4, "{refused} refusals");
}

/// Tries `change` with its first, second, … allocation failing, until it is done; `check` looks after each refusal.
fn refused_until_done(mut change: impl FnMut() -> bool, mut check: impl FnMut()) -> usize {
    for which in 0.. {
        FAILED.set(false);
        LEFT.set(which);
        let is_done = change();
        LEFT.set(usize::MAX);
        if is_done {
            return which;
        }
        assert!(FAILED.get(), "nothing was refused");
        check();
    }
    unreachable!("some number of allocations is enough");
}

/// As many as share one allocation of the engine's, and one more: it is divided, and put together again.
#[test]
fn one_of_many_slots_comes_or_goes_or_nothing_has_changed() {
    const SLOTS: u64 = 64;
    let machine = machine(Source::Anonymous);
    let vm = Vm::new(&machine, Arm64::new(40).unwrap(), Config { vcpus: 1, workers: 1, ..Config::default() }).unwrap();
    let (mut worker, mut vcpu) = (Worker::new(&vm).unwrap(), Vcpu::new(&vm, VcpuId(0)).unwrap());
    vcpu.top_up(8).unwrap();
    let page = |id: u64| if id == SLOTS { SLOTS + 1 } else { 2 * id };
    let slot = |id| NewSlot { range: range(page(id), 1), host: HostAddress::new(id * PAGE_SIZE), flags: PLAIN };
    (0..SLOTS).for_each(|id| worker.create_slot(SlotId(id as u32), slot(id)).unwrap());
    let mut check = |there: std::ops::Range<u64>, coming_or_going: Option<u64>| {
        for id in (0..=SLOTS).filter(|id| Some(*id) != coming_or_going) {
            let outcome = vcpu.fault(range(page(id), 1).start(), Access::Read);
            assert_eq!(outcome != Outcome::NoSlot, there.contains(&id), "slot {id}: {outcome:?}");
        }
    };
    let is_done = |result: Result<bool, SlotError>| {
        assert!(matches!(result, Ok(_) | Err(SlotError::OutOfMemory)), "{result:?}");
        result.unwrap_or(false)
    };

    let create = || is_done(worker.create_slot(SlotId(SLOTS as u32), slot(SLOTS)).map(|()| true));
    assert!(refused_until_done(create, || check(0..SLOTS, None)) > 10, "three orders of slots, each in two parts");
    check(0..SLOTS + 1, None);
    for id in 0..SLOTS {
        let delete = || is_done(worker.delete_slot(SlotId(id as u32), ALL).map(|progress| progress.is_done()));
        assert!(refused_until_done(delete, || check(id + 1..SLOTS + 1, Some(id))) > 0);
        check(id + 1..SLOTS + 1, None);
    }
    assert_eq!(worker.create_slot(SlotId(0), slot(0)), Ok(()), "its place is free");
}

#[test]
fn tables_that_are_missing_are_asked_for_and_nothing_is_changed() {
    let refused = sweep("fault", Source::Anonymous, |vm, _| {
        let mut vcpu = Vcpu::new(vm, VcpuId(0)).unwrap();
        loop {
            match vcpu.fault(Gpa::new(BASE), Access::Write) {
                Outcome::NeedTables(tables) if vcpu.top_up(tables.into()).is_err() => return Said::OutOfMemory,
                Outcome::NeedTables(_) => assert_eq!(vcpu.lookup(Gpa::new(BASE)), None),
                _ => return Said::Done,
            }
        }
    });
    assert!(refused >= 2, "{refused} refusals");
}

#[test]
fn range_operations_without_tables_go_on_with_less() {
    for source in [Source::Anonymous, Source::AnonymousThp] {
        let refused = sweep("prefault, split, harvest, collapse", source, |_, worker| {
            let prefaulted = match worker.prefault(range(0, PAGES), Access::Write, ALL) {
                Err(PrefaultError::OutOfMemory) => Said::OutOfMemory,
                other => {
                    assert!(other.unwrap().is_done());
                    Said::Done
                }
            };
            let topped_up = if worker.top_up(4).is_ok() { Said::Done } else { Said::OutOfMemory };
            let _ = worker.write_protect(range(7, 5), ALL).unwrap();
            let _ = worker.unmap(range(600, 3), ALL).unwrap();
            let logged = slot_said(worker.set_flags(SLOT, LOGGED, ALL));
            if logged == Said::Done {
                let mut bitmap = [0; PAGES as usize / 64];
                let _ = worker.harvest(SLOT, Pages { first: 0, count: PAGES }, &mut bitmap, ALL).unwrap();
            }
            let unlogged = slot_said(worker.set_flags(SLOT, PLAIN, ALL));
            let _ = worker.collapse(range(0, PAGES), Collapse::InPlace, ALL).unwrap();
            while worker.reclaim(ALL).awaiting > 0 {}
            let all_done = [prefaulted, topped_up, logged, unlogged].iter().all(|said| *said == Said::Done);
            if all_done { Said::Done } else { Said::OutOfMemory }
        });
        assert!(refused > 0, "{refused} refusals");
    }
}

#[test]
fn a_vm_that_does_not_fit_is_an_error() {
    let machine = machine(Source::Anonymous);
    for which in 0.. {
        FAILED.set(false);
        LEFT.set(which);
        let made = Vm::new(&machine, Arm64::new(40).unwrap(), Config { vcpus: 2, workers: 2, ..Config::default() });
        LEFT.set(usize::MAX);
        if !FAILED.get() {
            made.unwrap();
            assert!(which > 2, "a VM takes {which} allocations");
            break;
        }
        assert_eq!(made.map(drop), Err(VmError::OutOfMemory), "allocation {which}");
        assert_eq!(machine.tables_now(), 0, "allocation {which}");
    }
}
