//! The head of a request, as it is written over one version of HTTP or the other.

use bytes::Bytes;
use http::{HeaderValue, Version, header};
use pingora::{Error, ErrorType, Result};

use crate::http::head::RequestHeader;
use crate::upstream::session::part::Length;

/// In HTTP/1.1 the host stands in Host (RFC 9112, section 3.2). A client of HTTP/1.0 may not have
/// named one; then it is the endpoint's `own`.
pub(crate) fn for_http1(
    request: &mut RequestHeader,
    length: Length,
    own: &HeaderValue,
) -> Result<()> {
    if request.version == Version::HTTP_2 {
        join_cookies(request)?;
    }
    request.version = Version::HTTP_11;
    if length == Length::Unknown {
        request.insert_header(header::TRANSFER_ENCODING, "chunked")?;
        if !request.takes_trailers() {
            // A client that knows nothing of trailers may have an endpoint that is surprised by them.
            request.remove_header(&header::TRAILER);
        }
    }
    if request.takes_trailers() {
        let for_this_hop = request.headers.get(&header::CONNECTION);
        if for_this_hop.is_none_or(|said| said != "TE") {
            request.remove_header(&header::TE);
        }
    }
    let authority = request
        .uri
        .authority()
        .map(|authority| HeaderValue::from_str(authority.as_str()));
    match authority {
        Some(Ok(authority)) => request.insert_header(header::HOST, authority),
        Some(Err(_)) => Error::e_explain(ErrorType::InvalidHTTPHeader, "a host that is none"),
        None if request.headers.contains(&header::HOST) => Ok(()),
        None => request.insert_header(header::HOST, own.clone()),
    }
}

/// In HTTP/2 each cookie may have a field of its own; elsewhere there is one for all of them (RFC 9113,
/// section 8.2.3).
fn join_cookies(request: &mut RequestHeader) -> Result<()> {
    let mut crumbs = request.headers.get_all(&header::COOKIE);
    let (Some(first), Some(second)) = (crumbs.next(), crumbs.next()) else {
        return Ok(());
    };
    let mut whole = first.as_bytes().to_vec();
    for crumb in std::iter::once(second).chain(crumbs) {
        whole.extend_from_slice(b"; ");
        whole.extend_from_slice(crumb.as_bytes());
    }
    let whole = HeaderValue::from_maybe_shared(Bytes::from(whole))
        .map_err(|_| Error::explain(ErrorType::InvalidHTTPHeader, "cookies that are none"))?;
    request.insert_header(header::COOKIE, whole)
}

/// In HTTP/2 the host stands in `:authority` (RFC 9113, section 8.3.1).
pub(crate) fn for_http2(request: &mut RequestHeader, tls: bool, own: &HeaderValue) -> Result<()> {
    request.version = Version::HTTP_2;
    request.remove_header(&header::CONNECTION);
    let host = request.headers.get(&header::HOST).cloned();
    request.remove_header(&header::HOST);
    let authority = match (&host, request.uri.authority()) {
        (None, Some(authority)) => Some(authority.clone()),
        (host, _) => {
            let host = host.as_ref().unwrap_or(own);
            http::uri::Authority::try_from(host.as_bytes()).ok()
        }
    };
    let Some(authority) = authority else {
        return Error::e_explain(ErrorType::InvalidHTTPHeader, "a request without a host");
    };
    // With its query as URIs have it: over HTTP/2 there is no other way to say it.
    let path = request.uri.path_and_query().map(|path| path.as_str());
    let path = path
        .filter(|path| path.starts_with('/') || *path == "*")
        .unwrap_or("/")
        .to_owned();
    let uri = http::Uri::builder()
        .scheme(if tls { "https" } else { "http" })
        .authority(authority)
        .path_and_query(path)
        .build();
    match uri {
        Ok(uri) => {
            request.set_uri(uri);
            Ok(())
        }
        Err(_) => Error::e_explain(ErrorType::InvalidHTTPHeader, "a path that is none"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(headers: &[(&'static str, &str)]) -> RequestHeader {
        let mut request = RequestHeader::build("GET", b"/a?b=c", 0).unwrap();
        for (name, value) in headers {
            request.append_header(*name, *value).unwrap();
        }
        request
    }

    #[test]
    fn crumbs_of_cookies_are_put_together_where_there_is_one_field_for_all() {
        let own = HeaderValue::from_static("10.0.0.1:80");
        let crumbs = [
            ("cookie", "a=1"),
            ("x", "y"),
            ("cookie", "b=2"),
            ("cookie", "c=3; d=4"),
        ];
        for (version, joined) in [(Version::HTTP_2, 1), (Version::HTTP_11, 3)] {
            let mut one = request(&crumbs);
            one.version = version;
            for_http1(&mut one, Length::None, &own).unwrap();
            assert_eq!(one.headers.get_all("cookie").count(), joined, "{version:?}");
            if joined == 1 {
                let cookie = one.headers.get("cookie").unwrap();
                assert_eq!(cookie, "a=1; b=2; c=3; d=4");
            }
        }
        let mut single = request(&[("cookie", "a=1")]);
        single.version = Version::HTTP_2;
        for_http1(&mut single, Length::None, &own).unwrap();
        assert_eq!(single.headers.get("cookie").unwrap(), "a=1");
    }

    #[test]
    fn the_host_stands_where_the_version_has_it() {
        let own = HeaderValue::from_static("10.0.0.1:80");
        let mut one = request(&[]);
        one.set_uri("https://x.example:8443/a?b=c".parse().unwrap());
        for_http1(&mut one, Length::Unknown, &own).unwrap();
        assert_eq!(one.headers.get("host").unwrap(), "x.example:8443");
        assert_eq!(one.target(), b"/a?b=c");
        assert_eq!(one.headers.get("transfer-encoding").unwrap(), "chunked");
        let mut two = request(&[("host", "x.example")]);
        for_http2(&mut two, true, &own).unwrap();
        assert_eq!(two.uri, "https://x.example/a?b=c");
        assert!(!two.headers.contains("host"));
        // Of a client that named none, it is the endpoint's own.
        let mut none = request(&[]);
        for_http1(&mut none, Length::None, &own).unwrap();
        assert_eq!(none.headers.get("host").unwrap(), "10.0.0.1:80");
        let mut none = request(&[]);
        for_http2(&mut none, false, &own).unwrap();
        assert_eq!(none.uri, "http://10.0.0.1:80/a?b=c");
    }
}
