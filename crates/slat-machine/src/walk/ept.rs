//! x86 extended page tables (EPT), read from Intel's Software Developer's Manual, volume 3C (chapter numbers of 2023).
//!
//! Modelled: the EPT pointer (25.6.11) and what a VM entry checks of it (27.2.1.1), walks of four and five levels
//! (29.3.2) through leaves of 4 KiB, 2 MiB and 1 GiB, execution by mode, misconfigurations (29.3.3.1), violations (29.3.3.2), accessed and dirty
//! flags (29.3.5), memory types under a guest whose own types are all write-back (29.3.7), and what a VM exit says of a
//! fault (28.2.1, table 28-7; not bit 6, for fetches by mode). Not modelled, since the VM-execution controls for them are
//! off: sub-page write permissions, paging-write, shadow-stack rights, and what becomes of a #VE
//! ([`Ept::is_convertible`] says which entries cause one).
//!
//! The manual names the tables PML5, PML4, PDPT, PD and PT. This crate counts from the leaf: a PTE is of level 0, a PML4E
//! of 3.

use slat::addr::{Gpa, Hpa, Level};
use slat::host::{Access, Permissions};

use super::{Fault, FaultKind, Memory, Step, Translation, Walker};
use crate::maintenance::Maintenance;

const PTE: u8 = 0;
const PML4E: u8 = 3;
const PML5E: u8 = 4;

/// What one processor can do, as it says in IA32_VMX_EPT_VPID_CAP (A.10) and CPUID.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Processor {
    /// MAXPHYADDR: bits of a physical address. Bits of an entry's address from here to 51 are reserved.
    pub physical_bits: u32,
    /// Bit 0: entries may allow fetching without reading.
    pub execute_only: bool,
    /// Bit 7: walks of five levels.
    pub five_levels: bool,
    /// Bit 17: a PDPTE may map 1 GiB.
    pub one_gibibyte: bool,
    /// Bit 21: accessed and dirty flags.
    pub accessed_dirty: bool,
}

impl Default for Processor {
    /// A server processor of today.
    fn default() -> Self {
        Self { physical_bits: 46, execute_only: true, five_levels: true, one_gibibyte: true, accessed_dirty: true }
    }
}

/// The EPT pointer: the root register (25.6.11).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Eptp(pub u64);

/// Why a VM entry fails with an EPT pointer (27.2.1.1).
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum EptpError {
    /// Bits 2:0 are neither 0 (uncacheable) nor 6 (write-back).
    #[error("an EPTP's memory type is 0 or 6, not {0}")]
    MemoryType(u64),
    /// Bits 5:3 are neither 3, a walk of four levels, nor 4, one of five, if the processor has them.
    #[error("an EPTP's walk length is 3 (four levels), or 4 where the processor has five, not {0}")]
    WalkLength(u64),
    /// Bit 6 turns on accessed and dirty flags that the processor does not have.
    #[error("this processor has no accessed and dirty flags for EPT")]
    AccessedDirty,
    /// Reserved bits are set: 11:7, or address bits that the processor does not have.
    #[error("reserved bits are set in an EPTP: {0:#x}")]
    Reserved(u64),
}

impl Eptp {
    /// The pointer to a PML4 at `root`: write-back, four levels, accessed and dirty flags as said.
    pub const fn new(root: Hpa, accessed_dirty: bool) -> Self {
        Self(root.get() | (accessed_dirty as u64) << 6 | 3 << 3 | 6)
    }

    /// The same to a PML5: five levels.
    pub const fn five_levels(root: Hpa, accessed_dirty: bool) -> Self {
        Self(Self::new(root, accessed_dirty).0 ^ 3 << 3 ^ 4 << 3)
    }

    /// Whether a VM entry on `processor` takes this pointer.
    pub const fn check(self, processor: Processor) -> Result<(), EptpError> {
        let fields = Entry(self.0);
        let reserved = self.0 & (mask(11, 7) | mask(63, processor.physical_bits));
        match (fields.bits(2, 0), fields.bits(5, 3)) {
            (memory @ (1..=5 | 7), _) => Err(EptpError::MemoryType(memory)),
            (_, length @ (0..=2 | 5..)) => Err(EptpError::WalkLength(length)),
            (_, 4) if !processor.five_levels => Err(EptpError::WalkLength(4)),
            _ if fields.bit(6) && !processor.accessed_dirty => Err(EptpError::AccessedDirty),
            _ if reserved != 0 => Err(EptpError::Reserved(reserved)),
            _ => Ok(()),
        }
    }

    /// Bit 6: the processor keeps accessed and dirty flags.
    pub const fn accessed_dirty(self) -> bool {
        Entry(self.0).bit(6)
    }

