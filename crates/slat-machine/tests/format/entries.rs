//! One entry: what the format says of it against what the walker does with it.

use slat::addr::{Hpa, Level};
use slat::format::{Change, Ept, Format, Kind, Leaf, Stage2};
use slat::host::{Access, MemoryType, Permissions};
use slat_machine::walk::arm64::{Shareability, Vtcr};
use slat_machine::walk::{FaultKind, Step, Translation, ept};

use super::Pair;
use super::words::*;

pub(super) fn the_hardware_does_through_a_leaf_what_the_format_says_it_does<P: Pair>() {
    let (format, walker) = P::both();
    for place in places(format) {
        let (level, gpa) = (place.level, place.gpa(format));
        let highest = (1 << format.output_bits()) - (1 << 30);
        for first in leaves(0x0000_7f40_0000_0000).chain(leaves(highest)) {
            let leaf = place.leaf(format, first);
            let raw = place.word(format, leaf);
            for access in ACCESSES {
                let verdict = verdict_at(&*walker, raw, level, gpa, access);
                let permits = format.permits(raw, level, access);
                assert_eq!(verdict.is_ok(), permits, "{access:?} through {leaf:?} at {place:?}");
                if let Ok(found) = verdict {
                    assert!(leaf.permissions.allow(access) && (leaf.accessed || format.hardware_accessed()));
                    assert_eq!((found.output, found.level, kind_of(found.memory)), (leaf.hpa, level, leaf.memory));
                    assert_eq!(found.set_bits, place.set_bits(format), "{leaf:?} at {place:?}");
                } else if leaf.permissions.read() && leaf.memory == MemoryType::Normal {
                    assert!(!leaf.accessed || !leaf.permissions.allow(access), "{access:?} through {leaf:?}");
                }
            }
            if leaf.accessed {
                let writable = verdict(&*walker, raw, level, Access::Write).is_ok();
                assert_eq!(format.is_writable(raw, level), writable);
            }
        }
    }
}

pub(super) fn every_change_of_a_leaf_does_to_the_hardware_what_its_name_says<P: Pair>() {
    let (format, walker) = P::both();
    for place in places(format) {
        let level = place.level;
        let verdict = |raw, access| verdict_at(&*walker, raw, level, place.gpa(format), access);
        for first in leaves(0x4000_0000) {
            let leaf = place.leaf(format, first);
            let raw = place.word(format, leaf);
            if format.may_write(raw, level) {
                assert!(verdict(format.made_writable(raw, level), Access::Write).is_ok());
            }
            let fresh = place.word(format, Leaf { accessed: true, ..leaf });
            for access in ACCESSES {
                assert_eq!(verdict(format.made_accessed(raw, level), access), verdict(fresh, access));
            }
            for protected in [format.write_protected(raw, level), format.write_revoked(raw, level)] {
                assert!(verdict(protected, Access::Write).is_err());
                for access in [Access::Read, Access::Execute] {
                    let expected = verdict(raw, access).map(|found| Translation {
                        permissions: found.permissions.with_write(false),
                        dirty: true,
                        ..found
                    });
                    let found = verdict(protected, access).map(|found| Translation { dirty: true, ..found });
                    assert_eq!(found, expected);
                }
            }
        }
    }
}

pub(super) fn a_leaf_that_was_made_old_is_what_it_was_once_it_is_accessed<P: Pair>() {
    let (format, walker) = P::both();
    for place in places(format) {
        let level = place.level;
        for first in leaves(0x4000_0000).filter(|leaf| leaf.accessed) {
            let leaf = place.leaf(format, first);
            let raw = place.word(format, leaf);
            let old = format.made_old(raw, level);
            for access in ACCESSES {
                let found = verdict(&*walker, old, level, access);
                // Hardware that sets the flag itself does not mind that it is clear.
                let expected =
                    if format.hardware_accessed() { verdict(&*walker, raw, level, access).ok() } else { None };
                assert_eq!(found.ok(), expected, "{access:?} through an old {leaf:?}");
            }
            assert_eq!(format.made_accessed(old, level), raw);
            let protected = format.made_accessed(format.write_protected(old, level), level);
            assert_eq!(protected, format.write_protected(raw, level));
        }
    }
}

