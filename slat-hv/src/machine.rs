//! What the device tree says about the machine.

use core::ops::Range;

use fdt::Fdt;

use crate::cpu::CPUS;

unsafe extern "C" {
    /// Where the emulator puts the device tree; see `link.ld`.
    static DEVICE_TREE: u8;
    static __image_end: u8;
}

/// The machine.
#[derive(Clone, Debug)]
pub(crate) struct Machine {
    /// The device tree itself, for guests that want it.
    pub(crate) tree: &'static [u8],
    /// All memory.
    pub(crate) memory: Range<u64>,
    /// The first byte behind device tree and hypervisor.
    pub(crate) image_end: u64,
    /// CPUs.
    pub(crate) cpus: usize,
    /// The serial port.
    pub(crate) console: u64,
    /// The interrupt controller's distributor.
    pub(crate) distributor: u64,
    /// The first of its redistributors.
    pub(crate) redistributors: u64,
    /// What the machine was started with.
    pub(crate) arguments: &'static str,
}

impl Machine {
    /// Reads the device tree; the error says what is missing.
    pub(crate) fn discover() -> Result<Self, &'static str> {
        // SAFETY: the emulator put a device tree there, and nothing writes to it.
        let fdt = unsafe { Fdt::from_ptr(&raw const DEVICE_TREE) }.map_err(|_| "no device tree")?;
        let size = fdt.total_size();
        // SAFETY: as above; the tree says how long it is.
        let tree = unsafe { core::slice::from_raw_parts(&raw const DEVICE_TREE, size) };
        let region = fdt.memory().regions().next().ok_or("no memory in the device tree")?;
        let start = region.starting_address as u64;
        let bytes = region.size.ok_or("memory without a size in the device tree")? as u64;
        let address = |compatible: &str, index: usize| {
            let node = fdt.find_compatible(&[compatible])?;
            node.reg()?.nth(index).map(|register| register.starting_address as u64)
        };
        Ok(Self {
            tree,
            memory: start..start + bytes,
            image_end: &raw const __image_end as u64,
            cpus: fdt.cpus().count().min(CPUS),
            console: address("arm,pl011", 0).ok_or("no PL011 in the device tree")?,
            distributor: address("arm,gic-v3", 0).ok_or("no GICv3 in the device tree")?,
            redistributors: address("arm,gic-v3", 1).ok_or("no redistributors in the device tree")?,
            arguments: fdt.chosen().bootargs().unwrap_or_default(),
        })
    }
}
