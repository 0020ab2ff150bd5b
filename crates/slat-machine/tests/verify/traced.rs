//! The engine, run by several threads at random, every step of it checked.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use slat::addr::Gpa;
use slat::format::Format;
use slat::host::VcpuId;
use slat::vm::{Config, Vcpu, Vm};
use slat_machine::checker::{Event, Finding};
use slat_machine::memory::{PAGE_SIZE, Source};
use slat_machine::trace::{Entry, Keep, Recorder, Watched};
use slat_machine::{GuestError, Machine, MachineConfig, Runner};

use crate::play::{BASE, BYTES, Dice, Hand, PAGES, Play, TracedVm};
use crate::subject::{Arm, ArmBbm2, Subject, VMID, X86};

pub(crate) const VCPUS: u32 = 2;
/// Threads that are no vCPU are numbered from here on.
const WORKERS: u16 = 32;

fn machine<S: Subject>(play: Play) -> Machine {
    let moving = play == Play::Moving;
    let memory = if moving { BYTES + (4 << 20) } else { BYTES };
    let config = MachineConfig {
        movable: moving.then_some(PAGES),
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

/// A guest that writes and reads its own pages and knows what each has to hold.
fn guest<S: Subject>(vm: &TracedVm<'_, S>, id: u32, seed: u64, play: Play, over: &AtomicBool) {
    let vcpu = Vcpu::new(vm, VcpuId(id)).unwrap();
    let mut runner = Runner::new(vm.host().machine(), VcpuId(id), vm.root().unwrap(), Entry(vcpu));
    let mut dice = Dice(seed ^ u64::from(id + 1) << 32);
    let mut written = vec![0; (PAGES / u64::from(VCPUS)) as usize];
    while !over.load(Ordering::Relaxed) {
        let index = dice.below(written.len() as u64) as usize;
        let page = index as u64 * u64::from(VCPUS) + u64::from(id);
        let gpa = Gpa::new(BASE + page * PAGE_SIZE);
        let value = written[index] + 1;
        let done = match dice.below(3) {
            0 => runner.load(gpa).map(|found| assert_eq!(found, written[index], "{gpa} in vCPU {id}")),
            _ => runner.store(gpa, value).map(|()| written[index] = value),
        };
        match done {
            Ok(()) => {}
            Err(GuestError::NoSlot(_) | GuestError::Mmio(_)) if play == Play::Slots => {}
            Err(error) => panic!("vCPU {id}: {error}"),
        }
    }
}

fn rounds<S: Subject>(play: Play) {
    for seed in 0..3 {
        let Round { findings, trace } = round::<S>(play, seed, 40);
        if let Some(first) = findings.first() {
            let path = std::env::temp_dir().join(format!("slat-{}-{play:?}-{seed}.trace", S::NAME));
            let text = trace.iter().enumerate().map(|(number, event)| format!("{number} {event:x?}\n"));
            std::fs::write(&path, text.collect::<String>()).unwrap();
            println!("the trace is in {}", path.display());
            panic!("{} {play:?}, seed {seed}: {first}, and {} more", S::NAME, findings.len() - 1);
        }
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
    blocks_that_split_and_collapse_keep_every_rule_on_arm64: Arm, Play::Blocks;
    a_logged_vm_keeps_every_rule_where_sizes_mix: ArmBbm2, Play::Logged;
    blocks_that_split_and_collapse_keep_every_rule_where_sizes_mix: ArmBbm2, Play::Blocks;
    memory_that_moves_keeps_every_rule_where_sizes_mix: ArmBbm2, Play::Moving;
    slots_that_change_keep_every_rule_where_sizes_mix: ArmBbm2, Play::Slots;
    blocks_that_split_and_collapse_keep_every_rule_on_ept: X86, Play::Blocks;
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
        for play in [Play::Logged, Play::Blocks, Play::Moving, Play::Slots] {
            for (name, Round { findings: found, trace }) in
                [(Arm::NAME, round::<Arm>(play, seed, 60)), (X86::NAME, round::<X86>(play, seed, 60))]
            {
                rounds += 1;
                events += trace.len();
                findings.extend(found.first().map(|first| format!("{name} {play:?}, seed {seed}: {first}")));
            }
        }
        seed += 1;
    }
    println!("soak|{seconds}|{rounds}|{events}|{}", findings.len());
    findings.iter().for_each(|finding| println!("finding|{finding}"));
    assert_eq!(findings, Vec::<String>::new());
}
