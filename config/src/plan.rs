//! The plan: what the runtime reads. Checked, resolved, and without a single unresolved name.
//!
//! Behind the compiler everything is found by a dense id ([`PoolId`], [`RouteId`], [`TargetId`] …),
//! so the request path indexes and never hashes names.

mod access;
mod acme;
mod auth;
mod browser;
mod classes;
mod id;
mod location;
mod paths;
mod pool;
mod redirect;
mod route;
mod route_table;
mod target;

pub use access::{AccessPlan, ClientFacts, ClientMatcher, Denied, LimitKeyPlan, RateLimitPlan};
pub use acme::{
    AcmeIssuerPlan, ChallengePlan, DnsHookKind, DnsHookPlan, ExternalAccountPlan,
    ManagedCertificate,
};
pub use auth::{
    AuthPlan, BasicPlan, ForwardAuthPlan, JwtPlan, ProofPlan, TokenKeySource, TokenKeysPlan,
    TokenPlacePlan,
};
pub use browser::{BrowserPlan, CorsPlan};
pub(crate) use classes::ClassMaker;
pub use classes::{Class, ClassIndex, ClientClasses, TooManyClasses};
pub use id::{PoolId, RouteId, ServiceId, TargetId};
pub use location::{BitSet, ClientSet, LocationId, LocationTable, PlacePatch};
pub use paths::{PathFault, PathsPlan};
pub use pool::{
    BalancePlan, EndpointPlan, HashProperty, OutlierPlan, PoolPlan, ProbeExpect, ProbeKind,
    ProbePlan, TimeoutsPlan, UpstreamTlsPlan,
};
pub use redirect::{RedirectPath, RedirectPlan};
pub use route::{
    AffinityPlan, HeaderEditsPlan, HedgeAfterPlan, HedgePlan, RetryPlan, RoutePlan, WhenAllDownPlan,
};
pub(crate) use route_table::{Conditions, PathRule};
pub use route_table::{RequestHead, RouteTable, normal_host};
pub use target::{GeoRulePlan, SplitMemberPlan, TargetGraph, TargetKindPlan, TargetNode};

use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, Method};
use ipnet::IpNet;

use crate::decode::Secret;
use crate::document::{HeaderCase, LogFormat, LogLevel, MinTlsVersion, Role, TlsProfile};
use crate::fields::Fields;
use crate::names::Name;
use crate::source::{At, Origin};

/// A configuration that can be run.
#[derive(Debug)]
pub struct Plan {
    /// What it is known by: changes when any value changes.
    pub hash: ConfigHash,
    /// Where clients are accepted.
    pub listeners: Vec<ListenerPlan>,
    /// Certificate authorities that issue by ACME.
    pub acme: Vec<Arc<AcmeIssuerPlan>>,
    /// Whose address counts as the client's.
    pub client_ip: ClientIpPlan,
    /// What is made of paths before they are matched.
    pub paths: PathsPlan,
    /// How names of headers are written over HTTP/1.1.
    pub header_case: HeaderCase,
    /// Where clients are.
    pub geoip: GeoIpPlan,
    /// The API for operators.
    pub admin: AdminPlan,
    /// How names of endpoints are resolved.
    pub resolver: ResolverPlan,
    /// The process itself.
    pub process: ProcessPlan,
    /// The access log, unless it is off.
    pub access_log: Option<AccessLogPlan>,
    /// Portolan's own log.
    pub log: LogPlan,
    /// Every pool.
    pub pools: Vec<Arc<PoolPlan>>,
    /// Every service.
    pub services: Vec<ServicePlan>,
    /// Every distinct target of services and routes.
    pub targets: TargetGraph,
    /// The client classes of the targets of routes and services, by target.
    pub classes: Vec<Option<Arc<ClientClasses>>>,
    /// The places that rules distinguish.
    pub locations: Arc<LocationTable>,
    /// Every route, in the order of the file.
    pub routes: Vec<RoutePlan>,
    /// Finds the route of a request.
    pub route_table: RouteTable,
    /// The tests that the file brings along.
    pub tests: Vec<TestPlan>,
}

impl Plan {
    /// The client classes of a route's or a service's target.
    ///
    /// # Panics
    /// For a target that is neither.
    pub fn classes(&self, target: TargetId) -> &Arc<ClientClasses> {
        self.classes[target.index()]
            .as_ref()
            .expect("every target of a route or a service has classes")
    }

