//! Certificates that answer a CA's question (TLS-ALPN-01, RFC 8737): shown to nobody but a client
//! that speaks `acme-tls/1`, and only for as long as the question stands.

use std::collections::HashMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

/// The protocol that a CA asks with.
pub const ALPN: &[u8] = b"acme-tls/1";

/// The answers that stand now, by name, for every TLS listener of the process.
#[derive(Clone, Debug, Default)]
pub struct Challenges(Arc<ArcSwap<HashMap<String, Arc<CertifiedKey>>>>);

impl Challenges {
    /// Answers for this name (in lower case) with this certificate until it is removed.
    pub fn insert(&self, name: &str, answer: &Arc<CertifiedKey>) {
        self.0.rcu(|before| {
            let mut next = HashMap::clone(before);
            next.insert(name.to_owned(), answer.clone());
            next
        });
    }

    /// Answers no longer for this name.
    pub fn remove(&self, name: &str) {
        self.0.rcu(|before| {
            let mut next = HashMap::clone(before);
            next.remove(name);
            next
        });
    }
}

impl ResolvesServerCert for Challenges {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let name = hello.server_name()?.to_ascii_lowercase();
        self.0.load().get(&name).cloned()
    }
}
