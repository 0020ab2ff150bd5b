//! The engine, run by several threads at random, every step of it checked.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use slat::OutOfMemory;
use slat::addr::Gpa;
use slat::format::Format;
use slat::host::Access;
use slat::host::VcpuId;
use slat::vm::{Config, Outcome, Vcpu, Vm};
use slat_machine::checker::{Event, Finding};
use slat_machine::memory::Source;
use slat_machine::trace::{Entry, Keep, Recorder, Watched};
use slat_machine::{FaultEntry, GuestError, Machine, MachineConfig, Runner};

use crate::files::keep;
use crate::play::{BASE, BYTES, Dice, Hand, Play, TracedVm, page_count};
use crate::subject::{
    AmdAd, Arm, ArmContiguous, ArmHd, PAGE, Subject, VMID, X86, test_every_subject, with_every_subject,
};

pub(crate) const VCPUS: u32 = 2;
/// Threads that are no vCPU are numbered from here on.
const WORKERS: u16 = 32;

fn machine<S: Subject>(play: Play) -> Machine {
    let moving = play == Play::Moving;
    let memory = if moving { BYTES + (4 << 20) } else { BYTES };
    let config = MachineConfig {
        movable: moving.then_some(page_count::<S>()),
        table_limit: 512,
        ..MachineConfig::new(memory, Source::AnonymousThp, VCPUS)
    };
    Machine::new(config, S::boxed_walker()).unwrap()
}

/// What came of a round.
pub(crate) struct Round {
    pub(crate) findings: Vec<Finding>,
    pub(crate) trace: Vec<Event>,
}

/// One VM's life: made, worked on by guests and workers at once, torn down; every step checked.
pub(crate) fn round<S: Subject>(play: Play, seed: u64, steps: u64) -> Round {
    let machine = machine::<S>(play);
    let keep = Keep { checked_by: Some(S::discipline(VCPUS)), trace: true, lines: false, yields: 24 };
    let recorder = Recorder::new(keep);
    let entered = recorder.enter(WORKERS);
    let config = Config { vcpus: VCPUS, workers: 4, ..Config::default() };
    let vm = Vm::new(Watched::new(&machine, recorder.clone(), VMID), S::format(), config).unwrap();
    recorder.note(Event::Rooted { root: vm.root().unwrap(), tables: S::format().geometry().root_tables() });
    let mut hand = Hand::<S>::new(&vm, seed, play);
    hand.begin();
    beside_guests::<S>(&vm, &mut hand, seed, steps);
    recorder.note(Event::Quiet);
    hand.end(WORKERS);
    drop(vm);
    recorder.note(Event::Ended);
    drop(entered);
    assert_eq!(machine.tables_now(), 0, "tables are left");
    Round { findings: recorder.findings(), trace: recorder.take_trace() }
}

/// Two workers, one of them `hand`, beside guests.
fn beside_guests<'v, S: Subject>(vm: &'v TracedVm<'_, S>, hand: &mut Hand<'v, '_, S>, seed: u64, steps: u64) {
    let over = AtomicBool::new(false);
    let play = hand.play;
    std::thread::scope(|scope| {
        for id in 0..VCPUS {
            let over = &over;
            scope.spawn(move || {
                let _entered = vm.host().recorder().enter(id as u16);
                let _curtain = Curtain(over);
                guest::<S>(vm, id, seed, play, over);
            });
        }
        let other = scope.spawn(|| {
            let _entered = vm.host().recorder().enter(WORKERS + 1);
            let _curtain = Curtain(&over);
            let mut other = Hand::<S>::new(vm, seed ^ 0x5eed, play);
            (0..steps).for_each(|_| other.disturb(false));
        });
        let _curtain = Curtain(&over);
        (0..steps).for_each(|_| hand.disturb(true));
        other.join().unwrap();
    });
}

/// Ends the play when it is dropped, also by a panic.
struct Curtain<'s>(&'s AtomicBool);

impl Drop for Curtain<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A guest on its vCPU; every second one serves neighbours' faults along with its own.
fn guest<S: Subject>(vm: &TracedVm<'_, S>, id: u32, seed: u64, play: Play, over: &AtomicBool) {
    let vcpu = Vcpu::new(vm, VcpuId(id)).unwrap();
    if id.is_multiple_of(2) {
        let runner = Runner::new(vm.host().machine(), VcpuId(id), vm.root().unwrap(), Entry(vcpu));
        acts::<S>(runner, id, seed, play, over);
    } else {
        let runner = Runner::new(vm.host().machine(), VcpuId(id), vm.root().unwrap(), Staying::<S>(vcpu));
        acts::<S>(runner, id, seed, play, over);
    }
}

/// A vCPU that stays out of its guest for more than one fault: its own, then those of the pages beside it.
struct Staying<'v, 'm, S: Subject>(Vcpu<&'v TracedVm<'m, S>>);

impl<S: Subject> FaultEntry for Staying<'_, '_, S> {
    fn fault(&mut self, gpa: Gpa, access: Access) -> Outcome {
        Recorder::stay(|| {
            let mut exit = self.0.exit();
            let outcome = Recorder::call(|| exit.fault(gpa, access));
            for beside in [gpa.get() ^ S::size(PAGE), gpa.get() ^ (2 * S::size(PAGE))].map(Gpa::new) {
                if Recorder::call(|| exit.lookup(beside)).is_none() {
                    let _ = Recorder::call(|| exit.fault(beside, access));
                }
            }
            Recorder::call(|| drop(exit));
            outcome
        })
    }

