//! RISC-V G-stage, read from The RISC-V Instruction Set Manual, volume II: the chapter on the H extension ("hgatp",
//! "Guest Physical Address Translation", "Guest-Page Faults", "Trap Cause Codes") and, for what it refers to, the chapter
//! on supervisor mode (the algorithm of "Virtual Address Translation Process", the entries of Sv39, Sv48 and Sv57) and
//! those on Svade, Svadu, Svpbmt and Svnapot.
//!
//! Modelled: Sv39x4, Sv48x4 and Sv57x4 with the root widened by two bits, leaves at every level, accessed and dirty flags
//! that fault (Svade) or that the hart sets (Svadu), memory types of Svpbmt or their bits reserved, sets of
//! 64 KiB (Svnapot) or their bit reserved, and the exceptions that report it. Not modelled: Sv32x4.
//!
//! The manual counts levels from the leaf, as this crate does.

use slat::addr::{Gpa, Hpa, Level};
use slat::host::{Access, Permissions};

use super::{Fault, FaultKind, Memory, Step, Translation, Walker};
use crate::maintenance::Maintenance;

/// `hgatp.MODE`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    /// 8: three levels.
    Sv39x4,
    /// 9: four levels.
    Sv48x4,
    /// 10: five levels.
    Sv57x4,
}

impl Mode {
    const fn encoding(self) -> u64 {
        match self {
            Self::Sv39x4 => 8,
            Self::Sv48x4 => 9,
            Self::Sv57x4 => 10,
        }
    }

    const fn root(self) -> Level {
        match self {
            Self::Sv39x4 => Level::new(2),
            Self::Sv48x4 => Level::new(3),
            Self::Sv57x4 => Level::new(4),
        }
    }

    /// Bits of a guest physical address: two more than the virtual addresses of the mode's namesake have.
    const fn guest_bits(self) -> u32 {
        match self {
            Self::Sv39x4 => 41,
            Self::Sv48x4 => 50,
            Self::Sv57x4 => 59,
        }
    }
}

/// What a hart can do, and is told to (`menvcfg.ADUE`, `menvcfg.PBMTE`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Hart {
    /// Svadu is on: the hart sets accessed and dirty flags. Off, their absence is a fault (Svade).
    pub updates_flags: bool,
    /// Svnapot: bit 63 of a page's leaf makes it one of a set of 64 KiB. Without it, the bit is reserved.
    pub naturally_aligned_sets: bool,
    /// Svpbmt is on: bits 62:61 of a leaf are the memory type. Off, they are reserved.
    pub memory_types: bool,
}

impl Default for Hart {
    /// Flags that fault, no sets, memory types that count.
    fn default() -> Self {
        Self { updates_flags: false, naturally_aligned_sets: false, memory_types: true }
    }
}

/// The walker of the G-stage.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct GStage {
    mode: Mode,
    hart: Hart,
}

/// A page-table entry.
#[derive(Clone, Copy)]
struct Pte(u64);

impl Pte {
    const fn bits(self, high: u32, low: u32) -> u64 {
        self.0 << (63 - high) >> (63 - high + low)
    }

    const fn bit(self, number: u32) -> bool {
        self.bits(number, number) == 1
    }
}

impl GStage {
    /// The walker of a usual hart.
    pub fn new(mode: Mode) -> Self {
        Self::of(mode, Hart::default())
    }

    /// The walker of `hart`.
    pub const fn of(mode: Mode, hart: Hart) -> Self {
        Self { mode, hart }
    }

    /// Bits 60:54 are reserved in every entry; 63 without Svnapot, and with it but for sets of 16 pages; 62:61 without Svpbmt, and always in what points to a
    /// table, as are D, A and U. The G bit means nothing here.
    fn is_reserved(&self, pte: Pte, is_leaf: bool, level: Level) -> bool {
        let is_set = self.hart.naturally_aligned_sets && is_leaf && level == Level::PAGE && pte.bits(13, 10) == 0b1000;
        let memory = pte.bits(62, 61);
        let of_memory = if is_leaf && self.hart.memory_types { memory == 3 } else { memory != 0 };
        let of_tables = !is_leaf && (pte.bit(4) || pte.bit(6) || pte.bit(7));
        pte.bits(60, 54) != 0 || (pte.bit(63) && !is_set) || of_memory || of_tables
    }

