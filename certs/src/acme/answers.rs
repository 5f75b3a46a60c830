//! What Portolan answers to an authority that looks whether a name is ours: over HTTP by a token
//! (RFC 8555, section 8.3), over TLS by a certificate that nobody else would show (RFC 8737).
//!
//! Whoever accepts clients reads; whoever orders certificates writes. Reading never waits.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use arc_swap::ArcSwap;
use rcgen::{CertificateParams, CustomExtension, DistinguishedName, KeyPair};
use rustls::sign::CertifiedKey;
use rustls_pki_types::PrivateKeyDer;

use crate::challenge::Challenges;

/// What authorities ask for by HTTP, up to the token.
pub const HTTP_PATH: &str = "/.well-known/acme-challenge/";

/// All answers that somebody may ask for now.
#[derive(Default)]
pub struct Answers {
    http: ArcSwap<HashMap<String, Arc<str>>>,
    tls: Challenges,
}

impl fmt::Debug for Answers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Answers")
            .field("http", &self.http.load().len())
            .finish_non_exhaustive()
    }
}

impl Answers {
    /// No answers yet. `tls` is where handshakes find theirs.
    pub fn new(tls: Challenges) -> Self {
        Self {
            http: ArcSwap::default(),
            tls,
        }
    }

    /// The answer to a request for this path, if it asks for a token that we know.
    pub fn over_http(&self, path: &str) -> Option<Arc<str>> {
        let token = path.strip_prefix(HTTP_PATH)?;
        self.http.load().get(token).cloned()
    }

    /// Answers requests for a token, until what is returned is dropped.
    pub fn present_http(self: &Arc<Self>, token: &str, answer: &str) -> Presented {
        let answer: Arc<str> = answer.into();
        self.http.rcu(|known| {
            let mut next = HashMap::clone(known);
            next.insert(token.to_owned(), answer.clone());
            next
        });
        Presented(self.clone(), Key::Http(token.to_owned()))
    }

    /// Answers handshakes for a name, until what is returned is dropped. `digest` is that of the key
    /// authorization.
    ///
    /// # Errors
    /// When no certificate can be made for such a name.
    pub fn present_tls(
        self: &Arc<Self>,
        name: &str,
        digest: &[u8],
    ) -> Result<Presented, rcgen::Error> {
        let mut params = CertificateParams::new([name.to_owned()])?;
        params.distinguished_name = DistinguishedName::new();
        params
            .custom_extensions
            .push(CustomExtension::new_acme_identifier(digest));
        self.tls.insert(name, &Arc::new(signed_by_itself(&params)?));
        Ok(Presented(self.clone(), Key::Tls(name.to_owned())))
    }
}

/// A certificate with a key of its own.
pub(super) fn signed_by_itself(params: &CertificateParams) -> Result<CertifiedKey, rcgen::Error> {
    let key = KeyPair::generate()?;
    let certificate = params.self_signed(&key)?;
    let key = PrivateKeyDer::Pkcs8(key.serialize_der().into());
    let signing = rustls::crypto::ring::sign::any_supported_type(&key)
        .map_err(|_| rcgen::Error::RemoteKeyError)?;
    Ok(CertifiedKey::new(vec![certificate.der().clone()], signing))
}

/// An answer that is given until this is dropped.
#[derive(Debug)]
pub struct Presented(Arc<Answers>, Key);

#[derive(Debug)]
enum Key {
    Http(String),
    Tls(String),
}

impl Drop for Presented {
    fn drop(&mut self) {
        match &self.1 {
            Key::Http(token) => {
                self.0.http.rcu(|known| {
                    let mut next = HashMap::clone(known);
                    next.remove(token);
                    next
                });
            }
            Key::Tls(name) => self.0.tls.remove(name),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_answered_as_long_as_it_is_presented() {
        let answers = Arc::new(Answers::default());
        let path = "/.well-known/acme-challenge/t0ken";
        assert_eq!(answers.over_http(path), None);
        let presented = answers.present_http("t0ken", "t0ken.thumb");
        assert_eq!(answers.over_http(path).as_deref(), Some("t0ken.thumb"));
        for other in [
            "/.well-known/acme-challenge/",
            "/.well-known/acme-challenge/t0ken/",
            "/.well-known/acme-challenge/other",
            "/t0ken",
        ] {
            assert_eq!(answers.over_http(other), None, "{other}");
        }
        drop(presented);
        assert_eq!(answers.over_http(path), None);
    }
}
