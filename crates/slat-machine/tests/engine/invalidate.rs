//! The host moves memory about under running guests: each page has a place of its own, and the places change.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{Acquire, Release};

use slat::addr::{GpaRange, Hpa, Level};
use slat::host::{MemoryType, Permissions, Run, SlotId, Translation};
use slat::vm::Budget;
use slat_machine::Machine;
use slat_machine::memory::Source;
use slat_machine::physical::GUEST_BASE;

use super::common::*;
use super::stage::Stage;

const BASE: u64 = (2 << 30) - MIB;
const PAGES: u64 = 256;
/// More places than pages: a page moves to one that is free.
const PLACES: u64 = PAGES + 8;
const VCPUS: u32 = 3;
const MOVED_AWAY: u64 = u64::MAX;

/// Where each page lies now, in pages of the machine's memory.
struct Places(Vec<AtomicU64>);

impl Places {
    fn back(machine: &Machine) -> Arc<Self> {
        let places = Arc::new(Self((0..PAGES).map(AtomicU64::new).collect()));
        let asked = places.clone();
        machine.inject_translation(move |request| {
            let place = asked.0[(request.host.get() / PAGE_SIZE) as usize].load(Acquire);
            Some(Translation::Run(Run {
                guest: GpaRange::around(request.gpa, PAGE_SIZE),
                hpa: Hpa::new(GUEST_BASE.get() + place * PAGE_SIZE),
                largest: Level::PAGE,
                permissions: Permissions::ALL,
                memory: MemoryType::Normal,
            }))
        });
        places
    }
}

/// A page's words.
fn page_of(word: u64) -> Vec<u64> {
    vec![word; (PAGE_SIZE / 8) as usize]
}

/// Moves `count` pages from `first` on to free places, and fills what they left with a mark that no guest writes.
fn move_pages(
    worker: &mut TestWorker<'_, '_>,
    machine: &Machine,
    places: &Places,
    free: &mut Vec<u64>,
    (first, count): (u64, u64),
) {
    let mut invalidation = worker.invalidate(range(BASE + first * PAGE_SIZE, count * PAGE_SIZE)).unwrap();
    while !invalidation.unmap(Budget::entries(2)).is_done() {}
    for page in first..first + count {
        let (from, to) = (places.0[page as usize].load(Acquire), free.remove(0));
        let mut words = page_of(0);
        machine.memory().read_page(from, &mut words);
        machine.memory().write_page(to, &words);
        machine.memory().write_page(from, &page_of(MOVED_AWAY));
        places.0[page as usize].store(to, Release);
        free.push(from);
    }
}

#[test]
fn pages_that_move_keep_what_guests_wrote_and_the_old_places_are_left_alone() {
    let machine = machine(PLACES * PAGE_SIZE, Source::Anonymous, VCPUS);
    let places = Places::back(&machine);
    let vm = vm(&machine);
    let mut worker = worker(&vm);
    worker.create_slot(SlotId(0), slot(BASE, PAGES * PAGE_SIZE, 0)).unwrap();
    let mut free: Vec<_> = (PAGES..PLACES).collect();
    for &place in &free {
        machine.memory().write_page(place, &page_of(MOVED_AWAY));
    }
    let stage = Stage::default();
    std::thread::scope(|scope| {
        let _curtain = stage.curtain();
        for id in 0..VCPUS {
            let mut written = vec![0; PAGES as usize];
            let mut value = 0;
            stage.guest(scope, &vm, id, move |vcpu| {
                value += 1;
                // Each vCPU has a word of its own in every page.
                let page = value * 29 % PAGES;
                let gpa = page_gpa(BASE, page).checked_add(8 * u64::from(id)).unwrap();
                assert_eq!(vcpu.load(gpa), Ok(written[page as usize]), "page {page} of vCPU {id}");
                vcpu.store(gpa, value).unwrap();
                written[page as usize] = value;
            });
        }
        for round in 0..300 {
            stage.let_guests_act(20);
            let first = round * 53 % PAGES;
            move_pages(&mut worker, &machine, &places, &mut free, (first, (1 + round % 5).min(PAGES - first)));
            let clean = |place| (0..64).all(|word| machine.memory().load(place * PAGE_SIZE + word * 8) == MOVED_AWAY);
            assert!(free.iter().all(|&place| clean(place)), "round {round}: a write to memory that was taken back");
        }
    });
}

#[test]
fn nothing_is_mapped_while_an_invalidation_is_open_and_neighbours_are() {
    let machine = machine(4 * MIB, Source::Anonymous, 1);
    let vm = vm_with_memory(&machine, BASE);
    let (mut vcpu, mut worker) = (vcpu(&vm, 0), worker(&vm));
    vcpu.store(page_gpa(BASE, 3), 3).unwrap();
    let mut invalidation = worker.invalidate(range(BASE + 3 * PAGE_SIZE, PAGE_SIZE)).unwrap();
    assert!(invalidation.unmap(Budget::UNLIMITED).is_done());
    for _ in 0..10 {
        let outcome = vcpu.entry().fault(page_gpa(BASE, 3), slat::host::Access::Read);
        assert_eq!(outcome, slat::vm::Outcome::Retry);
    }
    vcpu.store(page_gpa(BASE, 4), 4).unwrap();
    drop(invalidation);
    assert_eq!(vcpu.load(page_gpa(BASE, 3)), Ok(3));
}
