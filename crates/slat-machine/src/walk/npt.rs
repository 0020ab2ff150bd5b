//! x86 nested page tables (NPT), read from the AMD64 Architecture Programmer's Manual, volume 2: 15.25 (nested paging),
//! 5.3 and 5.4 (the entries of long mode), 7.8 (page-attribute table).
//!
//! Modelled: walks of four and five levels through pages of 4 KiB, 2 MiB and 1 GiB, reserved bits, the user bit that every
//! entry needs, no-execute where the host has it on, accessed and dirty flags, which the processor always sets, memory
//! types by the host's PAT under a guest whose own types are all write-back (15.25.8), and the error code of a nested page
//! fault (15.25.6). Not modelled: the guest-mode execute trap, supervisor shadow stacks and memory encryption.
//!
//! The manual names the tables PML5 to PT. This crate counts from the leaf: a PTE is of level 0, a PML4E of 3.

use slat::addr::{Gpa, Hpa, Level};
use slat::host::{Access, Permissions};

use super::{Fault, FaultKind, Memory, Step, Translation, Walker};
use crate::maintenance::Maintenance;

/// The host's registers, as far as they concern nested tables.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Host {
    /// Bits of a physical address: those of an entry's address from here to 51 are reserved.
    pub physical_bits: u32,
    /// `EFER.NXE`: bit 63 forbids fetches; without it the bit is reserved.
    pub no_execute: bool,
    /// `CR4.LA57`: five levels.
    pub five_levels: bool,
    /// The host's PAT, one type for each of its eight entries.
    pub page_attributes: [Memory; 8],
}

/// The PAT after reset, twice: write-back, write-through, UC- and UC. What UC- maps is not cached, and may be combined.
const AFTER_RESET: [Memory; 8] = {
    use Memory::{Device as Uc, NonCacheable as UcMinus, WriteBack as Wb, WriteThrough as Wt};
    [Wb, Wt, UcMinus, Uc, Wb, Wt, UcMinus, Uc]
};

impl Default for Host {
    /// Four levels, 48 bits.
    fn default() -> Self {
        Self { physical_bits: 48, no_execute: true, five_levels: false, page_attributes: AFTER_RESET }
    }
}

/// The walker of NPT.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Npt {
    host: Host,
}

/// An entry of any level.
#[derive(Clone, Copy)]
struct Entry(u64);

impl Entry {
    const fn bit(self, number: u32) -> bool {
        self.0 & 1 << number != 0
    }
}

/// Bits from `low` up to, and without, `end`.
const fn field(low: u32, end: u32) -> u64 {
    if end <= low { 0 } else { (u64::MAX >> (64 - (end - low))) << low }
}

impl Npt {
    /// The walker under a usual host.
    pub fn new() -> Self {
        Self::default()
    }

    /// The walker under `host`.
    pub const fn of(host: Host) -> Self {
        Self { host }
    }

    /// The same with five levels.
    pub const fn with_five_levels(self) -> Self {
        Self { host: Host { five_levels: true, ..self.host } }
    }

    const fn root_level(&self) -> Level {
        Level::new(if self.host.five_levels { 4 } else { 3 })
    }

    /// Bits that must be zero in an entry that is present (5.3.3, 5.4.1).
    fn reserved(&self, entry: Entry, level: Level) -> u64 {
        let address = field(self.host.physical_bits, 52);
        let no_execute = if self.host.no_execute { 0 } else { 1 << 63 };
        let by_level = match level.get() {
            0 => 0,
            // The page size bit of a PML4E and PML5E must be zero; bit 8 is, too.
            3 | 4 => 0b11 << 7,
            // Above the PAT bit, the address of a large page is aligned to it.
            _ if entry.bit(7) => field(13, self.shift(level)),
            _ => 0,
        };
        address | no_execute | by_level
    }

