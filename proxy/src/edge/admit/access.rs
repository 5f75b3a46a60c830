//! Who may come, and how often: what is asked of a request before anybody decides where it goes.

use portolan_config::fields::Fields;
use portolan_config::plan::{Denied, RoutePlan};
use portolan_control::clock::Tick;
use portolan_control::decision::decide::{denied_words, route_access};
use portolan_control::refusal::Refusal;
use portolan_control::snapshot::Snapshot;

use crate::connection::context::ConnectionContext;
use crate::edge::admit::stop::Stop;
use crate::request::context::{Routed, Served};

/// Whether the listener is for this client.
///
/// # Errors
/// When it is not.
pub(crate) fn listener(
    connection: &ConnectionContext,
    snapshot: &Snapshot,
    ctx: &mut Served<'_>,
) -> Result<(), Stop> {
    let settings = connection.listener.settings();
    let Some(access) = &settings.plan.access else {
        return Ok(());
    };
    // By the places of its own configuration: a listener that is being left has an older one.
    let client = ctx.received.client;
    let (place, system) = match client {
        client if access.needs.place || access.needs.system => {
            let found = snapshot
                .locator
                .locate(client, access.needs, &access.locations);
            (found.place, found.system)
        }
        _ => Default::default(),
    };
    access
        .check(Some(client), place, system)
        .map_err(|denied| refused(ctx, "the listener", denied))
}

/// Whether the route is for this client.
///
/// # Errors
/// When it is not.
pub(crate) fn route(routed: Routed<'_>, ctx: &mut Served<'_>) -> Result<(), Stop> {
    route_access(routed.route, Some(ctx.received.client), &routed.found)
        .map_err(|denied| refused(ctx, "the route", denied))
}

fn refused(ctx: &mut Served<'_>, who: &str, denied: Denied<'_>) -> Stop {
    ctx.why = Some(denied_words(who, denied).into());
    Stop::Refused(Refusal::AccessDenied, None)
}

/// Takes a token of every limit of the route, in the order written: first of those that hold for
/// anybody, and of those that depend on who it is when that was proved. Those before the one that
/// refuses have given theirs.
///
/// # Errors
/// When there is none.
pub(crate) fn rate(
    route: &RoutePlan,
    headers: &Fields,
    ctx: &mut Served<'_>,
    proved: bool,
    now: Tick,
) -> Result<(), Stop> {
    let limiters = &ctx.snapshot().routes[route.id.index()].limits;
    let mut told = ctx.allowance.take();
    let mut stop = None;
    let claims = ctx.proved.as_ref().and_then(|it| it.claims.as_ref());
    let limits = route.rate_limits.iter().zip(limiters);
    for (plan, limiter) in limits.filter(|(plan, _)| plan.on.needs_proof() == proved) {
        let allowance = limiter.take(limiter.key(headers, claims, Some(ctx.received.client)), now);
        if plan.headers || allowance.refused {
            told.get_or_insert_default().add(plan, &allowance);
        }
        if allowance.refused {
            ctx.why = Some(format!("the rate limit `{}` of the route", plan.name).into());
            stop = Some(Stop::Refused(Refusal::RateLimited, Some(allowance.reset)));
            break;
        }
    }
    ctx.allowance = told;
    stop.map_or(Ok(()), Err)
}
