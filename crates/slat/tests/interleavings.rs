//! Interleavings that a review found to break rules, each replayed step by step: the museum's first rooms.

mod common;

use common::*;
use slat::addr::Level;
use slat::format::{Arm64, Arm64Hd, Format, Kind};
use slat::host::*;
use slat::vm::*;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};

const BASE: u64 = 0x4000_0000;
const ALL: Budget = Budget::UNLIMITED;

/// A VM whose slot is mapped by pages.
fn stage(len: u64) -> (Arc<TestVm>, Worker<Arc<TestVm>>, Vcpu<Arc<TestVm>>) {
    let stage = vm_with_slot(BASE, len);
    stage.0.host().translate_with(|_, request| Translation::Run(Run { largest: Level::PAGE, ..run(request) }));
    stage
}

fn pages(first: u64, count: u64) -> Pages {
    Pages { first, count }
}

fn write(vcpu: &mut Vcpu<Arc<TestVm>>, page: u64) -> Outcome {
    vcpu.fault(gpa(BASE + page * PAGE), Access::Write)
}

/// Another worker cuts the table off while a removal holds one of its entries, and a fault links a new table in its
/// place: the removal goes on there, in another table at the next address.
#[test]
fn r8_a_removal_does_not_take_a_new_table_for_the_one_it_began_in() {
    let (vm, mut first, mut vcpu) = stage(BLOCK);
    let _ = (write(&mut vcpu, 5), write(&mut vcpu, 6));
    let mut second = Worker::new(vm.clone()).unwrap();
    let mut other = self::vcpu(&vm, 1);
    let mut locks = 0;
    set_hook(move |op| {
        if matches!(op, Op::CompareExchange(_, Arm64::LOCKED)) {
            locks += 1;
            if locks == 2 {
                // Page 5 is locked; page 6 changes under the removal's eyes, twice, which makes it walk again.
                assert!(second.write_protect(range(BASE + 6 * PAGE, PAGE), ALL).unwrap().is_done());
            }
            if locks == 3 {
                assert!(matches!(write(&mut other, 6), Outcome::Relaxed { .. }));
            }
        }
        if locks < 3 || op != Op::Words {
            return true;
        }
        assert!(second.unmap(range(BASE, BLOCK), ALL).unwrap().is_done());
        assert!(matches!(write(&mut other, 6), Outcome::Mapped { .. }));
        false
    });
    assert!(first.unmap(range(BASE + 5 * PAGE, 2 * PAGE), ALL).unwrap().is_done());
    assert_eq!(entry(&vm, BASE + 6 * PAGE).2, Kind::Empty, "not left locked");
    while first.teardown(ALL) != Teardown::Done {}
    assert_eq!(vm.statistics().leaves, [0; Level::COUNT]);
    drop(vcpu);
}

/// A log that starts with all pages marked needs no walk; still, a fault that found no log may publish until the event.
#[test]
fn r5_an_initially_set_log_is_not_read_before_every_fault_knows_of_it() {
    let (vm, mut worker, mut vcpu) = stage(BLOCK);
    let _ = write(&mut vcpu, 9); // the tables are there
    let (entered, inside) = mpsc::channel();
    let (go, gone) = mpsc::channel::<()>();
    let gone = Mutex::new(gone);
    vm.host().translate_with(move |_, request| {
        entered.send(()).unwrap();
        gone.lock().unwrap().recv().unwrap();
        Translation::Run(Run { largest: Level::PAGE, ..run(request) })
    });
    let fault = std::thread::spawn(move || write(&mut vcpu, 0));
    inside.recv().unwrap(); // it has its ticket, and has seen a slot without a log

    let (published, reached) = mpsc::channel();
    let (resume, resumed) = mpsc::channel::<()>();
    let enabler = std::thread::spawn(move || {
        set_hook(move |op| {
            if op != Op::Add(1 << 16) {
                return true;
            }
            published.send(()).unwrap(); // the snapshot, but not yet the event
            resumed.recv().unwrap();
            false
        });
        set_flags(&mut worker, INITIALLY_SET);
        worker
    });
    reached.recv().unwrap();
    let mut other = Worker::new(vm.clone()).unwrap();
    let early = other.harvest(SlotId(0), pages(0, 512), &mut [0; 8], ALL);
    assert_eq!(early, Err(LogError::Unfinished));
    go.send(()).unwrap();
    let _ = fault.join().unwrap();
    resume.send(()).unwrap();
    let mut worker = enabler.join().unwrap();
    let (dirty, harvest) = harvest(&mut worker, pages(0, 512));
    assert_eq!((dirty.len(), harvest.complete), (512, true));
    assert!(!mapping(&vm, BASE).is_some_and(|(_, _, writable)| writable), "writable, and unmarked");
    vm.host().translate_with(|_, _| Translation::Denied);
}

