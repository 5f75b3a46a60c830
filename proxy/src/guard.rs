//! What must hold before a request is routed, and what is taken off an answer.

use http::header::{self, HeaderName};
use http::{HeaderValue, Method};
use pingora::http::{RequestHeader, ResponseHeader};
use portolan_config::plan::{LimitsPlan, normal_host};

use crate::context::ConnectionContext;
use crate::edge::host;
use crate::refusal::Refusal;

/// Headers that end at the next hop (RFC 9110, section 7.6.1), besides those the engine frames
/// messages with.
const HOP_BY_HOP: [HeaderName; 5] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    header::TRAILER,
    header::UPGRADE,
];

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
    // Over HTTP/1.1 the head was measured before the engine saw it; over HTTP/2 the number of
    // headers was not.
    if headers.len() > limits.headers {
        return Err(Refusal::HeadersTooLarge);
    }
    let host = host(request);
    if host.is_none() && request.version == http::Version::HTTP_11 {
        // RFC 9112, section 3.2.
        return Err(Refusal::Malformed);
    }
    if let (Some(limit), Some(length)) = (limits.body_bytes, content_length(headers))
        && length > limit
    {
        return Err(Refusal::BodyTooLarge);
    }
    if let Some(tls) = &connection.tls
        && let Some(host) = host
        && tls.store.choose(Some(&normal_host(host)), tls.able) != tls.certificate
    {
        return Err(Refusal::WrongCertificate);
    }
    Ok(())
}

fn content_length(headers: &http::HeaderMap) -> Option<u64> {
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

/// Takes off an answer what was meant for us alone: the hop-by-hop headers, and those that the
/// endpoint names in its Connection.
pub(crate) fn strip_hop_by_hop(response: &mut ResponseHeader) {
    let named: Vec<HeaderName> = response
        .headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|line| line.to_str().ok())
        .flat_map(|line| line.split(','))
        .filter_map(|name| name.trim().parse().ok())
        // Framing is the engine's, and these are nobody's to take off.
        .filter(|name| {
            !matches!(
                *name,
                header::TRANSFER_ENCODING | header::CONTENT_LENGTH | header::DATE
            )
        })
        .collect();
    for name in named.iter().chain(&HOP_BY_HOP) {
        response.remove_header(name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_endpoint_names_in_connection_ends_here() {
        let mut response = ResponseHeader::build(200, None).unwrap();
        for (name, value) in [
            ("connection", "keep-alive, X-Internal"),
            ("connection", "content-length"),
            ("x-internal", "secret"),
            ("keep-alive", "timeout=5"),
            ("content-length", "5"),
            ("x-other", "stays"),
        ] {
            response.append_header(name, value).unwrap();
        }
        strip_hop_by_hop(&mut response);
        let mut left: Vec<&str> = response.headers.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["content-length", "x-other"]);
    }

    #[test]
    fn redirects_keep_host_path_and_query() {
        let to = |host: &str, path: &str| {
            let mut request = RequestHeader::build("GET", path.as_bytes(), None).unwrap();
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
