//! Reload: a new configuration replaces the running one as a whole, or not at all.
//!
//! Read → check → open what it names → run its tests → bind new addresses → publish → accept there.
//! Up to "publish" nothing has changed, and anything that goes wrong leaves the old configuration
//! serving; after it, nothing can go wrong any more.

mod certificates;
pub mod configuration;
mod cut;
pub mod file_watch;
pub mod last_known_good;
pub mod listeners;

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex as PlainMutex};

use arc_swap::{ArcSwap, ArcSwapOption};
use portolan_certs::{Keyring, Material};
use portolan_config::diagnostic::{Code, Diagnostic, Report};
use portolan_config::plan::{LogPlan, Plan};
use portolan_config::source::{Origin, Source as Text};
use portolan_config::{Inputs, Machine, SavedSource, WatchedFiles};
use tokio::sync::{Mutex, OwnedMutexGuard, watch};

use crate::clock::Clock;
use crate::decision::affinity::AffinitySecret;
use crate::engine::Engine;
use crate::events::event::Event;
use crate::events::journal::Journal;
use crate::events::reload::{Doubt, Reloaded, Trigger};
use crate::geo::Locator;
use crate::reload::configuration::{Outcome, Ready, Source};
use crate::reload::file_watch::{Changed, Follow, Read, Writing, written_since};
use crate::reload::last_known_good::LastKnownGood;
use crate::reload::listeners::Listeners;
use crate::telemetry::access_log::AccessLog;
use crate::telemetry::totals::Totals;

/// The last attempt, for status.
#[derive(Clone, Debug)]
pub struct LastAttempt {
    /// When, in seconds since 1970.
    pub at: u64,
    /// Who asked.
    pub trigger: Trigger,
    /// What became of it.
    pub outcome: Reloaded,
}

/// A change that is not believed yet, for status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// Since when, in seconds since 1970.
    pub since: u64,
    /// The file that it is about.
    pub file: String,
    /// Why.
    pub doubt: Doubt,
}

/// What runs, for status.
#[derive(Clone, Debug)]
pub struct Running {
    /// The configuration.
    pub plan: Arc<Plan>,
    /// Its certificates.
    pub material: Arc<Material>,
    /// When it was applied, in seconds since 1970.
    pub applied: u64,
    /// Whether it is the last known good one, because the file could not be used at start.
    pub last_known_good: bool,
    /// What its files held.
    pub inputs: Arc<Inputs>,
    /// What is suspicious about it.
    pub warnings: Arc<Report>,
    /// The last attempt to replace it, if there was one.
    pub last_attempt: Option<LastAttempt>,
}

/// Everything that a new configuration is applied to.
pub struct Parts {
    /// The engine.
    pub engine: Engine,
    /// The listeners.
    pub listeners: Arc<dyn Listeners>,
    /// The access log.
    pub access_log: AccessLog,
    /// What affinity cookies are made with.
    pub affinity: Arc<AffinitySecret>,
    /// Sets level and format of the process's own log.
    pub set_log: Box<dyn Fn(&LogPlan) + Send + Sync>,
    /// What is counted.
    pub totals: Arc<Totals>,
    /// Clocks.
    pub clock: Clock,
    /// Where it tells what happens.
    pub journal: Arc<Journal>,
    /// The machine.
    pub machine: Machine,
    /// What about TLS outlives configurations.
    pub keyring: Keyring,
    /// Which files are being written.
    pub writing: Arc<Writing>,
}

impl fmt::Debug for Parts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Parts").finish_non_exhaustive()
    }
}

/// Whose turn it is to change the configuration.
#[derive(Debug, Default)]
struct Turn {
    /// Another process has taken over: nothing changes here any more.
    retired: bool,
}

/// As long as there is one, the configuration stays as it is: reloads wait.
#[derive(Debug)]
pub struct Pause(OwnedMutexGuard<Turn>);

impl Pause {
    /// Nothing changes any more: another process has taken over, and reads the configuration.
    pub fn retire(mut self) {
        self.0.retired = true;
    }
}

