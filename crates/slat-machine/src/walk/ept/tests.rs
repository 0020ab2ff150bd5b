//! The walker against the manual's tables, over every combination of the low bits that they speak of.

use super::*;
use crate::walk::sparse::Sparse;
use crate::walk::translate;

const ACCESSES: [Access; 3] = [Access::Read, Access::Write, Access::Execute];
const LEVEL: [Level; 5] = [Level::new(0), Level::new(1), Level::new(2), Level::new(3), Level::new(4)];
const PROCESSOR: Processor =
    Processor { physical_bits: 46, execute_only: true, five_levels: true, one_gibibyte: true, accessed_dirty: true };

/// What bits 2:0 say.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Rights {
    NotPresent,
    Allow(Permissions),
    ExecuteOnly,
    Reserved,
}

/// Bits 2:0 (29.3.2 and 29.3.3.1).
const RIGHTS: [Rights; 8] = {
    use Rights::*;
    [
        NotPresent,
        Allow(Permissions::READ),
        Reserved,
        Allow(Permissions::READ_WRITE),
        ExecuteOnly,
        Allow(Permissions::READ_EXECUTE),
        Reserved,
        Allow(Permissions::ALL),
    ]
};

/// Bits 5:3 of a leaf: UC, WC, two reserved, WT, WP, WB, reserved.
const MEMORY: [Option<Memory>; 8] = [
    Some(Memory::Device),
    Some(Memory::NonCacheable),
    None,
    None,
    Some(Memory::WriteThrough),
    Some(Memory::WriteProtected),
    Some(Memory::WriteBack),
    None,
];

/// What bit 7 (columns: clear, set) makes of an entry at each level (rows, from the PTE up).
const KINDS: [[Kind; 2]; 5] = {
    use Kind::*;
    [[Leaf, Leaf], [Table, Leaf], [Table, Leaf], [Table, Misconfigured], [Table, Misconfigured]]
};

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Leaf,
    Table,
    Misconfigured,
}

/// Bits that are ignored here: 11 comes with the low bits; 57 to 60 belong to controls that are off, 63 is #VE's.
const NOISE: [u64; 3] = [0, 0xfff << 52, 1 << 63 | 0b101 << 56];

/// An address that is aligned for every leaf, so that no reserved bit of it is set.
const ADDRESS: u64 = 0x2a80_4000_0000;

/// The manual's verdict on the low 12 bits of an entry; the update is what the processor writes back.
fn expected(low: u64, level: usize, walker: Ept, entry: u64) -> Step {
    let Ept { processor, accessed_dirty: flags, fetches, .. } = walker;
    let misconfigured = Step::Fault(FaultKind::Misconfiguration);
    let by_user = low >> 10 & 1 != 0;
    // The right to read and write, and bit 2 for supervisors.
    let (permissions, execute) = match RIGHTS[(low & 7) as usize] {
        Rights::NotPresent if by_user && fetches != Fetches::All => (Permissions::NONE, false),
        Rights::NotPresent => return Step::Fault(FaultKind::Translation),
        Rights::Reserved => return misconfigured,
        Rights::ExecuteOnly => (Permissions::NONE, true),
        Rights::Allow(permissions) => (permissions, permissions.execute()),
    };
    if !permissions.read() && !processor.execute_only {
        return misconfigured;
    }
    let permissions = permissions.with_execute(if fetches == Fetches::User { by_user } else { execute });
    let large = low >> 7 & 1;
    if level == 2 && large == 1 && !processor.one_gibibyte {
        return misconfigured;
    }
    let update = (flags && low >> 8 & 1 == 0).then_some(entry | 1 << 8);
    match (KINDS[level][large as usize], MEMORY[(low >> 3 & 7) as usize]) {
        (Kind::Misconfigured, _) | (Kind::Leaf, None) => misconfigured,
        (Kind::Table, _) if low >> 3 & 0b1111 != 0 => misconfigured,
        (Kind::Table, _) => Step::Table { table: Hpa::new(ADDRESS), permissions, update },
        (Kind::Leaf, Some(memory)) => {
            let dirty = !flags || low >> 9 & 1 == 1;
            let translation =
                Translation { output: Hpa::new(ADDRESS), level: LEVEL[level], permissions, memory, dirty, set_bits: 0 };
            Step::Leaf { translation, update }
        }
    }
}

