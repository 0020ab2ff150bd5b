//! Which cache lines maintenance has to name, before memory becomes visible to a guest.

use super::features::Features;

/// The first bytes of all lines of `line` bytes (a power of two) that `len` bytes at `start` touch.
pub fn lines(start: u64, len: u64, line: u64) -> impl Iterator<Item = u64> {
    let first = start & !(line - 1);
    let count = if len == 0 { 0 } else { (start - first + len).div_ceil(line) };
    (0..count).map(move |index| first + index * line)
}

/// What has to be done before a guest sees memory that the hypervisor wrote through its caches (D7.5, B2.7).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Maintenance {
    /// Clean data to the point of coherency: a guest that runs with its caches off would see what was there before. Not
    /// where stage 2 forces its accesses to be cacheable.
    pub clean_data: bool,
    /// Invalidate instruction caches: the guest may fetch from it.
    pub invalidate_instructions: bool,
}

impl Maintenance {
    /// For memory that the guest may fetch from or not; `forced` if stage 2 forces write-back (HCR_EL2.FWB).
    #[inline]
    pub const fn needed(features: &Features, forced: bool, executable: bool) -> Self {
        Self { clean_data: !forced, invalidate_instructions: executable && !features.coherent_instructions }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::aarch64::features::Registers;
    use proptest::prelude::*;
    use std::vec::Vec;

    proptest! {
        #[test]
        fn lines_cover_every_byte_once(start in 0u64..10_000, len in 0u64..5_000, shift in 4u32..10) {
            let line = 1 << shift;
            let all: Vec<u64> = lines(start, len, line).collect();
            prop_assert!(all.windows(2).all(|pair| pair[1] == pair[0] + line));
            let covered = |byte: u64| all.iter().any(|&first| (first..first + line).contains(&byte));
            prop_assert!(len == 0 || (covered(start) && covered(start + len - 1)));
            let needed = |first: u64| first < start + len && first + line > start;
            prop_assert!(all.iter().all(|&first| first % line == 0 && needed(first)));
        }
    }

    #[test]
    fn maintenance_is_what_the_cpu_lacks() {
        let plain = Features::new(Registers::default());
        let coherent = Features::new(Registers { ctr: 0b11 << 28, ..Registers::default() });
        let both = Maintenance { clean_data: true, invalidate_instructions: true };
        assert_eq!(Maintenance::needed(&plain, false, true), both);
        assert_eq!(
            Maintenance::needed(&coherent, true, true),
            Maintenance { clean_data: false, invalidate_instructions: false }
        );
        assert!(!Maintenance::needed(&plain, false, false).invalidate_instructions);
    }
}
