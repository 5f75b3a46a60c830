//! The body of a message: which of the bytes that came belong to it, and where it ends.

use bytes::{Bytes, BytesMut};
use http::header::HeaderName;
use http::{HeaderMap, header};

use super::{Bad, lines};
use crate::http::trailers;

/// Chunk extensions nobody reads: more than this, over a whole body, is an attack.
const MOST_EXTENSIONS: usize = 8 << 10;

/// The longest line that says the size of a chunk.
const LONGEST_LINE: usize = 4 << 10;

/// The longest trailer section, and the most trailers.
const MOST_TRAILER_BYTES: usize = 8 << 10;
const MOST_TRAILERS: usize = 64;

/// What makes a request with such a trailer a bad one: somebody behind us might merge it into the
/// head.
static REFUSED_BEHIND: [HeaderName; 16] = [
    header::AUTHORIZATION,
    header::CONNECTION,
    header::CONTENT_ENCODING,
    header::CONTENT_LENGTH,
    header::CONTENT_RANGE,
    header::CONTENT_TYPE,
    header::COOKIE,
    header::EXPECT,
    header::HOST,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    header::SET_COOKIE,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

/// The body of a message, as far as it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Body {
    /// So many bytes are still to come.
    Length(u64),
    /// Chunks (RFC 9112, section 7.1).
    Chunked(Chunked),
    /// Whatever comes until the sender closes the connection.
    UntilClose,
    /// The same, and no longer HTTP.
    Everything,
    /// Nothing more.
    Done,
}

/// Where in a chunked body we are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Chunked {
    state: BodyState,
    /// Bytes of extensions so far.
    extensions: usize,
    /// Trailers that must not be there are refused, and not only taken off.
    strict: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum BodyState {
    /// Before the line that says a chunk's size.
    Size,
    /// So many bytes of a chunk are still to come.
    Data(u64),
    /// Before the line end behind a chunk.
    Behind,
    /// Before the trailers.
    Trailers,
}

/// What comes next of a body.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Some of it.
    Data(Bytes),
    /// It is over; perhaps with trailers.
    End(Option<HeaderMap>),
    /// Nothing, until more was read.
    More,
}

impl Body {
    /// The beginning of an answer's chunked body.
    pub(crate) fn chunked() -> Self {
        Self::Chunked(Chunked {
            state: BodyState::Size,
            extensions: 0,
            strict: false,
        })
    }

    /// The beginning of a request's.
    pub(crate) fn chunked_request() -> Self {
        Self::Chunked(Chunked {
            state: BodyState::Size,
            extensions: 0,
            strict: true,
        })
    }

    /// Whether there is nothing more to come.
    pub(crate) fn is_done(&self) -> bool {
        matches!(self, Self::Done | Self::Length(0))
    }

    /// Takes what comes next off the buffer. `closed`: nothing will be added to it.
    ///
    /// # Errors
    /// When the bytes break the framing, or end too early.
    pub(crate) fn take(&mut self, buffer: &mut BytesMut, closed: bool) -> Result<Step, Bad> {
        let step = match self {
            Self::Done => Step::End(None),
            Self::Length(rest) => {
                if *rest == 0 {
                    Step::End(None)
                } else {
                    let step = data(buffer, *rest);
                    if let Step::Data(data) = &step {
                        *rest -= data.len() as u64;
                    }
                    step
                }
            }
            Self::UntilClose | Self::Everything => match data(buffer, u64::MAX) {
                Step::More if closed => Step::End(None),
                step => step,
            },
            Self::Chunked(chunked) => chunked.take(buffer)?,
        };
        match step {
            Step::More if closed => Err(Bad::CutShort),
            Step::End(_) => {
                *self = Self::Done;
                Ok(step)
            }
            step => Ok(step),
        }
    }
}

fn data(buffer: &mut BytesMut, most: u64) -> Step {
    if buffer.is_empty() {
        return Step::More;
    }
    let length = usize::try_from(most).map_or(buffer.len(), |most| most.min(buffer.len()));
    Step::Data(buffer.split_to(length).freeze())
}

