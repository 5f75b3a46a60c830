//! The head of an answer: is it there as a whole, and can it be read in one way only?
//!
//! An endpoint is not trusted more than a client. What the engine's parser would repair (bare line
//! feeds, folded lines, spaces before colons) or choose between (two lengths, a length and chunks)
//! is refused here, so that nobody behind us can be made to read it otherwise (RFC 9112, sections
//! 2.2, 5 and 6).

use bytes::{Bytes, BytesMut};
use http::{StatusCode, Version, header};
use portolan_config::fields::Fields;

use super::body::Body;
use super::framing::{Framing, framing, keeps};
use super::{Bad, lines};
use crate::http::head::ResponseHeader;

/// The longest head. Some applications say much in cookies and policies; nobody says more.
pub(crate) const MOST_BYTES: usize = 256 << 10;

/// The most headers.
pub(crate) const MOST_HEADERS: usize = 256;

/// Headers that are added on the way to a client, or may be.
const ROOM: usize = 2;

/// What every head begins with.
const BEGINNING: &[u8] = b"HTTP/1.";

/// What the request says about its answer.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Asked {
    /// By HEAD: there is no body, whatever the head says.
    pub(crate) head: bool,
    /// For the connection to be upgraded.
    pub(crate) upgrade: bool,
}

/// A head.
#[derive(Debug)]
pub(crate) struct Head {
    pub(crate) response: Box<ResponseHeader>,
    /// What follows it.
    pub(crate) body: Body,
    /// The endpoint takes another request on this connection.
    pub(crate) keep: bool,
}

/// Takes the head off the buffer once all of it is there. `seen` bytes were looked at before; they
/// are counted up.
///
/// # Errors
/// When it must not pass, as soon as that can be told.
pub(crate) fn take(
    buffer: &mut BytesMut,
    seen: &mut usize,
    asked: Asked,
) -> Result<Option<Head>, Bad> {
    let begun = buffer.len().min(BEGINNING.len());
    if buffer[..begun] != BEGINNING[..begun] {
        return Err(Bad::Head("no HTTP/1"));
    }
    let from = seen.saturating_sub(3);
    let end = lines::end_of_head(buffer, from);
    let length = end.unwrap_or(buffer.len());
    if length > MOST_BYTES {
        return Err(Bad::Head("too long"));
    }
    let Some(end) = end else {
        // Its end may never come.
        if lines::has_bare_end(&buffer[from..], from == 0) {
            return Err(Bad::Head("a bare line end"));
        }
        *seen = length;
        return Ok(None);
    };
    *seen = 0;
    parse(&buffer.split_to(end).freeze(), asked).map(Some)
}

fn parse(bytes: &Bytes, asked: Asked) -> Result<Head, Bad> {
    let Some((line, next)) = lines::line(bytes, 0) else {
        return Err(Bad::Head("not a head"));
    };
    let (version, status, reason) = status_line(&bytes[line])?;
    let headers = lines::headers(bytes, next, MOST_HEADERS, ROOM).map_err(|bad| {
        Bad::Head(match bad {
            lines::Bad::Line => "a header that is none",
            lines::Bad::TooMany => "too many headers",
        })
    })?;
    let mut response = ResponseHeader::new(status, version, headers);
    response.set_reason(reason);
    let framing = framing(version, &response.headers);
    let mut keep = keeps(version, &response.headers);
    let status = status.as_u16();
    let body = if status == 101 {
        if !asked.upgrade || version != Version::HTTP_11 || !is_websocket(&response.headers) {
            return Err(Bad::Head("an upgrade nobody asked for"));
        }
        Body::Everything
    } else if matches!(status, 100..200 | 204 | 304) || asked.head {
        // RFC 9112, section 6.3: these end with their head, whatever that says. But what it says may
        // follow all the same, and must not be taken for the next answer.
        keep &= match framing {
            Ok(Framing::Nothing | Framing::Length(0)) => true,
            // It tells how long the answer would be otherwise.
            Ok(_) => status == 304 || asked.head,
            Err(_) => false,
        };
        Body::Done
    } else {
        match framing.map_err(Bad::Head)? {
            Framing::Length(length) => Body::Length(length),
            Framing::Chunked => Body::chunked(),
            Framing::Nothing => Body::UntilClose,
        }
    };
    // How it was framed ends here; what is written to the client is framed anew. A length where there
    // can be no body means nothing (RFC 9110, section 8.6).
    response.remove_header(&header::TRANSFER_ENCODING);
    if matches!(status, 100..200 | 204) || framing.is_err() {
        response.remove_header(&header::CONTENT_LENGTH);
    }
    keep &= !matches!(body, Body::UntilClose | Body::Everything);
    Ok(Head {
        response: Box::new(response),
        body,
        keep,
    })
}

