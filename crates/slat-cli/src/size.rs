//! Sizes as KVM's selftests take them: a number and k, m, g or t.

/// Parses `64M`, `1g`, `4096`.
pub(crate) fn parse(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
    let no_size = || format!("{text:?} is not a size such as 64M, 1G or 4096");
    if digits.is_empty() {
        return Err(no_size());
    }
    let shift = match &text[digits.len()..] {
        "" => 0,
        "k" | "K" => 10,
        "m" | "M" => 20,
        "g" | "G" => 30,
        "t" | "T" => 40,
        suffix => return Err(format!("the suffix {suffix:?} is none of k, m, g, t")),
    };
    let number: u64 = digits.parse().map_err(|_| no_size())?;
    number.checked_mul(1 << shift).ok_or_else(|| format!("{text} is more than 64 bits hold"))
}

/// Parses an address: decimal, hexadecimal with `0x`, or a size.
pub(crate) fn parse_address(text: &str) -> Result<u64, String> {
    match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(digits) => u64::from_str_radix(digits, 16).map_err(|_| format!("{text:?} is not a hexadecimal address")),
        None => parse(text),
    }
}

/// A size in the largest unit that divides it.
pub(crate) fn show(bytes: u64) -> String {
    [(40, "T"), (30, "G"), (20, "M"), (10, "K")]
        .into_iter()
        .find(|(shift, _)| bytes != 0 && bytes.is_multiple_of(1 << shift))
        .map_or_else(|| bytes.to_string(), |(shift, unit)| format!("{}{unit}", bytes >> shift))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_shown_is_parsed_again(bytes in any::<u64>(), shift in 0u32..64) {
            for bytes in [bytes, bytes >> shift, bytes << shift] {
                prop_assert_eq!(parse(&show(bytes)), Ok(bytes));
                prop_assert_eq!(parse_address(&show(bytes)), Ok(bytes));
                prop_assert_eq!(parse_address(&format!("{bytes:#x}")), Ok(bytes));
            }
        }

        #[test]
        fn any_text_is_a_size_or_an_error(text in prop_oneof![any::<String>(), "(0x)?[0-9a-f]{0,18}[kKmMgGtT\u{212a}é]{0,2}"]) {
            for parsed in [parse(&text), parse_address(&text)] {
                prop_assert!(parsed.is_ok() || parsed.is_err_and(|error| !error.is_empty()));
            }
        }
    }

    #[test]
    fn sizes_come_and_go() {
        for (text, bytes) in
            [("0", 0), ("4096", 4096), ("4k", 4096), ("64M", 64 << 20), ("2g", 2 << 30), ("1T", 1 << 40)]
        {
            assert_eq!(parse(text), Ok(bytes));
        }
        for text in ["", "M", "1X", "-1", "1.5G", "99999999999999T", "1MB"] {
            assert!(parse(text).is_err(), "{text}");
        }
        assert_eq!(parse_address("0x1000"), Ok(4096));
        assert!(parse_address("0xyz").is_err());
        assert_eq!((show(64 << 20), show(4097), show(3 << 30)), ("64M".into(), "4097".into(), "3G".into()));
    }
}
