//! Contiguous groups under the rules of the design: one leaf each, in sixteen entries.

mod common;

use common::*;
use slat::addr::{Hpa, Level};
use slat::format::{Arm64, Arm64Contiguous, Format, Kind};
use slat::host::{Access, Flush, Hint, SlotId, Translation};
use slat::vm::*;
use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::{Arc, Mutex};

const BASE: u64 = 0x4000_0000;
const ALL: Budget = Budget::UNLIMITED;
const READ: Access = Access::Read;
const WRITE: Access = Access::Write;
const ONE: Level = Level::new(1);
const PAGES: Hint = Hint::Level(Level::PAGE);
/// Bytes of a group of pages.
const GROUP: u64 = 16 * PAGE;
const PAGE_MAPPED: Outcome = Outcome::Mapped { level: Level::PAGE, writable: true };
const PAGE_RELAXED: Outcome = Outcome::Relaxed { level: Level::PAGE };

type GroupVm = Vm<TestHost, Arm64Contiguous>;
type Handles = (Arc<GroupVm>, Worker<Arc<GroupVm>>, Vcpu<Arc<GroupVm>>);

/// A VM with groups and one writable slot at [`BASE`], backed by pages.
fn with_slot(len: u64) -> Handles {
    let format = Arm64Contiguous::new(40).unwrap();
    let vm = Arc::new(Vm::new(TestHost::new(), format, Config::default()).unwrap());
    pages_only(&vm);
    let mut worker = Worker::new(vm.clone()).unwrap();
    worker.create_slot(SlotId(0), slot(BASE, len)).unwrap();
    let vcpu = vcpu(&vm, 0);
    (vm, worker, vcpu)
}

fn pages_only(vm: &GroupVm) {
    vm.host().translate_with(|_, request| Translation::Run(slat::host::Run { largest: Level::PAGE, ..run(request) }));
}

fn page(number: u64) -> u64 {
    BASE + number * PAGE
}

fn is_grouped(vm: &GroupVm, number: u64) -> bool {
    let (level, raw, _) = entry(vm, page(number));
    vm.format().is_grouped(raw, level)
}

fn kinds(vm: &GroupVm, first: u64, count: u64) -> Vec<Kind> {
    (first..first + count).map(|number| entry(vm, page(number)).2).collect()
}

fn writable(vm: &GroupVm, first: u64, count: u64) -> Vec<u64> {
    let is_writable = |number: &u64| mapping(vm, page(*number)).is_some_and(|(_, _, writable)| writable);
    (first..first + count).filter(is_writable).collect()
}

/// The kinds of the first `count` entries at each flush.
fn kinds_at_flushes(vm: &Arc<GroupVm>, count: u64) -> Arc<Mutex<Vec<Vec<Kind>>>> {
    let kinds_seen = Arc::new(Mutex::new(Vec::new()));
    let (seen, weak) = (kinds_seen.clone(), Arc::downgrade(vm));
    vm.host().on_flush(move |_, _| seen.lock().unwrap().extend(weak.upgrade().map(|vm| kinds(&vm, 0, count))));
    kinds_seen
}

#[test]
fn r1_a_fault_maps_a_whole_group_and_flushes_nothing() {
    let (vm, mut worker, mut vcpu) = with_slot(BLOCK);
    assert_eq!(vcpu.fault(gpa(page(21)), WRITE), PAGE_MAPPED);
    for number in 0..64 {
        let meant = (16..32).contains(&number);
        let expected = meant.then(|| (Hpa::new(FRAMES + number * PAGE), Level::PAGE, true));
        assert_eq!((mapping(&vm, page(number)), is_grouped(&vm, number)), (expected, meant), "page {number}");
    }
    let found = worker.lookup(gpa(page(30))).unwrap();
    assert_eq!((found.level(), found.size(vm.format())), (Level::PAGE, GROUP));
    assert_eq!(vcpu.fault(gpa(page(16)), WRITE), Outcome::Spurious);
    let exposed = vm.host().exposed.lock().unwrap().clone();
    assert_eq!(exposed.last().map(|memory| (memory.hpa, memory.len)), Some((Hpa::new(FRAMES + GROUP), GROUP)));
    let statistics = vm.statistics();
    assert_eq!((statistics.leaves[0], statistics.groups, statistics.mapped), (16, 1, 1));
    assert_eq!(vm.host().take_flushes(), []);
}