/// Replaces the running configuration.
#[derive(Debug)]
pub struct Reloader {
    source: Source,
    parts: Parts,
    /// One reload at a time.
    turn: Arc<Mutex<Turn>>,
    running: ArcSwap<Running>,
    /// What to watch: changes with every configuration that could be read.
    watch: watch::Sender<WatchedFiles>,
    /// Changed whenever the running configuration does.
    plans: watch::Sender<Arc<Plan>>,
    /// What is remembered about certificates in use.
    certificates: PlainMutex<certificates::Known>,
    /// The change that is not believed yet.
    waiting: ArcSwapOption<Waiting>,
}

impl Reloader {
    /// Begins with what runs since the start.
    pub fn new(source: Source, parts: Parts, running: Running, watched: WatchedFiles) -> Self {
        let plan = running.plan.clone();
        Self {
            source,
            parts,
            turn: Arc::default(),
            running: ArcSwap::new(Arc::new(running)),
            watch: watch::channel(watched).0,
            plans: watch::channel(plan).0,
            certificates: PlainMutex::default(),
            waiting: ArcSwapOption::empty(),
        }
    }

    /// What runs.
    pub fn running(&self) -> Arc<Running> {
        self.running.load_full()
    }

    /// A change that is not believed yet, if there is one.
    pub fn waiting(&self) -> Option<Arc<Waiting>> {
        self.waiting.load_full()
    }

    /// A file that somebody is writing: nobody should rely on what it says now.
    pub fn being_written(&self) -> Option<PathBuf> {
        self.parts.writing.open()
    }

    /// Tells something that happened.
    pub(crate) fn emit(&self, event: &Event) {
        self.parts.journal.emit(event);
    }

    /// What to watch, now and from now on.
    pub fn watched(&self) -> watch::Receiver<WatchedFiles> {
        self.watch.subscribe()
    }

    /// The running configuration, now and from now on.
    pub fn plans(&self) -> watch::Receiver<Arc<Plan>> {
        self.plans.subscribe()
    }

    /// What is counted.
    pub fn totals(&self) -> &Arc<Totals> {
        &self.parts.totals
    }

    /// Waits for a reload under way, and lets others wait.
    pub async fn pause(&self) -> Pause {
        Pause(self.turn.clone().lock_owned().await)
    }

    /// Reads the configuration again and applies it if it can run: an order, which is followed at once.
    /// Only what somebody is writing just now is not read.
    pub async fn reload(self: &Arc<Self>, trigger: Trigger) -> Reloaded {
        let turn = self.turn.lock().await;
        if turn.retired {
            return Reloaded::Refused(Arc::new(retired()));
        }
        let this = self.clone();
        let read = tokio::task::spawn_blocking(move || {
            if let Some(file) = this.being_written() {
                return Err(file);
            }
            let outcome = this.read();
            match outcome.inputs.unsteady() {
                Some(file) => Err(file.to_path_buf()),
                None => Ok(outcome),
            }
        });
        let outcome = match read.await {
            Ok(Ok(outcome)) => self.apply(outcome, trigger).await,
            Ok(Err(file)) => Reloaded::Refused(Arc::new(unfinished(&file))),
            Err(panic) => Reloaded::Refused(Arc::new(broken(&panic.to_string()))),
        };
        self.remember(trigger, &outcome);
        outcome
    }

    fn read(&self) -> Outcome {
        configuration::read(&self.source, &self.parts.machine, &self.parts.keyring)
    }

    /// Reads the configuration because its files have changed, and applies it if it can run and is
    /// believed to be whole. `certain`: it has been quiet for longer.
    async fn follow(self: &Arc<Self>, changed: &Changed, certain: bool) -> Read {
        let turn = self.turn.lock().await;
        if turn.retired {
            return Read::Done;
        }
        let (this, changed) = (self.clone(), changed.clone());
        let read = tokio::task::spawn_blocking(move || {
            if this.nothing_changed() {
                return None;
            }
            let outcome = this.read();
            let doubt = this.doubt(&outcome, &changed, certain);
            Some((outcome, doubt))
        });
        let trigger = Trigger::FileChanged;
        let outcome = match read.await {
            Ok(Some((_, Some((file, doubt))))) => {
                // What is written in one go is not worth a word.
                if doubt != Doubt::Open {
                    self.wait(&file, doubt);
                }
                return match doubt.ends_by_itself() {
                    true => Read::Unfinished,
                    false => Read::Incomplete,
                };
            }
            Ok(Some((outcome, None))) => self.apply(outcome, trigger).await,
            Ok(None) => Reloaded::Unchanged,
            Err(panic) => Reloaded::Refused(Arc::new(broken(&panic.to_string()))),
        };
        self.remember(trigger, &outcome);
        Read::Done
    }

