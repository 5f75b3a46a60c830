//! Whoever looks after the tasks of the control plane: one that panics is begun again, and what cannot
//! go on without it ends.
//!
//! A panic is a fault of Portolan's own. Requests go on by the last snapshot, but nobody would notice
//! any more that an endpoint dies, that a file changes, that a lease ends. So every task is begun again
//! from what runs, after a pause that grows; operators are told, and it is counted. If the engine fails
//! again and again, the process says that it is not ready and ends: whoever started it starts it anew.

use std::any::Any;
use std::convert::Infallible;
use std::fmt;
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::clock::{Clock, Tick};
use crate::events::event::Event;
use crate::events::journal::Journal;
use crate::telemetry::totals::Totals;

/// A task that has run for this long since its last failure is as good as new.
const CALM: Duration = Duration::from_secs(60);

/// The pause after the second failure in a row; it is doubled with each further one.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LAST_PAUSE: Duration = Duration::from_secs(30);

/// What the engine is called.
pub(crate) const ENGINE: &str = "engine";

/// How often the engine may fail in a row before the process ends.
const ENGINE_FAILURES: u32 = 5;

/// What is to be done about a task that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// Begin it again, after this pause.
    Again(Duration),
    /// It fails again and again.
    GiveUp,
}

/// How often a task has failed in a row.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Failures {
    in_a_row: u32,
    last: Option<Tick>,
}

impl Failures {
    /// One more, now; more than `most` in a row are too many.
    pub(crate) fn one_more(&mut self, most: Option<u32>, now: Tick) -> Next {
        if self.last.is_some_and(|last| now.since(last) >= CALM) {
            self.in_a_row = 0;
        }
        self.in_a_row += 1;
        self.last = Some(now);
        if most.is_some_and(|most| self.in_a_row > most) {
            return Next::GiveUp;
        }
        Next::Again(match self.in_a_row {
            1 => Duration::ZERO,
            more => LAST_PAUSE.min(FIRST_PAUSE * 2_u32.saturating_pow(more - 2)),
        })
    }

    /// Whether there was another one just before the last.
    pub(crate) fn repeated(&self) -> bool {
        self.in_a_row > 1
    }
}

/// Runs something, and catches it when it panics: what is left of it is dropped.
///
/// # Errors
/// What it panicked with.
pub async fn caught<T>(run: impl Future<Output = T>) -> Result<T, Box<dyn Any + Send>> {
    AssertUnwindSafe(run).catch_unwind().await
}

/// Looks after tasks. Cheap to clone.
#[derive(Clone)]
pub struct Supervisor {
    journal: Arc<Journal>,
    totals: Arc<Totals>,
    clock: Clock,
    /// The task without which the process cannot go on, once there is one.
    given_up: Arc<watch::Sender<Option<&'static str>>>,
    /// For tests: a folder where whoever tests puts files with the names of tasks that are to panic.
    on_purpose: Option<Arc<Path>>,
}

impl fmt::Debug for Supervisor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Supervisor")
    }
}

impl Supervisor {
    /// One for a process.
    pub fn new(journal: Arc<Journal>, totals: Arc<Totals>, clock: Clock) -> Self {
        Self {
            journal,
            totals,
            clock,
            given_up: Arc::new(watch::Sender::new(None)),
            on_purpose: None,
        }
    }

    /// The same, and tasks panic on purpose when a file with their name appears in this folder. Builds
    /// without debug assertions do no such thing.
    #[must_use]
    pub fn panicking_on_purpose(mut self, folder: Option<PathBuf>) -> Self {
        if cfg!(debug_assertions) {
            self.on_purpose = folder.map(Arc::from);
        }
        self
    }

