//! Keys of tokens while they are in use: replaced as a whole by newer ones, and never by none.
//!
//! Who serves reads them through an atomic pointer. Whoever looks after them (a watched file, or the
//! control plane's requests to a URL) puts new ones in their place, and says what went wrong. A
//! request that names a key nobody knows may ask for a look before the next one is due
//! ([`KeySet::want`]), and may wait for what comes of it.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use arc_swap::ArcSwapOption;
use portolan_config::plan::TokenKeySource;
use tokio::sync::{Notify, watch};

use crate::error::BundleError;
use crate::token_keys::{KeyFault, TokenKeys};

/// The keys of one source.
#[derive(Debug)]
pub struct KeySet {
    source: TokenKeySource,
    keys: ArcSwapOption<TokenKeys>,
    /// Why there are no newer ones.
    error: ArcSwapOption<String>,
    /// When they were last had, in seconds since 1970; 0: never.
    had: AtomicU64,
    succeeded: AtomicU64,
    failed: AtomicU64,
    /// Somebody names a key that nobody knows.
    wanted: AtomicBool,
    want: Notify,
    /// A look before its time is allowed.
    rested: AtomicBool,
    /// How many looks there were.
    looks: watch::Sender<u64>,
}

/// What a look came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Looked {
    /// Other keys than before, so many; and what is wrong with others beside them.
    New(usize, Vec<KeyFault>),
    /// The same as before.
    Same,
    /// None, and this is new; and whether those of before go on.
    Failed(BundleError, bool),
    /// None, as before.
    StillFailed,
}

impl KeySet {
    /// A set that nobody has looked for yet.
    pub fn new(source: TokenKeySource) -> Self {
        Self {
            source,
            keys: ArcSwapOption::empty(),
            error: ArcSwapOption::empty(),
            had: AtomicU64::new(0),
            succeeded: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            wanted: AtomicBool::new(false),
            want: Notify::new(),
            rested: AtomicBool::new(false),
            looks: watch::channel(0).0,
        }
    }

    /// Where they come from.
    pub fn source(&self) -> &TokenKeySource {
        &self.source
    }

    /// The keys, if there are any yet.
    pub fn keys(&self) -> Option<Arc<TokenKeys>> {
        self.keys.load_full()
    }

    /// Why there are no newer ones, if the last look failed.
    pub fn error(&self) -> Option<Arc<String>> {
        self.error.load_full()
    }

    /// When they were last had, in seconds since 1970.
    pub fn had(&self) -> Option<u64> {
        Some(self.had.load(Ordering::Relaxed)).filter(|had| *had > 0)
    }

    /// Looks that brought keys, and looks that failed.
    pub fn counted(&self) -> [u64; 2] {
        [&self.succeeded, &self.failed].map(|count| count.load(Ordering::Relaxed))
    }

    /// Keys came. Whether they are other ones than before.
    pub fn replace(&self, keys: TokenKeys, now: u64) -> bool {
        let before = self.keys.load();
        let new = before.as_ref().is_none_or(|before| !before.is_same(&keys));
        if new {
            self.keys.store(Some(Arc::new(keys)));
        }
        self.error.store(None);
        self.had.store(now, Ordering::Relaxed);
        self.succeeded.fetch_add(1, Ordering::Relaxed);
        self.looked();
        new
    }

    /// A set came, and none of its keys can be used. Those of before are not in it: they were withdrawn,
    /// and are not believed any more. Whether something else went wrong the time before, or nothing.
    pub fn withdraw(&self, error: String) -> bool {
        if self.keys.load().is_some() {
            self.keys.store(Some(Arc::new(TokenKeys::none())));
        }
        self.fail(error)
    }

    /// None came; those of before go on. Whether something else went wrong the time before, or
    /// nothing.
    pub fn fail(&self, error: String) -> bool {
        self.failed.fetch_add(1, Ordering::Relaxed);
        let before = self.error.swap(Some(Arc::new(error.clone())));
        self.looked();
        before.is_none_or(|before| *before != error)
    }

    fn looked(&self) {
        self.wanted.store(false, Ordering::Release);
        self.looks.send_modify(|looks| *looks += 1);
    }