#[test]
fn r1_a_group_needs_room_alignment_and_no_log() {
    let (vm, mut worker, mut vcpu) = with_slot(GROUP + 8 * PAGE);
    assert_eq!(vcpu.fault(gpa(page(17)), WRITE), PAGE_MAPPED);
    assert!(!is_grouped(&vm, 17), "the slot ends inside");
    set_flags(&mut worker, LOGGED);
    assert_eq!(vcpu.fault(gpa(page(3)), WRITE), PAGE_MAPPED);
    assert_eq!(kinds(&vm, 2, 3), [Kind::Empty, Kind::Leaf, Kind::Empty], "under the log pages come one by one");
    set_flags(&mut worker, PLAIN);
    assert_eq!(vcpu.fault(gpa(page(4)), WRITE), PAGE_MAPPED);
    assert!(!is_grouped(&vm, 4), "one of the entries is taken");
    let moved = |request| slat::host::Run { largest: Level::PAGE, hpa: Hpa::new(FRAMES + PAGE), ..run(request) };
    vm.host().translate_with(move |_, request| Translation::Run(moved(request)));
    assert!(worker.unmap(range(BASE, GROUP), ALL).unwrap().is_done());
    assert_eq!(vcpu.fault(gpa(page(4)), WRITE), PAGE_MAPPED);
    assert!(!is_grouped(&vm, 4), "the memory is not aligned");
}

#[test]
fn r1_a_part_of_a_group_is_unmapped_behind_one_flush_of_the_whole() {
    let (vm, mut worker, mut vcpu) = with_slot(BLOCK);
    assert_eq!(vcpu.fault(gpa(BASE), WRITE), PAGE_MAPPED);
    let at_flush = kinds_at_flushes(&vm, 16);
    let progress = worker.unmap(range(page(5), 3 * PAGE), ALL).unwrap();
    assert_eq!((progress.next, progress.changed, progress.widened), (None, 3, false));
    assert_eq!(vm.host().take_flushes(), [Flush::Leaves { range: range(BASE, GROUP), level: PAGES }]);
    assert_eq!(*at_flush.lock().unwrap(), [[Kind::Locked; 16]]);
    for number in 0..16 {
        let expected = (!(5..8).contains(&number)).then(|| (Hpa::new(FRAMES + number * PAGE), Level::PAGE, true));
        assert_eq!((mapping(&vm, page(number)), is_grouped(&vm, number)), (expected, false), "page {number}");
    }
    assert_eq!(vm.statistics().leaves[0], 13);
}

#[test]
fn r1_a_range_takes_whole_groups_and_the_parts_at_its_ends_behind_one_flush() {
    let (vm, mut worker, mut vcpu) = with_slot(BLOCK);
    (0..5).for_each(|group| assert_eq!(vcpu.fault(gpa(BASE + group * GROUP), WRITE), PAGE_MAPPED));
    let at_flush = kinds_at_flushes(&vm, 80);
    assert_eq!(worker.unmap(range(page(10), 60 * PAGE), ALL).unwrap().changed, 60);
    assert_eq!(vm.host().take_flushes(), [Flush::Leaves { range: range(BASE, 5 * GROUP), level: PAGES }]);
    assert_eq!(*at_flush.lock().unwrap(), [[Kind::Locked; 80]]);
    let left = (0..80).filter(|number| mapping(&vm, page(*number)).is_some());
    assert!(left.eq((0..10).chain(70..80)));
    assert_eq!(vm.statistics().leaves[0], 20);
}

