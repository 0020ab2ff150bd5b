//! What a call of `slat dirty-log` asks for, checked before anything is run.

use slat::addr::Gpa;
use slat_machine::memory::Source;
use slat_machine::program::{Order, Program};

use crate::arguments::{DirtyLog, Plant};
use crate::failure::Failure;
use crate::formats;
use crate::locking::Locking;
use crate::size;

/// Most vCPUs of one run.
const MOST_VCPUS: u32 = 1024;
/// Most slots: what KVM has for users.
const MOST_SLOTS: u32 = 32_764;
pub(crate) const PAGE: u64 = 4096;

/// All parameters, valid.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) vcpus: Vec<u32>,
    pub(crate) lockings: Vec<Locking>,
    pub(crate) format: String,
    pub(crate) bytes_per_vcpu: u64,
    pub(crate) source: Source,
    pub(crate) slots: u32,
    pub(crate) iterations: u32,
    pub(crate) order: Order,
    pub(crate) write_percent: u32,
    pub(crate) seed: u64,
    pub(crate) overlap: bool,
    pub(crate) offset: Option<u64>,
    pub(crate) manual: bool,
    pub(crate) run_while_disabling: bool,
    pub(crate) pins: Vec<usize>,
    pub(crate) verify: bool,
    pub(crate) repeat: u32,
    pub(crate) plant: Option<Plant>,
    /// No option said what to measure: the comparison that shows slat to a newcomer.
    pub(crate) is_default: bool,
}

impl Plan {
    pub(crate) fn new(options: &DirtyLog) -> Result<Self, Failure> {
        refuse_what_slat_has_not(options)?;
        let is_default = options.vcpus.is_empty() && options.bytes.is_none() && options.locking.is_empty();
        let or = |given: &[Locking], default: &[Locking]| if given.is_empty() { default } else { given }.to_vec();
        let plan = Self {
            vcpus: match (&options.vcpus[..], is_default) {
                ([], true) => vec![1, 2, 4],
                ([], false) => vec![1],
                (given, _) => given.to_vec(),
            },
            lockings: match is_default {
                true => vec![Locking::Exclusive, Locking::LockFree],
                false => or(&options.locking, &[Locking::LockFree]),
            },
            format: options.format.clone(),
            bytes_per_vcpu: options.bytes.unwrap_or(if is_default { 64 << 20 } else { 1 << 30 }),
            source: options.source.parse().map_err(|error| Failure::option("-s", error))?,
            slots: options.slots,
            iterations: options.iterations,
            order: if options.random { Order::Random } else { Order::Sequential },
            write_percent: options.write_percent,
            seed: options.seed,
            overlap: options.overlap,
            offset: options.offset,
            manual: !options.no_manual_protect,
            run_while_disabling: options.run_while_disabling,
            pins: options.cpus.clone(),
            verify: options.verify || is_default,
            repeat: options.repeat.unwrap_or(if is_default { 3 } else { 1 }),
            plant: options.plant,
            is_default,
        };
        plan.check()?;
        Ok(plan)
    }

    /// Bytes of guest memory with this many vCPUs.
    pub(crate) fn bytes(&self, vcpus: u32) -> u64 {
        if self.overlap { self.bytes_per_vcpu } else { self.bytes_per_vcpu.saturating_mul(u64::from(vcpus)) }
    }

    /// Where the memory begins: the given address, or as high as it fits, aligned to its backing and to 1 MiB.
    pub(crate) fn base(&self, vcpus: u32) -> Result<Gpa, Failure> {
        let top = 1u64 << formats::address_bits(&self.format)?;
        let alignment = self.source.page_size().max(1 << 20);
        let bytes = self.bytes(vcpus);
        let too_large = || {
            let (bytes, top) = (size::show(bytes), size::show(top));
            Failure::option("-b", format!("{bytes} of guest memory do not fit in {top} of address space"))
        };
        let highest = top.checked_sub(bytes).ok_or_else(too_large)? & !(alignment - 1);
        match self.offset {
            None => Ok(Gpa::new(highest)),
            Some(offset) if !offset.is_multiple_of(PAGE) => {
                Err(Failure::option("-p", format!("{offset:#x} is not a multiple of the page size, {PAGE}")))
            }
            Some(offset) if offset > top - bytes => Err(Failure::option(
                "-p",
                format!(
                    "from {offset:#x} on, {} do not fit in {} of address space",
                    size::show(bytes),
                    size::show(top)
                ),
            )),
            Some(offset) => Ok(Gpa::new(offset)),
        }
    }

