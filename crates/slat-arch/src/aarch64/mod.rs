//! arm64: EL2 of VMSAv8-64. Sections are those of the Arm Architecture Reference Manual for A-profile, DDI 0487.
//!
//! | module | what it holds |
//! |---|---|
//! | [`features`] | what the identification registers say |
//! | [`control`] | values of VTCR_EL2 and VTTBR_EL2 |
//! | [`tlbi`] | which TLB maintenance operations a flush takes, and their operands |
//! | [`abort`] | what ESR_EL2, HPFAR_EL2 and FAR_EL2 say about a fault |
//! | [`cache`] | which lines cache maintenance has to name |
//! | `instructions` | the instructions themselves, where the target is arm64 |

pub mod abort;
pub mod cache;
pub mod control;
pub mod features;
#[cfg(target_arch = "aarch64")]
#[allow(unsafe_code)]
pub mod instructions;
pub mod tlbi;

/// The bits `high..=low` of `value`, from bit 0 on.
const fn field(value: u64, high: u32, low: u32) -> u64 {
    (value >> low) & ((1 << (high - low + 1)) - 1)
}
