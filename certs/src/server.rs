//! The TLS of a listener: its certificates and settings, which change while it runs.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwap;
use portolan_config::document::{MinTlsVersion, TlsProfile};
use portolan_config::plan::{CertificateSource, ListenerTlsPlan};
use rustls::crypto::CryptoProvider;
use rustls::server::{ClientHello, NoServerSessionStorage, ProducesTickets, WebPkiClientVerifier};
use rustls::{
    CipherSuite, NamedGroup, ServerConfig, SupportedCipherSuite, SupportedProtocolVersion,
};

use crate::acme::placeholder::stand_ins;
use crate::bundle::{Bundle, PairFiles};
use crate::client::ClientAuth;
use crate::keyring::{CertificateFault, Gathered, Keyring};
use crate::store::{Able, CertificateStore, Resolver};
use crate::{challenge, folder};

/// Whether a client speaks TLS 1.3: only who does offers its suites.
fn speaks_tls13(hello: &ClientHello<'_>) -> bool {
    let offered = hello.cipher_suites();
    offered.iter().any(|suite| TLS13.contains(suite))
}

/// The suites of Mozilla's guideline 5.7 for intermediate compatibility, less those with
/// finite-field Diffie-Hellman; those of TLS 1.3 are all that modern compatibility has. In TLS 1.2
/// their order counts, and not the client's.
const SUITES: [CipherSuite; 9] = [
    CipherSuite::TLS13_AES_128_GCM_SHA256,
    CipherSuite::TLS13_AES_256_GCM_SHA384,
    CipherSuite::TLS13_CHACHA20_POLY1305_SHA256,
    CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
    CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
    CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
    CipherSuite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
    CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
    CipherSuite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
];

/// Those of TLS 1.3 among them. They are all good: there the client's order counts, for it knows which
/// of them its machine is fast at.
const TLS13: [CipherSuite; 3] = [SUITES[0], SUITES[1], SUITES[2]];

/// The same guideline's curves.
const CURVES: [NamedGroup; 3] = [
    NamedGroup::X25519,
    NamedGroup::secp256r1,
    NamedGroup::secp384r1,
];

/// Makes ring the process's one provider of cryptography. Called first thing: whoever is first
/// wins, and the engine would choose for itself.
pub fn install_provider() {
    // An error says that one is installed already, which is the same one: there is no other in the
    // program.
    let _ = rustls::crypto::ring::default_provider().install_default();
}

/// How a listener speaks TLS. What it shows clients changes when its files do; a connection keeps
/// what it began with.
#[derive(Debug)]
pub struct ServerTls {
    plan: ListenerTlsPlan,
    keyring: Keyring,
    provider: Arc<CryptoProvider>,
    serving: ArcSwap<Serving>,
    files: Mutex<Files>,
}

/// What is behind the settings that are served.
#[derive(Debug, Default)]
struct Files {
    bundles: Vec<(PairFiles, Arc<Bundle>)>,
    client: Option<Arc<ClientAuth>>,
    faults: Vec<CertificateFault>,
}

/// What clients get now.
#[derive(Debug)]
pub struct Serving {
    /// The settings for those who speak TLS 1.3.
    config: Arc<ServerConfig>,
    /// The settings for those who speak TLS 1.2 at best.
    older: Arc<ServerConfig>,
    /// The settings for a CA that asks a question.
    challenge: Arc<ServerConfig>,
    provider: Arc<CryptoProvider>,
    /// The certificates.
    pub store: Arc<CertificateStore>,
}

/// What is in store for a client.
#[derive(Debug)]
pub struct Chosen {
    /// The settings to go on with.
    pub config: Arc<ServerConfig>,
    /// The kinds of keys that it can verify.
    pub able: Able,
    /// The certificate it gets, by index in the store.
    pub certificate: Option<usize>,
    /// It said for which name it comes.
    pub named: bool,
    /// It is a CA that asks a question: after the handshake there is nothing to say.
    pub challenge: bool,
}

impl Serving {
    /// Chooses for a client by what it says first, and by the address that it came to.
    pub fn choose(&self, hello: &ClientHello<'_>, came_to: IpAddr) -> Chosen {
        let challenge = hello
            .alpn()
            .is_some_and(|mut protocols| protocols.any(|protocol| protocol == challenge::ALPN));
        let able = Able::of(hello, &self.provider);
        let config = match (challenge, speaks_tls13(hello)) {
            (true, _) => &self.challenge,
            (false, true) => &self.config,
            (false, false) => &self.older,
        };
        let name = hello.server_name();
        // Addresses are never said: whoever says no name mostly came for the address.
        let by_address = match name {
            None if !challenge => self.store.choose_for(came_to, able),
            _ => None,
        };
        Chosen {
            config: match by_address {
                Some(chosen) => Arc::new(self.showing(config, chosen)),
                None => config.clone(),
            },
            certificate: by_address.or_else(|| self.store.choose(name, able)),
            named: name.is_some(),
            able,
            challenge,
        }
    }