impl Chunked {
    fn take(&mut self, buffer: &mut BytesMut) -> Result<Step, Bad> {
        loop {
            match self.state {
                BodyState::Size => {
                    let Some((size, line)) = size_line(buffer)? else {
                        return Ok(Step::More);
                    };
                    // The digits are bounded; what is behind them counts.
                    self.extensions += line.saturating_sub(18);
                    if self.extensions > MOST_EXTENSIONS {
                        return Err(Bad::Body("chunk extensions"));
                    }
                    let _ = buffer.split_to(line);
                    self.state = match size {
                        0 => BodyState::Trailers,
                        size => BodyState::Data(size),
                    };
                }
                BodyState::Data(rest) => {
                    let step = data(buffer, rest);
                    if let Step::Data(data) = &step {
                        self.state = match rest - data.len() as u64 {
                            0 => BodyState::Behind,
                            rest => BodyState::Data(rest),
                        };
                    }
                    return Ok(step);
                }
                BodyState::Behind => {
                    let begun = buffer.len().min(2);
                    if buffer[..begun] != b"\r\n"[..begun] {
                        return Err(Bad::Body("a chunk that is longer than it says"));
                    }
                    if begun < 2 {
                        return Ok(Step::More);
                    }
                    let _ = buffer.split_to(2);
                    self.state = BodyState::Size;
                }
                BodyState::Trailers => {
                    return Ok(trailers(buffer, self.strict)?.map_or(Step::More, Step::End));
                }
            }
        }
    }
}

/// The size of a chunk and the length of the line that says it, once all of the line is there.
fn size_line(buffer: &[u8]) -> Result<Option<(u64, usize)>, Bad> {
    let mut size: u64 = 0;
    let digits = buffer.iter().take_while(|byte| byte.is_ascii_hexdigit());
    let mut count = 0;
    for digit in digits {
        count += 1;
        // 15 digits are more than anybody has, and cannot overflow.
        if count > 15 {
            return Err(Bad::Body("a chunk size"));
        }
        let digit = char::from(*digit).to_digit(16).unwrap_or_default();
        size = size << 4 | u64::from(digit);
    }
    let mut at = count;
    match buffer.get(at) {
        None => return Ok(None),
        Some(b'\r' | b';') if count > 0 => {}
        Some(_) => return Err(Bad::Body("a chunk size")),
    }
    // An extension: text, which nobody looks at.
    while let Some(byte) = buffer.get(at) {
        match byte {
            b'\r' => {
                return match buffer.get(at + 1) {
                    None => Ok(None),
                    Some(b'\n') => Ok(Some((size, at + 2))),
                    Some(_) => Err(Bad::Body("a bare line end")),
                };
            }
            b'\t' | b' '..=b'~' | 0x80.. => at += 1,
            _ => return Err(Bad::Body("a chunk extension")),
        }
        if at > LONGEST_LINE {
            return Err(Bad::Body("chunk extensions"));
        }
    }
    Ok(None)
}

