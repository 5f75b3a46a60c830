//! The configuration as written: one type per section, every value with its place.
//!
//! The doc comments of these types are the reference manual (`docs/reference/config.md`) and the
//! descriptions of the JSON Schema (`portolan schema`). Nothing here has been checked against
//! anything else yet: that is [`crate::check`]'s work.

mod access;
mod acme;
mod admin;
mod auth;
mod browser;
mod clients;
mod forward_auth;
mod health;
mod listener;
mod paths;
mod pool;
mod redirect;
mod retry;
mod route;
mod target;
mod test;
mod token;
mod values;

pub use access::{LimitKey, LimitKeyLong, RateLimit};
pub use acme::{
    AcmeDirectory, AcmeIssuer, AcmeRetry, CertificateName, ChallengeKind, DnsHook, EmailAddress,
    ExternalAccount, KeyKind, WebhookUrl,
};
pub use admin::{Admin, AdminToken, Role};
pub use auth::{Auth, BasicAuth, BasicUser, HashKind, PasswordHash, UserName, htpasswd};
pub use browser::{
    Cors, FrameOptions, Hsts, OriginPattern, ReferrerPolicy, SecurityHeaders, SecurityHeadersLong,
};
pub use clients::{
    AutonomousSystem, ClientIp, Clients, CloudflareRegion, Continent, CountryCode, Subdivision,
};
pub use forward_auth::ForwardAuth;
pub use health::{Expect, Health, JsonPointer, Outlier, StatusRange};
pub use listener::{
    Certificate, ClientAuth, Limits, Listener, ListenerTls, MinTlsVersion, TlsProfile,
};
pub use paths::{DotSegments, EncodedSlash, Paths, RepeatedSlashes};
pub use pool::{
    Balance, BalanceLong, BalanceWord, Capacity, Endpoint, EndpointLong, EndpointPlace, HashKey,
    HashKeyLong, HashOn, OnDown, Pool, Protocol, ProxyVersion, Timeouts, UpstreamTls,
    UpstreamTlsFiles,
};
pub use redirect::{Redirect, RedirectHost, RedirectScheme, RedirectStatus};
pub use retry::{Hedge, HedgeAfter, Retry, RetryOn};
pub use route::{
    Affinity, HeaderEdits, PathMatch, PathMatchLong, PathPattern, Respond, Rewrite, Route,
    WhenAllDown, WhenAllDownLong, WhenAllDownWord,
};
pub use target::{GeoRule, IfDown, SplitMember, Target, TargetKind};
pub use test::{ShareNumber, Test, TestClient, TestExpect, TestRequest};
pub use token::{JwtAuth, KeysUrl, ScopeName, TokenAlgorithm, TokenKeys, TokenPlace};
pub use values::{ClaimName, Realm, UrlPath};

use std::net::SocketAddr;
use std::path::PathBuf;

use ipnet::IpNet;

use crate::decode::collections::{Entries, OneOrMany};
use crate::decode::document;
use crate::decode::switch::Switch;
use crate::names::Name;
use crate::scalar::keywords;
use crate::source::At;
use crate::units::{Count, Percent, TimeSpan};