#[test]
fn r1_replacing_one_page_dissolves_its_group() {
    let (vm, _worker, mut vcpu) = with_slot(BLOCK);
    let read_only =
        |request| slat::host::Run { largest: Level::PAGE, permissions: slat::host::Permissions::READ, ..run(request) };
    vm.host().translate_with(move |_, request| Translation::Run(read_only(request)));
    assert_eq!(vcpu.fault(gpa(BASE), READ), Outcome::Mapped { level: Level::PAGE, writable: false });
    assert!(is_grouped(&vm, 0));
    let copy = |request| slat::host::Run { largest: Level::PAGE, hpa: Hpa::new(FRAMES + GIB), ..run(request) };
    vm.host().translate_with(move |_, request| Translation::Run(copy(request)));
    assert_eq!(vcpu.fault(gpa(page(6)), WRITE), PAGE_MAPPED);
    assert_eq!(mapping(&vm, page(6)), Some((Hpa::new(FRAMES + GIB + 6 * PAGE), Level::PAGE, true)));
    assert!((0..16).all(|number| !is_grouped(&vm, number)));
    assert_eq!(writable(&vm, 0, 16), [6]);
}

#[test]
fn r4_a_group_is_not_published_if_any_of_its_pages_was_invalidated() {
    let (vm, worker, mut vcpu) = with_slot(BLOCK);
    let worker = Mutex::new(worker);
    vm.host().translate_with(move |host, request| {
        assert!(worker.lock().unwrap().unmap(range(page(13), PAGE), ALL).unwrap().is_done());
        host.translate_with(|_, request| Translation::Run(slat::host::Run { largest: Level::PAGE, ..run(request) }));
        Translation::Run(slat::host::Run { largest: Level::PAGE, ..run(request) })
    });
    assert_eq!(vcpu.fault(gpa(page(2)), WRITE), Outcome::Retry);
    assert_eq!(kinds(&vm, 0, 16), [Kind::Empty; 16], "every entry is given back");
    assert_eq!(vcpu.fault(gpa(page(2)), WRITE), PAGE_MAPPED);
    assert!(is_grouped(&vm, 13));
}

#[test]
fn r4_making_a_group_gives_up_at_an_entry_that_is_taken() {
    let (vm, _worker, mut vcpu) = with_slot(BLOCK);
    let mut other = common::vcpu(&vm, 1);
    let mut locked = 0;
    set_hook(move |op| {
        locked += u32::from(matches!(op, Op::CompareExchange(0, Arm64::LOCKED)));
        if locked == 5 {
            assert_eq!(other.fault(gpa(page(9)), WRITE), PAGE_MAPPED, "by itself: another entry is locked");
        }
        locked < 5
    });
    assert_eq!(vcpu.fault(gpa(page(2)), WRITE), PAGE_MAPPED);
    let mapped: Vec<u64> = (0..16).filter(|number| mapping(&vm, page(*number)).is_some()).collect();
    assert_eq!(mapped, [2, 9]);
    assert!(!is_grouped(&vm, 2) && !is_grouped(&vm, 9));
    assert_eq!(kinds(&vm, 3, 2), [Kind::Empty; 2]);
}

#[test]
fn r4_dissolving_gives_up_at_a_locked_member_and_gives_the_others_back() {
    let (vm, mut worker, mut vcpu) = with_slot(BLOCK);
    assert_eq!(vcpu.fault(gpa(BASE), WRITE), PAGE_MAPPED);
    set_flags(&mut worker, LOGGED);
    let before: Vec<_> = (0..16).map(|number| entry(&vm, page(number))).collect();
    let table = table_of_pages(&vm);
    word(&vm, table, 11).store(Arm64::LOCKED, std::sync::atomic::Ordering::SeqCst);
    assert_eq!(vcpu.fault(gpa(page(3)), WRITE), Outcome::Retry);
    word(&vm, table, 11).store(before[11].1, std::sync::atomic::Ordering::SeqCst);
    assert!((0..16).all(|number| entry(&vm, page(number)) == before[number as usize]));
    assert_eq!(vcpu.fault(gpa(page(3)), WRITE), PAGE_RELAXED);
}

