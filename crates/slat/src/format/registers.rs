//! Values of root registers, field by field as the manuals draw them. What a walk depends on is held against the machine's
//! walkers, too; cacheability, VMIDs and what has to be zero are told apart here alone.

use super::*;

/// Bits `high` to `low`.
fn field(value: u64, high: u32, low: u32) -> u64 {
    (value >> low) & ((1 << (high - low + 1)) - 1)
}

/// `VTCR_EL2` (Arm ARM, D24.2) of a format with this granule, under every CPU.
fn vtcr_of<const GRANULE: u8, const LPA2: bool, const HD: bool>(format: Stage2<GRANULE, LPA2, false, HD>, bits: u32) {
    let largest = if LPA2 || GRANULE == 16 { 6 } else { 5 };
    let root = u64::from(format.geometry().root_level().get());
    // SL0 counts from the manual's level 2 for 4 KiB, where 0 is its level -1 with SL2, and else from its level 3.
    let (granule, sl0, sl2) = match (GRANULE, root) {
        (12, 4) => (0b00, 0, 1),
        (12, root) => (0b00, root - 1, 0),
        (14, root) => (0b10, root, 0),
        (_, root) => (0b01, root, 0),
    };
    for (pa_range, wide, sets_flag) in (0..=6).flat_map(|range| [(range, true, false), (range, false, true)]) {
        let vtcr = format.vtcr(pa_range, wide, sets_flag);
        let fields = [
            ("T0SZ", 5, 0, 64 - u64::from(bits)),
            ("SL0", 7, 6, sl0),
            ("IRGN0, write-back and allocating", 9, 8, 0b01),
            ("ORGN0, the same", 11, 10, 0b01),
            ("SH0, inner shareable", 13, 12, 0b11),
            ("TG0", 15, 14, granule),
            ("PS", 18, 16, u64::from(pa_range.min(largest))),
            ("VS", 19, 19, wide.into()),
            ("reserved", 20, 20, 0),
            ("HA", 21, 21, (sets_flag || HD).into()),
            ("HD", 22, 22, HD.into()),
            ("not used", 30, 23, 0),
            ("RES1", 31, 31, 1),
            ("DS", 32, 32, LPA2.into()),
            ("SL2", 33, 33, sl2),
            ("not used", 63, 34, 0),
        ];
        for (name, high, low, expected) in fields {
            assert_eq!(field(vtcr, high, low), expected, "{name} of {bits} bits");
        }
    }
}

#[test]
fn every_field_of_vtcr_el2_is_as_the_manual_draws_it() {
    for bits in 32..=48 {
        vtcr_of::<12, false, false>(Stage2::new(bits).unwrap(), bits);
        vtcr_of::<12, false, true>(Stage2::new(bits).unwrap(), bits);
        vtcr_of::<14, false, false>(Stage2::new(bits).unwrap(), bits);
    }
    for bits in 32..=52 {
        vtcr_of::<12, true, false>(Stage2::new(bits).unwrap(), bits);
        vtcr_of::<14, true, true>(Stage2::new(bits).unwrap(), bits);
        vtcr_of::<16, false, false>(Stage2::new(bits).unwrap(), bits);
    }
    vtcr_of::<12, true, false>(Stage2::with_levels(52, 5).unwrap(), 52);
}

#[test]
fn every_field_of_the_root_registers_is_as_the_manuals_draw_it() {
    let root = Hpa::new(0x000f_1234_5678_9000);
    let vttbr = Arm64Lpa2::new(52).unwrap().vttbr(root, 0xabcd);
    assert_eq!([field(vttbr, 63, 48), field(vttbr, 47, 6) << 6, field(vttbr, 5, 2)], [0xabcd, 0x1234_5678_9000, 0xf]);
    assert_eq!(field(vttbr, 1, 0), 0, "CnP is the embedder's");

    for (eptp, length, flags) in [
        (Ept::new().eptp(root), 3, 0),
        (EptAd::new().eptp(root), 3, 1),
        (Ept5::new().eptp(root), 4, 0),
        (Ept5Ad::new().eptp(root), 4, 1),
    ] {
        let fields = [field(eptp, 2, 0), field(eptp, 5, 3), field(eptp, 6, 6), field(eptp, 11, 7)];
        assert_eq!(fields, [6, length, flags, 0], "write-back, the walk's length less one, flags");
        assert_eq!(field(eptp, 63, 12) << 12, root.get());
    }

    assert_eq!(Npt::new().nested_cr3(root), root.get());
    assert_eq!(Npt5::new().nested_cr3(Hpa::new(root.get() | 0x18)), root.get(), "neither PWT nor PCD");

    let root = Hpa::new(0x00f1_2345_6789_c000);
    for (hgatp, mode) in [
        (Sv39x4::new().hgatp(root, 0x7abc), 8),
        (Sv48x4::new().hgatp(root, 0x7abc), 9),
        (Sv57x4::new().hgatp(root, 0x7abc), 10),
    ] {
        let fields = [field(hgatp, 63, 60), field(hgatp, 59, 58), field(hgatp, 57, 44), field(hgatp, 43, 0) << 12];
        assert_eq!(fields, [mode, 0, 0x3abc, root.get()]);
    }
}