    /// The program that the vCPUs run.
    pub(crate) fn program(&self, vcpus: u32) -> Result<Program, Failure> {
        Ok(Program {
            base: self.base(vcpus)?,
            page_size: PAGE,
            vcpus,
            bytes_per_vcpu: self.bytes_per_vcpu,
            overlap: self.overlap,
            order: self.order,
            write_percent: self.write_percent,
            seed: self.seed,
        })
    }

    fn check(&self) -> Result<(), Failure> {
        let bytes = self.bytes_per_vcpu;
        if bytes == 0 || !bytes.is_multiple_of(PAGE) {
            return Err(Failure::option("-b", format!("{bytes} bytes are not one or more whole pages of {PAGE}")));
        }
        if self.iterations < 2 {
            return Err(Failure::option("-i", format!("{} iterations are too few: at least 2", self.iterations)));
        }
        if self.write_percent > 100 {
            return Err(Failure::option("-w", format!("{} percent: 0 to 100", self.write_percent)));
        }
        if self.repeat == 0 || self.repeat > 1000 {
            return Err(Failure::option("--repeat", format!("{} times: 1 to 1000", self.repeat)));
        }
        if self.slots == 0 || self.slots > MOST_SLOTS {
            return Err(Failure::option("-x", format!("{} slots: 1 to {MOST_SLOTS}", self.slots)));
        }
        for &vcpus in &self.vcpus {
            self.check_with(vcpus)?;
        }
        Ok(())
    }

    fn check_with(&self, vcpus: u32) -> Result<(), Failure> {
        if vcpus == 0 || vcpus > MOST_VCPUS {
            return Err(Failure::option("-v", format!("{vcpus} vCPUs: 1 to {MOST_VCPUS}")));
        }
        self.base(vcpus)?;
        let pages = self.bytes(vcpus) / PAGE;
        if !pages.is_multiple_of(u64::from(self.slots)) {
            return Err(Failure::option("-x", format!("{} slots do not divide {pages} pages evenly", self.slots)));
        }
        if !self.pins.is_empty() && self.pins.len() < vcpus as usize {
            let given = self.pins.len();
            return Err(Failure::option("-c", format!("{given} CPUs for {vcpus} vCPUs: name one for each")));
        }
        self.check_pins()?;
        self.check_memory(vcpus)
    }

    fn check_pins(&self) -> Result<(), Failure> {
        let cpus = core_affinity::get_core_ids().unwrap_or_default();
        match self.pins.iter().find(|pin| !cpus.iter().any(|cpu| cpu.id == **pin)) {
            Some(pin) => {
                let known = cpus.iter().map(|cpu| cpu.id.to_string()).collect::<Vec<_>>().join(", ");
                Err(Failure::option("-c", format!("there is no CPU {pin}; there are: {known}")))
            }
            None => Ok(()),
        }
    }

    fn check_memory(&self, vcpus: u32) -> Result<(), Failure> {
        let bytes = self.bytes(vcpus);
        let wanted = if self.verify { bytes.saturating_mul(2) } else { bytes };
        match available_memory() {
            Some(available) if wanted > available => Err(Failure::Machine(format!(
                "error: -b: {} are needed{}, and {} are free; choose a smaller -b or -v",
                size::show(wanted),
                if self.verify { " (--verify takes a copy)" } else { "" },
                size::show(available & !((1 << 20) - 1)),
            ))),
            _ => Ok(()),
        }
    }
}

fn refuse_what_slat_has_not(options: &DirtyLog) -> Result<(), Failure> {
    if options.mode.is_some() {
        return Err(Failure::option(
            "-m",
            "KVM's test chooses a guest mode with it; slat's tables are chosen with --format (see --format list)",
        ));
    }
    if options.nested {
        return Err(Failure::option(
            "-n",
            "KVM's test runs its guest nested with it; slat's machine has no nested guests",
        ));
    }
    Ok(())
}

/// Bytes that can be had without swapping, where the system says so.
pub(crate) fn available_memory() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.trim().trim_end_matches("kB").trim().parse::<u64>().ok().map(|kib| kib << 10)
}