/// The table of pages around [`BASE`].
fn table_of_pages(vm: &GroupVm) -> Hpa {
    let (format, geometry) = (vm.format(), vm.format().geometry());
    let root = vm.root().unwrap();
    let two = word(vm, root, geometry.root_index(gpa(BASE))).load(std::sync::atomic::Ordering::SeqCst);
    let blocks = format.table_address(two, Level::new(2));
    let one = word(vm, blocks, geometry.index(gpa(BASE), ONE)).load(std::sync::atomic::Ordering::SeqCst);
    format.table_address(one, ONE)
}

#[test]
fn r5_no_group_becomes_writable_under_the_log() {
    let (vm, mut worker, mut vcpu) = with_slot(BLOCK);
    assert_eq!(vcpu.fault(gpa(BASE), WRITE), PAGE_MAPPED);
    set_flags(&mut worker, LOGGED);
    let span = Flush::Leaves { range: range(BASE, GROUP), level: PAGES };
    assert_eq!(vm.host().take_flushes(), [span], "write-protected as a whole");
    assert!(writable(&vm, 0, 16).is_empty() && is_grouped(&vm, 0));

    let at_flush = kinds_at_flushes(&vm, 16);
    assert_eq!(vcpu.fault(gpa(page(7)), WRITE), PAGE_RELAXED);
    assert_eq!((vm.host().take_flushes(), vm.statistics().dissolutions), (vec![span], 1));
    assert_eq!(*at_flush.lock().unwrap(), [[Kind::Locked; 16]], "broken before it is made");
    assert_eq!(writable(&vm, 0, 16), [7]);
    assert!((0..16).all(|number| !is_grouped(&vm, number)));
    let (dirty, harvest) = harvest(&mut worker, Pages { first: 0, count: 512 });
    assert_eq!((dirty, harvest.complete), (vec![7], true));
    assert!(writable(&vm, 0, 16).is_empty());
}

#[test]
fn r5_without_a_log_a_group_is_relaxed_as_a_whole() {
    let (vm, mut worker, mut vcpu) = with_slot(BLOCK);
    assert_eq!(vcpu.fault(gpa(BASE), WRITE), PAGE_MAPPED);
    assert_eq!(worker.write_protect(range(BASE, BLOCK), ALL).unwrap().changed, 16);
    vm.host().take_flushes();
    assert_eq!(vcpu.fault(gpa(page(9)), WRITE), PAGE_RELAXED);
    assert!(is_grouped(&vm, 9) && writable(&vm, 0, 16).len() == 16);
    assert_eq!(vm.host().take_flushes(), []);
}

/// The log is turned on between a relaxation's members: what was made writable is marked or protected.
#[test]
fn r6_a_group_relaxed_while_the_log_is_turned_on_is_marked() {
    for at in 0..24 {
        let (vm, mut worker, mut vcpu) = with_slot(BLOCK);
        assert_eq!(vcpu.fault(gpa(BASE), WRITE), PAGE_MAPPED);
        assert!(worker.write_protect(range(BASE, BLOCK), ALL).unwrap().is_done());
        let worker = Arc::new(Mutex::new(worker));
        let (enabler, mut changes) = (worker.clone(), 0);
        set_hook(move |op| {
            changes += u32::from(matches!(op, Op::CompareExchange(..)));
            if changes > at {
                set_flags(&mut enabler.lock().unwrap(), LOGGED);
            }
            changes <= at
        });
        let _ = vcpu.fault(gpa(page(4)), WRITE);
        set_hook(|_| false);
        let mut worker = worker.lock().unwrap();
        set_flags(&mut worker, LOGGED);
        let writable = writable(&vm, 0, 16);
        let (dirty, _) = harvest(&mut worker, Pages { first: 0, count: 512 });
        assert!(writable.iter().all(|page| dirty.contains(page)), "{writable:?} are writable, marked are {dirty:?}");
    }
}

