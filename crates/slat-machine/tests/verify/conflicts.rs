//! Which operations commute, and which of those write a cache line in common: exact, from what each of them writes.
//!
//! Two operations commute if each comes to the same whichever comes first, and the guest's memory is the same
//! afterwards. Those should need no line in common (C1). The ones that do are listed, with where in the engine
//! they meet, in `conflicts.txt`; a line that appears there or vanishes fails this test until the list is kept anew (`SLAT_KEEP=1`).

use std::collections::BTreeSet;
use std::fmt::Write;
use std::path::Path;

use slat::addr::{Gpa, GpaRange, HostAddress};
use slat::host::{Access, SlotId, VcpuId};
use slat::vm::{Budget, Collapse, Config, LogMode, Mapping, NewSlot, Pages, SlotFlags, Vcpu, Vm, Worker};
use slat_machine::memory::{PAGE_SIZE, Source};
use slat_machine::trace::{Keep, Lines, Recorder, Watched};
use slat_machine::{Machine, MachineConfig};

use crate::play::TracedVm;
use crate::subject::{Arm, Subject, VMID};

const SLOT: SlotId = SlotId(0);
const BASE: u64 = 4 << 30;
const BLOCK: u64 = 512;
const GIBIBYTE: u64 = 1 << 18;
const PAGES: u64 = 2 * GIBIBYTE;
/// The page that the first operation is about: neither the first nor the last of its table.
const HERE: u64 = 64;

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Op {
    MapMissing,
    Map,
    MapBlock,
    /// The first page of its region to be marked since the last harvest.
    Relax,
    /// Not the first.
    RelaxAgain,
    Spurious,
    Lookup,
    Unmap,
    Protect,
    Age,
    Harvest,
    Split,
    Collapse,
}

const OPS: [Op; 13] = [
    Op::MapMissing,
    Op::Map,
    Op::MapBlock,
    Op::Relax,
    Op::RelaxAgain,
    Op::Spurious,
    Op::Lookup,
    Op::Unmap,
    Op::Protect,
    Op::Age,
    Op::Harvest,
    Op::Split,
    Op::Collapse,
];

/// How far the second operation's page is from the first one's.
const PLACES: [(&str, u64); 5] =
    [("same entry", 0), ("same line", 1), ("same table", 100), ("sibling tables", BLOCK), ("distant", GIBIBYTE)];

impl Op {
    /// Whether it is about a whole block, in a slot that is not logged.
    const fn is_of_block(self) -> bool {
        matches!(self, Self::MapBlock | Self::Split | Self::Collapse)
    }
}

/// Both handles of one side.
struct Side<'v, 'm> {
    vcpu: Vcpu<&'v TracedVm<'m, Arm>>,
    worker: Worker<&'v TracedVm<'m, Arm>>,
}

impl<'v, 'm> Side<'v, 'm> {
    fn new(vm: &'v TracedVm<'m, Arm>, id: u32) -> Self {
        let (mut vcpu, mut worker) = (Vcpu::new(vm, VcpuId(id)).unwrap(), Worker::new(vm).unwrap());
        vcpu.top_up(16).unwrap();
        worker.top_up(16).unwrap();
        Self { vcpu, worker }
    }

    fn fault(&mut self, page: u64, access: Access) {
        let _ = self.vcpu.fault(gpa(page), access);
    }

    /// Makes the scene for `op` at `page`.
    fn prepare(&mut self, op: Op, page: u64) {
        match op {
            Op::MapMissing | Op::MapBlock => {}
            Op::Map => self.fault(page ^ 8, Access::Read),
            Op::Relax => self.fault(page, Access::Read),
            Op::RelaxAgain => {
                self.fault(page, Access::Read);
                self.fault(page ^ 8, Access::Write);
            }
            Op::Collapse => {
                self.fault(page, Access::Write);
                let _ = self.worker.write_protect(range(page, 1), Budget::UNLIMITED).unwrap();
            }
            _ => self.fault(page, Access::Write),
        }
        if matches!(op, Op::Relax | Op::RelaxAgain) {
            let _ = self.worker.write_protect(range(page, 1), Budget::UNLIMITED).unwrap();
        }
    }

    fn run(&mut self, op: Op, page: u64) -> String {
        let (gpa, one, all) = (gpa(page), range(page, 1), Budget::UNLIMITED);
        match op {
            Op::MapMissing | Op::Map | Op::Spurious => format!("{:?}", self.vcpu.fault(gpa, Access::Read)),
            Op::MapBlock | Op::Relax | Op::RelaxAgain => format!("{:?}", self.vcpu.fault(gpa, Access::Write)),
            Op::Lookup => format!("{:?}", self.vcpu.lookup(gpa)),
            Op::Unmap => format!("{:?}", self.worker.unmap(one, all)),
            Op::Protect | Op::Split => format!("{:?}", self.worker.write_protect(one, all)),
            Op::Age => format!("{:?}", self.worker.age(one, all)),
            Op::Harvest => {
                let mut bitmap = [0; 1];
                let harvest = self.worker.harvest(SLOT, Pages { first: page, count: 1 }, &mut bitmap, all);
                format!("{harvest:?} {bitmap:?}")
            }
            Op::Collapse => {
                let block = range(page - page % BLOCK, BLOCK);
                format!("{:?}", self.worker.collapse(block, Collapse::InPlace, all))
            }
        }
    }
}

fn gpa(page: u64) -> Gpa {
    Gpa::new(BASE + page * PAGE_SIZE)
}

fn range(first: u64, count: u64) -> GpaRange {
    GpaRange::with_len(gpa(first), count * PAGE_SIZE).unwrap()
}

