//! Headers on their way through: what endpoints are told about the client, and what clients are
//! told about the endpoint.

use bytes::BytesMut;
use http::header::HeaderName;
use http::{HeaderValue, Version, header};
use pingora::{Error, ErrorType, OrErr as _, Result};
use portolan_config::plan::{PoolPlan, RoutePlan};

use crate::connection::client_certificate;
use crate::connection::context::TlsContext;
use crate::http::field_names::is_alike;
use crate::http::head::RequestHeader;
use crate::http::request_id::{X_REQUEST_ID, hexadecimal};

static X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
static X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
static X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
static TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
static TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// What Portolan says itself, besides about certificates: nobody else has a say in it.
static OURS: [&HeaderName; 8] = [
    &X_FORWARDED_FOR,
    &X_FORWARDED_PROTO,
    &X_FORWARDED_HOST,
    &X_REQUEST_ID,
    &TRACEPARENT,
    &TRACESTATE,
    &header::FORWARDED,
    &header::VIA,
];

/// Whether a header is one that Portolan says itself, also for those who take `_` for `-`.
pub(crate) fn is_ours(name: &HeaderName) -> bool {
    client_certificate::is_ours(name.as_str()) || OURS.iter().any(|ours| is_alike(name, ours))
}

/// What endpoints are told about where a request comes from.
#[derive(Debug)]
pub(crate) struct Origin<'a> {
    /// The peer's address as text.
    pub(crate) peer_text: &'a HeaderValue,
    /// Whether the peer may say whom it speaks for.
    pub(crate) trusted: bool,
    /// Whether the connection is TLS.
    pub(crate) tls: bool,
    /// What TLS agreed on.
    pub(crate) agreed: Option<&'a TlsContext>,
    /// The host the client asked for, as written; empty if it named none.
    pub(crate) host: &'a str,
    /// What the request is known by.
    pub(crate) id: &'a str,
    /// How the client spoke.
    pub(crate) version: Version,
}

/// Changes a request on its way to an endpoint.
pub(crate) fn to_endpoint(
    request: &mut RequestHeader,
    origin: &Origin<'_>,
    route: &RoutePlan,
    pool: &PoolPlan,
    random: &mut fastrand::Rng,
) -> Result<()> {
    forwarded(request, origin)?;
    request.insert_header(&X_REQUEST_ID, origin.id)?;
    trace(request, random)?;
    via(request, origin.version)?;
    tell(request, origin.agreed)?;
    if let Some(prefix) = &route.strip_prefix {
        strip_prefix(request, prefix)?;
    }
    route.request_headers.apply(&mut request.headers);
    if let Some(host) = &pool.host {
        set_host(request, host)?;
    }
    Ok(())
}

/// Changes a question about a request on its way to the service that is asked.
pub(crate) fn to_authority(
    question: &mut RequestHeader,
    origin: &Origin<'_>,
    pool: &PoolPlan,
    random: &mut fastrand::Rng,
) -> Result<()> {
    forwarded(question, origin)?;
    question.insert_header(&X_REQUEST_ID, origin.id)?;
    trace(question, random)?;
    via(question, origin.version)?;
    tell(question, origin.agreed)?;
    if let Some(host) = &pool.host {
        set_host(question, host)?;
    }
    Ok(())
}

