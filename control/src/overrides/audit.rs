//! The audit log: who overrode what, why, and what was before and after. JSON lines in `state_dir`,
//! appended to and never rewritten.

use std::fs::OpenOptions;
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Change, Lease, Subject};

/// As much of the log's end as is read at once, in bytes.
const MOST_READ: u64 = 1 << 20;

/// A line of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditEntry {
    /// When, in milliseconds since 1970.
    pub at: u64,
    /// Whose token it was, `local` where no tokens are needed, or `portolan` when a lease was over.
    pub by: Arc<str>,
    /// `drain`, `undrain` or `lease_ended`.
    pub action: String,
    /// The pool.
    pub pool: String,
    /// The endpoint; none for the pool as a whole.
    pub endpoint: Option<SocketAddr>,
    /// Why, if they said.
    pub reason: Option<String>,
    /// What held before.
    pub before: Option<AuditLease>,
    /// What holds from then on.
    pub after: Option<AuditLease>,
}

/// A drain as it was or is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditLease {
    /// Who drained.
    pub by: Arc<str>,
    /// Why.
    pub reason: String,
    /// Until when, in milliseconds since 1970.
    pub until: u64,
}

impl From<&Lease> for AuditLease {
    fn from(lease: &Lease) -> Self {
        Self {
            by: lease.by.clone(),
            reason: lease.reason.as_str().to_owned(),
            until: lease.until.as_millis() as u64,
        }
    }
}

impl AuditEntry {
    /// What changed at `now`, since 1970.
    pub fn new(change: &Change, now: Duration) -> Self {
        let entry = |action: &str, subject: &Subject, by: &Arc<str>| Self {
            at: now.as_millis() as u64,
            by: by.clone(),
            action: action.to_owned(),
            pool: subject.pool.to_string(),
            endpoint: subject.endpoint,
            reason: None,
            before: None,
            after: None,
        };
        match change {
            Change::Drained {
                subject,
                lease,
                before,
            } => Self {
                reason: Some(lease.reason.as_str().to_owned()),
                before: before.as_ref().map(AuditLease::from),
                after: Some(lease.into()),
                ..entry("drain", subject, &lease.by)
            },
            Change::Undrained {
                subject,
                before,
                by,
                reason,
            } => Self {
                reason: reason.as_ref().map(|reason| reason.as_str().to_owned()),
                before: Some(before.into()),
                ..entry("undrain", subject, by)
            },
            Change::LeaseEnded { subject, before } => Self {
                reason: Some("the lease is over".to_owned()),
                before: Some(before.into()),
                ..entry("lease_ended", subject, &"portolan".into())
            },
        }
    }
}

/// Appends entries to the log.
///
/// # Errors
/// When it cannot be written.
pub(super) fn append(path: &Path, entries: &[AuditEntry]) -> io::Result<()> {
    let mut lines = Vec::new();
    for entry in entries {
        serde_json::to_writer(&mut lines, entry).map_err(io::Error::other)?;
        lines.push(b'\n');
    }
    let mut file = OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .open(path)?;
    file.write_all(&lines)?;
    file.sync_all()
}

/// The last entries of the log, the oldest first.
///
/// # Errors
/// When it cannot be read. A log that is not there is empty.
pub(super) fn read(path: &Path) -> io::Result<Vec<AuditEntry>> {
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
            pool: "aws".to_owned(),
            endpoint: Some("10.0.0.1:80".parse().unwrap()),
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