    /// What some route or listener needs to know about clients.
    pub fn needs(&self) -> ClientFacts {
        let mut all = ClientFacts::default();
        let of_listeners = self.listeners.iter().filter_map(|l| l.access.as_ref());
        let of_routes = self.routes.iter().map(|route| route.needs);
        for needs in of_routes.chain(of_listeners.map(|access| access.needs)) {
            all.place |= needs.place;
            all.system |= needs.system;
            all.coordinates |= needs.coordinates;
        }
        all
    }

    /// Every certificate that Portolan asks for by itself.
    pub fn managed(&self) -> BTreeSet<&ManagedCertificate> {
        let tls = self
            .listeners
            .iter()
            .filter_map(|listener| listener.tls.as_ref());
        tls.flat_map(|tls| &tls.managed).collect()
    }

    /// Whether a file is one of a certificate that Portolan asks for by itself.
    pub fn manages(&self, file: &Path) -> bool {
        let managed = self.managed();
        managed
            .iter()
            .any(|managed| file.starts_with(&managed.folder))
    }

    /// The pool with this name.
    pub fn pool_named(&self, name: &str) -> Option<&Arc<PoolPlan>> {
        self.pools.iter().find(|pool| pool.name.as_str() == name)
    }
}

/// What a configuration is known by: the first 12 digits of the SHA-256 of all its values.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct ConfigHash(Arc<str>);

impl ConfigHash {
    pub(crate) fn new(digits: &str) -> Self {
        Self(digits.into())
    }

    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for ConfigHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for ConfigHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// An address on which clients are accepted.
#[derive(Clone, Debug, PartialEq)]
pub struct ListenerPlan {
    /// The address as configured; port 0 is a wish for any.
    pub bind: SocketAddr,
    /// Where it stood, for complaints when it cannot be had.
    pub origin: Origin,
    /// Answer everything with a redirect to https.
    pub redirect_to_https: bool,
    /// Who may send requests here, unless everybody may.
    pub access: Option<AccessPlan>,
    /// TLS, if it is terminated here.
    pub tls: Option<ListenerTlsPlan>,
    /// Connections begin with a PROXY protocol header.
    pub proxy_protocol: bool,
    /// How much one client may ask for.
    pub limits: LimitsPlan,
}

/// TLS of a listener.
#[derive(Clone, Debug, PartialEq)]
pub struct ListenerTlsPlan {
    /// Where certificates come from, the default's source first.
    pub certificates: Vec<CertificateSource>,
    /// Those of them that Portolan asks for by itself.
    pub managed: Vec<ManagedCertificate>,
    /// Versions, ciphers and curves.
    pub profile: TlsProfile,
    /// The oldest version that is spoken.
    pub min_version: MinTlsVersion,
    /// Whose certificates clients must show, if any.
    pub client: Option<ClientAuthPlan>,
}

/// Where certificates of a listener come from.
#[derive(Clone, Debug, PartialEq)]
pub enum CertificateSource {
    /// One pair.
    Pair(CertificateFiles),
    /// All pairs in a folder.
    Directory {
        /// The folder.
        path: At<PathBuf>,
        /// It may be empty, or not be there yet: whoever fills it is still at work.
        awaited: bool,
    },
}

/// A certificate chain and its key, as files.
#[derive(Clone, Debug, PartialEq)]
pub struct CertificateFiles {
    /// The chain.
    pub cert: At<PathBuf>,
    /// The key; it may be in the same file.
    pub key: At<PathBuf>,
    /// The OCSP response; `None`: beside the chain, if there is one.
    pub ocsp: Option<At<PathBuf>>,
}

/// Mutual TLS on a listener.
#[derive(Clone, Debug, PartialEq)]
pub struct ClientAuthPlan {
    /// The CAs of clients' certificates.
    pub ca: At<PathBuf>,
    /// Which of those are revoked.
    pub crl: Option<At<PathBuf>>,
    /// Whether a client may come without one.
    pub optional: bool,
}

/// How much one client may ask of a listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LimitsPlan {
    /// Bytes of the request line and all headers.
    pub header_bytes: usize,
    /// Number of headers.
    pub headers: usize,
    /// From a request's first byte to its last header, and for a TLS handshake.
    pub header_timeout: Duration,
    /// A connection without a request.
    pub idle_timeout: Duration,
    /// Bytes of a request body.
    pub body_bytes: Option<u64>,
    /// Open connections.
    pub connections: usize,
    /// Open connections of one client.
    pub connections_per_client: Option<usize>,
    /// Requests on one connection.
    pub requests_per_connection: Option<u64>,
    /// Bytes of a request's target.
    pub uri_bytes: usize,
    /// Bytes per second that a body must bring while it is waited for.
    pub min_body_rate: Option<u64>,
}

