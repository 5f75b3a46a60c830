//! The head of a request: is it there as a whole, may it pass, and what does it say?
//!
//! Limits and deadlines hold for the head as a whole, and what could be read in two ways is refused
//! here, so that nobody behind us is made to read it otherwise (RFC 9112, section 11.2).

use std::ops::Range;

use bytes::{Buf as _, Bytes, BytesMut};
use http::{HeaderValue, Method, Uri, Version, header};
use memchr::memmem;
use portolan_config::fields::Fields;
use portolan_config::plan::LimitsPlan;
use portolan_control::refusal::Refusal;

use super::body::Body;
use super::framing::{Framing, framing, keeps};
use super::lines;
use crate::http::head::RequestHeader;

/// The most headers that can be allowed.
const MOST_HEADERS: usize = 256;

/// Bytes of empty lines before a request.
const MOST_BLANK: usize = 8;

/// A head.
#[derive(Debug)]
pub(crate) struct Head {
    pub(crate) request: RequestHeader,
    /// What follows it.
    pub(crate) body: Body,
    /// The client may send another request on this connection.
    pub(crate) keep: bool,
}

/// Takes the head off the buffer once all of it is there. `seen` bytes of it were looked at before
/// without finding an end; they are counted up.
///
/// # Errors
/// When it must not pass, as soon as that can be told.
pub(crate) fn take(
    buffer: &mut BytesMut,
    seen: &mut usize,
    limits: &LimitsPlan,
) -> Result<Option<Head>, Refusal> {
    let Some((blank, end)) = find(buffer, *seen, limits)? else {
        *seen = buffer.len();
        return Ok(None);
    };
    *seen = 0;
    buffer.advance(blank);
    parse(&buffer.split_to(end).freeze(), limits).map(Some)
}

/// How many bytes stand before the head, and how long it is, if all of it is there.
fn find(
    buffer: &[u8],
    seen: usize,
    limits: &LimitsPlan,
) -> Result<Option<(usize, usize)>, Refusal> {
    // Empty lines before a request are left over from clients that end bodies with one (RFC 9112,
    // section 2.2).
    let blank = buffer
        .iter()
        .take_while(|byte| matches!(byte, b'\r' | b'\n'))
        .count();
    // More than a few are an attempt, whether they come one by one or all at once.
    if blank > MOST_BLANK {
        return Err(Refusal::Malformed);
    }
    let head = &buffer[blank..];
    let Some(first) = head.first() else {
        return Ok(None);
    };
    if !first.is_ascii_alphabetic() {
        // A TLS handshake, or something else that is not HTTP.
        return Err(Refusal::Malformed);
    }
    let from = seen.saturating_sub(blank + 3);
    let end = lines::end_of_head(head, from);
    if end.unwrap_or(head.len()) > limits.header_bytes {
        return Err(Refusal::HeadersTooLarge);
    }
    if end.is_none() && memmem::find(&head[from..], b"\n\n").is_some() {
        return Err(Refusal::Malformed);
    }
    Ok(end.map(|end| (blank, end)))
}

fn parse(head: &Bytes, limits: &LimitsPlan) -> Result<Head, Refusal> {
    let (line, next) = lines::line(head, 0).ok_or(Refusal::Malformed)?;
    let (method, target, version) = request_line(head, line).ok_or(Refusal::Malformed)?;
    let headers = lines::headers(head, next, limits.headers.min(MOST_HEADERS), ROOM);
    let headers = headers.map_err(|bad| match bad {
        lines::Bad::Line => Refusal::Malformed,
        lines::Bad::TooMany => Refusal::HeadersTooLarge,
    })?;
    if target.len() > limits.uri_bytes {
        return Err(Refusal::UriTooLong);
    }
    if !is_target(&target) {
        return Err(Refusal::BadPath);
    }
    if !is_unambiguous(&method, &target, &headers) {
        return Err(Refusal::BadHost);
    }
    let body = match framing(version, &headers).map_err(|_| Refusal::AmbiguousLength)? {
        Framing::Chunked => Body::chunked_request(),
        Framing::Length(length) => Body::Length(length),
        Framing::Nothing => Body::Done,
    };
    let keep = keeps(version, &headers);
    Ok(Head {
        request: RequestHeader::new(method, target, version, headers)
            .map_err(|_| Refusal::Malformed)?,
        body,
        keep,
    })
}

