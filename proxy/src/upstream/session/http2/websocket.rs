//! WebSocket over HTTP/2 (RFC 8441): what a client asked for over HTTP/1.1 (RFC 6455), as an endpoint
//! is asked for it, and its answer the other way round.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use h2::ext::Protocol;
use http::{HeaderName, HeaderValue, Method, StatusCode, header};
use ring::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};

use crate::http::head::{RequestHeader, ResponseHeader};

/// What the client's key is hashed with (RFC 6455, section 1.3).
const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// What is spoken.
pub(super) fn protocol() -> Protocol {
    Protocol::from_static("websocket")
}

/// Has a request ask for it as HTTP/2 does. The client's key, which is nothing to the endpoint (RFC
/// 8441, section 5).
pub(super) fn ask(head: &mut RequestHeader) -> Option<HeaderValue> {
    let key = head.headers.get(&header::SEC_WEBSOCKET_KEY).cloned();
    let ends_here: [HeaderName; 4] = [
        header::SEC_WEBSOCKET_KEY,
        header::CONNECTION,
        header::UPGRADE,
        header::CONTENT_LENGTH,
    ];
    for name in &ends_here {
        head.remove_header(name);
    }
    head.method = Method::CONNECT;
    key
}

/// Has an answer that grants it say so as HTTP/1.1 does. Whether it is one.
pub(super) fn grant(head: &mut ResponseHeader, key: Option<&HeaderValue>) -> bool {
    if !head.status.is_success() {
        return false;
    }
    head.status = StatusCode::SWITCHING_PROTOCOLS;
    head.remove_header(&header::CONTENT_LENGTH);
    let accept = key.and_then(|key| HeaderValue::from_str(&accept(key)).ok());
    let fields = [
        (
            header::CONNECTION,
            Some(HeaderValue::from_static("Upgrade")),
        ),
        (header::UPGRADE, Some(HeaderValue::from_static("websocket"))),
        (header::SEC_WEBSOCKET_ACCEPT, accept),
    ];
    for (name, value) in fields {
        head.headers.remove(&name);
        if let Some(value) = value {
            head.headers.append(name, value);
        }
    }
    true
}

/// By which the client knows that its request was read (RFC 6455, section 4.2.2).
fn accept(key: &HeaderValue) -> String {
    let joined = [key.as_bytes(), GUID].concat();
    BASE64_STANDARD.encode(digest(&SHA1_FOR_LEGACY_USE_ONLY, &joined))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_answered_as_the_standard_has_it() {
        let key = HeaderValue::from_static("dGhlIHNhbXBsZSBub25jZQ==");
        assert_eq!(accept(&key), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }

    #[test]
    fn what_is_for_one_version_stays_there() {
        let mut head = RequestHeader::build("GET", b"/chat", 0).unwrap();
        for (name, value) in [
            ("connection", "Upgrade"),
            ("upgrade", "websocket"),
            ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
            ("sec-websocket-version", "13"),
            ("sec-websocket-protocol", "chat"),
            ("content-length", "0"),
        ] {
            head.append_header(name, value).unwrap();
        }
        let key = ask(&mut head);
        assert_eq!(head.method, Method::CONNECT);
        let left: Vec<&str> = head.headers.names().map(HeaderName::as_str).collect();
        assert_eq!(left, ["sec-websocket-version", "sec-websocket-protocol"]);
        let mut refused = ResponseHeader::build(403, 0).unwrap();
        assert!(!grant(&mut refused, key.as_ref()) && refused.headers.is_empty());
        let mut granted = ResponseHeader::build(200, 0).unwrap();
        granted
            .append_header("sec-websocket-protocol", "chat")
            .unwrap();
        assert!(grant(&mut granted, key.as_ref()));
        assert_eq!(granted.status, 101);
        let accepted = granted.headers.get(&header::SEC_WEBSOCKET_ACCEPT).unwrap();
        assert_eq!(accepted, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        assert_eq!(granted.headers.len(), 4);
    }
}
