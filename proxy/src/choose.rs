//! The next try of a request: which endpoint, and over which connection.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::net::IpAddr;

use pingora::http::RequestHeader;
use pingora::upstreams::peer::HttpPeer;
use pingora::{Error, ErrorType, Result};
use portolan_config::plan::{BalancePlan, HashProperty, PoolId, PoolPlan};
use portolan_control::affinity::cookie;
use portolan_control::balance::Wish;
use portolan_control::clock::Tick;
use portolan_control::decide::{Fate, decide_again};
use portolan_control::stats::TryOutcome;
use portolan_control::steering::Draw;
use smallvec::SmallVec;

use crate::context::{InFlight, RequestContext, Try};
use crate::edge::fastrand_scope;
use crate::peer::Peers;
use crate::refusal::Refusal;

/// All tries of a request, with the first.
const MOST_TRIES: u32 = 3;

/// Pooled connections that may be found closed before that counts as the endpoint's failure.
const MOST_REPLACEMENTS: u32 = 3;

/// Prepares the next try.
///
/// # Errors
/// When nobody can take the request.
pub(crate) fn next_try(
    ctx: &mut RequestContext,
    request: &RequestHeader,
    now: Tick,
) -> Result<Box<HttpPeer>> {
    let (pool, endpoint) = if let Some(next) = ctx.next.take() {
        ctx.tries += 1;
        next
    } else if let Some(again) = &ctx.current {
        // The same endpoint, over another connection: not another try.
        (again.pool, again.endpoint)
    } else if let Some(first) = choose(ctx, request, now) {
        ctx.tries = 1;
        first
    } else {
        ctx.refusal = Some(Refusal::NobodyCanServe);
        return Error::e_explain(ErrorType::HTTPStatus(503), "nobody can take the request");
    };
    let live = ctx.snapshot().pools[pool.index()].endpoints[endpoint]
        .live
        .clone();
    // What the try before held is given back as this one begins.
    ctx.current = Some(Try {
        pool,
        endpoint,
        live: InFlight::new(live),
        began: now,
    });
    peer(ctx, pool, endpoint)
}

/// An endpoint that has not failed the request: of its pool, or of another pool of its target.
fn choose(ctx: &mut RequestContext, request: &RequestHeader, now: Tick) -> Option<(PoolId, usize)> {
    let mut pool = ctx.pool?;
    loop {
        if let Some(endpoint) = pick(ctx, pool, request, now) {
            return Some((pool, endpoint));
        }
        pool = cross_over(ctx, pool)?;
    }
}

/// An endpoint of this pool, by its balancer.
fn pick(ctx: &RequestContext, pool: PoolId, request: &RequestHeader, now: Tick) -> Option<usize> {
    let view = &ctx.snapshot().pools[pool.index()];
    let excluded: SmallVec<[usize; 4]> = ctx
        .failed
        .iter()
        .filter(|(failed, _)| *failed == pool)
        .map(|(_, endpoint)| *endpoint)
        .collect();
    if let Some(endpoint) = ctx.tie.endpoint(view, ctx.basis, &excluded) {
        return Some(endpoint);
    }
    let hash = hash_of(&view.plan, request, ctx.client);
    fastrand_scope(|random| {
        view.pick(
            ctx.basis,
            &mut Wish {
                hash,
                excluded: &excluded,
                random,
                now,
            },
        )
    })
}

/// This pool has no endpoint left for the request: another pool of its target, if there is one.
fn cross_over(ctx: &mut RequestContext, from: PoolId) -> Option<PoolId> {
    let snapshot = ctx.snapshot().clone();
    let route = &snapshot.plan.routes[ctx.route?.index()];
    let mut failed = ctx.failed_pools();
    if !failed.contains(&from) {
        // It had none to begin with.
        failed.push(from);
        ctx.failed.push((from, usize::MAX));
    }
    let draw = Draw(fastrand::u64(..));
    let again = decide_again(
        &snapshot, route, ctx.client, &ctx.found, &failed, &ctx.tie, draw,
    );
    match again {
        Fate::Pool { pool, basis, why } if !failed.contains(&pool) => {
            ctx.pool = Some(pool);
            ctx.basis = basis;
            ctx.why = Some(format!("retried: {why}").into());
            Some(pool)
        }
        _ => None,
    }
}

/// How to connect to an endpoint.
fn peer(ctx: &RequestContext, pool: PoolId, endpoint: usize) -> Result<Box<HttpPeer>> {
    let view = &ctx.snapshot().pools[pool.index()];
    let Some(peers) = view.endpoints[endpoint].dial.get::<Peers>() else {
        return Error::e_explain(ErrorType::InternalError, "an endpoint that nobody prepared");
    };
    Ok(Box::new(if ctx.wants_upgrade {
        peers.upgrades.clone()
    } else {
        peers.requests.clone()
    }))
}

/// The try under way has failed before anything was sent. Whether there will be another: only if
/// there is an endpoint that has not failed yet.
pub(crate) fn failed(
    ctx: &mut RequestContext,
    request: &RequestHeader,
    outcome: TryOutcome,
    now: Tick,
) -> bool {
    ctx.replacements = 0;
    if let Some(current) = &mut ctx.current {
        current.live.ended(outcome);
        let tried = (current.pool, current.endpoint);
        ctx.failed.push(tried);
    }
    if ctx.tries >= MOST_TRIES {
        return false;
    }
    ctx.next = choose(ctx, request, now);
    if ctx.next.is_some()
        && let Some(route) = ctx.route
    {
        ctx.snapshot().routes[route.index()].retries.one();
    }
    ctx.next.is_some()
}

/// A pooled connection was found closed. Whether it may be replaced.
pub(crate) fn replace_connection(ctx: &mut RequestContext) -> bool {
    ctx.replacements += 1;
    ctx.replacements <= MOST_REPLACEMENTS
}

/// A hash of the property that a pool's balancer looks at, if it looks at one and it is there.
fn hash_of(pool: &PoolPlan, request: &RequestHeader, client: Option<IpAddr>) -> Option<u64> {
    let BalancePlan::Hash(property) = &pool.balance else {
        return None;
    };
    let mut hasher = DefaultHasher::new();
    match property {
        HashProperty::ClientIp => client?.hash(&mut hasher),
        HashProperty::Path => request.uri.path().hash(&mut hasher),
        HashProperty::Header(name) => request.headers.get(name)?.as_bytes().hash(&mut hasher),
        HashProperty::Cookie(name) => cookie(&request.headers, name)?.hash(&mut hasher),
    }
    Some(hasher.finish())
}
