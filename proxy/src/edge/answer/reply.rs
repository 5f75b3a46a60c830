//! Answers of Portolan's own: problem+json (RFC 9457), or plain text for those who do not take
//! JSON; over gRPC in its own words (see [`grpc`]).

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{HeaderName, HeaderValue, StatusCode, header};
use portolan_config::fields::Fields;
use portolan_control::refusal::{Refusal, grpc_status};
use smallvec::SmallVec;

use crate::downstream::Downstream;
use crate::http::grpc;
use crate::http::head::ResponseHeader;
use crate::http::http1::write;

/// An answer, ready to be written.
#[derive(Debug)]
pub(crate) struct Reply {
    /// Its status.
    pub(crate) status: StatusCode,
    /// Its body's type.
    pub(crate) content_type: &'static str,
    /// Its body.
    pub(crate) body: String,
    /// What it says, for those who get no body.
    pub(crate) detail: &'static str,
    /// For X-Request-Id, so that whoever complains can say what about.
    pub(crate) request_id: Option<HeaderValue>,
    /// Seconds for Retry-After.
    pub(crate) retry_after: Option<u64>,
    /// For Location.
    pub(crate) location: Option<HeaderValue>,
    /// For Allow.
    pub(crate) allow: Option<&'static str>,
    /// Whatever else it has to say.
    pub(crate) more: SmallVec<[(HeaderName, HeaderValue); 2]>,
}

/// The methods that are passed on; others of the kind of TRACE are, too.
pub(crate) const METHODS: &str = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS";

impl Reply {
    /// The answer to a request that is not passed on.
    pub(crate) fn refusal(
        refusal: Refusal,
        request_id: &str,
        accept: Option<&Fields>,
        retry_after: Option<Duration>,
    ) -> Self {
        let status = refusal.status();
        let title = status.canonical_reason().unwrap_or("Error");
        let (content_type, body) = if accept.is_none_or(takes_json) {
            let body = serde_json::json!({
                "type": "about:blank",
                "title": title,
                "status": status.as_u16(),
                "detail": refusal.detail(),
                "request_id": request_id,
            });
            ("application/problem+json", format!("{body}\n"))
        } else {
            let code = status.as_u16();
            let text = format!(
                "{code} {title}\n{}\nrequest id: {request_id}\n",
                refusal.detail()
            );
            ("text/plain; charset=utf-8", text)
        };
        let retry_after = refusal
            .retry_after(retry_after)
            .map(|after| after.as_secs_f64().ceil().max(1.0) as u64);
        Self {
            status,
            content_type,
            body,
            detail: refusal.detail(),
            request_id: HeaderValue::from_str(request_id).ok(),
            retry_after,
            location: None,
            allow: (status == StatusCode::METHOD_NOT_ALLOWED).then_some(METHODS),
            more: SmallVec::new(),
        }
    }

    /// A redirect for good, with the method kept (308).
    pub(crate) fn redirect(to: HeaderValue) -> Self {
        Self {
            status: StatusCode::PERMANENT_REDIRECT,
            content_type: "text/plain; charset=utf-8",
            body: "Use https.\n".to_owned(),
            detail: "Use https.",
            request_id: None,
            retry_after: None,
            location: Some(to),
            allow: None,
            more: SmallVec::new(),
        }
    }

    /// The answer to plain HTTP where TLS is spoken.
    pub(crate) fn plain_http() -> Self {
        let detail = "The request came as plain HTTP to a port that speaks HTTPS.";
        let body = serde_json::json!({
            "type": "about:blank",
            "title": "Bad Request",
            "status": 400,
            "detail": detail,
        });
        Self {
            status: StatusCode::BAD_REQUEST,
            content_type: "application/problem+json",
            body: format!("{body}\n"),
            detail,
            request_id: None,
            retry_after: None,
            location: None,
            allow: None,
            more: SmallVec::new(),
        }
    }

    /// The answer to a certificate authority that looks whether a name is ours (RFC 8555, section
    /// 8.3).
    pub(crate) fn challenge(answer: &str) -> Self {
        Self {
            status: StatusCode::OK,
            content_type: "application/octet-stream",
            body: answer.to_owned(),
            detail: "",
            request_id: None,
            retry_after: None,
            location: None,
            allow: None,
            more: SmallVec::new(),
        }
    }