    /// PAT, PCD and PWT as an index into the host's PAT (7.8.2): PAT is bit 7 of a PTE, bit 12 of what maps a large page.
    fn memory(&self, entry: Entry, level: Level) -> Memory {
        let pat = entry.bit(if level == Level::PAGE { 7 } else { 12 });
        let index = usize::from(pat) << 2 | usize::from(entry.bit(4)) << 1 | usize::from(entry.bit(3));
        self.host.page_attributes[index]
    }

    /// What an entry that is present allows: reading always, but nothing at all without the user bit.
    fn permissions(entry: Entry) -> Permissions {
        match entry.bit(2) {
            true => Permissions::new(true, entry.bit(1), !entry.bit(63)),
            false => Permissions::NONE,
        }
    }
}

impl Walker for Npt {
    fn start(&self, gpa: Gpa) -> Result<Level, Fault> {
        let root = self.root_level();
        match gpa.get() >> (self.shift(root) + 9) {
            0 => Ok(root),
            _ => Err(Fault::at(root, FaultKind::Translation)),
        }
    }

    /// Bits 51:12 of `N_CR3` are the root's; the bits below are those of a CR3.
    fn root(&self, register: Hpa) -> Result<Hpa, Fault> {
        match register.get() & !field(0, self.host.physical_bits) {
            0 => Ok(register.align_down(4096)),
            _ => Err(Fault::at(self.root_level(), FaultKind::Root)),
        }
    }

    fn descriptor(&self, table: Hpa, level: Level, gpa: Gpa) -> Hpa {
        Hpa::new(table.get() + (gpa.get() >> self.shift(level) & 511) * 8)
    }

    fn resolve(&self, descriptor: u64, level: Level) -> Step {
        let entry = Entry(descriptor);
        if !entry.bit(0) {
            return Step::Fault(FaultKind::Translation);
        }
        if descriptor & self.reserved(entry, level) != 0 {
            return Step::Fault(FaultKind::Misconfiguration);
        }
        let (permissions, update) = (Self::permissions(entry), (!entry.bit(5)).then_some(descriptor | 1 << 5));
        if level != Level::PAGE && !entry.bit(7) {
            return Step::Table { table: Hpa::new(descriptor & field(12, 52)), permissions, update };
        }
        let (output, memory) = (Hpa::new(descriptor & field(self.shift(level), 52)), self.memory(entry, level));
        let translation = Translation { output, level, permissions, memory, dirty: entry.bit(6), set_bits: 0 };
        Step::Leaf { translation, update }
    }

    /// Bit 6.
    fn dirtied(&self, descriptor: u64) -> u64 {
        descriptor | 1 << 6
    }

    fn shift(&self, level: Level) -> u32 {
        12 + 9 * u32::from(level.get())
    }

    fn maintenance(&self) -> Maintenance {
        Maintenance::Request
    }

    /// A page fault drops what the TLB holds for its address (5.5.3), so that the next access walks again.
    fn forgets_faults(&self) -> bool {
        true
    }
}

