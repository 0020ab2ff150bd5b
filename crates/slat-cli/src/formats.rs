//! Entry formats by name: the engine's format and the machine's walker, chosen at run time.

use slat::format::{Arm64, Format};
use slat_machine::walk::Walker;
use slat_machine::walk::arm64::{Stage2, Vtcr};

use crate::failure::{Failure, engine};

/// Something to be done with whatever format was named.
pub(crate) trait WithFormat {
    /// What it comes to.
    type Output;

    /// Does it with `format`, beside a walker that was written from the same architecture's manual.
    fn with<F: Format>(self, format: F, walker: Box<dyn Walker>) -> Result<Self::Output, Failure>;
}

/// All names, in the order in which they are listed.
pub(crate) const NAMES: [&str; 1] = [Arm64::NAME];

/// Guest physical address bits of the formats that can be chosen: what KVM's test uses with `-m 2`.
const ARM64_BITS: u32 = 48;

/// Does `what` with the format of this name.
pub(crate) fn with<T: WithFormat>(name: &str, what: T) -> Result<T::Output, Failure> {
    match name {
        Arm64::NAME => {
            let walker = Stage2::new(Vtcr::for_ipa_bits(ARM64_BITS).map_err(engine)?);
            what.with(Arm64::new(ARM64_BITS).map_err(engine)?, Box::new(walker))
        }
        _ => Err(unknown(name)),
    }
}

/// Guest physical address bits of the format of this name.
pub(crate) fn address_bits(name: &str) -> Result<u32, Failure> {
    if name == Arm64::NAME { Ok(ARM64_BITS) } else { Err(unknown(name)) }
}

fn unknown(name: &str) -> Failure {
    Failure::option("--format", format!("there is no format {name:?}; there are: {}", NAMES.join(", ")))
}
