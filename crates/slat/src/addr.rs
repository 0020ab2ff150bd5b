//! Addresses, page numbers, levels and ranges, each a type of its own.
//!
//! A guest physical address cannot be passed where a host physical one is wanted, and every range is half open.

use core::fmt;

macro_rules! address {
    ($(#[$doc:meta])* $name:ident, $tag:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        #[repr(transparent)]
        pub struct $name(u64);

        impl $name {
            /// The address with this value, in bytes.
            #[inline]
            pub const fn new(bytes: u64) -> Self {
                Self(bytes)
            }

            /// The value in bytes.
            #[inline]
            pub const fn get(self) -> u64 {
                self.0
            }

            /// This address moved up by `bytes`; `None` when that leaves 64 bits.
            #[inline]
            pub const fn checked_add(self, bytes: u64) -> Option<Self> {
                match self.0.checked_add(bytes) {
                    Some(sum) => Some(Self(sum)),
                    None => None,
                }
            }

            /// Bytes from `earlier` up to this address; `None` when `earlier` is above it.
            #[inline]
            pub const fn checked_offset_from(self, earlier: Self) -> Option<u64> {
                self.0.checked_sub(earlier.0)
            }

            /// Whether the address is a multiple of `size`, a power of two in bytes.
            #[inline]
            pub const fn is_aligned(self, size: u64) -> bool {
                self.0 & (size - 1) == 0
            }

            /// The highest multiple of `size`, a power of two in bytes, that is not above the address.
            #[inline]
            pub const fn align_down(self, size: u64) -> Self {
                Self(self.0 & !(size - 1))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($tag, ":{:#x}"), self.0)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:#x}", self.0)
            }
        }
    };
}

address! {
    /// A guest physical address, in bytes (arm64 documents say IPA).
    Gpa, "gpa"
}
address! {
    /// A host physical address, in bytes (arm64 documents say PA).
    Hpa, "hpa"
}
address! {
    /// Where a slot's memory lies for the embedder, in bytes: a user-space address, a file offset, whatever its
    /// translation understands. The engine only adds offsets to it.
    HostAddress, "host"
}

/// A level of the table tree, counted up from the leaf: 0 holds pages, 1 holds the blocks of the next larger size
/// (2 MiB with a 4 KiB granule), and so on to the root.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Level(u8);

impl Level {
    /// The level whose leaves are pages.
    pub const PAGE: Level = Level(0);
    /// One more than the highest level any format has.
    pub const COUNT: usize = 6;

    /// The level with this number; panics at compile time or in a const context when it is not below [`Level::COUNT`].
    #[inline]
    pub const fn new(level: u8) -> Self {
        assert!((level as usize) < Self::COUNT, "no architecture has that many levels");
        Self(level)
    }

    /// The number, 0 for pages.
    #[inline]
    pub const fn get(self) -> u8 {
        self.0
    }

    /// The level as an index, for per-level counters.
    #[inline]
    pub const fn index(self) -> usize {
        self.0 as usize
    }

    /// The level below, whose entries are smaller; `None` at the page level.
    #[inline]
    pub const fn below(self) -> Option<Self> {
        match self.0 {
            0 => None,
            n => Some(Self(n - 1)),
        }
    }

    /// The level above, whose entries are larger; `None` past the highest level any format has.
    #[inline]
    pub const fn above(self) -> Option<Self> {
        if (self.0 as usize) + 1 < Self::COUNT { Some(Self(self.0 + 1)) } else { None }
    }
}

impl fmt::Debug for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "level {}", self.0)
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

