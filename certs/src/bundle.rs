//! One certificate chain with its key, and what it is good for.

use std::path::Path;
use std::sync::Arc;

use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::{self, PemObject as _};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer as _, X509Certificate};

/// A chain with its key, ready to be shown to clients.
#[derive(Clone, Debug)]
pub struct Bundle {
    /// The chain and the key as rustls uses them.
    pub certified: Arc<CertifiedKey>,
    /// The names it is good for, in lower case; `*.example.com` is a wildcard.
    pub names: Vec<String>,
    /// When it stops being valid, in seconds since 1970.
    pub not_after: i64,
}

/// Why a chain or a key cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// The file cannot be read.
    #[error("cannot read `{path}`: {error}")]
    Unreadable {
        /// The file.
        path: String,
        /// Why.
        error: String,
    },
    /// There is nothing of the kind in it.
    #[error("`{path}` holds no {what}")]
    Missing {
        /// The file.
        path: String,
        /// What was looked for.
        what: &'static str,
    },
    /// A certificate is not one.
    #[error("certificate {number} in `{path}` cannot be read: {error}")]
    Malformed {
        /// The file.
        path: String,
        /// Which one, from 1.
        number: usize,
        /// Why.
        error: String,
    },
    /// The key is of a kind that cannot be used.
    #[error("the key in `{path}` cannot be used: {error}")]
    Key {
        /// The file.
        path: String,
        /// Why.
        error: String,
    },
    /// Key and certificate do not belong together.
    #[error("the key in `{key}` does not belong to the certificate in `{cert}`")]
    Mismatch {
        /// The certificate's file.
        cert: String,
        /// The key's file.
        key: String,
    },
}

impl Bundle {
    /// Loads a chain and its key.
    ///
    /// # Errors
    /// When either cannot be read, or they do not belong together.
    pub fn load(cert: &Path, key: &Path) -> Result<Self, BundleError> {
        let chain = read_chain(cert)?;
        let key_der = read_key(key)?;
        let leaf = parse(&chain[0], cert, 1)?;
        let names = names_of(&leaf);
        let not_after = leaf.validity().not_after.timestamp();
        let provider = rustls::crypto::ring::default_provider();
        let certified =
            CertifiedKey::from_der(chain, key_der, &provider).map_err(|error| match error {
                rustls::Error::InconsistentKeys(_) => BundleError::Mismatch {
                    cert: cert.display().to_string(),
                    key: key.display().to_string(),
                },
                other => BundleError::Key {
                    path: key.display().to_string(),
                    error: other.to_string(),
                },
            })?;
        Ok(Self {
            certified: Arc::new(certified),
            names,
            not_after,
        })
    }
}

/// Every certificate of a PEM file, each one readable by the engine as well.
///
/// # Errors
/// When there is none, or one cannot be read.
pub(crate) fn read_chain(path: &Path) -> Result<Vec<CertificateDer<'static>>, BundleError> {
    let chain = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| pem_error(path, "certificate", &error))?;
    if chain.is_empty() {
        return Err(BundleError::Missing {
            path: path.display().to_string(),
            what: "certificate",
        });
    }
    for (at, certificate) in chain.iter().enumerate() {
        parse(certificate, path, at + 1)?;
    }
    Ok(chain)
}

/// The private key of a PEM file.
///
/// # Errors
/// When there is none, or it is encrypted.
pub(crate) fn read_key(path: &Path) -> Result<PrivateKeyDer<'static>, BundleError> {
    PrivateKeyDer::from_pem_file(path).map_err(|error| pem_error(path, "private key", &error))
}

fn pem_error(path: &Path, what: &'static str, error: &pem::Error) -> BundleError {
    let path = path.display().to_string();
    match error {
        pem::Error::NoItemsFound => BundleError::Missing { path, what },
        pem::Error::Io(error) => BundleError::Unreadable {
            path,
            error: error.to_string(),
        },
        other => BundleError::Unreadable {
            path,
            error: format!("not PEM: {other:?}"),
        },
    }
}

fn parse<'a>(
    certificate: &'a CertificateDer<'_>,
    path: &Path,
    number: usize,
) -> Result<X509Certificate<'a>, BundleError> {
    match X509Certificate::from_der(certificate.as_ref()) {
        Ok((_, parsed)) => Ok(parsed),
        Err(error) => Err(BundleError::Malformed {
            path: path.display().to_string(),
            number,
            error: error.to_string(),
        }),
    }
}

/// The DNS names and addresses a certificate is good for. The subject's common name counts for
/// nothing: clients have ignored it for years.
fn names_of(certificate: &X509Certificate<'_>) -> Vec<String> {
    let Ok(Some(alternatives)) = certificate.subject_alternative_name() else {
        return Vec::new();
    };
    alternatives
        .value
        .general_names
        .iter()
        .filter_map(|name| match name {
            GeneralName::DNSName(name) => Some(name.to_ascii_lowercase()),
            GeneralName::IPAddress(bytes) => match bytes.len() {
                4 => <[u8; 4]>::try_from(*bytes)
                    .ok()
                    .map(|b| std::net::IpAddr::from(b).to_string()),
                16 => <[u8; 16]>::try_from(*bytes)
                    .ok()
                    .map(|b| std::net::IpAddr::from(b).to_string()),
                _ => None,
            },
            _ => None,
        })
        .collect()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Writes a self-signed certificate for these names; gives the paths of chain and key.
    pub(crate) fn self_signed(
        folder: &Path,
        file: &str,
        names: &[&str],
    ) -> (std::path::PathBuf, std::path::PathBuf) {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let made = rcgen::generate_simple_self_signed(names).unwrap();
        let cert = folder.join(format!("{file}.pem"));
        let key = folder.join(format!("{file}.key"));
        std::fs::write(&cert, made.cert.pem()).unwrap();
        std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
        (cert, key)
    }

    #[test]
    fn a_pair_that_belongs_together_says_its_names() {
        let folder = tempfile::tempdir().unwrap();
        let (cert, key) = self_signed(
            folder.path(),
            "a",
            &["API.example.com", "*.example.org", "192.0.2.1"],
        );
        let bundle = Bundle::load(&cert, &key).unwrap();
        assert_eq!(
            bundle.names,
            ["api.example.com", "*.example.org", "192.0.2.1"]
        );
        assert!(bundle.not_after > 0);
    }

    #[test]
    fn what_cannot_be_used_says_which_file_and_why() {
        let folder = tempfile::tempdir().unwrap();
        let (cert, key) = self_signed(folder.path(), "a", &["a.example"]);
        let (_, other_key) = self_signed(folder.path(), "b", &["b.example"]);
        let said = |cert: &Path, key: &Path| Bundle::load(cert, key).unwrap_err().to_string();
        assert!(said(&cert, &other_key).contains("does not belong"));
        assert!(said(&key, &key).contains("holds no certificate"));
        assert!(said(&cert, &cert).contains("holds no private key"));
        assert!(said(&folder.path().join("none"), &key).contains("cannot read"));
        let garbage = folder.path().join("garbage.pem");
        std::fs::write(
            &garbage,
            "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
        )
        .unwrap();
        assert!(said(&garbage, &key).contains("certificate 1"));
    }
}
