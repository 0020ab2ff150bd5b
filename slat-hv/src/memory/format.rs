//! Which of arm64's stage-2 formats this hypervisor is built for: pages of 4 KiB unless a feature says otherwise.

use slat_arch::aarch64::control::Layout;

#[cfg(not(any(
    feature = "fwb",
    feature = "hd",
    feature = "bbm2",
    feature = "lpa2",
    feature = "16k",
    feature = "64k"
)))]
mod chosen {
    pub(crate) type GuestFormat = slat::format::Arm64;
    pub(super) const CHOICE: (u32, bool, bool, bool) = (12, false, false, false);
}

#[cfg(feature = "fwb")]
mod chosen {
    pub(crate) type GuestFormat = slat::format::Arm64Fwb;
    pub(super) const CHOICE: (u32, bool, bool, bool) = (12, false, true, false);
}

#[cfg(feature = "hd")]
mod chosen {
    pub(crate) type GuestFormat = slat::format::Arm64Hd;
    pub(super) const CHOICE: (u32, bool, bool, bool) = (12, false, false, true);
}

#[cfg(feature = "bbm2")]
mod chosen {
    pub(crate) type GuestFormat = slat::format::Arm64Bbm2;
    pub(super) const CHOICE: (u32, bool, bool, bool) = (12, false, false, false);
}

#[cfg(feature = "lpa2")]
mod chosen {
    pub(crate) type GuestFormat = slat::format::Arm64Lpa2;
    pub(super) const CHOICE: (u32, bool, bool, bool) = (12, true, false, false);
}

#[cfg(feature = "16k")]
mod chosen {
    pub(crate) type GuestFormat = slat::format::Arm64_16k;
    pub(super) const CHOICE: (u32, bool, bool, bool) = (14, false, false, false);
}

#[cfg(feature = "64k")]
mod chosen {
    pub(crate) type GuestFormat = slat::format::Arm64_64k;
    pub(super) const CHOICE: (u32, bool, bool, bool) = (16, false, false, false);
}

pub(crate) use chosen::GuestFormat;

/// How the tree is laid out.
pub(super) const LAYOUT: Layout = Layout { page_shift: chosen::CHOICE.0, wide: chosen::CHOICE.1 };
/// Bytes of a page, and of a table, as a power of two.
pub(crate) const PAGE_SHIFT: u32 = LAYOUT.page_shift;
/// Whether stage 2 forces memory to be cacheable (HCR_EL2.FWB), as the format expects.
pub(crate) const FORCES_WRITE_BACK: bool = chosen::CHOICE.2;
/// Whether hardware keeps the dirty state, and the accessed flag with it, as the format expects.
pub(crate) const SETS_DIRTY: bool = chosen::CHOICE.3;
/// Bits of guest physical addresses.
pub(super) const ADDRESS_BITS: u32 = 40;