    /// The same settings with this certificate.
    fn showing(&self, config: &ServerConfig, chosen: usize) -> ServerConfig {
        let mut config = config.clone();
        config.cert_resolver = Arc::new(Resolver {
            store: self.store.clone(),
            provider: self.provider.clone(),
            chosen: Some(chosen),
        });
        config
    }
}

impl ServerTls {
    /// TLS as a listener's plan says.
    ///
    /// # Errors
    /// Every file that cannot be used, if Portolan cannot serve without it.
    pub(crate) fn load(
        plan: &ListenerTlsPlan,
        keyring: &Keyring,
        now: i64,
    ) -> Result<Self, Vec<CertificateFault>> {
        let provider = Arc::new(provider());
        let Gathered {
            bundles,
            mut faults,
        } = keyring.gather(&plan.certificates, now);
        let client = plan.client.as_ref().and_then(|client| {
            ClientAuth::load(client)
                .map(Arc::new)
                .map_err(|(place, error)| {
                    faults.push(CertificateFault {
                        place,
                        error,
                        bearable: false,
                    });
                })
                .ok()
        });
        if faults.iter().any(|fault| !fault.bearable) {
            return Err(faults);
        }
        let files = Files {
            bundles,
            client,
            faults,
        };
        let serving = serving(plan, keyring, &provider, &files);
        Ok(Self {
            plan: plan.clone(),
            keyring: keyring.clone(),
            provider,
            serving: ArcSwap::new(Arc::new(serving)),
            files: Mutex::new(files),
        })
    }

    /// Reads the files again, and serves what is new and good in them.
    pub(crate) fn refresh(&self, now: i64) -> Refreshed {
        let mut files = self.files();
        let Gathered {
            bundles,
            mut faults,
        } = self.keyring.gather(&self.plan.certificates, now);
        let mut client = files.client.clone();
        if let Some(plan) = &self.plan.client {
            match ClientAuth::load(plan) {
                Ok(new) => {
                    if files
                        .client
                        .as_ref()
                        .is_none_or(|old| old.scope != new.scope)
                    {
                        client = Some(Arc::new(new));
                    }
                }
                Err((place, error)) => faults.push(CertificateFault {
                    place,
                    error,
                    bearable: false,
                }),
            }
        }
        let replaced: Vec<PairFiles> = bundles
            .iter()
            .filter(|(pair, bundle)| {
                let known = files.bundles.iter().find(|(known, _)| known == pair);
                known.is_none_or(|(_, known)| !Arc::ptr_eq(known, bundle))
            })
            .map(|(pair, _)| pair.clone())
            .collect();
        let same_pairs = bundles.len() == files.bundles.len() && replaced.is_empty();
        let same_client = match (&client, &files.client) {
            (Some(new), Some(old)) => Arc::ptr_eq(new, old),
            (new, old) => new.is_none() && old.is_none(),
        };
        let new_faults: Vec<CertificateFault> = faults
            .iter()
            .filter(|fault| !files.faults.contains(fault))
            .cloned()
            .collect();
        *files = Files {
            bundles,
            client,
            faults,
        };
        let changed = !same_pairs || !same_client;
        if changed {
            let next = serving(&self.plan, &self.keyring, &self.provider, &files);
            self.serving.store(Arc::new(next));
        }
        Refreshed {
            changed,
            replaced,
            new_faults,
        }
    }

    /// What clients get now.
    pub fn serving(&self) -> Arc<Serving> {
        self.serving.load_full()
    }

    /// The certificates, and the files they come from.
    pub fn certificates(&self) -> Vec<(PairFiles, Arc<Bundle>)> {
        self.files().bundles.clone()
    }

    /// The files that cannot be used now, though something good of before is served in their place.
    pub fn faults(&self) -> Vec<CertificateFault> {
        self.files().faults.clone()
    }

    /// What clients are verified with.
    pub fn client_auth(&self) -> Option<Arc<ClientAuth>> {
        self.files().client.clone()
    }

    /// The files and folders that it is made of, or would be if they were good.
    pub fn watched(&self) -> Vec<PathBuf> {
        let mut watched = Vec::new();
        let mut pairs: Vec<PairFiles> = Vec::new();
        for source in &self.plan.certificates {
            match source {
                CertificateSource::Pair(files) => pairs.push(PairFiles {
                    cert: files.cert.value.clone(),
                    key: files.key.value.clone(),
                    ocsp: files.ocsp.as_ref().map(|ocsp| ocsp.value.clone()),
                }),
                CertificateSource::Directory { path, .. } => {
                    // Until it is there, its appearance is what is waited for.
                    let mut known = Some(path.value.as_path());
                    while let Some(folder) = known.filter(|folder| !folder.is_dir()) {
                        known = folder.parent();
                    }
                    watched.extend(known.map(PathBuf::from));
                    watched.extend(folder::watched(&path.value));
                    pairs.extend(folder::pairs(&path.value).unwrap_or_default());
                }
            }
        }
        for pair in pairs {
            let staple = pair.staple();
            watched.extend([pair.cert, pair.key, staple]);
        }
        if let Some(client) = &self.plan.client {
            watched.push(client.ca.value.clone());
            watched.extend(client.crl.iter().map(|crl| crl.value.clone()));
        }
        watched
    }