#[test]
fn r7_a_table_of_groups_collapses_in_place() {
    let (vm, mut worker, mut vcpu) = with_slot(2 * BLOCK);
    (0..32).for_each(|group| assert_eq!(vcpu.fault(gpa(BASE + group * GROUP), WRITE), PAGE_MAPPED));
    // Some are dissolved, some have been aged, some are protected.
    assert!(worker.write_protect(range(page(40), PAGE), ALL).unwrap().is_done());
    assert!(worker.write_protect(range(page(64), GROUP), ALL).unwrap().is_done());
    assert_eq!(worker.age(range(page(64), 2 * GROUP), ALL).unwrap().young, 2);
    let dissolved = vm.statistics().dissolutions;
    vm.host().translate_with(|_, request| Translation::Run(run(request)));
    vm.host().take_flushes();
    assert_eq!(worker.collapse(range(BASE, BLOCK), slat::vm::Collapse::InPlace, ALL).unwrap().changed, 1);
    assert_eq!(vm.host().take_flushes(), [Flush::Tables { range: range(BASE, BLOCK) }]);
    assert_eq!(mapping(&vm, BASE), Some((Hpa::new(FRAMES), ONE, false)));
    assert_eq!((vm.statistics().leaves[..2].to_vec(), vm.statistics().dissolutions), (vec![0, 1], dissolved));
}

#[test]
fn r7_groups_of_a_table_that_does_not_fit_are_thawed_as_they_were() {
    let (vm, mut worker, mut vcpu) = with_slot(BLOCK);
    (0..32).for_each(|group| assert_eq!(vcpu.fault(gpa(BASE + group * GROUP), WRITE), PAGE_MAPPED));
    assert!(worker.write_protect(range(page(100), PAGE), ALL).unwrap().is_done());
    assert!(worker.unmap(range(page(511), PAGE), ALL).unwrap().is_done());
    let before: Vec<_> = (0..512).map(|number| entry(&vm, page(number))).collect();
    vm.host().translate_with(|_, request| Translation::Run(run(request)));
    assert_eq!(worker.collapse(range(BASE, BLOCK), slat::vm::Collapse::InPlace, ALL).unwrap().changed, 0);
    assert!((0..512).all(|number| entry(&vm, page(number)) == before[number as usize]));
}

#[test]
fn a_split_block_becomes_groups_but_for_a_part_that_is_unmapped() {
    let (vm, mut worker, mut vcpu) = with_slot(BLOCK);
    vm.host().translate_with(|_, request| Translation::Run(run(request)));
    assert_eq!(vcpu.fault(gpa(BASE), WRITE), Outcome::Mapped { level: ONE, writable: true });
    worker.top_up(4).unwrap();
    assert!(worker.unmap(range(page(33), PAGE), ALL).unwrap().is_done());
    let grouped = (0..512).filter(|number| is_grouped(&vm, *number));
    assert!(grouped.eq((0..32).chain(48..512)));
    assert_eq!(vm.statistics().leaves[..2], [511, 0]);
}

#[test]
fn prefaulting_fills_tables_with_groups_and_teardown_counts_them() {
    let (vm, mut worker, vcpu) = with_slot(4 * BLOCK);
    assert!(worker.prefault(range(BASE, 2 * BLOCK + 3 * GROUP), WRITE, ALL).unwrap().is_done());
    assert!((0..1072).all(|number| is_grouped(&vm, number)));
    assert_eq!(vm.statistics().leaves[0], 1072);
    set_flags(&mut worker, LOGGED);
    assert!(worker.prefault(range(BASE + 3 * BLOCK, BLOCK), WRITE, ALL).unwrap().is_done());
    assert!((1536..2048).all(|number| !is_grouped(&vm, number)), "none under the log");
    drop(vcpu);
    while worker.teardown(ALL) != Teardown::Done {}
    assert_eq!((vm.statistics().leaves[0], vm.statistics().tables), (0, 0));
}

