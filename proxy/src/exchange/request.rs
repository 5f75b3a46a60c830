//! The request as an endpoint gets it.

use bytes::Bytes;
use http::header::{self, HeaderName};
use http::{HeaderMap, HeaderValue, Method, Version};
use pingora::{Error, ErrorType, Result};
use portolan_config::document::HeaderCase;
use portolan_config::plan::{PoolId, RoutePlan};
use smallvec::SmallVec;

use super::wire::Length;
use crate::auth;
use crate::context::RequestContext;
use crate::downstream::Downstream;
use crate::edge::{fastrand_scope, host};
use crate::forward::{self, Origin};
use crate::head::{RequestHeader, has_token};
use crate::http1::framing::length;
use crate::trailers;

/// Headers that end here (RFC 9110, section 7.6.1), and those by which a body is framed: only its
/// length is told, if there is one.
fn ends_here(name: &HeaderName) -> bool {
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
        ends_here(name) || self.0.contains(name)
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
    let plan = &ctx.snapshot().plan;
    let told = route.auth.as_deref().map(auth::told_names);
    let mut request = passed_on(downstream, &told.unwrap_or_default())?;
    if plan.header_case == HeaderCase::Lower {
        request.headers.write_lower();
    }
    if downstream.takes_trailers() {
        // gRPC servers insist on it.
        request.insert_header(header::TE, "trailers")?;
    }
    if length == Length::Unknown
        && let Some(names) = downstream.headers.get(&header::TRAILER)
    {
        // What comes behind a body is announced only where it can come.
        request.insert_header(header::TRAILER, names)?;
    }
    if let Some(left) = hops_left(downstream) {
        request.insert_header(header::MAX_FORWARDS, left.saturating_sub(1))?;
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
    } else if asks_for_trailers(downstream) {
        request.insert_header(header::CONNECTION, "TE")?;
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
    let pool = &plan.pools[pool.index()];
    fastrand_scope(|random| forward::to_endpoint(&mut request, &origin, route, pool, random))?;
    Ok(request)
}

/// Whether an endpoint is asked for trailers over HTTP/1.1: there the client has to mean whoever it is
/// connected to when it says that it takes them (RFC 9110, section 10.1.4).
fn asks_for_trailers(downstream: &RequestHeader) -> bool {
    let headers = &downstream.headers;
    downstream.takes_trailers()
        && (downstream.version == Version::HTTP_2
            || has_token(headers.get_all(&header::CONNECTION), b"te"))
}

/// Over how many hops a request may still go, where that is said and counts (RFC 9110, section
/// 7.6.2). What is no number was refused before.
pub(crate) fn hops_left(request: &RequestHeader) -> Option<u32> {
    if request.method != Method::TRACE && request.method != Method::OPTIONS {
        return None;
    }
    let said = request.headers.get(&header::MAX_FORWARDS)?;
    // More than anybody counts.
    length(said.as_bytes()).map(|left| u32::try_from(left).unwrap_or(u32::MAX))
}

/// What came behind a request's body, as far as an endpoint gets it. Whoever stands there may read it
/// like the head, so it says nothing that the head would not be let say: nothing that ends here, and
/// nothing that Portolan says or takes off.
pub(super) fn trailers(
    downstream: &mut Downstream,
    ctx: &RequestContext,
    route: &RoutePlan,
) -> Option<HeaderMap> {
    let mut trailers = trailers::pass(downstream.take_trailers()?)?;
    let ends_here = EndsHere::of(downstream.request()).ok()?;
    let told = route.auth.as_deref().map(auth::told_names);
    let told = told.unwrap_or_default();
    let edits = &route.request_headers;
    let set = edits.set.iter().chain(&edits.add).map(|(name, _)| name);
    let edited: SmallVec<[&HeaderName; 8]> = edits.remove.iter().chain(set).collect();
    let client_ip = &ctx.snapshot().plan.client_ip.header;
    let refused: Vec<HeaderName> = trailers
        .keys()
        .filter(|name| {
            let ours = |other: &&HeaderName| auth::is_alike(name, other);
            ends_here.contains(name)
                || forward::is_ours(name)
                || told.iter().any(ours)
                || edited.iter().any(ours)
                || auth::is_alike(name, client_ip)
        })
        .cloned()
        .collect();
    for name in refused {
        trailers.remove(name);
    }
    (!trailers.is_empty()).then_some(trailers)
}

/// The request without what ends here. Nobody has taken off what endpoints are told of who it is.
fn passed_on(downstream: &RequestHeader, told: &[&HeaderName]) -> Result<RequestHeader> {
    let ends_here = EndsHere::of(downstream)?;
    if told.iter().any(|name| ends_here.contains(name)) {
        return Err(names_too_much());
    }
    let headers = &downstream.headers;
    let headers = headers.only(|name| !ends_here.contains(name), ROOM);
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
    request.version == Version::HTTP_11
        && headers
            .get(header::UPGRADE)
            .is_some_and(|to| to.as_bytes().eq_ignore_ascii_case(b"websocket"))
        && has_token(headers.get_all(&header::CONNECTION), b"upgrade")
        && !headers.contains(header::TRANSFER_ENCODING)
        && headers
            .get(header::CONTENT_LENGTH)
            .is_none_or(|length| length.as_bytes() == b"0")
}

/// In HTTP/1.1 the host stands in Host (RFC 9112, section 3.2). A client of HTTP/1.0 may not have
/// named one; then it is the endpoint's `own`.
pub(super) fn for_http1(
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
pub(super) fn for_http2(request: &mut RequestHeader, tls: bool, own: &HeaderValue) -> Result<()> {
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

    #[test]
    fn trailers_are_asked_for_as_the_client_does() {
        let asked = |version, headers: &[(&'static str, &str)]| {
            let mut request = request(headers);
            request.version = version;
            request.look_for_trailers();
            (request.takes_trailers(), asks_for_trailers(&request))
        };
        let (one, two) = (Version::HTTP_11, Version::HTTP_2);
        assert_eq!(asked(two, &[("te", "trailers")]), (true, true));
        assert_eq!(asked(one, &[("te", "trailers")]), (true, false));
        for connection in ["TE", "keep-alive, te"] {
            let headers = [("te", "gzip;q=0.5, Trailers"), ("connection", connection)];
            assert_eq!(asked(one, &headers), (true, true), "{connection}");
        }
        let none = [("te", "gzip"), ("connection", "te")];
        assert_eq!(asked(one, &none), (false, false));
        let old = [("te", "trailers"), ("connection", "te")];
        assert_eq!(asked(Version::HTTP_10, &old), (false, false));
        // Over HTTP/1.1 that is for the next hop alone, and in HTTP/2 there are no hops.
        let own = HeaderValue::from_static("10.0.0.1:80");
        for (connection, one) in [(Some("TE"), true), (Some("Upgrade"), false), (None, false)] {
            let mut asked = request(&[("te", "trailers")]);
            if let Some(connection) = connection {
                asked.insert_header("connection", connection).unwrap();
            }
            asked.look_for_trailers();
            let mut again = asked.clone();
            // However often it is tried.
            for _ in 0..2 {
                for_http1(&mut again, Length::None, &own).unwrap();
                assert_eq!(again.headers.contains("te"), one, "{connection:?}");
                assert_eq!(again.headers.contains("connection"), connection.is_some());
            }
            for_http2(&mut asked, false, &own).unwrap();
            assert!(asked.headers.contains("te"), "{connection:?}");
            assert!(!asked.headers.contains("connection"), "{connection:?}");
        }
    }

    #[test]
    fn hops_are_counted_where_that_counts() {
        for (method, said, left) in [
            ("TRACE", "0", Some(0)),
            ("OPTIONS", "010", Some(10)),
            ("OPTIONS", "99999999999", Some(u32::MAX)),
            ("OPTIONS", "-1", None),
            ("GET", "0", None),
        ] {
            let mut request = RequestHeader::build(method, b"/", 1).unwrap();
            request.append_header("max-forwards", said).unwrap();
            assert_eq!(hops_left(&request), left, "{method} {said}");
        }
    }
}