/// While a worker flushes at the end of its walk, another one finishes the walk, turns the log off, and on again.
#[test]
fn r6_a_walk_that_was_finished_and_begun_anew_by_another_worker_is_not_taken_for_ones_own() {
    let (vm, mut first, mut vcpu) = stage(BLOCK);
    let _ = (write(&mut vcpu, 0), write(&mut vcpu, 1));
    let state = Mutex::new(Some((Worker::new(vm.clone()).unwrap(), vcpu)));
    vm.host().on_flush(move |_, _| {
        let Some((mut second, mut vcpu)) = state.try_lock().ok().and_then(|mut state| state.take()) else { return };
        set_flags(&mut second, LOGGED);
        set_flags(&mut second, PLAIN);
        assert!(matches!(write(&mut vcpu, 1), Outcome::Relaxed { .. }));
        assert!(!second.set_flags(SlotId(0), LOGGED, Budget::entries(1)).unwrap().is_done());
    });
    let _ = first.set_flags(SlotId(0), LOGGED, ALL).unwrap();
    let early = first.harvest(SlotId(0), pages(0, 512), &mut [0; 8], ALL);
    assert_eq!(early, Err(LogError::Unfinished), "the new log's walk is not over");
    set_flags(&mut first, LOGGED);
    assert!(!mapping(&vm, BASE + PAGE).unwrap().2, "armed, writable, unmarked");
}

/// As above, with deletions: the slot is deleted, made again elsewhere, populated, and its deletion begun.
#[test]
fn r6_a_deletion_that_another_worker_has_begun_anew_is_not_finished_early() {
    let (vm, mut first, mut vcpu) = stage(BLOCK);
    let _ = write(&mut vcpu, 0);
    let (mut second, mut other) = (Worker::new(vm.clone()).unwrap(), self::vcpu(&vm, 1));
    let elsewhere = BASE + GIB;
    let mut walked = false;
    set_hook(move |op| {
        walked |= matches!(op, Op::CompareExchange(_, Arm64::LOCKED));
        if !walked || op != Op::CompareExchange(0, 1) {
            return true; // until the slots are locked again, after the walk
        }
        while !second.delete_slot(SlotId(0), ALL).unwrap().is_done() {}
        second.create_slot(SlotId(0), slot(elsewhere, BLOCK - PAGE)).unwrap();
        for page in 0..4 {
            assert!(matches!(other.fault(gpa(elsewhere + page * PAGE), Access::Write), Outcome::Mapped { .. }));
        }
        assert!(!second.delete_slot(SlotId(0), Budget::entries(1)).unwrap().is_done());
        false
    });
    let _ = first.delete_slot(SlotId(0), ALL).unwrap();
    let new = NewSlot { host: slat::addr::HostAddress::new(64 << 20), ..slot(elsewhere, BLOCK - PAGE) };
    assert_eq!(first.create_slot(SlotId(7), new), Err(SlotError::Overlaps(SlotId(0))), "its leaves are still there");
    while !first.delete_slot(SlotId(0), ALL).unwrap().is_done() {}
    assert_eq!(first.create_slot(SlotId(7), new), Ok(()));
    assert_eq!(mapping(&vm, elsewhere + 3 * PAGE), None);
    drop(vcpu);
}

