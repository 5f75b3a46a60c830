//! Numbers in databases, whatever kind they are stored as. MaxMind's writers choose by the field, those
//! of others by the value or by what their language has.

use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, Error, Visitor};

/// A number as it is stored.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Number {
    /// A whole one: 16, 32, 64 or 128 bits, with or without sign, or a text that says one.
    Whole(i128),
    /// A float or a double, or a text that says one.
    Real(f64),
}

impl Number {
    /// As the number of an autonomous system. 0 is none (RFC 7607).
    pub(super) fn system(self) -> Option<u32> {
        match self {
            Self::Whole(number) => u32::try_from(number).ok().filter(|number| *number > 0),
            Self::Real(_) => None,
        }
    }

    /// As a number of degrees.
    pub(super) fn real(self) -> Option<f64> {
        match self {
            Self::Whole(number) => Some(number as f64),
            Self::Real(number) => Some(number).filter(|number| number.is_finite()),
        }
    }

    /// What a text says: `64500`, `AS64500`, `37.75`.
    fn said(text: &str) -> Option<Self> {
        let text = text.trim();
        let digits = match text.get(..2) {
            Some(letters) if letters.eq_ignore_ascii_case("as") => &text[2..],
            _ => text,
        };
        let whole = digits.parse().map(Self::Whole);
        whole.or_else(|_| text.parse().map(Self::Real)).ok()
    }
}

impl<'de> Deserialize<'de> for Number {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Stored;

        impl Visitor<'_> for Stored {
            type Value = Number;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number")
            }

            fn visit_i64<E: Error>(self, number: i64) -> Result<Number, E> {
                Ok(Number::Whole(number.into()))
            }

            fn visit_u64<E: Error>(self, number: u64) -> Result<Number, E> {
                Ok(Number::Whole(number.into()))
            }

            fn visit_u128<E: Error>(self, number: u128) -> Result<Number, E> {
                let number = i128::try_from(number);
                number
                    .map(Number::Whole)
                    .map_err(|_| E::custom("too large"))
            }

            fn visit_f64<E: Error>(self, number: f64) -> Result<Number, E> {
                Ok(Number::Real(number))
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Number, E> {
                Number::said(text).ok_or_else(|| E::custom("not a number"))
            }
        }

        deserializer.deserialize_any(Stored)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_say_numbers() {
        let system = |text| Number::said(text).and_then(Number::system);
        assert_eq!(system("64500"), Some(64_500));
        assert_eq!(system("AS64500"), Some(64_500));
        assert_eq!(system("as4294967295"), Some(u32::MAX));
        for none in ["", "AS", "0", "-1", "4294967296", "64500.5", "é1", "a"] {
            assert_eq!(system(none), None, "{none}");
        }
        assert_eq!(Number::said("-122.5").and_then(Number::real), Some(-122.5));
        assert_eq!(Number::said("NaN").and_then(Number::real), None);
    }
}
