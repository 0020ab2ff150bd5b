//! A vCPU: runs its guest, and has slat serve its faults.

use core::fmt;
use core::sync::atomic::{AtomicU64, Ordering};

use slat::addr::{Gpa, Level};
use slat::host::{Access, VcpuId};
use slat::sync::Padded;
use slat::vm::{Outcome, Vcpu};
use slat_arch::aarch64::abort::{self, Abort};
use slat_arch::aarch64::instructions;

use crate::cpu::{self, CPUS, read_register};
use crate::memory::GuestVm;
use crate::vectors::{Reason, Registers, run_guest};

/// Why a guest's run ended, for now. The guest goes on where it was when it is run again.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Exit {
    /// It called the hypervisor, with this number.
    Call(u64),
    /// It called the firmware.
    Firmware,
    /// It accessed an address that no slot has.
    Unmapped(Gpa, Access),
    /// A fault that slat refused, or that is no fault of stage 2's.
    Failed(Failure),
}

/// What cannot be gone on from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Failure {
    /// slat's answer to a fault.
    Refused(Gpa, Access, Outcome),
    /// There is no memory for tables.
    NoTables,
    /// An exception that nobody expected, by ESR_EL2.
    Unexpected(u64),
    /// A system error.
    SystemError,
}

/// What a vCPU's faults came to.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Counts {
    /// Pages, blocks and larger ones mapped.
    pub(crate) mapped: [u64; Level::COUNT],
    /// Leaves that became writable.
    pub(crate) relaxed: [u64; Level::COUNT],
    /// Leaves that became accessed.
    pub(crate) accessed: u64,
    /// Faults with nothing to do.
    pub(crate) spurious: u64,
    /// Faults that met somebody else's work.
    pub(crate) retried: u64,
    /// Times that tables were got.
    pub(crate) refilled: u64,
    /// Instructions that its CPU executed in EL2 while it ran, where they were counted.
    pub(crate) instructions: u64,
    /// Ticks that the longest fault took, and what it was.
    pub(crate) worst: (u64, &'static str),
}

/// The counters of one CPU's vCPU: one writer, read by anybody.
struct Live {
    mapped: [AtomicU64; Level::COUNT],
    relaxed: [AtomicU64; Level::COUNT],
    accessed: AtomicU64,
    spurious: AtomicU64,
    retried: AtomicU64,
    refilled: AtomicU64,
    worst: AtomicU64,
    worst_kind: AtomicU64,
}

static LIVE: [Padded<Live>; CPUS] = [const { Padded(Live::new()) }; CPUS];

/// What a fault came to, as `Live::worst_kind` has it.
const KINDS: [&str; 8] =
    ["none", "made writable", "mapped", "spurious", "accessed", "retried", "getting tables", "refused"];

/// One more. The caller is the only writer.
#[inline(always)]
fn bump(counter: &AtomicU64) {
    counter.store(counter.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
}

impl Live {
    const fn new() -> Self {
        Self {
            mapped: [const { AtomicU64::new(0) }; Level::COUNT],
            relaxed: [const { AtomicU64::new(0) }; Level::COUNT],
            accessed: AtomicU64::new(0),
            spurious: AtomicU64::new(0),
            retried: AtomicU64::new(0),
            refilled: AtomicU64::new(0),
            worst: AtomicU64::new(0),
            worst_kind: AtomicU64::new(0),
        }
    }

    fn all(&self) -> impl Iterator<Item = &AtomicU64> {
        let others = [&self.accessed, &self.spurious, &self.retried, &self.refilled, &self.worst, &self.worst_kind];
        self.mapped.iter().chain(&self.relaxed).chain(others)
    }

    fn counts(&self) -> Counts {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Counts {
            mapped: self.mapped.each_ref().map(read),
            relaxed: self.relaxed.each_ref().map(read),
            accessed: read(&self.accessed),
            spurious: read(&self.spurious),
            retried: read(&self.retried),
            refilled: read(&self.refilled),
            instructions: 0,
            worst: (read(&self.worst), KINDS[read(&self.worst_kind) as usize]),
        }
    }
}

/// The faults of the vCPU that CPU `cpu` runs, so far.
pub(crate) fn counts_of(cpu: usize) -> Counts {
    LIVE[cpu].counts()
}

impl Counts {
    /// All faults.
    pub(crate) fn faults(&self) -> u64 {
        let sizes = self.mapped.iter().chain(&self.relaxed).sum::<u64>();
        sizes + self.accessed + self.spurious + self.retried
    }

    /// Adds another vCPU's.
    pub(crate) fn add(&mut self, other: &Self) {
        for level in 0..Level::COUNT {
            self.mapped[level] += other.mapped[level];
            self.relaxed[level] += other.relaxed[level];
        }
        self.accessed += other.accessed;
        self.spurious += other.spurious;
        self.retried += other.retried;
        self.refilled += other.refilled;
        self.instructions += other.instructions;
        self.worst = self.worst.max(other.worst);
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [pages, blocks, gigabytes, ..] = self.mapped;
        let [relaxed, relaxed_blocks, ..] = self.relaxed;
        write!(
            f,
            "mapped 4K {pages}, 2M {blocks}, 1G {gigabytes}; made writable 4K {relaxed}, 2M {relaxed_blocks}; \
             accessed {}, spurious {}, retried {}",
            self.accessed, self.spurious, self.retried
        )
    }
}

/// One vCPU, on the CPU that runs it.
pub(crate) struct Guest<'v> {
    vcpu: Vcpu<&'v GuestVm>,
    /// Its general registers.
    pub(crate) registers: Registers,
    live: &'static Live,
    /// Whether faults are timed: reading the counter costs an emulator more than the fault.
    timed: bool,
}

