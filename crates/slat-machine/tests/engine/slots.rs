//! Slots that come, go and change while their guests run.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

use slat::addr::Gpa;
use slat::format::Format;
use slat::host::{SlotId, Translation};
use slat::vm::{Budget, Pages, SlotError};
use slat_machine::GuestError;
use slat_machine::memory::Source;

use super::common::*;
use super::stage::Stage;

const KEPT: SlotId = SlotId(0);
const MOVED: SlotId = SlotId(7);
const KEPT_BASE: u64 = 1 << 30;
/// In the same 2 MiB as the kept slot's end, so that tables are shared.
const MOVED_BASE: u64 = KEPT_BASE + 3 * MIB;

/// The slot is deleted under running guests: from then on they get NoSlot, nothing is written any more through what
/// they had cached, and the other slot does not notice.
#[test]
fn a_slot_that_is_deleted_is_gone_for_every_guest() {
    const VCPUS: u32 = 3;
    for source in [Source::Anonymous, Source::AnonymousThp] {
        let machine = machine(16 * MIB, source, VCPUS);
        let vm = vm(&machine);
        let mut worker = worker(&vm);
        worker.create_slot(KEPT, slot(KEPT_BASE, 3 * MIB, 0)).unwrap();
        let (stage, refused) = (Stage::default(), AtomicU64::new(0));
        std::thread::scope(|scope| {
            let (_curtain, refused) = (stage.curtain(), &refused);
            for id in 0..VCPUS {
                let mut value = 0;
                stage.guest(scope, &vm, id, move |vcpu| {
                    value += 1;
                    let page = (value * 37 + u64::from(id)) % 768;
                    vcpu.store(page_gpa(KEPT_BASE, page), value).unwrap();
                    match vcpu.store(page_gpa(MOVED_BASE, page), value) {
                        Ok(()) => {}
                        Err(GuestError::NoSlot(_)) => _ = refused.fetch_add(1, Relaxed),
                        Err(other) => panic!("{other}"),
                    }
                });
            }
            for round in 0..60 {
                // Where the slot's memory lies changes from round to round.
                let offset = 4 * MIB + round % 3 * 3 * MIB;
                worker.create_slot(MOVED, slot(MOVED_BASE, 3 * MIB, offset)).unwrap();
                let words = || (0..768).map(|page| machine.memory().load(offset + page * PAGE_SIZE));
                let before: Vec<_> = words().collect();
                stage.wait_until(|| !words().eq(before.iter().copied()));
                let budget = if round % 2 == 0 { Budget::entries(1) } else { Budget::UNLIMITED };
                delete_slot(&mut worker, MOVED, budget);
                let (after, seen) = (words().collect::<Vec<_>>(), refused.load(Relaxed));
                stage.wait_until(|| refused.load(Relaxed) > seen + 200);
                assert!(words().eq(after.iter().copied()), "round {round}: a write after the slot was deleted");
                worker.reclaim(Budget::UNLIMITED);
            }
        });
    }
}

#[test]
fn a_slot_that_is_being_deleted_holds_its_place() {
    let machine = machine(4 * MIB, Source::Anonymous, 1);
    let vm = vm_with_memory(&machine, KEPT_BASE);
    let (mut vcpu, mut worker) = (vcpu(&vm, 0), worker(&vm));
    for page in 0..1024 {
        vcpu.store(page_gpa(KEPT_BASE, page), page).unwrap();
    }
    let progress = worker.delete_slot(KEPT, Budget::entries(1)).unwrap();
    assert!(!progress.is_done());
    let again = slot(KEPT_BASE, 4 * MIB, 0);
    assert_eq!(worker.create_slot(SlotId(9), again), Err(SlotError::Overlaps(KEPT)));
    assert_eq!(worker.create_slot(KEPT, again), Err(SlotError::Unfinished));
    delete_slot(&mut worker, KEPT, Budget::entries(1));
    assert_eq!(vcpu.load(Gpa::new(KEPT_BASE)), Err(GuestError::NoSlot(Gpa::new(KEPT_BASE))));
    worker.create_slot(SlotId(9), again).unwrap();
    assert_eq!(vcpu.load(page_gpa(KEPT_BASE, 5)), Ok(5));
}

#[test]
fn a_read_only_slot_takes_no_writes_from_its_first_moment_on() {
    let machine = machine(4 * MIB, Source::AnonymousThp, 1);
    let vm = vm_with_memory(&machine, KEPT_BASE);
    let (mut vcpu, mut worker) = (vcpu(&vm, 0), worker(&vm));
    let at = Gpa::new(KEPT_BASE + 3 * PAGE_SIZE);
    vcpu.store(at, 1).unwrap();
    set_flags(&mut worker, KEPT, slat::vm::SlotFlags { read_only: true, log: None }, Budget::UNLIMITED);
    assert_eq!((vcpu.store(at, 2), vcpu.load(at)), (Err(GuestError::Mmio(at)), Ok(1)));
    set_flags(&mut worker, KEPT, UNLOGGED, Budget::UNLIMITED);
    assert_eq!((vcpu.store(at, 3), vcpu.load(at)), (Ok(()), Ok(3)));
}

