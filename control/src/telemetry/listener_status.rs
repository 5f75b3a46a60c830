//! What a listener is and counts, for metrics and the API.

use std::net::SocketAddr;
use std::sync::Arc;

use portolan_certs::ServerTls;

use crate::counters::Gauge;
use crate::telemetry::handshakes::Handshakes;

/// A listener as it runs.
#[derive(Clone, Debug)]
pub struct ListenerStatus {
    /// The address in the configuration.
    pub configured: SocketAddr,
    /// The address it really has: port 0 has become one.
    pub bound: SocketAddr,
    /// TLS, if it is terminated there.
    pub tls: Option<Arc<ServerTls>>,
    /// TLS handshakes.
    pub handshakes: Arc<Handshakes>,
    /// Open connections.
    pub connections: Arc<Gauge>,
}
