//! The shapes of trees, as the manuals say them: levels, roots, widths, and groups of leaves.

use super::*;

/// The shapes of D8.2.2: address bits, root level, tables in the root.
#[test]
fn arm64_trees_have_the_roots_that_the_manual_gives_them() {
    fn has<const GRANULE: u8, const LPA2: bool>(
        format: Result<Stage2<GRANULE, LPA2, false>, Arm64Error>,
        shape: (u32, u8, usize),
    ) {
        let geometry = format.unwrap().geometry();
        assert_eq!((geometry.address_bits(), geometry.root_level().get(), geometry.root_tables()), shape);
    }
    has(Arm64::new(32), (32, 1, 4));
    has(Arm64::new(34), (34, 1, 16));
    has(Arm64::new(35), (35, 2, 1));
    has(Arm64::new(40), (40, 2, 2));
    has(Arm64::new(43), (43, 2, 16));
    has(Arm64::new(44), (44, 3, 1));
    has(Arm64::new(48), (48, 3, 1));
    has(Arm64Lpa2::new(52), (52, 3, 16));
    has(Arm64Lpa2::with_levels(52, 5), (52, 4, 1));
    has(Arm64_16k::new(32), (32, 1, 1));
    has(Arm64_16k::new(40), (40, 1, 16));
    has(Arm64_16k::new(48), (48, 2, 2));
    has(Arm64_16kLpa2::new(51), (51, 2, 16));
    has(Arm64_16kLpa2::new(52), (52, 3, 1));
    has(Arm64_64k::new(32), (32, 1, 1));
    has(Arm64_64k::new(46), (46, 1, 16));
    has(Arm64_64k::new(52), (52, 2, 1));
}

#[test]
fn a_refused_size_is_told_with_what_would_do() {
    let told = |error: Arm64Error| alloc::format!("{error}");
    assert_eq!(told(Arm64::new(49).unwrap_err()), "this arm64 stage 2 takes 32 to 48 bits of IPA, not 49");
    let levels = Arm64Lpa2::with_levels(52, 3).unwrap_err();
    assert_eq!(told(levels), "3 levels of arm64 stage 2 do not resolve 52 bits of IPA");
}

#[test]
fn groups_are_as_large_as_the_manuals_say() {
    let bits = |format: &dyn Fn(Level) -> u32| [0, 1, 2].map(|level| format(Level::new(level)));
    // D8.7.1: 16 with 4 KiB; 128 pages or 32 blocks with 16 KiB; 32 with 64 KiB. None of a GiB each, nor past a region.
    let four = Arm64Contiguous::new(48).unwrap();
    let sixteen = Stage2::<14, false, false, false, true>::new(48).unwrap();
    let sixty_four = Stage2::<16, false, false, false, true>::new(48).unwrap();
    assert_eq!(bits(&|level| four.group_bits(level)), [4, 4, 0]);
    assert_eq!(bits(&|level| sixteen.group_bits(level)), [7, 5, 0]);
    assert_eq!(bits(&|level| sixty_four.group_bits(level)), [5, 0, 0]);
    let root_of_blocks = Arm64Contiguous::new(32).unwrap();
    assert_eq!(bits(&|level| root_of_blocks.group_bits(level)), [4, 0, 0], "the root has none");
    assert_eq!(bits(&|level| Arm64::new(48).unwrap().group_bits(level)), [0; 3]);
    assert_eq!(bits(&|level| Sv48x4Napot::new().group_bits(level)), [4, 0, 0]);
    assert_eq!(bits(&|level| Fake::new(4).with_groups(2).group_bits(level)), [2, 0, 0]);
    let (format, raw) = (Ept::new(), 0x1000_0000_0000_0bf7);
    assert_eq!(bits(&|level| format.group_bits(level)), [0; 3]);
    assert!(!format.is_grouped(raw, Level::PAGE));
    assert_eq!((format.grouped(raw, Level::PAGE), format.ungrouped(raw, Level::PAGE, 3)), (raw, raw));
}

#[test]
fn addresses_have_as_many_bits_as_the_manuals_say() {
    assert_eq!([Arm64::new(40).unwrap().output_bits(), Arm64Lpa2::new(40).unwrap().output_bits()], [48, 52]);
    assert_eq!([Arm64_16k::new(40).unwrap().output_bits(), Arm64_16kLpa2::new(40).unwrap().output_bits()], [48, 52]);
    assert_eq!(Arm64_64k::new(40).unwrap().output_bits(), 52);
    assert_eq!([Ept::new().output_bits(), Npt::new().output_bits(), Sv39x4::new().output_bits()], [52, 52, 56]);
    let largest = |format: &dyn Fn() -> Geometry| format().largest_leaf().get();
    assert_eq!(largest(&|| Arm64::new(48).unwrap().geometry()), 2);
    assert_eq!(largest(&|| Arm64::new(32).unwrap().geometry()), 1, "the root's");
    assert_eq!(largest(&|| Arm64_16k::new(48).unwrap().geometry()), 1);
    assert_eq!(largest(&|| Arm64_64k::new(48).unwrap().geometry()), 1);
    let shape = |geometry: Geometry| (geometry.address_bits(), geometry.root_entries(), geometry.root_tables());
    assert_eq!([Ept::new().geometry(), Ept5::new().geometry()].map(shape), [(48, 512, 1), (57, 512, 1)]);
    assert_eq!([Npt::new().geometry(), Npt5::new().geometry()].map(shape), [(48, 512, 1), (57, 512, 1)]);
    let g_stages = [Sv39x4::new().geometry(), Sv48x4::new().geometry(), Sv57x4::new().geometry()];
    assert_eq!(g_stages.map(shape), [(41, 2048, 4), (50, 2048, 4), (59, 2048, 4)]);
    assert_eq!([2, 3, 4].map(|levels| shape(Fake::new(levels).geometry())), [(16, 4, 1), (18, 4, 1), (20, 4, 1)]);
    let geometry = Sv48x4::new().geometry();
    assert_eq!(
        (geometry.entries(), geometry.table_bytes(), geometry.page_size(), geometry.page_shift()),
        (512, 4096, 4096, 12)
    );
    assert_eq!(geometry.address_space().end().get(), 1 << 50);
    let level = |level| {
        (geometry.shift(Level::new(level)), geometry.size(Level::new(level)), geometry.pages(Level::new(level)))
    };
    assert_eq!([level(0), level(1), level(2)], [(12, 1 << 12, 1), (21, 1 << 21, 512), (30, 1 << 30, 1 << 18)]);
    let gpa = crate::addr::Gpa::new(0x2_5678_9abc_d123);
    assert_eq!(geometry.root_index(gpa), 0x4ac);
    assert_eq!([0, 1, 2].map(|level| geometry.index(gpa, Level::new(level))), [0x1cd, 0xd5, 0x1e2]);
}