#[test]
fn addresses_without_a_slot_and_outside_of_the_address_space_are_told_apart() {
    let machine = machine(4 * MIB, Source::Anonymous, 1);
    let vm = vm_with_memory(&machine, KEPT_BASE);
    let mut vcpu = vcpu(&vm, 0);
    let end = vm.format().geometry().address_space().end();
    for (at, error) in [
        (KEPT_BASE - 8, GuestError::NoSlot(Gpa::new(KEPT_BASE - 8))),
        (KEPT_BASE + 4 * MIB, GuestError::NoSlot(Gpa::new(KEPT_BASE + 4 * MIB))),
        (end.get(), GuestError::OutOfRange(end)),
    ] {
        assert_eq!(vcpu.load(Gpa::new(at)), Err(error));
    }
}

/// The first and the last addresses there are, through all that is done to memory.
#[test]
fn memory_at_both_ends_of_the_address_space_is_as_any_other() {
    const PAGES: u64 = 130;
    const BYTES: u64 = PAGES * PAGE_SIZE;
    let machine = machine(2 * BYTES, Source::Anonymous, 1);
    let vm = vm(&machine);
    let (mut worker, end) = (worker(&vm), vm.format().geometry().address_space().end().get());
    let ends = [(SlotId(0), 0), (SlotId(1), end - BYTES)];
    for (id, base) in ends {
        worker.create_slot(id, slot(base, BYTES, u64::from(id.0) * BYTES)).unwrap();
    }
    let mut vcpu = vcpu(&vm, 0);
    for (id, base) in ends {
        let (all, pages) = (range(base, BYTES), Pages { first: 0, count: PAGES });
        let mut fill = |value| (0..PAGES).for_each(|page| vcpu.store(page_gpa(base, page), value + page).unwrap());
        fill(1);
        set_flags(&mut worker, id, LOGGED, Budget::UNLIMITED);
        fill(2);
        let mut bitmap = bitmap_for(pages);
        assert_eq!(harvest(&mut worker, id, pages, &mut bitmap, Budget::entries(7)), Ok(true));
        assert!((0..PAGES).all(|page| is_set(&bitmap, page)));
        set_flags(&mut worker, id, UNLOGGED, Budget::UNLIMITED);
        assert!(worker.write_protect(all, Budget::UNLIMITED).unwrap().is_done());
        fill(3);
        assert_eq!(vm.statistics().leaves[0], PAGES);
        let mut invalidation = worker.invalidate(all).unwrap();
        while !invalidation.unmap(Budget::entries(9)).is_done() {}
        drop(invalidation);
        assert_eq!(vm.statistics().leaves[0], 0);
        (0..PAGES).for_each(|page| assert_eq!(vcpu.load(page_gpa(base, page)), Ok(3 + page)));
        delete_slot(&mut worker, id, Budget::entries(11));
        assert_eq!(vcpu.load(page_gpa(base, 0)), Err(GuestError::NoSlot(Gpa::new(base))));
    }
    drop(vcpu);
    tear_down(&mut worker, Budget::entries(13));
    drop(worker);
    assert_nothing_held(vm.statistics(), &machine);
}

#[test]
fn what_the_backing_says_is_what_the_guest_gets() {
    let machine = machine(4 * MIB, Source::Anonymous, 1);
    let vm = vm_with_memory(&machine, KEPT_BASE);
    let mut vcpu = vcpu(&vm, 0);
    let at = Gpa::new(KEPT_BASE + PAGE_SIZE);

    machine.inject_translation(|_| Some(Translation::Denied));
    assert!(matches!(vcpu.store(at, 1), Err(GuestError::Denied(..))));
    vcpu.entry().top_up(4).unwrap();

    let asked = Arc::new(AtomicU64::new(0));
    let count = asked.clone();
    machine.inject_translation(move |_| (count.fetch_add(1, Relaxed) < 5).then_some(Translation::Retry));
    vcpu.store(at, 2).unwrap();
    assert!(asked.load(Relaxed) > 5 && vcpu.counts().retries > 0);

    let blocked = Arc::new(AtomicU64::new(0));
    let count = blocked.clone();
    machine.inject_translation(move |request| {
        if request.may_block {
            return None;
        }
        count.fetch_add(1, Relaxed);
        Some(Translation::WouldBlock)
    });
    let other = Gpa::new(KEPT_BASE + 200 * PAGE_SIZE); // in no contiguous group with the first
    vcpu.store(other, 3).unwrap();
    assert!(blocked.load(Relaxed) > 0, "asked inside of the engine first, then outside");
    machine.clear_injections();
    assert_eq!((vcpu.load(at), vcpu.load(other)), (Ok(2), Ok(3)));
}
