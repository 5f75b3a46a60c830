//! Everything a plan needs from certificate files, loaded at once: either all of it can be used,
//! or nothing is.

use std::collections::HashMap;
use std::sync::Arc;

use portolan_config::diagnostic::{Code, Diagnostic};
use portolan_config::plan::{ListenerTlsPlan, Plan, PoolId};
use portolan_config::source::Origin;

use crate::bundle::{Bundle, BundleError};
use crate::server::{ServerTls, Tickets};
use crate::store::CertificateStore;
use crate::upstream::UpstreamIdentity;

/// What was loaded for a plan.
#[derive(Clone, Debug, Default)]
pub struct Material {
    /// TLS of every listener that has it, by the listener's index.
    pub listeners: HashMap<usize, ServerTls>,
    /// Identities towards endpoints, by pool.
    pub pools: HashMap<PoolId, Arc<UpstreamIdentity>>,
}

impl Material {
    /// Loads every file that a plan names.
    ///
    /// # Errors
    /// One diagnostic for every file that cannot be used.
    pub fn load(plan: &Plan, tickets: &Tickets) -> Result<Self, Vec<Diagnostic>> {
        let mut material = Self::default();
        let mut found = Vec::new();
        for (at, listener) in plan.listeners.iter().enumerate() {
            let Some(tls) = &listener.tls else {
                continue;
            };
            if let Some(server) = listener_tls(tls, tickets, &mut found) {
                material.listeners.insert(at, server);
            }
        }
        for pool in &plan.pools {
            let Some(tls) = &pool.tls else {
                continue;
            };
            match UpstreamIdentity::load(tls) {
                Ok(identity) => {
                    material.pools.insert(pool.id, Arc::new(identity));
                }
                Err((place, error)) => found.push(unusable(place.origin, &error)),
            }
        }
        if found.is_empty() {
            Ok(material)
        } else {
            Err(found)
        }
    }
}

fn listener_tls(
    tls: &ListenerTlsPlan,
    tickets: &Tickets,
    found: &mut Vec<Diagnostic>,
) -> Option<ServerTls> {
    let before = found.len();
    let mut bundles = Vec::with_capacity(tls.certificates.len());
    for files in &tls.certificates {
        match Bundle::load(&files.cert.value, &files.key.value) {
            Ok(bundle) => bundles.push(bundle),
            Err(error) => {
                let place = match error {
                    BundleError::Key { .. } => files.key.origin,
                    _ => files.cert.origin,
                };
                found.push(unusable(place, &error));
            }
        }
    }
    (found.len() == before)
        .then(|| ServerTls::new(CertificateStore::new(bundles), tls.min_version, tickets))
}

fn unusable(place: Origin, error: &BundleError) -> Diagnostic {
    Diagnostic::error(Code::Certificate, place, error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bundle::tests::self_signed;
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
            Material::load(&plan, &Tickets::new())
        };
        let good = load(text(
            &cert.display().to_string(),
            &key.display().to_string(),
        ))
        .unwrap();
        assert_eq!(good.listeners[&0].store.choose(Some("a.example")), 0);
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
