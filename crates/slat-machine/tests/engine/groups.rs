//! Contiguous groups under guests whose TLBs keep one entry for each: what a guest sees is what it wrote.

use slat::addr::Gpa;
use slat::host::SlotId;
use slat::vm::Budget;
use slat_machine::memory::Source;

use super::common::*;
use super::stage::Stage;

const BASE: u64 = 4 << 30;
const SLOT: SlotId = SlotId(0);
const PAGES: u64 = 1024;

#[test]
fn a_set_is_cached_once_and_dropped_when_a_part_of_it_goes() {
    let machine = machine(4 * MIB, Source::Anonymous, 1);
    let vm = vm_with_memory(&machine, BASE);
    let mut vcpu = vcpu(&vm, 0);
    let pages = 2 * group();
    (0..pages).for_each(|page| vcpu.store(page_gpa(BASE, page), page).unwrap());
    assert_eq!((vcpu.counts().mapped, vm.statistics().groups, vm.statistics().leaves[0]), (2, 2, pages));
    step_over(range(BASE + 5 * PAGE_SIZE, PAGE_SIZE), |part| worker(&vm).unmap(part, Budget::UNLIMITED));
    let before = vcpu.counts();
    (0..pages).for_each(|page| assert_eq!(vcpu.load(page_gpa(BASE, page)), Ok(page)));
    assert_eq!((vcpu.counts() - before).faults, 1, "the page that went");
}

/// Writers beside unmapping of parts, logging, clearing of parts and harvests.
#[test]
fn a_guest_sees_its_memory_and_no_write_is_lost_whatever_becomes_of_its_groups() {
    const VCPUS: u32 = 2;
    let machine = machine(PAGES * PAGE_SIZE, Source::Anonymous, VCPUS);
    let vm = vm_with_memory(&machine, BASE);
    let stage = Stage::default();
    std::thread::scope(|scope| {
        let _curtain = stage.curtain();
        stage.writers(scope, &vm, (BASE, PAGES), (VCPUS, 7));
        let mut worker = worker(&vm);
        for round in 0..rounds(60) {
            let part = range(BASE + round * 17 % PAGES * PAGE_SIZE, 3 * PAGE_SIZE);
            let part = part.intersection(range(BASE, PAGES * PAGE_SIZE)).unwrap();
            step_over(part, |part| worker.unmap(part, Budget::UNLIMITED));
            stage.let_guests_act(1);
            let flags = if round % 2 == 0 { LOGGED } else { LOGGED_INITIALLY_SET };
            set_flags(&mut worker, SLOT, flags, Budget::entries(100));
            let named = vec![0x0000_ff00_0002_0001; (PAGES / 64) as usize];
            clear_dirty(&mut worker, SLOT, all_pages(&machine), &named, Budget::UNLIMITED).unwrap();
            stage.let_guests_act(1);
            let mut bitmap = bitmap_for(all_pages(&machine));
            harvest(&mut worker, SLOT, all_pages(&machine), &mut bitmap, Budget::UNLIMITED).unwrap();
            set_flags(&mut worker, SLOT, UNLOGGED, Budget::UNLIMITED);
            step_over(range(BASE, PAGES * PAGE_SIZE), |part| worker.unmap(part, Budget::UNLIMITED));
            worker.reclaim(Budget::UNLIMITED);
            worker.top_up(8).unwrap();
        }
    });
    let statistics = vm.statistics();
    assert!(statistics.groups > 0 && statistics.dissolutions > 0, "{statistics:?}");
}

/// What a harvest reported and nobody wrote to again is what the memory holds: a copy made by it is complete.
#[test]
fn a_copy_by_harvests_of_memory_in_groups_is_complete() {
    const VCPUS: u32 = 2;
    let machine = machine(PAGES * PAGE_SIZE, Source::Anonymous, VCPUS);
    let vm = vm_with_memory(&machine, BASE);
    let mut vcpus: Vec<_> = (0..VCPUS).map(|id| vcpu(&vm, id)).collect();
    (0..PAGES).for_each(|page| vcpus[0].store(page_gpa(BASE, page), page).unwrap());
    assert_eq!(vm.statistics().groups, PAGES / group());
    let mut worker = worker(&vm);
    set_flags(&mut worker, SLOT, LOGGED_INITIALLY_SET, Budget::UNLIMITED);
    let mut copy = vec![u64::MAX; PAGES as usize];
    for round in 1..=8u64 {
        let mut bitmap = bitmap_for(all_pages(&machine));
        std::thread::scope(|scope| {
            for (id, vcpu) in vcpus.iter_mut().enumerate() {
                scope.spawn(move || {
                    for page in (id as u64..PAGES).step_by(VCPUS as usize * (1 + round as usize % 5)) {
                        vcpu.store(page_gpa(BASE, page), page + round).unwrap();
                    }
                });
            }
            harvest(&mut worker, SLOT, all_pages(&machine), &mut bitmap, Budget::UNLIMITED).unwrap();
            let dirty = (0..PAGES).filter(|page| is_set(&bitmap, *page));
            dirty.for_each(|page| copy[page as usize] = machine.memory().load(page * PAGE_SIZE));
        });
    }
    let mut bitmap = bitmap_for(all_pages(&machine));
    assert_eq!(harvest(&mut worker, SLOT, all_pages(&machine), &mut bitmap, Budget::UNLIMITED), Ok(true));
    for page in 0..PAGES {
        let now = machine.memory().load(page * PAGE_SIZE);
        assert!(is_set(&bitmap, page) || copy[page as usize] == now, "page {page} was written to and not reported");
    }
    assert!(vm.statistics().dissolutions > 0);
    assert_eq!(vcpus[1].load(Gpa::new(BASE)), Ok(machine.memory().load(0)));
}
