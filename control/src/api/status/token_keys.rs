//! Keys that tokens are verified with, as data.

use std::collections::BTreeMap;

use portolan_certs::KeySet;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::snapshot::{Proof, Snapshot};

/// The keys of one source.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TokenKeysEntry {
    /// The file or the URL.
    pub source: String,
    /// The routes that ask for tokens signed with them.
    pub routes: Vec<String>,
    /// How many there are; 0: none were had yet, and requests are refused.
    pub keys: usize,
    /// Keys in the same set that are of other kinds or for other purposes.
    pub ignored: usize,
    /// What is wrong with keys in the same set that should verify tokens.
    #[serde(default)]
    pub faults: Vec<String>,
    /// When they were last had, in seconds since 1970.
    pub had: Option<u64>,
    /// Why there are no newer ones.
    pub error: Option<String>,
}

impl TokenKeysEntry {
    /// Those of a snapshot.
    pub fn all(snapshot: &Snapshot) -> Vec<Self> {
        let mut found: BTreeMap<String, Self> = BTreeMap::new();
        for route in snapshot.routes.iter() {
            if let Some(Proof::Jwt(gate)) = &route.proof {
                let entry = found
                    .entry(gate.keys.source().to_string())
                    .or_insert_with(|| Self::new(&gate.keys));
                entry.routes.push(route.name.to_string());
            }
        }
        found.into_values().collect()
    }

    fn new(set: &KeySet) -> Self {
        let keys = set.keys();
        Self {
            source: set.source().to_string(),
            routes: Vec::new(),
            keys: keys.as_ref().map_or(0, |keys| keys.count()),
            ignored: keys.as_ref().map_or(0, |keys| keys.ignored()),
            faults: keys.as_ref().map_or_else(Vec::new, |keys| {
                keys.faults().iter().map(ToString::to_string).collect()
            }),
            had: set.had(),
            error: set.error().map(|error| error.to_string()),
        }
    }

    /// What should worry an operator about them.
    pub fn worry(&self) -> Option<String> {
        let source = &self.source;
        let error = self.error.as_deref();
        match (self.keys, error) {
            (0, None) => Some(format!("no keys of tokens from {source} yet")),
            (0, Some(error)) => Some(format!(
                "no keys of tokens from {source}, so requests are refused: {error}"
            )),
            (_, Some(error)) => Some(format!(
                "no newer keys of tokens from {source}, so those of before go on: {error}"
            )),
            (_, None) if !self.faults.is_empty() => Some(format!(
                "among the keys of tokens from {source}: {}",
                self.faults.join("; ")
            )),
            (_, None) => None,
        }
    }
}