    /// Runs a task until it ends by itself; when it panics, what `begin` makes takes its place.
    /// To abort the handle ends it for good.
    pub fn keep<F>(
        &self,
        task: &'static str,
        mut begin: impl FnMut() -> F + Send + 'static,
    ) -> JoinHandle<()>
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let this = self.clone();
        tokio::spawn(async move {
            let mut failures = Failures::default();
            while this.caught(task, async { begin().await }).await.is_err() {
                let Next::Again(pause) = this.failed(task, &mut failures, None) else {
                    return;
                };
                tokio::time::sleep(pause).await;
            }
        })
    }

    /// Runs something of this task, and catches it when it panics.
    pub(crate) async fn caught<T>(
        &self,
        task: &'static str,
        run: impl Future<Output = T>,
    ) -> Result<T, Box<dyn Any + Send>> {
        caught(async {
            tokio::select! {
                biased;
                done = run => done,
                never = self.panic_on_purpose(task) => match never {},
            }
        })
        .await
    }

    /// Panics when a test wants it.
    #[expect(clippy::panic, reason = "that is what it is for")]
    async fn panic_on_purpose(&self, task: &str) -> Infallible {
        const LOOK: Duration = Duration::from_millis(20);
        let Some(folder) = &self.on_purpose else {
            return std::future::pending().await;
        };
        let file = folder.join(task);
        loop {
            if std::fs::remove_file(&file).is_ok() {
                panic!("the test wants it");
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// A task has panicked: tells it, and says what is to be done.
    pub(crate) fn failed(
        &self,
        task: &'static str,
        failures: &mut Failures,
        most: Option<u32>,
    ) -> Next {
        self.totals.task_failures.one(task);
        let next = failures.one_more(most, self.clock.now());
        let again_in = match next {
            Next::Again(pause) => Some(pause),
            Next::GiveUp => None,
        };
        self.journal.emit(&Event::TaskFailed { task, again_in });
        if next == Next::GiveUp {
            self.given_up.send_replace(Some(task));
        }
        next
    }

    /// The engine has panicked.
    pub(crate) fn engine_failed(&self, failures: &mut Failures) -> Next {
        self.failed(ENGINE, failures, Some(ENGINE_FAILURES))
    }

    /// Waits until the process cannot go on, and says for want of which task.
    pub async fn given_up(&self) -> &'static str {
        let mut given_up = self.given_up.subscribe();
        // The sender lives as long as this.
        match given_up.wait_for(Option::is_some).await.map(|task| *task) {
            Ok(Some(task)) => task,
            _ => std::future::pending().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[test]
    fn pauses_grow_and_calm_forgives() {
        let at = |seconds| Tick::after(Duration::from_secs(seconds));
        let mut failures = Failures::default();
        let pauses: Vec<Next> = (0..12)
            .map(|second| failures.one_more(None, at(second)))
            .collect();
        let again = |milliseconds| Next::Again(Duration::from_millis(milliseconds));
        assert_eq!(pauses[..4], [again(0), again(100), again(200), again(400)]);
        assert_eq!(pauses[11], again(30_000));
        assert!(failures.repeated());
        assert_eq!(failures.one_more(None, at(71)), again(0));
        assert!(!failures.repeated());

        let mut failures = Failures::default();
        for second in 0..u64::from(ENGINE_FAILURES) {
            let next = failures.one_more(Some(ENGINE_FAILURES), at(second));
            assert_ne!(next, Next::GiveUp);
        }
        let next = failures.one_more(Some(ENGINE_FAILURES), at(9));
        assert_eq!(next, Next::GiveUp);
    }

    #[tokio::test(start_paused = true)]
    async fn what_panics_is_begun_again_and_what_ends_is_not() {
        let clock = Clock::start();
        let journal = Journal::new(clock);
        let totals: Arc<Totals> = Arc::default();
        let supervisor = Supervisor::new(journal.clone(), totals.clone(), clock);
        let begun = Arc::new(AtomicU32::new(0));
        let counted = begun.clone();
        let task = supervisor.keep("example", move || {
            let time = counted.fetch_add(1, Ordering::Relaxed);
            async move {
                tokio::time::sleep(Duration::from_secs(1)).await;
                assert!(time >= 3, "not yet");
            }
        });
        task.await.unwrap();
        assert_eq!(begun.load(Ordering::Relaxed), 4);
        assert_eq!(totals.task_failures.get()["example"], 3);
        let kinds: Vec<String> = journal
            .recent()
            .iter()
            .map(|entry| format!("{} {}", entry.kind, entry.subject))
            .collect();
        assert_eq!(kinds, ["task_failed process"; 3]);
    }

    #[tokio::test]
    async fn what_is_aborted_is_not_begun_again() {
        let clock = Clock::start();
        let totals: Arc<Totals> = Arc::default();
        let supervisor = Supervisor::new(Journal::new(clock), totals.clone(), clock);
        let task = supervisor.keep("example", std::future::pending);
        tokio::task::yield_now().await;
        task.abort();
        assert!(task.await.unwrap_err().is_cancelled());
        assert!(totals.task_failures.get().is_empty());
    }
}
