//! The head of a request: is it there as a whole, may it pass, and what does it say?
//!
//! Limits and deadlines hold for the head as a whole, and what could be read in two ways is refused
//! here, so that nobody behind us is made to read it otherwise (RFC 9112, section 11.2).

use std::mem::MaybeUninit;

use bytes::{Buf as _, Bytes, BytesMut};
use http::header::HeaderName;
use http::{HeaderMap, HeaderValue, Method, Uri, Version, header};
use memchr::memmem;
use pingora::http::RequestHeader;
use portolan_config::plan::LimitsPlan;

use super::body::Body;
use crate::refusal::Refusal;

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
    let end = memmem::find(&head[from..], b"\r\n\r\n").map(|at| from + at + 4);
    if end.unwrap_or(head.len()) > limits.header_bytes {
        return Err(Refusal::HeadersTooLarge);
    }
    if end.is_none() && memmem::find(&head[from..], b"\n\n").is_some() {
        return Err(Refusal::Malformed);
    }
    Ok(end.map(|end| (blank, end)))
}

fn parse(head: &Bytes, limits: &LimitsPlan) -> Result<Head, Refusal> {
    if has_bare_line_end(head) {
        return Err(Refusal::Malformed);
    }
    let mut headers = [const { MaybeUninit::uninit() }; MOST_HEADERS];
    let allowed = &mut headers[..limits.headers.min(MOST_HEADERS)];
    let mut parsed = httparse::Request::new(&mut []);
    match parsed.parse_with_uninit_headers(head, allowed) {
        Ok(httparse::Status::Complete(length)) if length == head.len() => {}
        Err(httparse::Error::TooManyHeaders) => return Err(Refusal::HeadersTooLarge),
        Ok(_) | Err(_) => return Err(Refusal::Malformed),
    }
    let target = parsed.path.unwrap_or_default();
    if target.len() > limits.uri_bytes {
        return Err(Refusal::UriTooLong);
    }
    if !target.bytes().all(is_target_character) {
        return Err(Refusal::BadPath);
    }
    let method = parsed.method.unwrap_or_default();
    if !is_unambiguous(method, target, parsed.headers) {
        return Err(Refusal::BadHost);
    }
    let version = match parsed.version {
        Some(1) => Version::HTTP_11,
        _ => Version::HTTP_10,
    };
    let body =
        framing(version == Version::HTTP_11, parsed.headers).ok_or(Refusal::AmbiguousLength)?;
    let method = Method::from_bytes(method.as_bytes()).map_err(|_| Refusal::Malformed)?;
    let mut map = HeaderMap::with_capacity(parsed.headers.len() + ROOM);
    for parsed in parsed.headers.iter() {
        let name = HeaderName::from_bytes(parsed.name.as_bytes());
        // Not copied: the head stays as long as one of them does.
        let value = HeaderValue::from_maybe_shared(head.slice_ref(parsed.value));
        let (Ok(name), Ok(value)) = (name, value) else {
            return Err(Refusal::Malformed);
        };
        map.append(name, value);
    }
    let keep = keeps(version, &map);
    Ok(Head {
        request: request(head, method, target, version, map)?,
        body,
        keep,
    })
}

/// Headers that are added on the way to an endpoint.
const ROOM: usize = 8;

fn request(
    head: &Bytes,
    method: Method,
    target: &str,
    version: Version,
    headers: HeaderMap,
) -> Result<RequestHeader, Refusal> {
    let path = target
        .starts_with('/')
        .then(|| Uri::from_maybe_shared(head.slice_ref(target.as_bytes())));
    if let Some(Ok(uri)) = path {
        let (mut parts, ()) = http::Request::new(()).into_parts();
        (parts.method, parts.uri, parts.version) = (method, uri, version);
        parts.headers = headers;
        return Ok(parts.into());
    }
    // In absolute form, or as no URI has it: the target is kept as it was written.
    let mut request = RequestHeader::build_no_case(method, target.as_bytes(), Some(headers.len()))
        .map_err(|_| Refusal::Malformed)?;
    request.set_version(version);
    for (name, value) in &headers {
        request
            .append_header(name, value)
            .map_err(|_| Refusal::Malformed)?;
    }
    Ok(request)
}

