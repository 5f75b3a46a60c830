//! The audit log: who overrode what, why, and what was before and after. JSON lines in `state_dir`,
//! appended to and never rewritten.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io;
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Override, OverrideChange, Subject};

/// As much of the log's end as is read at once, in bytes.
const MOST_READ: u64 = 1 << 20;

/// A line of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AuditEntry {
    /// When, in milliseconds since 1970.
    pub at: u64,
    /// Whose token it was, `local` where no tokens are needed, or `portolan` when a lease was over.
    pub by: Arc<str>,
    /// `drain`, `undrain`, `weights`, `weights_cleared` or `lease_ended`.
    pub action: String,
    /// The pool, if it is about one.
    pub pool: Option<String>,
    /// The endpoint, if it is about one.
    pub endpoint: Option<SocketAddr>,
    /// The service, if it is about one.
    #[serde(default)]
    pub service: Option<String>,
    /// Why, if they said.
    pub reason: Option<String>,
    /// What held before.
    pub before: Option<AuditLease>,
    /// What holds from then on.
    pub after: Option<AuditLease>,
}

/// An override as it was or is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AuditLease {
    /// Who made it.
    pub by: Arc<str>,
    /// Why.
    pub reason: String,
    /// Until when, in milliseconds since 1970.
    pub until: u64,
    /// The weights, if it is about them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weights: Option<BTreeMap<String, u32>>,
}

impl From<&Override> for AuditLease {
    fn from(it: &Override) -> Self {
        Self {
            by: it.lease.by.clone(),
            reason: it.lease.reason.as_str().to_owned(),
            until: it.lease.until.as_millis() as u64,
            weights: it.decision.weights().map(|weights| weights.to_map()),
        }
    }
}

impl AuditEntry {
    /// What changed at `now`, since 1970.
    pub fn new(change: &OverrideChange, now: Duration) -> Self {
        let subject: &Subject = change.subject();
        let entry = |by: &Arc<str>| Self {
            at: now.as_millis() as u64,
            by: by.clone(),
            action: change.kind().to_owned(),
            pool: subject.pool().map(ToString::to_string),
            endpoint: subject.endpoint(),
            service: subject.service().map(ToString::to_string),
            reason: change.reason().map(str::to_owned),
            before: None,
            after: None,
        };
        match change {
            OverrideChange::Set { now, before, .. } => Self {
                before: before.as_ref().map(AuditLease::from),
                after: Some(now.into()),
                ..entry(&now.lease.by)
            },
            OverrideChange::Ended { before, by, .. } => Self {
                before: Some(before.into()),
                ..entry(by)
            },
            OverrideChange::LeaseEnded { before, .. } => Self {
                before: Some(before.into()),
                ..entry(&"portolan".into())
            },
        }
    }
}

/// Appends entries to the log.
///
/// # Errors
/// When it cannot be written.
pub(crate) fn append(path: &Path, entries: &[AuditEntry]) -> io::Result<()> {
    let mut lines = Vec::new();
    for entry in entries {
        serde_json::to_writer(&mut lines, entry).map_err(io::Error::other)?;
        lines.push(b'\n');
    }
    let mut file = OpenOptions::new()
        .read(true)
        .append(true)
        .create(true)
        .mode(0o600)
        .open(path)?;
    let before = file.metadata()?.len();
    if before > 0 {
        // What a process that was killed has begun must not spoil what follows.
        let mut last = [0];
        file.seek(SeekFrom::Start(before - 1))?;
        file.read_exact(&mut last)?;
        if last != *b"\n" {
            lines.insert(0, b'\n');
        }
    }
    let written = file.write_all(&lines).and_then(|()| file.sync_all());
    if written.is_err() {
        // Nor what a full disk has left of this.
        let _ = file.set_len(before);
    }
    written
}

/// The last entries of the log, the oldest first.
///
/// # Errors
/// When it cannot be read. A log that is not there is empty.
pub(crate) fn read(path: &Path) -> io::Result<Vec<AuditEntry>> {
    let mut file = match std::fs::File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(MOST_READ)))?;
    let mut bytes = Vec::new();
    file.take(MOST_READ).read_to_end(&mut bytes)?;
    // The first line may be cut, the last one half written by a process that was killed.
    let lines = bytes.split(|byte| *byte == b'\n');
    Ok(lines
        .filter_map(|line| serde_json::from_slice(line).ok())
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_appended_is_read_and_a_torn_line_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit.log");
        assert_eq!(read(&path).unwrap(), []);
        let entry = |at| AuditEntry {
            at,
            by: "oncall".into(),
            action: "drain".to_owned(),
            pool: Some("aws".to_owned()),
            endpoint: Some("10.0.0.1:80".parse().unwrap()),
            service: None,
            reason: Some("x".repeat(100)),
            before: None,
            after: None,
        };
        append(&path, &[entry(1), entry(2)]).unwrap();
        append(&path, &[entry(3)]).unwrap();
        assert_eq!(read(&path).unwrap(), [entry(1), entry(2), entry(3)]);
        let mut text = std::fs::read(&path).unwrap();
        text.extend_from_slice(b"{\"at\":4,\"by\":\"onc");
        std::fs::write(&path, &text).unwrap();
        assert_eq!(read(&path).unwrap().len(), 3);
        // A long log is read from its end.
        std::fs::remove_file(&path).unwrap();
        let many: Vec<AuditEntry> = (0..10_000).map(entry).collect();
        append(&path, &many).unwrap();
        let seen = read(&path).unwrap();
        assert!(seen.len() > 1_000 && seen.len() < 10_000, "{}", seen.len());
        assert_eq!(seen.last(), many.last());
    }
}
