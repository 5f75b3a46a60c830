//! Where upgrades are asked for: a socket in `state_dir`.
//!
//! Whoever can name a binary for this process to start can do whatever this process can. So it is
//! not asked for over the admin API, which others may reach, but where the system says who asks:
//! the process's own user and root may, nobody else.

use std::io;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::predecessor::{Successor, Upgrader, named};

/// The socket's name.
const NAME: &str = "upgrade.sock";

/// How long a question may take to arrive, and an answer to leave.
const WORD: Duration = Duration::from_secs(5);

/// No question is longer.
const LONGEST: u64 = 16 << 10;

/// What is asked for, as a line of JSON.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Question {
    /// Who is asked: two instances that share a folder are told apart.
    pub(crate) pid: u32,
    /// The binary to start, if not the one that runs.
    pub(crate) binary: Option<PathBuf>,
    /// How long it may take to be ready, in milliseconds.
    pub(crate) patience_ms: u64,
}

/// What became of it, as a line of JSON.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub(crate) enum UpgradeAnswer {
    /// A new process serves.
    Done {
        /// The new process.
        pid: u32,
        /// Its version.
        version: String,
        /// The old one, which lets its clients finish.
        before: u32,
    },
    /// The old one serves on.
    Failed {
        /// Why.
        error: String,
    },
}

/// The socket, as long as this process has it.
#[derive(Debug)]
pub(crate) struct UpgradeSocket {
    listener: UnixListener,
    path: PathBuf,
}

impl UpgradeSocket {
    /// Opens it, in place of one that a process before this one had.
    ///
    /// # Errors
    /// When the folder cannot be written.
    pub(crate) fn open(state_dir: &Path) -> io::Result<Self> {
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(state_dir)?;
        let path = std::path::absolute(state_dir.join(NAME))?;
        let new = path.with_extension(std::process::id().to_string());
        let _ = std::fs::remove_file(&new);
        let listener = UnixListener::bind(&new)?;
        std::fs::set_permissions(&new, std::fs::Permissions::from_mode(0o600))?;
        std::fs::rename(&new, &path)?;
        Ok(Self { listener, path })
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Answers questions until a new process serves.
    pub(crate) async fn serve(mut self, upgrader: Arc<Upgrader>, handed: mpsc::Sender<Successor>) {
        let mut clients = JoinSet::new();
        loop {
            tokio::select! {
                accepted = self.listener.accept() => match accepted {
                    Ok((client, _)) => {
                        let (upgrader, handed) = (upgrader.clone(), handed.clone());
                        clients.spawn(attend(client, upgrader, handed));
                    }
                    Err(error) => {
                        tracing::debug!("cannot accept on {}: {error}", self.path.display());
                        tokio::time::sleep(WORD).await;
                    }
                },
                Some(served) = clients.join_next() => {
                    // A new process that failed late may have put its own socket here.
                    if matches!(served, Ok(Served::Failed))
                        && let Some(folder) = self.path.parent()
                        && let Ok(again) = Self::open(folder)
                    {
                        self = again;
                    }
                }
            }
        }
    }

    /// Takes the socket's name away, when this process ends without a successor.
    pub(crate) fn remove(path: &Path) {
        let _ = std::fs::remove_file(path);
    }
}

/// What became of a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Served {
    Done,
    Failed,
}

async fn attend(
    mut client: UnixStream,
    upgrader: Arc<Upgrader>,
    handed: mpsc::Sender<Successor>,
) -> Served {
    let (answer, successor) = match consider(&mut client, &upgrader).await {
        Ok(successor) => (
            UpgradeAnswer::Done {
                pid: successor.pid,
                version: successor.version.clone(),
                before: std::process::id(),
            },
            Some(successor),
        ),
        Err(error) => (
            UpgradeAnswer::Failed {
                error: format!("{error:#}"),
            },
            None,
        ),
    };
    let mut line = serde_json::to_vec(&answer).unwrap_or_default();
    line.push(b'\n');
    // Before anybody is told, since this process may end then.
    let _ = tokio::time::timeout(WORD, client.write_all(&line)).await;
    let Some(successor) = successor else {
        return Served::Failed;
    };
    let _ = handed.send(successor).await;
    Served::Done
}

async fn consider(client: &mut UnixStream, upgrader: &Upgrader) -> anyhow::Result<Successor> {
    let asking = client.peer_cred()?.uid();
    let own = rustix::process::geteuid().as_raw();
    anyhow::ensure!(
        asking == own || asking == 0,
        "only root and the user that Portolan runs as may upgrade it"
    );
    let mut line = String::new();
    let mut reader = BufReader::new(client).take(LONGEST);
    tokio::time::timeout(WORD, reader.read_line(&mut line)).await??;
    let question: Question = serde_json::from_str(&line)?;
    anyhow::ensure!(
        question.pid == std::process::id(),
        "another process has the socket in this folder: two instances must not share `state_dir`"
    );
    let binary = named(question.binary)?;
    let patience = Duration::from_millis(question.patience_ms);
    upgrader.upgrade(binary.as_deref(), patience).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_socket_is_for_its_owner_and_replaces_the_one_before() {
        let folder = tempfile::tempdir().unwrap();
        let state = folder.path().join("a/state");
        let first = UpgradeSocket::open(&state).unwrap();
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(first.path()), mode(&state)), (0o600, 0o700));
        let second = UpgradeSocket::open(&state).unwrap();
        let _client = UnixStream::connect(second.path()).await.unwrap();
        assert!(second.listener.accept().await.is_ok());
        assert_eq!(std::fs::read_dir(&state).unwrap().count(), 1);
    }
}