/// Whose address counts as the client's.
#[derive(Clone, Debug)]
pub struct ClientIpPlan {
    /// The header in which trusted peers say whom they speak for.
    pub header: HeaderName,
    /// The peers that are believed.
    pub trusted: Vec<IpNet>,
}

impl ClientIpPlan {
    /// Whether this peer is believed.
    pub fn trusts(&self, peer: IpAddr) -> bool {
        let peer = peer.to_canonical();
        self.trusted.iter().any(|net| net.contains(&peer))
    }
}

/// The geo databases.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GeoIpPlan {
    /// A city or country database; without one, the built-in country database.
    pub database: Option<At<PathBuf>>,
    /// A database of autonomous systems.
    pub asn_database: Option<At<PathBuf>>,
    /// Networks that are where the operator says.
    pub patch: Arc<PlacePatch>,
    /// Where the configuration asks for what some databases do not have.
    pub asked: GeoAsked,
}

/// Where the first rules stand that ask a database for something.
#[derive(Clone, Copy, Debug, Default)]
pub struct GeoAsked {
    /// For countries, or what is made of them.
    pub country: Option<Origin>,
    /// For parts of countries.
    pub subdivision: Option<Origin>,
    /// For autonomous systems.
    pub system: Option<Origin>,
}

/// Where rules stand says nothing about what they need.
impl PartialEq for GeoAsked {
    fn eq(&self, other: &Self) -> bool {
        let kinds = |it: &Self| [it.country, it.subdivision, it.system].map(|it| it.is_some());
        kinds(self) == kinds(other)
    }
}

/// The API for operators.
#[derive(Clone, Debug)]
pub struct AdminPlan {
    /// Where it listens.
    pub bind: SocketAddr,
    /// Where that stood.
    pub origin: Origin,
    /// Who may use it; nobody in the list means everybody who can reach it.
    pub tokens: Vec<AdminTokenPlan>,
}

/// Somebody who may use the API.
#[derive(Clone, Debug)]
pub struct AdminTokenPlan {
    /// Who it is.
    pub name: Arc<str>,
    /// What they may do.
    pub role: Role,
    /// How they prove it.
    pub token: Secret,
}

/// How names of endpoints are resolved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResolverPlan {
    /// Name servers, or none for those of the system.
    pub servers: Vec<SocketAddr>,
    /// For one question.
    pub timeout: Duration,
    /// Not asked again sooner than this.
    pub min_ttl: Duration,
    /// Asked again at the latest after this.
    pub max_ttl: Duration,
}

/// What concerns the process itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProcessPlan {
    /// Where state is kept.
    pub state_dir: PathBuf,
    /// Worker threads, if the file says.
    pub workers: Option<u32>,
    /// Accepting after SIGTERM while readiness says no.
    pub lame_duck: Duration,
    /// For requests in flight after SIGTERM.
    pub shutdown_timeout: Duration,
    /// For the first verdict on every pool at start.
    pub startup_grace: Duration,
}

/// Where access log lines go, and how many.
#[derive(Clone, Debug, PartialEq)]
pub struct AccessLogPlan {
    /// Where to.
    pub to: LogSink,
    /// The share of requests that are logged, from 0 to 1.
    pub sample: f64,
}

/// Where lines are written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogSink {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
    /// This file.
    File(PathBuf),
}

/// Portolan's own log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogPlan {
    /// How much is said.
    pub level: LogLevel,
    /// How.
    pub format: LogFormat,
}

/// A target with a name.
#[derive(Clone, Debug)]
pub struct ServicePlan {
    /// Its name.
    pub name: Name,
    /// What it stands for.
    pub target: TargetId,
}

/// A test that the file brings along.
#[derive(Clone, Debug)]
pub struct TestPlan {
    /// What it shows.
    pub name: String,
    /// Where it stood.
    pub origin: Origin,
    /// The client's address, if given.
    pub ip: Option<IpAddr>,
    /// The client's place, if given.
    pub location: Option<LocationId>,
    /// The client's autonomous system, if given.
    pub asn: Option<u32>,
    /// The request.
    pub host: String,
    /// Its path.
    pub path: String,
    /// Its method.
    pub method: Method,
    /// Its headers.
    pub headers: Fields,
    /// Pools that are down as a whole.
    pub pools_down: Vec<PoolId>,
    /// Single endpoints that are down.
    pub endpoints_down: Vec<(PoolId, SocketAddr)>,
    /// Exactly these pools have a share, if given.
    pub only: Option<Vec<PoolId>>,
    /// These pools have these shares, from 0 to 1.
    pub share: Vec<(PoolId, f64)>,
    /// Portolan answers with this status itself.
    pub status: Option<u32>,
    /// This route is taken.
    pub route: Option<String>,
}
