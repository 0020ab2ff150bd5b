//! Words made of fields, in the manuals' words: bit 7, bits 51:12.

/// Bit `number`.
pub(super) const fn bit(number: u8) -> u64 {
    1 << number
}

/// Bits `high` to `low`.
pub(super) const fn bits(high: u8, low: u8) -> u64 {
    (u64::MAX >> (63 - high)) & (u64::MAX << low)
}

/// The field, if it is to be set.
#[inline(always)]
pub(super) const fn when(set: bool, field: u64) -> u64 {
    if set { field } else { 0 }
}

/// The word that has these fields, no two of which share a bit.
#[inline(always)]
pub(super) const fn union<const N: usize>(fields: [u64; N]) -> u64 {
    let (mut word, mut i) = (0, 0);
    while i < N {
        debug_assert!(word & fields[i] == 0, "two fields share a bit");
        word |= fields[i];
        i += 1;
    }
    word
}

/// Whether the word has all of these fields, no two of which share a bit.
#[inline(always)]
pub(super) const fn has<const N: usize>(word: u64, fields: [u64; N]) -> bool {
    let wanted = union(fields);
    word & wanted == wanted
}

/// Whether no two of `fields` share a bit: for the assertions that a format ends in.
pub(super) const fn disjoint(fields: &[u64]) -> bool {
    let (mut seen, mut i) = (0, 0);
    while i < fields.len() {
        if seen & fields[i] != 0 {
            return false;
        }
        seen |= fields[i];
        i += 1;
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_are_numbered_from_the_least() {
        assert_eq!([bit(0), bit(7), bit(63)], [1, 0x80, 0x8000_0000_0000_0000]);
        assert_eq!([bits(0, 0), bits(5, 2), bits(51, 12)], [1, 0b11_1100, 0x000f_ffff_ffff_f000]);
        assert_eq!([bits(63, 0), bits(63, 63)], [u64::MAX, bit(63)]);
        assert_eq!([when(true, 0b110), when(false, 0b110)], [0b110, 0]);
    }

    #[test]
    fn a_word_has_the_fields_it_was_made_of() {
        assert_eq!([union([]), union([0b1, 0, 0b110, 0b1000])], [0, 0b1111]);
        assert!(has(0b1011, [0b1, 0b1010]) && has(0, []) && has(0b1, [0]));
        assert!(!has(0b1011, [0b1, 0b110]) && !has(0, [0b1]));
        assert!(disjoint(&[0b1, 0b110, 0, 0]) && !disjoint(&[0b1, 0b110, 0b100]) && !disjoint(&[0b1, 0b1]));
    }

    #[test]
    #[should_panic(expected = "share a bit")]
    fn fields_that_share_a_bit_are_no_word() {
        let _ = union([0b11, 0b100, 0b110]);
    }
}