/// What two operations come to: results in the order of the operations, memory, lines in the order of the operations.
struct Played {
    results: [String; 2],
    memory: Vec<Option<Mapping>>,
    lines: [Lines; 2],
}

/// Two operations on a fresh VM, the second one first if `swapped`.
fn play(ops: [Op; 2], pages: [u64; 2], swapped: bool) -> Played {
    let of_block = ops.iter().any(|op| op.is_of_block());
    let source = if of_block { Source::AnonymousThp } else { Source::Anonymous };
    let config = MachineConfig { table_limit: 256, ..MachineConfig::new(PAGES * PAGE_SIZE, source, 2) };
    let machine = Machine::new(config, Arm::boxed_walker()).unwrap();
    let recorder = Recorder::new(Keep { lines: true, ..Keep::default() });
    let entered = recorder.enter(0);
    let config = Config { vcpus: 2, workers: 3, ..Config::default() };
    let vm = Vm::new(Watched::new(&machine, recorder.clone(), VMID), Arm::format(), config).unwrap();
    let log = (!of_block).then_some(LogMode::Protect);
    let slot =
        NewSlot { range: range(0, PAGES), host: HostAddress::new(0), flags: SlotFlags { read_only: false, log } };
    Worker::new(&vm).unwrap().create_slot(SLOT, slot).unwrap();
    let mut sides = [Side::new(&vm, 0), Side::new(&vm, 1)];
    (0..2).for_each(|side| sides[side].prepare(ops[side], pages[side]));
    let mut results = [String::new(), String::new()];
    let mut lines = [Lines::default(), Lines::default()];
    for side in if swapped { [1, 0] } else { [0, 1] } {
        recorder.take_lines();
        results[side] = sides[side].run(ops[side], pages[side]);
        lines[side] = recorder.take_lines();
    }
    let memory = pages.iter().flat_map(|&page| [page, page ^ 8]).map(|page| sides[0].vcpu.lookup(gpa(page))).collect();
    drop(sides);
    drop(vm);
    drop(entered);
    Played { results, memory, lines }
}

/// Where two operations that commute meet; `None` if they do not commute.
fn meeting_points(ops: [Op; 2], pages: [u64; 2]) -> Option<BTreeSet<&'static str>> {
    let (one, other) = (play(ops, pages, false), play(ops, pages, true));
    let commute = one.results == other.results && one.memory == other.memory;
    commute.then(|| {
        let both = |played: &Played| {
            let met = played.lines[0].written_by_both(&played.lines[1]);
            met.map(|(first, _)| first.file()).collect::<Vec<_>>()
        };
        both(&one).into_iter().chain(both(&other)).collect()
    })
}

/// Every pair at every place; counts of pairs that commute and of those without a line in common, and the text of the
/// list.
fn table() -> (usize, usize, String) {
    let (mut commuting, mut free, mut text) = (0, 0, String::new());
    for (first, &one) in OPS.iter().enumerate() {
        for &other in &OPS[first..] {
            let of_block = one.is_of_block() || other.is_of_block();
            let needs_log = [one, other].contains(&Op::Harvest);
            if of_block && needs_log {
                continue;
            }
            for (place, distance) in PLACES.into_iter().filter(|(_, distance)| !of_block || *distance >= BLOCK) {
                let Some(met) = meeting_points([one, other], [HERE, HERE + distance]) else { continue };
                commuting += 1;
                free += usize::from(met.is_empty());
                if !met.is_empty() {
                    let met: Vec<_> = met.into_iter().collect();
                    writeln!(text, "{one:?} and {other:?}, {place}: {}", met.join(", ")).unwrap();
                }
            }
        }
    }
    (commuting, free, text)
}

#[test]
fn r3_commuting_operations_meet_where_the_list_says_and_nowhere_else() {
    let (commuting, free, text) = table();
    println!("conflicts|{commuting}|{free}");
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/verify/conflicts.txt");
    if std::env::var_os("SLAT_KEEP").is_some() {
        std::fs::write(&path, &text).unwrap();
    }
    let kept = std::fs::read_to_string(&path).unwrap();
    let (now, before): (BTreeSet<_>, BTreeSet<_>) = (text.lines().collect(), kept.lines().collect());
    let new: Vec<_> = now.difference(&before).collect();
    let gone: Vec<_> = before.difference(&now).collect();
    assert!(new.is_empty(), "conflicts that are new: {new:#?}");
    assert!(gone.is_empty(), "conflicts that are gone (keep the list anew with SLAT_KEEP=1): {gone:#?}");
}

/// R3, to the letter: the one summary write per region and harvest is in the list, as `Relax`.
#[test]
fn r3_faults_in_different_regions_on_existing_tables_write_no_line_in_common() {
    let faults = [Op::Map, Op::RelaxAgain, Op::Spurious, Op::Lookup];
    for ops in faults.into_iter().flat_map(|one| faults.map(|other| [one, other])) {
        for distance in [BLOCK, GIBIBYTE] {
            let pages = [HERE, HERE + distance];
            for swapped in [false, true] {
                let played = play(ops, pages, swapped);
                let met: Vec<_> = played.lines[0].written_by_both(&played.lines[1]).collect();
                assert!(met.is_empty(), "{ops:?} at {distance} pages: {met:?}");
                let seen: Vec<_> = played.lines[0].written_and_read(&played.lines[1]).collect();
                assert!(seen.is_empty(), "{ops:?} at {distance} pages, one writes what the other reads: {seen:?}");
            }
        }
    }
}

/// The tracing can see a conflict: two faults on neighbouring entries write one line.
#[test]
fn r3_a_line_that_two_operations_write_is_noticed() {
    let met = meeting_points([Op::Map, Op::Map], [HERE, HERE + 1]).unwrap();
    assert!(met.contains("table/entry.rs"), "{met:?}");
}
