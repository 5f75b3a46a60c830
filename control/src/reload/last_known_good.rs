//! The last configuration that ran, kept in `state_dir` for starts with `--last-known-good`.
//!
//! The texts are kept as written, with their `${…}` references and not what they stand for, so that
//! no secret is copied; certificates and databases are read again from where they were.

use std::io;
use std::path::{Path, PathBuf};

use portolan_certs::state_file;
use portolan_config::SavedSource;
use serde::{Deserialize, Serialize};

const FILE: &str = "last-known-good.json";

/// A kept configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastKnownGood {
    /// What it is known by.
    pub hash: String,
    /// When it was applied, in seconds since 1970.
    pub applied: u64,
    /// Its texts, the main one first.
    pub sources: Vec<SavedSource>,
}

impl LastKnownGood {
    /// Where it is kept.
    pub fn path(state_dir: &Path) -> PathBuf {
        state_dir.join(FILE)
    }

    /// Reads it.
    ///
    /// # Errors
    /// When there is none, or it cannot be read.
    pub fn load(state_dir: &Path) -> io::Result<Self> {
        let text = std::fs::read_to_string(Self::path(state_dir))?;
        // The reader's own words would hold what it has found.
        serde_json::from_str(&text)
            .map_err(|error| io::Error::other(portolan_certs::no_json(&error)))
    }

    /// Keeps it: readable by its owner alone, and never half written.
    ///
    /// # Errors
    /// When the folder cannot be written.
    pub fn save(&self, state_dir: &Path) -> io::Result<()> {
        let texts: usize = self.sources.iter().map(|source| source.text.len()).sum();
        let mut text = Vec::with_capacity(texts + texts / 8);
        serde_json::to_writer_pretty(&mut text, self).map_err(io::Error::other)?;
        state_file::replace(&Self::path(state_dir), &text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn what_is_kept_comes_back() {
        let folder = tempfile::tempdir().unwrap();
        let state = folder.path().join("state");
        assert!(LastKnownGood::load(&state).is_err());
        let kept = LastKnownGood {
            hash: "abc".to_owned(),
            applied: 7,
            sources: vec![SavedSource {
                name: "portolan.yaml".to_owned(),
                folder: "/etc/portolan".into(),
                text: "pools: {}".to_owned(),
            }],
        };
        kept.save(&state).unwrap();
        kept.save(&state).unwrap();
        assert_eq!(LastKnownGood::load(&state).unwrap(), kept);
        let mode = std::fs::metadata(LastKnownGood::path(&state))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}
