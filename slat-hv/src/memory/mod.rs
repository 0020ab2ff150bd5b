//! A guest's memory: the embedder that slat asks for.

mod backing;
mod tables;
mod tlb;

pub(crate) use backing::{Backed, FIRST, Place, Unit};
pub(crate) use tables::drain;
pub(crate) use tlb::{Features, Plant};

use core::ptr::with_exposed_provenance_mut;
use core::sync::atomic::{AtomicU16, Ordering};

use slat::format::{Arm64, Format};
use slat::vm::{Config, Vm};
use slat_arch::aarch64::{control, instructions};

/// A VM of this hypervisor.
pub(crate) type GuestVm = Vm<Memory, Arm64>;

/// Bits of guest physical addresses.
const ADDRESS_BITS: u32 = 40;

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
    let format = Arm64::new(ADDRESS_BITS).unwrap_or_else(|error| panic!("{error}"));
    let config = Config { vcpus: vcpus as u32, workers: 2, ..Config::default() };
    Vm::new(memory, format, config).unwrap_or_else(|error| panic!("a VM: {error}"))
}

/// Loads the VM's stage 2 on this CPU. Whether hardware sets the accessed flag is the caller's choice.
pub(crate) fn load(vm: &GuestVm, hardware_accessed: bool) {
    let memory = vm.host();
    let vtcr = control::vtcr(vm.format().geometry(), memory.features, hardware_accessed)
        .unwrap_or_else(|error| panic!("{error}"));
    let root = vm.root().unwrap_or_else(|| panic!("the VM is gone"));
    // SAFETY: in EL2, between guests; the root stays until teardown, which no guest outlives.
    unsafe { instructions::load_stage2(vtcr, control::vttbr(root, memory.vmid)) };
}
