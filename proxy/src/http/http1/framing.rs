//! What the headers of a message say about where it ends, and whether its connection goes on.

use http::{Version, header};
use portolan_config::fields::Fields;

/// How a body is framed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Framing {
    /// Nothing is said.
    Nothing,
    Length(u64),
    Chunked,
}

/// How the body of a message of this version is framed.
///
/// # Errors
/// When that could be read in two ways (RFC 9112, section 6): what is wrong.
pub(crate) fn framing(version: Version, headers: &Fields) -> Result<Framing, &'static str> {
    let mut lengths = headers.get_all(&header::CONTENT_LENGTH);
    let length = match (lengths.next(), lengths.next()) {
        (None, _) => None,
        (Some(said), None) => Some(length(said.as_bytes()).ok_or("a length")?),
        // A second one that says the same is as wrong as one that does not: somebody behind us may
        // take the other.
        (Some(_), Some(_)) => return Err("two lengths"),
    };
    let mut codings = headers.get_all(&header::TRANSFER_ENCODING);
    let Some(coding) = codings.next() else {
        return Ok(length.map_or(Framing::Nothing, Framing::Length));
    };
    if length.is_some() {
        return Err("a length and a transfer coding");
    }
    let chunked = coding.as_bytes().eq_ignore_ascii_case(b"chunked");
    if chunked && codings.next().is_none() && version == Version::HTTP_11 {
        Ok(Framing::Chunked)
    } else {
        Err("a transfer coding")
    }
}

/// A length: digits alone, and no more than a number with a sign holds (2^63 − 1). Nobody has so many
/// bytes, and whoever stands behind us may take what is larger for something else.
pub(crate) fn length(text: &[u8]) -> Option<u64> {
    if text.is_empty() {
        return None;
    }
    let length = text.iter().try_fold(0_u64, |number, byte| {
        let digit = byte.is_ascii_digit().then(|| byte - b'0')?;
        number.checked_mul(10)?.checked_add(digit.into())
    })?;
    i64::try_from(length).is_ok().then_some(length)
}

/// Whether the connection may be used again, as far as the message says (RFC 9112, section 9.3).
pub(crate) fn keeps(version: Version, headers: &Fields) -> bool {
    let (mut close, mut keep) = (false, false);
    let lines = headers.get_all(&header::CONNECTION);
    for option in lines.flat_map(|line| line.as_bytes().split(|byte| *byte == b',')) {
        let option = option.trim_ascii();
        close |= option.eq_ignore_ascii_case(b"close");
        keep |= option.eq_ignore_ascii_case(b"keep-alive");
    }
    !close && (keep || version == Version::HTTP_11)
}

#[cfg(test)]
mod tests {
    use super::length;

    #[test]
    fn lengths_are_digits() {
        assert_eq!(length(b"0"), Some(0));
        assert_eq!(length(b"00012"), Some(12));
        assert_eq!(length(b"9223372036854775807"), Some(i64::MAX as u64));
        for bad in [
            "",
            "9223372036854775808",
            "18446744073709551615",
            "18446744073709551616",
            "99999999999999999999999999",
            "-1",
            "+1",
            "1 ",
            "0x1",
            "1,1",
        ] {
            assert_eq!(length(bad.as_bytes()), None, "{bad}");
        }
    }
}
