//! Everything a plan needs from certificate files, loaded at once: either all of it can be used,
//! or nothing is.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use portolan_config::diagnostic::{Code, Diagnostic};
use portolan_config::plan::{Plan, PoolId, TokenKeySource, TokenKeysPlan, UpstreamTlsPlan};
use portolan_config::source::Origin;

use crate::bundle::{Validity, read_chain};
use crate::client::roots;
use crate::clock::now;
use crate::error::BundleError;
use crate::key_set::{KeySet, Looked};
use crate::keyring::{CertificateFault, Keyring, worry};
use crate::server::{Refreshed, ServerTls};
use crate::token_keys::TokenKeys;
use crate::upstream::UpstreamIdentity;

/// What was loaded for a plan.
#[derive(Clone, Debug, Default)]
pub struct Material {
    /// TLS of every listener that has it, by the listener's index.
    pub listeners: HashMap<usize, Arc<ServerTls>>,
    /// Identities towards endpoints, by pool.
    pub pools: HashMap<PoolId, Arc<UpstreamIdentity>>,
    /// Keys of tokens, by where they come from.
    pub token_keys: HashMap<TokenKeySource, Arc<KeySet>>,
    /// What is suspicious about it, though it can be used.
    pub warnings: Vec<Diagnostic>,
}

impl Material {
    /// Loads every file that a plan names.
    ///
    /// # Errors
    /// One diagnostic for every file that cannot be used.
    pub fn load(plan: &Plan, keyring: &Keyring) -> Result<Self, Vec<Diagnostic>> {
        let now = now();
        let mut material = Self::default();
        let mut found = Vec::new();
        for (at, listener) in plan.listeners.iter().enumerate() {
            let Some(tls) = &listener.tls else {
                continue;
            };
            match ServerTls::load(tls, keyring, now) {
                Ok(server) => {
                    material
                        .warnings
                        .extend(suspicious(&server, listener.origin, now));
                    material.listeners.insert(at, Arc::new(server));
                }
                Err(faults) => found.extend(
                    faults
                        .iter()
                        .filter(|fault| !fault.bearable)
                        .map(|fault| unusable(fault.place, &fault.error)),
                ),
            }
        }
        for pool in &plan.pools {
            let Some(tls) = &pool.tls else {
                continue;
            };
            match UpstreamIdentity::load(tls) {
                Ok(identity) => {
                    material.warnings.extend(old(&identity, tls, now));
                    material.warnings.extend(old_versions(&identity, tls));
                    material.pools.insert(pool.id, Arc::new(identity));
                }
                Err((place, error)) => found.push(unusable(place.origin, &error)),
            }
        }
        material.load_token_keys(plan, keyring, now, &mut found);
        if found.is_empty() {
            Ok(material)
        } else {
            Err(found)
        }
    }

    /// Keys of tokens: those in files are read, those of URLs are had later.
    fn load_token_keys(
        &mut self,
        plan: &Plan,
        keyring: &Keyring,
        now: i64,
        found: &mut Vec<Diagnostic>,
    ) {
        for keys in token_keys(plan) {
            let source = &keys.source;
            if self.token_keys.contains_key(source) {
                continue;
            }
            let set = keyring.key_set(source);
            match source {
                TokenKeySource::File(path) => {
                    if set.keys().is_some() {
                        // Those in use are replaced by whoever watches their file, and that is
                        // told. A configuration may yet be refused for something else.
                        if let Err(error) = TokenKeys::read(path) {
                            self.warnings.push(Diagnostic::warning(
                                Code::TokenKeys,
                                keys.origin,
                                error.to_string(),
                            ));
                        }
                    } else {
                        set.look(path, u64::try_from(now).unwrap_or(0));
                        found.extend(set.error().map(|error| {
                            Diagnostic::error(Code::TokenKeys, keys.origin, error.to_string())
                        }));
                        let read = set.keys();
                        let faults = read.iter().flat_map(|read| read.faults());
                        self.warnings.extend(faults.map(|fault| {
                            let message = format!("`{}`: {fault}", path.display());
                            Diagnostic::warning(Code::TokenKeys, keys.origin, message)
                        }));
                    }
                }
                TokenKeySource::Url(_, Some(ca)) => {
                    let read = read_chain(ca).and_then(|chain| roots(&chain, ca).map(drop));
                    if let Err(error) = read {
                        found.push(unusable(keys.origin, &error));
                    }
                }
                TokenKeySource::Url(_, None) => {}
            }
            self.token_keys.insert(source.clone(), set);
        }
    }