/// Two workers share a region of the log: while one has cleared the summary bit and not put it back, the other looks.
#[test]
fn r5_complete_is_not_said_while_a_neighbour_takes_marks() {
    let (vm, mut first, mut vcpu) = stage(BLOCK);
    set_flags(&mut first, LOGGED);
    let _ = (write(&mut vcpu, 150), write(&mut vcpu, 3));
    let mut second = Worker::new(vm.clone()).unwrap();
    let seen = Arc::new(Mutex::new(None));
    let (result, mut cleared) = (seen.clone(), false);
    set_hook(move |op| {
        cleared |= matches!(op, Op::And(kept) if kept.count_ones() == 63);
        if !cleared || op != Op::Load {
            return true;
        }
        *result.lock().unwrap() = Some(harvest(&mut second, pages(100, 100)));
        false
    });
    assert!(first.clear_dirty(SlotId(0), pages(0, 8), &[0xff], ALL).unwrap().is_done());
    let (dirty, during) = seen.lock().unwrap().take().unwrap();
    assert!(!during.complete || dirty == [150], "{dirty:?} {during:?}");
    assert_eq!(harvest(&mut first, pages(100, 100)).0, [150]);
}

#[test]
fn r5_complete_is_about_the_pages_asked_for() {
    let (_vm, mut worker, mut vcpu) = stage(BLOCK);
    set_flags(&mut worker, LOGGED);
    let _ = write(&mut vcpu, 150);
    assert!(harvest(&mut worker, pages(0, 100)).1.complete, "the mark of a neighbour does not matter");
    assert_eq!(harvest(&mut worker, pages(100, 100)).0, [150]);
}

#[test]
fn r5_a_harvest_goes_on_with_the_rest_of_its_bitmap_wherever_the_slot_begins() {
    let (vm, mut worker, mut vcpu) = vm_with_slot(BASE + 77 * PAGE, 3000 * PAGE);
    vm.host().translate_with(|_, request| Translation::Run(Run { largest: Level::PAGE, ..run(request) }));
    vcpu.top_up(20).unwrap();
    set_flags(&mut worker, LOGGED);
    let written = [0, 434, 435, 1000, 2047, 2999];
    for page in written {
        assert!(matches!(vcpu.fault(gpa(BASE + (77 + page) * PAGE), Access::Write), Outcome::Mapped { .. }));
    }
    let (mut bitmap, mut at, mut calls) = ([0; 47], 0, 0);
    loop {
        let rest = pages(at, 3000 - at);
        let step = worker.harvest(SlotId(0), rest, &mut bitmap[(at / 64) as usize..], Budget::entries(1)).unwrap();
        calls += 1;
        match step.next {
            Some(next) => at = next,
            None => break,
        }
    }
    let dirty: Vec<u64> = (0..3000).filter(|page| bitmap[(page / 64) as usize] >> (page % 64) & 1 != 0).collect();
    assert_eq!(dirty, written);
    assert!(calls > 2, "{calls}");
}

#[test]
fn r9_an_invalidation_unmaps_its_range_in_steps() {
    let (vm, mut worker, mut vcpu) = stage(BLOCK);
    (0..8).for_each(|page| assert!(matches!(write(&mut vcpu, page), Outcome::Mapped { .. })));
    let mut invalidation = worker.invalidate(range(BASE, 8 * PAGE)).unwrap();
    let mut calls = 1;
    while !invalidation.unmap(Budget::entries(3)).is_done() {
        calls += 1;
        assert!(calls < 10, "never done");
    }
    drop(invalidation);
    assert!((0..8).all(|page| mapping(&vm, BASE + page * PAGE).is_none()));
}

#[test]
fn r9_a_removal_holds_what_it_has_locked_for_a_bounded_number_of_steps() {
    let (vm, mut worker, mut vcpu) = stage(GIB);
    for block in 0..64 {
        vcpu.top_up(4).unwrap();
        let _ = write(&mut vcpu, block * 512 + 1);
        assert!(worker.unmap(range(BASE + block * BLOCK + PAGE, PAGE), ALL).unwrap().is_done()); // the tables stay
    }
    for _ in 0..63 {
        vcpu.top_up(4).unwrap();
        let _ = write(&mut vcpu, 0);
        assert!(worker.unmap(range(BASE, BLOCK), ALL).unwrap().is_done());
    }
    vcpu.top_up(4).unwrap();
    let _ = write(&mut vcpu, 0);
    let steps = Arc::new(AtomicUsize::new(0));
    let (counted, mut locked) = (steps.clone(), false);
    set_hook(move |op| {
        locked |= matches!(op, Op::CompareExchange(_, Arm64::LOCKED));
        counted.fetch_add(usize::from(locked && op == Op::Words), Ordering::Relaxed);
        true
    });
    let (at_flush, counted) = (Arc::new(AtomicUsize::new(0)), steps.clone());
    let noted = at_flush.clone();
    vm.host().on_flush(move |_, _| noted.store(counted.load(Ordering::Relaxed), Ordering::Relaxed));
    assert!(worker.unmap(range(BASE, GIB), ALL).unwrap().is_done());
    set_hook(|_| false);
    let steps = at_flush.load(Ordering::Relaxed);
    assert!(steps > 0 && steps < 4 * 4096 + 100, "{steps} steps between the first lock and the flush");
}

