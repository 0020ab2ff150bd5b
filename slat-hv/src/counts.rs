//! What vCPUs' faults came to.

use core::fmt;
use core::sync::atomic::{AtomicU64, Ordering};

use slat::addr::Level;
use slat::sync::Padded;

use crate::cpu::{self, CPUS};

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
pub(crate) struct Live {
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

/// What a fault came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    Relaxed,
    Mapped,
    Spurious,
    Accessed,
    Retried,
    /// It wanted tables.
    Refilled,
    /// It was not slat's to settle.
    Refused,
}

impl Kind {
    const ALL: [Self; 7] =
        [Self::Relaxed, Self::Mapped, Self::Spurious, Self::Accessed, Self::Retried, Self::Refilled, Self::Refused];

    const fn name(self) -> &'static str {
        match self {
            Self::Relaxed => "made writable",
            Self::Mapped => "mapped",
            Self::Spurious => "spurious",
            Self::Accessed => "accessed",
            Self::Retried => "retried",
            Self::Refilled => "getting tables",
            Self::Refused => "refused",
        }
    }
}

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

    /// The counters of this CPU.
    pub(crate) fn of_this_cpu() -> &'static Self {
        &LIVE[cpu::number()].0
    }

    /// From zero on.
    pub(crate) fn reset(&self) {
        self.all().for_each(|counter| counter.store(0, Ordering::Relaxed));
    }

    /// A fault of this kind, of a leaf of `level` where it was about one.
    #[inline(always)]
    pub(crate) fn count(&self, kind: Kind, level: Level) {
        match kind {
            Kind::Relaxed => bump(&self.relaxed[level.index()]),
            Kind::Mapped => bump(&self.mapped[level.index()]),
            Kind::Spurious => bump(&self.spurious),
            Kind::Accessed => bump(&self.accessed),
            Kind::Retried => bump(&self.retried),
            Kind::Refilled => bump(&self.refilled),
            Kind::Refused => {}
        }
    }

    /// A fault of this kind took so many ticks.
    #[cold]
    pub(crate) fn note(&self, took: u64, kind: Kind) {
        if took > self.worst.load(Ordering::Relaxed) {
            self.worst.store(took, Ordering::Relaxed);
            self.worst_kind.store(kind as u64, Ordering::Relaxed);
        }
    }

    fn all(&self) -> impl Iterator<Item = &AtomicU64> {
        let others = [&self.accessed, &self.spurious, &self.retried, &self.refilled, &self.worst, &self.worst_kind];
        self.mapped.iter().chain(&self.relaxed).chain(others)
    }

    /// What they say.
    pub(crate) fn counts(&self) -> Counts {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Counts {
            mapped: self.mapped.each_ref().map(read),
            relaxed: self.relaxed.each_ref().map(read),
            accessed: read(&self.accessed),
            spurious: read(&self.spurious),
            retried: read(&self.retried),
            refilled: read(&self.refilled),
            instructions: 0,
            worst: (read(&self.worst), Kind::ALL[read(&self.worst_kind) as usize].name()),
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
