//! `slat-bench OPERATION COUNT`: does one of slat's operations so many times. Run it under a tool that counts instructions
//! with two counts, and the difference is the operation's: `cargo xtask instructions` does.
//!
//! Four levels, 64 slots (unless it is slots that are made), tables linked and carried beforehand, TLB maintenance that does
//! nothing.

mod measured;

use std::process::ExitCode;

use slat::addr::{Gpa, GpaRange, HostAddress, Level};
use slat::format::Arm64;
use slat::host::{Access, SlotId, VcpuId};
use slat::vm::{Budget, Config, LogMode, NewSlot, Outcome, SlotFlags, Vcpu, Vm, Worker};
use slat_bench::embedder::Embedder;

type BenchVm = Vm<Embedder, Arm64>;

const SLOTS: u32 = 64;
const SLOT: SlotId = SlotId(5);
const BASE: u64 = 5 << 30;
const PAGE: u64 = 4096;
const BLOCK: u64 = 2 << 20;
const BLOCKS: u64 = 16;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, operation, count] = &arguments[..] else { return usage() };
    let Ok(count) = count.parse() else { return usage() };
    if operate(operation, count) { ExitCode::SUCCESS } else { usage() }
}

fn usage() -> ExitCode {
    eprintln!(
        "slat-bench OPERATION COUNT

    map_4k map_4k_random map_4k_logged spurious relax_dirty lookup
    protect_leaf unmap_leaf range_map_leaf split_block split_ahead collapse_block
    create_slot_32 create_slot_1024 create_slot_32764"
    );
    ExitCode::from(2)
}

/// Sets the stage, does the operation `count` times, and leaves without taking anything down.
fn operate(operation: &str, count: u64) -> bool {
    let largest = Level::new(u8::from(matches!(operation, "split_block" | "split_ahead" | "collapse_block")));
    let format = Arm64::new(48).expect("48 bits");
    let vm = Vm::new(Embedder { largest }, format, Config::default()).expect("memory");
    let mut worker = Worker::new(&vm).expect("a free place");
    if let Some(slots) = operation.strip_prefix("create_slot_") {
        return slots.parse().is_ok_and(|slots| create_last_slots(&mut worker, slots, count));
    }
    create_slots(&mut worker);
    let mut vcpu = Vcpu::new(&vm, VcpuId(0)).expect("a free place");
    link_tables(&mut vcpu);
    match operation {
        "map_4k" => (0..count).for_each(|page| fault(&mut vcpu, address(page), Access::Write)),
        "map_4k_random" => (0..count).for_each(|page| fault(&mut vcpu, address(page * 1031 % 4093), Access::Write)),
        "map_4k_logged" => {
            log(&mut worker);
            (0..count).for_each(|page| fault(&mut vcpu, address(page), Access::Write));
        }
        "spurious" => {
            map_all(&mut vcpu);
            (0..count).for_each(|page| fault(&mut vcpu, address(page), Access::Write));
        }
        "relax_dirty" => {
            map_all(&mut vcpu);
            log(&mut worker);
            (0..count).for_each(|page| fault(&mut vcpu, address(page), Access::Write));
        }
        "protect_leaf" => {
            map_all(&mut vcpu);
            measured::write_protect(&mut worker, range(BASE, count * PAGE));
        }
        "lookup" => {
            map_all(&mut vcpu);
            (0..count).for_each(|page| assert!(measured::lookup(&mut vcpu, Gpa::new(address(page)))));
        }
        "range_map_leaf" => {
            worker.top_up(BLOCKS as usize).expect("memory");
            measured::prefault(&mut worker, range(BASE + (4 << 20 << 4), count * PAGE));
        }
        "collapse_block" => {
            log(&mut worker);
            vcpu.top_up(BLOCKS as usize).expect("memory");
            (0..BLOCKS).for_each(|block| fault(&mut vcpu, BASE + block * BLOCK, Access::Write));
            stop_logging(&mut worker);
            measured::collapse(&mut worker, range(BASE, count * BLOCK));
        }
        "unmap_leaf" => {
            map_all(&mut vcpu);
            measured::unmap(&mut worker, range(BASE + PAGE, count * PAGE));
        }
        "split_block" => {
            log(&mut worker);
            vcpu.top_up(BLOCKS as usize).expect("memory");
            (0..count).for_each(|block| fault(&mut vcpu, BASE + block * BLOCK, Access::Write));
        }
        "split_ahead" => {
            worker.top_up(BLOCKS as usize).expect("memory");
            measured::split(&mut worker, range(BASE, count * BLOCK));
        }
        _ => return false,
    }
    std::mem::forget((vcpu, worker));
    std::process::exit(0)
}

fn range(start: u64, len: u64) -> GpaRange {
    GpaRange::with_len(Gpa::new(start), len).expect("inside 64 bits")
}

/// The `number`-th page that is not the last of its block: those are what links the tables.
fn address(number: u64) -> u64 {
    BASE + number / 511 * BLOCK + number % 511 * PAGE
}

fn create_slots(worker: &mut Worker<&BenchVm>) {
    for number in 0..SLOTS {
        let start = u64::from(number) << 30;
        let host = HostAddress::new(start);
        let slot = NewSlot { range: range(start, 1 << 30), host, flags: SlotFlags::default() };
        worker.create_slot(SlotId(number), slot).expect("a good slot");
    }
}

/// Of so many slots, one by one, the last `count` are counted.
fn create_last_slots(worker: &mut Worker<&BenchVm>, slots: u32, count: u64) -> bool {
    let slot = |number: u32| {
        let range = range(u64::from(number) * 2 * PAGE, PAGE);
        NewSlot { range, host: HostAddress::new(range.start().get()), flags: SlotFlags::default() }
    };
    let counted = u64::from(slots).saturating_sub(count) as u32..slots;
    (0..counted.start).for_each(|number| worker.create_slot(SlotId(number), slot(number)).expect("a good slot"));
    counted.for_each(|number| measured::create_slot(worker, SlotId(number), slot(number)));
    true
}

fn link_tables(vcpu: &mut Vcpu<&BenchVm>) {
    for block in 0..BLOCKS {
        vcpu.top_up(4).expect("memory");
        fault(vcpu, BASE + (block + 1) * BLOCK - PAGE, Access::Read);
    }
}

fn map_all(vcpu: &mut Vcpu<&BenchVm>) {
    (0..BLOCKS * 511).for_each(|page| fault(vcpu, address(page), Access::Write));
}

fn stop_logging(worker: &mut Worker<&BenchVm>) {
    let _ = worker.set_flags(SLOT, SlotFlags::default(), Budget::UNLIMITED).expect("a slot");
}

fn log(worker: &mut Worker<&BenchVm>) {
    let flags = SlotFlags { log: Some(LogMode::Protect), ..SlotFlags::default() };
    while !worker.set_flags(SLOT, flags, Budget::UNLIMITED).expect("a slot").is_done() {}
}

fn fault(vcpu: &mut Vcpu<&BenchVm>, at: u64, access: Access) {
    let outcome = measured::fault(vcpu, Gpa::new(at), access);
    assert!(
        matches!(outcome, Outcome::Mapped { .. } | Outcome::Relaxed { .. } | Outcome::Spurious),
        "{at:#x}: {outcome:?}"
    );
}
