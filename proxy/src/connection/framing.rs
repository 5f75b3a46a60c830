//! Where an HTTP/1.1 message ends, decided by the bytes alone.
//!
//! The engine gets exactly the bytes of one request, so that a request pipelined behind it stays in
//! our buffer until its turn, and so that a body whose framing is wrong is refused before any of it
//! is taken for something else.

/// Chunk extensions and trailers nobody reads: more than this is an attack.
const MOST_EXTRA: usize = 8 << 10;

/// The framing of a body, as far as it was seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Framing {
    /// So many bytes are still to come.
    Length(u64),
    /// Chunks (RFC 9112, section 7.1).
    Chunked(Chunked),
    /// Everything belongs to it: the connection was upgraded.
    Everything,
}

/// Where in a chunked body we are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Chunked {
    state: State,
    /// Bytes of extensions and trailers so far.
    extra: usize,
    /// The name of the trailer that is being read, in lower case.
    name: Name,
}

/// As much of a trailer's name as it takes to know whether it is forbidden.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Name {
    bytes: [u8; 20],
    length: usize,
}

impl Name {
    fn push(&mut self, byte: u8) {
        if let Some(slot) = self.bytes.get_mut(self.length) {
            *slot = byte.to_ascii_lowercase();
        }
        self.length += 1;
    }

    /// Whether it may stand in a trailer: not if it frames or routes a message, says who sent it, or
    /// how to read it (RFC 9110, section 6.5.1). Somebody behind us might merge it into the head.
    fn is_allowed(&self) -> bool {
        let name = self.bytes.get(..self.length).unwrap_or_default();
        !FORBIDDEN_TRAILERS.iter().any(|bad| bad.as_bytes() == name)
    }
}

const FORBIDDEN_TRAILERS: [&str; 16] = [
    "authorization",
    "connection",
    "content-encoding",
    "content-length",
    "content-range",
    "content-type",
    "cookie",
    "expect",
    "host",
    "keep-alive",
    "proxy-connection",
    "set-cookie",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// The size of a chunk: its value and number of digits so far.
    Size(u64, u8),
    /// A chunk extension, until CR.
    Extension(u64),
    /// The LF that ends the size line.
    SizeEnd(u64),
    /// So many bytes of data.
    Data(u64),
    /// CR, then LF, behind the data.
    DataCr,
    DataLf,
    /// The beginning of a trailer line, or of the empty line that ends everything.
    TrailerStart,
    /// Within a trailer's name.
    TrailerName,
    /// Behind its colon.
    Trailer,
    /// The LF of a trailer line.
    TrailerLf,
    /// The last LF.
    LastLf,
    Done,
}

/// The bytes are not what the framing says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the chunked body is malformed")]
pub(crate) struct Malformed;

impl Framing {
    /// A message without a body.
    pub(crate) const NONE: Self = Self::Length(0);

    /// The beginning of a chunked body.
    pub(crate) fn chunked() -> Self {
        Self::Chunked(Chunked {
            state: State::Size(0, 0),
            extra: 0,
            name: Name::default(),
        })
    }

    /// Whether the message is over.
    pub(crate) fn is_done(&self) -> bool {
        match self {
            Self::Length(rest) => *rest == 0,
            Self::Chunked(chunked) => chunked.state == State::Done,
            Self::Everything => false,
        }
    }

    /// How many of these bytes, from the first, belong to the message. They count as seen.
    ///
    /// # Errors
    /// When they break the framing.
    pub(crate) fn take(&mut self, bytes: &[u8]) -> Result<usize, Malformed> {
        match self {
            Self::Everything => Ok(bytes.len()),
            Self::Length(rest) => {
                let take = (*rest).min(bytes.len() as u64);
                *rest -= take;
                Ok(take as usize)
            }
            Self::Chunked(chunked) => chunked.take(bytes),
        }
    }
}

impl Chunked {
    fn take(&mut self, bytes: &[u8]) -> Result<usize, Malformed> {
        let mut at = 0;
        while at < bytes.len() && self.state != State::Done {
            if let State::Data(rest) = self.state {
                let take = rest.min((bytes.len() - at) as u64);
                at += take as usize;
                self.state = if take == rest {
                    State::DataCr
                } else {
                    State::Data(rest - take)
                };
                continue;
            }
            self.state = self.next(bytes[at])?;
            at += 1;
        }
        Ok(at)
    }