    /// The level of the entries that the walk begins with.
    const fn start(self) -> Level {
        Level::new(Entry(self.0).bits(5, 3) as u8)
    }

    /// Where the PML4 or PML5 lies.
    pub const fn root(self) -> Hpa {
        Hpa::new(self.0 & mask(51, 12))
    }
}

/// For which fetches an entry's bits count: the VM-execution control "mode-based execute control for EPT", and the mode of
/// the guest's linear address.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Fetches {
    /// The control is 0: bit 2 for all fetches. Bit 10 is ignored.
    #[default]
    All,
    /// The control is 1, and the address is a supervisor-mode one: bit 2.
    Supervisor,
    /// The control is 1, and the address is a user-mode one: bit 10.
    User,
}

/// The walker of EPT.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Ept {
    processor: Processor,
    accessed_dirty: bool,
    five_levels: bool,
    fetches: Fetches,
}

/// The bits of an entry, as the manual draws them.
#[derive(Clone, Copy)]
struct Entry(u64);

/// Bits `high` to `low`; none when `high` is below `low`.
const fn mask(high: u32, low: u32) -> u64 {
    if high < low { 0 } else { (u64::MAX >> (63 - (high - low))) << low }
}

impl Entry {
    const fn bits(self, high: u32, low: u32) -> u64 {
        (self.0 & mask(high, low)) >> low
    }

    const fn bit(self, number: u32) -> bool {
        self.0 >> number & 1 != 0
    }

    const fn permissions(self, fetches: Fetches) -> Permissions {
        let execute = match fetches {
            Fetches::All | Fetches::Supervisor => self.bit(2),
            Fetches::User => self.bit(10),
        };
        Permissions::new(self.bit(0), self.bit(1), execute)
    }

    /// An entry is present if any of bits 2:0 is set, or bit 10 where it counts (29.3.2).
    const fn is_present(self, fetches: Fetches) -> bool {
        self.bits(2, 0) != 0 || (self.bit(10) && !matches!(fetches, Fetches::All))
    }

    /// Bits 5:3 of a leaf (29.3.7.2), for a guest whose PAT says write-back, so that bit 6 (ignore PAT) changes nothing;
    /// `None` for the types that are reserved.
    const fn memory(self) -> Option<Memory> {
        match self.bits(5, 3) {
            0 => Some(Memory::Device),
            1 => Some(Memory::NonCacheable),
            4 => Some(Memory::WriteThrough),
            5 => Some(Memory::WriteProtected),
            6 => Some(Memory::WriteBack),
            _ => None,
        }
    }
}

impl Ept {
    /// The walker of a usual processor, which keeps no accessed and dirty flags.
    pub fn new() -> Self {
        Self::default()
    }

    /// The walker of `processor`, under an EPTP whose bit 6 is `accessed_dirty`.
    pub const fn of(processor: Processor, accessed_dirty: bool) -> Self {
        Self { processor, accessed_dirty, five_levels: false, fetches: Fetches::All }
    }

    /// The same with four levels, which is how it is made.
    pub const fn with_four_levels(self) -> Self {
        Self { five_levels: false, ..self }
    }

    /// The same with five levels.
    pub const fn with_five_levels(self) -> Self {
        Self { five_levels: true, ..self }
    }

    /// The same for these fetches.
    pub const fn with_fetches(self, fetches: Fetches) -> Self {
        Self { fetches, ..self }
    }

    /// The pointer to the tables at `root`.
    const fn pointer(&self, root: Hpa) -> Eptp {
        match self.five_levels {
            false => Eptp::new(root, self.accessed_dirty),
            true => Eptp::five_levels(root, self.accessed_dirty),
        }
    }

    /// The level of the root's entries. Faults before the first entry is read are reported at it.
    const fn root_level(&self) -> Level {
        self.pointer(Hpa::new(0)).start()
    }

    /// Bits that have to be clear in an entry of `level` that is present (tables 29-1 to 29-6).
    fn reserved(&self, entry: Entry, level: Level) -> u64 {
        let beyond = mask(51, self.processor.physical_bits);
        beyond
            | match (level.get(), entry.bit(7)) {
                (PTE, _) => 0,
                (PML4E | PML5E, _) => mask(7, 3),
                (2, true) if !self.processor.one_gibibyte => mask(7, 7),
                (_, true) => mask(self.shift(level) - 1, 12),
                (_, false) => mask(6, 3),
            }
    }

    /// Whether a violation by `entry` may be delivered to the guest as a virtualization exception (25.5.7.1), if the control
    /// "EPT-violation #VE" is 1.
    pub const fn is_convertible(entry: u64) -> bool {
        !Entry(entry).bit(63)
    }

