//! One certificate chain with its key, and what it is good for.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::SignatureScheme;
use rustls::sign::CertifiedKey;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::digest::sha256;
use crate::error::{BundleError, unreadable};
use crate::pem::Pem;
use crate::shown::{distinguished_name, hexadecimal};
use crate::staple::Staple;

/// A larger file is no OCSP response: those have a few kilobytes.
const LARGEST_STAPLE: u64 = 64 << 10;

/// A chain with its key, ready to be shown to clients.
#[derive(Clone, Debug)]
pub struct Bundle {
    /// The chain and the key as rustls uses them, without a staple.
    pub certified: Arc<CertifiedKey>,
    /// The same with the CA's word that it is not revoked.
    stapled: Option<(Staple, Arc<CertifiedKey>)>,
    /// Why the staple that is there cannot be used.
    pub staple_fault: Option<BundleError>,
    /// The kind of its key.
    pub kind: KeyKind,
    /// The names it is good for, in lower case; `*.example.com` is a wildcard.
    pub names: Vec<String>,
    /// Whose it is (RFC 4514).
    pub subject: String,
    /// Who issued it (RFC 4514).
    pub issuer: String,
    /// Its serial number, in hexadecimal.
    pub serial: String,
    /// The SHA-256 of its DER, in hexadecimal.
    pub fingerprint: String,
    /// When it begins to be valid, in seconds since 1970.
    pub not_before: i64,
    /// When it stops being valid, in seconds since 1970.
    pub not_after: i64,
}

/// The kinds of keys, in the order in which clients get them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum KeyKind {
    /// ECDSA over P-256.
    EcdsaP256,
    /// ECDSA over P-384.
    EcdsaP384,
    /// Ed25519.
    Ed25519,
    /// RSA.
    Rsa,
}

impl KeyKind {
    /// What it is called.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::EcdsaP256 => "ECDSA P-256",
            Self::EcdsaP384 => "ECDSA P-384",
            Self::Ed25519 => "Ed25519",
            Self::Rsa => "RSA",
        }
    }

    /// The kind of key that signs with this scheme.
    pub(crate) fn of(scheme: SignatureScheme) -> Option<Self> {
        Some(match scheme {
            SignatureScheme::ECDSA_NISTP256_SHA256 => Self::EcdsaP256,
            SignatureScheme::ECDSA_NISTP384_SHA384 => Self::EcdsaP384,
            SignatureScheme::ED25519 => Self::Ed25519,
            SignatureScheme::RSA_PKCS1_SHA256
            | SignatureScheme::RSA_PKCS1_SHA384
            | SignatureScheme::RSA_PKCS1_SHA512
            | SignatureScheme::RSA_PSS_SHA256
            | SignatureScheme::RSA_PSS_SHA384
            | SignatureScheme::RSA_PSS_SHA512 => Self::Rsa,
            _ => return None,
        })
    }
}

/// The files of a pair.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PairFiles {
    /// The chain.
    pub cert: PathBuf,
    /// The key; perhaps the same file.
    pub key: PathBuf,
    /// The OCSP response, if one was named.
    pub ocsp: Option<PathBuf>,
}

impl PairFiles {
    /// Where the OCSP response may be: as named, else beside the chain.
    pub fn staple(&self) -> PathBuf {
        self.ocsp
            .clone()
            .unwrap_or_else(|| self.cert.with_extension("ocsp"))
    }
}

/// Whether a certificate is valid at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Validity {
    /// It is.
    Valid,
    /// It is not valid yet.
    NotYet,
    /// It is no longer valid.
    Expired,
}

impl Bundle {
    /// Loads a chain and its key, and what is stapled to it.
    ///
    /// # Errors
    /// When either cannot be read, or they do not belong together.
    pub fn load(files: &PairFiles) -> Result<Self, BundleError> {
        let mut bundle = Self::load_pair(&files.cert, &files.key)?;
        let path = files.staple();
        // A staple that cannot be used costs the staple: after a renewal the old one lies there for
        // a while.
        let staple = match portolan_config::read_bytes(&path, LARGEST_STAPLE) {
            Ok(der) => Staple::parse(der, &path, &bundle.serial),
            // The one beside the chain need not be there.
            Err(_) if files.ocsp.is_none() => return Ok(bundle),
            Err(error) => Err(unreadable(&path, &error)),
        };
        match staple {
            Ok(staple) => bundle.staple(staple),
            Err(fault) => bundle.staple_fault = Some(fault),
        }
        Ok(bundle)
    }