#[test]
fn every_combination_of_low_bits_at_every_level_is_what_the_manual_says() {
    let walkers = (0..8).flat_map(|bits| {
        let (execute_only, one_gibibyte, flags) = (bits & 1 != 0, bits & 2 != 0, bits & 4 != 0);
        let walker = Ept::of(Processor { execute_only, one_gibibyte, ..PROCESSOR }, flags).with_five_levels();
        [Fetches::All, Fetches::Supervisor, Fetches::User].map(|fetches| walker.with_fetches(fetches))
    });
    for walker in walkers {
        for (low, level, noise) in
            (0..1 << 12).flat_map(|low| (0..5).flat_map(move |level| NOISE.map(move |noise| (low, level, noise))))
        {
            let entry = ADDRESS | noise | low;
            let expected = expected(low, level, walker, entry);
            assert_eq!(walker.resolve(entry, LEVEL[level]), expected, "{entry:#x} at {level} with {walker:?}");
        }
    }
}

/// Low bits of entries: a table or a leaf with these rights, write-back.
fn table(rights: u64) -> u64 {
    rights
}

fn large(rights: u64) -> u64 {
    rights | 6 << 3 | 1 << 7
}

fn page(rights: u64) -> u64 {
    rights | 6 << 3
}

const ROOT: u64 = 0x10_0000;
/// An address whose indices are 1, 2, 3 and 4 from the PML4 down.
const AT: u64 = 1 << 39 | 2 << 30 | 3 << 21 | 4 << 12 | 0x568;

/// Tables for [`AT`] that end at `level`, with `rights` by level.
fn tree(level: usize, rights: [u64; 4]) -> Sparse {
    let mut words = vec![(ROOT + 8, 0x11_0000 | table(rights[3]))];
    if level == 2 {
        words.push((0x11_0010, 0x40_4000_0000 | large(rights[2])));
    } else {
        words.push((0x11_0010, 0x12_0000 | table(rights[2])));
    }
    if level == 1 {
        words.push((0x12_0018, 0x40_4020_0000 | large(rights[1])));
    } else {
        words.push((0x12_0018, 0x13_0000 | table(rights[1])));
    }
    words.push((0x13_0020, 0x40_4020_1000 | page(rights[0])));
    Sparse::with(&words)
}

const OUTPUT: [u64; 3] = [0x40_4020_1000, 0x40_4020_0000, 0x40_4000_0000];

fn look(walker: &Ept, memory: &Sparse, gpa: u64, access: Access) -> Result<Translation, Fault> {
    translate(walker, memory, walker.register(Hpa::new(ROOT)), Gpa::new(gpa), access)
}

/// What entries of these rights, from the root down, come to together.
fn verdict(rights: &[u64], access: Access) -> Result<Permissions, (FaultKind, Permissions)> {
    let mut all = Permissions::ALL;
    for &rights in rights {
        all = match RIGHTS[rights as usize] {
            Rights::NotPresent => return Err((FaultKind::Translation, Permissions::NONE)),
            Rights::Reserved => return Err((FaultKind::Misconfiguration, Permissions::NONE)),
            Rights::ExecuteOnly => all.and(Permissions::new(false, false, true)),
            Rights::Allow(permissions) => all.and(permissions),
        };
    }
    if all.allow(access) { Ok(all) } else { Err((FaultKind::Permission, all)) }
}

/// 512 to 4096 combinations of rights along the path, for every leaf size and access.
#[test]
fn rights_hold_where_every_entry_on_the_way_gives_them() {
    let walker = Ept::new();
    for level in 0..3 {
        for combination in 0..8u64.pow(4 - level as u32) {
            let mut rights = [7; 4];
            for (step, rights) in rights[level..].iter_mut().enumerate() {
                *rights = combination >> (3 * step) & 7;
            }
            let memory = tree(level, rights);
            let path: Vec<_> = rights[level..].iter().rev().copied().collect();
            for access in ACCESSES {
                let found = look(&walker, &memory, AT, access);
                let short = found.map(|found| found.permissions).map_err(|fault| (fault.kind, fault.permissions));
                assert_eq!(short, verdict(&path, access), "{access:?} through {path:?}");
                if let Ok(found) = found {
                    assert_eq!((found.output.get(), found.level), (OUTPUT[level], LEVEL[level]));
                }
            }
        }
    }
}

