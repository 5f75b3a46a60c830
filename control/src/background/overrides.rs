//! Keeps the overrides: in a file that outlives the process, and on time.
//!
//! The file has one owner. During an upgrade there are two processes: the old one owns it until the
//! moment of the hand-over, for which it pauses; the new one goes by what it read at its start, and
//! reads again when it takes over. So no change is lost, and none is made twice.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex as PlainMutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use portolan_certs::state_file;
use tokio::sync::{Mutex, Notify, OwnedMutexGuard};

use crate::clock::Clock;
use crate::engine::{Engine, Stopped};
use crate::events::event::Event;
use crate::events::journal::Journal;
use crate::overrides::audit::AuditEntry;
use crate::overrides::calendar::Calendar;
use crate::overrides::{OverrideChange, OverrideDecision, OverrideEvent, Overrides, audit};
use crate::supervisor::Supervisor;

const FILE: &str = "overrides.json";
const AUDIT: &str = "audit.log";

/// How soon leases are looked at again when the engine could not follow.
const AGAIN: Duration = Duration::from_secs(1);

/// The machine's calendar may be set right: it is looked at this often.
const LOOK: Duration = Duration::from_secs(2);

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
    /// Another process serves, or is about to.
    #[error("another process takes over from this one: ask again")]
    HandedOver,
}

/// Whose the file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Owner {
    /// This process.
    Us,
    /// The process before this one.
    Predecessor,
    /// The process after this one.
    Successor,
}

/// As long as there is one, nothing is overridden and no lease ends.
#[derive(Debug)]
pub struct Pause(OwnedMutexGuard<Owner>);

impl Pause {
    /// Nothing changes any more: the file belongs to another process.
    pub fn retire(mut self) {
        *self.0 = Owner::Successor;
    }
}

/// The overrides of a process.
#[derive(Debug)]
pub struct OverrideStore {
    path: PathBuf,
    audit: PathBuf,
    engine: Engine,
    clock: Clock,
    calendar: PlainMutex<Calendar>,
    journal: Arc<Journal>,
    /// One change at a time, by the owner.
    turn: Arc<Mutex<Owner>>,
    current: ArcSwap<Overrides>,
    /// The next lease may end sooner than thought.
    changed: Notify,
}

impl OverrideStore {
    /// Begins with what was kept in this folder. Returns when the engine goes by it.
    ///
    /// # Errors
    /// When the engine has stopped.
    pub async fn start(
        state_dir: &Path,
        engine: Engine,
        clock: Clock,
        journal: Arc<Journal>,
        supervisor: &Supervisor,
    ) -> Result<Arc<Self>, Stopped> {
        let keeper = Self::watch(state_dir, engine, clock, journal).await?;
        keeper.take_over(supervisor).await?;
        Ok(keeper)
    }

    /// Goes by what was kept in this folder, which still belongs to another process.
    ///
    /// # Errors
    /// When the engine has stopped.
    pub async fn watch(
        state_dir: &Path,
        engine: Engine,
        clock: Clock,
        journal: Arc<Journal>,
    ) -> Result<Arc<Self>, Stopped> {
        let keeper = Arc::new(Self {
            path: state_dir.join(FILE),
            audit: state_dir.join(AUDIT),
            engine,
            clock,
            calendar: PlainMutex::new(Calendar::new(clock.wall(), clock.now())),
            journal,
            turn: Arc::new(Mutex::new(Owner::Predecessor)),
            current: ArcSwap::default(),
            changed: Notify::new(),
        });
        if let Ok(Some(kept)) = read(&keeper.path) {
            let now = keeper.now();
            let (overrides, _) = Overrides::default().step(OverrideEvent::Restored(kept), now);
            keeper.engine.override_by(&overrides).await?;
            keeper.current.store(Arc::new(overrides));
        }
        Ok(keeper)
    }

    /// Becomes the owner of the file, and goes by what is in it now.
    ///
    /// # Errors
    /// When the engine has stopped.
    pub async fn take_over(self: &Arc<Self>, supervisor: &Supervisor) -> Result<(), Stopped> {
        let mut owner = self.turn.lock().await;
        let kept = load(&self.path);
        let (overrides, changes) =
            Overrides::default().step(OverrideEvent::Restored(kept), self.now());
        if !changes.is_empty() {
            self.keep_or_warn(&overrides).await;
        }
        if overrides != *self.current.load_full() {
            self.engine.override_by(&overrides).await?;
        }
        for (subject, it) in overrides.iter() {
            let still = match it.decision {
                OverrideDecision::Drain => "is still drained",
                OverrideDecision::Weights(_) => "still has other weights",
            };
            tracing::info!(
                "{subject} {still} by {}: {}",
                it.lease.by,
                it.lease.reason.as_str()
            );
        }
        self.tell(changes).await;
        self.current.store(Arc::new(overrides));
        *owner = Owner::Us;
        let this = self.clone();
        supervisor.keep("leases", move || this.clone().end_leases());
        Ok(())
    }

    /// Waits for a change under way, and lets others wait. What is in the file then is right by the machine's
    /// calendar, whoever reads it next.
    pub async fn pause(&self) -> Pause {
        let owner = self.turn.clone().lock_owned().await;
        if *owner == Owner::Us {
            let (overrides, moved) = self.by_calendar();
            if moved {
                self.keep_or_warn(&overrides).await;
            }
        }
        Pause(owner)
    }