    /// Reads the file again, if it is one.
    pub fn look(&self, path: &Path, now: u64) -> Looked {
        match TokenKeys::read_file(path) {
            Ok(keys) => {
                let (count, faults) = (keys.count(), keys.faults().to_vec());
                if self.replace(keys, now) {
                    Looked::New(count, faults)
                } else {
                    Looked::Same
                }
            }
            Err((error, none_fit)) => {
                let said = error.to_string();
                let new = match none_fit {
                    true => self.withdraw(said),
                    false => self.fail(said),
                };
                if new {
                    Looked::Failed(error, !none_fit)
                } else {
                    Looked::StillFailed
                }
            }
        }
    }

    // === For those who serve ===

    /// Asks for a look before its time, because somebody names a key that nobody knows. Gives back
    /// what to wait for, if there will be one at once.
    pub fn want(&self) -> Option<watch::Receiver<u64>> {
        if matches!(self.source, TokenKeySource::File(_)) {
            return None;
        }
        // Before asking, so that what comes of it is not missed.
        let looks = self
            .rested
            .load(Ordering::Acquire)
            .then(|| self.looks.subscribe());
        if !self.wanted.swap(true, Ordering::AcqRel) {
            self.want.notify_one();
        }
        looks
    }

    // === For those who look after them ===

    /// Whether somebody asked for a look.
    pub fn is_wanted(&self) -> bool {
        self.wanted.load(Ordering::Acquire)
    }

    /// Returns when somebody asks for a look.
    pub async fn wanted(&self) {
        while !self.is_wanted() {
            self.want.notified().await;
        }
    }

    /// Says whether a look before its time would come at once.
    pub fn set_rested(&self, rested: bool) {
        self.rested.store(rested, Ordering::Release);
    }

    /// Returns when there was a look.
    pub async fn looked_once(&self) {
        // The sender is here as long as this is.
        let _ = self.looks.subscribe().wait_for(|looks| *looks > 0).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::token_keys::tests::SET;

    #[test]
    fn good_keys_stay_whatever_comes_after_them() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys.json");
        let set = KeySet::new(TokenKeySource::File(path.clone()));
        assert!(matches!(set.look(&path, 1), Looked::Failed(..)));
        assert!(set.keys().is_none() && set.had().is_none());
        std::fs::write(&path, SET).unwrap();
        assert_eq!(set.look(&path, 2), Looked::New(3, Vec::new()));
        assert_eq!((set.had(), set.error()), (Some(2), None));
        assert_eq!(set.look(&path, 3), Looked::Same);
        std::fs::write(&path, "{\"keys\": [").unwrap();
        assert!(matches!(set.look(&path, 4), Looked::Failed(..)));
        assert_eq!(set.look(&path, 5), Looked::StillFailed);
        assert_eq!(set.keys().unwrap().count(), 3);
        assert_eq!(set.had(), Some(3));
        assert!(set.error().unwrap().contains("keys of tokens"));
        assert_eq!(set.counted(), [2, 3]);
        // A set without any of them: they were withdrawn.
        std::fs::write(&path, "{\"keys\": [{\"kty\": \"EC\", \"crv\": \"P-521\"}]}").unwrap();
        assert!(matches!(set.look(&path, 6), Looked::Failed(..)));
        assert_eq!(set.keys().unwrap().count(), 0);
        std::fs::write(&path, SET).unwrap();
        assert_eq!(set.look(&path, 7), Looked::New(3, Vec::new()));
        assert!(set.want().is_none(), "a file is read when it changes");
    }

    #[tokio::test]
    async fn a_look_is_asked_for_once_and_can_be_waited_for() {
        let set = KeySet::new(TokenKeySource::Url("https://id.example/keys".into(), None));
        assert!(set.want().is_none(), "not yet");
        assert!(set.is_wanted());
        set.wanted().await;
        assert!(set.fail("no".to_owned()) && !set.fail("no".to_owned()));
        assert!(!set.is_wanted());
        set.looked_once().await;
        set.set_rested(true);
        let mut looks = set.want().unwrap();
        assert!(!looks.has_changed().unwrap());
        set.replace(TokenKeys::parse(SET.as_bytes()).unwrap(), 7);
        looks.changed().await.unwrap();
        assert_eq!(set.had(), Some(7));
    }
}
