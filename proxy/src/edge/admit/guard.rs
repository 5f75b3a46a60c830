//! What must hold before a request is routed, and what is taken off an answer.

use http::{HeaderValue, Method, Uri, header};
use portolan_config::fields::Fields;
use portolan_config::plan::{LimitsPlan, PathsPlan, normal_host};
use portolan_control::refusal::Refusal;

use crate::connection::context::ConnectionContext;
use crate::http::head::RequestHeader;
use crate::http::host::host;
use crate::http::http1::framing;
use crate::http::http1::request::is_host;

/// Whether a request may be passed on at all.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn check(
    request: &RequestHeader,
    connection: &ConnectionContext,
    limits: &LimitsPlan,
) -> Result<(), Refusal> {
    if request.method == Method::CONNECT {
        return Err(Refusal::MethodNotAllowed);
    }
    let headers = &request.headers;
    if request.target().len() > limits.uri_bytes {
        return Err(Refusal::UriTooLong);
    }
    // Over HTTP/1.1 the head was measured before the engine saw it; over HTTP/2 the number of
    // headers was not.
    if headers.len() > limits.headers || listed_bytes(request) > limits.header_bytes {
        return Err(Refusal::HeadersTooLarge);
    }
    let host = host(request);
    // RFC 9112, section 3.2; HTTP/1.0 knows no Host.
    let needed = request.version != http::Version::HTTP_10;
    if host.map_or(needed, |host| !is_host(host.as_bytes())) {
        return Err(Refusal::BadHost);
    }
    if !is_counted(request) {
        return Err(Refusal::Malformed);
    }
    if let (Some(limit), Some(length)) = (limits.body_bytes, content_length(headers))
        && length > limit
    {
        return Err(Refusal::BodyTooLarge);
    }
    // Who says no name gets no certificate for one: another connection would get the same, and so would
    // never be any better. All hosts of a listener ask for the same certificates of clients (`client_ca`).
    if let Some(tls) = connection.tls.as_ref().filter(|tls| tls.named)
        && let Some(host) = host
        && tls.store.choose(Some(&normal_host(host)), tls.able) != tls.certificate
    {
        return Err(Refusal::WrongCertificate);
    }
    Ok(())
}

/// Whether over how many hops a request may still go is a number, where it counts: somebody behind us
/// may read anything else as another one (RFC 9110, section 7.6.2).
fn is_counted(request: &RequestHeader) -> bool {
    if request.method != Method::TRACE && request.method != Method::OPTIONS {
        return true;
    }
    let mut said = request.headers.get_all(&header::MAX_FORWARDS);
    match (said.next(), said.next()) {
        (None, _) => true,
        (Some(said), None) => framing::length(said.as_bytes()).is_some(),
        (Some(_), Some(_)) => false,
    }
}

/// The size of a head as HTTP/2 counts it (RFC 9113, section 6.5.2), of those that were not
/// measured before.
fn listed_bytes(request: &RequestHeader) -> usize {
    const EACH: usize = 32;
    if request.version != http::Version::HTTP_2 {
        return 0;
    }
    let headers = request.headers.iter();
    headers
        .map(|(name, value)| name.as_str().len() + value.len() + EACH)
        .sum()
}

/// Brings a request's target into the form in which it is matched and forwarded.
///
/// # Errors
/// When its path must not pass.
pub(crate) fn normalise(request: &mut RequestHeader, paths: &PathsPlan) -> Result<(), Refusal> {
    if request.method == Method::CONNECT {
        // Refused later, whatever it asks for.
        return Ok(());
    }
    if request.target() == b"*" {
        // The server as a whole, which has no path.
        return if request.method == Method::OPTIONS {
            Ok(())
        } else {
            Err(Refusal::BadPath)
        };
    }
    let path = request.uri.path();
    let normal = paths.normal(path).map_err(|_| Refusal::BadPath)?;
    // In absolute form (RFC 9112, section 3.2.2) the host is the target's, which Host does not
    // contradict; from here on only the path is.
    let absolute = !request.target().starts_with(b"/");
    if !absolute && normal == path {
        return Ok(());
    }
    let (authority, normal) = if absolute {
        let (authority, bare) = absolute_authority(request.target()).ok_or(Refusal::BadHost)?;
        // RFC 9112, section 3.2.4: that is how a proxy is asked about the server as a whole.
        let whole = bare && request.method == Method::OPTIONS;
        let path = if whole {
            "*".to_owned()
        } else {
            normal.into_owned()
        };
        (Some(authority), path)
    } else {
        (None, normal.into_owned())
    };
    request.set_path(&normal).map_err(|_| Refusal::BadPath)?;
    if let Some(authority) = authority
        && !request.headers.contains(header::HOST)
    {
        request
            .insert_header(header::HOST, authority)
            .map_err(|_| Refusal::BadHost)?;
    }
    Ok(())
}