/// EXITINFO1 of #VMEXIT(NPF) for `access` to a guest physical address that the guest's own tables gave (15.25.6): bit 0 is
/// set where all entries were present, bit 1 for writes, bit 2 always, bit 3 for reserved bits, bit 4 for fetches, bit 32
/// says that the guest's tables were walked to the end. `None` where there is no such exit.
pub const fn error_code(fault: Fault, access: Access) -> Option<u64> {
    let found = match fault.kind {
        FaultKind::Translation => 0,
        FaultKind::Permission => 1 << 0,
        FaultKind::Misconfiguration => 1 << 0 | 1 << 3,
        _ => return None,
    };
    let access = match access {
        Access::Read => 0,
        Access::Write => 1 << 1,
        Access::Execute => 1 << 4,
    };
    Some(found | access | 1 << 2 | 1 << 32)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::walk::sparse::Sparse;
    use crate::walk::translate;

    const ACCESSES: [Access; 3] = [Access::Read, Access::Write, Access::Execute];
    const ADDRESS: u64 = 0x2a80_4000_0000;

    fn hosts() -> impl Iterator<Item = Host> {
        [false, true].into_iter().map(|no_execute| Host { no_execute, five_levels: true, ..Host::default() })
    }

    /// Every combination of bits 11:0, of bit 12 (PAT of a large page), bit 63 and software's 58:52, at every level.
    #[test]
    fn every_combination_of_bits_at_every_level_is_what_the_manual_says() {
        for (host, level) in hosts().flat_map(|host| (0..5u8).map(move |level| (host, level))) {
            let walker = Npt::of(host);
            for bits in 0..1u64 << 15 {
                let on = |bit: u32| bits >> bit & 1 != 0;
                let entry = ADDRESS | bits & 0x1fff | (bits >> 13 & 1) << 63 | ((bits >> 14) * (0x7f << 52));
                let step = walker.resolve(entry, Level::new(level));
                if !on(0) {
                    assert_eq!(step, Step::Fault(FaultKind::Translation));
                    continue;
                }
                let no_execute = on(13);
                if (no_execute && !host.no_execute) || (level >= 3 && (on(7) || on(8))) {
                    assert_eq!(step, Step::Fault(FaultKind::Misconfiguration), "{entry:#x} at {level}");
                    continue;
                }
                let expected = if on(2) { Permissions::new(true, on(1), !no_execute) } else { Permissions::NONE };
                let mark = (!on(5)).then_some(entry | 1 << 5);
                match step {
                    Step::Table { table, permissions, update } => {
                        assert!(level > 0 && !on(7), "{entry:#x} at {level}");
                        assert_eq!((table.get(), permissions, update), (entry & field(12, 52), expected, mark));
                    }
                    Step::Leaf { translation, update } => {
                        assert!(level == 0 || on(7), "{entry:#x} at {level}");
                        let pat = on(if level == 0 { 7 } else { 12 });
                        let memory = AFTER_RESET[usize::from(pat) * 4 + usize::from(on(4)) * 2 + usize::from(on(3))];
                        let low = if level == 0 { bits & 0x1000 } else { 0 };
                        let found = (translation.output.get(), translation.permissions, translation.memory);
                        assert_eq!(found, (ADDRESS | low, expected, memory), "{entry:#x} at {level}");
                        assert_eq!((translation.dirty, update), (on(6), mark));
                    }
                    Step::Fault(kind) => panic!("{entry:#x} at {level}: {kind:?}"),
                }
            }
        }
    }

    #[test]
    fn address_bits_that_are_reserved_fault_in_entries_that_are_present() {
        for (bits, level) in [40, 48, 52].into_iter().flat_map(|bits| (0..5u8).map(move |level| (bits, level))) {
            let walker = Npt::of(Host { physical_bits: bits, five_levels: true, ..Host::default() });
            for (large, bit) in [false, true].into_iter().flat_map(|large| (12..52u32).map(move |bit| (large, bit))) {
                if large && !(1..=2).contains(&level) {
                    continue;
                }
                let misaligned = large && bit > 12 && bit < 12 + 9 * u32::from(level);
                let entry = 0b10_0111 | u64::from(large) << 7 | 1 << bit;
                let is_reserved = walker.resolve(entry, Level::new(level)) == Step::Fault(FaultKind::Misconfiguration);
                assert_eq!(is_reserved, bit >= bits || misaligned, "bit {bit} at {level}, {bits} bits");
                assert_eq!(walker.resolve(entry & !1, Level::new(level)), Step::Fault(FaultKind::Translation));
            }
        }
    }

    #[test]
    fn walks_begin_at_four_or_five_levels_with_a_root_of_the_host() {
        for (walker, bits, root) in [(Npt::new(), 48, 3), (Npt::new().with_five_levels(), 57, 4)] {
            assert_eq!(walker.start(Gpa::new((1 << bits) - 1)), Ok(Level::new(root)));
            assert_eq!(walker.start(Gpa::new(1 << bits)), Err(Fault::at(Level::new(root), FaultKind::Translation)));
            assert_eq!(walker.root(Hpa::new(0x1234_5018)), Ok(Hpa::new(0x1234_5000)));
            assert!(walker.root(Hpa::new(1 << 48)).is_err_and(|fault| fault.kind == FaultKind::Root));
        }
    }

    const ROOT: u64 = 0x10_0000;
    /// An address whose indices are 1, 2, 3 and 4 from the PML4 down.
    const AT: u64 = 1 << 39 | 2 << 30 | 3 << 21 | 4 << 12 | 0x568;
    const ENTRIES: [u64; 4] = [ROOT + 8, 0x11_0010, 0x12_0018, 0x13_0020];

    /// Tables for [`AT`] with these low bits, from the PML4E down.
    fn tree(low: [u64; 4]) -> Sparse {
        let addresses = [0x11_0000, 0x12_0000, 0x13_0000, 0x40_4020_1000];
        let words: Vec<_> = (0..4).map(|step| (ENTRIES[step], addresses[step] | low[step])).collect();
        Sparse::with(&words)
    }

    fn look(memory: &Sparse, access: Access) -> Result<Translation, Fault> {
        translate(&Npt::new(), memory, Hpa::new(ROOT), Gpa::new(AT), access)
    }

    /// Present, writable, user and no-execute in each of four entries: all 65,536 combinations for each access.
    #[test]
    fn rights_hold_where_every_entry_on_the_way_gives_them_and_faults_say_why_not() {
        for combination in 0..1u64 << 16 {
            let rights = [0, 4, 8, 12].map(|at| combination >> at & 15);
            let memory = tree(rights.map(|right| right & 7 | right >> 3 << 63));
            for access in ACCESSES {
                let found = look(&memory, access).map(|found| found.output).map_err(|fault| error_code(fault, access));
                let flag = match access {
                    Access::Read => 0,
                    Access::Write => 2,
                    Access::Execute => 16,
                };
                let allowed = |right: &u64| match access {
                    _ if right & 4 == 0 => false,
                    Access::Read => true,
                    Access::Write => right & 2 != 0,
                    Access::Execute => right & 8 == 0,
                };
                let expected = if rights.iter().any(|right| right & 1 == 0) {
                    Err(Some(1 << 32 | 4 | flag))
                } else if rights.iter().all(allowed) {
                    Ok(Hpa::new(0x40_4020_1000))
                } else {
                    Err(Some(1 << 32 | 4 | flag | 1))
                };
                assert_eq!(found, expected, "{access:?} through {rights:?}");
            }
        }
    }

    #[test]
    fn accessed_is_set_all_along_the_way_and_dirty_by_writes_that_are_allowed() {
        for (access, leaf, dirty) in
            [(Access::Read, 7, 0), (Access::Execute, 7, 0), (Access::Write, 7, 1 << 6), (Access::Write, 5, 0)]
        {
            let memory = tree([7, 7, 7, leaf]);
            assert_eq!(look(&memory, access).is_ok(), access != Access::Write || leaf == 7);
            let marks = ENTRIES.map(|at| memory.get(at) & 0b110_0000);
            assert_eq!(marks, [1 << 5, 1 << 5, 1 << 5, 1 << 5 | dirty], "{access:?}");
        }
    }

    #[test]
    fn reserved_bits_are_told_from_missing_entries() {
        let fault = look(&tree([7 | 1 << 8, 7, 7, 7]), Access::Write).unwrap_err();
        assert_eq!(error_code(fault, Access::Write), Some(1 << 32 | 0b1111));
        assert_eq!(error_code(Fault::at(Level::PAGE, FaultKind::Root), Access::Read), None);
    }
}
