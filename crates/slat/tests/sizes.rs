//! Leaves that change their size under the guest's eyes (FEAT_BBML2): hardware goes on translating, software waits.

mod common;

use common::*;
use slat::addr::{Hpa, Level};
use slat::format::{Arm64Bbm2, Format, Kind, Stage2};
use slat::host::{Access, Flush, Hint, SlotId};
use slat::vm::*;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

const BASE: u64 = 0x4000_0000;
const ALL: Budget = Budget::UNLIMITED;
const WRITE: Access = Access::Write;
const ONE: Level = Level::new(1);

/// [`Arm64Bbm2`] with the dirty state kept by hardware.
type Arm64HdBbm2 = Stage2<12, false, false, true, false, true>;

type Bench<F> = (Arc<Vm<TestHost, F>>, Worker<Arc<Vm<TestHost, F>>>, Vcpu<Arc<Vm<TestHost, F>>>);

/// A VM with a slot of two blocks, the first of which is mapped, writable.
fn block<F: Format>(format: F) -> Bench<F> {
    let vm = Arc::new(Vm::new(TestHost::new(), format, Config::default()).unwrap());
    let mut worker = Worker::new(vm.clone()).unwrap();
    worker.create_slot(SlotId(0), slot(BASE, 2 * BLOCK)).unwrap();
    let mut vcpu = vcpu(&vm, 0);
    assert_eq!(vcpu.fault(gpa(BASE), WRITE), Outcome::Mapped { level: ONE, writable: true });
    (vm, worker, vcpu)
}

/// The same, split, with page 0 written under a log that is off again.
fn split() -> Bench<Arm64Bbm2> {
    let (vm, mut worker, mut vcpu) = block(Arm64Bbm2::new(40).unwrap());
    set_flags(&mut worker, LOGGED);
    assert_eq!(vcpu.fault(gpa(BASE), WRITE), Outcome::Relaxed { level: Level::PAGE });
    set_flags(&mut worker, PLAIN);
    vm.host().take_flushes();
    (vm, worker, vcpu)
}

/// What the architecture makes of `at`, by the bits of its manual alone: the memory behind it, and the leaf's level.
fn hardware<F: Format>(vm: &Vm<TestHost, F>, at: u64) -> Option<(Hpa, u32)> {
    // 40 bits of address: two concatenated tables of level 2 at the root.
    let mut table = vm.root().unwrap().get() + (at >> 39) * 4096;
    for level in (0..=2).rev() {
        let shift = 12 + 9 * level;
        let raw = word(vm, Hpa::new(table), (at >> shift) as usize % 512).load(Ordering::Acquire);
        let output = raw & 0x0000_ffff_ffff_f000;
        match raw & 0b11 {
            0b11 if level > 0 => table = output,
            0b01 if level > 0 => return Some((Hpa::new(output + (at & ((1 << shift) - 1))), level)),
            0b11 => return Some((Hpa::new(output), 0)),
            _ => return None,
        }
    }
    None
}

/// What was found at each flush: what software and what hardware make of the first block.
type Seen = Arc<Mutex<Vec<(Kind, Option<(Hpa, u32)>)>>>;

fn look_at_flushes<F: Format>(vm: &Arc<Vm<TestHost, F>>) -> Seen {
    vm.host().take_flushes();
    let seen = Seen::default();
    let (seen_here, weak) = (seen.clone(), Arc::downgrade(vm));
    vm.host().on_flush(move |_, _| {
        let found = weak.upgrade().map(|vm| (entry(&vm, BASE).2, hardware(&vm, BASE + 5 * PAGE)));
        seen_here.lock().unwrap().extend(found);
    });
    seen
}

const FIFTH_PAGE: Hpa = Hpa::new(FRAMES + 5 * PAGE);

#[test]
fn r1_a_block_translates_as_a_table_while_its_split_is_flushed() {
    let (vm, mut worker, mut vcpu) = block(Arm64Bbm2::new(40).unwrap());
    set_flags(&mut worker, LOGGED);
    let seen = look_at_flushes(&vm);
    assert_eq!(vcpu.fault(gpa(BASE), WRITE), Outcome::Relaxed { level: Level::PAGE });
    assert_eq!(*seen.lock().unwrap(), [(Kind::Locked, Some((FIFTH_PAGE, 0)))], "held, then flushed, then made");
    assert_eq!(vm.host().take_flushes(), [Flush::All], "nothing less is sure to drop both sizes");
    assert_eq!(mapping(&vm, BASE), Some((Hpa::new(FRAMES), Level::PAGE, true)));
    assert_eq!(mapping(&vm, BASE + PAGE), Some((Hpa::new(FRAMES + PAGE), Level::PAGE, false)));
    assert_eq!(vm.statistics().leaves[..2], [512, 0]);
}

