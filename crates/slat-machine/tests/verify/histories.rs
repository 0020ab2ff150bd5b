//! Histories of real threads, explained page by page by the specification.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use slat::addr::{Gpa, GpaRange, HostAddress, Level};
use slat::host::{Access, SlotId, VcpuId};
use slat::vm::{Budget, Collapse, Config, LogMode, NewSlot, Outcome, Pages, Progress, SlotFlags, Vcpu, Vm, Worker};
use slat_machine::memory::{PAGE_SIZE, Source};
use slat_machine::{Machine, MachineConfig};
use slat_spec::{Call, Fault, Operation, Page, explain};

use crate::play::Dice;
use crate::subject::{Arm, Subject, X86};

const BASE: u64 = 1 << 30;
const SLOT: SlotId = SlotId(0);
const BLOCK_PAGES: u64 = 512;
/// Pages that the threads meet at: neighbours, and the last one of the block.
const MET: [u64; 4] = [0, 1, 2, 511];
const GUESTS: u32 = 2;
const STEPS: usize = 60;

type PlainVm<'m, S> = Vm<&'m Machine, <S as Subject>::Format>;

/// The clock of all threads, and what each page has seen.
#[derive(Default)]
struct Notes {
    clock: AtomicU64,
    calls: Mutex<[Vec<Call>; MET.len()]>,
}

impl Notes {
    fn now(&self) -> u64 {
        self.clock.fetch_add(1, Ordering::SeqCst)
    }

    /// Times a call, and notes what it did to each page.
    fn call<R>(&self, call: impl FnOnce() -> R, operations: impl Fn(&R, u64) -> Vec<Operation>) -> R {
        let from = self.now();
        let result = call();
        let to = self.now();
        let mut calls = self.calls.lock().unwrap();
        for (page, calls) in MET.iter().zip(calls.iter_mut()) {
            calls.extend(operations(&result, *page).into_iter().map(|operation| Call { from, to, operation }));
        }
        result
    }
}

fn range(first: u64, count: u64) -> GpaRange {
    GpaRange::with_len(Gpa::new(BASE + first * PAGE_SIZE), count * PAGE_SIZE).unwrap()
}

/// What a fault on page `faulted` that came to `outcome` did to `page`.
fn faulted(logged: bool, faulted: u64, access: Access, outcome: Outcome, page: u64) -> Vec<Operation> {
    let is_here = page == faulted;
    Fault { access, outcome, is_here, logged }.operations(|level| level > Level::PAGE || is_here).collect()
}

fn guest<S: Subject>(vm: &PlainVm<'_, S>, notes: &Notes, id: u32, seed: u64, logged: bool) {
    let mut vcpu = Vcpu::new(vm, VcpuId(id)).unwrap();
    let mut dice = Dice(seed ^ u64::from(id + 1) << 32);
    for _ in 0..STEPS {
        let page = MET[dice.below(MET.len() as u64) as usize];
        let gpa = Gpa::new(BASE + page * PAGE_SIZE);
        vcpu.top_up(4).unwrap();
        match dice.below(4) {
            0 => {
                let look = |seen: &Option<slat::vm::Mapping>, other| {
                    let looked = Operation::Looked(seen.map(|mapping| mapping.permissions.write()));
                    if other == page { vec![looked] } else { Vec::new() }
                };
                notes.call(|| vcpu.lookup(gpa), look);
            }
            roll => {
                let access = if roll == 1 { Access::Read } else { Access::Write };
                let _ = notes
                    .call(|| vcpu.fault(gpa, access), |outcome, other| faulted(logged, page, access, *outcome, other));
            }
        }
    }
}

