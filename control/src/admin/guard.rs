//! Who may use the API.
//!
//! With tokens: whoever has one, as far as its role goes. Without: whoever can reach the address,
//! which the checks only allow on loopback; a browser on the same machine can reach it too, so
//! requests that a foreign page could have sent are refused (their `Host` or `Origin` tells them
//! apart).

use std::net::{IpAddr, SocketAddr};

use axum::extract::{ConnectInfo, Request, State};
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::Response;
use portolan_config::document::Role;
use portolan_config::plan::AdminPlan;

use super::AdminState;
use super::reply::Problem;

/// Lets a request of the API through, or says why not.
pub(super) async fn api(
    State(state): State<AdminState>,
    request: Request,
    next: Next,
) -> Result<Response, Problem> {
    let plan = state.reloader.running().plan.clone();
    allowed(&plan.admin, request.method(), request.headers())?;
    Ok(next.run(request).await)
}

/// Metrics are open on loopback; beyond, they need a token like everything else.
pub(super) async fn metrics(
    State(state): State<AdminState>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    request: Request,
    next: Next,
) -> Result<Response, Problem> {
    if !peer.ip().to_canonical().is_loopback() {
        let plan = state.reloader.running().plan.clone();
        allowed(&plan.admin, request.method(), request.headers())?;
    }
    Ok(next.run(request).await)
}

fn allowed(plan: &AdminPlan, method: &Method, headers: &HeaderMap) -> Result<(), Problem> {
    let changes = !matches!(*method, Method::GET | Method::HEAD);
    if plan.tokens.is_empty() {
        return from_here(headers, changes);
    }
    let Some(given) = bearer(headers) else {
        return Err(Problem::new(
            StatusCode::UNAUTHORIZED,
            "Token needed",
            "send `Authorization: Bearer TOKEN`",
        ));
    };
    // Every token is compared, in the same time whatever they have in common.
    let mut found = None;
    for token in &plan.tokens {
        if same(token.token.expose().as_bytes(), given.as_bytes()) {
            found = Some(token);
        }
    }
    match found {
        None => Err(Problem::new(
            StatusCode::UNAUTHORIZED,
            "Wrong token",
            "this token is not known",
        )),
        Some(token) if changes && token.role == Role::Viewer => Err(Problem::new(
            StatusCode::FORBIDDEN,
            "Not allowed",
            format!("`{}` may look, not change", token.name),
        )),
        Some(_) => Ok(()),
    }
}

/// Refuses what a page of somebody else's could have made a browser send.
fn from_here(headers: &HeaderMap, changes: bool) -> Result<(), Problem> {
    let refused = |detail: &str| Err(Problem::new(StatusCode::FORBIDDEN, "Not allowed", detail));
    let host = text(headers, header::HOST).unwrap_or_default();
    if !is_local(host) {
        return refused("the Host is not this machine; set `tokens` to use other names");
    }
    match text(headers, header::ORIGIN) {
        Some(origin) if changes && origin.split("://").nth(1) != Some(host) => {
            refused("the request comes from another site")
        }
        _ => Ok(()),
    }
}

/// Whether a Host names this machine: an address, or `localhost`. A name that an attacker owns can
/// be made to lead here, an address cannot.
fn is_local(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    name.eq_ignore_ascii_case("localhost") || name.parse::<IpAddr>().is_ok()
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = text(headers, header::AUTHORIZATION)?;
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

fn text(headers: &HeaderMap, name: header::HeaderName) -> Option<&str> {
    headers.get(name)?.to_str().ok()
}

/// Whether two texts are the same, in a time that depends on the given one's length alone.
fn same(secret: &[u8], given: &[u8]) -> bool {
    let mut differs = u8::from(secret.len() != given.len());
    for (at, byte) in given.iter().enumerate() {
        differs |= byte ^ secret.get(at % secret.len().max(1)).copied().unwrap_or(0);
    }
    differs == 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use portolan_config::{Machine, check_text};

    fn plan(tokens: &str) -> AdminPlan {
        let text = format!("admin: {{ tokens: [ {tokens} ] }}");
        check_text("t", text, &Machine::default())
            .plan
            .unwrap()
            .admin
            .clone()
    }

    fn status(plan: &AdminPlan, method: &str, headers: &[(&'static str, &str)]) -> u16 {
        let headers = headers
            .iter()
            .map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()));
        let headers: HeaderMap = headers.collect();
        match allowed(plan, &method.parse().unwrap(), &headers) {
            Ok(()) => 200,
            Err(problem) => {
                use axum::response::IntoResponse as _;
                problem.into_response().status().as_u16()
            }
        }
    }

    #[test]
    fn tokens_open_what_their_role_allows() {
        let plan = plan(
            "{ name: a, role: viewer, token: viewer-viewer-viewer }, { name: b, role: operator, token: operator-operator }",
        );
        let with = |token: &str, method: &str| {
            status(
                &plan,
                method,
                &[("authorization", &format!("Bearer {token}"))],
            )
        };
        assert_eq!(with("viewer-viewer-viewer", "GET"), 200);
        assert_eq!(with("viewer-viewer-viewer", "POST"), 403);
        assert_eq!(with("operator-operator", "POST"), 200);
        assert_eq!(with("operator-operator-", "GET"), 401);
        assert_eq!(with("", "GET"), 401);
        assert_eq!(status(&plan, "GET", &[]), 401);
        assert_eq!(status(&plan, "GET", &[("authorization", "Basic abc")]), 401);
    }

    #[test]
    fn without_tokens_foreign_pages_are_refused() {
        let plan = plan("");
        assert_eq!(status(&plan, "POST", &[("host", "127.0.0.1:9470")]), 200);
        assert_eq!(status(&plan, "GET", &[("host", "[::1]:9470")]), 200);
        assert_eq!(status(&plan, "GET", &[("host", "localhost")]), 200);
        assert_eq!(
            status(&plan, "GET", &[("host", "rebound.example:9470")]),
            403
        );
        let here = ("host", "127.0.0.1:9470");
        assert_eq!(
            status(&plan, "POST", &[here, ("origin", "https://evil.example")]),
            403
        );
        assert_eq!(
            status(&plan, "POST", &[here, ("origin", "http://127.0.0.1:9470")]),
            200
        );
    }
}
