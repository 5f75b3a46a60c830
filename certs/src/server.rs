//! The TLS settings of a listener.

use std::sync::Arc;

use portolan_config::document::MinTlsVersion;
use rustls::ServerConfig;
use rustls::server::ProducesTickets;

use crate::store::{CertificateStore, Resolver};

/// How a listener speaks TLS.
#[derive(Clone, Debug)]
pub struct ServerTls {
    /// The settings as rustls uses them.
    pub config: Arc<ServerConfig>,
    /// Its certificates.
    pub store: Arc<CertificateStore>,
}

/// Makes ring the process's one provider of cryptography. Called first thing: whoever is first
/// wins, and the engine would choose for itself.
pub fn install_provider() {
    // An error says that one is installed already, which is the same one: there is no other in the
    // program.
    let _ = rustls::crypto::ring::default_provider().install_default();
}

/// Keys of session tickets, made once for the life of the process so that clients can resume
/// their sessions across reloads.
#[derive(Clone, Debug)]
pub struct Tickets(Option<Arc<dyn ProducesTickets>>);

impl Tickets {
    /// Fresh keys. They are changed every six hours by rustls itself.
    pub fn new() -> Self {
        Self(rustls::crypto::ring::Ticketer::new().ok())
    }
}

impl Default for Tickets {
    fn default() -> Self {
        Self::new()
    }
}

impl ServerTls {
    /// Settings for these certificates.
    pub fn new(store: CertificateStore, min_version: MinTlsVersion, tickets: &Tickets) -> Self {
        let store = Arc::new(store);
        let versions: &[&rustls::SupportedProtocolVersion] = match min_version {
            MinTlsVersion::Tls12 => &[&rustls::version::TLS13, &rustls::version::TLS12],
            MinTlsVersion::Tls13 => &[&rustls::version::TLS13],
        };
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)
            .expect("ring has cipher suites for TLS 1.2 and 1.3")
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(Resolver(store.clone())));
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        if let Some(ticketer) = &tickets.0 {
            config.ticketer = ticketer.clone();
        }
        Self {
            config: Arc::new(config),
            store,
        }
    }
}