macro_rules! range {
    ($(#[$doc:meta])* $name:ident of $address:ident, $tag:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
        pub struct $name {
            start: $address,
            end: $address,
        }

        impl $name {
            /// The range `start..end`; `None` when `end` is below `start`.
            #[inline]
            pub const fn new(start: $address, end: $address) -> Option<Self> {
                if start.0 <= end.0 { Some(Self { start, end }) } else { None }
            }

            /// The range of `bytes` bytes from `start`; `None` when it would pass the end of 64 bits.
            #[inline]
            pub const fn with_len(start: $address, bytes: u64) -> Option<Self> {
                match start.checked_add(bytes) {
                    Some(end) => Some(Self { start, end }),
                    None => None,
                }
            }

            /// The aligned range of `size` bytes (a power of two) that holds `at`. Saturates at the end of 64 bits.
            #[inline]
            pub const fn around(at: $address, size: u64) -> Self {
                let start = at.align_down(size);
                Self { start, end: $address(start.0.saturating_add(size)) }
            }

            /// The first address of the range.
            #[inline]
            pub const fn start(self) -> $address {
                self.start
            }

            /// The first address past the range.
            #[inline]
            pub const fn end(self) -> $address {
                self.end
            }

            /// Length in bytes.
            #[inline]
            pub const fn len(self) -> u64 {
                self.end.0 - self.start.0
            }

            /// Whether the range holds no address.
            #[inline]
            pub const fn is_empty(self) -> bool {
                self.start.0 == self.end.0
            }

            /// Whether `at` lies in the range.
            #[inline]
            pub const fn contains(self, at: $address) -> bool {
                self.start.0 <= at.0 && at.0 < self.end.0
            }

            /// Whether all of `other` lies in the range.
            #[inline]
            pub const fn covers(self, other: Self) -> bool {
                self.start.0 <= other.start.0 && other.end.0 <= self.end.0
            }

            /// Whether the two have an address in common.
            #[inline]
            pub const fn overlaps(self, other: Self) -> bool {
                let start = if self.start.0 > other.start.0 { self.start.0 } else { other.start.0 };
                let end = if self.end.0 < other.end.0 { self.end.0 } else { other.end.0 };
                start < end
            }

            /// What the two have in common; `None` when they do not overlap.
            #[inline]
            pub fn intersection(self, other: Self) -> Option<Self> {
                let (start, end) = (self.start.max(other.start), self.end.min(other.end));
                (start < end).then_some(Self { start, end })
            }

            /// The smallest range that covers both.
            #[inline]
            pub fn hull(self, other: Self) -> Self {
                Self { start: self.start.min(other.start), end: self.end.max(other.end) }
            }

            /// The part of the range from `at` on: all of it when `at` lies before it, nothing when it lies past it.
            #[inline]
            pub fn from(self, at: $address) -> Self {
                Self { start: self.start.max(at).min(self.end), end: self.end }
            }

            /// Whether both ends are multiples of `size`, a power of two in bytes.
            #[inline]
            pub const fn is_aligned(self, size: u64) -> bool {
                self.start.is_aligned(size) && self.end.is_aligned(size)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($tag, ":{:#x}..{:#x}"), self.start.0, self.end.0)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:#x}..{:#x}", self.start.0, self.end.0)
            }
        }
    };
}

