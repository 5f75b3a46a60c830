//! Refusals in gRPC's words: its clients look at `grpc-status`, not at the status of HTTP.
//!
//! They get what a gRPC server sends that has nothing but a status to say: headers that end the
//! stream, with HTTP's 200 (the protocol's "Trailers-Only"). When an answer had begun, the status
//! comes in its trailers.

use std::fmt::Write as _;

use http::header::HeaderName;
use http::{HeaderMap, HeaderValue, StatusCode, Version, header};

use crate::http::head::{RequestHeader, ResponseHeader};

/// The status of the call.
const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");

/// What a human is told, percent-encoded.
const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");

/// When the client may try again, in milliseconds: its Retry-After.
const GRPC_RETRY_PUSHBACK: HeaderName = HeaderName::from_static("grpc-retry-pushback-ms");

/// Whether a request is a gRPC call: by its content type, and by a client that can be told how it ended:
/// over HTTP/2, or over HTTP/1.1 if it takes trailers. gRPC-Web is none.
pub(crate) fn is_call(request: &RequestHeader) -> bool {
    const TYPE: &[u8] = b"application/grpc";
    (request.version == Version::HTTP_2 || request.takes_trailers())
        && request
            .headers
            .get(header::CONTENT_TYPE)
            .map(HeaderValue::as_bytes)
            .is_some_and(|value| {
                value.len() >= TYPE.len()
                    && value[..TYPE.len()].eq_ignore_ascii_case(TYPE)
                    && matches!(value.get(TYPE.len()), None | Some(b'+' | b';' | b' '))
            })
}

/// The whole answer.
pub(crate) fn answer(
    code: u8,
    message: &str,
    retry_after: Option<u64>,
) -> pingora::Result<ResponseHeader> {
    let mut head = ResponseHeader::build(StatusCode::OK, 6)?;
    head.insert_header(header::CONTENT_TYPE, "application/grpc")?;
    for (name, value) in status(code, message) {
        head.insert_header(name, value)?;
    }
    if let Some(seconds) = retry_after {
        let milliseconds = seconds.saturating_mul(1000);
        head.insert_header(GRPC_RETRY_PUSHBACK, HeaderValue::from(milliseconds))?;
    }
    Ok(head)
}

/// The end of an answer that had begun and cannot go on.
pub(crate) fn trailers(code: u8, message: &str) -> HeaderMap {
    status(code, message).into_iter().collect()
}

fn status(code: u8, message: &str) -> [(HeaderName, HeaderValue); 2] {
    let message = HeaderValue::try_from(percent_encoded(message));
    [
        (GRPC_STATUS, HeaderValue::from(u16::from(code))),
        // Encoded as it is, nothing is left that no header may have.
        (
            GRPC_MESSAGE,
            message.unwrap_or(HeaderValue::from_static("")),
        ),
    ]
}

/// Text as `grpc-message` has it: printable ASCII but `%`, and the rest as bytes in hexadecimal.
fn percent_encoded(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b' '..=b'~' if byte != b'%' => out.push(char::from(byte)),
            _ => {
                // Writing to a string cannot fail.
                let _ = write!(out, "%{byte:02X}");
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_known_by_their_content_type_where_trailers_can_be_told() {
        let is = |version, kind: &str| {
            let mut request = RequestHeader::build("POST", b"/talk.Talk/Say", 0).unwrap();
            request.version = version;
            request.insert_header("content-type", kind).unwrap();
            is_call(&request)
        };
        for kind in [
            "application/grpc",
            "application/grpc+proto",
            "Application/gRPC; charset=utf-8",
        ] {
            assert!(is(Version::HTTP_2, kind), "{kind}");
            assert!(!is(Version::HTTP_11, kind), "{kind}");
            let mut told = RequestHeader::build("POST", b"/talk.Talk/Say", 0).unwrap();
            told.insert_header("content-type", kind).unwrap();
            told.insert_header("te", "trailers").unwrap();
            told.look_for_trailers();
            assert!(is_call(&told), "{kind}");
        }
        for kind in [
            "application/grpc-web",
            "application/grpc-web+proto",
            "application/grpcx",
            "application/json",
            "application",
        ] {
            assert!(!is(Version::HTTP_2, kind), "{kind}");
        }
    }

    #[test]
    fn messages_are_percent_encoded() {
        assert_eq!(
            percent_encoded("100% of ‘ü’"),
            "100%25 of %E2%80%98%C3%BC%E2%80%99"
        );
        assert_eq!(percent_encoded("two\nlines~"), "two%0Alines~");
        let head = answer(14, "not now", Some(5)).unwrap();
        assert_eq!(head.status, 200);
        assert_eq!(head.headers.get("grpc-status").unwrap(), "14");
        assert_eq!(head.headers.get("grpc-retry-pushback-ms").unwrap(), "5000");
        assert_eq!(trailers(14, "100%")["grpc-message"], "100%25");
    }
}
