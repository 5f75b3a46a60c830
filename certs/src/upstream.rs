//! What endpoints are verified with, and what Portolan shows them.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use portolan_config::plan::UpstreamTlsPlan;
use portolan_config::source::At;

use crate::bundle::{Bundle, BundleError, read_chain, read_key};

/// Certificates in DER, ready for whoever opens connections.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UpstreamIdentity {
    /// CAs to trust; empty: those of the system.
    pub ca: Vec<Vec<u8>>,
    /// A chain to show and its key.
    pub client: Option<(Vec<Vec<u8>>, Vec<u8>)>,
}

impl UpstreamIdentity {
    /// Loads what a pool's `tls` names.
    ///
    /// # Errors
    /// The file's place in the configuration, and why it cannot be used.
    pub fn load(plan: &UpstreamTlsPlan) -> Result<Self, (&At<std::path::PathBuf>, BundleError)> {
        let mut identity = Self::default();
        if let Some(ca) = &plan.ca {
            let chain = read_chain(&ca.value).map_err(|error| (ca, error))?;
            identity.ca = chain
                .iter()
                .map(|certificate| certificate.to_vec())
                .collect();
        }
        if let Some((cert, key)) = &plan.client {
            // Loaded as a pair first: a key of another certificate fails every handshake later.
            Bundle::load(&cert.value, &key.value).map_err(|error| (cert, error))?;
            let chain = read_chain(&cert.value).map_err(|error| (cert, error))?;
            let key_der = read_key(&key.value).map_err(|error| (key, error))?;
            identity.client = Some((
                chain
                    .iter()
                    .map(|certificate| certificate.to_vec())
                    .collect(),
                key_der.secret_der().to_vec(),
            ));
        }
        Ok(identity)
    }

    /// A number that differs between identities, so that connections made with one are never used
    /// with another.
    pub fn fingerprint(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.ca.hash(&mut hasher);
        self.client.hash(&mut hasher);
        hasher.finish()
    }
}