    /// Writes it. `close`: nothing more is read from this client.
    pub(crate) async fn write(
        self,
        downstream: &mut Downstream,
        close: bool,
    ) -> pingora::Result<()> {
        if let Some(code) = grpc_status(self.status)
            && grpc::is_call(downstream.request())
        {
            let mut head = grpc::answer(code, self.detail, self.retry_after)?;
            if let Some(request_id) = self.request_id {
                head.insert_header(&crate::http::request_id::X_REQUEST_ID, request_id)?;
            }
            for (name, value) in self.more {
                head.append_header(name, value)?;
            }
            return downstream.answer(head, Bytes::new()).await;
        }
        let mut head = ResponseHeader::build(self.status, 6)?;
        head.insert_header(header::CONTENT_TYPE, self.content_type)?;
        head.insert_header(header::CONTENT_LENGTH, self.body.len())?;
        head.insert_header(header::CACHE_CONTROL, "no-store")?;
        if let Some(request_id) = self.request_id {
            head.insert_header(&crate::http::request_id::X_REQUEST_ID, request_id)?;
        }
        if let Some(seconds) = self.retry_after {
            head.insert_header(header::RETRY_AFTER, seconds)?;
        }
        if let Some(location) = self.location {
            head.insert_header(header::LOCATION, location)?;
        }
        if let Some(allow) = self.allow {
            head.insert_header(header::ALLOW, allow)?;
        }
        for (name, value) in self.more {
            head.append_header(name, value)?;
        }
        if close {
            downstream.close_after();
        }
        downstream.answer(head, self.body.into()).await
    }

    /// The bytes of it as HTTP/1.1, for connections whose request never got as far as that. `lower`:
    /// names of headers in small letters.
    pub(crate) fn to_http1(&self, lower: bool) -> Vec<u8> {
        let mut out = BytesMut::with_capacity(256 + self.body.len());
        let head = ResponseHeader::build(self.status, 0);
        if let Ok(head) = &head {
            write::answer(&mut out, head, lower);
        }
        let length = self.body.len().to_string();
        for (name, value) in [
            (header::CONTENT_TYPE, self.content_type),
            (header::CONTENT_LENGTH, &length),
            (header::CACHE_CONTROL, "no-store"),
            (header::CONNECTION, "close"),
        ] {
            write::field(&mut out, &name, value.as_bytes(), lower);
        }
        write::end(&mut out);
        out.extend_from_slice(self.body.as_bytes());
        out.into()
    }
}

/// Whether a client takes JSON: it says so, or says nothing, or takes anything.
fn takes_json(headers: &Fields) -> bool {
    let mut lines = headers.get_all(header::ACCEPT).peekable();
    if lines.peek().is_none() {
        return true;
    }
    lines
        .filter_map(|line| line.to_str().ok())
        .flat_map(|line| line.split(','))
        .any(|range| {
            let mut parts = range.split(';').map(str::trim);
            let kind = parts.next().unwrap_or_default().to_ascii_lowercase();
            let refused = parts.any(|part| matches!(part, "q=0" | "q=0.0" | "q=0.00" | "q=0.000"));
            !refused
                && (matches!(kind.as_str(), "*/*" | "application/*" | "application/json")
                    || kind.ends_with("+json"))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(accept: &str) -> Reply {
        let mut headers = Fields::new();
        if !accept.is_empty() {
            headers.insert(header::ACCEPT, accept.parse().unwrap());
        }
        Reply::refusal(Refusal::NobodyCanServe, "r-1", Some(&headers), None)
    }

    #[test]
    fn problems_are_json_unless_the_client_does_not_take_it() {
        for accept in [
            "",
            "*/*",
            "application/json",
            "text/html, */*;q=0.1",
            "application/vnd.api+json",
        ] {
            assert_eq!(
                reply(accept).content_type,
                "application/problem+json",
                "{accept}"
            );
        }
        for accept in ["text/html", "text/plain, application/json;q=0", "image/png"] {
            assert!(
                reply(accept).content_type.starts_with("text/plain"),
                "{accept}"
            );
        }
        let json: serde_json::Value = serde_json::from_str(&reply("").body).unwrap();
        assert_eq!(json["status"], 503);
        assert_eq!(json["request_id"], "r-1");
        assert_eq!(reply("").retry_after, Some(5));
    }

    #[test]
    fn retry_after_is_whole_seconds_and_at_least_one() {
        let after = |ms| {
            let wait = Some(Duration::from_millis(ms));
            Reply::refusal(Refusal::AllDown(500), "r", None, wait).retry_after
        };
        assert_eq!(after(10), Some(1));
        assert_eq!(after(1_500), Some(2));
        assert_eq!(
            Reply::refusal(Refusal::NoRoute, "r", None, None).retry_after,
            None
        );
    }
}
