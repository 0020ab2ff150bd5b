//! Entry formats by name: the engine's format and the machine's walker, chosen at run time.

use slat::format::{
    Arm64, Arm64_16k, Arm64_16kContiguous, Arm64_16kFwb, Arm64_16kLpa2, Arm64_16kLpa2Fwb, Arm64_64k,
    Arm64_64kContiguous, Arm64_64kFwb, Arm64Bbm2, Arm64Contiguous, Arm64Error, Arm64Fwb, Arm64Hd, Arm64Lpa2,
    Arm64Lpa2Fwb, Ept, Ept5, EptAd, Format, Geometry, Npt, Npt5, NptAd, Stage2, Sv39x4, Sv48x4, Sv48x4Adu, Sv48x4Napot,
    Sv57x4,
};
use slat_machine::walk::riscv::{GStage, Hart, Mode};
use slat_machine::walk::{Walker, arm64, ept, npt};

use crate::failure::{Failure, engine};

/// Something to be done with whatever format was named.
pub(crate) trait WithFormat {
    /// What it comes to.
    type Output;

    /// Does it with `format`, beside a walker that was written from the same architecture's manual.
    fn with<F: Format>(self, format: F, walker: Box<dyn Walker>) -> Result<Self::Output, Failure>;
}

/// Each format in a line: its type, a value of it, and a walker of the machine's; both may fail to be made.
macro_rules! formats {
    ($($format:ty: $value:expr, $walker:expr;)+) => {
        /// All names, in the order in which they are listed.
        pub(crate) const NAMES: &[&str] = &[$(<$format>::NAME),+];

        /// Does `what` with the format of this name.
        pub(crate) fn with<T: WithFormat>(name: &str, what: T) -> Result<T::Output, Failure> {
            $(if name == <$format>::NAME {
                return what.with::<$format>($value.map_err(engine)?, Box::new($walker.map_err(engine)?));
            })+
            Err(unknown(name))
        }
    };
}

formats! {
    Arm64: Arm64::new(ARM64_BITS), arm64::Vtcr::for_ipa_bits(ARM64_BITS).map(arm64::Stage2::new);
    Arm64Hd: Arm64Hd::new(ARM64_BITS), under(Arm64Hd::new(ARM64_BITS));
    Arm64Bbm2: Arm64Bbm2::new(ARM64_BITS), arm64::Vtcr::for_ipa_bits(ARM64_BITS).map(mixing_sizes);
    Arm64Contiguous: Arm64Contiguous::new(ARM64_BITS), under(Arm64Contiguous::new(ARM64_BITS));
    Arm64Fwb: Arm64Fwb::new(ARM64_BITS), under(Arm64Fwb::new(ARM64_BITS));
    Arm64Lpa2: Arm64Lpa2::new(WIDE_BITS), under(Arm64Lpa2::new(WIDE_BITS));
    Arm64Lpa2Fwb: Arm64Lpa2Fwb::new(WIDE_BITS), under(Arm64Lpa2Fwb::new(WIDE_BITS));
    Arm64_16k: Arm64_16k::new(ARM64_BITS), under(Arm64_16k::new(ARM64_BITS));
    Arm64_16kContiguous: Arm64_16kContiguous::new(ARM64_BITS), under(Arm64_16kContiguous::new(ARM64_BITS));
    Arm64_16kFwb: Arm64_16kFwb::new(ARM64_BITS), under(Arm64_16kFwb::new(ARM64_BITS));
    Arm64_16kLpa2: Arm64_16kLpa2::new(WIDE_BITS), under(Arm64_16kLpa2::new(WIDE_BITS));
    Arm64_16kLpa2Fwb: Arm64_16kLpa2Fwb::new(WIDE_BITS), under(Arm64_16kLpa2Fwb::new(WIDE_BITS));
    Arm64_64k: Arm64_64k::new(WIDE_BITS), under(Arm64_64k::new(WIDE_BITS));
    Arm64_64kContiguous: Arm64_64kContiguous::new(WIDE_BITS), under(Arm64_64kContiguous::new(WIDE_BITS));
    Arm64_64kFwb: Arm64_64kFwb::new(WIDE_BITS), under(Arm64_64kFwb::new(WIDE_BITS));
    Ept: only(Ept::new()), only(ept::Ept::new());
    EptAd: only(EptAd::new()), only(ept::Ept::of(ept::Processor::default(), true));
    Ept5: only(Ept5::new()), only(ept::Ept::new().with_five_levels());
    Npt: only(Npt::new()), only(npt::Npt::new());
    NptAd: only(NptAd::new()), only(npt::Npt::new());
    Npt5: only(Npt5::new()), only(npt::Npt::new().with_five_levels());
    Sv39x4: only(Sv39x4::new()), only(GStage::new(Mode::Sv39x4));
    Sv48x4: only(Sv48x4::new()), only(GStage::new(Mode::Sv48x4));
    Sv48x4Adu: only(Sv48x4Adu::new()), only(svadu(Mode::Sv48x4));
    Sv48x4Napot: only(Sv48x4Napot::new()), only(svnapot(Mode::Sv48x4));
    Sv57x4: only(Sv57x4::new()), only(GStage::new(Mode::Sv57x4));
}

