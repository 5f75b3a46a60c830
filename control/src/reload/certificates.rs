//! Certificates in use: read again when their files change, replaced by what is new and good, and
//! announced long before they end. The configuration has no part in it: it stays as it is, whatever
//! becomes of the files.

mod announced;

pub(crate) use crate::reload::certificates::announced::Known;

use std::path::PathBuf;
use std::sync::{Arc, PoisonError};

use portolan_certs::key_set::Looked;
use portolan_certs::keyring::CertificateFault;
use portolan_certs::material::Fresh;
use portolan_config::plan::{Plan, PoolId};

use super::Reloader;
use crate::background::token_keys::Said;
use crate::events::event::Event;

/// How many days before its end a certificate is announced.
const DAYS: [i64; 4] = [30, 14, 7, 1];

const DAY: i64 = 24 * 60 * 60;

/// A certificate that ends.
struct Ending {
    /// Whose it is: `listener 0.0.0.0:443`, `pool aws`.
    of: String,
    /// What tells it from others.
    key: String,
    /// What it is called.
    name: String,
    /// When, in seconds since 1970.
    ends: i64,
}

impl Reloader {
    /// The files and folders that the certificates in use come from.
    pub fn certificate_files(&self) -> Vec<PathBuf> {
        let running = self.running.load();
        running.material.watched(&running.plan)
    }

    /// The files for pools that cannot be used now, though something good of before is used in
    /// their place.
    pub fn pool_faults(&self) -> Vec<(PoolId, CertificateFault)> {
        self.known().faults.clone()
    }

    /// Reads the files of certificates again. What is new and good is used from now on, what is bad
    /// is said and left alone.
    pub async fn refresh_certificates(&self) {
        let turn = self.turn.lock().await;
        if turn.retired {
            return;
        }
        let running = self.running.load_full();
        let (material, plan) = (running.material.clone(), running.plan.clone());
        let reading = tokio::task::spawn_blocking(move || material.refresh(&plan));
        let fresh = match reading.await {
            Ok(fresh) => fresh,
            Err(panic) => {
                tracing::error!("reading certificates failed: {panic}");
                return;
            }
        };
        self.report(&running.plan, &fresh);
        if let Some(material) = fresh.material {
            let material = Arc::new(material);
            let locator = self.parts.engine.published().load().locator.clone();
            let plan = running.plan.clone();
            let accepted = self.parts.engine.accept(plan, material.clone(), locator);
            if accepted.await.is_ok() {
                self.running.rcu(|running| {
                    let mut next = super::Running::clone(running);
                    next.material = material.clone();
                    next
                });
            }
        }
        self.announce();
    }

    fn report(&self, plan: &Plan, fresh: &Fresh) {
        for (at, refreshed) in &fresh.listeners {
            let of = format!("listener {}", plan.listeners[*at].bind);
            for pair in &refreshed.replaced {
                let file = pair.cert.display().to_string();
                self.parts.journal.emit(&Event::CertificateReplaced {
                    of: of.clone(),
                    file,
                });
            }
            for fault in &refreshed.new_faults {
                self.refused(&of, fault);
            }
        }
        for id in &fresh.replaced {
            self.parts.journal.emit(&Event::IdentityReplaced {
                pool: plan.pools[id.index()].name.clone(),
            });
        }
        for (source, looked) in &fresh.token_keys {
            let source = source.to_string();
            let said = match looked {
                Looked::Same | Looked::StillFailed => continue,
                Looked::New(count, faults) => Said::Replaced {
                    source,
                    count: *count,
                    faults: faults.clone(),
                },
                // A file that could not be used from the beginning was refused with its configuration.
                Looked::Failed(error, keys) => Said::Failed {
                    source,
                    error: error.to_string(),
                    keys: *keys,
                },
            };
            self.parts.journal.emit(&Event::TokenKeys(said));
        }
        let mut known = self.known();
        for (id, fault) in &fresh.faults {
            if !known.faults.contains(&(*id, fault.clone())) {
                self.refused(&format!("pool {}", plan.pools[id.index()].name), fault);
            }
        }
        known.faults.clone_from(&fresh.faults);
    }

    fn refused(&self, of: &str, fault: &CertificateFault) {
        self.parts
            .totals
            .certificate_faults
            .one(fault.error.reason());
        self.parts.journal.emit(&Event::CertificateRefused {
            of: of.to_owned(),
            error: fault.error.to_string(),
        });
    }

    /// Says which certificates will end before long.
    fn announce(&self) {
        let now = portolan_certs::now();
        let endings = self.endings();
        let mut known = self.known();
        let before = std::mem::take(&mut known.announced);
        for ending in endings {
            let key = (ending.key, ending.of.clone());
            let Some(stage) = stage(ending.ends - now) else {
                continue;
            };
            if before.get(&key).is_none_or(|before| stage < *before) {
                self.parts.journal.emit(&Event::CertificateEnds {
                    of: ending.of,
                    name: ending.name,
                    days: (ending.ends - now).div_euclid(DAY),
                });
            }
            known.announced.insert(key, stage);
        }
    }

    fn endings(&self) -> Vec<Ending> {
        let running = self.running.load();
        let mut endings = Vec::new();
        for (at, server) in &running.material.listeners {
            let of = format!("listener {}", running.plan.listeners[*at].bind);
            for (files, bundle) in server.certificates() {
                // It is said of those at other times, and for other reasons.
                if running.plan.manages(&files.cert) {
                    continue;
                }
                endings.push(Ending {
                    of: of.clone(),
                    key: bundle.fingerprint.clone(),
                    name: files.cert.display().to_string(),
                    ends: bundle.not_after,
                });
            }
            if let Some(ends) = server.client_auth().and_then(|client| client.lists_end) {
                endings.push(Ending {
                    of,
                    key: ends.to_string(),
                    name: "the list of revoked certificates".to_owned(),
                    ends,
                });
            }
        }
        for pool in &running.plan.pools {
            let client = pool.tls.as_ref().and_then(|tls| tls.client.as_ref());
            let identity = running.material.pools.get(&pool.id);
            let valid = identity.and_then(|identity| identity.client_valid);
            if let (Some((cert, _)), Some((_, ends))) = (client, valid) {
                endings.push(Ending {
                    of: format!("pool {}", pool.name),
                    key: ends.to_string(),
                    name: cert.value.display().to_string(),
                    ends,
                });
            }
        }
        endings
    }

    fn known(&self) -> std::sync::MutexGuard<'_, Known> {
        self.certificates
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// Which announcement is due with so many seconds left: the days of the last that was reached, 0
/// when it is over.
fn stage(left: i64) -> Option<i64> {
    if left < 0 {
        return Some(0);
    }
    DAYS.into_iter().rev().find(|days| left <= days * DAY)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn announcements_become_more_frequent() {
        let stages = [31, 30, 20, 14, 8, 7, 2, 1].map(|days| stage(days * DAY));
        let days = [30, 30, 14, 14, 7, 7, 1].map(Some);
        assert_eq!(stages[0], None);
        assert_eq!(stages[1..], days);
        assert_eq!(stage(-1), Some(0));
    }
}
