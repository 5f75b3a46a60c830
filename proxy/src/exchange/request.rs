//! The request as an endpoint gets it.

use bytes::Bytes;
use http::header::{self, HeaderName};
use http::{HeaderValue, Method, Version};
use pingora::{Error, ErrorType, Result};
use portolan_config::fields::Fields;
use portolan_config::plan::{PoolId, RoutePlan};
use smallvec::SmallVec;

use super::wire::Length;
use crate::auth;
use crate::context::RequestContext;
use crate::edge::{fastrand_scope, host};
use crate::forward::{self, Origin};
use crate::head::RequestHeader;

/// Headers that end here (RFC 9110, section 7.6.1), and those by which a body is framed: only its
/// length is told, if there is one.
static ENDS_HERE: [HeaderName; 11] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    HeaderName::from_static("http2-settings"),
    header::EXPECT,
];

/// What no client can have taken off by naming it in its Connection.
const PROTECTED: [&str; 4] = [
    "host",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-proto",
];

/// Headers that are added on the way to an endpoint.
const ROOM: usize = 10;

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
        ENDS_HERE.contains(name) || self.0.contains(name)
    }
}

/// The request for a try at this pool.
pub(super) fn for_endpoint(
    downstream: &RequestHeader,
    ctx: &RequestContext,
    route: &RoutePlan,
    pool: PoolId,
    length: Length,
) -> Result<RequestHeader> {
    let Some(connection) = &ctx.connection else {
        return Error::e_explain(ErrorType::InternalError, "a request without a connection");
    };
    let trailers = downstream.version == Version::HTTP_2
        && downstream
            .headers
            .get(&header::TE)
            .is_some_and(|te| te.as_bytes() == b"trailers");
    let told = route.auth.as_deref().map(auth::told_names);
    let mut request = passed_on(downstream, &told.unwrap_or_default())?;
    if trailers {
        // gRPC servers insist on it.
        request.insert_header(header::TE, "trailers")?;
    }
    match length {
        Length::None => {
            // Who expects a body is told that there is none (RFC 9110, section 8.6).
            let expected = [Method::POST, Method::PUT, Method::PATCH].contains(&request.method);
            if expected && !request.headers.contains(header::CONTENT_LENGTH) {
                request.insert_header(header::CONTENT_LENGTH, 0)?;
            }
        }
        Length::Known(length) => request.insert_header(header::CONTENT_LENGTH, length)?,
        Length::Unknown => {
            request.remove_header(&header::CONTENT_LENGTH);
        }
    }
    if ctx.wants_upgrade {
        request.insert_header(header::CONNECTION, "Upgrade")?;
        request.insert_header(header::UPGRADE, "websocket")?;
    }
    let origin = Origin {
        peer_text: &connection.peer_text,
        trusted: ctx.peer_trusted,
        tls: connection.tls.is_some(),
        agreed: connection.tls.as_ref(),
        host: host(downstream).unwrap_or_default(),
        id: &ctx.id,
        version: downstream.version,
    };
    let pool = &ctx.snapshot().plan.pools[pool.index()];
    fastrand_scope(|random| forward::to_endpoint(&mut request, &origin, route, pool, random))?;
    Ok(request)
}

/// The request without what ends here. Nobody has taken off what endpoints are told of who it is.
fn passed_on(downstream: &RequestHeader, told: &[&HeaderName]) -> Result<RequestHeader> {
    let ends_here = EndsHere::of(downstream)?;
    if told.iter().any(|name| ends_here.contains(name)) {
        return Err(names_too_much());
    }
    let mut headers = Fields::with_capacity(downstream.headers.len() + ROOM);
    for (name, value) in &downstream.headers {
        if !ends_here.contains(name) {
            headers.append(name.clone(), value.clone());
        }
    }
    Ok(downstream.with_headers(headers))
}

fn names_too_much() -> Box<Error> {
    let error = Error::explain(
        ErrorType::InvalidHTTPHeader,
        "a Connection that names what it must not",
    );
    error.into_down()
}

/// Whether a request asks for its connection to be upgraded, in a way that is passed on: to
/// WebSocket, and without a body.
pub(crate) fn wants_upgrade(request: &RequestHeader) -> bool {
    let headers = &request.headers;
    let names = |name: HeaderName, wanted: &[u8]| {
        let lines = headers.get_all(name);
        lines
            .flat_map(|line| line.as_bytes().split(|byte| *byte == b','))
            .any(|token| token.trim_ascii().eq_ignore_ascii_case(wanted))
    };
    request.version == Version::HTTP_11
        && headers
            .get(header::UPGRADE)
            .is_some_and(|to| to.as_bytes().eq_ignore_ascii_case(b"websocket"))
        && names(header::CONNECTION, b"upgrade")
        && !headers.contains(header::TRANSFER_ENCODING)
        && headers
            .get(header::CONTENT_LENGTH)
            .is_none_or(|length| length.as_bytes() == b"0")
}

