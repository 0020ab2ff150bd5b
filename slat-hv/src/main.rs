//! slat-hv: a bare-metal hypervisor that runs its guests on slat, under a CPU's own page walker.
//!
//! It boots in EL2 on QEMU's `virt` machine and does one of three things, as its arguments say: a suite that checks itself
//! (`suite`), Debian's Linux (`linux`), and a test of the dirty log's speed (`dirty_log`). `docs/embedding.md` walks through
//! it.

#![no_std]
#![no_main]

extern crate alloc;

mod arguments;
#[allow(unsafe_code)]
mod boot;
#[allow(unsafe_code)]
mod clock;
#[allow(unsafe_code)]
mod console;
mod counts;
#[allow(unsafe_code)]
mod cpu;
mod dirty_log;
#[allow(unsafe_code)]
mod firmware;
#[allow(unsafe_code)]
mod frames;
#[allow(unsafe_code)]
mod heap;
#[allow(unsafe_code)]
mod interrupts;
#[allow(unsafe_code)]
mod linux;
#[allow(unsafe_code)]
mod lock;
#[allow(unsafe_code)]
mod machine;
#[allow(unsafe_code)]
mod memory;
#[allow(unsafe_code)]
mod mmu;
#[allow(unsafe_code)]
mod payload;
mod stage;
mod suite;
#[allow(unsafe_code)]
mod team;
#[allow(unsafe_code)]
mod vcpu;
#[allow(unsafe_code)]
mod vectors;

use arguments::Arguments;
use console::say;
use machine::Machine;

/// Bytes from the beginning of memory that the loader uses: the device tree, the hypervisor, a kernel and its RAM disk.
const LOADED: u64 = 256 << 20;

/// Where the boot CPU goes.
extern "C" fn boot_main(_cpu: usize) -> ! {
    let machine = match Machine::discover() {
        Ok(machine) => machine,
        // There is no console to say why.
        Err(_) => firmware::power_off(2),
    };
    console::set_base(machine.console as usize);
    if !slat_arch::aarch64::instructions::features().atomics {
        console::print_unlocked(format_args!("slat-hv: the CPU has no atomic instructions (FEAT_LSE)"));
        firmware::power_off(3);
    }
    frames::take_over(machine.memory.clone(), machine.memory.start + LOADED);
    assert!(machine.image_end <= machine.memory.start + LOADED);
    interrupts::start(machine.distributor, machine.redistributors);
    let arguments = Arguments(machine.arguments);
    let passed = match arguments.text("mode") {
        Some("suite") => suite::run(&machine, arguments),
        Some("dirty-log") => dirty_log::run(&machine, arguments),
        Some("linux") => linux::run(machine, arguments),
        other => panic!("slat.mode={other:?}: suite, dirty-log or linux"),
    };
    firmware::power_off(if passed { 0 } else { 1 })
}

/// Where the other CPUs go.
extern "C" fn secondary_main(cpu: usize) -> ! {
    if linux::is_running() {
        linux::secondary(cpu);
    }
    interrupts::start_cpu();
    team::serve(cpu)
}

#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    say!("slat-hv: panic on CPU {}: {info}", cpu::number());
    firmware::power_off(101)
}
