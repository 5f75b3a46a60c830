//! An endpoint of a pool → how the engine connects to it.
//!
//! Everything that does not change between requests is prepared once, when the configuration or a
//! name's addresses change; a try clones it.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use http::HeaderValue;
use pingora::protocols::tls::{CaType, TlsRef};
use pingora::protocols::{Stream, TcpKeepalive};
use pingora::upstreams::peer::{HttpPeer, Peer as _};
use pingora::utils::tls::{CertKey, WrappedX509, parse_x509};
use pingora::{Error, ErrorType, Result};
use portolan_certs::UpstreamIdentity;
use portolan_certs::verifier::ServerVerifier;
use portolan_config::document::{Protocol, ProxyVersion};
use portolan_config::plan::{PoolPlan, ProbeKind};
use portolan_control::pool::endpoint::Endpoint;

use crate::proxy_protocol::Addresses;
use crate::upstream::connect::proxy_protocol::announce;

/// When a silent connection is first asked whether it still lives, how often from then on, and how
/// often in vain.
pub(crate) const KEEPALIVE_IDLE: Duration = Duration::from_secs(30);
pub(crate) const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
pub(crate) const KEEPALIVE_COUNT: u32 = 3;

/// Connections to one endpoint.
#[derive(Clone, Debug)]
pub(crate) struct Peers {
    /// For requests.
    requests: Prepared,
    /// For requests that want to upgrade their connection: HTTP/1.1 alone, where that is spoken.
    upgrades: Prepared,
    /// For probes: the same as for requests, perhaps on another port.
    probes: Prepared,
    /// Probes that failed: what the next one is sent over was opened after the last of them.
    failed_probes: Arc<AtomicU64>,
    /// What probes ask for as Host.
    pub(crate) probe_host: String,
    /// The PROXY protocol header that connections for requests begin with.
    pub(crate) send_proxy: Option<ProxyVersion>,
}

impl Peers {
    /// For requests, over connections of the endpoint's current connection_generation ([`Endpoint::connection_generation`]).
    pub(crate) fn requests(&self, endpoint: &Arc<Endpoint>) -> Target {
        Target::new(&self.requests, Cohorts::Endpoint(endpoint.clone()))
    }

    /// For requests that want to upgrade their connection.
    pub(crate) fn upgrades(&self, endpoint: &Arc<Endpoint>) -> Target {
        Target::new(&self.upgrades, Cohorts::Endpoint(endpoint.clone()))
    }

    /// For a probe that begins now.
    pub(crate) fn probe(&self) -> Target {
        let mut target = Target::new(&self.probes, Cohorts::Probes(self.failed_probes.clone()));
        // On nobody's behalf.
        target.announced = self.send_proxy.map(|version| (version, None));
        target
    }

    /// A probe has failed, and perhaps because its connection was dead.
    pub(crate) fn probe_failed(&self) {
        self.failed_probes.fetch_add(1, Ordering::Relaxed);
    }

    /// Prepares connections to an endpoint.
    pub(crate) fn new(
        pool: &PoolPlan,
        identity: Option<&Arc<UpstreamIdentity>>,
        address: SocketAddr,
        name: Option<&str>,
    ) -> Self {
        let verifier = verifier(pool, identity);
        let verifier = verifier.as_ref();
        let peer = |address| {
            let mut peer = peer(pool, identity, address, name);
            if verifier.is_some() {
                // Afterwards (see `Target::verify`). That it has the key, it proves to the engine.
                peer.options.verify_cert = false;
                peer.options.verify_hostname = false;
            }
            peer
        };
        let requests = peer(address);
        let mut upgrades = requests.clone();
        if upgrades.options.alpn.get_min_http_version() == 1 {
            upgrades.options.set_http_version(1, 1);
        }
        let mut probes = requests.clone();
        let mut probe_host = match &pool.host {
            Some(host) => String::from_utf8_lossy(host.as_bytes()).into_owned(),
            None => String::from_utf8_lossy(authority(address, name).as_bytes()).into_owned(),
        };
        if let Some(probe) = &pool.probe {
            if let Some(port) = probe.port {
                probes = peer(SocketAddr::new(address.ip(), port));
            }
            if let Some(host) = &probe.host {
                probe_host = String::from_utf8_lossy(host.as_bytes()).into_owned();
            }
            if let ProbeKind::Grpc { .. } = probe.kind {
                probes.options.set_http_version(2, 2);
            }
            probes.options.connection_timeout = Some(probe.timeout);
            probes.options.total_connection_timeout = Some(probe.timeout);
        }
        let authority = authority(address, name);
        Self {
            requests: Prepared::new(requests, verifier, &authority),
            upgrades: Prepared::new(upgrades, verifier, &authority),
            probes: Prepared::new(probes, verifier, &authority),
            failed_probes: Arc::default(),
            probe_host,
            send_proxy: pool.send_proxy,
        }
    }
}