    fn leaf(&self, pte: Pte, level: Level) -> Step {
        let output = pte.bits(53, 10) << 12;
        let (accessed, dirty) = (pte.bit(6), pte.bit(7));
        if !Hpa::new(output).is_aligned(1 << self.shift(level)) {
            return Step::Fault(FaultKind::Misconfiguration);
        }
        if !accessed && !self.hart.updates_flags {
            return Step::Fault(FaultKind::AccessFlag);
        }
        // All accesses of a guest are made as by a user.
        let user = pte.bit(4);
        let write = pte.bit(2) && (dirty || self.hart.updates_flags);
        let memory = match pte.bits(62, 61) {
            0 => Memory::WriteBack,
            1 => Memory::NonCacheable,
            _ => Memory::Device,
        };
        Step::Leaf {
            translation: Translation {
                output: Hpa::new(output),
                level,
                permissions: Permissions::new(user && pte.bit(1), user && write, user && pte.bit(3)),
                memory,
                dirty: dirty || !self.hart.updates_flags,
                set_bits: if pte.bit(63) { 4 } else { 0 },
            },
            update: (!accessed).then_some(pte.0 | 1 << 6),
        }
    }
}

impl Walker for GStage {
    /// Address bits above the mode's have to be zero.
    fn start(&self, gpa: Gpa) -> Result<Level, Fault> {
        match gpa.get() >> self.mode.guest_bits() {
            0 => Ok(self.mode.root()),
            _ => Err(Fault::at(self.mode.root(), FaultKind::Translation)),
        }
    }

    /// `hgatp`, for VMID 0.
    fn register(&self, root: Hpa) -> Hpa {
        Hpa::new(self.mode.encoding() << 60 | root.get() >> 12)
    }

    /// MODE in bits 63:60, zeros in 59:58, VMID in 57:44, PPN in 43:0, whose lowest two bits read as zero.
    fn root(&self, register: Hpa) -> Result<Hpa, Fault> {
        let hgatp = Pte(register.get());
        if hgatp.bits(63, 58) != self.mode.encoding() << 2 {
            return Err(Fault::at(self.mode.root(), FaultKind::Root));
        }
        Ok(Hpa::new(hgatp.bits(43, 2) << 14))
    }

    fn descriptor(&self, table: Hpa, level: Level, gpa: Gpa) -> Hpa {
        let high = if level == self.mode.root() { self.mode.guest_bits() - 1 } else { self.shift(level) + 8 };
        Hpa::new(table.get() | Pte(gpa.get()).bits(high, self.shift(level)) << 3)
    }

    /// An entry that may be read or fetched from is a leaf. One that may be written but not read is reserved.
    fn resolve(&self, descriptor: u64, level: Level) -> Step {
        let pte = Pte(descriptor);
        let is_leaf = pte.bit(1) || pte.bit(3);
        if !pte.bit(0) {
            Step::Fault(FaultKind::Translation)
        } else if (!pte.bit(1) && pte.bit(2)) || self.is_reserved(pte, is_leaf, level) {
            Step::Fault(FaultKind::Misconfiguration)
        } else if is_leaf {
            self.leaf(pte, level)
        } else if level == Level::PAGE {
            Step::Fault(FaultKind::Translation)
        } else {
            // Entries that point to tables restrict nothing.
            Step::Table { table: Hpa::new(pte.bits(53, 10) << 12), permissions: Permissions::ALL, update: None }
        }
    }

    /// The low bits of a set's frame number are those of the guest's.
    fn output_at(&self, translation: Translation, gpa: Gpa) -> Hpa {
        match translation.set_bits {
            0 => translation.output,
            _ => Hpa::new(translation.output.get() & !0xf000 | gpa.get() & 0xf000),
        }
    }

    fn dirtied(&self, descriptor: u64) -> u64 {
        descriptor | 1 << 7
    }

    fn shift(&self, level: Level) -> u32 {
        12 + 9 * u32::from(level.get())
    }

    /// HFENCE.GVMA concerns the hart that executes it. Others are asked to (SBI), and answer.
    fn maintenance(&self) -> Maintenance {
        Maintenance::Request
    }
}

/// The exception that reports `fault` to the hypervisor, for an access of the guest's; `None` where the guest was never
/// entered. All that is wrong with entries is a guest-page fault; tables where there is no memory are access faults.
pub const fn cause(fault: Fault, access: Access) -> Option<u64> {
    match (fault.kind, access) {
        (FaultKind::Root, _) => None,
        (FaultKind::External(_), Access::Execute) => Some(1),
        (FaultKind::External(_), Access::Read) => Some(5),
        (FaultKind::External(_), Access::Write) => Some(7),
        (_, Access::Execute) => Some(20),
        (_, Access::Read) => Some(21),
        (_, Access::Write) => Some(23),
    }
}

#[cfg(test)]
mod tests;
