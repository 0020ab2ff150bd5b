//! What the machine was started with: `slat.KEY=VALUE` among whatever else is there.

use core::ops::Range;
use core::str::FromStr;

/// The arguments that are for the hypervisor.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Arguments(pub(crate) &'static str);

impl Arguments {
    /// The value of `key`.
    pub(crate) fn text(self, key: &str) -> Option<&'static str> {
        let ours = self.0.split_ascii_whitespace().filter_map(|word| word.strip_prefix("slat."));
        ours.filter_map(|word| word.split_once('=')).find(|(name, _)| *name == key).map(|(_, value)| value)
    }

    /// The value of `key`, parsed; `default` where it is missing. What cannot be parsed ends the run.
    pub(crate) fn value<T: FromStr>(self, key: &str, default: T) -> T {
        match self.text(key) {
            None => default,
            Some(text) => text.parse().unwrap_or_else(|_| panic!("slat.{key}={text} is no value")),
        }
    }

    /// `ADDRESS,BYTES`, in hexadecimal, as a range of addresses.
    pub(crate) fn range(self, key: &str) -> Option<Range<u64>> {
        let (address, bytes) = self.text(key)?.split_once(',')?;
        let number = |text: &str| u64::from_str_radix(text.trim_start_matches("0x"), 16).ok();
        let start = number(address)?;
        Some(start..start.checked_add(number(bytes)?)?)
    }
}