/// Guest physical address bits of the arm64 format: what KVM's tests use with `-m 2`.
const ARM64_BITS: u32 = 48;

/// Those of formats for addresses of 52 bits.
const WIDE_BITS: u32 = 52;

/// The walker under the format's own value of VTCR_EL2, on a CPU with all sizes of address.
fn under<const GRANULE: u8, const LPA2: bool, const FWB: bool, const HD: bool, const GROUPS: bool>(
    format: Result<Stage2<GRANULE, LPA2, FWB, HD, GROUPS>, Arm64Error>,
) -> Result<arm64::Stage2, Failure> {
    let vtcr = format.map_err(engine)?.vtcr(6, false, false);
    let walker = arm64::Vtcr::decode(vtcr).map(arm64::Stage2::new).map_err(engine)?;
    Ok(if FWB { walker.with_forced_write_back() } else { walker })
}

/// The walker of a CPU with FEAT_BBML2.
fn mixing_sizes(vtcr: arm64::Vtcr) -> arm64::Stage2 {
    arm64::Stage2::new(vtcr).with_mixed_sizes()
}

/// The walker of a hart that takes sets of pages.
fn svnapot(mode: Mode) -> GStage {
    GStage::of(mode, Hart { naturally_aligned_sets: true, ..Hart::default() })
}

/// The walker of a hart that sets accessed and dirty flags.
fn svadu(mode: Mode) -> GStage {
    GStage::of(mode, Hart { updates_flags: true, ..Hart::default() })
}

/// What there is only one of.
fn only<T>(value: T) -> Result<T, Failure> {
    Ok(value)
}

/// The format's name as it is listed, if there is such a format.
pub(crate) fn named(name: &str) -> Result<&'static str, Failure> {
    NAMES.iter().copied().find(|known| *known == name).ok_or_else(|| unknown(name))
}

/// Sizes and levels of the format of this name.
pub(crate) fn geometry(name: &str) -> Result<Geometry, Failure> {
    struct Shape;
    impl WithFormat for Shape {
        type Output = Geometry;

        fn with<F: Format>(self, format: F, _: Box<dyn Walker>) -> Result<Geometry, Failure> {
            Ok(format.geometry())
        }
    }
    with(name, Shape)
}

/// Whether hardware notes writes in entries of the format of this name.
pub(crate) fn hardware_dirty(name: &str) -> Result<bool, Failure> {
    struct Dirty;
    impl WithFormat for Dirty {
        type Output = bool;

        fn with<F: Format>(self, format: F, _: Box<dyn Walker>) -> Result<bool, Failure> {
            Ok(format.hardware_dirty())
        }
    }
    with(name, Dirty)
}

/// Guest physical address bits of the format of this name.
pub(crate) fn address_bits(name: &str) -> Result<u32, Failure> {
    geometry(name).map(|geometry| geometry.address_bits())
}

fn unknown(name: &str) -> Failure {
    Failure::option("--format", format!("there is no format {name:?}; there are: {}", NAMES.join(", ")))
}
