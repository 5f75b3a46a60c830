//! Requests that may go no further: TRACE and OPTIONS with `Max-Forwards: 0` are for whoever reads
//! that, and for nobody behind (RFC 9110, section 7.6.2).

use bytes::Bytes;
use http::header::HeaderName;
use http::{Method, StatusCode, header};
use pingora::Result;

use crate::downstream::Downstream;
use crate::edge::answer::reply::METHODS;
use crate::http::head::{RequestHeader, ResponseHeader};
use crate::http::host::host;
use crate::request::context::Served;

/// The headers that a client gets back. Cookies, credentials and whatever else nobody knows may be
/// secrets, which a script that can send this request must not get to read (RFC 9110, section 9.3.8);
/// these say which way the request came, and what is asked for.
static SHOWN: [HeaderName; 9] = [
    header::ACCEPT,
    header::ACCEPT_ENCODING,
    header::ACCEPT_LANGUAGE,
    header::CONNECTION,
    header::DATE,
    header::HOST,
    header::MAX_FORWARDS,
    header::USER_AGENT,
    header::VIA,
];

/// Answers it: with the request as it was received, or with what may be asked.
pub(crate) async fn answer(downstream: &mut Downstream, ctx: &Served<'_>) -> Result<()> {
    let request = downstream.request();
    let (status, body) = match request.method {
        Method::TRACE => (StatusCode::OK, shown(request)),
        _ => (StatusCode::NO_CONTENT, Bytes::new()),
    };
    let mut head = ResponseHeader::build(status, 6)?;
    if request.method == Method::TRACE {
        head.insert_header(header::CONTENT_TYPE, "message/http")?;
        head.insert_header(header::CONTENT_LENGTH, body.len())?;
        head.insert_header(header::CACHE_CONTROL, "no-store")?;
    } else {
        head.insert_header(header::ALLOW, METHODS)?;
    }
    head.insert_header(
        &crate::http::request_id::X_REQUEST_ID,
        ctx.received.id.as_str(),
    )?;
    downstream.answer(head, body).await
}

/// A request as it was received, without what may be a secret.
fn shown(request: &RequestHeader) -> Bytes {
    let mut out = Vec::with_capacity(256);
    out.extend_from_slice(request.method.as_str().as_bytes());
    out.push(b' ');
    out.extend_from_slice(request.target());
    out.extend_from_slice(b" HTTP/1.1\r\n");
    let mut line = |name: &str, value: &[u8]| {
        out.extend_from_slice(name.as_bytes());
        out.extend_from_slice(b": ");
        out.extend_from_slice(value);
        out.extend_from_slice(b"\r\n");
    };
    // Over HTTP/2 it stands elsewhere.
    if !request.headers.contains(header::HOST)
        && let Some(host) = host(request)
    {
        line("host", host.as_bytes());
    }
    for (name, value) in &request.headers {
        if SHOWN.contains(name) {
            line(name.as_str(), value.as_bytes());
        }
    }
    out.extend_from_slice(b"\r\n");
    out.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_be_a_secret_is_not_shown() {
        let mut request = RequestHeader::build("TRACE", b"/a?b", 0).unwrap();
        for (name, value) in [
            ("host", "x.example"),
            ("cookie", "session=secret"),
            ("authorization", "Bearer secret"),
            ("x-api-key", "secret"),
            ("max-forwards", "0"),
            ("via", "1.1 outer"),
        ] {
            request.append_header(name, value).unwrap();
        }
        let text =
            "TRACE /a?b HTTP/1.1\r\nhost: x.example\r\nmax-forwards: 0\r\nvia: 1.1 outer\r\n\r\n";
        assert_eq!(shown(&request), text);
    }
}