    /// The memory that a present entry of `level` maps, and how; `None` when it is misconfigured (29.3.3.1).
    fn meaning(&self, entry: Entry, level: Level) -> Option<Meaning> {
        let (read, write) = (entry.bit(0), entry.bit(1));
        let reserved = entry.0 & self.reserved(entry, level) != 0;
        if (!read && (write || !self.processor.execute_only)) || reserved {
            return None;
        }
        let maps = level.get() == PTE || entry.bit(7);
        if maps { entry.memory().map(Meaning::Maps) } else { Some(Meaning::References) }
    }

    /// Bit 8, which the processor sets in every entry that it uses (29.3.5).
    fn accessed(&self, entry: Entry) -> Option<u64> {
        (self.accessed_dirty && !entry.bit(8)).then_some(entry.0 | mask(8, 8))
    }
}

/// What an entry that is present and well formed does.
enum Meaning {
    /// It references a table.
    References,
    /// It maps memory of this type.
    Maps(Memory),
}

impl Walker for Ept {
    fn start(&self, gpa: Gpa) -> Result<Level, Fault> {
        // A walk of four levels uses bits 47:0 of a guest physical address, one of five bits 56:0 (29.3.2).
        let (root, bits) = (self.root_level(), self.shift(self.root_level()) + 9);
        match gpa.get() >> bits {
            0 => Ok(root),
            _ => Err(Fault::at(root, FaultKind::Translation)),
        }
    }

    fn register(&self, root: Hpa) -> Hpa {
        Hpa::new(self.pointer(root).0)
    }

    fn root(&self, register: Hpa) -> Result<Hpa, Fault> {
        let eptp = Eptp(register.get());
        match eptp.check(self.processor) {
            Ok(()) if eptp == self.pointer(eptp.root()) => Ok(eptp.root()),
            _ => Err(Fault::at(self.root_level(), FaultKind::Root)),
        }
    }

    fn descriptor(&self, table: Hpa, level: Level, gpa: Gpa) -> Hpa {
        let low = self.shift(level);
        Hpa::new(table.get() | Entry(gpa.get()).bits(low + 8, low) << 3)
    }

    fn resolve(&self, descriptor: u64, level: Level) -> Step {
        let entry = Entry(descriptor);
        if !entry.is_present(self.fetches) {
            return Step::Fault(FaultKind::Translation);
        }
        let (permissions, update) = (entry.permissions(self.fetches), self.accessed(entry));
        match self.meaning(entry, level) {
            None => Step::Fault(FaultKind::Misconfiguration),
            Some(Meaning::References) => Step::Table { table: Hpa::new(entry.0 & mask(51, 12)), permissions, update },
            Some(Meaning::Maps(memory)) => {
                let output = Hpa::new(entry.0 & mask(51, self.shift(level)));
                let dirty = !self.accessed_dirty || entry.bit(9);
                Step::Leaf {
                    translation: Translation { output, level, permissions, memory, dirty, set_bits: 0 },
                    update,
                }
            }
        }
    }

    /// Bit 9 (29.3.5).
    fn dirtied(&self, descriptor: u64) -> u64 {
        descriptor | mask(9, 9)
    }

    fn shift(&self, level: Level) -> u32 {
        12 + 9 * u32::from(level.get())
    }

    fn maintenance(&self) -> Maintenance {
        Maintenance::Request
    }

    /// An EPT violation invalidates what would be used to translate the address that caused it (29.4.3.1).
    fn forgets_faults(&self) -> bool {
        true
    }
}

/// What a VM exit tells the hypervisor of a fault.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum VmExit {
    /// Basic exit reason 48, with the exit qualification of table 28-7.
    Violation(u64),
    /// Basic exit reason 49. There is no qualification.
    Misconfiguration,
}

impl VmExit {
    /// The exit for `access`, made through a linear address of the guest's, that came to `fault`; `None` where there is
    /// no exit, since the guest was never entered or the tables lie outside of memory.
    pub fn of(fault: Fault, access: Access) -> Option<Self> {
        match fault.kind {
            FaultKind::Translation | FaultKind::Permission => Some(Self::Violation(qualification(fault, access))),
            FaultKind::Misconfiguration => Some(Self::Misconfiguration),
            _ => None,
        }
    }
}

/// Bits 2:0 are the access; bits 5:3 what all entries allow together, clear if one was not present; bit 7 says that there
/// was a linear address, bit 8 that the access was to what it translates to.
const fn qualification(fault: Fault, access: Access) -> u64 {
    let access = match access {
        Access::Read => 1 << 0,
        Access::Write => 1 << 1,
        Access::Execute => 1 << 2,
    };
    let allowed = (fault.permissions.read() as u64) << 3
        | (fault.permissions.write() as u64) << 4
        | (fault.permissions.execute() as u64) << 5;
    access | allowed | 1 << 7 | 1 << 8
}

#[cfg(test)]
mod tests;
