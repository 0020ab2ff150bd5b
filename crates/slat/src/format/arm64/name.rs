//! The formats' names, spelled when they are compiled: there are too many for a list.

/// A name as far as it is spelled.
pub(super) struct Name {
    letters: [u8; 48],
    len: usize,
}

impl Name {
    /// The name of the format with a granule of `1 << granule` bytes and these features, in the order of
    /// [`Stage2`](super::Stage2)'s parameters.
    pub(super) const fn of(granule: u8, [lpa2, fwb, hd, groups, bbm2]: [bool; 5]) -> Self {
        let name = match (granule, lpa2) {
            (12, _) => Self::begin("arm64-4k"),
            (14, _) => Self::begin("arm64-16k"),
            (16, false) => Self::begin("arm64-64k"),
            _ => panic!("granules are of 12, 14 and 16 bits, the last without FEAT_LPA2"),
        };
        name.with(lpa2, "-lpa2").with(fwb, "-fwb").with(hd, "-hd").with(groups, "-contiguous").with(bbm2, "-bbm2")
    }

    pub(super) const fn as_str(&self) -> &str {
        match str::from_utf8(self.letters.split_at(self.len).0) {
            Ok(name) => name,
            Err(_) => panic!("names are ASCII"),
        }
    }

    const fn begin(word: &str) -> Self {
        Self { letters: [0; 48], len: 0 }.with(true, word)
    }

    const fn with(mut self, on: bool, word: &str) -> Self {
        if on {
            let (_, free) = self.letters.split_at_mut(self.len);
            free.split_at_mut(word.len()).0.copy_from_slice(word.as_bytes());
            self.len += word.len();
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use crate::format::{Arm64, Arm64_64k, Arm64Bbm2, Arm64Contiguous, Format, Stage2};

    #[test]
    fn a_name_has_the_granule_and_what_was_asked_for() {
        assert_eq!(Arm64::NAME, "arm64-4k");
        assert_eq!(Arm64Contiguous::NAME, "arm64-4k-contiguous");
        assert_eq!(Arm64Bbm2::NAME, "arm64-4k-bbm2");
        assert_eq!(Arm64_64k::NAME, "arm64-64k");
        assert_eq!(Stage2::<14, true, true, true, true, true>::NAME, "arm64-16k-lpa2-fwb-hd-contiguous-bbm2");
    }
}