fn worker<S: Subject>(vm: &PlainVm<'_, S>, notes: &Notes, seed: u64, logged: bool) {
    let mut worker = Worker::new(vm).unwrap();
    let mut dice = Dice(seed);
    for _ in 0..STEPS {
        let first = MET[dice.below(3) as usize];
        let count = 1 + dice.below(3 - first);
        let meant = |page: u64| (first..first + count).contains(&page);
        let on_range = |progress: &Progress, page: u64, operation: fn(bool) -> Operation| {
            let met = meant(page) || progress.widened;
            if met { vec![operation(meant(page))] } else { Vec::new() }
        };
        worker.top_up(dice.below(3) as usize).unwrap();
        match dice.below(5) {
            0 => {
                _ = notes.call(
                    || worker.unmap(range(first, count), Budget::UNLIMITED).unwrap(),
                    |progress, page| on_range(progress, page, |meant| Operation::Unmapped { meant }),
                )
            }
            1 => {
                _ = notes.call(
                    || worker.write_protect(range(first, count), Budget::UNLIMITED).unwrap(),
                    |progress, page| on_range(progress, page, |meant| Operation::Protected { meant }),
                )
            }
            2 | 3 if logged => harvest::<S>(&mut worker, notes),
            2 => {
                _ = notes.call(
                    || worker.collapse(range(0, BLOCK_PAGES), Collapse::InPlace, Budget::UNLIMITED).unwrap(),
                    |_, _| vec![Operation::Collapsed],
                )
            }
            3 => {
                _ = notes.call(
                    || worker.collapse(range(0, BLOCK_PAGES), Collapse::Lazily, Budget::UNLIMITED).unwrap(),
                    |_, _| vec![Operation::Dropped],
                )
            }
            _ => {
                _ = notes.call(
                    || worker.unmap(range(0, BLOCK_PAGES), Budget::UNLIMITED).unwrap(),
                    |_, _| vec![Operation::Unmapped { meant: true }],
                )
            }
        }
        let _ = worker.reclaim(Budget::UNLIMITED);
    }
}

fn harvest<S: Subject>(worker: &mut Worker<&PlainVm<'_, S>>, notes: &Notes) {
    let mut bitmap = [0; (BLOCK_PAGES / 64) as usize];
    let pages = Pages { first: 0, count: BLOCK_PAGES };
    let named = |bitmap: &[u64; (BLOCK_PAGES / 64) as usize], page: u64| {
        let dirty = bitmap[(page / 64) as usize] >> (page % 64) & 1 != 0;
        let secured = dirty.then_some(Operation::Secured);
        [Operation::Harvested { dirty }].into_iter().chain(secured).collect()
    };
    let whole = || {
        assert!(worker.harvest(SLOT, pages, &mut bitmap, Budget::UNLIMITED).unwrap().is_done());
        bitmap
    };
    notes.call(whole, named);
}

fn explained<S: Subject>(logged: bool, seed: u64) -> usize {
    let config = MachineConfig { table_limit: 512, ..MachineConfig::new(2 << 20, Source::AnonymousThp, GUESTS) };
    let machine = Machine::new(config, S::boxed_walker()).unwrap();
    let vm = Vm::new(&machine, S::format(), Config { vcpus: GUESTS, workers: 4, ..Config::default() }).unwrap();
    let flags = SlotFlags { read_only: false, log: logged.then_some(LogMode::Protect) };
    let slot = NewSlot { range: range(0, BLOCK_PAGES), host: HostAddress::new(0), flags };
    Worker::new(&vm).unwrap().create_slot(SLOT, slot).unwrap();
    let notes = Notes::default();
    std::thread::scope(|scope| {
        let (vm, notes) = (&vm, &notes);
        (0..GUESTS).for_each(|id| _ = scope.spawn(move || guest::<S>(vm, notes, id, seed, logged)));
        scope.spawn(move || worker::<S>(vm, notes, seed, logged));
        scope.spawn(move || worker::<S>(vm, notes, !seed, logged));
    });
    let calls = notes.calls.into_inner().unwrap();
    for (page, calls) in MET.iter().zip(&calls) {
        if let Err(unexplained) = explain(Page::new(logged), calls) {
            let near = unexplained.longest.saturating_sub(12);
            let calls: String =
                unexplained.calls.iter().skip(near).take(40).map(|call| format!("  {call:?}\n")).collect();
            panic!("{} page {page}, logged: {logged}, seed {seed}: {unexplained}; there:\n{calls}", S::NAME);
        }
    }
    calls.iter().map(Vec::len).sum()
}

fn all_explained<S: Subject>() {
    let calls: usize = (0..30).map(|seed| explained::<S>(seed % 2 == 0, seed)).sum();
    println!("histories|{}|30|{calls}", S::NAME);
}

#[test]
fn the_specification_explains_histories_of_threads_on_arm64() {
    all_explained::<Arm>();
}

#[test]
fn the_specification_explains_histories_of_threads_on_ept() {
    all_explained::<X86>();
}