/// The trailers, once all of them are there: the empty line that ends them as well.
fn trailers(buffer: &mut BytesMut, strict: bool) -> Result<Option<Option<HeaderMap>>, Bad> {
    if buffer.starts_with(b"\r\n") {
        let _ = buffer.split_to(2);
        return Ok(Some(None));
    }
    let end = lines::end_of_head(buffer, 0);
    let seen = end.unwrap_or(buffer.len());
    if lines::has_bare_end(&buffer[..seen], true) {
        return Err(Bad::Body("a bare line end"));
    }
    if seen > MOST_TRAILER_BYTES {
        return Err(Bad::Body("trailers"));
    }
    let Some(end) = end else {
        return Ok(None);
    };
    let bytes = buffer.split_to(end).freeze();
    let read = lines::headers(&bytes, 0, MOST_TRAILERS, 0);
    let read = read.map_err(|_| Bad::Body("trailers"))?;
    if strict && read.names().any(|name| REFUSED_BEHIND.contains(name)) {
        return Err(Bad::Body("a trailer that must not be one"));
    }
    Ok(Some(trailers::pass(read.into())))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What was read of a body: its bytes, its trailers once it is over, and what stands behind it.
    type Read = (Vec<u8>, Option<Vec<(String, String)>>, Vec<u8>);

    fn feed(mut body: Body, pieces: &[&[u8]], closed: bool) -> Result<Read, Bad> {
        let mut buffer = BytesMut::new();
        let mut bytes = Vec::new();
        let mut over = None;
        for (number, piece) in pieces.iter().enumerate() {
            buffer.extend_from_slice(piece);
            let last = number + 1 == pieces.len();
            while over.is_none() {
                match body.take(&mut buffer, closed && last)? {
                    Step::Data(data) => {
                        assert!(!data.is_empty());
                        bytes.extend_from_slice(&data);
                    }
                    Step::More => break,
                    Step::End(trailers) => {
                        let pairs = trailers.iter().flat_map(|trailers| {
                            trailers.iter().map(|(name, value)| {
                                (name.to_string(), value.to_str().unwrap().to_owned())
                            })
                        });
                        over = Some(pairs.collect());
                    }
                }
            }
        }
        Ok((bytes, over, buffer.to_vec()))
    }

    /// As a whole, broken in two at every place, and byte by byte: always the same.
    fn read(body: &Body, text: &[u8], closed: bool) -> Result<Read, Bad> {
        let whole = feed(body.clone(), &[text], closed);
        for at in 0..text.len() {
            let (one, two) = text.split_at(at);
            let broken = feed(body.clone(), &[one, two], closed);
            assert_eq!(
                broken.is_err(),
                whole.is_err(),
                "{:?} at {at}",
                text.escape_ascii().to_string()
            );
            if let (Ok(broken), Ok(whole)) = (broken, &whole) {
                assert_eq!(
                    &broken,
                    whole,
                    "{:?} at {at}",
                    text.escape_ascii().to_string()
                );
            }
        }
        let bytes: Vec<&[u8]> = text.chunks(1).collect();
        if !bytes.is_empty() {
            let one_by_one = feed(body.clone(), &bytes, closed);
            assert_eq!(one_by_one.is_err(), whole.is_err());
            if let (Ok(one_by_one), Ok(whole)) = (one_by_one, &whole) {
                assert_eq!(&one_by_one, whole);
            }
        }
        whole
    }

    fn chunks(text: &str) -> Result<Read, Bad> {
        read(&Body::chunked(), text.as_bytes(), false)
    }

    fn over(bytes: &str, behind: &str) -> Result<Read, Bad> {
        Ok((bytes.into(), Some(Vec::new()), behind.into()))
    }

    #[test]
    fn lengths_are_counted_and_what_is_behind_is_left() {
        let body = Body::Length(5);
        assert_eq!(read(&body, b"hello", false), over("hello", ""));
        assert_eq!(read(&body, b"hello, you", false), over("hello", ", you"));
        assert_eq!(
            read(&body, b"hell", false),
            Ok(("hell".into(), None, Vec::new()))
        );
        assert_eq!(read(&body, b"hell", true), Err(Bad::CutShort));
        assert_eq!(read(&Body::Length(0), b"x", false), over("", "x"));
        assert_eq!(read(&Body::Done, b"x", false), over("", "x"));
    }

    #[test]
    fn without_a_length_the_end_of_the_connection_is_the_end() {
        let body = Body::UntilClose;
        assert_eq!(
            read(&body, b"hello", false),
            Ok(("hello".into(), None, Vec::new()))
        );
        assert_eq!(read(&body, b"hello", true), over("hello", ""));
    }

    #[test]
    fn chunks_are_put_together_wherever_the_pieces_break() {
        assert_eq!(chunks("0\r\n\r\nHTTP"), over("", "HTTP"));
        assert_eq!(chunks("5\r\nhello\r\n0\r\n\r\nnext"), over("hello", "next"));
        assert_eq!(
            chunks("a;name=\"v\"\r\n0123456789\r\n0005;x\r\nhello\r\n0;y\r\n\r\n"),
            over("0123456789hello", "")
        );
        assert_eq!(
            chunks("1\r\nx\r\n0\r\nGrpc-Status: 0\r\nX-A: b\r\n\r\n!\n"),
            Ok((
                "x".into(),
                Some(vec![
                    ("grpc-status".to_owned(), "0".to_owned()),
                    ("x-a".to_owned(), "b".to_owned()),
                ]),
                "!\n".into(),
            ))
        );
        // What decides how the message is read must not come behind it.
        assert_eq!(
            chunks("0\r\nContent-Length: 9\r\nSet-Cookie: a=b\r\n\r\n"),
            over("", "")
        );
        assert_eq!(
            read(&Body::chunked(), b"5\r\nhello\r\n", true),
            Err(Bad::CutShort)
        );
        assert_eq!(
            read(&Body::chunked(), b"5\r\nhello\r\n0\r\n", true),
            Err(Bad::CutShort)
        );
    }

    #[test]
    fn what_could_be_read_in_two_ways_is_refused() {
        for bad in [
            "\r\n",
            "g\r\n",
            "5 \r\nhello\r\n",
            " 5\r\nhello\r\n",
            "5\nhello\r\n",
            "5\r\nhello0\r\n\r\n",
            "5\r\nhello\n0\r\n\r\n",
            "5\r\nhelloXX0\r\n\r\n",
            "+5\r\nhello\r\n",
            "-5\r\nhello\r\n",
            "0x5\r\nhello\r\n",
            ";x\r\n",
            "1000000000000000\r\n",
            "0000000000000000\r\n",
            "5;\u{1}\r\nhello\r\n",
            "5;a\nb\r\nhello\r\n",
            "5;a\rb\r\nhello\r\n",
            "5;\u{7f}\r\nhello\r\n",
            "0\r\nTrailer: 1\n\r\n",
            "0\r\nTrailer : 1\r\n\r\n",
            "0\r\nTrailer: 1\r\n folded\r\n\r\n",
            "0\r\nnothing\r\n\r\n",
            "0\r\n\rX",
            "0\r\n\n",
        ] {
            assert!(chunks(bad).is_err(), "{bad:?}: {:?}", chunks(bad));
        }
    }

    #[test]
    fn requests_end_in_one_place_and_their_trailers_frame_nothing() {
        for (text, behind) in [
            ("0\r\n\r\nGET", "GET"),
            ("5\r\nhello\r\n0\r\n\r\nnext", "next"),
            (
                "A;name=\"v\"\r\n0123456789\r\n0;x\r\nChecked: 1\r\n\r\nnext",
                "next",
            ),
        ] {
            let (_, over, left) = read(&Body::chunked_request(), text.as_bytes(), false).unwrap();
            assert!(over.is_some() && left == behind.as_bytes(), "{text:?}");
        }
        let (_, over, _) = read(&Body::chunked_request(), b"3\r\nab", false).unwrap();
        assert!(over.is_none(), "not over yet");
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
            let refused = read(&Body::chunked_request(), bad.as_bytes(), false);
            assert!(refused.is_err(), "{bad:?}: {refused:?}");
        }
        for name in &REFUSED_BEHIND {
            let text = format!("0\r\n{name}: 1\r\n\r\n");
            assert!(
                read(&Body::chunked_request(), text.as_bytes(), false).is_err(),
                "{name}"
            );
        }
    }

    #[test]
    fn what_nobody_reads_is_bounded() {
        let bad = |text: String| {
            let fed = feed(Body::chunked(), &[text.as_bytes()], false);
            assert!(fed.is_err(), "{:?}", fed.map(|read| read.0.len()));
        };
        bad(format!("5;{}", "x".repeat(LONGEST_LINE + 1)));
        bad(format!("1;{}\r\nx\r\n", "x".repeat(1000)).repeat(10));
        bad(format!("0\r\nX: {}", "x".repeat(MOST_TRAILER_BYTES)));
        bad(format!("0\r\n{}\r\n", "X: 1\r\n".repeat(MOST_TRAILERS + 1)));
    }

    #[test]
    fn chunked_bodies_of_every_shape_come_out_as_they_went_in() {
        let mut random = fastrand::Rng::with_seed(11);
        for _ in 0..300 {
            let mut text = Vec::new();
            let mut bytes = Vec::new();
            for _ in 0..random.usize(..6) {
                let chunk: Vec<u8> = (0..random.usize(1..40)).map(|_| random.u8(..)).collect();
                text.extend_from_slice(format!("{:X}\r\n", chunk.len()).as_bytes());
                text.extend_from_slice(&chunk);
                text.extend_from_slice(b"\r\n");
                bytes.extend_from_slice(&chunk);
            }
            text.extend_from_slice(b"0\r\n\r\n");
            assert_eq!(
                read(&Body::chunked(), &text, false),
                Ok((bytes, Some(Vec::new()), Vec::new()))
            );
            // One byte of the framing changed: never a panic, never the same by luck of the pieces.
            let at = random.usize(..text.len());
            text[at] = random.u8(..);
            let _ = read(&Body::chunked(), &text, true);
        }
    }
}