document! {
    /// The configuration file. YAML; JSON is YAML too. Unknown keys and names are errors, and so is a key
    /// with nothing behind it: write `off`, `[]` or `{}` for none, or leave the key out.
    pub struct Document as "the file" {
        /// More files to read, as patterns relative to this one (`teams/*.yaml`), so that teams can
        /// own their own files. Pools and services are joined by name; listeners, routes and tests are
        /// appended in the order of the file names; any other section may stand in one file only. A file of
        /// this very name is meant before a pattern is; names that begin with a dot are meant only where a
        /// dot is written, and a file with several names is read once.
        pub include: Vec<At<String>>,
        /// The addresses on which clients are accepted.
        pub listeners: Vec<Listener>,
        /// Certificate authorities that issue certificates by themselves, under names of your own:
        /// `acme: { letsencrypt: { email: ops@example.com, terms_agreed: true } }`.
        pub acme: Entries<Name, AcmeIssuer>,
        /// Whose address counts as the client's.
        pub client_ip: ClientIp = "{}",
        /// What is made of a request's path before it is matched.
        pub paths: Paths = "{}",
        /// How names of headers are written over HTTP/1.1, in requests to endpoints and in answers to
        /// clients. They mean the same in any case; but some programs look for theirs. Over HTTP/2
        /// there are small letters alone.
        pub header_case: At<HeaderCase> = "keep",
        /// Where clients are: databases that map addresses to places.
        pub geoip: GeoIp = "{}",
        /// The API for operators: status, metrics, reload.
        pub admin: Admin = "{}",
        /// The resolver for endpoints given by name.
        pub resolver: Resolver = "{}",
        /// The folder where Portolan keeps what must outlive it: the last configuration that ran, for
        /// `portolan run --last-known-good`, and the certificates that it asked for, with their keys.
        pub state_dir: At<PathBuf> = "./state",
        /// One JSON line per request. `off` switches it off.
        pub access_log: Switch<AccessLog> = "{}",
        /// Portolan's own log, on standard error.
        pub log: Log = "{}",
        /// How long connections are still accepted after SIGTERM while `/readyz` already says no,
        /// so that a load balancer in front can look away first. Part of `shutdown_timeout`.
        pub lame_duck: At<TimeSpan> = "0s",
        /// Threads that serve requests, 1 to 1024. By default as many as the process may use cores;
        /// the environment variable `PORTOLAN_WORKERS` wins over both. Changing it needs a restart.
        pub workers: Option<At<Count>>,
        /// How long requests in flight may take to finish after SIGTERM before they are cut.
        pub shutdown_timeout: At<TimeSpan> = "30s",
        /// How long the listeners wait at start for the first verdict on every pool.
        pub startup_grace: At<TimeSpan> = "3s",
        /// Values that every pool and every route has unless it says otherwise: one level of
        /// inheritance. A mapping is inherited key by key; anything else as a whole. A pool whose
        /// `health` names a kind of probe does not inherit another kind.
        pub defaults: Option<Defaults>,
        /// Interchangeable endpoints under one name, normally those of one cloud region.
        pub pools: Entries<Name, Pool>,
        /// Targets with a name, to be used by routes and by each other.
        pub services: Entries<Name, Target>,
        /// Which requests go to which target.
        pub routes: Vec<Route>,
        /// Requests and where they must go, run by `portolan check` and before every reload.
        pub tests: Vec<Test>,
    }
    not_yet { "fences", "releases", "bursts", "failovers", "fleet", "dns", "discovery" }
}

document! {
    /// Values for every pool and route that does not say otherwise.
    pub struct Defaults as "`defaults`" {
        /// For every pool: see the pool's `balance`.
        pub balance: Option<Balance>,
        /// For every pool: see the pool's `protocol`.
        pub protocol: Option<At<Protocol>>,
        /// For every pool: see the pool's `tls`.
        pub tls: Option<UpstreamTls>,
        /// For every pool: see the pool's `health`.
        pub health: Option<Switch<Health>>,
        /// For every pool: see the pool's `min_healthy`.
        pub min_healthy: Option<At<crate::units::Quota>>,
        /// For every pool: see the pool's `outlier`.
        pub outlier: Option<Switch<Outlier>>,
        /// For every pool: see the pool's `slow_start`.
        pub slow_start: Option<Switch<At<TimeSpan>>>,
        /// For every pool: see the pool's `overprovision`.
        pub overprovision: Option<At<f64>>,
        /// For every pool: see the pool's `timeouts`.
        pub timeouts: Option<Timeouts>,
        /// For every pool: see the pool's `capacity`.
        pub capacity: Option<Capacity>,
        /// For every route: see the route's `retry`.
        pub retry: Option<Retry>,
        /// For every route: see the route's `timeout`.
        pub timeout: Option<At<TimeSpan>>,
        /// For every route: see the route's `hedge`.
        pub hedge: Option<Hedge>,
        /// For every route: see the route's `when_all_down`.
        pub when_all_down: Option<WhenAllDown>,
        /// For every route: see the route's `affinity`.
        pub affinity: Option<Switch<Affinity>>,
        /// For every route: see the route's `expose`.
        pub expose: Option<At<bool>>,
        /// For every route: see the route's `auth`.
        pub auth: Option<Switch<Auth>>,
        /// For every route: see the route's `rate_limit`.
        pub rate_limit: Option<OneOrMany<RateLimit>>,
        /// For every route: see the route's `hsts`.
        pub hsts: Option<Switch<Hsts>>,
        /// For every route: see the route's `security_headers`.
        pub security_headers: Option<Switch<SecurityHeaders>>,
        /// For every route: see the route's `cors`.
        pub cors: Option<Switch<Cors>>,
        /// For every route: see the route's `request_headers`.
        pub request_headers: Option<HeaderEdits>,
        /// For every route: see the route's `response_headers`.
        pub response_headers: Option<HeaderEdits>,
    }
}