/// What the first line says: one blank between two words, and nothing that could be taken for one.
fn request_line(head: &Bytes, line: Range<usize>) -> Option<(Method, Bytes, Version)> {
    let text = &head[line.clone()];
    let first = memchr::memchr(b' ', text)?;
    let method = Method::from_bytes(&text[..first]).ok()?;
    let (rest, version) = match text.strip_suffix(b" HTTP/1.1") {
        Some(rest) => (rest, Version::HTTP_11),
        None => (text.strip_suffix(b" HTTP/1.0")?, Version::HTTP_10),
    };
    let target = rest.get(first + 1..).filter(|target| !target.is_empty())?;
    if target.iter().any(|byte| matches!(byte, 0..=b' ' | 0x7f)) {
        return None;
    }
    let start = line.start + first + 1;
    Some((method, head.slice(start..start + target.len()), version))
}

/// Headers that the phases of a request add to it: who proved to be whom.
const ROOM: usize = 2;

/// Whether this may be a target, as far as its characters go.
///
/// Before the first question mark stands what RFC 3986 allows, and what browsers leave in paths as it
/// is (the path percent-encode set of the URL Standard, and brackets, braces and bars, as older ones
/// do); nobody agrees on backslashes there. Behind it stands whatever is visible: browsers escape
/// little in queries (the special-query percent-encode set), and other clients less. A fragment is
/// the client's own affair, and what is beyond ASCII they all escape.
pub(crate) fn is_target(target: &[u8]) -> bool {
    static BEFORE: [bool; 256] = table(b"!$%&'()*+,-./:;=@[]^_{|}~");
    let query = memchr::memchr(b'?', target).unwrap_or(target.len());
    let (before, query) = target.split_at(query);
    let visible = |byte: &u8| byte.is_ascii_graphic() && *byte != b'#';
    before.iter().all(|byte| BEFORE[usize::from(*byte)]) && query.iter().all(visible)
}

/// Which bytes are letters, digits, or one of these.
const fn table(others: &[u8]) -> [bool; 256] {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 256 {
        table[byte] = (byte as u8).is_ascii_alphanumeric();
        byte += 1;
    }
    let mut at = 0;
    while at < others.len() {
        table[others[at] as usize] = true;
        at += 1;
    }
    table
}

/// Whether everybody who reads the request line and Host understands the same host by them.
///
/// RFC 9112, section 3.2.2, has a server ignore a Host that differs from an absolute target. Whoever
/// stands behind us may not, so the two must agree.
fn is_unambiguous(method: &Method, target: &[u8], headers: &Fields) -> bool {
    let mut hosts = headers.get_all(&header::HOST).map(HeaderValue::as_bytes);
    let (host, another) = (hosts.next(), hosts.next());
    if another.is_some() || host.is_some_and(|host| !is_host(host)) {
        return false;
    }
    if target.starts_with(b"/") || (target == b"*" && method == Method::OPTIONS) {
        return method != Method::CONNECT;
    }
    let Ok(target) = std::str::from_utf8(target) else {
        return false;
    };
    if method == Method::CONNECT {
        // Refused later, whatever it asks for; here it only must not be taken for anything else.
        return host.is_none_or(|host| host == target.as_bytes())
            && target.parse::<http::uri::Authority>().is_ok()
            && !target.contains('@');
    }
    // Whose host it is stands before the query.
    let before = target.split('?').next().unwrap_or_default();
    let Ok(uri) = before.parse::<Uri>() else {
        return false;
    };
    let web = matches!(uri.scheme_str(), Some("http" | "https"));
    uri.authority().is_some_and(|authority| {
        let authority = authority.as_str();
        // As it was written: a name that is read as another one must not pass for it.
        let written = target.split("://").nth(1).unwrap_or_default();
        web && !authority.contains('@')
            && written.starts_with(authority)
            && host.is_none_or(|host| host == authority.as_bytes())
    })
}

