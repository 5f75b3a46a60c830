//! Headers that end at the next hop (RFC 9110, section 7.6.1): one table for requests and answers.

use http::header;
use http::header::HeaderName;
use pingora::{Error, ErrorType, Result};
use smallvec::SmallVec;

use crate::http::head::{RequestHeader, ResponseHeader};

/// Headers that end at the next hop (RFC 9110, section 7.6.1), besides those the engine frames
/// messages with.
static HOP_BY_HOP: [HeaderName; 4] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    header::UPGRADE,
];

/// Takes off an answer what was meant for us alone: the hop-by-hop headers, and those that the
/// endpoint names in its Connection. `trailers`: the client takes them, and may be told which will come.
pub(crate) fn strip_hop_by_hop(response: &mut ResponseHeader, trailers: bool) {
    let mut named: SmallVec<[HeaderName; 1]> = SmallVec::new();
    for line in response.headers.get_all(&header::CONNECTION) {
        for name in line.as_bytes().split(|byte| *byte == b',') {
            let name = name.trim_ascii();
            if name.eq_ignore_ascii_case(b"keep-alive") || name.eq_ignore_ascii_case(b"close") {
                continue;
            }
            // Framing is not the endpoint's to take off, and when it answered is everybody's to know.
            if let Ok(name) = HeaderName::from_bytes(name)
                && !matches!(
                    name,
                    header::TRANSFER_ENCODING | header::CONTENT_LENGTH | header::DATE
                )
            {
                named.push(name);
            }
        }
    }
    let ends_here = |name: &HeaderName| {
        HOP_BY_HOP.contains(name) || named.contains(name) || (*name == header::TRAILER && !trailers)
    };
    response.headers.retain(|name| !ends_here(name));
}

/// Headers that end here (RFC 9110, section 7.6.1), and those by which a body is framed: only its
/// length is told, if there is one.
pub(crate) fn ends_here(name: &HeaderName) -> bool {
    // As texts, of which most differ in their length already: this is asked of every header.
    matches!(
        name.as_str(),
        "connection"
            | "keep-alive"
            | "proxy-connection"
            | "proxy-authenticate"
            | "proxy-authorization"
            | "te"
            | "trailer"
            | "transfer-encoding"
            | "upgrade"
            | "http2-settings"
            | "expect"
    )
}

/// What no client can have taken off by naming it in its Connection.
const PROTECTED: [&str; 4] = [
    "host",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-proto",
];

/// Which headers end here: those that were meant for us alone, and those that the client names in its
/// Connection.
pub(crate) struct EndsHere(SmallVec<[HeaderName; 1]>);

impl EndsHere {
    /// Those of this request.
    ///
    /// # Errors
    /// When it names what it must not.
    pub(crate) fn of(request: &RequestHeader) -> Result<Self> {
        let mut named = SmallVec::new();
        let lines = request.headers.get_all(&header::CONNECTION);
        for token in lines.flat_map(|line| line.as_bytes().split(|byte| *byte == b',')) {
            let token = token.trim_ascii();
            if token.is_empty() || token.eq_ignore_ascii_case(b"keep-alive") {
                continue;
            }
            match HeaderName::from_bytes(token) {
                Ok(name) if !PROTECTED.contains(&name.as_str()) => named.push(name),
                _ => return Err(names_too_much()),
            }
        }
        Ok(Self(named))
    }

    /// Whether this one does.
    pub(crate) fn contains(&self, name: &HeaderName) -> bool {
        ends_here(name) || self.0.contains(name)
    }
}

pub(crate) fn names_too_much() -> Box<Error> {
    let error = Error::explain(
        ErrorType::InvalidHTTPHeader,
        "a Connection that names what it must not",
    );
    error.into_down()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_endpoint_names_in_connection_ends_here() {
        let mut response = ResponseHeader::build(200, 0).unwrap();
        for (name, value) in [
            ("connection", "keep-alive, X-Internal"),
            ("connection", "content-length"),
            ("x-internal", "secret"),
            ("keep-alive", "timeout=5"),
            ("content-length", "5"),
            ("x-other", "stays"),
        ] {
            response.append_header(name, value).unwrap();
        }
        strip_hop_by_hop(&mut response, false);
        let mut left: Vec<&str> = response.headers.names().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["content-length", "x-other"]);
    }
}
