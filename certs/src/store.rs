//! Which chain a client gets: an exact name before a wildcard before the default, and of several
//! for one name the first that the client can verify. A client that says no name gets the one for the
//! address that it came to: addresses stand in no SNI (RFC 6066, section 3).
//!
//! A store never changes: when files do, a new one takes its place (see [`ServerTls`]), and
//! connections go on with the one they began with.
//!
//! [`ServerTls`]: crate::ServerTls

use std::borrow::Cow;
use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{SignatureScheme, SupportedCipherSuite};

use crate::bundle::{Bundle, KeyKind};
use crate::clock::now;

/// The certificates of a listener, the default first.
#[derive(Debug, Default)]
pub struct CertificateStore {
    bundles: Vec<Arc<Bundle>>,
    exact: HashMap<String, Choices>,
    /// By what follows the star: `.example.com`.
    wildcard: HashMap<String, Choices>,
    default: Choices,
}

/// Certificates for one name, at most one of each kind of key, the preferred kind first.
type Choices = Vec<usize>;

/// The kinds of keys whose signatures a client can verify.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Able(u8);

impl Able {
    /// Every kind.
    pub const ALL: Self = Self(u8::MAX);

    /// What a client says it can do. With TLS 1.2 a cipher suite names the kind of key as well.
    pub fn of(hello: &ClientHello<'_>, provider: &CryptoProvider) -> Self {
        let suites = hello.cipher_suites();
        let kinds = hello.signature_schemes().iter().filter(|scheme| {
            provider
                .cipher_suites
                .iter()
                .any(|suite| suites.contains(&suite.suite()) && signs(suite, **scheme))
        });
        Self(
            kinds
                .filter_map(|scheme| KeyKind::of(*scheme))
                .fold(0, |able, kind| able | bit(kind)),
        )
    }

    fn can(self, kind: KeyKind) -> bool {
        self.0 & bit(kind) != 0
    }
}

fn bit(kind: KeyKind) -> u8 {
    1 << kind as u8
}

/// Whether a suite goes with signatures of this kind; those of TLS 1.3 go with all.
fn signs(suite: &SupportedCipherSuite, scheme: SignatureScheme) -> bool {
    match suite {
        SupportedCipherSuite::Tls13(_) => true,
        SupportedCipherSuite::Tls12(suite) => suite.sign.contains(&scheme),
    }
}

impl CertificateStore {
    /// A store of these certificates. Of two for one name with keys of one kind the first counts.
    pub fn new(bundles: Vec<Arc<Bundle>>) -> Self {
        let mut store = Self::default();
        for (at, bundle) in bundles.iter().enumerate() {
            for name in &bundle.names {
                let choices = match name.strip_prefix('*') {
                    Some(suffix) => store.wildcard.entry(suffix.to_owned()).or_default(),
                    None => store.exact.entry(name.clone()).or_default(),
                };
                add(choices, at, &bundles);
            }
            // The default's siblings: the same names with keys of other kinds.
            if bundle.names == bundles[0].names {
                add(&mut store.default, at, &bundles);
            }
        }
        store.bundles = bundles;
        store
    }

    /// The certificates, the default first.
    pub fn bundles(&self) -> &[Arc<Bundle>] {
        &self.bundles
    }

    /// The index of the certificate that a client who can do this gets for a name or an address
    /// (without port): one of the default's when no certificate has it, or when there is none. `None`:
    /// there are no certificates.
    pub fn choose(&self, name: Option<&str>, able: Able) -> Option<usize> {
        let choices = name
            .and_then(|name| self.named(name))
            .unwrap_or(&self.default);
        self.first(choices, able)
    }

    /// The same for an address that a client came to; nothing if no certificate has it.
    pub fn choose_for(&self, address: IpAddr, able: Able) -> Option<usize> {
        let choices = self.exact.get(&address.to_canonical().to_string())?;
        self.first(choices, able)
    }

    fn first(&self, choices: &Choices, able: Able) -> Option<usize> {
        choices
            .iter()
            .find(|at| able.can(self.bundles[**at].kind))
            // None that it can verify: it may find out for itself.
            .or(choices.first())
            .copied()
    }

    fn named(&self, name: &str) -> Option<&Choices> {
        let name = &*canonical(name);
        self.exact.get(name).or_else(|| {
            // A wildcard stands for exactly one label (RFC 6125, 6.4.3).
            name.find('.')
                .and_then(|dot| self.wildcard.get(&name[dot..]))
        })
    }
}

/// A name as certificates are found by it: in lower case, without the dot of a full name; an IPv6
/// address without brackets, in its shortest form.
fn canonical(name: &str) -> Cow<'_, str> {
    let name = name.strip_suffix('.').unwrap_or(name);
    if name.contains(':') {
        let inner = name
            .strip_prefix('[')
            .and_then(|name| name.strip_suffix(']'));
        if let Ok(address) = inner.unwrap_or(name).parse::<Ipv6Addr>() {
            return Cow::Owned(IpAddr::from(address).to_canonical().to_string());
        }
    }
    match name.bytes().any(|byte| byte.is_ascii_uppercase()) {
        true => Cow::Owned(name.to_ascii_lowercase()),
        false => Cow::Borrowed(name),
    }
}

