//! Keeps the overrides: in a file that outlives the process, and on time.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::{Mutex, Notify};

use super::audit::{self, AuditEntry};
use super::{Change, Event, Overrides};
use crate::clock::Clock;
use crate::engine::{Engine, Stopped};
use crate::notice::Notice;
use crate::state_file;

const FILE: &str = "overrides.json";
const AUDIT: &str = "audit.log";

/// Leases are by the calendar, which may be set right: it is looked at this often.
const LOOK: Duration = Duration::from_secs(30);

/// Why a change was not made. Nothing has changed then.
#[derive(Debug, thiserror::Error)]
pub enum NotChanged {
    /// It could not be kept, so it would not outlive the process.
    #[error("it cannot be kept in {path}: {error}")]
    NotKept {
        /// Where.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// The process is stopping.
    #[error(transparent)]
    Stopped(#[from] Stopped),
}

/// The overrides of a process.
#[derive(Debug)]
pub struct OverrideKeeper {
    path: PathBuf,
    audit: PathBuf,
    engine: Engine,
    clock: Clock,
    /// One change at a time.
    turn: Mutex<()>,
    current: ArcSwap<Overrides>,
    /// The next lease may end sooner than thought.
    changed: Notify,
}

impl OverrideKeeper {
    /// Begins with what was kept in this folder. Returns when the engine goes by it.
    ///
    /// # Errors
    /// When the engine has stopped.
    pub async fn start(
        state_dir: &Path,
        engine: Engine,
        clock: Clock,
    ) -> Result<Arc<Self>, Stopped> {
        let path = state_dir.join(FILE);
        let kept = load(&path);
        let keeper = Arc::new(Self {
            path,
            audit: state_dir.join(AUDIT),
            engine,
            clock,
            turn: Mutex::new(()),
            current: ArcSwap::default(),
            changed: Notify::new(),
        });
        let (overrides, changes) = Overrides::default().step(Event::Restored(kept), clock.wall());
        if !changes.is_empty() {
            keeper.keep_or_warn(&overrides).await;
        }
        if overrides != Overrides::default() {
            keeper.engine.drain(overrides.drained()).await?;
            for (subject, lease) in overrides.drains() {
                tracing::info!(
                    "{subject} is still drained by {}: {}",
                    lease.by,
                    lease.reason.as_str()
                );
            }
        }
        keeper.tell(changes).await;
        keeper.current.store(Arc::new(overrides));
        tokio::spawn(keeper.clone().end_leases());
        Ok(keeper)
    }

    /// What is overridden now.
    pub fn current(&self) -> Arc<Overrides> {
        self.current.load_full()
    }

    /// Now, by the calendar.
    pub fn now(&self) -> Duration {
        self.clock.wall()
    }

    /// Makes a change: kept first, then in effect. What changed; nothing if it was so already.
    ///
    /// # Errors
    /// When it was not made.
    pub async fn change(&self, event: Event) -> Result<Vec<Change>, NotChanged> {
        let _turn = self.turn.lock().await;
        let before = self.current.load_full();
        let (overrides, changes) = Overrides::clone(&before).step(event, self.clock.wall());
        if changes.is_empty() {
            return Ok(changes);
        }
        self.keep(&overrides)
            .await
            .map_err(|error| NotChanged::NotKept {
                path: self.path.clone(),
                error,
            })?;
        self.put_into_effect(overrides, changes.clone()).await?;
        Ok(changes)
    }

    /// Ends leases when they are over.
    async fn end_leases(self: Arc<Self>) {
        loop {
            let now = self.clock.wall();
            let wait = self
                .current
                .load()
                .wake()
                .map_or(LOOK, |wake| wake.saturating_sub(now).min(LOOK));
            // The calendar's milliseconds are whole; sleeping ends a little later than asked.
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = self.changed.notified() => continue,
            }
            let _turn = self.turn.lock().await;
            let before = self.current.load_full();
            let (overrides, changes) =
                Overrides::clone(&before).step(Event::Woken, self.clock.wall());
            if changes.is_empty() {
                continue;
            }
            // A lease that is over is over, even if the file still has it: so it would be after the
            // next start, too.
            self.keep_or_warn(&overrides).await;
            if self.put_into_effect(overrides, changes).await.is_err() {
                return;
            }
        }
    }

    async fn put_into_effect(
        &self,
        overrides: Overrides,
        changes: Vec<Change>,
    ) -> Result<(), Stopped> {
        self.engine.drain(overrides.drained()).await?;
        self.current.store(Arc::new(overrides));
        self.tell(changes).await;
        self.changed.notify_one();
        Ok(())
    }

    /// Tells operators what changed, and those who come later.
    async fn tell(&self, changes: Vec<Change>) {
        if changes.is_empty() {
            return;
        }
        let now = self.clock.wall();
        let entries: Vec<AuditEntry> = changes
            .iter()
            .map(|change| AuditEntry::new(change, now))
            .collect();
        for change in changes {
            Notice::Overridden(change).emit();
        }
        let path = self.audit.clone();
        let appended = tokio::task::spawn_blocking(move || audit::append(&path, &entries)).await;
        if let Err(error) = appended.map_err(io::Error::other).flatten() {
            tracing::error!(
                "cannot write the audit log {}: {error}",
                self.audit.display()
            );
        }
    }

    /// Who overrode what, the last entries, the oldest first.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub async fn audit(&self) -> io::Result<Vec<AuditEntry>> {
        let path = self.audit.clone();
        tokio::task::spawn_blocking(move || audit::read(&path))
            .await
            .map_err(io::Error::other)?
    }

    async fn keep(&self, overrides: &Overrides) -> io::Result<()> {
        let text = overrides.to_json().map_err(io::Error::other)?;
        let path = self.path.clone();
        tokio::task::spawn_blocking(move || state_file::replace(&path, text.as_bytes()))
            .await
            .map_err(io::Error::other)?
    }

    async fn keep_or_warn(&self, overrides: &Overrides) {
        if let Err(error) = self.keep(overrides).await {
            tracing::warn!("cannot keep overrides in {}: {error}", self.path.display());
        }
    }
}

/// What was kept. A file that cannot be understood is set aside, and said: a process that serves
/// without an override is better than none that serves.
fn load(path: &Path) -> Overrides {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Overrides::default(),
        Err(error) => {
            tracing::error!("cannot read the overrides in {}: {error}", path.display());
            return Overrides::default();
        }
    };
    Overrides::from_json(&text).unwrap_or_else(|wrong| {
        let aside = path.with_extension("json.unreadable");
        let moved = match std::fs::rename(path, &aside) {
            Ok(()) => format!("set aside as {}", aside.display()),
            Err(error) => format!("and cannot be set aside: {error}"),
        };
        tracing::error!(
            "the overrides in {} cannot be understood ({wrong}); {moved}. Nothing is overridden",
            path.display()
        );
        Overrides::default()
    })
}