#[test]
fn blocks_are_grouped_too() {
    let (vm, mut worker, mut vcpu) = with_slot(GIB);
    vm.host().translate_with(|_, request| Translation::Run(run(request)));
    assert_eq!(vcpu.fault(gpa(BASE + 20 * BLOCK), WRITE), Outcome::Mapped { level: ONE, writable: true });
    let of_blocks = |worker: &mut Worker<_>| worker.lookup(gpa(BASE + 31 * BLOCK)).unwrap().size(vm.format());
    assert_eq!((vm.statistics().leaves[1], of_blocks(&mut worker)), (16, 16 * BLOCK));

    set_flags(&mut worker, LOGGED);
    let span = range(BASE + 16 * BLOCK, 16 * BLOCK);
    assert_eq!(vm.host().take_flushes(), [Flush::Leaves { range: span, level: Hint::Level(ONE) }]);
    vcpu.top_up(4).unwrap();
    assert_eq!(vcpu.fault(gpa(BASE + 20 * BLOCK), WRITE), PAGE_RELAXED);
    assert_eq!((vm.statistics().leaves[..2].to_vec(), of_blocks(&mut worker)), (vec![512, 15], BLOCK));
    set_flags(&mut worker, PLAIN);

    worker.top_up(8).unwrap();
    assert!(worker.unmap(range(BASE, GIB), ALL).unwrap().is_done());
    assert_eq!(worker.reclaim(ALL).awaiting, 0);
    assert_eq!(vcpu.fault(gpa(BASE + 20 * BLOCK), WRITE), Outcome::Mapped { level: ONE, writable: true });
    assert!(worker.unmap(range(BASE + 18 * BLOCK, 3 * BLOCK + PAGE), ALL).unwrap().is_done());
    assert_eq!(vm.statistics().leaves[..2], [511, 12]);
    assert!(mapping(&vm, BASE + 21 * BLOCK).is_none() && mapping(&vm, BASE + 21 * BLOCK + PAGE).is_some());
}

#[test]
fn r8_groups_of_which_parts_are_cleared_are_dissolved_behind_one_flush() {
    let (vm, mut worker, mut vcpu) = with_slot(BLOCK);
    (0..32).for_each(|group| assert_eq!(vcpu.fault(gpa(BASE + group * GROUP), WRITE), PAGE_MAPPED));
    set_flags(&mut worker, INITIALLY_SET);
    assert_eq!(vm.host().take_flushes(), []);
    // Page 1 of each group, and all of the last one.
    let mut bitmap = [0x0002_0002_0002_0002u64; 8];
    bitmap[7] |= 0xffff << 48;
    let cleared = worker.clear_dirty(SlotId(0), Pages { first: 0, count: 512 }, &bitmap, ALL).unwrap();
    assert_eq!(cleared.protected, 31 + 16);
    assert_eq!(vm.statistics().dissolutions, 31);
    let flushes = vm.host().take_flushes();
    assert_eq!(flushes[0], Flush::Leaves { range: range(BASE, 31 * GROUP), level: PAGES }, "one break for all");
    assert_eq!(flushes[1..], [Flush::Leaves { range: range(page(1), 511 * PAGE), level: PAGES }]);
    let protected = (0..512).filter(|number| !writable(&vm, *number, 1).contains(number));
    assert!(protected.eq((0..31).map(|group| 16 * group + 1).chain(496..512)));
    assert!(is_grouped(&vm, 511));
}

#[test]
fn r8_a_protected_group_is_not_flushed_again() {
    let (vm, mut worker, mut vcpu) = with_slot(BLOCK);
    assert_eq!(vcpu.fault(gpa(BASE), WRITE), PAGE_MAPPED);
    assert_eq!(worker.write_protect(range(BASE, BLOCK), ALL).unwrap().changed, 16);
    vm.host().take_flushes();
    assert_eq!(worker.write_protect(range(BASE, BLOCK), ALL).unwrap().changed, 0);
    assert_eq!(vm.host().take_flushes(), []);
}

#[test]
fn r9_no_budget_ends_inside_of_a_group() {
    for budget in [1, 15, 17] {
        let (vm, mut worker, mut vcpu) = with_slot(BLOCK);
        (0..3).for_each(|group| assert_eq!(vcpu.fault(gpa(BASE + group * GROUP), WRITE), PAGE_MAPPED));
        let mut steps = |unmaps: bool| {
            let mut rest = range(BASE, 3 * GROUP);
            loop {
                let budget = Budget::entries(budget);
                let step = if unmaps { worker.unmap(rest, budget) } else { worker.write_protect(rest, budget) };
                for group in 0..3 {
                    let same = writable(&vm, 16 * group, 16).len() % 16;
                    assert_eq!(same, 0, "a group is writable as a whole or not at all");
                }
                let Some(next) = step.unwrap().next else { break };
                assert!(next.is_aligned(GROUP), "{next}");
                rest = rest.from(next);
            }
        };
        steps(false);
        steps(true);
        assert_eq!((vm.statistics().leaves[0], vm.statistics().dissolutions), (0, 0));
    }
}

