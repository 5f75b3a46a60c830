//! The host that a request asks for.

use http::header;

use crate::http::head::RequestHeader;

/// The host a client asks for, as it wrote it.
pub(crate) fn host(request: &RequestHeader) -> Option<&str> {
    // Over HTTP/2 (and in absolute form) it stands in the URI.
    request
        .uri
        .authority()
        .map(http::uri::Authority::as_str)
        .or_else(|| request.headers.get(header::HOST)?.to_str().ok())
}