/// A stale translation may stay only where its user loses nothing by it and gains nothing.
pub(super) fn a_change_that_needs_no_flush_leaves_nothing_in_a_tlb_that_the_new_entry_forbids<P: Pair>() {
    let (format, walker) = P::both();
    // One entry: a leaf by itself, and the first two members of a group.
    for place in places(format).into_iter().filter(|place| place.member.is_none_or(|member| member < 2)) {
        let (level, gpa) = (place.level, place.gpa(format));
        let cached = |raw| match walker.resolve(raw, level) {
            Step::Leaf { translation, .. } => {
                Some(Translation { output: walker.output_at(translation, gpa), ..translation })
            }
            _ => None,
        };
        let here = || leaves(0).chain(leaves(1 << 30)).map(|first| format.leaf(place.leaf(format, first), level));
        let grouped = here().filter(|_| place.member.is_some()).map(|raw| place.made(format, raw));
        let words: Vec<_> = here().chain(grouped).collect();
        for (&old, &new) in words.iter().flat_map(|old| words.iter().map(move |new| (old, new))) {
            let Some(stale) = cached(old) else { continue };
            let fresh = cached(new);
            let same = |translation: Translation| (translation.output, translation.memory, translation.set_bits);
            let same_place = fresh.is_none_or(|fresh| same(fresh) == same(stale));
            let allows = |translation: Translation, access| translation.check(access).is_ok();
            let widens = ACCESSES
                .iter()
                .all(|&access| !allows(stale, access) || fresh.is_some_and(|fresh| allows(fresh, access)));
            match format.change(old, new, level) {
                Change::Free => assert!(same_place && widens, "{old:#x} to {new:#x} at {place:?}"),
                Change::Flush => assert!(same_place, "{old:#x} to {new:#x} at {place:?}"),
                Change::Overlap => panic!("{old:#x} and {new:#x} are of one size"),
                Change::Break => {}
            }
        }
    }
}

/// A guest goes on through an entry that changes its size: what software marks in it is nothing to the hardware.
pub(super) fn words_that_are_held_or_frozen_are_to_the_hardware_what_they_were<P: Pair>() {
    let (format, walker) = P::both();
    if !format.overlaps() {
        return;
    }
    let same =
        |marked, raw, level| assert_eq!(walker.resolve(marked, level), unmarked(walker.resolve(raw, level), marked));
    for level in leaf_levels(format).filter(|&level| level > Level::PAGE) {
        let table = format.table(Hpa::new(0x7f40_1234_0000), level);
        [table, table | P::Format::KEPT].into_iter().for_each(|raw| same(format.held(raw, level), raw, level));
        for leaf in leaves(0x4000_0000) {
            let raw = format.leaf(leaf, level);
            if format.change(table, raw, level) == Change::Overlap {
                same(format.held(raw, level), raw, level);
                let below = level.below().unwrap();
                let child = format.leaf(leaf, below);
                same(format.frozen(child, below), child, below);
            }
        }
    }
}

/// What hardware makes of a word, with its update of the access flag made to the `marked` one.
fn unmarked(step: Step, marked: u64) -> Step {
    match step {
        Step::Leaf { translation, update } => Step::Leaf { translation, update: update.map(|_| marked | 1 << 10) },
        other => other,
    }
}

pub(super) fn a_table_restricts_nothing_below_it_and_notes_of_software_change_nothing<P: Pair>() {
    let (format, walker) = P::both();
    let table = Hpa::new(0x7f40_1234_0000);
    let expected = Step::Table { table, permissions: Permissions::ALL, update: None };
    for level in levels(format).filter(|&level| level > Level::PAGE) {
        let raw = format.table(table, level);
        assert_eq!(walker.resolve(raw, level), expected);
        assert_eq!(walker.resolve(raw | P::Format::KEPT, level), expected);
    }
}

pub(super) fn states_of_software_are_invalid_to_the_hardware_at_every_level<P: Pair>() {
    let (format, walker) = P::both();
    for level in levels(format) {
        for word in [0, P::Format::LOCKED, P::Format::FROZEN] {
            assert_eq!(walker.resolve(word, level), Step::Fault(FaultKind::Translation));
        }
    }
}