    fn files(&self) -> MutexGuard<'_, Files> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What reading files again came to.
#[derive(Clone, Debug, Default)]
pub struct Refreshed {
    /// Something new is served.
    pub changed: bool,
    /// The pairs that are new, or new in their place.
    pub replaced: Vec<PairFiles>,
    /// The files that could be used before, and cannot now.
    pub new_faults: Vec<CertificateFault>,
}

/// ring, with nothing but what the profile has.
fn provider() -> CryptoProvider {
    let mut provider = rustls::crypto::ring::default_provider();
    let place = |suite: &SupportedCipherSuite| {
        let suite = suite.suite();
        SUITES.iter().position(|known| *known == suite)
    };
    provider
        .cipher_suites
        .retain(|suite| place(suite).is_some());
    provider.cipher_suites.sort_by_key(place);
    provider
        .kx_groups
        .retain(|group| CURVES.contains(&group.name()));
    provider
}

fn serving(
    plan: &ListenerTlsPlan,
    keyring: &Keyring,
    provider: &Arc<CryptoProvider>,
    files: &Files,
) -> Serving {
    let both: &[&SupportedProtocolVersion] = &[&rustls::version::TLS13, &rustls::version::TLS12];
    let versions = match (plan.profile, plan.min_version) {
        (TlsProfile::Intermediate, MinTlsVersion::Tls12) => both,
        (TlsProfile::Modern, _) | (_, MinTlsVersion::Tls13) => &both[..1],
    };
    let builder = |versions| {
        ServerConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(versions)
            .expect("there are suites and curves for TLS 1.2 and 1.3")
    };
    let mut bundles: Vec<_> = files
        .bundles
        .iter()
        .map(|(_, bundle)| bundle.clone())
        .collect();
    bundles.extend(stand_ins(&plan.managed, &bundles));
    let store = Arc::new(CertificateStore::new(bundles));
    let verifier = match &files.client {
        Some(client) => client.verifier.clone(),
        None => WebPkiClientVerifier::no_client_auth(),
    };
    let mut config = builder(versions)
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(Arc::new(Resolver {
            store: store.clone(),
            provider: provider.clone(),
            chosen: None,
        }));
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    // Nothing is kept about sessions: clients keep it, in tickets that only we can read.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    if let Some(tickets) = keyring.tickets() {
        config.ticketer = Arc::new(ScopedTickets {
            inner: tickets.clone(),
            scope: crate::digest::digest(
                files
                    .client
                    .as_ref()
                    .map_or("anybody", |client| client.scope.as_str())
                    .as_bytes(),
            ),
        });
    }
    let mut challenge = builder(both)
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(keyring.challenges().clone()));
    challenge.alpn_protocols = vec![challenge::ALPN.to_vec()];
    challenge.session_storage = Arc::new(NoServerSessionStorage {});
    challenge.send_tls13_tickets = 0;
    let mut older = config.clone();
    older.ignore_client_order = true;
    Serving {
        config: Arc::new(config),
        older: Arc::new(older),
        challenge: Arc::new(challenge),
        provider: provider.clone(),
        store,
    }
}

/// Tickets that hold only where clients are verified alike. A resumed session is not verified
/// again: without this, one begun where no certificate is asked for could be resumed where one is,
/// and one of a client that was revoked in the meantime could go on.
#[derive(Debug)]
struct ScopedTickets {
    inner: Arc<dyn ProducesTickets>,
    scope: [u8; 32],
}

impl ProducesTickets for ScopedTickets {
    fn enabled(&self) -> bool {
        self.inner.enabled()
    }

    fn lifetime(&self) -> u32 {
        self.inner.lifetime()
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        self.inner.encrypt(&[&self.scope, plain].concat())
    }

    fn decrypt(&self, cipher: &[u8]) -> Option<Vec<u8>> {
        let plain = self.inner.decrypt(cipher)?;
        plain.strip_prefix(&self.scope).map(<[u8]>::to_vec)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tickets_hold_where_clients_are_verified_alike() {
        let keyring = Keyring::new();
        let inner = keyring.tickets().unwrap();
        let scoped = |scope| ScopedTickets {
            inner: inner.clone(),
            scope: [scope; 32],
        };
        let ticket = scoped(1).encrypt(b"session").unwrap();
        assert_eq!(scoped(1).decrypt(&ticket).as_deref(), Some(&b"session"[..]));
        assert_eq!(scoped(2).decrypt(&ticket), None);
        assert!(scoped(1).enabled() && scoped(1).lifetime() >= 6 * 60 * 60);
    }

    #[test]
    fn the_profile_is_there_as_a_whole() {
        let provider = provider();
        let suites: Vec<CipherSuite> = provider.cipher_suites.iter().map(|s| s.suite()).collect();
        assert_eq!(suites, SUITES);
        for suite in &provider.cipher_suites {
            let new = suite.tls13().is_some();
            assert_eq!(TLS13.contains(&suite.suite()), new);
        }
        assert_eq!(provider.kx_groups.len(), CURVES.len());
    }
}
