//! What outlives configurations and files: the keys of session tickets, the last certificates that
//! were good, the keys of tokens, and the answers to CAs' questions.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use portolan_config::plan::{CertificateSource, TokenKeySource};
use portolan_config::source::Origin;
use rustls::server::ProducesTickets;

use crate::bundle::{Bundle, PairFiles};
use crate::challenge::Challenges;
use crate::error::BundleError;
use crate::folder;
use crate::key_set::KeySet;

/// Everything about TLS that lasts as long as the process.
#[derive(Clone, Debug, Default)]
pub struct Keyring(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    tickets: Option<Arc<dyn ProducesTickets>>,
    challenges: Challenges,
    /// The last that was good of every pair.
    good: Mutex<HashMap<PairFiles, Arc<Bundle>>>,
    /// The pairs that were last found in a folder.
    folders: Mutex<HashMap<PathBuf, Vec<PairFiles>>>,
    /// Keys of tokens that some configuration uses.
    key_sets: Mutex<HashMap<TokenKeySource, Weak<KeySet>>>,
}

impl Default for Inner {
    fn default() -> Self {
        Self {
            // Keys are made at random, and changed every six hours by rustls itself; a ticket can
            // be used for twelve.
            tickets: rustls::crypto::ring::Ticketer::new().ok(),
            challenges: Challenges::default(),
            good: Mutex::default(),
            folders: Mutex::default(),
            key_sets: Mutex::default(),
        }
    }
}

/// Certificates as they could be loaded.
#[derive(Debug, Default)]
pub(crate) struct Gathered {
    pub(crate) bundles: Vec<(PairFiles, Arc<Bundle>)>,
    pub(crate) faults: Vec<CertificateFault>,
}

/// A file that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateFault {
    /// Where it stood in the configuration.
    pub place: Origin,
    /// Why.
    pub error: BundleError,
    /// Whether Portolan can serve without it: then it is said, and no more.
    pub bearable: bool,
}

impl Keyring {
    /// Fresh keys, and nothing else yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// The answers to CAs' questions that stand now.
    pub fn challenges(&self) -> &Challenges {
        &self.0.challenges
    }

    /// The keys of tokens from this source: those that are in use, or none yet.
    pub(crate) fn key_set(&self, source: &TokenKeySource) -> Arc<KeySet> {
        let mut sets = lock(&self.0.key_sets);
        if let Some(set) = sets.get(source).and_then(Weak::upgrade) {
            return set;
        }
        sets.retain(|_, set| set.strong_count() > 0);
        let set = Arc::new(KeySet::new(source.clone()));
        sets.insert(source.clone(), Arc::downgrade(&set));
        set
    }

    pub(crate) fn tickets(&self) -> Option<&Arc<dyn ProducesTickets>> {
        self.0.tickets.as_ref()
    }

    /// Loads certificates. Of one that cannot be used now, the last that was good stays, if there
    /// was one.
    pub(crate) fn gather(&self, sources: &[CertificateSource], now: i64) -> Gathered {
        let mut gathered = Gathered::default();
        for source in sources {
            match source {
                CertificateSource::Pair(files) => {
                    let pair = PairFiles {
                        cert: files.cert.value.clone(),
                        key: files.key.value.clone(),
                        ocsp: files.ocsp.as_ref().map(|ocsp| ocsp.value.clone()),
                    };
                    let places = (files.cert.origin, files.key.origin);
                    self.take(pair, places, now, &mut gathered);
                }
                CertificateSource::Directory { path, awaited } => {
                    let before = gathered.faults.len();
                    let pairs = self
                        .look_into(&path.value, *awaited)
                        .unwrap_or_else(|error| {
                            gathered.faults.push(CertificateFault {
                                place: path.origin,
                                error,
                                bearable: false,
                            });
                            lock(&self.0.folders)
                                .get(&path.value)
                                .cloned()
                                .unwrap_or_default()
                        });
                    for pair in pairs {
                        self.take(pair, (path.origin, path.origin), now, &mut gathered);
                    }
                    // Whoever fills it can do so once more.
                    for fault in &mut gathered.faults[before..] {
                        fault.bearable |= awaited;
                    }
                }
            }
        }
        gathered
    }

    /// The pairs in a folder. One that was emptied keeps what it had: nobody means to take all
    /// certificates away.
    fn look_into(&self, path: &Path, awaited: bool) -> Result<Vec<PairFiles>, BundleError> {
        let mut known = lock(&self.0.folders);
        let found = match folder::pairs(path) {
            Ok(found) => found,
            Err(_) if awaited && !known.contains_key(path) => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        if found.is_empty() && (!awaited || known.contains_key(path)) {
            return Err(BundleError::Missing {
                path: path.display().to_string(),
                what: "certificate with its key",
            });
        }
        if !found.is_empty() {
            known.insert(path.to_path_buf(), found.clone());
        }
        Ok(found)
    }

    fn take(
        &self,
        pair: PairFiles,
        (cert, key): (Origin, Origin),
        now: i64,
        gathered: &mut Gathered,
    ) {
        let before = lock(&self.0.good).get(&pair).cloned();
        let loaded = Bundle::load(&pair).and_then(|bundle| {
            if let Some(before) = &before {
                bundle.may_replace(before, &pair.cert, now)?;
            }
            Ok(bundle)
        });
        let mut fault = |error: BundleError, bearable| {
            let place = match error.is_about(&pair.cert) {
                false if error.is_about(&pair.key) => key,
                _ => cert,
            };
            gathered.faults.push(CertificateFault {
                place,
                error,
                bearable,
            });
        };
        let bundle = match (loaded, before) {
            (Ok(bundle), before) => {
                if let Some(error) = bundle.staple_fault.clone() {
                    fault(error, true);
                }
                match before.filter(|before| before.is_same(&bundle)) {
                    Some(before) if before.staple_fault == bundle.staple_fault => before,
                    _ => {
                        let bundle = Arc::new(bundle);
                        lock(&self.0.good).insert(pair.clone(), bundle.clone());
                        bundle
                    }
                }
            }
            (Err(error @ BundleError::Worse { .. }), Some(before)) => {
                fault(error, true);
                before
            }
            (Err(error), Some(before)) => {
                fault(error, false);
                before
            }
            (Err(error), None) => {
                fault(error, false);
                return;
            }
        };
        gathered.bundles.push((pair, bundle));
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What is suspicious about the time in which a certificate is valid, for whoever checks a
/// configuration.
pub(crate) fn worry(path: &Path, (begins, ends): (i64, i64), now: i64) -> Option<String> {
    const DAY: i64 = 24 * 60 * 60;
    let path = path.display();
    if now > ends {
        Some(format!(
            "the certificate in `{path}` has expired: it will be refused"
        ))
    } else if now < begins {
        Some(format!(
            "the certificate in `{path}` is not valid yet: it will be refused"
        ))
    } else {
        let days = (ends - now) / DAY;
        (days < SOON_DAYS).then(|| format!("the certificate in `{path}` expires in {days} days"))
    }
}

/// With fewer days left than this, a certificate should have been renewed.
const SOON_DAYS: i64 = 14;