    /// Why what was read is not believed to be whole, if it is not, and which file that is about.
    fn doubt(
        &self,
        outcome: &Outcome,
        changed: &Changed,
        certain: bool,
    ) -> Option<(PathBuf, Doubt)> {
        // Somebody writes just now, or has written since.
        if let Some(file) = self.parts.writing.unfinished() {
            return Some((file, Doubt::Open));
        }
        if let Some(file) = outcome.inputs.unsteady() {
            return Some((file.to_path_buf(), Doubt::Open));
        }
        if !certain && let Some(file) = written_since(changed, outcome.inputs.stamps()) {
            return Some((file, Doubt::Open));
        }
        let running = self.running.load();
        let waiting = self.waiting.load();
        let doubted = waiting
            .as_ref()
            .is_some_and(|waiting| waiting.doubt != Doubt::Open);
        // Of secrets and databases no more is known than how long they are. One that grows again may not
        // be whole yet.
        let mut others = changed.in_place.clone();
        others.retain(|path, _| doubted || changed.shorter.contains(path));
        for now in outcome.report.sources.iter() {
            let path = Path::new(&now.name);
            let real = path.canonicalize().unwrap_or_else(|_| path.to_path_buf());
            others.remove(&real);
            let same = |text: &&Text| text.name == now.name;
            let Some(before) = running.warnings.sources.iter().find(same) else {
                continue;
            };
            if changed.may_be_cut(&real)
                && let Some(doubt) = cut::doubt(&before.text, &now.text, doubted)
                && !(certain && doubt.ends_by_itself())
            {
                return Some((path.to_path_buf(), doubt));
            }
        }
        let (shorter, _) = others.into_iter().next().filter(|_| !certain)?;
        Some((shorter, Doubt::Shorter))
    }

    /// A change is not believed yet: that is told, once.
    fn wait(&self, file: &Path, doubt: Doubt) {
        let before = self.waiting.load();
        // Of a file that looked cut off, that it is being written is no news.
        if before
            .as_ref()
            .is_some_and(|before| before.doubt == doubt || doubt == Doubt::Open)
        {
            return;
        }
        let since = self.parts.clock.wall().as_secs();
        let since = before.as_ref().map_or(since, |before| before.since);
        let file = match file.to_str() {
            // Which one is known to whoever watches it.
            None | Some("") => "a file".to_owned(),
            Some(file) => file.to_owned(),
        };
        self.emit(&Event::ReloadWaits {
            file: file.clone(),
            doubt,
        });
        let waiting = Waiting { since, file, doubt };
        self.waiting.store(Some(Arc::new(waiting)));
    }

    /// Whether the files hold what they held when the running configuration was read from them: it
    /// need not be read once more for that.
    fn nothing_changed(&self) -> bool {
        let running = self.running.load();
        let refused = running
            .last_attempt
            .as_ref()
            .is_some_and(|attempt| matches!(attempt.outcome, Reloaded::Refused(_)));
        let locator = self.parts.engine.published().load().locator.clone();
        !refused
            && !running.last_known_good
            && running.inputs.are_unchanged()
            && locator.is_as_in_files(&running.plan.geoip)
    }

