//! What may stand behind a body (RFC 9110, section 6.5).
//!
//! Whoever reads trailers may add them to what stood before the body. So what says how a message is
//! framed, where it goes, who sends it and what its content is must not come late (section 6.5.1): it is
//! left out.

use http::header;
use http::header::{HeaderMap, HeaderName};

/// What does not pass behind a body.
static NOT_HERE: [HeaderName; 38] = [
    // How it is framed, and how the connection goes on.
    header::CONNECTION,
    header::CONTENT_LENGTH,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    HeaderName::from_static("http2-settings"),
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    // Where it goes, and on whose behalf.
    header::FORWARDED,
    header::HOST,
    header::VIA,
    HeaderName::from_static("x-forwarded-for"),
    HeaderName::from_static("x-forwarded-host"),
    HeaderName::from_static("x-forwarded-proto"),
    HeaderName::from_static("x-real-ip"),
    // What is asked of whom it reaches.
    header::CACHE_CONTROL,
    header::EXPECT,
    header::IF_MATCH,
    header::IF_MODIFIED_SINCE,
    header::IF_NONE_MATCH,
    header::IF_RANGE,
    header::IF_UNMODIFIED_SINCE,
    header::MAX_FORWARDS,
    header::PRAGMA,
    header::RANGE,
    // Who sends it.
    header::AUTHORIZATION,
    header::COOKIE,
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::SET_COOKIE,
    header::WWW_AUTHENTICATE,
    // What its content is.
    header::CONTENT_ENCODING,
    header::CONTENT_RANGE,
    header::CONTENT_TYPE,
    header::AGE,
    header::DATE,
    header::LOCATION,
];

/// Those that may pass, if there are any.
pub(crate) fn pass(mut trailers: HeaderMap) -> Option<HeaderMap> {
    for name in &NOT_HERE {
        trailers.remove(name);
    }
    (!trailers.is_empty()).then_some(trailers)
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    #[test]
    fn what_must_not_come_late_does_not() {
        let value = HeaderValue::from_static("x");
        let mut trailers = HeaderMap::new();
        for name in ["content-length", "host", "cookie", "x-forwarded-for"] {
            trailers.insert(name, value.clone());
        }
        assert_eq!(pass(trailers.clone()), None);
        trailers.append("x-checksum", value.clone());
        trailers.append("x-checksum", value);
        let passed = pass(trailers).unwrap();
        assert_eq!(passed.len(), 2);
        assert_eq!(passed.get_all("x-checksum").iter().count(), 2);
    }
}