    /// What is overridden now.
    pub fn current(&self) -> Arc<Overrides> {
        self.current.load_full()
    }

    /// Now, by the calendar of leases.
    pub fn now(&self) -> Duration {
        self.calendar().at(self.clock.now())
    }

    fn calendar(&self) -> std::sync::MutexGuard<'_, Calendar> {
        let calendar = self.calendar.lock();
        calendar.unwrap_or_else(PoisonError::into_inner)
    }

    /// What is overridden, by the machine's calendar as it is now, and whether that was set meanwhile.
    fn by_calendar(&self) -> (Overrides, bool) {
        let current = Overrides::clone(&self.current.load());
        let (wall, tick) = (self.clock.wall(), self.clock.now());
        let mut calendar = self.calendar();
        match calendar.set_right(wall, tick) {
            None => (current, false),
            Some(shift) => {
                let moved = current.moved(shift);
                self.current.store(Arc::new(moved.clone()));
                (moved, true)
            }
        }
    }

    /// Makes a change: kept first, then in effect. What changed; nothing if it was so already.
    ///
    /// # Errors
    /// When it was not made.
    pub async fn change(&self, event: OverrideEvent) -> Result<Vec<OverrideChange>, NotChanged> {
        self.change_at(|_| event).await
    }

    /// The same for an event that says when something begins and ends: made by the calendar as it is when
    /// the change is made, which may have been set since the last one.
    ///
    /// # Errors
    /// When it was not made.
    pub async fn change_at(
        &self,
        event: impl FnOnce(Duration) -> OverrideEvent + Send,
    ) -> Result<Vec<OverrideChange>, NotChanged> {
        let owner = self.turn.lock().await;
        if *owner != Owner::Us {
            return Err(NotChanged::HandedOver);
        }
        let (before, moved) = self.by_calendar();
        let now = self.now();
        let (overrides, changes) = before.clone().step(event(now), now);
        if changes.is_empty() {
            if moved {
                // The calendar was set: the next start goes by what is in the file.
                self.keep_or_warn(&overrides).await;
            }
            return Ok(changes);
        }
        self.keep(&overrides)
            .await
            .map_err(|error| NotChanged::NotKept {
                path: self.path.clone(),
                error,
            })?;
        if let Err(stopped) = self.put_into_effect(overrides, changes.clone()).await {
            // It was not made: so it must not be after the next start either.
            self.keep_or_warn(&before).await;
            return Err(stopped.into());
        }
        Ok(changes)
    }

    /// Ends leases when they are over.
    async fn end_leases(self: Arc<Self>) {
        loop {
            let now = self.now();
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
            let owner = self.turn.lock().await;
            let (before, moved) = self.by_calendar();
            let (overrides, changes) = before.step(OverrideEvent::Woken, self.now());
            if changes.is_empty() {
                if moved && *owner == Owner::Us {
                    self.keep_or_warn(&overrides).await;
                }
                continue;
            }
            if *owner != Owner::Us {
                // What is still under way here goes by it; to keep and to tell is another's.
                match self.engine.override_by(&overrides).await {
                    Ok(_) => self.current.store(Arc::new(overrides)),
                    Err(_) if self.engine.is_stopped() => return,
                    Err(_) => {
                        drop(owner);
                        tokio::time::sleep(AGAIN).await;
                    }
                }
                continue;
            }
            // A lease that is over is over, even if the file still has it: so it would be after the
            // next start, too.
            self.keep_or_warn(&overrides).await;
            if self.put_into_effect(overrides, changes).await.is_err() {
                if self.engine.is_stopped() {
                    return;
                }
                drop(owner);
                tokio::time::sleep(AGAIN).await;
            }
        }
    }

    async fn put_into_effect(
        &self,
        overrides: Overrides,
        changes: Vec<OverrideChange>,
    ) -> Result<(), Stopped> {
        self.engine.override_by(&overrides).await?;
        self.current.store(Arc::new(overrides));
        self.tell(changes).await;
        self.changed.notify_one();
        Ok(())
    }

    /// Tells operators what changed, and those who come later.
    async fn tell(&self, changes: Vec<OverrideChange>) {
        if changes.is_empty() {
            return;
        }
        let now = self.now();
        let entries: Vec<AuditEntry> = changes
            .iter()
            .map(|change| AuditEntry::new(change, now))
            .collect();
        for change in changes {
            self.journal.emit(&Event::Overridden(change));
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

/// What was kept, if anything was.
///
/// # Errors
/// Why it cannot be read, or understood.
fn read(path: &Path) -> Result<Option<Overrides>, Unreadable> {
    match std::fs::read_to_string(path) {
        Ok(text) => Overrides::from_json(&text)
            .map(Some)
            .map_err(Unreadable::Content),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Unreadable::File(error)),
    }
}

/// Why what was kept cannot be used.
#[derive(Debug)]
enum Unreadable {
    File(io::Error),
    Content(String),
}

/// What was kept. A file that cannot be understood is set aside, and said: a process that serves
/// without an override is better than none that serves.
fn load(path: &Path) -> Overrides {
    match read(path) {
        Ok(kept) => kept.unwrap_or_default(),
        Err(Unreadable::File(error)) => {
            tracing::error!("cannot read the overrides in {}: {error}", path.display());
            Overrides::default()
        }
        Err(Unreadable::Content(wrong)) => {
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
        }
    }
}
