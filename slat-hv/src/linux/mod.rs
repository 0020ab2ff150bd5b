//! Linux as a guest: unmodified, with the machine's devices and interrupts for itself, while its memory is logged, collapsed
//! and moved under it.

mod calls;
mod image;
mod manager;
mod report;

use alloc::boxed::Box;
use alloc::vec;
use core::ops::Range;
use core::sync::atomic::{AtomicBool, AtomicPtr, Ordering};

use slat::addr::{Gpa, GpaRange};
use slat::host::SlotId;
use slat::vm::{NewSlot, SlotFlags, Worker};

use crate::arguments::Arguments;
use crate::console::say;
use crate::cpu;
use crate::firmware;
use crate::interrupts;
use crate::lock::Lock;
use crate::machine::Machine;
use crate::memory::{self, Backed, GuestVm, Place, Plant, Unit};
use crate::vcpu::{Exit, Guest};

use calls::Starts;
use image::Kernel;
use manager::Journal;

/// The slot of the guest's memory.
const MEMORY: SlotId = SlotId(0);
/// The slot of the machine's devices, which lie below its memory.
const DEVICES: SlotId = SlotId(1);
const DEVICES_END: u64 = 0x4000_0000;
/// Where the guest's memory begins, for itself: where the machine's does.
const MEMORY_GPA: u64 = DEVICES_END;

/// The guest, as all CPUs see it.
struct Linux {
    vm: GuestVm,
    unit: Unit,
    vcpus: usize,
    range: GpaRange,
    starts: Starts,
    journal: Lock<Journal>,
    /// The guest is powering off.
    ending: AtomicBool,
    /// The CPU that manages its memory has stopped doing so.
    managed: AtomicBool,
}

static LINUX: AtomicPtr<Linux> = AtomicPtr::new(core::ptr::null_mut());

/// The guest, if there is one.
fn guest() -> Option<&'static Linux> {
    // SAFETY: set once, to what lives for ever.
    unsafe { LINUX.load(Ordering::Acquire).as_ref() }
}

/// Whether CPUs that start are Linux's, or manage it.
pub(crate) fn is_running() -> bool {
    guest().is_some()
}

/// Boots Linux on this CPU, and has the last CPU manage its memory.
pub(crate) fn run(machine: Machine, arguments: Arguments) -> bool {
    let vcpus: usize = arguments.value("vcpus", 1);
    assert!(vcpus < machine.cpus, "{vcpus} vCPUs want {} CPUs, there are {}", vcpus + 1, machine.cpus);
    let bytes = arguments.value("mebibytes", 512u64) << 20;
    let unit = match arguments.text("pages") {
        Some("2m") => Unit::BLOCK,
        None | Some("4k") => Unit::PAGE,
        Some(other) => panic!("slat.pages={other}: 4k or 2m"),
    };
    let loaded = |key| arguments.range(key).unwrap_or_else(|| panic!("slat.{key}=ADDRESS,BYTES is missing"));
    let (kernel, disk): (Range<u64>, _) = (loaded("kernel"), loaded("initrd"));
    let place = Place::movable(unit, bytes).unwrap_or_else(|| panic!("not enough memory in the machine"));
    let backed = Backed(vec![place, Place::Devices { end: DEVICES_END }]);
    let kernel = Kernel::load(&backed, kernel, disk, machine.tree);
    let linux = Linux::new(memory::new_vm(backed, Plant::Nothing, vcpus), unit, vcpus, bytes);
    say!("slat-hv: linux: {vcpus} vCPUs, {} MiB in units of {} KiB", bytes >> 20, unit.bytes() >> 10);
    LINUX.store(Box::leak(Box::new(linux)), Ordering::Release);
    firmware::turn_on(vcpus).unwrap_or_else(|error| panic!("CPU {vcpus} does not start: {error:#x}"));
    let linux = guest().unwrap_or_else(|| panic!("no guest"));
    linux.run_vcpu(0, kernel.entry, kernel.tree)
}

/// Where CPUs go that are turned on while Linux runs.
pub(crate) fn secondary(cpu: usize) -> ! {
    let linux = guest().unwrap_or_else(|| panic!("no guest"));
    if cpu == linux.vcpus {
        memory::load(&linux.vm, true);
        interrupts::start_cpu();
        manager::manage(linux)
    }
    let (entry, context) = linux.starts.taken(cpu);
    linux.run_vcpu(cpu, entry, context)
}

impl Linux {
    fn new(vm: GuestVm, unit: Unit, vcpus: usize, bytes: u64) -> Self {
        let range = |start, bytes| GpaRange::with_len(Gpa::new(start), bytes).unwrap_or_default();
        let mut worker = Worker::new(&vm).unwrap_or_else(|error| panic!("a worker: {error}"));
        for (id, range) in [(MEMORY, range(MEMORY_GPA, bytes)), (DEVICES, range(0, DEVICES_END))] {
            let slot = NewSlot { range, host: memory::FIRST, flags: SlotFlags::default() };
            worker.create_slot(id, slot).unwrap_or_else(|error| panic!("{id}: {error}"));
        }
        drop(worker);
        let (starts, journal) = (Starts::new(), Lock::new(Journal::default()));
        let (ending, managed) = (AtomicBool::new(false), AtomicBool::new(false));
        Self { vm, unit, vcpus, range: range(MEMORY_GPA, bytes), starts, journal, ending, managed }
    }

    /// Runs a vCPU on this CPU until it turns itself, or the machine, off.
    fn run_vcpu(&'static self, number: usize, entry: u64, context: u64) -> ! {
        memory::load(&self.vm, true);
        interrupts::allow_system_registers();
        cpu::prepare_for(cpu::Kind::Whole);
        let mut guest = Guest::new(&self.vm, number).timed();
        guest.registers.x[0] = context;
        cpu::start_guest_at(entry);
        loop {
            match guest.run() {
                Exit::Firmware if guest.registers.x[0] == firmware::function::CPU_OFF => break,
                Exit::Firmware => calls::serve(self, &mut guest.registers),
                exit => panic!("vCPU {number}: {exit:x?}"),
            }
        }
        drop(guest); // before the CPU is gone: its place is free for when it is turned on again
        firmware::turn_off()
    }
}