    async fn apply(self: &Arc<Self>, outcome: Outcome, trigger: Trigger) -> Reloaded {
        // Even of a broken configuration: mending it is the change that is waited for.
        self.watch.send_replace(outcome.watch);
        let running = self.running.load_full();
        let Some(ready) = outcome.ready else {
            return Reloaded::Refused(Arc::new(outcome.report));
        };
        if trigger == Trigger::FileChanged && ready.plan.hash == running.plan.hash {
            // A file that was written again as it was, or a geo database.
            return self.swap_geo(ready.locator, &running).await;
        }
        let refuse = |more: Vec<Diagnostic>| {
            let report = &outcome.report;
            let all = report.diagnostics.iter().cloned().chain(more).collect();
            Reloaded::Refused(Arc::new(Report::new(report.sources.clone(), all)))
        };
        let fixed = fixed_at_start(&running, &ready.plan);
        if !fixed.is_empty() {
            return refuse(fixed);
        }
        let listeners = match self.parts.listeners.prepare(&ready.plan, &ready.material) {
            Ok(listeners) => listeners,
            Err(more) => return refuse(more),
        };
        let Ready {
            plan,
            material,
            locator,
        } = ready;
        let (affinity, next) = (self.parts.affinity.clone(), plan.clone());
        // Before a request needs it. If that fails, the first request of a client makes it.
        let _ = tokio::task::spawn_blocking(move || affinity.prepare(&next)).await;
        let located = locator.clone();
        let located_before = self.parts.engine.published().load().locator.clone();
        let addresses_before = self.addresses();
        let accepted = self
            .parts
            .engine
            .accept(plan.clone(), material.clone(), locator)
            .await;
        let Ok(generation) = accepted else {
            return refuse(vec![Diagnostic::error(
                Code::Unreadable,
                Origin::Default,
                "Portolan is stopping",
            )]);
        };
        listeners.commit();
        self.tell_listeners(&addresses_before);
        self.tell_geo(&located, &located_before);
        self.settle(plan.clone(), outcome.saved).await;
        let hash = plan.hash.to_string();
        self.running.store(Arc::new(Running {
            plan: plan.clone(),
            material,
            applied: self.parts.clock.wall().as_secs(),
            last_known_good: false,
            inputs: Arc::new(outcome.inputs),
            warnings: Arc::new(outcome.report),
            last_attempt: running.last_attempt.clone(),
        }));
        self.plans.send_replace(plan);
        Reloaded::Applied { hash, generation }
    }

    /// Opens the logs that the configuration says, and keeps its texts for a start with
    /// `--last-known-good`: away from the threads that serve, for disks can be slow.
    async fn settle(self: &Arc<Self>, plan: Arc<Plan>, sources: Vec<SavedSource>) {
        let this = self.clone();
        let settled = tokio::task::spawn_blocking(move || {
            this.parts.access_log.configure(plan.access_log.as_ref());
            (this.parts.set_log)(&plan.log);
            keep(&plan, sources, this.parts.clock);
        });
        if let Err(panic) = settled.await {
            tracing::error!("opening the logs of a new configuration failed: {panic}");
        }
    }

    /// The configuration is the same; its geo databases may be new.
    async fn swap_geo(&self, locator: Arc<Locator>, running: &Running) -> Reloaded {
        let before = self.parts.engine.published().load().locator.clone();
        if locator.says_the_same(&before) {
            return Reloaded::Unchanged;
        }
        match self.parts.engine.relocate(locator.clone()).await {
            Ok(generation) => {
                self.tell_geo(&locator, &before);
                Reloaded::Applied {
                    hash: running.plan.hash.to_string(),
                    generation,
                }
            }
            Err(_) => Reloaded::Unchanged,
        }
    }

    /// The addresses on which clients are accepted.
    fn addresses(&self) -> Vec<SocketAddr> {
        let status = self.parts.listeners.status();
        status.iter().map(|listener| listener.bound).collect()
    }

    fn tell_listeners(&self, before: &[SocketAddr]) {
        let now = self.addresses();
        let journal = &self.parts.journal;
        for address in before.iter().copied().filter(|it| !now.contains(it)) {
            journal.emit(&Event::ListenerClosed { address });
        }
        for address in now.into_iter().filter(|it| !before.contains(it)) {
            journal.emit(&Event::ListenerOpened { address });
        }
    }

    /// Says which geo databases are others than before.
    fn tell_geo(&self, now: &Locator, before: &Locator) {
        for database in now.databases() {
            let same = before
                .databases()
                .any(|other| other.name == database.name && other.same_content(database));
            if !same {
                self.parts.journal.emit(&Event::GeoSwapped {
                    name: database.name.clone(),
                    kind: database.kind.clone(),
                });
            }
        }
    }

