//! Quantities with units: durations, sizes, shares.

use std::fmt;
use std::time::Duration;

use schemars::{Schema, json_schema};

use crate::diagnostic::Code;
use crate::scalar::{FromScalar, LeafError};

/// A length of time: a whole number and a unit, `250ms`, `5s`, `10m`, `1h`, `2d`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TimeSpan(Duration);

const TIME_UNITS: [(&str, u64); 5] = [
    ("d", 86_400_000),
    ("h", 3_600_000),
    ("m", 60_000),
    ("s", 1_000),
    ("ms", 1),
];

impl TimeSpan {
    /// From milliseconds.
    pub const fn from_millis(milliseconds: u64) -> Self {
        Self(Duration::from_millis(milliseconds))
    }

    /// As the standard library's type.
    pub const fn duration(self) -> Duration {
        self.0
    }
}

impl fmt::Display for TimeSpan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let milliseconds = self.0.as_millis() as u64;
        let (unit, size) = TIME_UNITS
            .into_iter()
            .find(|(unit, size)| {
                // Zero has no unit of its own: it is written `0s`.
                (milliseconds > 0 || *unit == "s") && milliseconds.is_multiple_of(*size)
            })
            .unwrap_or(("ms", 1));
        write!(f, "{}{unit}", milliseconds / size)
    }
}

/// Splits `250ms` into its number and its unit.
fn number_and_unit(text: &str) -> (&str, &str) {
    let digits = text
        .bytes()
        .take_while(|b| b.is_ascii_digit() || *b == b'.')
        .count();
    let (number, unit) = text.split_at(digits);
    (number, unit.trim_start())
}

impl FromScalar for TimeSpan {
    fn parse(text: &str) -> Result<Self, LeafError> {
        let (number, unit) = number_and_unit(text);
        let bad = || {
            LeafError::bad("is not a duration")
                .help("write a number and a unit: `250ms`, `5s`, `10m`, `1h` or `2d`")
        };
        if number.is_empty() {
            return Err(bad());
        }
        if unit.is_empty() {
            return Err(LeafError::bad("has no unit")
                .code(Code::BadUnit)
                .help(format!("did you mean `{number}s`? (units: ms, s, m, h, d)")));
        }
        let Some((_, size)) = TIME_UNITS.into_iter().find(|(name, _)| *name == unit) else {
            return Err(LeafError::bad("has an unknown unit")
                .code(Code::BadUnit)
                .help("the units are ms, s, m, h and d"));
        };
        let number: u64 = number.parse().map_err(|_| {
            LeafError::bad("is not a whole number of its unit")
                .help("take the next smaller unit: `1500ms` for one and a half seconds")
        })?;
        number
            .checked_mul(size)
            .filter(|milliseconds| *milliseconds <= 3_650 * 86_400_000)
            .map(Self::from_millis)
            .ok_or_else(|| LeafError::bad("is longer than ten years"))
    }

    fn show(&self) -> String {
        self.to_string()
    }

    fn schema() -> Schema {
        json_schema!({ "title": "duration", "type": "string", "pattern": "^[0-9]+(ms|s|m|h|d)$", "examples": ["250ms", "5s", "10m"] })
    }
}

/// An amount of bytes: a whole number and a unit, `512B`, `64KiB`, `100MiB`, `1GB`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ByteSize(u64);

const SIZE_UNITS: [(&str, u64); 7] = [
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("kB", 1_000),
    ("B", 1),
];

impl ByteSize {
    /// In bytes.
    pub const fn bytes(self) -> u64 {
        self.0
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (unit, size) = SIZE_UNITS
            .into_iter()
            .find(|(_, size)| self.0 > 0 && self.0.is_multiple_of(*size))
            .unwrap_or(("B", 1));
        write!(f, "{}{unit}", self.0 / size)
    }
}

