//! How addresses, words and flushes look in a file of a trace: what is no address is refused here.

use serde::{Deserialize, Serialize};
use slat::addr::{Gpa, GpaRange, Level};
use slat::host::{Flush, Hint};

/// The first address beyond any that an architecture has.
const END: u64 = 1 << 60;

/// A 64-bit word, in hexadecimal.
pub(crate) mod word {
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};

    pub(crate) fn serialize<S: Serializer>(word: &u64, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{word:#x}"))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
        let digits = text.strip_prefix("0x").ok_or_else(|| D::Error::custom("a word begins with 0x"))?;
        u64::from_str_radix(digits, 16).map_err(D::Error::custom)
    }
}

/// A host physical address, of a word or a table.
pub(crate) mod address {
    use serde::de::Error;
    use serde::{Deserializer, Serializer};
    use slat::addr::Hpa;

    pub(crate) fn serialize<S: Serializer>(address: &Hpa, serializer: S) -> Result<S::Ok, S::Error> {
        super::word::serialize(&address.get(), serializer)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Hpa, D::Error> {
        match super::word::deserialize(deserializer)? {
            address if address < super::END && address % 8 == 0 => Ok(Hpa::new(address)),
            address => Err(D::Error::custom(format_args!("no word lies at {address:#x}"))),
        }
    }
}

/// Guest addresses, from the first up to the end.
pub(crate) mod guest {
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};
    use slat::addr::GpaRange;

    pub(crate) fn serialize<S: Serializer>(range: &GpaRange, serializer: S) -> Result<S::Ok, S::Error> {
        super::Ends { from: range.start().get(), to: range.end().get() }.serialize(serializer)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<GpaRange, D::Error> {
        let ends = super::Ends::deserialize(deserializer)?;
        ends.range().ok_or_else(|| D::Error::custom("a range ends where it begins, or later"))
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Ends {
    #[serde(with = "word")]
    from: u64,
    #[serde(with = "word")]
    to: u64,
}

impl Ends {
    fn range(&self) -> Option<GpaRange> {
        GpaRange::new(Gpa::new(self.from), Gpa::new(self.to)).filter(|_| self.to <= END)
    }
}

/// A flush.
#[derive(Serialize, Deserialize)]
#[serde(remote = "Flush")]
pub(crate) enum FlushText {
    Leaves {
        #[serde(with = "guest")]
        range: GpaRange,
        #[serde(with = "hint")]
        level: Hint,
    },
    Tables {
        #[serde(with = "guest")]
        range: GpaRange,
    },
    All,
}

/// The level that a flush names, if it names one.
mod hint {
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use super::{Hint, Level};

    pub(super) fn serialize<S: Serializer>(hint: &Hint, serializer: S) -> Result<S::Ok, S::Error> {
        let level = if let Hint::Level(level) = hint { Some(level.get()) } else { None };
        level.serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Hint, D::Error> {
        match Option::<u8>::deserialize(deserializer)? {
            None => Ok(Hint::Unknown),
            Some(level) if usize::from(level) < Level::COUNT => Ok(Hint::Level(Level::new(level))),
            Some(level) => Err(D::Error::custom(format_args!("there is no level {level}"))),
        }
    }
}