/// What does not change between connections.
#[derive(Clone, Debug)]
struct Prepared {
    peer: Arc<HttpPeer>,
    /// Verifies the endpoint once hands are shaken, where the engine cannot do so.
    verifier: Option<Arc<ServerVerifier>>,
    /// What they are known by, but for their connection_generation.
    key: u64,
    /// The endpoint's own name, with its port.
    authority: HeaderValue,
}

impl Prepared {
    fn new(
        peer: HttpPeer,
        verifier: Option<&Arc<ServerVerifier>>,
        authority: &HeaderValue,
    ) -> Self {
        Self {
            key: peer.reuse_hash(),
            peer: Arc::new(peer),
            verifier: verifier.cloned(),
            authority: authority.clone(),
        }
    }
}

/// What an endpoint is called by its configuration: its name or else its address, with the port.
fn authority(address: SocketAddr, name: Option<&str>) -> HeaderValue {
    let of = |text: String| HeaderValue::try_from(text).ok();
    name.and_then(|name| of(format!("{name}:{}", address.port())))
        .or_else(|| of(address.to_string()))
        // Digits, letters, colons and brackets: what a header may have.
        .unwrap_or(HeaderValue::from_static("unknown"))
}

/// Whose cohorts connections belong to: they are shared within one.
#[derive(Clone, Debug)]
enum Cohorts {
    /// A new one begins when the endpoint is out of order.
    Endpoint(Arc<Endpoint>),
    /// A new one begins with every probe that fails.
    Probes(Arc<AtomicU64>),
}

impl Cohorts {
    fn current(&self) -> u64 {
        match self {
            Self::Endpoint(endpoint) => endpoint.connection_generation(),
            Self::Probes(failed) => failed.load(Ordering::Relaxed),
        }
    }
}

/// Where a request's connection leads.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    peer: Arc<HttpPeer>,
    verifier: Option<Arc<ServerVerifier>>,
    key: u64,
    authority: HeaderValue,
    cohorts: Cohorts,
    connection_generation: u64,
    /// The PROXY protocol header that it begins with, and for whom it is.
    announced: Option<(ProxyVersion, Option<Addresses>)>,
}

impl Target {
    fn new(prepared: &Prepared, cohorts: Cohorts) -> Self {
        let connection_generation = cohorts.current();
        Self {
            peer: prepared.peer.clone(),
            verifier: prepared.verifier.clone(),
            key: prepared.key ^ apart(connection_generation),
            authority: prepared.authority.clone(),
            cohorts,
            connection_generation,
            announced: None,
        }
    }

    /// The same over connections that begin with a header which says for whom they are.
    pub(crate) fn announcing(mut self, version: ProxyVersion, who: Addresses) -> Self {
        let mut hasher = DefaultHasher::new();
        (self.key, who.source, who.destination).hash(&mut hasher);
        self.key = hasher.finish();
        self.announced = Some((version, Some(who)));
        self
    }

    /// What the endpoint is called where nobody has named a host.
    pub(crate) fn authority(&self) -> &HeaderValue {
        &self.authority
    }

    /// The same over HTTP/2 alone.
    pub(crate) fn over_http2(&self) -> Self {
        let mut peer = HttpPeer::clone(&self.peer);
        peer.options.set_http_version(2, 2);
        Self {
            peer: Arc::new(peer),
            ..self.clone()
        }
    }

    /// Connections are shared between requests with the same key.
    pub(crate) fn key(&self) -> u64 {
        self.key
    }

    /// Whether the endpoint has not been out of order since.
    pub(crate) fn is_current(&self) -> bool {
        self.cohorts.current() == self.connection_generation
    }

    /// Whether it leads over TLS.
    pub(crate) fn is_tls(&self) -> bool {
        self.peer.is_tls()
    }

    /// Whether HTTP/2 may be spoken.
    pub(crate) fn speaks_http2(&self) -> bool {
        self.peer.options.alpn.get_max_http_version() == 2
    }

    /// Whether HTTP/1.1 may be spoken.
    pub(crate) fn speaks_http1(&self) -> bool {
        self.peer.options.alpn.get_min_http_version() == 1
    }

    /// How long connecting may take.
    pub(crate) fn connect_timeout(&self) -> Option<Duration> {
        self.peer.options.connection_timeout
    }

    /// How long a connection may wait for its next request.
    pub(crate) fn keep_idle(&self) -> Duration {
        self.peer.options.idle_timeout.unwrap_or_default()
    }