/// What the first line says: version, status, and the reason, if that is text.
fn status_line(line: &[u8]) -> Result<(Version, StatusCode, &str), Bad> {
    let bad = || Bad::Head("not a head");
    let rest = line.strip_prefix(BEGINNING).ok_or_else(bad)?;
    let (version, rest) = match rest.split_first() {
        Some((b'1', rest)) => (Version::HTTP_11, rest),
        Some((b'0', rest)) => (Version::HTTP_10, rest),
        _ => return Err(bad()),
    };
    let (digits, reason) = rest
        .strip_prefix(b" ")
        .ok_or_else(bad)?
        .split_at_checked(3)
        .ok_or_else(bad)?;
    let reason = match reason.split_first() {
        None => reason,
        Some((b' ', reason)) => reason,
        Some(_) => return Err(bad()),
    };
    if !reason
        .iter()
        .all(|byte| matches!(byte, b'\t' | b' '..=b'~' | 0x80..))
    {
        return Err(bad());
    }
    let status = StatusCode::from_bytes(digits)
        .ok()
        .filter(|status| status.as_u16() < 600)
        .ok_or(Bad::Head("a status that is none"))?;
    // What is not text is not worth keeping.
    let reason = if reason.is_ascii() { reason } else { b"" };
    Ok((
        version,
        status,
        std::str::from_utf8(reason).unwrap_or_default(),
    ))
}

