//! A chain with its key, as an authority issued it: checked before it is believed.

use std::path::Path;
use std::sync::Arc;

use instant_acme::CertificateIdentifier;
use rustls::sign::CertifiedKey;
use rustls_pki_types::{CertificateDer, Der};
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::moment::Moment;
use super::renewal::Validity;
use crate::bundle::why_not;
use crate::error::Found;
use crate::pem::Pem;

/// A chain with its key.
#[derive(Clone, Debug)]
pub struct Issued {
    /// As rustls uses them.
    pub certified: Arc<CertifiedKey>,
    /// From when until when it is good.
    pub validity: Validity,
    /// The names it is good for, in lower case.
    pub names: Vec<String>,
    /// The serial number in hexadecimal digits, as tools show it.
    pub serial: String,
    /// What the authority calls it when it says when to renew, if it can be called so.
    pub identifier: Option<CertificateIdentifier<'static>>,
}

/// Why a chain or its key is not believed.
#[derive(Debug, thiserror::Error)]
pub enum Unusable {
    /// The file cannot be read.
    #[error("cannot read it: {0}")]
    Unreadable(#[from] std::io::Error),
    /// It is not PEM, or damaged.
    #[error("line {}: {}", .0.0, .0.1)]
    Pem(Found),
    /// There is no certificate in it, or no key.
    #[error("it holds no {0}")]
    Empty(&'static str),
    /// A certificate cannot be read.
    #[error("a certificate in it is damaged")]
    Malformed,
    /// The key cannot be used.
    #[error("the key cannot be used: {0}")]
    Key(&'static str),
    /// The key is another certificate's.
    #[error("the key does not belong to the certificate")]
    Mismatch,
    /// A name that was asked for is missing.
    #[error("it is not for {0}")]
    Name(String),
}

impl Issued {
    /// Reads a key and a chain that stand in one file.
    ///
    /// # Errors
    /// When they cannot be used.
    pub fn load(path: &Path) -> Result<Self, Unusable> {
        Self::parse(&std::fs::read(path)?)
    }

    /// Reads a key and a chain that stand in one text, in PEM.
    ///
    /// # Errors
    /// When they cannot be used.
    pub fn parse(pem: &[u8]) -> Result<Self, Unusable> {
        let pem = Pem::parse(pem).map_err(Unusable::Pem)?;
        let chain = pem.certificates().map_err(Unusable::Pem)?;
        let chain: Vec<CertificateDer<'static>> = chain.into_iter().map(|(_, der)| der).collect();
        let key = pem.private_key().map_err(Unusable::Pem)?;
        let key = key.ok_or(Unusable::Empty("private key"))?;
        let leaf = chain.first().ok_or(Unusable::Empty("certificate"))?;
        let (_, parsed) =
            X509Certificate::from_der(leaf.as_ref()).map_err(|_| Unusable::Malformed)?;
        let validity = Validity {
            from: Moment::from_seconds(parsed.validity().not_before.timestamp()),
            until: Moment::from_seconds(parsed.validity().not_after.timestamp()),
        };
        let mut names = Vec::new();
        if let Ok(Some(alternatives)) = parsed.subject_alternative_name() {
            for name in &alternatives.value.general_names {
                if let GeneralName::DNSName(name) = name {
                    names.push(name.to_ascii_lowercase());
                }
            }
        }
        let authority =
            parsed
                .iter_extensions()
                .find_map(|extension| match extension.parsed_extension() {
                    ParsedExtension::AuthorityKeyIdentifier(known) => known.key_identifier.as_ref(),
                    _ => None,
                });
        let serial = parsed.raw_serial();
        let identifier = authority.map(|authority| {
            CertificateIdentifier::new(Der::from_slice(authority.0), Der::from_slice(serial))
                .into_owned()
        });
        let serial: String = serial.iter().map(|byte| format!("{byte:02x}")).collect();
        let provider = rustls::crypto::ring::default_provider();
        let why = why_not(&key);
        let certified =
            CertifiedKey::from_der(chain, key, &provider).map_err(|error| match error {
                rustls::Error::InconsistentKeys(_) => Unusable::Mismatch,
                _ => Unusable::Key(why),
            })?;
        Ok(Self {
            certified: Arc::new(certified),
            validity,
            names,
            serial,
            identifier,
        })
    }

    /// Checks that it is good for all of these names.
    ///
    /// # Errors
    /// With the first that is missing.
    pub fn check_names(&self, names: &[String]) -> Result<(), Unusable> {
        match names.iter().find(|name| !self.names.contains(name)) {
            Some(missing) => Err(Unusable::Name(missing.clone())),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pem(names: &[&str]) -> String {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let made = rcgen::generate_simple_self_signed(names).unwrap();
        made.signing_key.serialize_pem() + &made.cert.pem()
    }

    #[test]
    fn what_was_issued_says_what_it_is_for() {
        let issued = Issued::parse(pem(&["A.example.com", "*.b.example.com"]).as_bytes()).unwrap();
        assert_eq!(issued.names, ["a.example.com", "*.b.example.com"]);
        assert!(issued.validity.from < issued.validity.until);
        assert!(issued.check_names(&["a.example.com".to_owned()]).is_ok());
        let error = issued.check_names(&["c.example.com".to_owned()]);
        assert_eq!(
            error.unwrap_err().to_string(),
            "it is not for c.example.com"
        );
    }

    #[test]
    fn what_does_not_belong_together_is_not_believed() {
        let (one, two) = (pem(&["a.example.com"]), pem(&["a.example.com"]));
        let key = one.split_inclusive("-----END PRIVATE KEY-----\n").next();
        let chain = two.split_once("-----END PRIVATE KEY-----\n").unwrap().1;
        let mixed = key.unwrap().to_owned() + chain;
        assert!(matches!(
            Issued::parse(mixed.as_bytes()),
            Err(Unusable::Mismatch)
        ));
        assert!(Issued::parse(chain.as_bytes()).is_err(), "no key");
        assert!(
            Issued::parse(key.unwrap().as_bytes()).is_err(),
            "no certificate"
        );
        assert!(Issued::parse(b"").is_err());
    }
}