#[test]
fn r4_whoever_meets_a_held_table_keeps_off_it() {
    let (vm, mut worker, mut vcpu) = block(Arm64Bbm2::new(40).unwrap());
    set_flags(&mut worker, LOGGED);
    let (other, outcomes) = (Mutex::new(self::vcpu(&vm, 1)), Arc::new(Mutex::new(Vec::new())));
    let (told, weak) = (outcomes.clone(), Arc::downgrade(&vm));
    vm.host().on_flush(move |_, _| {
        // The flush is not over: neither a write nor a collapse may change what lies below.
        let Some(vm) = weak.upgrade() else { return };
        told.lock().unwrap().push(other.lock().unwrap().fault(gpa(BASE + PAGE), WRITE));
        assert_eq!(other.lock().unwrap().lookup(gpa(BASE + PAGE)), None, "no leaf is found behind a locked entry");
        let mut worker = Worker::new(vm.clone()).unwrap();
        assert_eq!(worker.collapse(range(BASE, BLOCK), Collapse::InPlace, ALL).unwrap().changed, 0);
        assert_eq!(worker.age(range(BASE, BLOCK), ALL).unwrap().young, 0, "ageing passes over what is locked");
    });
    assert_eq!(vcpu.fault(gpa(BASE), WRITE), Outcome::Relaxed { level: Level::PAGE });
    assert_eq!(*outcomes.lock().unwrap(), [Outcome::Retry]);
    assert_eq!(mapping(&vm, BASE + PAGE), Some((Hpa::new(FRAMES + PAGE), Level::PAGE, false)), "unchanged");
}

#[test]
fn r7_a_table_translates_as_a_block_while_its_collapse_is_flushed() {
    let (vm, mut worker, mut vcpu) = split();
    let seen = look_at_flushes(&vm);
    assert_eq!(worker.collapse(range(BASE, BLOCK), Collapse::InPlace, ALL).unwrap().changed, 1);
    assert_eq!(*seen.lock().unwrap(), [(Kind::Locked, Some((FIFTH_PAGE, 1)))], "held, then flushed, then made");
    assert_eq!(vm.host().take_flushes(), [Flush::All], "nothing less is sure to drop both sizes");
    assert_eq!(mapping(&vm, BASE), Some((Hpa::new(FRAMES), ONE, false)), "permissions are intersected");
    assert_eq!(vcpu.fault(gpa(BASE), WRITE), Outcome::Relaxed { level: ONE }, "may-write is kept");
    assert_eq!((worker.reclaim(ALL).awaiting, vm.statistics().leaves[0]), (0, 0));
}

#[test]
fn r7_pages_translate_while_their_collapse_freezes_them_and_when_it_gives_up() {
    let (vm, mut worker, _) = split();
    assert!(worker.unmap(range(BASE + 511 * PAGE, PAGE), ALL).unwrap().is_done());
    let before: Vec<_> = (0..512).map(|page| entry(&vm, BASE + page * PAGE)).collect();
    vm.host().take_flushes();
    let changes = Arc::new(Mutex::new((0, 0)));
    let (counted, weak) = (changes.clone(), Arc::downgrade(&vm));
    set_hook(move |op| {
        let vm = weak.upgrade().unwrap();
        let (mapped, frozen) = &mut *counted.lock().unwrap();
        if matches!(op, Op::CompareExchange(..)) {
            *mapped += u64::from(hardware(&vm, BASE + 5 * PAGE) == Some((FIFTH_PAGE, 0)));
            *frozen += 1;
        }
        *frozen < 512
    });
    assert_eq!(worker.collapse(range(BASE, BLOCK), Collapse::InPlace, ALL).unwrap().changed, 0, "a page is missing");
    let (mapped, looks) = *changes.lock().unwrap();
    assert!(looks > 500 && mapped == looks, "{mapped} of {looks}");
    assert!((0..512).all(|page| entry(&vm, BASE + page * PAGE) == before[page as usize]), "every page is as it was");
    assert!(vm.host().take_flushes().is_empty());
}

#[test]
fn r2_a_cut_is_flushed_with_everything_since_a_split_below_it_may_be_on_its_way() {
    let (vm, mut worker, _) = split();
    assert!(worker.unmap(range(BASE, BLOCK), ALL).unwrap().is_done());
    assert_eq!(vm.host().take_flushes(), [Flush::All]);
}

#[test]
fn r5_where_hardware_keeps_the_dirty_state_what_may_be_written_is_broken() {
    let (vm, mut worker, mut vcpu) = block(Arm64HdBbm2::new(40).unwrap());
    let seen = look_at_flushes(&vm);
    worker.top_up(1).unwrap();
    assert!(worker.write_protect(range(BASE, PAGE), ALL).unwrap().is_done());
    let block_hint = Hint::Level(ONE);
    let flushes = vm.host().take_flushes();
    assert_eq!(seen.lock().unwrap()[0], (Kind::Locked, None), "a writable block is invalid while it is split");
    assert_eq!(flushes[0], Flush::Leaves { range: range(BASE, BLOCK), level: block_hint });

    assert!(worker.collapse(range(BASE, BLOCK), Collapse::InPlace, ALL).unwrap().changed == 1);
    assert_eq!(seen.lock().unwrap().last(), Some(&(Kind::Locked, None)), "and so is a table that is collapsed");

    set_flags(&mut worker, LOGGED);
    seen.lock().unwrap().clear();
    assert_eq!(vcpu.fault(gpa(BASE), WRITE), Outcome::Relaxed { level: Level::PAGE });
    assert_eq!(*seen.lock().unwrap(), [(Kind::Locked, Some((FIFTH_PAGE, 0)))], "a protected block is held");
}
