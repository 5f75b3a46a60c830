//! The lines of a head: where they end, and the headers that stand in them.
//!
//! What a name and a value may be made of, the library for messages says; it takes no line ends, no
//! NUL and no blanks in names. So whatever is folded, or has a blank before its colon, is no header.

use std::ops::Range;
use std::sync::LazyLock;

use bytes::Bytes;
use http::{HeaderName, HeaderValue};
use memchr::{memchr, memmem};
use portolan_config::fields::Fields;

/// An empty line.
const EMPTY: &[u8] = b"\r\n\r\n";

static FIND_EMPTY: LazyLock<memmem::Finder<'static>> = LazyLock::new(|| memmem::Finder::new(EMPTY));

/// How long a head is, with the empty line that ends it, if that is there. It is looked for from
/// here on.
pub(crate) fn end_of_head(bytes: &[u8], from: usize) -> Option<usize> {
    let at = FIND_EMPTY.find(&bytes[from..])?;
    Some(from + at + EMPTY.len())
}

/// Whether any line ends in a bare LF, or a CR stands anywhere but before one. A CR at the end may
/// still be followed by one; an LF at the beginning was looked at before, unless this is the `start`.
pub(crate) fn has_bare_end(bytes: &[u8], start: bool) -> bool {
    memchr::memchr2_iter(b'\r', b'\n', bytes).any(|at| match bytes[at] {
        b'\r' => bytes.get(at + 1).is_some_and(|next| *next != b'\n'),
        _ if at == 0 => start,
        _ => bytes[at - 1] != b'\r',
    })
}

/// Why there are no headers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bad {
    /// A line that is no header, or does not end as it must.
    Line,
    /// More headers than may be.
    TooMany,
}

/// The line that begins here, without its end, and where the next one begins.
pub(crate) fn line(bytes: &[u8], from: usize) -> Option<(Range<usize>, usize)> {
    let end = from + memchr(b'\n', &bytes[from..])?;
    let last = end.checked_sub(1).filter(|last| *last >= from)?;
    (bytes[last] == b'\r').then_some((from..last, end + 1))
}

/// The headers of a head that ends with an empty line, from here on: so many at most, with room for
/// some more. Nothing is copied: the head stays as long as one of its values does.
///
/// # Errors
/// When they can be read in more than one way, or not at all.
pub(crate) fn headers(
    head: &Bytes,
    mut from: usize,
    most: usize,
    room: usize,
) -> Result<Fields, Bad> {
    let mut fields = Fields::of_head(head.clone(), room + 14);
    loop {
        let (line, next) = line(head, from).ok_or(Bad::Line)?;
        if line.is_empty() {
            return match next == head.len() {
                true => Ok(fields),
                false => Err(Bad::Line),
            };
        }
        if fields.len() == most {
            return Err(Bad::TooMany);
        }
        let colon = memchr(b':', &head[line.clone()]).ok_or(Bad::Line)?;
        let written = &head[line.start..line.start + colon];
        let name = HeaderName::from_bytes(written);
        let value = trimmed(head, line.start + colon + 1..line.end);
        let value = HeaderValue::from_maybe_shared(head.slice(value));
        match (name, value) {
            (Ok(name), Ok(value)) => fields.append_written(name, line.start, value),
            _ => return Err(Bad::Line),
        }
        from = next;
    }
}

/// Without the blanks around it (RFC 9110, section 5.5).
fn trimmed(bytes: &[u8], Range { mut start, mut end }: Range<usize>) -> Range<usize> {
    let blank = |at: usize| matches!(bytes[at], b' ' | b'\t');
    while start < end && blank(start) {
        start += 1;
    }
    while start < end && blank(end - 1) {
        end -= 1;
    }
    start..end
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &[u8]) -> Result<Vec<(String, Vec<u8>)>, Bad> {
        let fields = headers(&Bytes::copy_from_slice(text), 0, 16, 0)?;
        let pairs = fields.into_iter();
        Ok(pairs
            .map(|(name, value)| (name.to_string(), value.as_bytes().to_vec()))
            .collect())
    }

    #[test]
    fn headers_stand_in_lines() {
        let some = read(b"Host: a\r\nX-B:\t b c \r\nx-b:\r\nX-\x21: \xff\r\n\r\n").unwrap();
        let pair = |name: &str, value: &[u8]| (name.to_owned(), value.to_vec());
        let wanted = [
            pair("host", b"a"),
            pair("x-b", b"b c"),
            pair("x-b", b""),
            pair("x-!", b"\xff"),
        ];
        assert_eq!(some, wanted);
        assert_eq!(read(b"\r\n").unwrap(), []);
        let many = Bytes::from("a: b\r\n".repeat(3) + "\r\n");
        assert_eq!(headers(&many, 0, 2, 0), Err(Bad::TooMany));
        assert_eq!(headers(&many, 6, 2, 0).unwrap().len(), 2);
    }

    /// Whoever else reads what passes here reads the same: a parser that is used everywhere.
    #[test]
    fn what_passes_is_read_the_same_by_others() {
        let mut random = fastrand::Rng::with_seed(11);
        let pieces: [&[u8]; 18] = [
            b"Host",
            b"x-a",
            b":",
            b": ",
            b" ",
            b"\t",
            b"\r\n",
            b"\r\n\r\n",
            b"\n",
            b"\r",
            b"a",
            b"\0",
            b"\x0b",
            b"\x0c",
            b"\x7f",
            b"\xc3\xa9",
            b"(",
            b",",
        ];
        let (mut passed, mut refused) = (0, 0);
        for _ in 0..60_000 {
            let mut text = Vec::new();
            for _ in 0..random.usize(1..4) {
                // Most lines are nearly headers.
                for piece in [0, 3, 10, 6].map(|at| pieces[at]) {
                    let other = random.u8(..10) == 0;
                    text.extend_from_slice(match other {
                        true => pieces[random.usize(..pieces.len())],
                        false => piece,
                    });
                }
            }
            text.extend_from_slice(b"\r\n");
            let mut room = [httparse::EMPTY_HEADER; 16];
            let others = match httparse::parse_headers(&text, &mut room) {
                Ok(httparse::Status::Complete((length, list))) if length == text.len() => Some(
                    list.iter()
                        .map(|one| (one.name.to_ascii_lowercase(), one.value.to_vec()))
                        .collect::<Vec<_>>(),
                ),
                _ => None,
            };
            match read(&text) {
                Ok(ours) => {
                    passed += 1;
                    assert_eq!(Some(ours), others, "{:?}", text.escape_ascii().to_string());
                }
                Err(_) => {
                    refused += 1;
                    // What we alone refuse has a bare line end.
                    assert!(
                        others.is_none() || has_bare_end(&text, true),
                        "{:?}",
                        text.escape_ascii().to_string()
                    );
                }
            }
        }
        assert!(passed > 10_000 && refused > 10_000, "{passed} {refused}");
    }
}