    /// The address, if there is nothing more to it than to connect.
    pub(crate) fn plain(&self) -> Option<SocketAddr> {
        let plain = !self.is_tls() && self.announced.is_none();
        self.peer.address().as_inet().copied().filter(|_| plain)
    }

    /// The address.
    pub(crate) fn address(&self) -> Option<SocketAddr> {
        self.peer.address().as_inet().copied()
    }

    /// Verifies the endpoint at the other end of a connection on which nothing was said yet, where the
    /// engine has not done so.
    ///
    /// # Errors
    /// It is not believed.
    pub(crate) fn verify(&self, stream: &Stream) -> Result<()> {
        let Some(verifier) = &self.verifier else {
            return Ok(());
        };
        let chain = stream.get_ssl().and_then(TlsRef::peer_cert_chain_der);
        let verified = verifier.verify(chain.unwrap_or_default(), self.peer.sni());
        verified.map_err(|why| Error::explain(ErrorType::InvalidCert, why))
    }

    /// The same for the engine.
    pub(crate) fn peer(&self) -> HttpPeer {
        let mut peer = HttpPeer::clone(&self.peer);
        if let Some((version, who)) = self.announced {
            announce(&mut peer, version, who);
        }
        peer
    }
}

fn peer(
    pool: &PoolPlan,
    identity: Option<&Arc<UpstreamIdentity>>,
    address: SocketAddr,
    name: Option<&str>,
) -> HttpPeer {
    let server_name = pool.tls.as_ref().map(|tls| {
        let own = || name.map_or_else(|| address.ip().to_string(), str::to_owned);
        tls.server_name.as_deref().map_or_else(own, str::to_owned)
    });
    // A SocketAddr, never a name: the engine would resolve a name here and now, and panic if it
    // could not.
    let mut peer = HttpPeer::new(
        address,
        server_name.is_some(),
        server_name.unwrap_or_default(),
    );
    let options = &mut peer.options;
    options.connection_timeout = Some(pool.timeouts.connect);
    options.total_connection_timeout = Some(pool.timeouts.connect * 2);
    options.idle_timeout = Some(pool.timeouts.keep_alive);
    options.tcp_keepalive = Some(TcpKeepalive {
        idle: KEEPALIVE_IDLE,
        interval: KEEPALIVE_INTERVAL,
        count: KEEPALIVE_COUNT as usize,
        user_timeout: Duration::ZERO,
    });
    match (pool.protocol, pool.tls.is_some()) {
        (Protocol::Auto, true) => options.set_http_version(2, 1),
        (Protocol::Auto, false) | (Protocol::Http1, _) => options.set_http_version(1, 1),
        (Protocol::H2 | Protocol::H2c, _) => options.set_http_version(2, 2),
    }
    if pool.tls.as_ref().is_some_and(|tls| tls.insecure) {
        options.verify_cert = false;
        options.verify_hostname = false;
    }
    if let Some(identity) = identity {
        if !identity.ca.is_empty() {
            let ca: Vec<WrappedX509> = identity
                .ca
                .iter()
                .map(|der| WrappedX509::new(der.clone(), parse_x509))
                .collect();
            let ca: Arc<CaType> = ca.into();
            options.ca = Some(ca);
        }
        if let Some((chain, key)) = &identity.client {
            peer.client_cert_key = Some(Arc::new(CertKey::new(chain.clone(), key.clone())));
        }
    }
    peer.group_key = group_key(pool, identity);
    peer
}

/// What endpoints of a pool are verified with where the engine cannot: it takes no certificate that
/// says of itself that it is a CA, though it may be the very one that is trusted.
fn verifier(
    pool: &PoolPlan,
    identity: Option<&Arc<UpstreamIdentity>>,
) -> Option<Arc<ServerVerifier>> {
    let verified = pool.tls.as_ref().is_some_and(|tls| !tls.insecure);
    let identity = identity.filter(|_| verified)?;
    identity.verifier().map(Arc::new)
}

/// A number by which the keys of a connection_generation differ from those of all others.
fn apart(connection_generation: u64) -> u64 {
    // Odd, so that no two cohorts have one.
    const APART: u64 = 0x9e37_79b9_7f4a_7c15;
    connection_generation.wrapping_mul(APART)
}

/// Connections are shared only between requests with the same key: never across pools, and never
/// across identities (the engine's own key leaves the CA out).
fn group_key(pool: &PoolPlan, identity: Option<&Arc<UpstreamIdentity>>) -> u64 {
    let mut hasher = DefaultHasher::new();
    pool.name.hash(&mut hasher);
    pool.protocol.hash(&mut hasher);
    pool.tls.as_ref().map(|tls| tls.insecure).hash(&mut hasher);
    identity
        .map(|identity| identity.fingerprint())
        .hash(&mut hasher);
    hasher.finish()
}