    /// Loads a chain and its key.
    ///
    /// # Errors
    /// When either cannot be read, or they do not belong together.
    pub fn load_pair(cert: &Path, key: &Path) -> Result<Self, BundleError> {
        let chain = read_chain(cert)?;
        let key_der = read_key(key)?;
        let leaf = parse(&chain[0], cert, 1)?;
        let names = names_of(&leaf);
        let subject = distinguished_name(leaf.subject());
        let issuer = distinguished_name(leaf.issuer());
        let serial = hexadecimal(leaf.raw_serial());
        let validity = leaf.validity();
        let (not_before, not_after) = (
            validity.not_before.timestamp(),
            validity.not_after.timestamp(),
        );
        let fingerprint = sha256(&chain[0]);
        let provider = rustls::crypto::ring::default_provider();
        let why = why_not(&key_der);
        let certified =
            CertifiedKey::from_der(chain, key_der, &provider).map_err(|error| match error {
                rustls::Error::InconsistentKeys(_) => BundleError::Mismatch {
                    cert: cert.display().to_string(),
                    key: key.display().to_string(),
                },
                _ => BundleError::Key {
                    path: key.display().to_string(),
                    why,
                },
            })?;
        let Some(kind) = kind_of(&certified) else {
            return Err(BundleError::Key {
                path: key.display().to_string(),
                why: "a key of this kind cannot sign for any client",
            });
        };
        Ok(Self {
            certified: Arc::new(certified),
            stapled: None,
            staple_fault: None,
            kind,
            names,
            subject,
            issuer,
            serial,
            fingerprint,
            not_before,
            not_after,
        })
    }

    /// One that Portolan made itself, to be shown until there is a real one.
    pub(crate) fn placeholder(certified: CertifiedKey, names: Vec<String>, subject: &str) -> Self {
        let subject = format!("CN={subject}");
        Self {
            stapled: None,
            staple_fault: None,
            kind: kind_of(&certified).unwrap_or(KeyKind::EcdsaP256),
            names,
            issuer: subject.clone(),
            subject,
            serial: String::new(),
            fingerprint: certified
                .cert
                .first()
                .map(|der| sha256(der))
                .unwrap_or_default(),
            not_before: 0,
            not_after: 0,
            certified: Arc::new(certified),
        }
    }

    fn staple(&mut self, staple: Staple) {
        let mut stapled = CertifiedKey::clone(&self.certified);
        stapled.ocsp = Some(staple.der.clone());
        self.stapled = Some((staple, Arc::new(stapled)));
    }

    /// What a client gets now: with a staple as long as that is fresh.
    pub fn shown(&self, now: i64) -> Arc<CertifiedKey> {
        match &self.stapled {
            Some((staple, stapled)) if staple.is_fresh(now) => stapled.clone(),
            _ => self.certified.clone(),
        }
    }

    /// The CA's word that it is not revoked, if there is one.
    pub fn stapled(&self) -> Option<&Staple> {
        self.stapled.as_ref().map(|(staple, _)| staple)
    }

    /// Whether it is valid.
    pub fn validity(&self, now: i64) -> Validity {
        if now < self.not_before {
            Validity::NotYet
        } else if now > self.not_after {
            Validity::Expired
        } else {
            Validity::Valid
        }
    }

    /// Whether this one may take the place of another: one that is not valid never replaces one
    /// that is.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(crate) fn may_replace(
        &self,
        before: &Self,
        path: &Path,
        now: i64,
    ) -> Result<(), BundleError> {
        let why = match self.validity(now) {
            Validity::Valid => return Ok(()),
            Validity::NotYet => "is not valid yet",
            Validity::Expired => "has expired",
        };
        if before.validity(now) != Validity::Valid {
            return Ok(());
        }
        Err(BundleError::Worse {
            path: path.display().to_string(),
            why,
        })
    }

    /// Whether clients could not tell this one from another.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        self.certified.cert == other.certified.cert
            && self.stapled().map(|staple| &staple.der) == other.stapled().map(|staple| &staple.der)
    }
}

fn kind_of(certified: &CertifiedKey) -> Option<KeyKind> {
    use SignatureScheme as Scheme;
    [
        Scheme::ECDSA_NISTP256_SHA256,
        Scheme::ECDSA_NISTP384_SHA384,
        Scheme::ED25519,
        Scheme::RSA_PSS_SHA256,
    ]
    .into_iter()
    .find(|scheme| certified.key.choose_scheme(&[*scheme]).is_some())
    .and_then(KeyKind::of)
}