/// X-Forwarded-*: what an untrusted peer says about itself is dropped, what a trusted one says is
/// continued.
fn forwarded(request: &mut RequestHeader, origin: &Origin<'_>) -> Result<()> {
    if origin.trusted {
        // Byte by byte: a line in which a client wrote what is no text has the proxy's word as well.
        let lines = request.headers.get_all(&X_FORWARDED_FOR);
        let lines = lines.map(HeaderValue::as_bytes);
        let mut chain = BytesMut::with_capacity(64);
        for line in lines.filter(|line| !line.is_empty()) {
            chain.extend_from_slice(line);
            chain.extend_from_slice(b", ");
        }
        chain.extend_from_slice(origin.peer_text.as_bytes());
        let chain = HeaderValue::from_maybe_shared(chain.freeze());
        let chain = chain.map_err(|error| {
            Error::because(ErrorType::InvalidHTTPHeader, "in X-Forwarded-For", error)
        })?;
        request.insert_header(&X_FORWARDED_FOR, chain)?;
        if !request.headers.contains(&X_FORWARDED_PROTO) {
            request.insert_header(&X_FORWARDED_PROTO, scheme(origin.tls))?;
        }
        if !origin.host.is_empty() && !request.headers.contains(&X_FORWARDED_HOST) {
            request.insert_header(&X_FORWARDED_HOST, origin.host)?;
        }
        return Ok(());
    }
    request.remove_header(&header::FORWARDED);
    request.insert_header(&X_FORWARDED_FOR, origin.peer_text.clone())?;
    request.insert_header(
        &X_FORWARDED_PROTO,
        HeaderValue::from_static(scheme(origin.tls)),
    )?;
    if origin.host.is_empty() {
        request.remove_header(&X_FORWARDED_HOST);
        return Ok(());
    }
    match request.headers.get(&header::HOST).cloned() {
        // The same bytes once more, not copied.
        Some(host) if host.as_bytes() == origin.host.as_bytes() => {
            request.insert_header(&X_FORWARDED_HOST, host)
        }
        _ => request.insert_header(&X_FORWARDED_HOST, origin.host),
    }
}

fn scheme(tls: bool) -> &'static str {
    if tls { "https" } else { "http" }
}

/// traceparent (W3C Trace Context): a valid one is continued under a new parent, anything else
/// begins anew.
fn trace(request: &mut RequestHeader, random: &mut fastrand::Rng) -> Result<()> {
    let given = {
        let mut lines = request.headers.get_all(&TRACEPARENT);
        match (lines.next(), lines.next()) {
            (Some(line), None) => line.to_str().ok().and_then(trace_and_flags),
            _ => None,
        }
    };
    let anew = given.is_none();
    let parent = hexadecimal(random.u64(1..));
    let mut value = BytesMut::with_capacity(55);
    value.extend_from_slice(b"00-");
    match given {
        Some((trace, flags)) => {
            value.extend_from_slice(trace.as_bytes());
            value.extend_from_slice(b"-");
            value.extend_from_slice(&parent);
            value.extend_from_slice(b"-");
            value.extend_from_slice(flags.as_bytes());
        }
        None => {
            value.extend_from_slice(&hexadecimal(random.u64(..)));
            value.extend_from_slice(&hexadecimal(random.u64(1..)));
            value.extend_from_slice(b"-");
            value.extend_from_slice(&parent);
            value.extend_from_slice(b"-00");
        }
    }
    let value = HeaderValue::from_maybe_shared(value.freeze());
    let value = value.or_err(ErrorType::InvalidHTTPHeader, "in traceparent")?;
    if anew {
        request.remove_header(&TRACESTATE);
    }
    request.insert_header(&TRACEPARENT, value)
}

