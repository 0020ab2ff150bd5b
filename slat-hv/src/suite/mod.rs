//! The suite that checks itself: each test makes a VM, has small programs run in it, and ends in one line.

mod accessed;
mod blocks;
mod dirty;
mod invalidate;
mod outside;
mod populate;
mod slots;
mod teardown;

use alloc::string::String;

use slat::format::Format;

use crate::arguments::Arguments;
use crate::clock::Ticks;
use crate::console::say;
use crate::cpu;
use crate::machine::Machine;
use crate::memory::{Features, GuestFormat, PAGE_SHIFT, Plant, SETS_DIRTY};
use crate::stage::Settings;
use crate::{frames, interrupts, memory, team};

/// What a test came to.
type Verdict = Result<(), String>;

type Test = (&'static str, fn(Settings) -> Verdict);

/// The test that not every CPU can pass.
const NEEDS_HARDWARE_FLAG: &str = "accessed-by-hardware";

/// The test that wants a format with hardware's dirty state.
const NEEDS_DIRTY_STATE: &str = "dirty-log-by-hardware";
/// The test that hardware spoils which does more than it is told.
const NEEDS_FAULTS: &str = "accessed-by-fault";
/// The test that not every granule can pass.
const NEEDS_LARGE_LEAVES: &str = "populate-gigabyte";

const TESTS: [Test; 18] = [
    ("populate-pages", populate::pages),
    ("populate-blocks", populate::blocks),
    (NEEDS_LARGE_LEAVES, populate::gigabyte),
    ("dirty-log-exact", dirty::exact),
    ("dirty-log-pages", dirty::pages),
    ("dirty-log-blocks", dirty::blocks),
    (NEEDS_DIRTY_STATE, dirty::by_hardware),
    ("split-and-collapse", blocks::split_and_collapse),
    ("split-ahead", blocks::split_ahead),
    ("protect-parts-of-blocks", blocks::protect_parts),
    ("invalidate-pages", invalidate::pages),
    ("invalidate-blocks", invalidate::blocks),
    (NEEDS_HARDWARE_FLAG, accessed::by_hardware),
    (NEEDS_FAULTS, accessed::by_fault),
    ("slot-moves", slots::moves),
    ("slot-goes", slots::goes),
    ("teardown", teardown::leaves_nothing),
    ("outside-of-slots", outside::is_reported),
];

/// Runs the tests, all or those that `slat.only` names (by a part of their names). Whether all passed.
pub(crate) fn run(machine: &Machine, arguments: Arguments) -> bool {
    let vcpus = arguments.value("vcpus", 1);
    assert!(vcpus < machine.cpus, "{vcpus} vCPUs want {} CPUs, there are {}", vcpus + 1, machine.cpus);
    let plant = match arguments.text("plant").map(str::parse) {
        None => Plant::Nothing,
        Some(Ok(plant)) => plant,
        Some(Err(())) => panic!("slat.plant: no-flush, no-stage-one or local-only"),
    };
    interrupts::start_cpu();
    cpu::prepare_for(cpu::Kind::Payload);
    team::assemble(vcpus);
    let features = slat_arch::aarch64::instructions::features();
    say!(
        "slat-hv: suite: {vcpus} vCPUs, {}, plant {plant:?}; range operations {}, level hints {}, hardware sets accessed {}",
        <GuestFormat as Format>::NAME,
        features.range_operations,
        features.level_hints,
        features.sets_accessed
    );
    let only = arguments.text("only").unwrap_or_default();
    let (mut passed, mut failed) = (0, 0);
    for (name, test) in TESTS.iter().filter(|(name, _)| name.contains(only)) {
        if let Some(why) = why_not(name, &features) {
            say!("slat-hv: test {name} ... skipped: {why}");
            continue;
        }
        let (took, verdict) = Ticks::of(|| watched(*test, Settings { vcpus, plant }));
        match verdict {
            Ok(()) => {
                passed += 1;
                say!("slat-hv: test {name} ... ok, {took}");
            }
            Err(why) => {
                failed += 1;
                say!("slat-hv: test {name} ... FAILED: {why}");
            }
        }
    }
    say!("slat-hv: suite: {passed} passed, {failed} failed");
    failed == 0 && passed > 0
}

/// Why a test cannot be run with this format and on this CPU, if it cannot.
fn why_not(name: &str, features: &Features) -> Option<&'static str> {
    match name {
        NEEDS_LARGE_LEAVES if PAGE_SHIFT != 12 => Some("this granule has no such leaves"),
        NEEDS_DIRTY_STATE if !SETS_DIRTY => Some("the format has no dirty state"),
        NEEDS_FAULTS if SETS_DIRTY => Some("with this format the CPU sets the flag"),
        NEEDS_HARDWARE_FLAG if !features.sets_accessed => Some("this CPU does not set the accessed flag"),
        _ => None,
    }
}

/// Runs one test, and sees that it gives back all the memory that it took.
fn watched(test: fn(Settings) -> Verdict, settings: Settings) -> Verdict {
    memory::drain();
    let before = frames::available();
    test(settings)?;
    memory::drain();
    // The heap keeps what it once had: a few frames.
    let lost = before.saturating_sub(frames::available());
    if lost > HEAP_KEEPS { Err(alloc::format!("{lost} frames are lost")) } else { Ok(()) }
}

/// Frames that the heap may keep after a test.
const HEAP_KEEPS: u64 = 64;