fn add(choices: &mut Choices, at: usize, bundles: &[Arc<Bundle>]) {
    let kind = bundles[at].kind;
    match choices.binary_search_by_key(&kind, |other| bundles[*other].kind) {
        Ok(_) => {}
        Err(place) => choices.insert(place, at),
    }
}

/// Chooses for rustls.
#[derive(Debug)]
pub(crate) struct Resolver {
    pub(crate) store: Arc<CertificateStore>,
    pub(crate) provider: Arc<CryptoProvider>,
    /// What was chosen already, if it was.
    pub(crate) chosen: Option<usize>,
}

impl ResolvesServerCert for Resolver {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let choose = || {
            let able = Able::of(&hello, &self.provider);
            self.store.choose(hello.server_name(), able)
        };
        let at = self.chosen.or_else(choose)?;
        Some(self.store.bundles[at].shown(now()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bundle::tests::{made, self_signed};

    #[test]
    fn exact_before_wildcard_before_default() {
        let folder = tempfile::tempdir().unwrap();
        let load = |file, names: &[&str]| {
            let (cert, key) = self_signed(folder.path(), file, names);
            Arc::new(Bundle::load_pair(&cert, &key).unwrap())
        };
        let store = CertificateStore::new(vec![
            load("a", &["default.example"]),
            load("b", &["*.example.com"]),
            load("c", &["api.example.com", "default.example"]),
        ]);
        let choose = |name| store.choose(name, Able::ALL).unwrap();
        assert_eq!(choose(Some("api.example.com")), 2);
        assert_eq!(choose(Some("www.example.com")), 1);
        assert_eq!(choose(Some("a.b.example.com")), 0, "one label only");
        assert_eq!(choose(Some("default.example")), 0, "the first of two");
        assert_eq!(choose(Some("unknown.example")), 0);
        assert_eq!(choose(None), 0);
        assert_eq!(choose(Some("API.example.com.")), 2, "the same name");
        assert_eq!(choose(Some("www.Example.com.")), 1, "the same name");
        let empty = CertificateStore::new(Vec::new());
        assert_eq!(empty.choose(Some("a.example"), Able::ALL), None);
    }

    #[test]
    fn addresses_are_found_in_whatever_way_they_are_written() {
        let folder = tempfile::tempdir().unwrap();
        let load = |file, names: &[&str]| {
            let (cert, key) = self_signed(folder.path(), file, names);
            Arc::new(Bundle::load_pair(&cert, &key).unwrap())
        };
        let store = CertificateStore::new(vec![
            load("a", &["default.example"]),
            load("b", &["192.0.2.1"]),
            load("c", &["2001:db8::1"]),
        ]);
        let came_to = |address: &str| store.choose_for(address.parse().unwrap(), Able::ALL);
        assert_eq!(came_to("192.0.2.1"), Some(1));
        assert_eq!(came_to("::ffff:192.0.2.1"), Some(1), "on a socket for both");
        assert_eq!(came_to("2001:db8::1"), Some(2));
        assert_eq!(came_to("192.0.2.2"), None);
        let choose = |name| store.choose(Some(name), Able::ALL).unwrap();
        assert_eq!(choose("192.0.2.1"), 1);
        for same in ["[2001:db8::1]", "[2001:DB8:0:0::1]", "2001:db8::1"] {
            assert_eq!(choose(same), 2, "{same}");
        }
        assert_eq!(choose("[2001:db8::2]"), 0);
        assert_eq!(choose("[::ffff:192.0.2.1]"), 1);
    }

    #[test]
    fn of_several_for_one_name_the_first_that_the_client_can_verify() {
        let folder = tempfile::tempdir().unwrap();
        let load = |file, names: &[&str], kind| {
            let (cert, key) = made(folder.path(), file, names, kind);
            Arc::new(Bundle::load_pair(&cert, &key).unwrap())
        };
        let store = CertificateStore::new(vec![
            load("rsa", &["a.example"], &rcgen::PKCS_RSA_SHA256),
            load("ed", &["a.example"], &rcgen::PKCS_ED25519),
            load(
                "p256",
                &["a.example", "b.example"],
                &rcgen::PKCS_ECDSA_P256_SHA256,
            ),
            load("p384", &["a.example"], &rcgen::PKCS_ECDSA_P384_SHA384),
            load("again", &["a.example"], &rcgen::PKCS_ECDSA_P256_SHA256),
        ]);
        let kinds = [
            KeyKind::Rsa,
            KeyKind::Ed25519,
            KeyKind::EcdsaP256,
            KeyKind::EcdsaP384,
        ];
        let able = |kinds: &[KeyKind]| Able(kinds.iter().fold(0, |able, kind| able | bit(*kind)));
        let choose = |name, kinds: &[KeyKind]| store.choose(Some(name), able(kinds)).unwrap();
        assert_eq!(choose("a.example", &kinds), 2);
        assert_eq!(choose("a.example", &[KeyKind::Rsa]), 0);
        assert_eq!(choose("a.example", &[KeyKind::Rsa, KeyKind::Ed25519]), 1);
        assert_eq!(choose("a.example", &[KeyKind::EcdsaP384]), 3);
        assert_eq!(choose("b.example", &[KeyKind::Rsa]), 2, "there is no other");
        assert_eq!(
            choose("unknown.example", &[KeyKind::Rsa]),
            0,
            "the default's"
        );
        assert_eq!(
            choose("unknown.example", &kinds),
            4,
            "a sibling of the default"
        );
    }
}