/// The trace id and the flags of a valid traceparent.
fn trace_and_flags(text: &str) -> Option<(&str, &str)> {
    let mut parts = text.split('-');
    let (version, trace, parent, flags) =
        (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let hex = |text: &str, length: usize| {
        text.len() == length
            && text
                .bytes()
                .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
    };
    let zero = |text: &str| text.bytes().all(|b| b == b'0');
    let valid = hex(version, 2)
        && version != "ff"
        && (version != "00" || parts.next().is_none())
        && hex(trace, 32)
        && !zero(trace)
        && hex(parent, 16)
        && !zero(parent)
        && hex(flags, 2);
    valid.then_some((trace, flags))
}

/// Via (RFC 9110, section 7.6.3): one more hop.
fn via(request: &mut RequestHeader, version: Version) -> Result<()> {
    let value = match version {
        Version::HTTP_2 => "2 portolan",
        Version::HTTP_10 => "1.0 portolan",
        _ => "1.1 portolan",
    };
    request.append_header(header::VIA, HeaderValue::from_static(value))?;
    Ok(())
}

/// Takes a prefix of whole segments off the path.
fn strip_prefix(request: &mut RequestHeader, prefix: &str) -> Result<()> {
    let Some(rest) = request.uri.path().strip_prefix(prefix) else {
        return Ok(());
    };
    let path = match rest.as_bytes().first() {
        Some(b'/') => rest.to_owned(),
        None => "/".to_owned(),
        // The prefix ended within a segment.
        Some(_) => return Ok(()),
    };
    request.set_path(&path)
}

/// What endpoints get as Host, whatever the client asked for.
fn set_host(request: &mut RequestHeader, host: &HeaderValue) -> Result<()> {
    if request.uri.authority().is_some() {
        // Over HTTP/2 the host stands in the URI; two different ones would be refused.
        let mut parts = request.uri.clone().into_parts();
        parts.authority = http::uri::Authority::try_from(host.as_bytes()).ok();
        if let Ok(uri) = http::Uri::from_parts(parts) {
            request.set_uri(uri);
        }
    }
    request.insert_header(header::HOST, host.clone())
}

/// Says who the client is, and takes off whatever the client says about that itself.
pub(crate) fn tell(request: &mut RequestHeader, tls: Option<&TlsContext>) -> Result<()> {
    request
        .headers
        .retain(|name| !client_certificate::is_ours(name.as_str()));
    let Some(tls) = tls.filter(|tls| tls.asked) else {
        return Ok(());
    };
    let Some(client) = &tls.client else {
        return request.insert_header(client_certificate::VERIFIED, "NONE");
    };
    for (name, value) in &client.headers {
        request.insert_header(name.clone(), value.clone())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::request_id::request_id;

    fn request(headers: &[(&'static str, &str)]) -> RequestHeader {
        let mut request = RequestHeader::build("GET", b"/v1/users?x=1", 0).unwrap();
        for (name, value) in headers {
            request.append_header(*name, *value).unwrap();
        }
        request
    }

    static PEER: HeaderValue = HeaderValue::from_static("192.0.2.1");

    fn origin(trusted: bool) -> Origin<'static> {
        Origin {
            peer_text: &PEER,
            trusted,
            tls: true,
            agreed: None,
            host: "api.example.com",
            id: "r-1",
            version: Version::HTTP_11,
        }
    }

    fn text<'a>(request: &'a RequestHeader, name: &str) -> &'a str {
        request
            .headers
            .get(name)
            .map_or("", |value| value.to_str().unwrap())
    }

    #[test]
    fn untrusted_claims_are_replaced() {
        let mut spoofed = request(&[
            ("x-forwarded-for", "1.2.3.4"),
            ("x-forwarded-proto", "http"),
            ("x-forwarded-host", "evil"),
            ("forwarded", "for=1.2.3.4"),
        ]);
        forwarded(&mut spoofed, &origin(false)).unwrap();
        assert_eq!(text(&spoofed, "x-forwarded-for"), "192.0.2.1");
        assert_eq!(text(&spoofed, "x-forwarded-proto"), "https");
        assert_eq!(text(&spoofed, "x-forwarded-host"), "api.example.com");
        assert!(!spoofed.headers.contains("forwarded"));
    }

    #[test]
    fn who_named_no_host_has_none_in_what_is_forwarded() {
        for trusted in [false, true] {
            let origin = Origin {
                host: "",
                ..origin(trusted)
            };
            let mut bare = request(&[]);
            forwarded(&mut bare, &origin).unwrap();
            assert_eq!(text(&bare, "x-forwarded-for"), "192.0.2.1");
            assert!(!bare.headers.contains("x-forwarded-host"));
            let mut claimed = request(&[("x-forwarded-host", "a.example")]);
            forwarded(&mut claimed, &origin).unwrap();
            assert_eq!(claimed.headers.contains("x-forwarded-host"), trusted);
        }
    }

    #[test]
    fn what_portolan_says_is_known_however_it_is_written() {
        for ours in ["x-forwarded-for", "X_Forwarded_Host", "via", "Client-Cert"] {
            assert!(is_ours(&ours.parse().unwrap()), "{ours}");
        }
        assert!(!is_ours(&"x-sum".parse().unwrap()));
    }

    #[test]
    fn trusted_claims_are_continued() {
        let mut chained = request(&[
            ("x-forwarded-for", "1.2.3.4"),
            ("x-forwarded-for", "5.6.7.8"),
            ("x-forwarded-proto", "http"),
        ]);
        forwarded(&mut chained, &origin(true)).unwrap();
        assert_eq!(
            text(&chained, "x-forwarded-for"),
            "1.2.3.4, 5.6.7.8, 192.0.2.1"
        );
        assert_eq!(chained.headers.get_all("x-forwarded-for").count(), 1);
        assert_eq!(text(&chained, "x-forwarded-proto"), "http");
        assert_eq!(text(&chained, "x-forwarded-host"), "api.example.com");
    }

    #[test]
    fn ids_are_kept_from_trusted_peers_alone() {
        let mut random = fastrand::Rng::with_seed(1);
        let given = request(&[("x-request-id", "abc-123")]);
        assert_eq!(request_id(&given.headers, true, &mut random), "abc-123");
        assert_eq!(request_id(&given.headers, false, &mut random).len(), 32);
        let odd = request(&[("x-request-id", "a b")]);
        assert_eq!(request_id(&odd.headers, true, &mut random).len(), 32);
    }

    #[test]
    fn traces_go_on_or_begin() {
        let mut random = fastrand::Rng::with_seed(1);
        let trace_id = "0af7651916cd43dd8448eb211c80319c";
        let mut valid = request(&[
            ("traceparent", &format!("00-{trace_id}-b7ad6b7169203331-01")),
            ("tracestate", "a=b"),
        ]);
        trace(&mut valid, &mut random).unwrap();
        let went_on = text(&valid, "traceparent");
        assert!(went_on.starts_with(&format!("00-{trace_id}-")) && went_on.ends_with("-01"));
        assert!(!went_on.contains("b7ad6b7169203331"), "a new parent");
        assert_eq!(text(&valid, "tracestate"), "a=b");
        for bad in [
            "garbage",
            "00-0-0-00",
            &format!("00-{}-b7ad6b7169203331-01", "0".repeat(32)),
        ] {
            let mut bad = request(&[("traceparent", bad), ("tracestate", "a=b")]);
            trace(&mut bad, &mut random).unwrap();
            assert!(trace_and_flags(text(&bad, "traceparent")).is_some());
            assert!(!bad.headers.contains("tracestate"));
        }
    }

    #[test]
    fn prefixes_are_taken_off_by_whole_segments() {
        let stripped = |path: &str, prefix: &str| {
            let mut request = RequestHeader::build("GET", path.as_bytes(), 0).unwrap();
            strip_prefix(&mut request, prefix).unwrap();
            String::from_utf8_lossy(request.target()).into_owned()
        };
        assert_eq!(stripped("/v1/users?x=1", "/v1"), "/users?x=1");
        assert_eq!(stripped("/v1", "/v1"), "/");
        assert_eq!(stripped("/v1?x=1", "/v1"), "/?x=1");
        assert_eq!(stripped("/v10/users", "/v1"), "/v10/users");
        assert_eq!(stripped("/other", "/v1"), "/other");
        assert_eq!(stripped("/v1/a?\"<", "/v1"), "/a?\"<");
        // Over HTTP/2 the host stays where it stands.
        let mut two = request(&[]);
        two.set_uri(http::Uri::from_static("https://x.example/v1/a?b"));
        strip_prefix(&mut two, "/v1").unwrap();
        assert_eq!(two.uri, "https://x.example/a?b");
    }
}