/// The keys of `defaults` that pools inherit; all others are for routes.
pub(crate) const POOL_DEFAULTS: &[&str] = &[
    "balance",
    "protocol",
    "tls",
    "health",
    "min_healthy",
    "outlier",
    "slow_start",
    "overprovision",
    "timeouts",
    "capacity",
];

/// The keys of `defaults` that routes inherit.
pub(crate) const ROUTE_DEFAULTS: &[&str] = &[
    "retry",
    "timeout",
    "hedge",
    "when_all_down",
    "affinity",
    "expose",
    "auth",
    "rate_limit",
    "hsts",
    "security_headers",
    "cors",
    "request_headers",
    "response_headers",
];

keywords! {
    /// How names of headers are written over HTTP/1.1.
    pub enum HeaderCase {
        /// As they came over HTTP/1.1. Those that came over HTTP/2, and those that Portolan adds, are
        /// written as in the standards: `Content-Type`, `X-Forwarded-For`.
        Keep = "keep",
        /// In small letters, all of them: `content-type`, as in HTTP/2.
        Lower = "lower",
    }
}

document! {
    /// Databases in MaxMind's format (`.mmdb`), watched and swapped while Portolan runs. Without
    /// one, a country database that is built in answers. They are only asked when a route needs to
    /// know where a client is.
    pub struct GeoIp as "`geoip`" {
        /// A city or country database. A city database also gives subdivisions and coordinates.
        pub database: Option<At<PathBuf>>,
        /// A database of autonomous systems, for rules with `asns`.
        pub asn_database: Option<At<PathBuf>>,
        /// Networks whose country you know better than any database, or that are in none: an office
        /// behind private addresses, say. The longest network that contains an address counts, before
        /// everything else.
        pub patch: Entries<IpNet, At<CountryCode>>,
    }
}

document! {
    /// How names of endpoints (`dns:`) are resolved.
    pub struct Resolver as "`resolver`" {
        /// Name servers to ask, as `IP:port`. By default those of the system.
        pub servers: Vec<At<SocketAddr>>,
        /// How long one question may take.
        pub timeout: At<TimeSpan> = "2s",
        /// Answers are asked for again when their time to live is over, but not sooner than this.
        pub min_ttl: At<TimeSpan> = "1s",
        /// Answers are asked for again at the latest after this.
        pub max_ttl: At<TimeSpan> = "5m",
    }
}

document! {
    /// The access log. A queue and a writer of its own keep it away from the requests: when the
    /// disk cannot follow, lines are dropped and counted, and no request waits.
    pub struct AccessLog as "`access_log`" {
        /// `stdout`, `stderr`, or a file (appended to; opened again on reload, for rotation).
        pub to: At<String> = "stdout",
        /// The share of requests that are logged. Those that end in an error always are.
        pub sample: At<Percent> = "100%",
    }
}

document! {
    /// Portolan's own log, on standard error. The environment variable `RUST_LOG` wins over
    /// `level`.
    pub struct Log as "`log`" {
        /// How much is said.
        pub level: At<LogLevel> = "info",
        /// Text for people or JSON for programs.
        pub format: At<LogFormat> = "text",
    }
}

keywords! {
    /// How much the log says.
    pub enum LogLevel {
        /// Only what needs a human.
        Error = "error",
        /// Also what may soon.
        Warn = "warn",
        /// Also what changed.
        Info = "info",
        /// Also why.
        Debug = "debug",
        /// Everything.
        Trace = "trace",
    }
}

keywords! {
    /// How the log is written.
    pub enum LogFormat {
        /// Lines for people.
        Text = "text",
        /// One JSON object per line.
        Json = "json",
    }
}
