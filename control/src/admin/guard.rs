//! Who may use the API.
//!
//! With tokens: whoever has one, as far as its role goes. Without: whoever can reach the address,
//! which the checks only allow on loopback; a browser on the same machine can reach it too, so
//! requests that a foreign page could have sent are refused (their `Host` or `Origin` tells them
//! apart).

use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::{ConnectInfo, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::Next;
use axum::response::Response;
use portolan_config::document::Role;
use portolan_config::plan::AdminPlan;
use subtle::ConstantTimeEq as _;

use super::given;
use super::reply::Problem;
use crate::admin::listener::{Guest, Peer};
use crate::admin::state::AdminState;

/// Who changes something: the name of its token, or `local` where no tokens are needed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Caller(pub(super) Arc<str>);

/// What a request is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Purpose {
    Look,
    Change,
}

/// Lets a request through that only looks, or says why not.
pub(super) async fn look(
    State(state): State<AdminState>,
    request: Request,
    next: Next,
) -> Result<Response, Problem> {
    pass(&state, Purpose::Look, request, next).await
}

/// Lets a request through that changes something, or says why not.
pub(super) async fn change(
    State(state): State<AdminState>,
    request: Request,
    next: Next,
) -> Result<Response, Problem> {
    pass(&state, Purpose::Change, request, next).await
}

/// Metrics are open on loopback, to whoever asks this machine for them and not some name that leads
/// here; beyond, they need a token like everything else.
pub(super) async fn metrics(
    State(state): State<AdminState>,
    ConnectInfo(Peer(peer)): ConnectInfo<Peer>,
    request: Request,
    next: Next,
) -> Result<Response, Problem> {
    let host = text(request.headers(), header::HOST).unwrap_or_default();
    if peer.ip().to_canonical().is_loopback() && is_local(host) {
        return Ok(next.run(request).await);
    }
    pass(&state, Purpose::Look, request, next).await
}

async fn pass(
    state: &AdminState,
    purpose: Purpose,
    mut request: Request,
    next: Next,
) -> Result<Response, Problem> {
    let plan = state.reloader.running().plan.clone();
    let caller = allowed(&plan.admin, purpose, request.headers())?;
    request.extensions_mut().insert(caller);
    if let Some(guest) = request.extensions().get::<Arc<Guest>>() {
        guest.is_let_in();
    }
    Ok(next.run(given::whole(request).await?).await)
}

fn allowed(plan: &AdminPlan, purpose: Purpose, headers: &HeaderMap) -> Result<Caller, Problem> {
    if plan.tokens.is_empty() {
        return from_here(headers, purpose).map(|()| Caller("local".into()));
    }
    let Some(given) = bearer(headers) else {
        return Err(Problem::new(
            StatusCode::UNAUTHORIZED,
            "Token needed",
            "send `Authorization: Bearer TOKEN`",
        ));
    };
    // Every token is compared, in a time that does not tell what they have in common.
    let mut found = None;
    for token in &plan.tokens {
        if bool::from(token.token.expose().as_bytes().ct_eq(given.as_bytes())) {
            found = Some(token);
        }
    }
    match found {
        None => Err(Problem::new(
            StatusCode::UNAUTHORIZED,
            "Wrong token",
            "this token is not known",
        )),
        Some(token) if purpose == Purpose::Change && token.role == Role::Viewer => {
            Err(Problem::new(
                StatusCode::FORBIDDEN,
                "Not allowed",
                format!("`{}` may look, not change", token.name),
            ))
        }
        Some(token) => Ok(Caller(token.name.clone())),
    }
}

/// Refuses what a page of somebody else's could have made a browser send.
fn from_here(headers: &HeaderMap, purpose: Purpose) -> Result<(), Problem> {
    let refused = |detail: &str| Err(Problem::new(StatusCode::FORBIDDEN, "Not allowed", detail));
    let host = text(headers, header::HOST).unwrap_or_default();
    if !is_local(host) {
        return refused("the Host is not this machine; set `tokens` to use other names");
    }
    match text(headers, header::ORIGIN) {
        Some(origin) if purpose == Purpose::Change && origin.split("://").nth(1) != Some(host) => {
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

#[cfg(test)]
mod tests {
    use super::Purpose::{Change, Look};
    use super::*;
    use portolan_config::{Machine, check_text};

    fn plan(tokens: &str) -> AdminPlan {
        let text = format!(
            "admin: {{ tokens: [ {tokens} ] }}
listeners: [ {{ bind: '127.0.0.1:0' }} ]
pools: {{ p: {{ endpoints: [ '10.0.0.1:80' ] }} }}
routes: [ {{ to: p }} ]"
        );
        check_text("t", text, &Machine::default())
            .plan
            .unwrap()
            .admin
            .clone()
    }

    fn status(plan: &AdminPlan, purpose: Purpose, headers: &[(&'static str, &str)]) -> u16 {
        let headers = headers
            .iter()
            .map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()));
        let headers: HeaderMap = headers.collect();
        match allowed(plan, purpose, &headers) {
            Ok(_) => 200,
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
        let with = |token: &str, purpose| {
            status(
                &plan,
                purpose,
                &[("authorization", &format!("Bearer {token}"))],
            )
        };
        assert_eq!(with("viewer-viewer-viewer", Look), 200);
        assert_eq!(with("viewer-viewer-viewer", Change), 403);
        assert_eq!(with("operator-operator", Change), 200);
        assert_eq!(with("operator-operator-", Look), 401);
        assert_eq!(with("", Look), 401);
        assert_eq!(status(&plan, Look, &[]), 401);
        assert_eq!(status(&plan, Look, &[("authorization", "Basic abc")]), 401);
    }

    #[test]
    fn without_tokens_foreign_pages_are_refused() {
        let plan = plan("");
        assert_eq!(status(&plan, Change, &[("host", "127.0.0.1:9470")]), 200);
        assert_eq!(status(&plan, Look, &[("host", "[::1]:9470")]), 200);
        assert_eq!(status(&plan, Look, &[("host", "localhost")]), 200);
        assert_eq!(
            status(&plan, Look, &[("host", "rebound.example:9470")]),
            403
        );
        let here = ("host", "127.0.0.1:9470");
        assert_eq!(
            status(&plan, Change, &[here, ("origin", "https://evil.example")]),
            403
        );
        assert_eq!(
            status(&plan, Change, &[here, ("origin", "http://127.0.0.1:9470")]),
            200
        );
    }
}