impl FromScalar for ByteSize {
    fn parse(text: &str) -> Result<Self, LeafError> {
        let (number, unit) = number_and_unit(text);
        let bad = || {
            LeafError::bad("is not a size")
                .help("write a number and a unit: `512B`, `64KiB` or `100MiB`")
        };
        if number.is_empty() {
            return Err(bad());
        }
        if unit.is_empty() {
            return Err(LeafError::bad("has no unit")
                .code(Code::BadUnit)
                .help(format!(
                    "did you mean `{number}KiB`? (units: B, KiB, MiB, GiB, kB, MB, GB)"
                )));
        }
        let Some((_, size)) = SIZE_UNITS.into_iter().find(|(name, _)| *name == unit) else {
            return Err(LeafError::bad("has an unknown unit")
                .code(Code::BadUnit)
                .help("the units are B, KiB, MiB, GiB, kB, MB and GB"));
        };
        let number: u64 = number.parse().map_err(|_| bad())?;
        number
            .checked_mul(size)
            .map(Self)
            .ok_or_else(|| LeafError::bad("is too large"))
    }

    fn show(&self) -> String {
        self.to_string()
    }

    fn schema() -> Schema {
        json_schema!({ "title": "size", "type": "string", "pattern": "^[0-9]+(B|KiB|MiB|GiB|kB|MB|GB)$", "examples": ["64KiB", "100MiB"] })
    }
}

/// A share of a whole, `0%` to `100%`.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
pub struct Percent(f64);

impl Percent {
    /// As a fraction from 0 to 1.
    pub fn fraction(self) -> f64 {
        self.0 / 100.0
    }
}

impl fmt::Display for Percent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}%", self.0)
    }
}

impl FromScalar for Percent {
    fn parse(text: &str) -> Result<Self, LeafError> {
        let Some(number) = text.strip_suffix('%') else {
            return Err(LeafError::bad("has no percent sign")
                .code(Code::BadUnit)
                .help(format!("did you mean `{text}%`?")));
        };
        number
            .trim_end()
            .parse()
            .ok()
            .filter(|percent| (0.0..=100.0).contains(percent))
            .map(Self)
            .ok_or_else(|| LeafError::bad("is not a share from 0% to 100%"))
    }

    fn show(&self) -> String {
        self.to_string()
    }

    fn schema() -> Schema {
        json_schema!({ "title": "percentage", "type": "string", "pattern": "^[0-9]+(\\.[0-9]+)?%$", "examples": ["50%"] })
    }
}

/// How much of something, relative to its peers: 0 to 1,000,000. 0 means nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Weight(u32);

impl Weight {
    /// The largest weight.
    pub const MAX: u32 = 1_000_000;

    /// As a number.
    pub const fn get(self) -> u32 {
        self.0
    }
}

impl fmt::Display for Weight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromScalar for Weight {
    fn parse(text: &str) -> Result<Self, LeafError> {
        text.parse()
            .ok()
            .filter(|weight| *weight <= Self::MAX)
            .map(Self)
            .ok_or_else(|| {
                let error = LeafError::bad("is not a weight").code(Code::BadValue);
                match text.strip_suffix('%') {
                    Some(number) => error.help(format!("weights have no percent sign: `{number}`")),
                    None => error.help("weights are whole numbers from 0 to 1000000"),
                }
            })
    }

    fn show(&self) -> String {
        self.0.to_string()
    }

    fn schema() -> Schema {
        json_schema!({ "type": "integer", "minimum": 0, "maximum": Self::MAX })
    }
}

/// A number of things, or a share of all of them: `2` or `50%`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Quota {
    /// So many.
    Count(u32),
    /// Such a share.
    Share(Percent),
}

impl Quota {
    /// How many of `total` that is, rounded up.
    pub fn of(self, total: usize) -> usize {
        match self {
            Self::Count(count) => count as usize,
            Self::Share(share) => (share.fraction() * total as f64).ceil() as usize,
        }
    }
}

impl FromScalar for Quota {
    fn parse(text: &str) -> Result<Self, LeafError> {
        if text.ends_with('%') {
            return Percent::parse(text).map(Self::Share);
        }
        text.parse()
            .map(Self::Count)
            .map_err(|_| LeafError::bad("is neither a number nor a share like `50%`"))
    }

    fn show(&self) -> String {
        match self {
            Self::Count(count) => count.to_string(),
            Self::Share(share) => share.to_string(),
        }
    }

    fn schema() -> Schema {
        json_schema!({ "anyOf": [
            { "type": "integer", "minimum": 0, "maximum": u32::MAX },
            { "title": "percentage", "type": "string", "pattern": "^[0-9]+(\\.[0-9]+)?%$" },
        ] })
    }
}