#[test]
fn a_fault_names_the_level_of_the_entry_that_ended_the_walk() {
    for level in 0..4 {
        for (rights, kind) in [(0, FaultKind::Translation), (2, FaultKind::Misconfiguration)] {
            let mut all = [7; 4];
            all[level] = rights;
            let found = look(&Ept::new(), &tree(0, all), AT, Access::Read);
            assert_eq!(found, Err(Fault::at(LEVEL[level], kind)));
        }
    }
}

#[test]
fn reserved_address_bits_are_misconfigurations_in_entries_that_are_present() {
    for (bits, level) in [36, 39, 46, 52].into_iter().flat_map(|bits| (0..5).map(move |level| (bits, level))) {
        let walker = Ept::of(Processor { physical_bits: bits, ..PROCESSOR }, false).with_five_levels();
        let entries: &[u64] = match level {
            0 => &[page(7)],
            3 | 4 => &[table(7)],
            _ => &[table(7), large(7)],
        };
        for &entry in entries {
            let leaf = level == 0 || entry >> 7 & 1 != 0;
            for bit in 12..52u32 {
                let own = if leaf { 12 + 9 * level as u32 } else { 12 };
                let expected = bit >= bits || bit < own;
                let misconfigured =
                    walker.resolve(entry | 1 << bit, LEVEL[level]) == Step::Fault(FaultKind::Misconfiguration);
                assert_eq!(misconfigured, expected, "bit {bit} of {entry:#x} at {level}, {bits} bits");
                let absent = (entry & !7) | 1 << bit;
                assert_eq!(walker.resolve(absent, LEVEL[level]), Step::Fault(FaultKind::Translation));
            }
        }
    }
}

#[test]
fn addresses_past_48_or_57_bits_are_violations_before_the_walk() {
    for (walker, bits, root) in [(Ept::new(), 48, LEVEL[3]), (Ept::new().with_five_levels(), 57, LEVEL[4])] {
        assert_eq!(walker.start(Gpa::new((1 << bits) - 1)), Ok(root));
        for gpa in [1 << bits, 1 << (bits + 3), u64::MAX] {
            assert_eq!(walker.start(Gpa::new(gpa)), Err(Fault::at(root, FaultKind::Translation)));
        }
    }
}

#[test]
fn each_table_is_indexed_by_nine_bits() {
    let walker = Ept::new();
    for (level, low) in [(0, 12), (1, 21), (2, 30), (3, 39), (4, 48)] {
        assert_eq!(walker.shift(LEVEL[level]), low);
        let at = |gpa| walker.descriptor(Hpa::new(ROOT), LEVEL[level], Gpa::new(gpa)).get() - ROOT;
        assert_eq!((at(0), at(0x1ff << low), at(1 << low)), (0, 511 * 8, 8));
        assert_eq!(at((1 << low) - 1), 0);
    }
}

#[test]
fn every_low_field_of_an_eptp_is_checked_at_vm_entry() {
    for (low, accessed_dirty) in (0..1 << 12).flat_map(|low| [false, true].map(|flag| (low, flag))) {
        let processor = Processor { accessed_dirty, five_levels: !accessed_dirty, ..PROCESSOR };
        let (memory, length, flags, rest) = (low & 7, low >> 3 & 7, low >> 6 & 1, low >> 7);
        let takes = (memory == 0 || memory == 6)
            && (length == 3 || (length == 4 && !accessed_dirty))
            && (flags == 0 || accessed_dirty)
            && rest == 0;
        assert_eq!(Eptp(ADDRESS | low).check(processor).is_ok(), takes, "{low:#x}");
    }
}

#[test]
fn an_eptp_with_address_bits_that_the_processor_lacks_fails_the_entry() {
    for bits in [36, 46, 52] {
        let walker = Ept::of(Processor { physical_bits: bits, ..PROCESSOR }, false);
        for bit in 12..64 {
            let root = Hpa::new(1 << bit);
            let expected = if bit < bits { Ok(root) } else { Err(Fault::at(LEVEL[3], FaultKind::Root)) };
            assert_eq!(walker.root(walker.register(root)), expected, "bit {bit} of {bits}");
        }
    }
}

