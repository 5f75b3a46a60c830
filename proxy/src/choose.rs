//! The next try of a request: which endpoint, and over which connection.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::net::{IpAddr, SocketAddr};

use pingora::{Error, ErrorType, Result};
use portolan_config::plan::{BalancePlan, HashProperty, PoolId, PoolPlan};
use portolan_control::affinity::cookie;
use portolan_control::balance::Wish;
use portolan_control::clock::Tick;
use portolan_control::decide::{Fate, decide_again};
use portolan_control::pool::PoolView;
use portolan_control::retry::Fault;
use portolan_control::stats::RetryReason;
use portolan_control::steering::Draw;
use smallvec::SmallVec;

use crate::context::{ConnectionContext, InFlight, RequestContext, Retrying, Try};
use crate::edge::fastrand_scope;
use crate::head::RequestHeader;
use crate::peer::{Peers, Target};
use crate::proxy_protocol::Addresses;

/// A pool's endpoint.
pub(crate) type Place = (PoolId, usize);

/// Begins a try there; `again` says why, if it is not the first.
pub(crate) fn begin(
    ctx: &mut RequestContext,
    (pool, endpoint): Place,
    now: Tick,
    again: Option<RetryReason>,
) -> Try {
    ctx.tries += 1;
    let snapshot = ctx.snapshot();
    if let (Some(reason), Some(route)) = (again, ctx.route) {
        snapshot.routes[route.index()].retries.one(reason);
    }
    let live = snapshot.pools[pool.index()].endpoints[endpoint]
        .live
        .clone();
    Try {
        pool,
        endpoint,
        live: InFlight::new(live),
        began: now,
        why: ctx.why.clone(),
        basis: ctx.basis,
        retrying: again.map(|_| Retrying::new(&snapshot.pool_stats[pool.index()])),
    }
}

/// Where the first try goes.
pub(crate) fn first(ctx: &mut RequestContext, request: &RequestHeader, now: Tick) -> Option<Place> {
    choose(ctx, request, now)
}

/// Where the next try goes after this one has failed.
pub(crate) fn after(
    ctx: &mut RequestContext,
    request: &RequestHeader,
    failed: Place,
    now: Tick,
) -> Option<Place> {
    ctx.failed.push(failed);
    choose(ctx, request, now)
}

/// An endpoint that has not failed the request: of its pool, or of another pool of its target. One
/// that is suspect only if there is no other.
fn choose(ctx: &mut RequestContext, request: &RequestHeader, now: Tick) -> Option<Place> {
    let mut pool = ctx.pool?;
    let mut suspect = None;
    loop {
        match pick(ctx, pool, request, now) {
            Pick::Endpoint(endpoint) => return Some((pool, endpoint)),
            Pick::Suspect(endpoint) => {
                suspect.get_or_insert_with(|| ((pool, endpoint), ctx.why.clone(), ctx.basis));
            }
            Pick::Nobody => {}
        }
        match cross_over(ctx, pool) {
            Some(other) => pool = other,
            None => {
                let (place, why, basis) = suspect?;
                (ctx.pool, ctx.why, ctx.basis) = (Some(place.0), why, basis);
                return Some(place);
            }
        }
    }
}

/// What a pool has for a request.
enum Pick {
    Endpoint(usize),
    /// Only endpoints that have been silent for too long, or that have just failed too often.
    Suspect(usize),
    Nobody,
}

/// An endpoint of this pool, by its balancer.
fn pick(ctx: &RequestContext, pool: PoolId, request: &RequestHeader, now: Tick) -> Pick {
    let view = &ctx.snapshot().pools[pool.index()];
    let mut excluded: SmallVec<[usize; 4]> = ctx
        .failed
        .iter()
        .filter(|(failed, _)| *failed == pool)
        .map(|(_, endpoint)| *endpoint)
        .collect();
    let hash = hash_of(&view.plan, request, ctx.client);
    let mut suspect = None;
    fastrand_scope(|random| {
        loop {
            let tied = ctx.tie.endpoint(view, ctx.basis, &excluded);
            let picked = tied.or_else(|| {
                let mut wish = Wish {
                    hash,
                    excluded: &excluded,
                    random,
                    now,
                };
                view.pick(ctx.basis, &mut wish)
            });
            let Some(endpoint) = picked else {
                return suspect.map_or(Pick::Nobody, Pick::Suspect);
            };
            let live = &view.endpoints[endpoint].live;
            // What may be repeated is what a silent endpoint is tried with: it can be rescued.
            let silent =
                live.silence.is_suspect() && !(ctx.chances.idempotent && live.silence.trickle(now));
            if !silent && !live.witness.awaits_verdict() {
                return Pick::Endpoint(endpoint);
            }
            suspect.get_or_insert(endpoint);
            excluded.push(endpoint);
        }
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
pub(crate) fn target(ctx: &RequestContext, (pool, endpoint): Place) -> Result<Target> {
    let view = &ctx.snapshot().pools[pool.index()];
    match peers(view, endpoint) {
        Some(peers) if ctx.wants_upgrade => {
            let target = peers.upgrades(&view.endpoints[endpoint].live);
            Ok(announced(ctx, peers, target))
        }
        _ => target_of(ctx, view, endpoint).ok_or_else(|| {
            Error::explain(ErrorType::InternalError, "an endpoint that nobody prepared")
        }),
    }
}

/// How to connect to an endpoint of this pool for a request that is no upgrade.
pub(crate) fn target_of(ctx: &RequestContext, view: &PoolView, endpoint: usize) -> Option<Target> {
    let peers = peers(view, endpoint)?;
    let target = peers.requests(&view.endpoints[endpoint].live);
    Some(announced(ctx, peers, target))
}

fn peers(view: &PoolView, endpoint: usize) -> Option<&Peers> {
    view.endpoints[endpoint].dial.get()
}

/// With a PROXY protocol header, if the pool's connections begin with one.
fn announced(ctx: &RequestContext, peers: &Peers, target: Target) -> Target {
    match (peers.send_proxy, &ctx.connection) {
        (Some(version), Some(connection)) => {
            target.announcing(version, on_behalf_of(ctx, connection))
        }
        _ => target,
    }
}

/// For whom a request is, as a PROXY protocol header says it. Of a client that was only named to us
/// the port is not known.
fn on_behalf_of(ctx: &RequestContext, connection: &ConnectionContext) -> Addresses {
    let peer = connection.peer;
    let source = match ctx.client {
        Some(client) if client != peer.ip().to_canonical() => SocketAddr::new(client, 0),
        _ => peer,
    };
    Addresses {
        source,
        destination: connection.local,
    }
}

/// What a retry after this fault is counted as.
pub(crate) fn reason(fault: Fault) -> RetryReason {
    match fault {
        Fault::Connect => RetryReason::Connect,
        Fault::Reset => RetryReason::Reset,
        Fault::Timeout => RetryReason::Timeout,
        Fault::Status(_) => RetryReason::Status,
    }
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