/// A TCP port, 1 to 65535.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Port(u16);

impl Port {
    /// As a number.
    pub const fn get(self) -> u16 {
        self.0
    }
}

impl FromScalar for Port {
    fn parse(text: &str) -> Result<Self, LeafError> {
        text.parse()
            .ok()
            .filter(|port| *port > 0)
            .map(Self)
            .ok_or_else(|| LeafError::bad("is not a port from 1 to 65535"))
    }

    fn show(&self) -> String {
        self.0.to_string()
    }

    fn schema() -> Schema {
        json_schema!({ "type": "integer", "minimum": 1, "maximum": 65_535 })
    }
}

/// A number of something that there must be at least one of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Count(u32);

impl Count {
    /// As a number, at least 1.
    pub const fn get(self) -> u32 {
        self.0
    }
}

impl FromScalar for Count {
    fn parse(text: &str) -> Result<Self, LeafError> {
        text.parse()
            .ok()
            .filter(|count| *count > 0)
            .map(Self)
            .ok_or_else(|| LeafError::bad("is not a whole number from 1 upwards"))
    }

    fn show(&self) -> String {
        self.0.to_string()
    }

    fn schema() -> Schema {
        json_schema!({ "type": "integer", "minimum": 1, "maximum": u32::MAX })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn show<T: FromScalar>(text: &str) -> Result<String, Code> {
        T::parse(text).map(|v| v.show()).map_err(|e| e.code)
    }

    #[test]
    fn durations_need_units_and_print_the_largest_whole_one() {
        assert_eq!(show::<TimeSpan>("5s"), Ok("5s".into()));
        assert_eq!(show::<TimeSpan>("120s"), Ok("2m".into()));
        assert_eq!(show::<TimeSpan>("1500ms"), Ok("1500ms".into()));
        assert_eq!(show::<TimeSpan>("0s"), Ok("0s".into()));
        assert_eq!(show::<TimeSpan>("5"), Err(Code::BadUnit));
        assert_eq!(show::<TimeSpan>("5 sec"), Err(Code::BadUnit));
        assert_eq!(show::<TimeSpan>("1.5s"), Err(Code::BadValue));
        assert_eq!(show::<TimeSpan>("-1s"), Err(Code::BadValue));
        assert_eq!(show::<TimeSpan>("99999d"), Err(Code::BadValue));
        assert_eq!(
            show::<TimeSpan>("99999999999999999999d"),
            Err(Code::BadValue)
        );
    }

    #[test]
    fn sizes_know_both_kinds_of_units() {
        assert_eq!(ByteSize::parse("64KiB").unwrap().bytes(), 65_536);
        assert_eq!(ByteSize::parse("1MB").unwrap().bytes(), 1_000_000);
        assert_eq!(show::<ByteSize>("1024KiB"), Ok("1MiB".into()));
        assert_eq!(show::<ByteSize>("100"), Err(Code::BadUnit));
        assert_eq!(
            show::<ByteSize>("18446744073709551615GiB"),
            Err(Code::BadValue)
        );
    }

    #[test]
    fn shares_and_weights_know_their_ranges() {
        assert!((Percent::parse("12.5%").unwrap().fraction() - 0.125).abs() < 1e-12);
        assert_eq!(show::<Percent>("50"), Err(Code::BadUnit));
        assert_eq!(show::<Percent>("101%"), Err(Code::BadValue));
        assert_eq!(show::<Percent>("NaN%"), Err(Code::BadValue));
        assert_eq!(show::<Weight>("70"), Ok("70".into()));
        assert_eq!(show::<Weight>("1000001"), Err(Code::BadValue));
        assert!(
            Weight::parse("70%")
                .unwrap_err()
                .help
                .unwrap()
                .contains("`70`")
        );
    }

    #[test]
    fn quotas_count_or_share() {
        assert_eq!(Quota::parse("2").unwrap().of(10), 2);
        assert_eq!(Quota::parse("50%").unwrap().of(3), 2);
        assert_eq!(Quota::parse("0%").unwrap().of(3), 0);
        assert_eq!(show::<Port>("0"), Err(Code::BadValue));
        assert_eq!(show::<Count>("0"), Err(Code::BadValue));
    }
}
