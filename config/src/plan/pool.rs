//! Pools, endpoints, probes.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, HeaderValue};

use super::id::PoolId;
use crate::document::{Protocol, ProxyVersion, StatusRange};
use crate::geography::Coordinates;
use crate::names::Name;
use crate::source::{At, Origin};
use crate::units::Quota;

/// Interchangeable endpoints.
#[derive(Clone, Debug, PartialEq)]
pub struct PoolPlan {
    /// Its id in this plan.
    pub id: PoolId,
    /// Its name, which is its identity across plans.
    pub name: Name,
    /// Whose cloud it is.
    pub cloud: Option<Arc<str>>,
    /// The region's code.
    pub region: Option<Arc<str>>,
    /// Where it is.
    pub place: Option<Coordinates>,
    /// Addresses and names that serve requests.
    pub endpoints: Vec<EndpointPlan>,
    /// Which endpoint gets the next request.
    pub balance: BalancePlan,
    /// What endpoints speak.
    pub protocol: Protocol,
    /// TLS towards endpoints.
    pub tls: Option<UpstreamTlsPlan>,
    /// How endpoints are probed; `None`: not at all.
    pub probe: Option<ProbePlan>,
    /// What requests themselves tell about endpoints; `None`: nothing.
    pub outlier: Option<OutlierPlan>,
    /// Requests that wait for an endpoint which is found dead, and must not be repeated, are answered
    /// at once.
    pub releases: bool,
    /// How long endpoints that recover, and the pool when it comes back, take to their whole share.
    pub slow_start: Option<Duration>,
    /// Fewer healthy endpoints than this and the pool is down.
    pub min_healthy: Quota,
    /// How much more than its share the healthy part may carry.
    pub overprovision: f64,
    /// Takes no new requests.
    pub drain: bool,
    /// The Host sent upstream; `None`: the client's.
    pub host: Option<HeaderValue>,
    /// How long Portolan waits.
    pub timeouts: TimeoutsPlan,
    /// Requests at the same time, at most.
    pub capacity_in_flight: Option<u32>,
    /// The PROXY protocol header that connections begin with.
    pub send_proxy: Option<ProxyVersion>,
}

/// One address, or one name with all its addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EndpointPlan {
    /// At this address.
    Address {
        /// Where it is.
        address: SocketAddr,
        /// How much of the pool's traffic it gets.
        weight: u32,
        /// Serves only when no other can.
        backup: bool,
    },
    /// At every address of this name.
    Dns {
        /// The name.
        host: Arc<str>,
        /// The port of every address found.
        port: u16,
        /// How much of the pool's traffic each address gets.
        weight: u32,
        /// Serve only when no other can.
        backup: bool,
    },
}

/// Which endpoint gets the next request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BalancePlan {
    /// Weighted power of two choices by requests in flight.
    LeastRequests,
    /// In turn.
    RoundRobin,
    /// At random.
    Random,
    /// Weighted power of two choices by latency and load.
    Fastest,
    /// Alike requests to the same endpoint.
    Hash(HashProperty),
}

/// The property of a request that a hash is taken of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HashProperty {
    /// The client's address.
    ClientIp,
    /// The path, without the query.
    Path,
    /// A header's value.
    Header(HeaderName),
    /// A cookie's value.
    Cookie(Arc<str>),
}

/// TLS towards endpoints.
#[derive(Clone, Debug, PartialEq)]
pub struct UpstreamTlsPlan {
    /// The name asked for and verified; `None`: each endpoint's own name or address.
    pub server_name: Option<Arc<str>>,
    /// CAs to trust instead of the system's.
    pub ca: Option<At<PathBuf>>,
    /// A certificate to show, and its key.
    pub client: Option<(At<PathBuf>, At<PathBuf>)>,
    /// Do not verify.
    pub insecure: bool,
    /// Where it stood.
    pub origin: Origin,
}

/// How long Portolan waits for endpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimeoutsPlan {
    /// For a connection, and again for its TLS handshake.
    pub connect: Duration,
    /// For response headers, once a request was sent; `None`: half of the route's timeout.
    pub first_byte: Option<Duration>,
    /// For the next byte.
    pub idle: Duration,
    /// For the next request on an idle connection.
    pub keep_alive: Duration,
    /// For the next byte of an upgraded connection.
    pub upgrade_idle: Duration,
    /// For an upgraded connection as a whole.
    pub upgrade_lifetime: Option<Duration>,
}

/// How endpoints are probed.
#[derive(Clone, Debug, PartialEq)]
pub struct ProbePlan {
    /// What is asked.
    pub kind: ProbeKind,
    /// The port, if not the endpoint's own.
    pub port: Option<u16>,
    /// The Host that is asked for, if not the pool's or the endpoint's.
    pub host: Option<HeaderValue>,
    /// Between two probes.
    pub every: Duration,
    /// Between two probes while the verdict is changing.
    pub fast_every: Duration,
    /// For one probe, to the last byte of its answer.
    pub timeout: Duration,
    /// Failures in a row that make a healthy endpoint unhealthy.
    pub down_after: u32,
    /// Successes in a row that make it healthy again.
    pub up_after: u32,
}

impl ProbePlan {
    /// The longest time between an endpoint's death and the moment when requests no longer go there,
    /// if nothing but its probes notices. It died right after it answered one, and every failing
    /// probe takes the whole `timeout`:
    /// every + timeout + (down_after − 1) × (fast_every + timeout) + publishing.
    pub fn failover_bound(&self) -> Duration {
        /// From a verdict to a snapshot that requests see.
        const PUBLISHING: Duration = Duration::from_millis(10);
        let again = self.fast_every.saturating_add(self.timeout);
        let first = self.every.saturating_add(self.timeout);
        again
            .saturating_mul(self.down_after - 1)
            .saturating_add(first)
            .saturating_add(PUBLISHING)
    }
}

/// When an endpoint that fails requests is left out.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct OutlierPlan {
    /// Failures in a row that eject it; at least 1.
    pub consecutive_failures: u32,
    /// How long, the first time.
    pub eject_for: Duration,
    /// The share of the pool's endpoints that may be left out: 0 to 1.
    pub max_ejected: f64,
}

/// What a probe asks.
#[derive(Clone, Debug, PartialEq)]
pub enum ProbeKind {
    /// This path, over HTTP.
    Http {
        /// Path and query.
        path: Arc<str>,
        /// What the answer must look like.
        expect: ProbeExpect,
    },
    /// A connection.
    Tcp,
    /// `grpc.health.v1.Health/Check` for this service.
    Grpc {
        /// The service; empty for the whole server.
        service: Arc<str>,
    },
}

/// What an HTTP probe's answer must look like.
#[derive(Clone, Debug, PartialEq)]
pub struct ProbeExpect {
    /// One of these status codes.
    pub status: Vec<StatusRange>,
    /// These headers with these values.
    pub headers: Vec<(HeaderName, Arc<str>)>,
    /// These values in the JSON body, by JSON pointer.
    pub json: Vec<(Arc<str>, Arc<str>)>,
    /// This text in the body.
    pub body_contains: Option<Arc<str>>,
}

impl ProbeExpect {
    /// Whether anything about the body matters.
    pub fn wants_body(&self) -> bool {
        !self.json.is_empty() || self.body_contains.is_some()
    }
}