impl<'v> Guest<'v> {
    /// vCPU `number` of `vm`, which this CPU has loaded, with the tables of its first faults.
    pub(crate) fn new(vm: &'v GuestVm, number: usize) -> Self {
        let mut vcpu = Vcpu::new(vm, VcpuId(number as u32)).unwrap_or_else(|error| panic!("vCPU {number}: {error}"));
        let tables = vcpu.tables_per_fault();
        vcpu.top_up(tables).unwrap_or_else(|error| panic!("vCPU {number}: {error}"));
        let live = &LIVE[cpu::number()].0;
        live.all().for_each(|counter| counter.store(0, Ordering::Relaxed));
        Self { vcpu, registers: Registers::default(), live, timed: false }
    }

    /// The same, with its faults timed.
    pub(crate) fn timed(self) -> Self {
        Self { timed: true, ..self }
    }

    /// Runs the guest until something happens that is not slat's to settle.
    pub(crate) fn run(&mut self) -> Exit {
        loop {
            // SAFETY: in EL2, with this VM's stage 2 loaded.
            let exit = match unsafe { run_guest(&mut self.registers) } {
                Reason::Synchronous => self.synchronous(),
                Reason::Interrupt => {
                    crate::interrupts::acknowledge();
                    None
                }
                Reason::SystemError => Some(Exit::Failed(Failure::SystemError)),
            };
            if let Some(exit) = exit {
                return exit;
            }
        }
    }

    #[inline(always)]
    fn synchronous(&mut self) -> Option<Exit> {
        let syndrome = read_register!("esr_el2");
        match Abort::decode(syndrome) {
            Some(abort) => self.abort(abort, syndrome),
            None => Some(other(syndrome)),
        }
    }

    /// The address first, then slat; the guest tries again in any case but those that slat cannot settle.
    #[inline(always)]
    fn abort(&mut self, abort: Abort, syndrome: u64) -> Option<Exit> {
        if matches!(abort.cause, abort::Cause::Other(_)) {
            return Some(Exit::Failed(Failure::Unexpected(syndrome)));
        }
        let begun = if self.timed { cpu::ticks() } else { 0 };
        let gpa = address(abort)?;
        let outcome = self.vcpu.fault(gpa, abort.access);
        let (exit, kind) = self.settle(gpa, abort.access, outcome);
        if self.timed {
            self.note(cpu::ticks().wrapping_sub(begun), kind);
        }
        exit
    }

    /// A fault of this kind took so many ticks.
    #[cold]
    fn note(&mut self, took: u64, kind: u64) {
        if took > self.live.worst.load(Ordering::Relaxed) {
            self.live.worst.store(took, Ordering::Relaxed);
            self.live.worst_kind.store(kind, Ordering::Relaxed);
        }
    }

    /// Acts on slat's answer, and says what kind of answer it was.
    #[inline(always)]
    fn settle(&mut self, gpa: Gpa, access: Access, outcome: Outcome) -> (Option<Exit>, u64) {
        let live = self.live;
        let (counter, kind) = match outcome {
            Outcome::Relaxed { level } => (&live.relaxed[level.index()], 1),
            Outcome::Mapped { level, .. } => (&live.mapped[level.index()], 2),
            Outcome::Spurious => (&live.spurious, 3),
            Outcome::Accessed { .. } => (&live.accessed, 4),
            Outcome::Retry => (&live.retried, 5),
            Outcome::NeedTables(tables) => {
                bump(&live.refilled);
                return (self.refill(tables.into()), 6);
            }
            Outcome::NoSlot => return (Some(Exit::Unmapped(gpa, access)), 7),
            refused => return (Some(Exit::Failed(Failure::Refused(gpa, access, refused))), 7),
        };
        bump(counter);
        (None, kind)
    }

    /// Its faults so far.
    pub(crate) fn counts(&self) -> Counts {
        self.live.counts()
    }

    /// Gets at least `tables` tables, and some more while it is at it; the guest faults again.
    #[cold]
    fn refill(&mut self, tables: usize) -> Option<Exit> {
        let most = tables.max(TABLES_AT_ONCE);
        match self.vcpu.top_up(most).or_else(|_| self.vcpu.top_up(tables)) {
            Ok(()) => None,
            Err(_) => Some(Exit::Failed(Failure::NoTables)),
        }
    }
}

/// Tables got at a time.
const TABLES_AT_ONCE: usize = 8;

/// The guest physical address of the abort; `None` if the guest's own tables have changed meanwhile.
#[inline(always)]
fn address(abort: Abort) -> Option<Gpa> {
    let far = read_register!("far_el2");
    if abort.has_address() {
        return Some(abort::faulting_address(read_register!("hpfar_el2"), far));
    }
    // SAFETY: in EL2, the guest's registers are loaded.
    abort::translated_address(unsafe { instructions::translate(far) }, far)
}

/// Calls, and what nobody expects.
#[cold]
fn other(syndrome: u64) -> Exit {
    match syndrome >> 26 & 0x3f {
        0x16 => Exit::Call(syndrome & 0xffff),
        0x17 => {
            cpu::skip_instruction();
            Exit::Firmware
        }
        _ => Exit::Failed(Failure::Unexpected(syndrome)),
    }
}