/// In HTTP/1.1 the host stands in Host (RFC 9112, section 3.2).
pub(super) fn for_http1(request: &mut RequestHeader, length: Length) -> Result<()> {
    if request.version == Version::HTTP_2 {
        join_cookies(request)?;
    }
    request.version = Version::HTTP_11;
    request.remove_header(&header::TE);
    if length == Length::Unknown {
        request.insert_header(header::TRANSFER_ENCODING, "chunked")?;
    }
    let authority = request
        .uri
        .authority()
        .map(|authority| HeaderValue::from_str(authority.as_str()));
    match authority {
        Some(Ok(authority)) => request.insert_header(header::HOST, authority),
        Some(Err(_)) => Error::e_explain(ErrorType::InvalidHTTPHeader, "a host that is none"),
        None => Ok(()),
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
pub(super) fn for_http2(request: &mut RequestHeader, tls: bool) -> Result<()> {
    request.version = Version::HTTP_2;
    let host = request.headers.get(&header::HOST).cloned();
    request.remove_header(&header::HOST);
    let authority = match (&host, request.uri.authority()) {
        (Some(host), _) => http::uri::Authority::try_from(host.as_bytes()).ok(),
        (None, authority) => authority.cloned(),
    };
    let Some(authority) = authority else {
        return Error::e_explain(ErrorType::InvalidHTTPHeader, "a request without a host");
    };
    let path = std::str::from_utf8(request.target())
        .ok()
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
    fn what_a_client_names_in_connection_ends_here() {
        let named = request(&[
            ("host", "x.example"),
            ("connection", "close, X-Mine"),
            ("x-mine", "1"),
            ("te", "gzip"),
            ("transfer-encoding", "chunked"),
            ("expect", "100-continue"),
            ("x-other", "stays"),
        ]);
        let named = passed_on(&named, &[]).unwrap();
        let mut left: Vec<&str> = named.headers.names().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["host", "x-other"]);
    }

    #[test]
    fn nobody_has_protected_headers_taken_off() {
        for name in ["host", "X-Forwarded-For", ":authority", "a b"] {
            let named = request(&[("connection", name)]);
            assert!(passed_on(&named, &[]).is_err(), "{name}");
        }
        let told = HeaderName::from_static("x-user");
        let named = request(&[("connection", "close, X-User"), ("x-user", "alice")]);
        assert!(passed_on(&named, &[&told]).is_err());
    }

    #[test]
    fn crumbs_of_cookies_are_put_together_where_there_is_one_field_for_all() {
        let crumbs = [
            ("cookie", "a=1"),
            ("x", "y"),
            ("cookie", "b=2"),
            ("cookie", "c=3; d=4"),
        ];
        for (version, joined) in [(Version::HTTP_2, 1), (Version::HTTP_11, 3)] {
            let mut one = request(&crumbs);
            one.version = version;
            for_http1(&mut one, Length::None).unwrap();
            assert_eq!(one.headers.get_all("cookie").count(), joined, "{version:?}");
            if joined == 1 {
                let cookie = one.headers.get("cookie").unwrap();
                assert_eq!(cookie, "a=1; b=2; c=3; d=4");
            }
        }
        let mut single = request(&[("cookie", "a=1")]);
        single.version = Version::HTTP_2;
        for_http1(&mut single, Length::None).unwrap();
        assert_eq!(single.headers.get("cookie").unwrap(), "a=1");
    }

    #[test]
    fn the_host_stands_where_the_version_has_it() {
        let mut one = request(&[]);
        one.set_uri("https://x.example:8443/a?b=c".parse().unwrap());
        for_http1(&mut one, Length::Unknown).unwrap();
        assert_eq!(one.headers.get("host").unwrap(), "x.example:8443");
        assert_eq!(one.target(), b"/a?b=c");
        assert_eq!(one.headers.get("transfer-encoding").unwrap(), "chunked");
        let mut two = request(&[("host", "x.example")]);
        for_http2(&mut two, true).unwrap();
        assert_eq!(two.uri, "https://x.example/a?b=c");
        assert!(!two.headers.contains("host"));
        assert!(for_http2(&mut request(&[]), false).is_err());
    }
}
