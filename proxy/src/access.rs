//! Who may come, and how often: what is asked of a request before anybody decides where it goes.

use std::fmt::Write as _;
use std::time::Duration;

use http::{HeaderName, HeaderValue};
use portolan_config::fields::Fields;
use portolan_config::plan::{Denied, RateLimitPlan, RoutePlan};
use portolan_control::auth::rate_limit::Allowance;
use portolan_control::clock::Tick;
use portolan_control::decision::decide::{denied_words, route_access};
use portolan_control::snapshot::Snapshot;

use crate::context::{ConnectionContext, RequestContext};
use crate::edge::Stop;
use crate::refusal::Refusal;

/// What is left of limits: a list of strings, each with `r` (requests that are left) and `t` (seconds),
/// as in draft-ietf-httpapi-ratelimit-headers-11, section 4.
const RATELIMIT: HeaderName = HeaderName::from_static("ratelimit");

/// What the limits are: a list of strings, each with `q` (requests) and, if it is whole seconds, `w` (the
/// time they are for), as in section 3 there.
const RATELIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");

/// Whether the listener is for this client.
///
/// # Errors
/// When it is not.
pub(crate) fn listener(
    connection: &ConnectionContext,
    snapshot: &Snapshot,
    ctx: &mut RequestContext,
) -> Result<(), Stop> {
    let settings = connection.listener.settings();
    let Some(access) = &settings.plan.access else {
        return Ok(());
    };
    // By the places of its own configuration: a listener that is being left has an older one.
    let (place, system) = match ctx.client {
        Some(client) if access.needs.place || access.needs.system => {
            let found = snapshot
                .locator
                .locate(client, access.needs, &access.locations);
            (found.place, found.system)
        }
        _ => Default::default(),
    };
    access
        .check(ctx.client, place, system)
        .map_err(|denied| refused(ctx, "the listener", denied))
}

/// Whether the route is for this client.
///
/// # Errors
/// When it is not.
pub(crate) fn route(route: &RoutePlan, ctx: &mut RequestContext) -> Result<(), Stop> {
    route_access(route, ctx.client, &ctx.found).map_err(|denied| refused(ctx, "the route", denied))
}

fn refused(ctx: &mut RequestContext, who: &str, denied: Denied<'_>) -> Stop {
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
    snapshot: &Snapshot,
    route: &RoutePlan,
    headers: &Fields,
    ctx: &mut RequestContext,
    proved: bool,
    now: Tick,
) -> Result<(), Stop> {
    let limiters = &snapshot.routes[route.id.index()].limits;
    let mut told = ctx.allowance.take();
    let mut stop = None;
    let claims = ctx.proved.as_ref().and_then(|it| it.claims.as_ref());
    let limits = route.rate_limits.iter().zip(limiters);
    for (plan, limiter) in limits.filter(|(plan, _)| plan.on.needs_proof() == proved) {
        let allowance = limiter.take(limiter.key(headers, claims, ctx.client), now);
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

/// What limits tell a client.
#[derive(Debug, Default)]
pub(crate) struct Told {
    limits: String,
    policies: String,
}

impl Told {
    fn add(&mut self, plan: &RateLimitPlan, allowance: &Allowance) {
        if !self.limits.is_empty() {
            self.limits.push_str(", ");
            self.policies.push_str(", ");
        }
        // Writing to a string cannot fail.
        let _ = write!(
            self.limits,
            "\"{}\";r={};t={}",
            plan.name,
            allowance.left,
            seconds(allowance.reset)
        );
        let _ = write!(self.policies, "\"{}\";q={}", plan.name, plan.requests);
        // Whole seconds are all that the field can say.
        if plan.per.subsec_nanos() == 0 {
            let _ = write!(self.policies, ";w={}", plan.per.as_secs());
        }
    }

    /// The fields that say it.
    pub(crate) fn fields(&self) -> impl Iterator<Item = (HeaderName, HeaderValue)> {
        [
            (RATELIMIT, &self.limits),
            (RATELIMIT_POLICY, &self.policies),
        ]
        .into_iter()
        .filter_map(|(name, value)| Some((name, HeaderValue::from_str(value).ok()?)))
    }
}

/// Whole seconds, rounded up.
fn seconds(time: Duration) -> u64 {
    time.as_secs() + u64::from(time.subsec_nanos() > 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use portolan_config::plan::LimitKeyPlan;

    #[test]
    fn limits_are_told_in_the_words_of_the_draft() {
        let plan = |name: &str, per| RateLimitPlan {
            name: name.into(),
            requests: 100,
            per,
            burst: 50,
            on: LimitKeyPlan::ClientIp,
            headers: true,
            clients: 64,
        };
        let allowance = Allowance {
            left: 49,
            reset: Duration::from_millis(1_001),
            refused: false,
        };
        let mut told = Told::default();
        told.add(&plan("each", Duration::from_secs(60)), &allowance);
        told.add(&plan("fast", Duration::from_millis(500)), &allowance);
        let fields: Vec<(HeaderName, HeaderValue)> = told.fields().collect();
        assert_eq!(fields[0].0, "ratelimit");
        assert_eq!(fields[0].1, "\"each\";r=49;t=2, \"fast\";r=49;t=2");
        assert_eq!(fields[1].0, "ratelimit-policy");
        assert_eq!(fields[1].1, "\"each\";q=100;w=60, \"fast\";q=100");
    }
}
