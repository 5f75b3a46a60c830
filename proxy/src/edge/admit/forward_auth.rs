//! A service that says who may pass: what it is asked, and what its answer means.

use http::header::HeaderName;
use http::{HeaderValue, StatusCode, header};
use pingora::Result;
use portolan_config::document::HeaderCase;
use portolan_config::plan::ForwardAuthPlan;
use portolan_control::auth::forward_auth::{Authority, Ruling};
use portolan_control::refusal::Refusal;

use crate::edge::admit::stop::Stop;
use crate::edge::answer::denial::Denial;
use crate::http::field_names::is_alike;
use crate::http::head::RequestHeader;
use crate::http::hop_by_hop::EndsHere;
use crate::http::host::host;
use crate::random::fastrand_scope;
use crate::request::context::Served;
use crate::request::proof::Proved;
use crate::upstream::exchange::ask::{ServiceAnswer, ask};
use crate::upstream::exchange_context::ExchangeContext;
use crate::upstream::forward;
use crate::upstream::forward::Origin;

const METHOD: HeaderName = HeaderName::from_static("x-forwarded-method");
const URI: HeaderName = HeaderName::from_static("x-forwarded-uri");

/// What Portolan says itself about where a request comes from. A peer that is trusted may have said
/// something before.
static FROM: [HeaderName; 4] = [
    header::FORWARDED,
    HeaderName::from_static("x-forwarded-for"),
    HeaderName::from_static("x-forwarded-host"),
    HeaderName::from_static("x-forwarded-proto"),
];

/// What is about the body, about parts of the answer or about older answers: none of it is asked for.
static NOT_ASKED: [HeaderName; 11] = [
    header::CONTENT_LENGTH,
    header::CONTENT_ENCODING,
    header::CONTENT_TYPE,
    header::HOST,
    header::RANGE,
    header::IF_MATCH,
    header::IF_MODIFIED_SINCE,
    header::IF_NONE_MATCH,
    header::IF_RANGE,
    header::IF_UNMODIFIED_SINCE,
    header::TRAILER,
];

/// Asks whether a request may pass.
///
/// # Errors
/// When it may not.
pub(crate) async fn check(
    with: &ExchangeContext,
    authority: &Authority,
    request: &RequestHeader,
    ctx: &mut Served<'_>,
) -> Result<Proved, Stop> {
    let plan = &authority.plan;
    let Some(_room) = authority.room() else {
        // Even if it may fail open: nobody is to open it by coming in numbers.
        authority.ruled(Ruling::Busy);
        ctx.why = Some("too many questions to the authorization service are under way".into());
        return Err(Stop::Refused(Refusal::AuthBusy, None));
    };
    let Ok(question) = question(request, plan, ctx) else {
        return Err(Stop::Refused(Refusal::Malformed, None));
    };
    let told = ask(with, ctx, plan.pool, question, plan.timeout, plan.max_body).await;
    let why = match told {
        Ok(told) if told.head.status.is_success() => {
            authority.ruled(Ruling::Allowed);
            return Ok(Proved {
                told: copied(&told, plan),
                ..Proved::default()
            });
        }
        Ok(told) if is_ruling(told.head.status) => {
            authority.ruled(Ruling::Denied);
            let status = told.head.status;
            ctx.why = Some(format!("the authorization service says {}", status.as_u16()).into());
            return Err(Stop::Denied(Box::new(Denial::new(told))));
        }
        Ok(told) => format!("it answered with {}", told.head.status.as_u16()),
        Err(why) => why.to_owned(),
    };
    if plan.fail_open {
        authority.ruled(Ruling::FailedOpen);
        return Ok(Proved::default());
    }
    authority.ruled(Ruling::Failed);
    ctx.why = Some(format!("no word of the authorization service: {why}").into());
    Err(Stop::Refused(Refusal::AuthUnavailable, None))
}

/// Whether an answer says something about the request, and not about the service itself.
fn is_ruling(status: StatusCode) -> bool {
    (status.is_redirection() && status != StatusCode::NOT_MODIFIED) || status.is_client_error()
}

/// What endpoints are told of an answer.
fn copied(told: &ServiceAnswer, plan: &ForwardAuthPlan) -> Vec<(HeaderName, HeaderValue)> {
    let names = plan.copy_headers.iter();
    names
        .flat_map(|name| {
            let values = told.head.headers.get_all(name);
            values.map(|value| (name.clone(), value.clone()))
        })
        .collect()
}

/// The question about a request.
fn question(
    request: &RequestHeader,
    plan: &ForwardAuthPlan,
    ctx: &Served<'_>,
) -> Result<RequestHeader> {
    let mut question = RequestHeader::build("GET", plan.path.as_bytes(), 24)?;
    let ends_here = EndsHere::of(request)?;
    for (name, value) in &request.headers {
        let from = FROM.contains(name);
        let sent = match &plan.send_headers {
            Some(wanted) => from || wanted.contains(name),
            None => true,
        };
        // Nobody is to say in our name what is asked for, in whatever way the service reads it.
        let ours = is_alike(name, &METHOD)
            || is_alike(name, &URI)
            || (!from && FROM.iter().any(|ours| is_alike(name, ours)));
        if sent && !ours && !NOT_ASKED.contains(name) && !ends_here.contains(name) {
            question.append_header(name.clone(), value.clone())?;
        }
    }
    question.insert_header(METHOD, request.method.as_str())?;
    question.insert_header(URI, request.target())?;
    if let Some(host) = host(request) {
        question.insert_header(header::HOST, host)?;
    }
    if ctx.snapshot().plan.header_case == HeaderCase::Lower {
        question.headers.write_lower();
    }
    let connection = &ctx.received.connection;
    let origin = Origin {
        peer_text: &connection.peer_text,
        trusted: ctx.received.peer_trusted,
        tls: connection.tls.is_some(),
        agreed: connection.tls.as_ref(),
        host: host(request).unwrap_or_default(),
        id: &ctx.received.id,
        version: request.version,
    };
    let pool = &ctx.snapshot().plan.pools[plan.pool.index()];
    fastrand_scope(|random| forward::to_authority(&mut question, &origin, pool, random))?;
    Ok(question)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_about_the_request_is_a_ruling() {
        for (status, ruling) in [
            (302, true),
            (304, false),
            (400, true),
            (401, true),
            (403, true),
            (429, true),
            (500, false),
            (503, false),
        ] {
            let status = StatusCode::from_u16(status).unwrap();
            assert_eq!(is_ruling(status), ruling, "{status}");
        }
    }
}