fn is_websocket(headers: &Fields) -> bool {
    headers
        .get(header::UPGRADE)
        .is_some_and(|to| to.as_bytes().eq_ignore_ascii_case(b"websocket"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads the text as a whole, and in two pieces for every place where it could break.
    fn read(text: &[u8], asked: Asked) -> Result<Option<(u16, Body, bool, usize)>, Bad> {
        let outcome = |mut buffer: BytesMut, seen: &mut usize| {
            take(&mut buffer, seen, asked).map(|head| {
                head.map(|head| {
                    let status = head.response.status.as_u16();
                    (status, head.body, head.keep, buffer.len())
                })
            })
        };
        let whole = outcome(BytesMut::from(text), &mut 0);
        for at in 0..text.len() {
            let mut seen = 0;
            match outcome(BytesMut::from(&text[..at]), &mut seen) {
                Ok(None) => {
                    let rest = outcome(BytesMut::from(text), &mut seen);
                    assert_eq!(
                        rest,
                        whole,
                        "{:?} broken at {at}",
                        text.escape_ascii().to_string()
                    );
                }
                Ok(Some(_)) => assert!(whole.is_ok()),
                // What is wrong is told as soon as it is seen.
                Err(_) => assert!(whole.is_err(), "{:?}", text.escape_ascii().to_string()),
            }
        }
        whole
    }

    fn plain(text: &str) -> Result<Option<(u16, Body, bool, usize)>, Bad> {
        read(text.as_bytes(), Asked::default())
    }

    #[test]
    fn heads_say_what_follows_and_whether_the_connection_stays() {
        for (text, status, body, keep) in [
            (
                "200 OK\r\nContent-Length: 5\r\n",
                200,
                Body::Length(5),
                true,
            ),
            ("200\r\ncontent-length:0\r\n", 200, Body::Length(0), true),
            (
                "200 OK\r\nTransfer-Encoding: Chunked\r\n",
                200,
                Body::chunked(),
                true,
            ),
            ("200 OK\r\n", 200, Body::UntilClose, false),
            ("204 No Content\r\n", 204, Body::Done, true),
            (
                "204 No Content\r\nContent-Length: 0\r\n",
                204,
                Body::Done,
                true,
            ),
            (
                "204 No Content\r\nContent-Length: 5\r\n",
                204,
                Body::Done,
                false,
            ),
            (
                "204 No Content\r\nTransfer-Encoding: chunked\r\n",
                204,
                Body::Done,
                false,
            ),
            (
                "204 No Content\r\nContent-Length: 5\r\nTransfer-Encoding: gzip\r\n",
                204,
                Body::Done,
                false,
            ),
            (
                "103 Early Hints\r\nContent-Length: 5\r\n",
                103,
                Body::Done,
                false,
            ),
            (
                "304 Not Modified\r\nContent-Length: 7, 7\r\n",
                304,
                Body::Done,
                false,
            ),
            (
                "304 Not Modified\r\nTransfer-Encoding: chunked\r\n",
                304,
                Body::Done,
                true,
            ),
            (
                "304 Not Modified\r\nContent-Length: 7\r\n",
                304,
                Body::Done,
                true,
            ),
            ("103 Early Hints\r\nLink: </a>\r\n", 103, Body::Done, true),
            (
                "200 OK\r\nConnection: x, Close\r\nContent-Length: 1\r\n",
                200,
                Body::Length(1),
                false,
            ),
        ] {
            // What stands behind a head is not judged by it.
            let text = format!("HTTP/1.1 {text}\r\na\nb\r");
            assert_eq!(plain(&text), Ok(Some((status, body, keep, 4))), "{text:?}");
        }
        let old = |rest: &str| {
            plain(&format!(
                "HTTP/1.0 200 OK\r\nContent-Length: 1\r\n{rest}\r\n"
            ))
        };
        assert_eq!(old(""), Ok(Some((200, Body::Length(1), false, 0))));
        assert_eq!(
            old("Connection: keep-alive\r\n"),
            Ok(Some((200, Body::Length(1), true, 0)))
        );
        let asked = Asked {
            head: true,
            upgrade: false,
        };
        assert_eq!(
            read(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", asked),
            Ok(Some((200, Body::Done, true, 0)))
        );
        assert_eq!(plain("HTTP/1.1 200 OK\r\nX: 1\r\n"), Ok(None));
        assert_eq!(plain(""), Ok(None));
    }

    #[test]
    fn a_length_is_told_where_there_could_be_a_body() {
        let told = |text: &str, asked| {
            let text = format!("HTTP/1.1 {text}\r\n\r\n");
            let head = take(&mut BytesMut::from(&*text), &mut 0, asked);
            let headers = head.unwrap().unwrap().response.headers;
            assert!(!headers.contains(header::TRANSFER_ENCODING));
            let length = headers.get(header::CONTENT_LENGTH);
            length.map(|length| length.to_str().unwrap().to_owned())
        };
        let (get, head) = (
            Asked::default(),
            Asked {
                head: true,
                upgrade: false,
            },
        );
        for (text, asked, length) in [
            ("200 OK\r\nContent-Length: 5", get, Some("5")),
            ("200 OK\r\nContent-Length: 5", head, Some("5")),
            ("304 Not Modified\r\nContent-Length: 5", get, Some("5")),
            ("204 No Content\r\nContent-Length: 5", get, None),
            ("204 No Content\r\nContent-Length: 0", head, None),
            ("103 Early Hints\r\nContent-Length: 5", get, None),
            // Nobody can say which.
            ("304 X\r\nContent-Length: 5\r\nContent-Length: 6", get, None),
            ("200 OK\r\nContent-Length: 5, 5", head, None),
            ("200 OK\r\nContent-Length: 9223372036854775808", head, None),
        ] {
            assert_eq!(told(text, asked).as_deref(), length, "{text}");
        }
    }

    #[test]
    fn upgrades_are_taken_by_whoever_asked() {
        let text = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: WebSocket\r\n\r\nraw";
        let asked = Asked {
            head: false,
            upgrade: true,
        };
        assert_eq!(
            read(text, asked),
            Ok(Some((101, Body::Everything, false, 3)))
        );
        assert!(read(text, Asked::default()).is_err());
        let with = |length: &str| {
            format!(
                "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nContent-Length: {length}\r\n\r\nraw"
            )
        };
        assert_eq!(
            read(with("0").as_bytes(), asked),
            Ok(Some((101, Body::Everything, false, 3)))
        );
        assert_eq!(
            read(with("3").as_bytes(), asked),
            Ok(Some((101, Body::Everything, false, 3)))
        );
        for length in ["0", "3"] {
            assert!(read(with(length).as_bytes(), Asked::default()).is_err());
        }
        let other =
            b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n";
        assert!(read(other, asked).is_err());
    }

    #[test]
    fn what_could_be_read_in_two_ways_is_refused() {
        for bad in [
            "SSH-2.0-x\r\n",
            "<html>",
            "HTTP/2.0 200 OK\r\n\r\n",
            "HTTP/1.2 200 OK\r\n\r\n",
            "HTTP/1.1200 OK\r\n\r\n",
            "HTTP/1.1 20 OK\r\n\r\n",
            "HTTP/1.1 099 OK\r\n\r\n",
            "HTTP/1.1 600 OK\r\n\r\n",
            "HTTP/1.1 2000 OK\r\n\r\n",
            "\r\nHTTP/1.1 200 OK\r\n\r\n",
            "HTTP/1.1 200 OK\n\n",
            "HTTP/1.1 200 OK\r\nX: 1\n\r\n",
            "HTTP/1.1 200 OK\r\nX: a\rb\r\n\r\n",
            "HTTP/1.1 200 OK\r\nX: a\0b\r\n\r\n",
            "HTTP/1.1 200 OK\r\nX: a\x08b\r\n\r\n",
            "HTTP/1.1 200 OK\r\nX: a\r\n folded\r\n\r\n",
            "HTTP/1.1 200 OK\r\n X: a\r\n\r\n",
            "HTTP/1.1 200 OK\r\nX : a\r\n\r\n",
            "HTTP/1.1 200 OK\r\nX\r\n\r\n",
            "HTTP/1.1 200 OK\r\n: a\r\n\r\n",
            "HTTP/1.1 200 OK\r\nX(: a\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 5, 5\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: +5\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 0x5\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: \r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 18446744073709551616\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: xchunked\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: identity\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
            "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 9223372036854775808\r\n\r\n",
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n",
        ] {
            assert!(plain(bad).is_err(), "{bad:?}: {:?}", plain(bad));
        }
    }

    #[test]
    fn heads_are_bounded() {
        let many = "X: 1\r\n".repeat(MOST_HEADERS + 1);
        let many = format!("HTTP/1.1 200 OK\r\n{many}\r\n");
        let take = |text: &str| take(&mut BytesMut::from(text), &mut 0, Asked::default());
        assert!(take(&many).is_err());
        let long = format!("HTTP/1.1 200 OK\r\nX: {}", "a".repeat(MOST_BYTES));
        assert!(take(&long).is_err(), "without its end");
        assert!(take(&format!("{long}\r\n\r\n")).is_err());
    }

    #[test]
    fn noise_never_panics_and_breaks_nowhere() {
        let mut random = fastrand::Rng::with_seed(7);
        let pieces: [&[u8]; 16] = [
            b"HTTP/1.1 200 OK",
            b"\r\n",
            b"\r\n\r\n",
            b"\n",
            b"\r",
            b"Content-Length: 5",
            b": ",
            b" ",
            b"\t",
            b"Transfer-Encoding: chunked",
            b"Connection: close",
            b"\0",
            b"\xff",
            b"HTTP/1.0 404 X",
            b"X-A: b",
            b"101",
        ];
        for _ in 0..3_000 {
            let mut text = b"HTTP/1.1 200 OK\r\n".to_vec();
            for _ in 0..random.usize(..8) {
                text.extend_from_slice(pieces[random.usize(..pieces.len())]);
            }
            let _ = read(&text, Asked::default());
        }
    }
}
