//! Choices by seed.

use slat::vm::Budget;

use super::subject;

/// Numbers for one thread's choices.
pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % end
    }

    pub(crate) fn budget(&mut self) -> Budget {
        [Budget::entries(1), Budget::entries(50), Budget::UNLIMITED][self.below(3) as usize]
    }
}

/// The format's own seeds; as many as the variable `SLAT_SEEDS` says, for a longer search.
pub(crate) fn seeds() -> std::ops::Range<u64> {
    match std::env::var("SLAT_SEEDS") {
        Ok(count) => 0..count.parse().expect("SLAT_SEEDS is a number"),
        Err(_) => subject::SEEDS,
    }
}