range! {
    /// A half-open range of guest physical addresses, `start..end`, in bytes. Never inverted; may be empty.
    GpaRange of Gpa, "gpa"
}
range! {
    /// A half-open range of the embedder's addresses, `start..end`, in bytes. Never inverted; may be empty.
    HostRange of HostAddress, "host"
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;

    fn range(start: u64, end: u64) -> GpaRange {
        GpaRange::new(Gpa::new(start), Gpa::new(end)).unwrap()
    }

    #[test]
    fn ranges_are_half_open_and_never_inverted() {
        assert!(GpaRange::new(Gpa::new(2), Gpa::new(1)).is_none());
        assert!(range(1, 3).contains(Gpa::new(1)) && !range(1, 3).contains(Gpa::new(3)));
        assert!(!range(1, 3).overlaps(range(3, 5)));
        assert_eq!(range(1, 4).intersection(range(3, 9)), Some(range(3, 4)));
        assert_eq!(range(1, 4).hull(range(8, 9)), range(1, 9));
        assert_eq!(range(1, 4).from(Gpa::new(9)), range(4, 4));
    }

    #[test]
    fn ranges_are_the_sets_of_their_addresses() {
        let all = || (0..7).flat_map(|start| (start..7).map(move |end| range(start, end)));
        let addresses =
            |range: GpaRange| (0..8).filter(move |at| range.start().get() <= *at && *at < range.end().get());
        for one in all() {
            assert_eq!((one.len(), one.is_empty()), (addresses(one).count() as u64, addresses(one).next().is_none()));
            for at in 0..8 {
                assert_eq!(one.contains(Gpa::new(at)), addresses(one).any(|other| other == at), "{at} in {one}");
                assert!(
                    addresses(one.from(Gpa::new(at))).eq(addresses(one).filter(|other| at <= *other)),
                    "{one} from {at}"
                );
            }
            for other in all() {
                let common: Vec<_> = addresses(one).filter(|at| other.contains(Gpa::new(*at))).collect();
                assert_eq!(one.overlaps(other), !common.is_empty(), "{one} and {other}");
                let intersection = one.intersection(other);
                assert_eq!(intersection.map_or(Vec::new(), |range| addresses(range).collect()), common);
                assert_eq!(intersection.is_some(), one.overlaps(other));
                let hull = one.hull(other);
                assert!(hull.covers(one) && hull.covers(other));
                assert!(
                    [one.start(), other.start()].contains(&hull.start())
                        && [one.end(), other.end()].contains(&hull.end())
                );
                assert_eq!(one.covers(other), one.hull(other) == one, "{one} covers {other}");
            }
        }
    }

    #[test]
    fn alignment_is_to_powers_of_two() {
        for (at, size) in (0..70).flat_map(|at| [1, 2, 8, 64].map(|size| (at, size))) {
            let down = at / size * size;
            assert_eq!((Gpa::new(at).align_down(size).get(), Gpa::new(at).is_aligned(size)), (down, at == down));
            assert_eq!(GpaRange::around(Gpa::new(at), size), range(down, down + size));
            assert_eq!(range(64, 64 + at).is_aligned(size), at % size == 0);
            assert_eq!(range(at, 128).is_aligned(size), at % size == 0);
        }
    }

    #[test]
    fn levels_are_bounded() {
        let all: Vec<_> = core::iter::successors(Some(Level::PAGE), |level| level.above()).take(9).collect();
        assert_eq!(all.iter().map(|level| level.index()).collect::<Vec<_>>(), [0, 1, 2, 3, 4, 5]);
        assert!(all.iter().skip(1).all(|level| level.below().and_then(Level::above) == Some(*level)));
        assert_eq!(Level::PAGE.below(), None);
    }

    #[test]
    fn addresses_say_what_they_are() {
        let shown = alloc::format!("{:?} {} {:?} {}", Gpa::new(0x1f), Hpa::new(0x2f), range(1, 0x3f), range(2, 4));
        assert_eq!(shown, "gpa:0x1f 0x2f gpa:0x1..0x3f 0x2..0x4");
        assert_eq!(alloc::format!("{:?}, {}", Level::PAGE, Level::new(2)), "level 0, level 2");
    }

    #[test]
    fn arithmetic_is_checked_at_the_end_of_64_bits() {
        assert_eq!(Gpa::new(5).checked_add(3), Some(Gpa::new(8)));
        assert_eq!(Gpa::new(5).checked_offset_from(Gpa::new(3)), Some(2));
        assert_eq!(Gpa::new(5).checked_offset_from(Gpa::new(6)), None);
        assert!(Gpa::new(u64::MAX).checked_add(1).is_none());
        assert!(GpaRange::with_len(Gpa::new(u64::MAX), 2).is_none());
        assert_eq!(GpaRange::around(Gpa::new(u64::MAX), 4096).end(), Gpa::new(u64::MAX));
    }
}