    fn remember(&self, trigger: Trigger, outcome: &Reloaded) {
        let wall = self.parts.clock.wall();
        let running = self.running.load();
        let was_refused = running
            .last_attempt
            .as_ref()
            .is_some_and(|attempt| matches!(attempt.outcome, Reloaded::Refused(_)));
        let waited = self.waiting.swap(None).is_some();
        // Nothing happened, and nothing was wrong before.
        let uneventful = matches!(outcome, Reloaded::Unchanged)
            && !was_refused
            && !waited
            && !running.last_known_good;
        if !uneventful {
            let attempt = LastAttempt {
                at: wall.as_secs(),
                trigger,
                outcome: outcome.clone(),
            };
            self.running.rcu(|running| {
                let mut next = Running::clone(running);
                next.last_attempt = Some(attempt.clone());
                // Anything but a refusal means that the file itself is what runs.
                next.last_known_good &= matches!(outcome, Reloaded::Refused(_));
                next
            });
        }
        if uneventful {
            tracing::debug!("configuration unchanged ({trigger})");
        } else {
            let outcome = outcome.clone();
            self.parts
                .journal
                .emit(&Event::Reloaded { trigger, outcome });
        }
        // Counted last: whoever sees the count finds the rest as well.
        let totals = &self.parts.totals;
        match outcome {
            Reloaded::Applied { .. } => {
                totals
                    .last_reload_success
                    .store(wall.as_millis() as u64, Ordering::Relaxed);
                totals.reloads_applied.one();
            }
            Reloaded::Unchanged => totals.reloads_unchanged.one(),
            Reloaded::Refused(_) => totals.reloads_refused.one(),
        }
    }
}

/// Keeps the running configuration in step with its files.
#[derive(Debug)]
pub struct Follower(pub Arc<Reloader>);

impl Follow for Follower {
    async fn read(&mut self, changed: &Changed, certain: bool) -> Read {
        self.0.follow(changed, certain).await
    }

    fn open(&mut self, file: &Path) {
        self.0.wait(file, Doubt::Open);
    }
}

/// Keeps a configuration's texts for a start with `--last-known-good`. A folder that cannot be
/// written costs that, and nothing else.
pub fn keep(plan: &Plan, sources: Vec<SavedSource>, clock: Clock) {
    let kept = LastKnownGood {
        hash: plan.hash.to_string(),
        applied: clock.wall().as_secs(),
        sources,
    };
    if let Err(error) = kept.save(&plan.process.state_dir) {
        tracing::warn!(
            "cannot keep this configuration in {}: {error}",
            plan.process.state_dir.display()
        );
    }
}

/// What a running process cannot change about itself.
fn fixed_at_start(running: &Running, wanted: &Plan) -> Vec<Diagnostic> {
    let mut found = Vec::new();
    let kept = running.last_known_good;
    let running = &running.plan;
    if running.process.workers != wanted.process.workers {
        found.push(
            Diagnostic::error(
                Code::NeedsRestart,
                Origin::Default,
                "`workers` cannot be changed while Portolan runs",
            )
            .help("restart Portolan for it, or leave it as it was"),
        );
    }
    // What was kept as the last known good one may have been kept for another place.
    if !kept && running.process.state_dir != wanted.process.state_dir {
        let message = format!(
            "`state_dir` cannot be changed while Portolan runs: it is `{}`",
            running.process.state_dir.display()
        );
        found.push(
            Diagnostic::error(Code::NeedsRestart, Origin::Default, message).help(
                "leave it as it was; or stop Portolan, move the folder, and start it again: overrides, \
                 certificates and keys are in it",
            ),
        );
    }
    found
}

/// The report of a process that only finishes what it has begun.
fn retired() -> Report {
    let diagnostic = Diagnostic::error(
        Code::Unreadable,
        Origin::Default,
        "another process has taken over from this one",
    );
    Report::new(Default::default(), vec![diagnostic.help("ask that one")])
}

/// The report of an order to read what somebody is writing.
fn unfinished(file: &Path) -> Report {
    let diagnostic = Diagnostic::error(
        Code::BeingWritten,
        Origin::Default,
        format!("`{}` is being written", file.display()),
    );
    let help = "it is read when it is closed, or when it has not been written for 5 seconds";
    Report::new(Default::default(), vec![diagnostic.help(help)])
}

/// The report of a reader that failed in a way that nobody foresaw.
fn broken(what: &str) -> Report {
    let diagnostic = Diagnostic::error(
        Code::Unreadable,
        Origin::Default,
        format!("reading the configuration failed: {what}"),
    );
    Report::new(Default::default(), vec![diagnostic])
}
