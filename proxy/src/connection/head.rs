//! Is there a whole HTTP/1.1 request head in the buffer, and may it pass?
//!
//! Read before the engine sees anything, so that limits and deadlines hold for the head as a whole,
//! and so that what could be read in two ways never gets as far as the engine's more lenient parser
//! (RFC 9112, section 11.2).

use memchr::memmem;
use portolan_config::plan::LimitsPlan;

use super::framing::Framing;
use crate::refusal::Refusal;

/// The most headers the engine takes.
const MOST_HEADERS: usize = 256;

/// Bytes of empty lines before a request.
const MOST_BLANK: usize = 8;

/// What is in the buffer.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Scan {
    /// Not a whole head yet.
    Partial,
    /// A head of so many bytes, and the framing of what follows it.
    Whole(usize, Framing),
    /// Something that must not pass.
    Refused(Refusal),
}

/// Looks at the buffer. `seen` bytes of it were looked at before without finding an end.
pub(crate) fn scan(buffer: &[u8], seen: usize, limits: &LimitsPlan) -> Scan {
    // Empty lines before a request are left over from clients that end bodies with one (RFC 9112,
    // section 2.2).
    let blank = buffer
        .iter()
        .take_while(|byte| matches!(byte, b'\r' | b'\n'))
        .count();
    // More than a few are an attempt, whether they come one by one or all at once.
    if blank > MOST_BLANK {
        return Scan::Refused(Refusal::Malformed);
    }
    let head = &buffer[blank..];
    let Some(first) = head.first() else {
        return Scan::Partial;
    };
    if !first.is_ascii_alphabetic() {
        // A TLS handshake, or something else that is not HTTP.
        return Scan::Refused(Refusal::Malformed);
    }
    let from = seen.saturating_sub(blank + 3);
    let Some(end) = memmem::find(&head[from..], b"\r\n\r\n").map(|at| from + at + 4) else {
        if head.len() > limits.header_bytes {
            return Scan::Refused(Refusal::HeadersTooLarge);
        }
        return if memmem::find(&head[from..], b"\n\n").is_some() {
            Scan::Refused(Refusal::Malformed)
        } else {
            Scan::Partial
        };
    };
    let head = &head[..end];
    if head.len() > limits.header_bytes {
        return Scan::Refused(Refusal::HeadersTooLarge);
    }
    if has_bare_line_end(head) {
        return Scan::Refused(Refusal::Malformed);
    }
    let mut headers = [httparse::EMPTY_HEADER; MOST_HEADERS];
    let allowed = &mut headers[..limits.headers.min(MOST_HEADERS)];
    let mut request = httparse::Request::new(allowed);
    match request.parse(head) {
        Ok(httparse::Status::Complete(_)) => {}
        Ok(httparse::Status::Partial) => return Scan::Refused(Refusal::Malformed),
        Err(httparse::Error::TooManyHeaders) => return Scan::Refused(Refusal::HeadersTooLarge),
        Err(_) => return Scan::Refused(Refusal::Malformed),
    }
    let target = request.path.unwrap_or_default();
    if target.len() > limits.uri_bytes {
        return Scan::Refused(Refusal::UriTooLong);
    }
    if !target.bytes().all(is_target_character) {
        return Scan::Refused(Refusal::BadPath);
    }
    let method = request.method.unwrap_or_default();
    if !is_unambiguous(method, target, request.headers) {
        return Scan::Refused(Refusal::BadHost);
    }
    match framing(request.version == Some(1), request.headers) {
        Some(framing) => Scan::Whole(blank + end, framing),
        None => Scan::Refused(Refusal::AmbiguousLength),
    }
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
fn is_target_character(byte: u8) -> bool {
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
    let Ok(uri) = target.parse::<http::Uri>() else {
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
fn framing(http_11: bool, headers: &[httparse::Header<'_>]) -> Option<Framing> {
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
        (true, None) => Some(Framing::chunked()),
        (false, Some(length)) => Some(Framing::Length(length)),
        (false, None) => Some(Framing::NONE),
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

    fn look(text: &str) -> Scan {
        let whole = scan(text.as_bytes(), 0, &LIMITS);
        // What is found does not depend on how the bytes came.
        for seen in 0..text.len() {
            if scan(&text.as_bytes()[..seen], 0, &LIMITS) == Scan::Partial {
                assert_eq!(
                    scan(text.as_bytes(), seen, &LIMITS),
                    whole,
                    "{text:?} after {seen}"
                );
            }
        }
        whole
    }

    #[test]
    fn whole_heads_say_how_their_body_is_framed() {
        let get = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
        assert_eq!(look(get), Scan::Whole(get.len(), Framing::NONE));
        assert_eq!(
            look(&format!("\r\n{get}GET")),
            Scan::Whole(get.len() + 2, Framing::NONE)
        );
        for target in ["http://a/x?y", "//a/x", "/x?y=http://b/", "/x?a={|}^%"] {
            let absolute = format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n");
            assert_eq!(
                look(&absolute),
                Scan::Whole(absolute.len(), Framing::NONE),
                "{target}"
            );
        }
        assert_eq!(look(&get[..20]), Scan::Partial);
        assert_eq!(look(""), Scan::Partial);
        // Empty lines before a request: a few.
        let blank = |lines: usize| format!("{}{get}", "\r\n".repeat(lines));
        assert_eq!(look(&blank(4)), Scan::Whole(get.len() + 8, Framing::NONE));
        assert_eq!(look(&blank(5)), Scan::Refused(Refusal::Malformed));
        let post = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n";
        assert_eq!(look(post), Scan::Whole(post.len(), Framing::Length(5)));
        let chunked = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: Chunked\r\n\r\n";
        assert_eq!(
            look(chunked),
            Scan::Whole(chunked.len(), Framing::chunked())
        );
    }

    #[test]
    fn what_could_be_read_in_two_ways_is_refused() {
        let refused = |refusal, all: &[&str]| {
            for bad in all {
                assert_eq!(look(bad), Scan::Refused(refusal), "{bad:?}");
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
    fn limits_hold_for_the_head_as_a_whole() {
        let long = format!("GET / HTTP/1.1\r\nX: {}\r\n\r\n", "a".repeat(300));
        assert_eq!(look(&long), Scan::Refused(Refusal::HeadersTooLarge));
        assert_eq!(
            look(&long[..280]),
            Scan::Refused(Refusal::HeadersTooLarge),
            "without its end"
        );
        let target = format!("GET /{} HTTP/1.1\r\n\r\n", "a".repeat(128));
        assert_eq!(look(&target), Scan::Refused(Refusal::UriTooLong));
        let many = "GET / HTTP/1.1\r\nA: 1\r\nB: 1\r\nC: 1\r\nD: 1\r\nE: 1\r\n\r\n";
        assert_eq!(look(many), Scan::Refused(Refusal::HeadersTooLarge));
    }
}