/// Whether this can only be read as a host, with a port or without: what names and addresses are
/// made of, and nothing that separates a host from anything else.
pub(crate) fn is_host(host: &[u8]) -> bool {
    let (name, rest) = match host.strip_prefix(b"[") {
        // An IPv6 address.
        Some(inside) => {
            let Some(end) = memchr::memchr(b']', inside) else {
                return false;
            };
            let address = std::str::from_utf8(&inside[..end]);
            if !address.is_ok_and(|text| text.parse::<std::net::Ipv6Addr>().is_ok()) {
                return false;
            }
            (&inside[..end], &inside[end + 1..])
        }
        None => host.split_at(memchr::memchr(b':', host).unwrap_or(host.len())),
    };
    let port = match rest.split_first() {
        None => true,
        Some((b':', port)) => {
            let number = port.iter().try_fold(0_u16, |number, byte| {
                let digit = byte.is_ascii_digit().then(|| byte - b'0')?;
                number.checked_mul(10)?.checked_add(digit.into())
            });
            number.is_some()
        }
        Some(_) => false,
    };
    static NAMED: [bool; 256] = table(b"-._~");
    let named = host.starts_with(b"[") || name.iter().all(|byte| NAMED[usize::from(*byte)]);
    port && named && !name.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const LIMITS: LimitsPlan = LimitsPlan {
        header_bytes: 256,
        headers: 4,
        header_timeout: Duration::from_secs(10),
        idle_timeout: Duration::from_secs(75),
        body_bytes: None,
        connections: 100,
        connections_per_client: None,
        requests_per_connection: None,
        uri_bytes: 128,
        min_body_rate: None,
    };

    /// What follows the head, and what stands behind it; `None`: it is not there as a whole.
    type Found = Result<Option<(Body, String)>, Refusal>;

    fn look(text: &str) -> Found {
        let try_take = |buffer: &mut BytesMut, seen: &mut usize| -> Found {
            let head = take(buffer, seen, &LIMITS)?;
            let rest = String::from_utf8_lossy(buffer).into_owned();
            Ok(head.map(|head| (head.body, rest)))
        };
        let whole = try_take(&mut BytesMut::from(text), &mut 0);
        // What is found does not depend on how the bytes came.
        for at in 0..text.len() {
            let mut buffer = BytesMut::from(&text.as_bytes()[..at]);
            let mut seen = 0;
            if try_take(&mut buffer, &mut seen) == Ok(None) {
                buffer.extend_from_slice(&text.as_bytes()[at..]);
                assert_eq!(
                    try_take(&mut buffer, &mut seen),
                    whole,
                    "{text:?} after {at}"
                );
            }
        }
        whole
    }

    fn found(body: Body, rest: &str) -> Found {
        Ok(Some((body, rest.to_owned())))
    }

    #[test]
    fn whatever_may_stand_in_a_target_is_forwarded() {
        let mut passed = (0, 0);
        for byte in 0..=u8::MAX {
            for target in [vec![b'/', b'a', byte, b'b'], vec![b'/', b'?', byte]] {
                if is_target(&target) {
                    let head = RequestHeader::build("GET", &target, 0).unwrap();
                    assert_eq!(head.target(), target);
                    match head.query() {
                        Some(_) => passed.1 += 1,
                        None => passed.0 += 1,
                    }
                }
            }
        }
        // A path with a question mark has a query.
        assert_eq!(passed, (62 + 25, 1 + 93));
    }

    #[test]
    fn what_browsers_leave_as_it_is_passes_and_what_they_escape_in_paths_does_not() {
        // As WHATWG URL parsers write them: of all visible characters, those that stay.
        let path = "!$%&'()*+,-./:;=@[]^_|~";
        let query = "!$%&()*+,-./:;=?@[\\]^_`{|}~";
        assert!(is_target(format!("/{path}?{query}").as_bytes()));
        for query in ["\"", "<", ">", "'", "a?b"] {
            assert!(is_target(format!("/?{query}").as_bytes()), "{query}");
        }
        for bad in [
            "/\\", "/\"", "/<", "/`", "/a#b", "/?#", "/?\u{e9}", "/? ", "/?\u{7f}",
        ] {
            assert!(!is_target(bad.as_bytes()), "{bad}");
        }
    }

    #[test]
    fn whole_heads_say_how_their_body_is_framed() {
        let get = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
        assert_eq!(look(get), found(Body::Done, ""));
        assert_eq!(look(&format!("\r\n{get}GET")), found(Body::Done, "GET"));
        for target in [
            "http://a/x?y",
            "//a/x",
            "/x?y=http://b/",
            "/x?a={|}^%",
            "/x?`\\\"<>",
            "http://a/x?`\\\"<>",
            "http://a?<",
        ] {
            let absolute = format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n");
            assert_eq!(look(&absolute), found(Body::Done, ""), "{target}");
        }
        assert_eq!(look(&get[..20]), Ok(None));
        assert_eq!(look(""), Ok(None));
        // Empty lines before a request: a few.
        let blank = |lines: usize| format!("{}{get}", "\r\n".repeat(lines));
        assert_eq!(look(&blank(4)), found(Body::Done, ""));
        assert_eq!(look(&blank(5)), Err(Refusal::Malformed));
        let post = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n";
        assert_eq!(look(post), found(Body::Length(5), ""));
        let chunked = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: Chunked\r\n\r\n";
        assert_eq!(look(chunked), found(Body::chunked_request(), ""));
    }

    #[test]
    fn what_could_be_read_in_two_ways_is_refused() {
        let refused = |refusal, all: &[&str]| {
            for bad in all {
                assert_eq!(look(bad), Err(refusal), "{bad:?}");
            }
        };
        refused(
            Refusal::AmbiguousLength,
            &[
                "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
                "POST / HTTP/1.1\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
                "POST / HTTP/1.1\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\n",
                "POST / HTTP/1.1\r\nContent-Length: +5\r\n\r\n",
                "POST / HTTP/1.1\r\nContent-Length: 5, 5\r\n\r\n",
                "POST / HTTP/1.1\r\nContent-Length: 0x5\r\n\r\n",
                "POST / HTTP/1.1\r\nContent-Length: 18446744073709551616\r\n\r\n",
                "POST / HTTP/1.1\r\nContent-Length: \r\n\r\n",
                "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n",
                "POST / HTTP/1.1\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
                "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
                "POST / HTTP/1.1\r\nTransfer-Encoding: xchunked\r\n\r\n",
                "POST / HTTP/1.1\r\nTransfer-Encoding: \r\n\r\n",
            ],
        );
        refused(
            Refusal::Malformed,
            &[
                "GET / HTTP/1.1\nHost: a\n\n",
                "GET / HTTP/1.1\r\nHost: a\nX: b\r\n\r\n",
                "GET / HTTP/1.1\r\nHost: a\r\n folded\r\n\r\n",
                "GET / HTTP/1.1\r\n folded: x\r\nHost: a\r\n\r\n",
                "GET / HTTP/1.1\r\nHost : a\r\n\r\n",
                "GET / HTTP/1.1\r\nX: a\rb\r\n\r\n",
                "GET / HTTP/1.1\r\nX: a\0b\r\n\r\n",
                "GET / HTTP/1.1\r\nX(: b\r\n\r\n",
                "GET / HTTP/1.1\r\n: b\r\n\r\n",
                "GET / HTTP/1.1\r\nnothing\r\n\r\n",
                "G<T / HTTP/1.1\r\nHost: a\r\n\r\n",
                "GET  / HTTP/1.1\r\nHost: a\r\n\r\n",
                "GET /a b HTTP/1.1\r\nHost: a\r\n\r\n",
                "GET\t/ HTTP/1.1\r\nHost: a\r\n\r\n",
                "GET / HTTP/9.1\r\nHost: a\r\n\r\n",
                "GET / HTTP/1.2\r\nHost: a\r\n\r\n",
                "GET / http/1.1\r\nHost: a\r\n\r\n",
                "GET /\r\n\r\n",
                "\u{16}\u{3}\u{1}",
            ],
        );
        refused(
            Refusal::BadHost,
            &[
                "GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n",
                "GET / HTTP/1.1\r\nHost: user@a\r\n\r\n",
                "GET / HTTP/1.1\r\nHost: \r\n\r\n",
                "GET / HTTP/1.1\r\nHost: a/b\r\n\r\n",
                "GET / HTTP/1.1\r\nHost: a, b\r\n\r\n",
                "GET / HTTP/1.1\r\nHost: a:80:81\r\n\r\n",
                "GET / HTTP/1.1\r\nHost: a:65536\r\n\r\n",
                "GET / HTTP/1.1\r\nHost: a:b\r\n\r\n",
                "GET / HTTP/1.1\r\nHost: [::1\r\n\r\n",
                "GET / HTTP/1.1\r\nHost: [a]\r\n\r\n",
                "GET / HTTP/1.1\r\nHost: [::1]a\r\n\r\n",
                "GET http://a/ HTTP/1.1\r\nHost: b\r\n\r\n",
                "GET http://user@a/ HTTP/1.1\r\n\r\n",
                "GET http:/a/ HTTP/1.1\r\nHost: a\r\n\r\n",
                "GET ftp://a/ HTTP/1.1\r\nHost: a\r\n\r\n",
                "GET a/b HTTP/1.1\r\nHost: a\r\n\r\n",
                "GET * HTTP/1.1\r\nHost: a\r\n\r\n",
                "CONNECT a:1 HTTP/1.1\r\nHost: b:1\r\n\r\n",
            ],
        );
        refused(
            Refusal::BadPath,
            &[
                "GET /a\\b HTTP/1.1\r\nHost: a\r\n\r\n",
                "GET /a#b HTTP/1.1\r\nHost: a\r\n\r\n",
                "GET /<x> HTTP/1.1\r\nHost: a\r\n\r\n",
                "GET /\u{e9} HTTP/1.1\r\nHost: a\r\n\r\n",
            ],
        );
        for host in [
            "a",
            "a.b-c_d:8080",
            "a:",
            "[::1]",
            "[2001:db8::1]:443",
            "10.0.0.1:1",
        ] {
            assert!(is_host(host.as_bytes()), "{host}");
        }
    }

    #[test]
    fn a_head_says_what_it_says() {
        let read = |text: &str| {
            let head = take(&mut BytesMut::from(text), &mut 0, &LIMITS).unwrap();
            head.unwrap()
        };
        let head = read("PUT /a?b=c HTTP/1.1\r\nHost: x\r\nX-Two: 1\r\nx-two:  2 \r\n\r\n");
        assert_eq!(head.request.method, Method::PUT);
        assert_eq!(head.request.uri, "/a?b=c");
        assert_eq!(head.request.target(), b"/a?b=c");
        let two: Vec<_> = head.request.headers.get_all("x-two").collect();
        assert_eq!(two, ["1", "2"]);
        let absolute = read("GET http://x/a HTTP/1.1\r\nHost: x\r\n\r\n");
        assert_eq!(absolute.request.target(), b"http://x/a");
        for (text, keeps) in [
            ("GET / HTTP/1.1\r\n\r\n", true),
            ("GET / HTTP/1.1\r\nConnection: x, Close\r\n\r\n", false),
            ("GET / HTTP/1.0\r\n\r\n", false),
            ("GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n", true),
            (
                "GET / HTTP/1.1\r\nConnection: keep-alive\r\nConnection: close\r\n\r\n",
                false,
            ),
        ] {
            assert_eq!(read(text).keep, keeps, "{text:?}");
        }
    }

    #[test]
    fn limits_hold_for_the_head_as_a_whole() {
        let long = format!("GET / HTTP/1.1\r\nX: {}\r\n\r\n", "a".repeat(300));
        assert_eq!(look(&long), Err(Refusal::HeadersTooLarge));
        assert_eq!(
            look(&long[..280]),
            Err(Refusal::HeadersTooLarge),
            "without its end"
        );
        let target = format!("GET /{} HTTP/1.1\r\n\r\n", "a".repeat(128));
        assert_eq!(look(&target), Err(Refusal::UriTooLong));
        let many = "GET / HTTP/1.1\r\nA: 1\r\nB: 1\r\nC: 1\r\nD: 1\r\nE: 1\r\n\r\n";
        assert_eq!(look(many), Err(Refusal::HeadersTooLarge));
    }
}
