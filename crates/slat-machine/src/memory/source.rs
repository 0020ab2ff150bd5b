//! Where guest memory comes from, by the names that KVM's selftests use.

use std::fmt;
use std::str::FromStr;

use slat::addr::Level;

const PAGE: u64 = 4 << 10;
const TWO_MEBIBYTES: u64 = 2 << 20;
const ONE_GIBIBYTE: u64 = 1 << 30;

/// A size of huge page.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum HugeSize {
    /// 2 MiB, the block of level 1.
    TwoMebibytes,
    /// 1 GiB, the block of level 2.
    OneGibibyte,
}

impl HugeSize {
    /// The size in bytes.
    pub const fn bytes(self) -> u64 {
        match self {
            Self::TwoMebibytes => TWO_MEBIBYTES,
            Self::OneGibibyte => ONE_GIBIBYTE,
        }
    }
}

impl fmt::Display for HugeSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TwoMebibytes => "2 MiB",
            Self::OneGibibyte => "1 GiB",
        })
    }
}

/// What lies behind guest memory on the host. It decides the largest leaf that may map it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Source {
    /// Private memory in pages: the host is told not to make huge pages of it.
    Anonymous,
    /// Private memory that the host is asked to back by transparent huge pages.
    AnonymousThp,
    /// Private memory in reserved huge pages of the given size, 2 MiB when none is given.
    AnonymousHugetlb(Option<HugeSize>),
    /// Shared memory in pages.
    Shmem,
    /// Shared memory in reserved huge pages of 2 MiB.
    SharedHugetlb,
}

impl Source {
    /// Every source with its name.
    const ALL: [(&'static str, Self); 7] = [
        ("anonymous", Self::Anonymous),
        ("anonymous_thp", Self::AnonymousThp),
        ("anonymous_hugetlb", Self::AnonymousHugetlb(None)),
        ("anonymous_hugetlb_2mb", Self::AnonymousHugetlb(Some(HugeSize::TwoMebibytes))),
        ("anonymous_hugetlb_1gb", Self::AnonymousHugetlb(Some(HugeSize::OneGibibyte))),
        ("shmem", Self::Shmem),
        ("shared_hugetlb", Self::SharedHugetlb),
    ];

    /// The names of all sources, as [`FromStr`] takes them.
    pub fn names() -> impl Iterator<Item = &'static str> {
        Self::ALL.iter().map(|&(name, _)| name)
    }

    /// The reserved huge page that the source is made of, if it is.
    pub const fn hugetlb(self) -> Option<HugeSize> {
        match self {
            Self::AnonymousHugetlb(Some(size)) => Some(size),
            Self::AnonymousHugetlb(None) | Self::SharedHugetlb => Some(HugeSize::TwoMebibytes),
            Self::Anonymous | Self::AnonymousThp | Self::Shmem => None,
        }
    }

    /// Bytes in the host's page of this source; a transparent huge page counts as 2 MiB.
    pub const fn page_size(self) -> u64 {
        match self.hugetlb() {
            Some(size) => size.bytes(),
            None if matches!(self, Self::AnonymousThp) => TWO_MEBIBYTES,
            None => PAGE,
        }
    }

    /// The largest leaf that may map this memory.
    pub const fn largest_leaf(self) -> Level {
        match self.page_size() {
            ONE_GIBIBYTE => Level::new(2),
            TWO_MEBIBYTES => Level::new(1),
            _ => Level::PAGE,
        }
    }

    /// Whether other processes could map the same memory.
    pub(super) const fn is_shared(self) -> bool {
        matches!(self, Self::Shmem | Self::SharedHugetlb)
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = Self::ALL.iter().find_map(|&(name, source)| (source == *self).then_some(name));
        f.write_str(name.expect("every source has a name"))
    }
}

impl FromStr for Source {
    type Err = UnknownSource;

    fn from_str(text: &str) -> Result<Self, UnknownSource> {
        let found = Self::ALL.iter().find_map(|&(name, source)| (name == text).then_some(source));
        found.ok_or_else(|| UnknownSource(text.to_owned()))
    }
}

/// A text that names no [`Source`].
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("no memory source is called '{0}'; there are {names}", names = Source::names().collect::<Vec<_>>().join(", "))]
pub struct UnknownSource(pub String);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_comes_back() {
        for name in Source::names() {
            assert_eq!(name.parse::<Source>().unwrap().to_string(), name);
        }
    }

    #[test]
    fn an_unknown_name_is_answered_with_the_known_ones() {
        let sentence = "hugetlbfs".parse::<Source>().unwrap_err().to_string();
        assert!(sentence.contains("'hugetlbfs'"), "{sentence}");
        assert!(Source::names().all(|name| sentence.contains(name)), "{sentence}");
    }

    #[test]
    fn the_source_decides_the_largest_leaf() {
        let level = |name: &str| name.parse::<Source>().unwrap().largest_leaf().get();
        assert_eq!([level("anonymous"), level("shmem")], [0, 0]);
        assert_eq!([level("anonymous_thp"), level("anonymous_hugetlb"), level("shared_hugetlb")], [1, 1, 1]);
        assert_eq!(level("anonymous_hugetlb_1gb"), 2);
    }
}