/// Why a key cannot be used, as far as its kind tells.
pub(crate) fn why_not(key: &PrivateKeyDer<'_>) -> &'static str {
    // The object identifiers that name the kinds, in DER.
    const KINDS: [(&[u8], &str); 7] = [
        (
            &[0x2b, 0x81, 0x04, 0x00, 0x23],
            "it is on the curve P-521, and P-256 and P-384 are what clients can verify",
        ),
        (
            &[0x2b, 0x81, 0x04, 0x00, 0x0a],
            "it is on the curve secp256k1, and P-256 and P-384 are what clients can verify",
        ),
        (
            &[0x2b, 0x65, 0x71],
            "it is an Ed448 key, which clients cannot verify",
        ),
        (
            &[0x2b, 0x65, 0x6e],
            "it is an X25519 key, which cannot sign",
        ),
        (
            &[0x2a, 0x86, 0x48, 0xce, 0x38, 0x04, 0x01],
            "it is a DSA key, which clients cannot verify",
        ),
        (
            &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x0a],
            "it is an RSA key for RSA-PSS alone; a plain RSA key signs with RSA-PSS as well",
        ),
        (
            &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01],
            "it is damaged, or an RSA key of other than 2048 to 4096 bits",
        ),
    ];
    // They stand at the beginning of PKCS #8, and at the end of SEC 1.
    let der = key.secret_der();
    let named = |id: &[u8]| {
        match key {
            PrivateKeyDer::Pkcs8(_) => &der[..der.len().min(40)],
            _ => der,
        }
        .windows(id.len())
        .any(|window| window == id)
    };
    match KINDS.iter().find(|(id, _)| named(id)) {
        Some((_, why)) => why,
        None if matches!(key, PrivateKeyDer::Pkcs1(_)) => KINDS[6].1,
        None => {
            "it is damaged, or of a kind that clients cannot verify: RSA keys of 2048 to 4096 bits, \
             ECDSA keys on P-256 or P-384, and Ed25519 keys are taken"
        }
    }
}

/// Every certificate of a PEM file, each one readable by the engine as well.
///
/// # Errors
/// When there is none, or one cannot be read.
pub(crate) fn read_chain(path: &Path) -> Result<Vec<CertificateDer<'static>>, BundleError> {
    let found = Pem::read(path)?.certificates();
    let found = found.map_err(|found| BundleError::pem(path, found))?;
    let chain: Vec<_> = found
        .into_iter()
        .map(|(_, certificate)| certificate)
        .collect();
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
    let key = Pem::read(path)?.private_key();
    let key = key.map_err(|found| BundleError::pem(path, found))?;
    key.ok_or_else(|| BundleError::Missing {
        path: path.display().to_string(),
        what: "private key",
    })
}

pub(crate) fn parse<'a>(
    certificate: &'a CertificateDer<'_>,
    path: &Path,
    number: usize,
) -> Result<X509Certificate<'a>, BundleError> {
    let malformed = |why| BundleError::Malformed {
        path: path.display().to_string(),
        number,
        why,
    };
    match X509Certificate::from_der(certificate.as_ref()) {
        Ok(([], parsed)) => Ok(parsed),
        Ok(_) => Err(malformed("something stands behind it in the same section")),
        Err(_) => Err(malformed("its content is damaged, or is no certificate")),
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
    pub(crate) fn self_signed(folder: &Path, file: &str, names: &[&str]) -> (PathBuf, PathBuf) {
        made(folder, file, names, &rcgen::PKCS_ECDSA_P256_SHA256)
    }

    /// The same with a key of this kind.
    pub(crate) fn made(
        folder: &Path,
        file: &str,
        names: &[&str],
        kind: &'static rcgen::SignatureAlgorithm,
    ) -> (PathBuf, PathBuf) {
        write(folder, file, names, kind, |_| {})
    }

    /// The same, changed before it is signed.
    pub(crate) fn write(
        folder: &Path,
        file: &str,
        names: &[&str],
        kind: &'static rcgen::SignatureAlgorithm,
        change: impl FnOnce(&mut rcgen::CertificateParams),
    ) -> (PathBuf, PathBuf) {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut parameters = rcgen::CertificateParams::new(names).unwrap();
        change(&mut parameters);
        let key = if kind == &rcgen::PKCS_RSA_SHA256 {
            // ring cannot make RSA keys; this one is nobody's.
            let pem = include_str!("../tests/rsa.key");
            rcgen::KeyPair::from_pem_and_sign_algo(pem, kind).unwrap()
        } else {
            rcgen::KeyPair::generate_for(kind).unwrap()
        };
        let made = parameters.self_signed(&key).unwrap();
        let cert = folder.join(format!("{file}.pem"));
        let path = folder.join(format!("{file}.key"));
        std::fs::write(&cert, made.pem()).unwrap();
        std::fs::write(&path, key.serialize_pem()).unwrap();
        (cert, path)
    }

    #[test]
    fn a_pair_that_belongs_together_says_its_names() {
        let folder = tempfile::tempdir().unwrap();
        let (cert, key) = self_signed(
            folder.path(),
            "a",
            &["API.example.com", "*.example.org", "192.0.2.1"],
        );
        let bundle = Bundle::load_pair(&cert, &key).unwrap();
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
        let said = |cert: &Path, key: &Path| Bundle::load_pair(cert, key).unwrap_err().to_string();
        assert!(said(&cert, &other_key).contains("does not belong"));
        assert!(said(&key, &key).contains("no certificate in it, but a private key"));
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
