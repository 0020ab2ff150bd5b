//! A guest's memory: the embedder that slat asks for.

mod backing;
mod format;
mod tables;
mod tlb;

pub(crate) use backing::{Backed, FIRST, Place, Unit};
pub(crate) use format::{FORCES_WRITE_BACK, GuestFormat, PAGE_SHIFT};
pub(crate) use tables::drain;
pub(crate) use tlb::{Features, Plant};

use core::ptr::with_exposed_provenance_mut;
use core::sync::atomic::{AtomicU16, Ordering};

use slat::format::Format;
use slat::vm::{Config, Vm};
use slat_arch::aarch64::{control, instructions};

use format::{ADDRESS_BITS, LAYOUT};

/// A VM of this hypervisor.
pub(crate) type GuestVm = Vm<Memory, GuestFormat>;

/// What the engine asks of its embedder, for one guest.
pub(crate) struct Memory {
    /// Which memory lies behind which slot.
    pub(crate) backed: Backed,
    vmid: u16,
    features: Features,
    plant: Plant,
}

/// A pointer to physical memory: EL2 has everything at its own address.
pub(crate) fn pointer<T>(address: u64) -> *mut T {
    with_exposed_provenance_mut(address as usize)
}

/// A new VM over `backed`, with a VMID that no VM had before.
pub(crate) fn new_vm(backed: Backed, plant: Plant, vcpus: usize) -> GuestVm {
    static NEXT_VMID: AtomicU16 = AtomicU16::new(1);
    let vmid = NEXT_VMID.fetch_add(1, Ordering::Relaxed);
    let features = instructions::features();
    assert!(vmid != 0 && u32::from(vmid) >> features.vmid_bits == 0, "no VMID is left");
    let memory = Memory { backed, vmid, features, plant };
    let format = GuestFormat::new(ADDRESS_BITS).unwrap_or_else(|error| panic!("{error}"));
    let config = Config { vcpus: vcpus as u32, workers: 2, ..Config::default() };
    Vm::new(memory, format, config).unwrap_or_else(|error| panic!("a VM: {error}"))
}

/// Takes whatever VM this CPU has loaded away from it: its walker reaches nothing any more.
pub(crate) fn unload() {
    /// As many tables as a root of 40 bits has at most (16 of 16 KiB), all empty.
    #[repr(C, align(0x40000))]
    struct Empty([u64; 0x8000]);
    static EMPTY: Empty = Empty([0; 0x8000]);
    let format = GuestFormat::new(ADDRESS_BITS).unwrap_or_else(|error| panic!("{error}"));
    let vtcr = control::vtcr(format.geometry(), LAYOUT.wide, &instructions::features(), false);
    let root = slat::addr::Hpa::new(&raw const EMPTY.0 as u64);
    // SAFETY: in EL2, between guests; the root is never freed, and no VM has VMID 0.
    unsafe { instructions::load_stage2(vtcr.unwrap_or_else(|error| panic!("{error}")), control::vttbr(root, 0)) };
}

/// Loads the VM's stage 2 on this CPU. Whether hardware sets the accessed flag is the caller's choice.
pub(crate) fn load(vm: &GuestVm, hardware_accessed: bool) {
    let memory = vm.host();
    let vtcr = control::vtcr(vm.format().geometry(), LAYOUT.wide, &memory.features, hardware_accessed)
        .unwrap_or_else(|error| panic!("{error}"));
    let root = vm.root().unwrap_or_else(|| panic!("the VM is gone"));
    // SAFETY: in EL2, between guests; a CPU that runs guests unloads their VM before its teardown, and the one that tears
    // down runs none.
    unsafe { instructions::load_stage2(vtcr, control::vttbr(root, memory.vmid)) };
}