/// The host of a target in absolute form, and whether nothing stands behind it.
fn absolute_authority(target: &[u8]) -> Option<(HeaderValue, bool)> {
    let before = target.split(|byte| *byte == b'?').next()?;
    let uri: Uri = std::str::from_utf8(before).ok()?.parse().ok()?;
    let authority = uri.authority()?.as_str();
    let bare = target.len() == uri.scheme_str()?.len() + "://".len() + authority.len();
    Some((HeaderValue::from_str(authority).ok()?, bare))
}

/// The path by which a request is routed. What is asked of the server as a whole (`OPTIONS *`) goes
/// where its root does.
pub(crate) fn routed_path(request: &RequestHeader) -> &str {
    match request.uri.path() {
        "*" => "/",
        path => path,
    }
}

fn content_length(headers: &Fields) -> Option<u64> {
    headers
        .get(header::CONTENT_LENGTH)?
        .to_str()
        .ok()?
        .parse()
        .ok()
}

/// Where the same request leads over https.
pub(crate) fn https_location(request: &RequestHeader) -> Option<HeaderValue> {
    let name = normal_host(host(request)?).into_owned();
    if name.is_empty() {
        return None;
    }
    let path = request
        .uri
        .path_and_query()
        .map_or("/", http::uri::PathAndQuery::as_str);
    HeaderValue::try_from(format!("https://{name}{path}")).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_forwarded_as_they_are_matched() {
        use portolan_config::document::{DotSegments, EncodedSlash, RepeatedSlashes};
        let paths = PathsPlan {
            dot_segments: DotSegments::Resolve,
            repeated_slashes: RepeatedSlashes::Merge,
            encoded_slash: EncodedSlash::Refuse,
        };
        let normal = |method: &str, target: &str| {
            let mut request =
                RequestHeader::build(method, target.as_bytes(), 0).map_err(|_| Refusal::BadPath)?;
            normalise(&mut request, &paths)?;
            let raw = String::from_utf8(request.target().to_vec()).unwrap();
            let host = request
                .headers
                .get("host")
                .map(|host| host.to_str().unwrap().to_owned());
            Ok((raw, host))
        };
        for (method, target, forwarded, host) in [
            ("GET", "/a/../b?x=%zz&y=//", "/b?x=%zz&y=//", None),
            ("GET", "//a//b", "/a/b", None),
            ("GET", "/%61?%61", "/a?%61", None),
            (
                "GET",
                "http://h.example:1/a//b?c",
                "/a/b?c",
                Some("h.example:1"),
            ),
            ("GET", "http://h.example", "/", Some("h.example")),
            ("GET", "http://h.example?x", "/?x", Some("h.example")),
            ("OPTIONS", "*", "*", None),
            ("OPTIONS", "http://h.example", "*", Some("h.example")),
            ("OPTIONS", "http://h.example/", "/", Some("h.example")),
            (
                "OPTIONS",
                "http://h.example/h.example",
                "/h.example",
                Some("h.example"),
            ),
            ("OPTIONS", "http://h.example?x", "/?x", Some("h.example")),
            ("GET", "/a/./b?\"<`\\{|}^>\"", "/a/b?\"<`\\{|}^>\"", None),
            ("GET", "http://h.example//?<", "/?<", Some("h.example")),
            ("CONNECT", "a:1", "a:1", None),
        ] {
            let expected = Ok((forwarded.to_owned(), host.map(str::to_owned)));
            assert_eq!(normal(method, target), expected, "{target}");
        }
        for target in ["*", "/..", "/a%2fb", "/a%00", "/a\\b"] {
            assert_eq!(normal("GET", target), Err(Refusal::BadPath), "{target}");
        }
    }

    #[test]
    fn redirects_keep_host_path_and_query() {
        let to = |host: &str, path: &str| {
            let mut request = RequestHeader::build("GET", path.as_bytes(), 0).unwrap();
            request.insert_header("host", host).unwrap();
            https_location(&request).map(|to| to.to_str().unwrap().to_owned())
        };
        assert_eq!(
            to("API.example.com:80", "/a?b=c"),
            Some("https://api.example.com/a?b=c".into())
        );
        assert_eq!(to("", "/"), None);
    }
}