    fn top_up(&mut self, tables: usize) -> Result<(), OutOfMemory> {
        Recorder::call(|| self.0.top_up(tables))
    }
}

/// Writes and reads the guest's own pages; it knows what each has to hold.
fn acts<S: Subject>(mut runner: Runner<'_, impl FaultEntry>, id: u32, seed: u64, play: Play, over: &AtomicBool) {
    let mut dice = Dice(seed ^ u64::from(id + 1) << 32);
    let mut written = vec![0; (page_count::<S>() / u64::from(VCPUS)) as usize];
    while !over.load(Ordering::Relaxed) {
        let index = dice.below(written.len() as u64) as usize;
        let page = index as u64 * u64::from(VCPUS) + u64::from(id);
        let gpa = Gpa::new(BASE + page * S::size(PAGE));
        let value = written[index] + 1;
        let done = match dice.below(3) {
            0 => runner.load(gpa).map(|found| assert_eq!(found, written[index], "{gpa} in vCPU {id}")),
            _ => runner.store(gpa, value).map(|()| written[index] = value),
        };
        match done {
            Ok(()) => {}
            Err(GuestError::NoSlot(_) | GuestError::Mmio(_)) if play == Play::Slots => {}
            Err(GuestError::Annotated(_)) if play == Play::Notes => {}
            Err(error) => panic!("vCPU {id}: {error}"),
        }
    }
}

fn rounds<S: Subject>(play: Play) {
    (0..3).for_each(|seed| without_findings::<S>(play, seed, 40));
}

/// A short round of each play.
fn every_play_keeps_every_rule<S: Subject>() {
    Play::all::<S>().for_each(|play| without_findings::<S>(play, 7, 6));
}

test_every_subject!(every_play: every_play_keeps_every_rule);

fn without_findings<S: Subject>(play: Play, seed: u64, steps: u64) {
    let Round { findings, trace } = round::<S>(play, seed, steps);
    if let Some(first) = findings.first() {
        let path = keep::<S>(&format!("{play:?}-{seed}"), &trace);
        panic!("{} {play:?}, seed {seed}: {first}, and {} more{path}", S::NAME, findings.len() - 1);
    }
}

macro_rules! rounds {
    ($($name:ident: $subject:ty, $play:expr;)*) => {
        $(#[test] fn $name() { rounds::<$subject>($play); })*
    };
}

rounds! {
    a_logged_vm_keeps_every_rule_on_arm64: Arm, Play::Logged;
    a_logged_vm_keeps_every_rule_on_ept: X86, Play::Logged;
    a_log_of_hardwares_keeps_every_rule_on_arm64: ArmHd, Play::Hardware;
    a_log_of_hardwares_keeps_every_rule_on_npt: AmdAd, Play::Hardware;
    a_logged_vm_of_groups_keeps_every_rule_on_arm64: ArmContiguous, Play::Logged;
    blocks_that_split_and_collapse_keep_every_rule_on_arm64: Arm, Play::Blocks;
    blocks_that_split_and_collapse_keep_every_rule_on_ept: X86, Play::Blocks;
    groups_that_split_and_collapse_keep_every_rule_on_arm64: ArmContiguous, Play::Blocks;
    annotations_keep_every_rule_on_arm64: Arm, Play::Notes;
    annotations_keep_every_rule_on_ept: X86, Play::Notes;
    memory_that_moves_keeps_every_rule_on_arm64: Arm, Play::Moving;
    memory_that_moves_keeps_every_rule_on_ept: X86, Play::Moving;
    slots_that_change_keep_every_rule_on_arm64: Arm, Play::Slots;
    slots_that_change_keep_every_rule_on_ept: X86, Play::Slots;
}

/// Rounds of everything, one after the other, for as many seconds as `SLAT_SOAK_SECONDS` says (60).
#[test]
#[ignore = "takes as long as it is told"]
fn soak() {
    let seconds = std::env::var("SLAT_SOAK_SECONDS").map_or(60, |text| text.parse().expect("a number of seconds"));
    let end = Instant::now() + Duration::from_secs(seconds);
    let (mut rounds, mut events, mut findings) = (0, 0, Vec::new());
    let mut seed = std::env::var("SLAT_SOAK_SEED").map_or(1000, |text| text.parse().expect("a number"));
    while Instant::now() < end {
        with_every_subject!(soaked(seed, end, &mut rounds, &mut events, &mut findings));
        seed += 1;
    }
    println!("soak|{seconds}|{rounds}|{events}|{}", findings.len());
    findings.iter().for_each(|finding| println!("finding|{finding}"));
    assert_eq!(findings, Vec::<String>::new());
}

/// A round of each play with one format, as long as there is time.
fn soaked<S: Subject>(seed: u64, end: Instant, rounds: &mut u64, events: &mut usize, findings: &mut Vec<String>) {
    for play in Play::all::<S>().take_while(|_| Instant::now() < end) {
        let Round { findings: found, trace } = round::<S>(play, seed, 60);
        *rounds += 1;
        *events += trace.len();
        if let Some(first) = found.first() {
            let path = keep::<S>(&format!("{play:?}-{seed}"), &trace);
            findings.push(format!("{} {play:?}, seed {seed}: {first}{path}", S::NAME));
        }
    }
}
