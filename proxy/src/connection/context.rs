//! What is known about a client connection.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use http::HeaderValue;
use portolan_certs::CertificateStore;
use portolan_certs::store::Able;
use portolan_control::telemetry::totals::Totals;

use crate::connection::carried::Carried;
use crate::connection::client_certificate::ClientCertificate;
use crate::listener::Listener;
use crate::record::recorder::Recorder;

/// A client's connection.
#[derive(Debug)]
pub(crate) struct ConnectionContext {
    /// The client's socket.
    pub(crate) peer: SocketAddr,
    /// Its address as text.
    pub(crate) peer_text: HeaderValue,
    /// Our end of it.
    pub(crate) local: SocketAddr,
    /// The listener that accepted it.
    pub(crate) listener: Arc<Listener>,
    /// What TLS agreed on.
    pub(crate) tls: Option<TlsContext>,
    /// What is counted about the process.
    pub(crate) totals: Arc<Totals>,
    /// The request under way is the last that this connection may bring.
    pub(crate) last: AtomicBool,
    /// Who writes down what became of its requests.
    pub(crate) recorder: Arc<Recorder>,
    /// For whom it speaks, if it may.
    pub(crate) carried: Arc<Carried>,
}

impl ConnectionContext {
    /// Whether the request under way is the last that this connection may bring.
    pub(crate) fn is_at_its_end(&self) -> bool {
        self.last.load(Ordering::Relaxed)
    }
}

/// What TLS agreed on.
#[derive(Debug)]
pub(crate) struct TlsContext {
    /// `TLSv1.3`.
    pub(crate) version: &'static str,
    /// The certificates the client could have got.
    pub(crate) store: Arc<CertificateStore>,
    /// The one it got, by index.
    pub(crate) certificate: Option<usize>,
    /// It said for which name it comes.
    pub(crate) named: bool,
    /// What it can verify.
    pub(crate) able: Able,
    /// It was asked for a certificate of its own.
    pub(crate) asked: bool,
    /// The one that it showed, verified.
    pub(crate) client: Option<Arc<ClientCertificate>>,
}