pub(super) fn the_hardware_never_takes_an_annotation_for_an_entry<P: Pair>() {
    let (format, walker) = P::both();
    let most = (1 << P::Format::ANNOTATION.bits) - 1;
    let each_bit = (0..P::Format::ANNOTATION.bits).map(|bit| 1 << bit);
    for annotation in [0, most, 0x1234_5678_9abc_def0 & most].into_iter().chain(each_bit) {
        let word = P::Format::ANNOTATION.word(annotation);
        for level in levels(format) {
            assert_eq!(walker.resolve(word, level), Step::Fault(FaultKind::Translation));
            assert_eq!((format.kind(word, level), P::Format::ANNOTATION.read(word)), (Kind::Empty, annotation));
        }
    }
}

/// Virtualization exceptions are suppressed in all but the zero word, which software does not choose.
#[test]
fn nothing_that_the_engine_writes_lets_a_guest_see_a_violation() {
    let format = Ept::new();
    for level in leaf_levels(format) {
        for raw in leaves(1 << 30).map(|leaf| format.leaf(leaf, level)) {
            let changed = [
                format.made_writable(raw, level),
                format.made_accessed(raw, level),
                format.made_old(raw, level),
                format.write_protected(raw, level),
                format.write_revoked(raw, level),
            ];
            assert!(changed.into_iter().chain([raw]).all(|raw| !ept::Ept::is_convertible(raw)), "{raw:#x}");
        }
    }
    for raw in [Ept::LOCKED, Ept::FROZEN, Ept::ANNOTATION.word(7)] {
        assert!(!ept::Ept::is_convertible(raw));
    }
    assert!(ept::Ept::is_convertible(0));
}

/// Cores, and the walks of their MMUs, see one memory: what is cached is inner shareable, whichever field says so.
#[test]
fn what_is_cached_is_shared_by_all_cores() {
    fn check<const GRANULE: u8, const LPA2: bool, const FWB: bool, const HD: bool, const GROUPS: bool>(
        format: Stage2<GRANULE, LPA2, FWB, HD, GROUPS>,
    ) {
        let walker = super::stage2(format);
        for place in places(format) {
            for leaf in leaves(0x4000_0000).map(|first| place.leaf(format, first)) {
                let cached = leaf.memory == MemoryType::Normal;
                let expected = if cached { Shareability::Inner } else { Shareability::Outer };
                assert_eq!(walker.shareability(place.word(format, leaf)), Some(expected), "{leaf:?} at {place:?}");
            }
        }
    }
    check(Stage2::<12, false, false, false, true>::new(48).unwrap());
    check(Stage2::<12, false, true>::new(48).unwrap());
    check(Stage2::<12, true, true>::new(52).unwrap());
    check(Stage2::<14, false, false, true, true>::new(48).unwrap());
    check(Stage2::<14, true, false>::new(52).unwrap());
    check(Stage2::<16, false, true, false, true>::new(52).unwrap());
}

/// Sizes, flags and VMIDs of VTCR_EL2 are those that both the format and the CPU have; nothing else depends on the CPU.
#[test]
fn the_control_register_asks_for_no_more_than_the_cpu_has() {
    fn check<const GRANULE: u8, const LPA2: bool, const FWB: bool, const HD: bool, const GROUPS: bool>(
        format: Stage2<GRANULE, LPA2, FWB, HD, GROUPS>,
    ) {
        let widest = Vtcr::decode(format.vtcr(6, true, true)).unwrap();
        for (pa_range, flags) in (0..=6).flat_map(|pa_range| (0..4).map(move |flags| (pa_range, flags))) {
            let (wide_vmid, manages) = (flags & 1 != 0, flags & 2 != 0);
            let value = format.vtcr(pa_range, wide_vmid, manages);
            let ps = pa_range.min(if format.output_bits() == 52 { 6 } else { 5 });
            let expected = Vtcr { ps, ha: manages || HD, hd: HD, ..widest };
            assert_eq!((Vtcr::decode(value), value >> 19 & 1 != 0), (Ok(expected), wide_vmid), "{value:#x}");
        }
    }
    for bits in 32..=48 {
        check(Stage2::<12, false, false>::new(bits).unwrap());
        check(Stage2::<14, false, true, true>::new(bits).unwrap());
        check(Stage2::<12, true, false, true>::new(bits + 4).unwrap());
        check(Stage2::<14, true, true>::new(bits + 4).unwrap());
        check(Stage2::<16, false, false, true>::new(bits + 4).unwrap());
    }
}