    fn next(&mut self, byte: u8) -> Result<State, Malformed> {
        if matches!(
            self.state,
            State::Extension(_) | State::Trailer | State::TrailerName | State::TrailerStart
        ) {
            self.extra += 1;
            if self.extra > MOST_EXTRA {
                return Err(Malformed);
            }
        }
        Ok(match (self.state, byte) {
            (State::Size(value, digits), byte) if byte.is_ascii_hexdigit() => {
                // 15 digits are more than anybody has, and cannot overflow.
                if digits == 15 {
                    return Err(Malformed);
                }
                let digit = (byte as char).to_digit(16).unwrap_or_default();
                State::Size(value << 4 | u64::from(digit), digits + 1)
            }
            (State::Size(value, 1..), b'\r') => State::SizeEnd(value),
            (State::Size(value, 1..), b';') => State::Extension(value),
            (State::Extension(value), b'\r') => State::SizeEnd(value),
            (State::Extension(value), byte) if is_text(byte) => State::Extension(value),
            (State::SizeEnd(0), b'\n') => State::TrailerStart,
            (State::SizeEnd(value), b'\n') => State::Data(value),
            (State::DataCr, b'\r') => State::DataLf,
            (State::DataLf, b'\n') => State::Size(0, 0),
            (State::TrailerStart, b'\r') => State::LastLf,
            (State::TrailerStart, byte) if is_token(byte) => {
                self.name = Name::default();
                self.name.push(byte);
                State::TrailerName
            }
            (State::TrailerName, byte) if is_token(byte) => {
                self.name.push(byte);
                State::TrailerName
            }
            (State::TrailerName, b':') if self.name.is_allowed() => State::Trailer,
            (State::Trailer, byte) if is_text(byte) => State::Trailer,
            (State::Trailer, b'\r') => State::TrailerLf,
            (State::TrailerLf, b'\n') => State::TrailerStart,
            (State::LastLf, b'\n') => State::Done,
            _ => return Err(Malformed),
        })
    }
}

/// Whether a byte may stand in an extension or a trailer.
fn is_text(byte: u8) -> bool {
    byte == b'\t' || (byte >= b' ' && byte != 0x7f)
}

/// Whether a byte may stand in a header's name (RFC 9110, section 5.6.2).
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many bytes belong to the message, fed in pieces of every size.
    fn end_of(text: &str) -> Result<usize, Malformed> {
        let whole = Framing::chunked().take(text.as_bytes());
        for size in 1..text.len() {
            let mut framing = Framing::chunked();
            let mut seen = 0;
            let mut failed = None;
            for piece in text.as_bytes().chunks(size) {
                match framing.take(piece) {
                    Ok(taken) => seen += taken,
                    Err(error) => {
                        failed = Some(error);
                        break;
                    }
                }
                if framing.is_done() {
                    break;
                }
            }
            assert_eq!(
                failed.map_or(Ok(seen), Err),
                whole,
                "in pieces of {size}: {text:?}"
            );
        }
        whole
    }

    #[test]
    fn the_end_is_found_wherever_the_pieces_break() {
        assert_eq!(end_of("0\r\n\r\nGET"), Ok(5));
        assert_eq!(end_of("5\r\nhello\r\n0\r\n\r\nnext"), Ok(15));
        assert_eq!(
            end_of("A;name=\"v\"\r\n0123456789\r\n0;x\r\nChecked: 1\r\n\r\nnext"),
            Ok(43)
        );
        assert_eq!(end_of("3\r\nab"), Ok(5), "not over yet");
    }

    #[test]
    fn what_could_be_read_in_two_ways_is_refused() {
        for bad in [
            "\r\n",
            "g\r\n",
            "5 \r\nhello\r\n",
            "5\nhello\r\n",
            "5\r\nhello0\r\n\r\n",
            "5\r\nhelloXX0\r\n\r\n",
            "+5\r\nhello\r\n",
            "0x5\r\nhello\r\n",
            "1000000000000000\r\n",
            "0\r\nTrailer: 1\n\r\n",
            "0\r\n\rX",
            "5;\u{1}\r\nhello\r\n",
            "0\r\nHost: a\r\n\r\n",
            "0\r\nX: 1\r\nContent-LENGTH: 5\r\n\r\n",
            "0\r\nTransfer-Encoding: chunked\r\n\r\n",
            "0\r\n folded\r\n\r\n",
            "0\r\nX : 1\r\n\r\n",
            "0\r\n: 1\r\n\r\n",
            "0\r\nnothing\r\n\r\n",
        ] {
            assert_eq!(end_of(bad), Err(Malformed), "{bad:?}");
        }
        let long = format!("5;{}\r\nhello\r\n0\r\n\r\n", "x".repeat(MOST_EXTRA));
        assert_eq!(Framing::chunked().take(long.as_bytes()), Err(Malformed));
    }

    #[test]
    fn lengths_are_counted() {
        let mut framing = Framing::Length(5);
        assert_eq!(framing.take(b"hel"), Ok(3));
        assert!(!framing.is_done());
        assert_eq!(framing.take(b"lo, next"), Ok(2));
        assert!(framing.is_done());
        assert!(Framing::NONE.is_done());
    }
}