#[test]
fn the_wrong_eptp_is_named_in_a_sentence() {
    let no_flags = Processor { accessed_dirty: false, ..PROCESSOR };
    for (eptp, error) in [
        (3 << 3 | 2, EptpError::MemoryType(2)),
        (2 << 3 | 6, EptpError::WalkLength(2)),
        (1 << 6 | 3 << 3 | 6, EptpError::AccessedDirty),
        (1 << 7 | 3 << 3 | 6, EptpError::Reserved(1 << 7)),
    ] {
        assert_eq!(Eptp(eptp).check(no_flags), Err(error));
        assert!(!error.to_string().is_empty());
    }
    // Bit 6 and the length say what the walker was made for, or the machine is put together wrongly.
    let walker = Ept::new();
    for other in [Eptp::new(Hpa::new(ROOT), true), Eptp::five_levels(Hpa::new(ROOT), false)] {
        assert_eq!(walker.root(Hpa::new(other.0)), Err(Fault::at(LEVEL[3], FaultKind::Root)));
    }
    assert_eq!(Eptp::five_levels(Hpa::new(ROOT), false), Eptp(ROOT | 4 << 3 | 6));
}

const ACCESSED: u64 = 1 << 8;
const DIRTY: u64 = 1 << 9;

/// The flags of the entries from the PML4E down to the PTE.
fn flags(memory: &Sparse) -> [u64; 4] {
    [ROOT + 8, 0x11_0010, 0x12_0018, 0x13_0020].map(|at| memory.get(at) & (ACCESSED | DIRTY))
}

#[test]
fn accessed_is_set_all_along_the_way_and_dirty_by_writes_that_are_allowed() {
    let with_flags = Ept::of(PROCESSOR, true);
    for (access, rights, leaf) in [
        (Access::Read, [7; 4], ACCESSED),
        (Access::Execute, [7; 4], ACCESSED),
        (Access::Write, [7; 4], ACCESSED | DIRTY),
        (Access::Write, [5, 7, 7, 7], ACCESSED),
        (Access::Write, [7, 7, 5, 7], ACCESSED),
    ] {
        let memory = tree(0, rights);
        let found = look(&with_flags, &memory, AT, access);
        assert_eq!(flags(&memory), [ACCESSED, ACCESSED, ACCESSED, leaf], "{access:?} {rights:?}");
        assert_eq!(found.is_ok_and(|found| found.dirty), leaf & DIRTY != 0);

        let memory = tree(0, rights);
        let _ = look(&Ept::new(), &memory, AT, access);
        assert_eq!(flags(&memory), [0; 4], "bit 6 of the EPTP is clear");
    }
}

#[test]
fn entries_that_changed_meanwhile_are_read_again_before_they_are_marked() {
    let with_flags = Ept::of(PROCESSOR, true);
    let raced = tree(0, [7; 4]);
    raced.interference.set(Some(0x14_0000 | table(7)));
    // The PML4E is the first to be marked; the tree that it leads to now is empty.
    assert_eq!(look(&with_flags, &raced, AT, Access::Read), Err(Fault::at(LEVEL[2], FaultKind::Translation)));
    assert_eq!(raced.get(ROOT + 8), 0x14_0000 | table(7) | ACCESSED);
    let raced = tree(0, [7; 4]);
    raced.interference.set(Some(0));
    assert_eq!(look(&with_flags, &raced, AT, Access::Read), Err(Fault::at(LEVEL[3], FaultKind::Translation)));
    assert_eq!(raced.get(ROOT + 8), 0);
}

/// Bits 2:0, 5:3, and 8:7 of the exit qualification.
#[test]
fn a_vm_exit_reports_the_access_and_what_is_allowed() {
    let exit = |rights, access| VmExit::of(look(&Ept::new(), &tree(0, rights), AT, access).unwrap_err(), access);
    let violation = |low: u64| Some(VmExit::Violation(low | 0b11 << 7));
    assert_eq!(exit([1, 7, 7, 7], Access::Write), violation(0b001_010));
    assert_eq!(exit([5, 7, 7, 7], Access::Write), violation(0b101_010));
    assert_eq!(exit([7, 3, 7, 7], Access::Execute), violation(0b011_100));
    assert_eq!(exit([7, 7, 4, 7], Access::Read), violation(0b100_001));
    assert_eq!(exit([0, 7, 7, 7], Access::Read), violation(0b000_001), "an entry is not present");
    assert_eq!(exit([7, 7, 7, 0], Access::Write), violation(0b000_010));
    assert_eq!(exit([6, 7, 7, 7], Access::Read), Some(VmExit::Misconfiguration));
    assert_eq!(VmExit::of(Fault::at(LEVEL[3], FaultKind::Root), Access::Read), None);
}
