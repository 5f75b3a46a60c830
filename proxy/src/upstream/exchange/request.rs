//! The request as an endpoint gets it.

use http::header::HeaderName;
use http::{HeaderMap, Method, Version, header};
use pingora::Result;
use portolan_config::document::HeaderCase;
use portolan_config::plan::{PoolId, RoutePlan};
use smallvec::SmallVec;

use crate::downstream::Downstream;
use crate::http::head::{RequestHeader, has_token};
use crate::http::hop_by_hop::{EndsHere, names_too_much};
use crate::http::host::host;
use crate::http::http1::framing::length;
use crate::http::trailers;
use crate::random::fastrand_scope;
use crate::request::context::Served;
use crate::upstream::forward;
use crate::upstream::forward::Origin;
use crate::upstream::session::part::Length;

/// Headers that are added on the way to an endpoint.
const ROOM: usize = 10;

/// The request for a try at this pool.
pub(super) fn for_endpoint(
    downstream: &RequestHeader,
    ctx: &Served<'_>,
    route: &RoutePlan,
    pool: PoolId,
    length: Length,
) -> Result<RequestHeader> {
    let connection = &ctx.received.connection;
    let plan = &ctx.snapshot().plan;
    let told = route.auth.as_deref().map(crate::request::proof::told_names);
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
    if ctx.received.wants_upgrade {
        request.insert_header(header::CONNECTION, "Upgrade")?;
        request.insert_header(header::UPGRADE, "websocket")?;
    } else if asks_for_trailers(downstream) {
        request.insert_header(header::CONNECTION, "TE")?;
    }
    let origin = Origin {
        peer_text: &connection.peer_text,
        trusted: ctx.received.peer_trusted,
        tls: connection.tls.is_some(),
        agreed: connection.tls.as_ref(),
        host: host(downstream).unwrap_or_default(),
        id: &ctx.received.id,
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
    ctx: &Served<'_>,
    route: &RoutePlan,
) -> Option<HeaderMap> {
    let mut trailers = trailers::pass(downstream.take_trailers()?)?;
    let ends_here = EndsHere::of(downstream.request()).ok()?;
    let told = route.auth.as_deref().map(crate::request::proof::told_names);
    let told = told.unwrap_or_default();
    let edits = &route.request_headers;
    let set = edits.set.iter().chain(&edits.add).map(|(name, _)| name);
    let edited: SmallVec<[&HeaderName; 8]> = edits.remove.iter().chain(set).collect();
    let client_ip = &ctx.snapshot().plan.client_ip.header;
    let refused: Vec<HeaderName> = trailers
        .keys()
        .filter(|name| {
            let ours = |other: &&HeaderName| crate::http::field_names::is_alike(name, other);
            ends_here.contains(name)
                || forward::is_ours(name)
                || told.iter().any(ours)
                || edited.iter().any(ours)
                || crate::http::field_names::is_alike(name, client_ip)
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

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;
    use crate::upstream::session::head::{for_http1, for_http2};

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