    /// Reads all files again. What is new and good in those of listeners is served from now on, and
    /// so are keys of tokens; what is new towards endpoints is given back, for whoever opens
    /// connections.
    pub fn refresh(&self, plan: &Plan) -> Fresh {
        let now = now();
        let mut fresh = Fresh::default();
        for (at, server) in &self.listeners {
            fresh.listeners.insert(*at, server.refresh(now));
        }
        for set in self.token_keys.values() {
            if let TokenKeySource::File(path) = set.source() {
                let looked = set.look(path, u64::try_from(now).unwrap_or(0));
                fresh.token_keys.push((set.source().clone(), looked));
            }
        }
        let mut pools = self.pools.clone();
        let mut changed = false;
        for pool in &plan.pools {
            let (Some(tls), Some(before)) = (&pool.tls, self.pools.get(&pool.id)) else {
                continue;
            };
            match reload(tls, before, now) {
                Ok(Some(identity)) => {
                    pools.insert(pool.id, Arc::new(identity));
                    changed = true;
                    fresh.replaced.push(pool.id);
                }
                Ok(None) => {}
                Err(fault) => fresh.faults.push((pool.id, fault)),
            }
        }
        fresh.material = changed.then(|| Self {
            listeners: self.listeners.clone(),
            pools,
            token_keys: self.token_keys.clone(),
            warnings: self.warnings.clone(),
        });
        fresh
    }

    /// The files and folders that it is made of.
    pub fn watched(&self, plan: &Plan) -> Vec<PathBuf> {
        let mut watched: Vec<PathBuf> = self
            .listeners
            .values()
            .flat_map(|server| server.watched())
            .collect();
        for tls in plan.pools.iter().filter_map(|pool| pool.tls.as_ref()) {
            watched.extend(tls.ca.iter().map(|ca| ca.value.clone()));
            if let Some((cert, key)) = &tls.client {
                watched.extend([cert.value.clone(), key.value.clone()]);
            }
        }
        for source in self.token_keys.keys() {
            if let TokenKeySource::File(path) = source {
                watched.push(path.clone());
            }
        }
        watched.sort();
        watched.dedup();
        watched
    }
}

/// What reading all files again came to.
#[derive(Debug, Default)]
pub struct Fresh {
    /// Of every listener.
    pub listeners: HashMap<usize, Refreshed>,
    /// The whole with new identities towards endpoints, if there are any.
    pub material: Option<Material>,
    /// The pools with a new identity.
    pub replaced: Vec<PoolId>,
    /// Files for pools that cannot be used now.
    pub faults: Vec<(PoolId, CertificateFault)>,
    /// What became of the files with keys of tokens.
    pub token_keys: Vec<(TokenKeySource, Looked)>,
}

/// What every route that asks for tokens says about their keys.
fn token_keys(plan: &Plan) -> impl Iterator<Item = &TokenKeysPlan> {
    let auth = plan.routes.iter().filter_map(|route| route.auth.as_ref());
    auth.filter_map(|auth| Some(&auth.jwt()?.keys))
}

/// A pool's identity, if it is another one now.
fn reload(
    tls: &UpstreamTlsPlan,
    before: &UpstreamIdentity,
    now: i64,
) -> Result<Option<UpstreamIdentity>, CertificateFault> {
    let new = UpstreamIdentity::load(tls).map_err(|(place, error)| CertificateFault {
        place: place.origin,
        error,
        bearable: false,
    })?;
    if new == *before {
        return Ok(None);
    }
    let why = match new.validity(now) {
        Validity::Valid => return Ok(Some(new)),
        Validity::NotYet => "is not valid yet",
        Validity::Expired => "has expired",
    };
    match (&tls.client, before.validity(now)) {
        (Some((cert, _)), Validity::Valid) => Err(CertificateFault {
            place: cert.origin,
            error: BundleError::Worse {
                path: cert.value.display().to_string(),
                why,
            },
            bearable: true,
        }),
        _ => Ok(Some(new)),
    }
}

