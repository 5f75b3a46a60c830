//! Mutual TLS: what clients are verified with, and what endpoints are told about them.

use std::path::Path;
use std::sync::Arc;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use portolan_config::plan::ClientAuthPlan;
use portolan_config::source::Origin;
use rustls::RootCertStore;
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer};
use x509_parser::prelude::{CertificateRevocationList, FromDer as _, X509Certificate};

use crate::bundle::read_chain;
use crate::digest::sha256;
use crate::error::BundleError;
use crate::pem::Pem;
use crate::shown::distinguished_name;
use crate::verifier::{ClientVerifier, own};

/// What clients of a listener are verified with.
#[derive(Clone, Debug)]
pub struct ClientAuth {
    /// Verifies their certificates.
    pub(crate) verifier: Arc<dyn ClientCertVerifier>,
    /// Differs between any two that would not verify alike.
    pub(crate) scope: String,
    /// When the first list of revoked certificates is too old, in seconds since 1970.
    pub lists_end: Option<i64>,
}

impl ClientAuth {
    /// Loads CAs and lists of revoked certificates.
    ///
    /// # Errors
    /// Where the file stood in the configuration, and why it cannot be used.
    pub(crate) fn load(plan: &ClientAuthPlan) -> Result<Self, (Origin, BundleError)> {
        let chain = read_chain(&plan.ca.value).map_err(|error| (plan.ca.origin, error))?;
        let mut scope = format!("optional: {}", plan.optional);
        for certificate in &chain {
            scope.push_str(&sha256(certificate));
        }
        let roots = roots(&chain, &plan.ca.value).map_err(|error| (plan.ca.origin, error))?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
        let mut lists_end = None;
        let mut place = plan.ca.origin;
        if let Some(crl) = &plan.crl {
            place = crl.origin;
            let lists = read_lists(&crl.value).map_err(|error| (crl.origin, error))?;
            scope.push_str(" without ");
            for list in &lists {
                scope.push_str(&sha256(list));
            }
            lists_end = lists.iter().filter_map(|list| end_of(list)).min();
            builder = builder.with_crls(lists).enforce_revocation_expiration();
        }
        if plan.optional {
            builder = builder.allow_unauthenticated();
        }
        let verifier = builder.build().map_err(|_| {
            let path = plan.crl.as_ref().unwrap_or(&plan.ca);
            let error = BundleError::Unusable {
                path: path.value.display().to_string(),
                what: "a list of revoked certificates",
                error: "it is damaged, or not of version 2 (`openssl ca -gencrl` makes one of \
                        version 2 with `crl_extensions`)"
                    .to_owned(),
            };
            (place, error)
        })?;
        // Lists of revoked certificates say nothing about one that is trusted as it is: where there are
        // lists, whoever shows one must be of a CA.
        let pins = match plan.crl {
            Some(_) => Vec::new(),
            None => own(&chain),
        };
        let verifier: Arc<dyn ClientCertVerifier> = match pins.is_empty() {
            true => verifier,
            false => Arc::new(ClientVerifier {
                inner: verifier,
                pins,
            }),
        };
        Ok(Self {
            verifier,
            scope,
            lists_end,
        })
    }
}

/// CAs to trust.
///
/// # Errors
/// One of them cannot be one.
pub(crate) fn roots(
    chain: &[CertificateDer<'static>],
    path: &Path,
) -> Result<RootCertStore, BundleError> {
    let mut roots = RootCertStore::empty();
    for (at, certificate) in chain.iter().enumerate() {
        if roots.add(certificate.clone()).is_err() {
            return Err(BundleError::Unusable {
                path: path.display().to_string(),
                what: "a CA",
                error: format!(
                    "certificate {} in it has something that cannot be understood",
                    at + 1
                ),
            });
        }
    }
    Ok(roots)
}

fn read_lists(path: &Path) -> Result<Vec<CertificateRevocationListDer<'static>>, BundleError> {
    const WHAT: &str = "list of revoked certificates";
    let lists = Pem::read(path)?.revocation_lists();
    let lists = lists.map_err(|found| BundleError::pem(path, found))?;
    if lists.is_empty() {
        return Err(BundleError::Missing {
            path: path.display().to_string(),
            what: WHAT,
        });
    }
    Ok(lists)
}

fn end_of(list: &CertificateRevocationListDer<'_>) -> Option<i64> {
    let (_, list) = CertificateRevocationList::from_der(list.as_ref()).ok()?;
    list.next_update().map(|time| time.timestamp())
}

/// Who a client is, as its certificate says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientIdentity {
    /// Whose certificate it is (RFC 4514, so that nothing in a name can pass for another part).
    pub subject: String,
    /// The SHA-256 of the certificate, in hexadecimal.
    pub fingerprint: String,
    /// Its serial number, in hexadecimal.
    pub serial: String,
    /// The certificate as a header says it (RFC 9440): `:MIIB…:`.
    pub encoded: String,
    /// When it stops being valid, in seconds since 1970.
    pub not_after: i64,
}

impl ClientIdentity {
    /// Reads a certificate that was verified. `None`: it cannot be read by us.
    pub fn of(certificate: &CertificateDer<'_>) -> Option<Self> {
        let (_, parsed) = X509Certificate::from_der(certificate.as_ref()).ok()?;
        Some(Self {
            subject: distinguished_name(parsed.subject()),
            fingerprint: sha256(certificate),
            serial: crate::shown::hexadecimal(parsed.raw_serial()),
            encoded: format!(":{}:", BASE64_STANDARD.encode(certificate)),
            not_after: parsed.validity().not_after.timestamp(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_in_a_name_passes_for_another_part() {
        let mut parameters = rcgen::CertificateParams::default();
        parameters.distinguished_name = rcgen::DistinguishedName::new();
        parameters
            .distinguished_name
            .push(rcgen::DnType::OrganizationName, "A, CN=admin");
        parameters
            .distinguished_name
            .push(rcgen::DnType::CommonName, " caf\u{e9}#\r\n");
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate = parameters.self_signed(&key).unwrap();
        let identity = ClientIdentity::of(certificate.der()).unwrap();
        assert_eq!(
            identity.subject,
            "CN=\\ caf\\c3\\a9#\\0d\\0a,O=A\\, CN\\=admin"
        );
        assert_eq!(identity.fingerprint.len(), 64);
        assert!(identity.encoded.starts_with(":MII") && identity.encoded.ends_with(':'));
    }
}
