//! What browsers are told: to use https alone (HSTS), to be careful, and which other sites may ask
//! (CORS).

use http::header::HeaderName;
use http::{HeaderValue, Method, StatusCode, header};
use pingora::Result;
use portolan_config::plan::{BrowserPlan, CorsPlan, RequestHead, RoutePlan};
use portolan_control::snapshot::Snapshot;
use smallvec::SmallVec;

use crate::edge::affinity::is_secure;
use crate::http::head::{RequestHeader, ResponseHeader};
use crate::request::context::Served;

/// What CORS says in answers: of a route that has rules of its own, endpoints say none of it.
static CORS: [HeaderName; 6] = [
    header::ACCESS_CONTROL_ALLOW_ORIGIN,
    header::ACCESS_CONTROL_ALLOW_CREDENTIALS,
    header::ACCESS_CONTROL_ALLOW_METHODS,
    header::ACCESS_CONTROL_ALLOW_HEADERS,
    header::ACCESS_CONTROL_EXPOSE_HEADERS,
    header::ACCESS_CONTROL_MAX_AGE,
];

/// Headers of an answer.
pub(crate) type Fields = SmallVec<[(HeaderName, HeaderValue); 2]>;

/// The method that a preflight asks for, if a request is one.
fn preflight(request: &RequestHeader) -> Option<Method> {
    if request.method != Method::OPTIONS || !request.headers.contains(header::ORIGIN) {
        return None;
    }
    let asked = request.headers.get(header::ACCESS_CONTROL_REQUEST_METHOD)?;
    Method::from_bytes(asked.as_bytes()).ok()
}

/// The route that a preflight is about and that answers it here, and what it answers: the one of the
/// request that the preflight asks for.
pub(crate) fn preflight_route<'a>(
    snapshot: &'a Snapshot,
    head: &RequestHead<'_>,
    request: &RequestHeader,
) -> Option<(&'a RoutePlan, &'a CorsPlan)> {
    let method = preflight(request)?;
    let asked = RequestHead {
        host: head.host,
        path: head.path,
        method: &method,
        headers: head.headers,
    };
    let route = snapshot.route(&asked)?;
    Some((route, route.browser.cors.as_ref()?))
}

/// The answer to a preflight.
pub(crate) fn answer(cors: &CorsPlan, request: &RequestHeader) -> Result<ResponseHeader> {
    let mut head = ResponseHeader::build(StatusCode::NO_CONTENT, 8)?;
    head.insert_header(header::CACHE_CONTROL, "no-store")?;
    for name in [
        header::ORIGIN,
        header::ACCESS_CONTROL_REQUEST_METHOD,
        header::ACCESS_CONTROL_REQUEST_HEADERS,
    ] {
        head.append_header(header::VARY, name.as_str())?;
    }
    // A site that may not ask is told nothing, and its browser keeps the request to itself.
    let Some(allowed) = request
        .headers
        .get(header::ORIGIN)
        .and_then(|origin| cors.allowed(origin))
    else {
        return Ok(head);
    };
    head.insert_header(header::ACCESS_CONTROL_ALLOW_ORIGIN, allowed)?;
    head.insert_header(header::ACCESS_CONTROL_ALLOW_METHODS, cors.methods.clone())?;
    if let Some(headers) = &cors.headers {
        head.insert_header(header::ACCESS_CONTROL_ALLOW_HEADERS, headers.clone())?;
    }
    if cors.credentials {
        head.insert_header(header::ACCESS_CONTROL_ALLOW_CREDENTIALS, "true")?;
    }
    head.insert_header(header::ACCESS_CONTROL_MAX_AGE, cors.max_age.clone())?;
    Ok(head)
}

/// What an answer of Portolan's own says to browsers.
pub(crate) fn own(plan: &BrowserPlan, request: &RequestHeader, ctx: &Served<'_>) -> Fields {
    let mut fields = plan.security.iter().cloned().collect::<Fields>();
    always(plan, request, ctx, &mut fields);
    fields
}

/// What holds for every answer, whoever gives it.
fn always(plan: &BrowserPlan, request: &RequestHeader, ctx: &Served<'_>, fields: &mut Fields) {
    if let Some(hsts) = &plan.hsts
        && is_secure(request, ctx)
    {
        fields.push((header::STRICT_TRANSPORT_SECURITY, hsts.clone()));
    }
    let Some(cors) = &plan.cors else {
        return;
    };
    if cors.varies() {
        fields.push((header::VARY, HeaderValue::from_static("origin")));
    }
    let origin = request.headers.get(header::ORIGIN);
    if let Some(allowed) = origin.and_then(|origin| cors.allowed(origin)) {
        fields.push((header::ACCESS_CONTROL_ALLOW_ORIGIN, allowed));
        if cors.credentials {
            let yes = HeaderValue::from_static("true");
            fields.push((header::ACCESS_CONTROL_ALLOW_CREDENTIALS, yes));
        }
        if let Some(expose) = &cors.expose {
            fields.push((header::ACCESS_CONTROL_EXPOSE_HEADERS, expose.clone()));
        }
    }
}

/// Says it in an endpoint's answer.
pub(crate) fn edit(
    plan: &BrowserPlan,
    request: &RequestHeader,
    response: &mut ResponseHeader,
    ctx: &Served<'_>,
) -> Result<()> {
    for (name, value) in &plan.security {
        if plan.overwrite || !response.headers.contains(name) {
            response.insert_header(name.clone(), value.clone())?;
        }
    }
    if plan.cors.is_some() {
        for name in &CORS {
            response.remove_header(name);
        }
    }
    let mut fields = Fields::new();
    always(plan, request, ctx, &mut fields);
    if plan.hsts.is_some() {
        // Over plain text it means nothing, and browsers ignore it.
        response.remove_header(&header::STRICT_TRANSPORT_SECURITY);
    }
    for (name, value) in fields {
        if name == header::VARY {
            response.append_header(name, value)?;
        } else {
            response.insert_header(name, value)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn preflights_are_known_by_what_they_ask() {
        let request = |method: &str, fields: &[(&'static str, &str)]| {
            let mut request = RequestHeader::build(method, b"/", 0).unwrap();
            for (name, value) in fields {
                request.append_header(*name, *value).unwrap();
            }
            preflight(&request)
        };
        let origin = ("origin", "https://app.example.com");
        let asks = ("access-control-request-method", "PUT");
        assert_eq!(request("OPTIONS", &[origin, asks]), Some(Method::PUT));
        assert_eq!(request("OPTIONS", &[origin]), None);
        assert_eq!(request("OPTIONS", &[asks]), None);
        assert_eq!(request("GET", &[origin, asks]), None);
        let odd = ("access-control-request-method", "P T");
        assert_eq!(request("OPTIONS", &[origin, odd]), None);
    }
}