/// What whoever checks a configuration should know about a listener's certificates.
fn suspicious(server: &ServerTls, place: Origin, now: i64) -> Vec<Diagnostic> {
    let mut found: Vec<Diagnostic> = server
        .faults()
        .iter()
        .map(|fault| Diagnostic::warning(Code::Certificate, fault.place, fault.error.to_string()))
        .collect();
    for (files, bundle) in server.certificates() {
        if let Some(worry) = worry(&files.cert, (bundle.not_before, bundle.not_after), now) {
            found.push(Diagnostic::warning(Code::CertificateExpiry, place, worry));
        }
    }
    if let Some(end) = server.client_auth().and_then(|client| client.lists_end)
        && end < now
    {
        found.push(Diagnostic::warning(
            Code::CertificateExpiry,
            place,
            "a list of revoked certificates is too old: the clients it is about are refused",
        ));
    }
    found
}

/// The same about the certificate shown to a pool's endpoints.
fn old(identity: &UpstreamIdentity, tls: &UpstreamTlsPlan, now: i64) -> Option<Diagnostic> {
    let (cert, _) = tls.client.as_ref()?;
    let worry = worry(&cert.value, identity.client_valid?, now)?;
    Some(Diagnostic::warning(
        Code::CertificateExpiry,
        cert.origin,
        worry,
    ))
}

/// The same about certificates that can be trusted as CAs, and not as an endpoint's own.
fn old_versions(identity: &UpstreamIdentity, tls: &UpstreamTlsPlan) -> Vec<Diagnostic> {
    let Some(ca) = &tls.ca else {
        return Vec::new();
    };
    let told = |number| {
        let message = format!(
            "certificate {number} in `{}` is of X.509 version 1: an endpoint that shows it itself cannot be \
             verified",
            ca.value.display()
        );
        Diagnostic::warning(Code::Certificate, ca.origin, message)
            .help("if it is the endpoint's own, make one of version 3, as `openssl req -x509` does")
    };
    identity.old_versions().into_iter().map(told).collect()
}

fn unusable(place: Origin, error: &BundleError) -> Diagnostic {
    Diagnostic::error(Code::Certificate, place, error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bundle::tests::self_signed;
    use crate::store::Able;
    use portolan_config::{Machine, check_text};

    #[test]
    fn all_files_are_loaded_and_all_faults_are_found() {
        let folder = tempfile::tempdir().unwrap();
        let (cert, key) = self_signed(folder.path(), "a", &["a.example"]);
        let text = |ca: &str, listener_key: &str| {
            format!(
                "
listeners: [ {{ bind: '127.0.0.1:443', tls: {{ certificates: [ {{ cert: '{cert}', key: '{listener_key}' }} ] }} }} ]
pools:
  aws: {{ endpoints: [ '10.0.0.1:443' ], tls: {{ server_name: a.example, ca: '{ca}', client_cert: '{cert}', client_key: '{key}' }} }}
routes: [ {{ to: aws }} ]
",
                cert = cert.display(),
                key = key.display(),
            )
        };
        let load = |text: String| {
            let plan = check_text("t.yaml", text, &Machine::default())
                .plan
                .unwrap();
            Material::load(&plan, &Keyring::new())
        };
        let good = load(text(
            &cert.display().to_string(),
            &key.display().to_string(),
        ))
        .unwrap();
        let store = good.listeners[&0].serving().store.clone();
        assert_eq!(store.choose(Some("a.example"), Able::ALL), Some(0));
        let identity = good.pools.values().next().unwrap();
        assert_eq!(identity.ca.len(), 1);
        assert_ne!(
            identity.fingerprint(),
            UpstreamIdentity::default().fingerprint()
        );

        let bad = load(text("/nowhere/ca.pem", "/nowhere/a.key")).unwrap_err();
        assert_eq!(bad.len(), 2, "{bad:?}");
        assert!(
            bad.iter()
                .all(|d| d.code == Code::Certificate && d.origin.span().is_some())
        );
    }
}