#[test]
fn a_group_is_aged_as_one_leaf_and_touched_page_by_page() {
    let (vm, mut worker, mut vcpu) = with_slot(BLOCK);
    assert_eq!(vcpu.fault(gpa(BASE), WRITE), PAGE_MAPPED);
    assert_eq!(worker.age(range(page(3), PAGE), ALL).unwrap().young, 1);
    assert_eq!(worker.test_young(range(BASE, BLOCK), ALL).unwrap().young, 0);
    assert_eq!(vcpu.fault(gpa(page(8)), READ), Outcome::Accessed { level: Level::PAGE });
    assert!(is_grouped(&vm, 8));
    assert_eq!(worker.test_young(range(BASE, BLOCK), ALL).unwrap().young, 1);
    assert_eq!(vm.host().take_flushes(), []);
}

#[test]
fn an_annotation_takes_its_part_out_of_a_group() {
    let (vm, mut worker, mut vcpu) = with_slot(BLOCK);
    assert_eq!(vcpu.fault(gpa(BASE), WRITE), PAGE_MAPPED);
    worker.top_up(4).unwrap();
    assert!(worker.annotate(range(page(2), 2 * PAGE), 7, ALL).unwrap().is_done());
    assert_eq!(vcpu.fault(gpa(page(3)), READ), Outcome::Annotated { level: Level::PAGE });
    assert_eq!(vcpu.fault(gpa(page(4)), READ), Outcome::Spurious);
    assert!(!is_grouped(&vm, 4));
}

/// What the tables say of each page: where it lies, and whether it may be written to now.
type Said = Option<(Hpa, bool)>;

/// Pages of the random test's slot.
const COUNT: u64 = 1024;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Operation {
    Unmap,
    Protect,
    Read,
    Write,
    Log,
    Harvest,
    Collapse,
    Age,
}
use Operation::*;

const OPERATIONS: [Operation; 8] = [Unmap, Protect, Read, Write, Log, Harvest, Collapse, Age];

/// Operations one after the other, each held against what it may do to every page.
struct Play {
    vm: Arc<GroupVm>,
    worker: Worker<Arc<GroupVm>>,
    vcpu: Vcpu<Arc<GroupVm>>,
    state: u64,
    is_logged: bool,
    /// Pages written to under the log and not reported yet.
    written: BTreeSet<u64>,
}

impl Play {
    fn new(seed: u64) -> Self {
        let (vm, worker, vcpu) = with_slot(COUNT * PAGE);
        let state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        Self { vm, worker, vcpu, state, is_logged: false, written: BTreeSet::new() }
    }

    fn random(&mut self, below: u64) -> u64 {
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        (self.state >> 16) % below
    }

    fn list(&self) -> Vec<Said> {
        let said = |number| mapping(&self.vm, page(number)).map(|(hpa, _, writable)| (hpa, writable));
        (0..COUNT).map(said).collect()
    }

    fn step(&mut self) {
        let first = self.random(COUNT);
        let pages = first..(first + self.random(60) + 1).min(COUNT);
        let largest = if self.random(2) == 0 { Level::PAGE } else { ONE };
        let largest = move |request| slat::host::Run { largest, ..run(request) };
        self.vm.host().translate_with(move |_, request| Translation::Run(largest(request)));
        self.worker.top_up(8).unwrap();
        self.vcpu.top_up(8).unwrap();

        let operation = OPERATIONS[self.random(8) as usize];
        let (before, was_logged) = (self.list(), self.is_logged);
        self.act(operation, &pages);
        for (number, (was, is)) in (0..).zip(before.into_iter().zip(self.list())) {
            let allowed = may_become(operation, was_logged, &pages, number, was, is);
            assert!(allowed, "{operation:?} of {pages:?} makes page {number} {is:?} of {was:?}");
            assert!(is.is_none_or(|(hpa, _)| hpa == Hpa::new(FRAMES + number * PAGE)), "its own memory");
        }
        self.check_groups();
    }

