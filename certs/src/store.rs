//! Which chain a client gets: an exact name before a wildcard before the default.

use std::collections::HashMap;
use std::sync::Arc;

use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use crate::bundle::Bundle;

/// The certificates of a listener, the default first.
#[derive(Debug)]
pub struct CertificateStore {
    bundles: Vec<Bundle>,
    exact: HashMap<String, usize>,
    /// By what follows the star: `.example.com`.
    wildcard: HashMap<String, usize>,
}

impl CertificateStore {
    /// A store of at least one certificate. Of two for one name the first counts.
    pub fn new(bundles: Vec<Bundle>) -> Self {
        let mut exact = HashMap::new();
        let mut wildcard = HashMap::new();
        for (at, bundle) in bundles.iter().enumerate() {
            for name in &bundle.names {
                match name.strip_prefix('*') {
                    Some(suffix) => wildcard.entry(suffix.to_owned()).or_insert(at),
                    None => exact.entry(name.clone()).or_insert(at),
                };
            }
        }
        Self {
            bundles,
            exact,
            wildcard,
        }
    }

    /// The certificates, the default first.
    pub fn bundles(&self) -> &[Bundle] {
        &self.bundles
    }

    /// The index of the certificate for a name (lower case, without port): the default's when no
    /// certificate has the name, or when there is no name.
    pub fn choose(&self, name: Option<&str>) -> usize {
        let Some(name) = name else {
            return 0;
        };
        if let Some(at) = self.exact.get(name) {
            return *at;
        }
        // A wildcard stands for exactly one label (RFC 6125, 6.4.3).
        name.find('.')
            .and_then(|dot| self.wildcard.get(&name[dot..]))
            .copied()
            .unwrap_or(0)
    }
}

/// Chooses for rustls.
#[derive(Debug)]
pub(crate) struct Resolver(pub(crate) Arc<CertificateStore>);

impl ResolvesServerCert for Resolver {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let at = self.0.choose(hello.server_name());
        self.0
            .bundles
            .get(at)
            .map(|bundle| bundle.certified.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bundle::tests::self_signed;

    #[test]
    fn exact_before_wildcard_before_default() {
        let folder = tempfile::tempdir().unwrap();
        let load = |file, names: &[&str]| {
            let (cert, key) = self_signed(folder.path(), file, names);
            Bundle::load(&cert, &key).unwrap()
        };
        let store = CertificateStore::new(vec![
            load("a", &["default.example"]),
            load("b", &["*.example.com"]),
            load("c", &["api.example.com", "default.example"]),
        ]);
        assert_eq!(store.choose(Some("api.example.com")), 2);
        assert_eq!(store.choose(Some("www.example.com")), 1);
        assert_eq!(store.choose(Some("a.b.example.com")), 0, "one label only");
        assert_eq!(store.choose(Some("default.example")), 0, "the first of two");
        assert_eq!(store.choose(Some("unknown.example")), 0);
        assert_eq!(store.choose(None), 0);
    }
}
