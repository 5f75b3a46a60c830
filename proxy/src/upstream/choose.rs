//! The next try of a request, as the data plane makes it: what the decider
//! ([`portolan_control::decision::tries`]) must know of the request, and the connection to where it says.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::net::{IpAddr, SocketAddr};

use pingora::{Error, ErrorType, Result};
use portolan_config::plan::{BalancePlan, HashProperty, PoolPlan, RoutePlan};
use portolan_control::auth::cookie::cookie;
use portolan_control::clock::Tick;
use portolan_control::counters::RetryReason;
use portolan_control::decision::affinity::EndpointIndex;
use portolan_control::decision::tries::{Asking, Choice, Properties};
use portolan_control::health::outlier::Source;
use portolan_control::pool::view::PoolView;

use crate::http::head::RequestHeader;
use crate::http::host::host;
use crate::proxy_protocol::Addresses;
use crate::request::context::{Admitted, InFlight, Received, Served, Try};
use crate::upstream::connect::peer::{Peers, Target};

/// What balancers may look at, and what tells requests apart when some of them fail.
#[derive(Debug)]
pub(crate) struct Request<'a> {
    pub(crate) head: &'a RequestHeader,
    pub(crate) client: Option<IpAddr>,
    /// The name of its route.
    pub(crate) route: &'a str,
}

impl Properties for Request<'_> {
    fn hash(&self, pool: &PoolPlan) -> Option<u64> {
        let BalancePlan::Hash(property) = &pool.balance else {
            return None;
        };
        let headers = &self.head.headers;
        let mut hasher = DefaultHasher::new();
        match property {
            HashProperty::ClientIp => self.client?.hash(&mut hasher),
            HashProperty::Path => self.head.uri.path().hash(&mut hasher),
            HashProperty::Header(name) => headers.get(name)?.as_bytes().hash(&mut hasher),
            HashProperty::Cookie(name) => cookie(headers, name)?.hash(&mut hasher),
        }
        Some(hasher.finish())
    }

    fn source(&self) -> Source {
        let host = host(self.head).unwrap_or_default();
        Source::new(self.route, host, self.client, self.head.uri.path())
    }
}

/// What the decider must know of a request.
pub(crate) fn asking<'a>(
    ctx: &Served<'a>,
    admitted: &'a Admitted<'a>,
    properties: &'a Request<'a>,
) -> Asking<'a> {
    Asking {
        snapshot: ctx.snapshot(),
        route: admitted.route,
        client: Some(ctx.received.client),
        found: &admitted.found,
        tie: &admitted.tie,
        properties,
    }
}

/// Where a request came from and what it asks for.
pub(crate) fn source(ctx: &Served<'_>, route: &RoutePlan, head: &RequestHeader) -> Source {
    let request = Request {
        head,
        client: Some(ctx.received.client),
        route: &route.name,
    };
    request.source()
}

/// Begins a try there; `again` says why, if it is not the first.
pub(crate) fn begin(
    ctx: &mut Served<'_>,
    choice: Choice,
    now: Tick,
    again: Option<RetryReason>,
) -> Try {
    ctx.tries += 1;
    let snapshot = ctx.snapshot();
    if let Some(route) = ctx.route() {
        let state = &snapshot.routes[route.id.index()];
        match again {
            Some(reason) => state.retries.one(reason),
            None => state.budget.request(),
        }
    }
    let EndpointIndex { pool, endpoint } = choice.place;
    let live = snapshot.pools[pool.index()].endpoints[endpoint]
        .live
        .clone();
    Try {
        pool,
        endpoint,
        live: InFlight::new(live),
        began: now,
        why: choice.why,
        basis: choice.basis,
    }
}

/// How to connect to an endpoint.
pub(crate) fn target(ctx: &Served<'_>, place: EndpointIndex) -> Result<Target> {
    let view = &ctx.snapshot().pools[place.pool.index()];
    match peers(view, place.endpoint) {
        Some(peers) if ctx.received.wants_upgrade => {
            let target = peers.upgrades(&view.endpoints[place.endpoint].live);
            Ok(announced(ctx, peers, target))
        }
        _ => target_of(ctx, view, place.endpoint).ok_or_else(|| {
            Error::explain(ErrorType::InternalError, "an endpoint that nobody prepared")
        }),
    }
}

/// How to connect to an endpoint of this pool for a request that is no upgrade.
pub(crate) fn target_of(ctx: &Served<'_>, view: &PoolView, endpoint: usize) -> Option<Target> {
    let peers = peers(view, endpoint)?;
    let target = peers.requests(&view.endpoints[endpoint].live);
    Some(announced(ctx, peers, target))
}

fn peers(view: &PoolView, endpoint: usize) -> Option<&Peers> {
    view.endpoints[endpoint].dial.get()
}

/// With a PROXY protocol header, if the pool's connections begin with one.
fn announced(ctx: &Served<'_>, peers: &Peers, target: Target) -> Target {
    match peers.send_proxy {
        Some(version) => target.announcing(version, on_behalf_of(ctx.received)),
        None => target,
    }
}

/// For whom a request is, as a PROXY protocol header says it. Of a client that was only named to us
/// the port is not known.
fn on_behalf_of(received: &Received) -> Addresses {
    let peer = received.connection.peer;
    let source = if received.client == peer.ip().to_canonical() {
        peer
    } else {
        SocketAddr::new(received.client, 0)
    };
    Addresses {
        source,
        destination: received.connection.local,
    }
}