/// Whether the connection may be used again, as far as the client is concerned (RFC 9112, section
/// 9.3).
fn keeps(version: Version, headers: &HeaderMap) -> bool {
    let (mut close, mut keep) = (false, false);
    let lines = headers.get_all(header::CONNECTION).iter();
    for token in lines.flat_map(|line| line.as_bytes().split(|byte| *byte == b',')) {
        let token = token.trim_ascii();
        close |= token.eq_ignore_ascii_case(b"close");
        keep |= token.eq_ignore_ascii_case(b"keep-alive");
    }
    !close && (keep || version == Version::HTTP_11)
}

/// Whether any line ends in a bare LF, or a CR stands anywhere but before one.
fn has_bare_line_end(head: &[u8]) -> bool {
    memchr::memchr2_iter(b'\r', b'\n', head).any(|at| match head[at] {
        b'\r' => head.get(at + 1) != Some(&b'\n'),
        _ => at == 0 || head[at - 1] != b'\r',
    })
}

/// Whether a byte may stand in a target: what RFC 3986 allows, and what browsers send in queries
/// without escaping it. A fragment is the client's own affair, and nobody agrees on backslashes.
pub(crate) fn is_target_character(byte: u8) -> bool {
    byte.is_ascii_graphic() && !matches!(byte, b'#' | b'"' | b'<' | b'>' | b'\\' | b'`')
}

/// Whether everybody who reads the request line and Host understands the same host by them.
///
/// RFC 9112, section 3.2.2, has a server ignore a Host that differs from an absolute target. Whoever
/// stands behind us may not, so the two must agree.
fn is_unambiguous(method: &str, target: &str, headers: &[httparse::Header<'_>]) -> bool {
    let mut hosts = headers
        .iter()
        .filter(|header| header.name.eq_ignore_ascii_case("host"))
        .map(|header| header.value.trim_ascii());
    let (host, another) = (hosts.next(), hosts.next());
    if another.is_some() || host.is_some_and(|host| !is_host(host)) {
        return false;
    }
    if method == "CONNECT" {
        // Refused later, whatever it asks for; here it only must not be taken for anything else.
        return host.is_none_or(|host| host == target.as_bytes())
            && target.parse::<http::uri::Authority>().is_ok()
            && !target.contains('@');
    }
    if target.starts_with('/') || (target == "*" && method == "OPTIONS") {
        return true;
    }
    let Ok(uri) = target.parse::<Uri>() else {
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
            let port = std::str::from_utf8(port).unwrap_or("x");
            port.bytes().all(|byte| byte.is_ascii_digit())
                && (port.is_empty() || port.parse::<u16>().is_ok())
        }
        Some(_) => false,
    };
    let named = host.starts_with(b"[")
        || name
            .iter()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~'));
    port && named && !name.is_empty()
}

/// The framing that the headers give, unless they contradict each other.
fn framing(http_11: bool, headers: &[httparse::Header<'_>]) -> Option<Body> {
    let mut length: Option<u64> = None;
    let mut chunked = false;
    for header in headers {
        if header.name.eq_ignore_ascii_case("content-length") {
            let value = header.value.trim_ascii();
            let digits = !value.is_empty() && value.iter().all(u8::is_ascii_digit);
            let parsed = std::str::from_utf8(value)
                .ok()?
                .parse()
                .ok()
                .filter(|_| digits)?;
            // A second one that says the same is as wrong as one that does not: somebody behind us
            // may take the other.
            if length.replace(parsed).is_some() {
                return None;
            }
        } else if header.name.eq_ignore_ascii_case("transfer-encoding") {
            if chunked || !http_11 || !header.value.trim_ascii().eq_ignore_ascii_case(b"chunked") {
                return None;
            }
            chunked = true;
        }
    }
    match (chunked, length) {
        (true, Some(_)) => None,
        (true, None) => Some(Body::chunked_request()),
        (false, Some(length)) => Some(Body::Length(length)),
        (false, None) => Some(Body::Done),
    }
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
    fn whole_heads_say_how_their_body_is_framed() {
        let get = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
        assert_eq!(look(get), found(Body::Done, ""));
        assert_eq!(look(&format!("\r\n{get}GET")), found(Body::Done, "GET"));
        for target in ["http://a/x?y", "//a/x", "/x?y=http://b/", "/x?a={|}^%"] {
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
        assert_eq!(head.request.raw_path(), b"/a?b=c");
        let two: Vec<_> = head.request.headers.get_all("x-two").iter().collect();
        assert_eq!(two, ["1", "2"]);
        let absolute = read("GET http://x/a HTTP/1.1\r\nHost: x\r\n\r\n");
        assert_eq!(absolute.request.raw_path(), b"http://x/a");
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
