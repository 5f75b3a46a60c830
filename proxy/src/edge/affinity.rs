//! Affinity, where requests come in and answers go out: what a request brings along, and the cookie
//! that it takes away.

use std::net::IpAddr;

use http::{HeaderValue, header};
use pingora::{Error, ErrorType, Result};
use portolan_config::plan::{AffinityPlan, RoutePlan};
use portolan_control::decision::affinity::{
    AffinitySecret, ClientAffinity, EndpointIndex, next_cookie,
};
use portolan_control::snapshot::Snapshot;

use crate::http::head::{RequestHeader, ResponseHeader};
use crate::request::context::{Admitted, Served};

/// What ties a request to where its client was before.
pub(crate) fn tie(
    keeper: &AffinitySecret,
    snapshot: &Snapshot,
    route: &RoutePlan,
    request: &RequestHeader,
    client: IpAddr,
) -> ClientAffinity {
    ClientAffinity::of(snapshot, route, &request.headers, Some(client), || {
        Some(keeper.secret())
    })
}

/// Gives the client the cookie that names who answered it, unless it has that one.
pub(crate) fn answer(
    keeper: &AffinitySecret,
    request: &RequestHeader,
    response: &mut ResponseHeader,
    ctx: &Served<'_>,
    admitted: &Admitted<'_>,
) -> Result<()> {
    let Some(current) = &ctx.current else {
        return Ok(());
    };
    if ctx.stand_in {
        // It has not left the place that it had.
        return Ok(());
    }
    let (snapshot, route) = (ctx.snapshot(), admitted.route);
    let Some(AffinityPlan::Cookie(name)) = &route.affinity else {
        return Ok(());
    };
    let served = EndpointIndex {
        pool: current.pool,
        endpoint: current.endpoint,
    };
    let secret = keeper.secret();
    let headers = &request.headers;
    let Some(value) = next_cookie(snapshot, route, headers, &admitted.tie, served, secret) else {
        return Ok(());
    };
    let secure = if is_secure(request, ctx) {
        "; Secure"
    } else {
        ""
    };
    let cookie = format!("{name}={value}; Path=/; HttpOnly; SameSite=Lax{secure}");
    let cookie = HeaderValue::try_from(cookie)
        .map_err(|_| Error::explain(ErrorType::InternalError, "a cookie's name is no text"))?;
    // Hedged those of the endpoint.
    response.append_header(header::SET_COOKIE, cookie)?;
    Ok(())
}

/// Whether the client speaks TLS: with us, or with a trusted proxy in front of us.
pub(crate) fn is_secure(request: &RequestHeader, ctx: &Served<'_>) -> bool {
    let here = ctx.received.connection.tls.is_some();
    let in_front = || {
        request
            .headers
            .get("x-forwarded-proto")
            .is_some_and(|proto| proto.as_bytes().eq_ignore_ascii_case(b"https"))
    };
    here || (ctx.received.peer_trusted && in_front())
}
