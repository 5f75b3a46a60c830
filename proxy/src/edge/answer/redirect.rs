//! Routes that send clients elsewhere.

use http::HeaderValue;
use portolan_config::plan::RedirectPlan;

use crate::edge::affinity::is_secure;
use crate::edge::answer::reply::Reply;
use crate::http::head::RequestHeader;
use crate::http::host::host;
use crate::request::context::Served;

/// The answer that sends a client elsewhere; none if its request does not say from where.
pub(crate) fn reply(
    plan: &RedirectPlan,
    request: &RequestHeader,
    ctx: &Served<'_>,
) -> Option<Reply> {
    let scheme = if is_secure(request, ctx) {
        "https"
    } else {
        "http"
    };
    let asked = host(request).unwrap_or_default();
    // Another scheme has another port.
    let asked = match plan.scheme {
        Some(other) if other != scheme => without_port(asked),
        _ => asked,
    };
    if plan.host.is_none() && asked.is_empty() {
        return None;
    }
    let to = plan.location(scheme, asked, request.uri.path(), request.uri.query());
    let mut reply = Reply::redirect(HeaderValue::try_from(to).ok()?);
    reply.status = http::StatusCode::from_u16(plan.status).ok()?;
    reply.body = "It is elsewhere.\n".to_owned();
    reply.detail = "It is elsewhere.";
    reply.request_id = HeaderValue::from_str(&ctx.received.id).ok();
    Some(reply)
}

fn without_port(host: &str) -> &str {
    match host.rfind(':') {
        Some(colon) if !host[colon..].contains(']') => &host[..colon],
        _ => host,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_what_stands_behind_hosts() {
        assert_eq!(without_port("a:80"), "a");
        assert_eq!(without_port("a"), "a");
        assert_eq!(without_port("[::1]:80"), "[::1]");
        assert_eq!(without_port("[::1]"), "[::1]");
    }
}