#[test]
fn what_the_format_cannot_grant_is_denied_rather_than_mapped_again_and_again() {
    let (vm, _worker, mut vcpu) = stage(BLOCK);
    let device = |request| Run { largest: Level::PAGE, memory: MemoryType::Device, ..run(request) };
    vm.host().translate_with(move |_, request| Translation::Run(device(request)));
    assert_eq!(vcpu.fault(gpa(BASE), Access::Execute), Outcome::Denied);
    assert!(matches!(vcpu.fault(gpa(BASE), Access::Read), Outcome::Mapped { .. }));
    assert_eq!(vcpu.fault(gpa(BASE), Access::Execute), Outcome::Denied);
    vm.host().translate_with(|_, request| {
        let hpa = slat::addr::Hpa::new(1 << vm_output_bits());
        Translation::Run(Run { hpa, ..run(request) })
    });
    assert_eq!(vcpu.fault(gpa(BASE + PAGE), Access::Read), Outcome::Denied, "an address that no entry can hold");
}

fn vm_output_bits() -> u32 {
    Arm64::new(40).unwrap().output_bits()
}

#[test]
fn r11_a_teardown_is_done_when_the_tree_is_freed_whoever_cut_it_off() {
    let (vm, mut first, mut vcpu) = stage(BLOCK);
    let _ = write(&mut vcpu, 0);
    drop(vcpu);
    let mut second = Worker::new(vm.clone()).unwrap();
    assert_eq!(first.teardown(Budget::entries(1)), Teardown::More);
    assert_eq!(second.teardown(ALL), Teardown::More, "the first one has the tree");
    drop(first);
    while second.teardown(ALL) == Teardown::More {}
    assert_eq!(vm.statistics().tables, 0);
}

#[test]
fn after_teardown_the_log_answers_gone() {
    let (_vm, mut worker, vcpu) = stage(BLOCK);
    set_flags(&mut worker, LOGGED);
    drop(vcpu);
    while worker.teardown(ALL) != Teardown::Done {}
    let mut bitmap = [0; 8];
    assert_eq!(worker.harvest(SlotId(0), pages(0, 512), &mut bitmap, ALL), Err(LogError::Gone));
    assert_eq!(worker.get_dirty(SlotId(0), pages(0, 512), &mut bitmap), Err(LogError::Gone));
    assert_eq!(worker.clear_dirty(SlotId(0), pages(0, 512), &bitmap, ALL), Err(LogError::Gone));
}

#[test]
fn r4_an_invalidation_across_a_regions_edge_disturbs_neither_region() {
    let (_vm, mut worker, mut vcpu) = vm_with_slot(BASE, 2 * GIB);
    let open = worker.invalidate(range(BASE + GIB - PAGE, 2 * PAGE)).unwrap();
    for at in [BASE + GIB / 2, BASE + GIB + GIB / 2] {
        assert!(matches!(vcpu.fault(gpa(at), Access::Read), Outcome::Mapped { .. }));
    }
    for at in [BASE + GIB - PAGE, BASE + GIB] {
        assert_eq!(vcpu.fault(gpa(at), Access::Read), Outcome::Retry);
    }
    drop(open);
}

