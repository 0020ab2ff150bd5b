//! Histories of real threads, explained page by page by the specification.

mod notes;
mod threads;

use slat::addr::HostAddress;
use slat::format::Format;
use slat::vm::{Config, LogMode, NewSlot, SlotFlags, Vm, Worker};
use slat_machine::memory::Source;
use slat_machine::{Machine, MachineConfig};
use slat_spec::{Call, Operation, Page, explain};

use self::notes::{BLOCK_PAGES, MET, Notes, range};
use self::threads::{GUESTS, SLOT, change_flags, guest, work};
use crate::subject::{AmdAd, Arm, ArmContiguous, ArmHd, PAGE, RiscNapot, Subject, X86};

/// What the threads do.
#[derive(Clone, Copy)]
pub(crate) struct Story {
    /// The flags of the slot at first.
    flags: SlotFlags,
    /// Whether a further thread changes them.
    changes: bool,
}

const PLAIN: SlotFlags = SlotFlags { read_only: false, log: None };
const LOGGED: SlotFlags = SlotFlags { read_only: false, log: Some(LogMode::Protect) };
const BY_HARDWARE: SlotFlags = SlotFlags { read_only: false, log: Some(LogMode::Hardware) };

/// Every story is told so often.
const SEEDS: u64 = 15;

/// What each met page has seen.
type History = [Vec<Call>; MET.len()];

fn told<S: Subject>(story: Story, seed: u64) -> History {
    let config = MachineConfig { table_limit: 512, ..MachineConfig::new(4 << 20, Source::AnonymousThp, GUESTS) };
    let machine = Machine::new(config, S::boxed_walker()).unwrap();
    let vm = Vm::new(&machine, S::format(), Config { vcpus: GUESTS, workers: 4, ..Config::default() }).unwrap();
    // Where pages may come in groups, they do: the memory is aligned to groups, and not to blocks.
    let host = HostAddress::new(if S::format().group_bits(PAGE) > 0 { 1 << 16 } else { 0 });
    let slot = NewSlot { range: range(0, BLOCK_PAGES), host, flags: story.flags };
    Worker::new(&vm).unwrap().create_slot(SLOT, slot).unwrap();
    let notes = Notes::of::<S>();
    std::thread::scope(|scope| {
        let (vm, notes, machine) = (&vm, &notes, &machine);
        (0..GUESTS).for_each(|id| _ = scope.spawn(move || guest::<S>(machine, vm, notes, id, seed)));
        for (by, seed) in [(0, seed), (1, !seed)] {
            scope.spawn(move || work::<S>(vm, notes, by, seed));
        }
        if story.changes {
            scope.spawn(move || change_flags::<S>(vm, notes, 2, seed ^ 0xf1a6));
        }
    });
    notes.into_calls()
}

/// How many calls the specification explains in the histories of a story.
fn all_explained<S: Subject>(story: Story) -> usize {
    (0..SEEDS).map(|seed| explained::<S>(story, seed)).sum()
}

fn explained<S: Subject>(story: Story, seed: u64) -> usize {
    let history = told::<S>(story, seed);
    for (page, calls) in MET.iter().zip(&history) {
        if let Err(unexplained) = explain(Page::new(story.flags), calls) {
            let near = unexplained.longest.saturating_sub(40);
            let calls: String =
                unexplained.calls.iter().skip(near).take(60).map(|call| format!("  {call:?}\n")).collect();
            panic!("{} page {page}, {:?}, seed {seed}: {unexplained}; there:\n{calls}", S::NAME, story.flags);
        }
    }
    history.iter().map(Vec::len).sum()
}

fn stories<S: Subject>(stories: &[Story]) {
    let calls: usize = stories.iter().map(|story| all_explained::<S>(*story)).sum();
    println!("histories|{}|{}|{calls}", S::NAME, SEEDS as usize * stories.len());
}

/// A slot that is logged or not, and one whose flags change.
fn without_a_log_of_hardwares<S: Subject>() {
    let fixed = [PLAIN, LOGGED].map(|flags| Story { flags, changes: false });
    stories::<S>(&[fixed[0], fixed[1], Story { flags: PLAIN, changes: true }]);
}

/// The same with a log that hardware keeps.
fn with_a_log_of_hardwares<S: Subject>() {
    assert!(S::format().hardware_dirty());
    stories::<S>(&[Story { flags: BY_HARDWARE, changes: false }, Story { flags: PLAIN, changes: true }]);
}

#[test]
fn the_specification_explains_histories_of_threads_on_arm64() {
    without_a_log_of_hardwares::<Arm>();
}

#[test]
fn the_specification_explains_histories_of_threads_on_ept() {
    without_a_log_of_hardwares::<X86>();
}

#[test]
fn the_specification_explains_histories_of_groups_on_arm64() {
    without_a_log_of_hardwares::<ArmContiguous>();
}

#[test]
fn the_specification_explains_histories_of_groups_on_riscv() {
    without_a_log_of_hardwares::<RiscNapot>();
}

#[test]
fn the_specification_explains_histories_of_hardwares_logs_on_arm64() {
    with_a_log_of_hardwares::<ArmHd>();
}

#[test]
fn the_specification_explains_histories_of_hardwares_logs_on_npt() {
    with_a_log_of_hardwares::<AmdAd>();
}

/// Without what `is_kept` takes out, the specification explains fewer of the histories of a story.
fn needs<S: Subject>(what: &str, story: Story, is_kept: fn(&Operation) -> bool) {
    let (mut unexplained, mut dropped) = (0, 0);
    for seed in 0..SEEDS {
        let mut history = told::<S>(story, seed);
        dropped += history.iter().flatten().filter(|call| !is_kept(&call.operation)).count();
        history.iter_mut().for_each(|calls| calls.retain(|call| is_kept(&call.operation)));
        unexplained += history.iter().filter(|calls| explain(Page::new(story.flags), calls).is_err()).count();
    }
    let all = SEEDS as usize * MET.len();
    println!("damaged histories|{}|{what}|{dropped}|{unexplained}|{all}", S::NAME);
    assert!(unexplained > 0, "without {what}, which {dropped} calls did, all histories are explained");
}

#[test]
fn histories_that_lack_something_are_not_explained() {
    let [plain, logged, by_hardware] = [PLAIN, LOGGED, BY_HARDWARE].map(|flags| Story { flags, changes: false });
    let changing = Story { flags: PLAIN, changes: true };
    needs::<X86>("changes of flags", changing, |did| {
        !matches!(did, Operation::Announced(_) | Operation::Settled { .. })
    });
    needs::<X86>("marks that are cleared", logged, |did| !matches!(did, Operation::Cleared { .. }));
    needs::<ArmHd>("writes of the guest", by_hardware, |did| {
        !matches!(did, Operation::Written { .. } | Operation::Noted)
    });
    needs::<ArmContiguous>("what a fault does to a group", plain, |did| {
        !matches!(did, Operation::MappedBeside { .. } | Operation::RelaxedBeside)
    });
}
