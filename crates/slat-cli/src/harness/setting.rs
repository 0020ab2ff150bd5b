//! The parameters that all performance tests have, checked before anything is run.

use slat::addr::{Gpa, GpaRange};
use slat_machine::memory::Source;

use crate::arguments::Common;
use crate::failure::Failure;
use crate::formats;
use crate::locking::Locking;
use crate::size;

/// Most vCPUs of one run.
const MOST_VCPUS: u32 = 1024;

/// All common parameters.
#[derive(Clone, Debug)]
pub(crate) struct Setting {
    /// What `-b` says: the memory of each vCPU, or of all.
    pub(crate) bytes: u64,
    pub(crate) vcpus: Vec<u32>,
    pub(crate) lockings: Vec<Locking>,
    pub(crate) formats: Vec<&'static str>,
    pub(crate) source: Source,
    pub(crate) offset: Option<u64>,
    pub(crate) pins: Vec<usize>,
    pub(crate) verify: bool,
    pub(crate) repeat: u32,
    pub(crate) prefault: bool,
    /// No option said what to measure: the comparison that shows slat to a newcomer.
    pub(crate) is_default: bool,
}

impl Setting {
    /// Reads the options; what depends on the test's memory is [`check`](Self::check)ed afterwards.
    pub(crate) fn new(options: &Common, bytes: Option<u64>, verify: bool) -> Result<Self, Failure> {
        if options.mode.is_some() {
            return Err(Failure::option(
                "-m",
                "KVM's test chooses a guest mode with it; slat's tables are chosen with --format (see --format list)",
            ));
        }
        let is_default = options.vcpus.is_empty() && bytes.is_none() && options.locking.is_empty();
        Ok(Self {
            bytes: bytes.unwrap_or(if is_default { 64 << 20 } else { 1 << 30 }),
            vcpus: given_or(&options.vcpus, if is_default { &[1, 2, 4] } else { &[1] }),
            lockings: given_or(
                &options.locking,
                if is_default { &[Locking::Exclusive, Locking::LockFree] } else { &[Locking::LockFree] },
            ),
            formats: options.formats.iter().map(|name| formats::named(name)).collect::<Result<_, _>>()?,
            source: options.source.parse().map_err(|error| Failure::option("-s", error))?,
            offset: options.offset,
            pins: options.cpus.clone(),
            verify: verify || is_default,
            repeat: options.repeat.unwrap_or(if is_default { 3 } else { 1 }),
            prefault: options.prefault,
            is_default,
        })
    }

    /// Checks everything, given how much guest memory so many vCPUs have, and whether a test takes a copy of it.
    pub(crate) fn check(&self, bytes: impl Fn(u32) -> u64, copies: bool) -> Result<(), Failure> {
        for format in &self.formats {
            let page = formats::geometry(format)?.page_size();
            if self.bytes == 0 || !self.bytes.is_multiple_of(page) {
                let what = format!("{} bytes are not one or more whole pages of {page} ({format})", self.bytes);
                return Err(Failure::option("-b", what));
            }
        }
        if self.repeat == 0 || self.repeat > 1000 {
            return Err(Failure::option("--repeat", format!("{} times: 1 to 1000", self.repeat)));
        }
        for &vcpus in &self.vcpus {
            if vcpus == 0 || vcpus > MOST_VCPUS {
                return Err(Failure::option("-v", format!("{vcpus} vCPUs: 1 to {MOST_VCPUS}")));
            }
            for format in &self.formats {
                self.memory(format, bytes(vcpus))?;
            }
            self.check_pins(vcpus)?;
            check_available(bytes(vcpus), copies)?;
        }
        Ok(())
    }

    /// Where `bytes` of guest memory lie: from the given address on, or as high as they fit, aligned to their backing, to
    /// the leaves that may map it, and to 1 MiB.
    pub(crate) fn memory(&self, format: &str, bytes: u64) -> Result<GpaRange, Failure> {
        let geometry = formats::geometry(format)?;
        let (top, page) = (geometry.address_space().end().get(), geometry.page_size());
        let (all, end) = (size::show(bytes), size::show(top));
        let too_large = || Failure::option("-b", format!("{all} of guest memory do not fit in {end} of address space"));
        let leaf = geometry.size(self.source.largest_leaf().min(geometry.largest_leaf()));
        let alignment = self.source.page_size().max(leaf).max(1 << 20);
        let highest = top.checked_sub(bytes).ok_or_else(too_large)? & !(alignment - 1);
        let start = match self.offset {
            None => highest,
            Some(offset) if !offset.is_multiple_of(page) => {
                return Err(Failure::option("-p", format!("{offset:#x} is not a multiple of the page size, {page}")));
            }
            Some(offset) if offset > top - bytes => {
                let what = format!("from {offset:#x} on, {all} do not fit in {end} of address space");
                return Err(Failure::option("-p", what));
            }
            Some(offset) => offset,
        };
        GpaRange::with_len(Gpa::new(start), bytes).ok_or_else(too_large)
    }

    fn check_pins(&self, vcpus: u32) -> Result<(), Failure> {
        if !self.pins.is_empty() && self.pins.len() < vcpus as usize {
            let given = self.pins.len();
            return Err(Failure::option("-c", format!("{given} CPUs for {vcpus} vCPUs: name one for each")));
        }
        let cpus = core_affinity::get_core_ids().unwrap_or_default();
        match self.pins.iter().find(|pin| !cpus.iter().any(|cpu| cpu.id == **pin)) {
            Some(pin) => {
                let known = cpus.iter().map(|cpu| cpu.id.to_string()).collect::<Vec<_>>().join(", ");
                Err(Failure::option("-c", format!("there is no CPU {pin}; there are: {known}")))
            }
            None => Ok(()),
        }
    }

    /// As in KVM's tests, a CPU named beyond the vCPUs' is the main thread's.
    pub(crate) fn pin_main_thread(&self) {
        let most = self.vcpus.iter().copied().max().unwrap_or(0) as usize;
        if let Some(&id) = self.pins.get(most) {
            core_affinity::set_for_current(core_affinity::CoreId { id });
        }
    }
}

fn given_or<T: Clone>(given: &[T], default: &[T]) -> Vec<T> {
    if given.is_empty() { default } else { given }.to_vec()
}

fn check_available(bytes: u64, copies: bool) -> Result<(), Failure> {
    let wanted = if copies { bytes.saturating_mul(2) } else { bytes };
    match available_memory() {
        Some(available) if wanted > available => Err(Failure::Machine(format!(
            "error: -b: {} are needed{}, and {} are free; choose a smaller -b or -v",
            size::show(wanted),
            if copies { " (--verify takes a copy)" } else { "" },
            size::show(available & !((1 << 20) - 1)),
        ))),
        _ => Ok(()),
    }
}

/// Bytes that can be had without swapping, where the system says so.
pub(super) fn available_memory() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.trim().trim_end_matches("kB").trim().parse::<u64>().ok().map(|kib| kib << 10)
}
