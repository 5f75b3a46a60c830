//! What endpoints are verified with, and what Portolan shows them.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::path::PathBuf;

use portolan_config::plan::UpstreamTlsPlan;
use portolan_config::source::At;
use rustls::RootCertStore;
use rustls_pki_types::CertificateDer;
use x509_parser::prelude::{FromDer as _, X509Certificate, X509Version};

use crate::bundle::{Bundle, Validity, read_chain, read_key};
use crate::client::roots;
use crate::error::BundleError;
use crate::verifier::{ServerVerifier, own};

/// Certificates in DER, ready for whoever opens connections.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UpstreamIdentity {
    /// CAs to trust; empty: those of the system.
    pub ca: Vec<Vec<u8>>,
    /// A chain to show and its key.
    pub client: Option<(Vec<Vec<u8>>, Vec<u8>)>,
    /// From when to when the certificate that is shown is valid, in seconds since 1970.
    pub client_valid: Option<(i64, i64)>,
}

impl UpstreamIdentity {
    /// Loads what a pool's `tls` names.
    ///
    /// # Errors
    /// The file's place in the configuration, and why it cannot be used.
    pub fn load(plan: &UpstreamTlsPlan) -> Result<Self, (&At<PathBuf>, BundleError)> {
        let mut identity = Self::default();
        if let Some(ca) = &plan.ca {
            let chain = read_chain(&ca.value).map_err(|error| (ca, error))?;
            // What cannot be a CA would fail every handshake later.
            roots(&chain, &ca.value).map_err(|error| (ca, error))?;
            identity.ca = chain
                .iter()
                .map(|certificate| certificate.to_vec())
                .collect();
        }
        if let Some((cert, key)) = &plan.client {
            // Loaded as a pair first: a key of another certificate fails every handshake later.
            let pair = Bundle::load_pair(&cert.value, &key.value).map_err(|error| {
                match error.is_about(&cert.value) {
                    false if error.is_about(&key.value) => (key, error),
                    _ => (cert, error),
                }
            })?;
            let key_der = read_key(&key.value).map_err(|error| (key, error))?;
            identity.client = Some((
                pair.certified
                    .cert
                    .iter()
                    .map(|certificate| certificate.to_vec())
                    .collect(),
                key_der.secret_der().to_vec(),
            ));
            identity.client_valid = Some((pair.not_before, pair.not_after));
        }
        Ok(identity)
    }

    /// Whether the certificate that is shown is valid; without one, it is.
    pub fn validity(&self, now: i64) -> Validity {
        match self.client_valid {
            Some((not_before, _)) if now < not_before => Validity::NotYet,
            Some((_, not_after)) if now > not_after => Validity::Expired,
            _ => Validity::Valid,
        }
    }

    /// What endpoints are verified with when their own certificates may be among those that are trusted.
    /// Nothing: by CAs alone.
    pub fn verifier(&self) -> Option<ServerVerifier> {
        let chain: Vec<CertificateDer<'static>> =
            self.ca.iter().cloned().map(CertificateDer::from).collect();
        let pins = own(&chain);
        if pins.is_empty() {
            return None;
        }
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(chain);
        ServerVerifier::new(roots, pins)
    }

    /// The certificates among those that are trusted which cannot be anybody's own, by their numbers from
    /// 1: signed by themselves, and of X.509 version 1, which no library verifies a server by.
    pub(crate) fn old_versions(&self) -> Vec<usize> {
        let old = |der: &Vec<u8>| {
            X509Certificate::from_der(der).is_ok_and(|(_, certificate)| {
                certificate.version() == X509Version::V1
                    && certificate.subject().as_raw() == certificate.issuer().as_raw()
            })
        };
        let all = self.ca.iter().enumerate();
        all.filter(|(_, der)| old(der))
            .map(|(at, _)| at + 1)
            .collect()
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