    fn act(&mut self, operation: Operation, pages: &Range<u64>) {
        let bytes = range(page(pages.start), (pages.end - pages.start) * PAGE);
        match operation {
            Unmap => assert!(self.worker.unmap(bytes, ALL).unwrap().is_done()),
            Protect => assert!(self.worker.write_protect(bytes, ALL).unwrap().is_done()),
            Read => self.fault(pages.start, READ),
            Write => self.fault(pages.start, WRITE),
            Log => {
                self.is_logged = !self.is_logged;
                set_flags(&mut self.worker, if self.is_logged { LOGGED } else { PLAIN });
                self.written.clear();
            }
            Harvest => self.harvest(),
            Collapse => {
                _ = self.worker.collapse(range(BASE, COUNT * PAGE), slat::vm::Collapse::InPlace, ALL).unwrap();
                self.worker.reclaim(ALL);
            }
            Age => _ = self.worker.age(bytes, ALL).unwrap(),
        }
    }

    fn fault(&mut self, number: u64, access: Access) {
        let outcome = self.vcpu.fault(gpa(page(number)), access);
        assert_ne!(outcome, Outcome::Retry, "nobody else is at work");
        let (_, level, is_writable) = mapping(&self.vm, page(number)).expect("it is mapped now");
        let is_collapsed = level == ONE && outcome == PAGE_RELAXED;
        assert!(is_writable || is_collapsed || access == READ);
        if access == WRITE && self.is_logged {
            self.written.insert(number);
        }
    }

    fn harvest(&mut self) {
        if !self.is_logged {
            return;
        }
        let (dirty, harvest) = harvest(&mut self.worker, Pages { first: 0, count: COUNT });
        assert!(harvest.complete && self.written.iter().all(|page| dirty.contains(page)));
        assert!(writable(&self.vm, 0, COUNT).is_empty(), "what is writable is marked, what was marked protected");
        self.written.clear();
    }

    fn check_groups(&self) {
        let is_page = |number: &u64| mapping(&self.vm, page(*number)).is_some_and(|leaf| leaf.1 == Level::PAGE);
        let pages = (0..COUNT).filter(is_page).count() as u64;
        assert_eq!(pages, self.vm.statistics().leaves[0], "every member counts");
        for group in 0..COUNT / 16 {
            let members =
                (16 * group..16 * (group + 1)).filter(|number| is_page(number) && is_grouped(&self.vm, *number));
            assert!([0, 16].contains(&members.count()), "a group is whole");
        }
    }
}

/// Whether an operation on `pages` may make of page `number` what it is of what it was.
fn may_become(operation: Operation, was_logged: bool, pages: &Range<u64>, number: u64, was: Said, is: Said) -> bool {
    let same_memory = was.is_none_or(|was| is.is_some_and(|is| was.0 == is.0));
    match operation {
        Unmap if pages.contains(&number) => is.is_none(),
        Protect if pages.contains(&number) => is == was.map(|(hpa, _)| (hpa, false)),
        // A fault may collapse its table, which takes permissions that not all pages have; not under a log.
        Read | Write if was.is_some() && was_logged && number != pages.start => is == was,
        Read | Write | Collapse => same_memory,
        Log if !was_logged => is == was.map(|(hpa, _)| (hpa, false)),
        Harvest => same_memory && was.is_some() == is.is_some(),
        Unmap | Protect | Log | Age => is == was,
    }
}

#[test]
fn random_operations_do_to_each_page_what_they_say() {
    for seed in 1..=8 {
        let mut play = Play::new(seed);
        (0..300).for_each(|_| play.step());
        let statistics = play.vm.statistics();
        assert!(statistics.groups > 0 && statistics.dissolutions > 0, "{statistics:?}");
    }
}