#[test]
fn r10_a_shortage_for_a_gibibyte_that_has_to_be_split_twice_is_told_at_once() {
    let (vm, mut worker, vcpu) = vm_with_slot(BASE, GIB);
    drop(vcpu);
    vm.host().translate_with(|_, request| Translation::Run(Run { largest: Level::new(2), ..run(request) }));
    let mut vcpu = Vcpu::new(vm.clone(), VcpuId(0)).unwrap();
    assert!(matches!(vcpu.fault(gpa(BASE), Access::Read), Outcome::Mapped { .. }));
    set_flags(&mut worker, LOGGED);
    assert_eq!(vcpu.fault(gpa(BASE), Access::Write), Outcome::NeedTables(2));
    vcpu.top_up(1).unwrap();
    assert_eq!(vcpu.fault(gpa(BASE), Access::Write), Outcome::NeedTables(2));
    assert_eq!(vm.statistics().splits, 0);
    vcpu.top_up(2).unwrap();
    assert_eq!(vcpu.fault(gpa(BASE), Access::Write), Outcome::Relaxed { level: Level::PAGE });
}

/// The table round a dirty page is cut off by one worker while another is about to lock the page, at whichever of the
/// first one's looks at entries. A cut that looked whether the page was locked, and once more whether it was dirty, found
/// it locked the second time: its owner marks it only after a flush of its own, and the harvest in between was complete.
#[test]
fn r5_a_page_that_is_locked_while_its_cut_table_is_scanned_is_not_lost() {
    (1..=8).for_each(cut_beside_a_locking_before_look);
}

fn cut_beside_a_locking_before_look(look: usize) {
    /// More looks than a scan makes: it waits.
    const WAITS: usize = 2_000;
    let vm = Arc::new(Vm::new(TestHost::new(), Arm64Hd::new(40).unwrap(), Config::default()).unwrap());
    vm.host().translate_with(|_, request| Translation::Run(Run { largest: Level::PAGE, ..run(request) }));
    let mut first = Worker::new(vm.clone()).unwrap();
    let flags = SlotFlags { read_only: false, log: Some(LogMode::Hardware) };
    first.create_slot(SlotId(0), NewSlot { flags, ..slot(BASE, BLOCK) }).unwrap();
    assert!(matches!(vcpu(&vm, 0).fault(gpa(BASE), Access::Write), Outcome::Mapped { .. }));
    assert_eq!(harvest(&mut first, pages(0, 512)).0, [0]);
    // Hardware writes: without a fault, and without a mark.
    let (level, table, index) = place(&vm, BASE);
    let written = vm.format().made_writable(entry(&vm, BASE).1, level);
    word(&vm, table, index).store(written, Ordering::Relaxed);

    let [(reached, at_lock), (go, may_go), (flushes, in_flush), (end, may_end)] =
        std::array::from_fn(|_| mpsc::channel());
    let may_end = Mutex::new(may_end);
    vm.host().on_flush(move |_, _| {
        if std::thread::current().name() == Some("second") {
            flushes.send(()).unwrap();
            may_end.lock().unwrap().recv().unwrap();
        }
    });
    let mut second = Worker::new(vm.clone()).unwrap();
    let unmap = move || {
        set_hook(move |op| {
            let locks = matches!(op, Op::CompareExchange(_, Arm64Hd::LOCKED));
            if locks {
                reached.send(()).unwrap();
                may_go.recv().unwrap();
            }
            !locks
        });
        assert!(second.unmap(range(BASE, PAGE), ALL).unwrap().is_done());
    };
    let second = std::thread::Builder::new().name("second".to_owned()).spawn(unmap).unwrap();
    at_lock.recv().unwrap();

    let (mut looks, ends) = (None, end.clone());
    set_hook(move |op| {
        match op {
            Op::CompareExchange(_, Arm64Hd::LOCKED) => looks = Some(0),
            Op::Load => looks = looks.map(|looks| looks + 1),
            _ => {}
        }
        if op == Op::Load && looks == Some(look) {
            go.send(()).unwrap();
            in_flush.recv().unwrap();
        }
        if looks == Some(WAITS) {
            ends.send(()).unwrap();
        }
        looks != Some(WAITS)
    });
    assert!(first.unmap(range(BASE, BLOCK), ALL).unwrap().is_done());
    set_hook(|_| false);
    assert_eq!(harvest(&mut first, pages(0, 512)).0, [0], "look {look}");
    let _ = end.send(()); // if it is not over already
    second.join().unwrap();
}
