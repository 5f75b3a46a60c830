//! A serving process, put together: configuration → engine → listeners → admin API; then signals
//! until it is told to stop, or until another process has taken over.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::{Context as _, bail};
use portolan_certs::acme::Answers;
use portolan_certs::{Keyring, state_file};
use portolan_config::diagnostic::{Report, Severity};
use portolan_config::plan::Plan;
use portolan_config::{Inputs, Machine, Stamp, WatchedFiles};
use portolan_control::admin::AdminServer;
use portolan_control::admin::state::{AdminState, Phase};
use portolan_control::background::acme::CertificateManager;
use portolan_control::background::overrides::OverrideStore;
use portolan_control::background::token_keys::TokenKeyKeeper;
use portolan_control::background::{exhaustion_watch, loss_watch, token_keys};
use portolan_control::clock::Clock;
use portolan_control::decision::affinity::AffinitySecret;
use portolan_control::engine::resolve::NameServers;
use portolan_control::engine::{Beginning, Engine};
use portolan_control::events::event::{Event, Stage};
use portolan_control::events::journal::Journal;
use portolan_control::events::log_loss::Log;
use portolan_control::events::reload::Trigger;
use portolan_control::health::exhaustion::SHORTAGES;
use portolan_control::reload::configuration::{Outcome, Ready, Source};
use portolan_control::reload::file_watch::{FileWatch, Writing, keep_up};
use portolan_control::reload::last_known_good::LastKnownGood;
use portolan_control::reload::listeners::Listeners;
use portolan_control::reload::{Follower, Parts, Reloader, Running, configuration};
use portolan_control::supervisor::Supervisor;
use portolan_control::telemetry::access_log::AccessLog;
use portolan_control::telemetry::totals::Totals;
use portolan_control::{admin, reload};
use portolan_proxy::{DataPlane, DataPlaneParts, EngineDialer};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Mutex, mpsc};
use tokio::task::JoinHandle;

use crate::machine::Program;
use crate::systemd::Notifier;
use crate::telemetry::Telemetry;
use crate::upgrade::{
    Inherited, Predecessor, PreviousGenerations, Successor, UpgradeSocket, Upgrader,
};
use crate::{exit, machine, output};

const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Threads of the control plane: probes, names, the admin API. Never those of requests.
const CONTROL_THREADS: usize = 2;

/// How a process is to be started.
pub(crate) struct Start {
    /// The configuration file.
    pub(crate) config: PathBuf,
    /// If the file cannot be used, start with the last configuration that ran.
    pub(crate) last_known_good: bool,
    /// What is started when it is to be upgraded; without it, it cannot be.
    pub(crate) program: Option<Program>,
    /// Told once, when clients are accepted.
    pub(crate) ready: Box<dyn FnOnce(Serving)>,
}

/// Where a process serves.
pub(crate) struct Serving {
    /// The addresses of the listeners, as bound.
    pub(crate) listeners: Vec<SocketAddr>,
    /// The address of the admin API, as bound.
    pub(crate) admin: SocketAddr,
}

/// Serves until told to stop.
pub(crate) fn serve(start: Start) -> anyhow::Result<ExitCode> {
    let mut clock = Clock::start();
    let mut inherited = Inherited::take()?;
    if let Some(predecessor) = &inherited.predecessor {
        // What it noted of endpoints means the same here.
        clock = clock.going_on(predecessor.since_start(clock.wall()));
    }
    let machine = machine::machine();
    let keyring = Keyring::new();
    // An upgrade that finds a broken file has somebody who can be told, and somebody who serves.
    let last_known_good = start.last_known_good && inherited.predecessor.is_none();
    let predecessor = &mut inherited.predecessor;
    let refused = |why: &str| {
        if let Some(predecessor) = predecessor {
            predecessor.refuse(why);
        }
    };
    let chosen = choose_configuration(start.config, last_known_good, &machine, &keyring, refused);
    let Ok(chosen) = chosen else {
        return Ok(exit::FAILED);
    };
    let state_dir = &chosen.ready.plan.process.state_dir;
    if let Some(predecessor) = &mut inherited.predecessor
        && let Err(why) = predecessor.shares_state(state_dir)
    {
        predecessor.refuse(&why);
        return Ok(exit::FAILED);
    }
    let totals: Arc<Totals> = Arc::default();
    let (telemetry, log_writer) = Telemetry::start(
        &chosen.ready.plan.log,
        machine::variable("RUST_LOG"),
        totals.process_log.clone(),
    )
    .context("cannot start the log")?;
    say_warnings(&chosen.report);
    let open_files = machine::raise_open_files();
    let needed = portolan_proxy::descriptors_needed(&chosen.ready.plan);
    if let Some(worry) = machine::too_few_open_files(needed, open_files) {
        tracing::warn!("{worry}");
    }
    say_just_written(&chosen.inputs, clock);
    let control = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(CONTROL_THREADS)
        .thread_name("control")
        .enable_all()
        .build()
        .context("cannot start the control plane's threads")?;
    let world = World {
        clock,
        machine,
        keyring,
        telemetry: telemetry.clone(),
        totals,
        notifier: Notifier::from_environment(),
        program: start.program,
        open_files,
    };
    let code = control.block_on(async {
        let mut predecessor = inherited.predecessor.take();
        let outcome = run(chosen, inherited, &mut predecessor, start.ready, world).await;
        if let (Err(error), Some(predecessor)) = (&outcome, &mut predecessor) {
            predecessor.fail(&format!("{error:#}")).await;
        }
        outcome
    });
    // Whatever still runs there (a probe, a question to a name server) is nobody's concern now.
    control.shutdown_background();
    // It goes through the log's thread like everything else: standard error may have no reader.
    let code = code.unwrap_or_else(|error| {
        telemetry.note(&format!("portolan: {error:#}"));
        exit::FAILED
    });
    drop(log_writer);
    Ok(code)
}

/// What a process needs beside its configuration.
struct World {
    clock: Clock,
    machine: Machine,
    keyring: Keyring,
    telemetry: Telemetry,
    totals: Arc<Totals>,
    notifier: Notifier,
    program: Option<Program>,
    /// How many descriptors it may have.
    open_files: u64,
}

/// The configuration to start with.
struct Chosen {
    source: Source,
    ready: Ready,
    report: Report,
    watch: WatchedFiles,
    inputs: Inputs,
    saved: Vec<portolan_config::SavedSource>,
    last_known_good: bool,
}

/// Reads the file, or what was kept of the last one that ran.
///
/// # Errors
/// Neither can be used, and why has been said; once more in a line.
fn choose_configuration(
    config: PathBuf,
    last_known_good: bool,
    machine: &Machine,
    keyring: &Keyring,
    refused: impl FnOnce(&str),
) -> Result<Chosen, ()> {
    let source = Source::File(config);
    let Outcome {
        ready,
        report,
        watch,
        inputs,
        saved,
        state_dir,
    } = configuration::read(&source, machine, keyring);
    if let Some(ready) = ready {
        return Ok(Chosen {
            source,
            ready,
            report,
            watch,
            inputs,
            saved,
            last_known_good: false,
        });
    }
    if !last_known_good {
        // Before anything is printed: standard error may have no reader.
        refused(&format!(
            "the configuration cannot be used: {}",
            report.first_error().unwrap_or_default()
        ));
    }
    output::report(&report);
    output::note(&format!(
        "portolan: the configuration cannot be used: {}",
        report.summary()
    ));
    if !last_known_good {
        return Err(());
    }
    let kept = match LastKnownGood::load(&state_dir) {
        Ok(kept) => kept,
        Err(error) => {
            output::note(&format!(
                "portolan: there is no last known good one in {}: {error}",
                state_dir.display()
            ));
            return Err(());
        }
    };
    let kept_source = Source::Saved(kept.sources);
    let outcome = configuration::read(&kept_source, machine, keyring);
    let Some(ready) = outcome.ready else {
        output::report(&outcome.report);
        output::note("portolan: the last known good configuration cannot be used either");
        return Err(());
    };
    output::note(&format!(
        "portolan: starting with the last known good one, {}",
        kept.hash
    ));
    Ok(Chosen {
        // The file is what a reload reads: once it is mended, it is used.
        source,
        ready,
        report: outcome.report,
        watch,
        inputs: outcome.inputs,
        saved: outcome.saved,
        last_known_good: true,
    })
}

/// How recently a file must have been written to be worth a word at the start.
const JUST_WRITTEN: Duration = Duration::from_secs(1);

/// Says which files were written just now: nobody knows at the start whether somebody is still writing.
fn say_just_written(inputs: &Inputs, clock: Clock) {
    let now = clock.wall().as_nanos() as i128;
    let recent = |stamp: Stamp| {
        let age = now - stamp.written;
        stamp.unsteady || (0..JUST_WRITTEN.as_nanos() as i128).contains(&age)
    };
    for (path, _) in inputs.stamps().filter(|(_, stamp)| recent(*stamp)) {
        tracing::debug!(
            "`{}` was written just now: what stood there was read, and what follows is applied when \
             it is closed",
            path.display()
        );
    }
    if let Some(path) = inputs.unsteady() {
        tracing::warn!("`{}` was written while it was read", path.display());
    }
}

fn say_warnings(report: &Report) {
    for diagnostic in &report.diagnostics {
        if diagnostic.severity == Severity::Warning {
            let place = diagnostic
                .origin
                .span()
                .map(|span| report.sources.place(span));
            match place {
                Some(place) => tracing::warn!("{place}: {}", diagnostic.message),
                None => tracing::warn!("{}", diagnostic.message),
            }
        }
    }
}

async fn run(
    chosen: Chosen,
    mut inherited: Inherited,
    predecessor: &mut Option<Predecessor>,
    ready: Box<dyn FnOnce(Serving)>,
    world: World,
) -> anyhow::Result<ExitCode> {
    let World {
        clock,
        machine,
        keyring,
        telemetry,
        totals,
        notifier,
        program,
        open_files,
    } = world;
    let Ready {
        plan,
        material,
        locator,
    } = chosen.ready;
    // Before anything is bound, so that a signal during the start is not lost.
    let mut signals = Signals::new(notifier.clone())?;
    let lost = totals.access_log.clone();
    let (access_log, writer) = AccessLog::start(plan.access_log.as_ref(), lost.clone())
        .context("cannot open the access log")?;
    for worry in locator.worries(clock.wall()) {
        tracing::warn!("{worry}");
    }
    let journal = Journal::new(clock);
    let supervisor = Supervisor::new(journal.clone(), totals.clone(), clock)
        .panicking_on_purpose(machine::variable("PORTOLAN_TEST_PANICS").map(PathBuf::from));
    for (log, loss) in [
        (Log::Access, lost),
        (Log::Process, totals.process_log.clone()),
    ] {
        let journal = journal.clone();
        supervisor.keep("loss_watch", move || {
            loss_watch::keep_telling(log, loss.clone(), journal.clone(), clock)
        });
    }
    let handed = predecessor.as_mut().map(Predecessor::handed);
    let engine = Engine::start(Beginning {
        plan: plan.clone(),
        material: material.clone(),
        locator,
        dialer: Arc::new(EngineDialer::new(clock)),
        resolver: Arc::new(NameServers::default()),
        clock,
        journal: journal.clone(),
        handed: handed.unwrap_or_default(),
        supervisor: supervisor.clone(),
    });
    let workers = machine::workers(plan.process.workers)?;
    let answers = Arc::new(Answers::new(keyring.challenges().clone()));
    let affinity = Arc::new(AffinitySecret::new(plan.process.state_dir.clone()));
    affinity.prepare(&plan);
    let parts = DataPlaneParts {
        published: engine.published().clone(),
        messenger: engine.messenger(),
        clock,
        totals: totals.clone(),
        access_log: access_log.clone(),
        affinity: affinity.clone(),
        answers: answers.clone(),
        open_files,
    };
    let data_plane = DataPlane::start(workers, parts).context("cannot start the workers")?;
    let admin_socket = bind_admin(&plan, &mut inherited, predecessor.is_some()).await?;
    let admin_address = admin_socket.local_addr()?;
    data_plane.inherit(std::mem::take(&mut inherited.sockets));
    let listeners = data_plane.listeners();
    match listeners.prepare(&plan, &material) {
        Ok(prepared) => prepared.commit(),
        Err(found) => {
            let report = Report::new(chosen.report.sources, found);
            telemetry.report(&report);
            if let Some(predecessor) = predecessor {
                let why = report.first_error().unwrap_or_default();
                predecessor.fail(&why).await;
            }
            return Ok(exit::FAILED);
        }
    }
    for socket in data_plane.left_over() {
        let address = socket.bound()?;
        if predecessor.is_none() {
            bail!(
                "systemd opened a socket for {address}, and nothing in the configuration is bound \
                 to it: change the unit's .socket file, or a listener's `bind`"
            );
        }
        tracing::info!("leaving {address}: it is not in the configuration any more");
    }

    let wall = clock.wall();
    totals
        .last_reload_success
        .store(wall.as_millis() as u64, Ordering::Relaxed);
    if !chosen.last_known_good {
        reload::keep(&plan, chosen.saved, clock);
    }
    let writing: Arc<Writing> = Arc::default();
    let reloader = Arc::new(Reloader::new(
        chosen.source,
        Parts {
            engine: engine.clone(),
            listeners: listeners.clone(),
            access_log: access_log.clone(),
            affinity,
            set_log: Box::new(move |log| telemetry.set(log)),
            totals: totals.clone(),
            clock,
            journal: journal.clone(),
            machine,
            keyring,
            writing: writing.clone(),
        },
        Running {
            plan: plan.clone(),
            material: material.clone(),
            applied: wall.as_secs(),
            last_known_good: chosen.last_known_good,
            inputs: Arc::new(chosen.inputs),
            warnings: Arc::new(chosen.report),
            last_attempt: None,
        },
        chosen.watch,
    ));
    let phase = Phase::default();
    // Before anybody is served: what was overridden before a restart still is. As long as there is
    // another process, the overrides are that one's to change.
    let state_dir = &plan.process.state_dir;
    if predecessor.is_none() {
        state_file::sweep(state_dir);
    }
    let (to, told) = (engine.clone(), journal.clone());
    let overrides = match predecessor {
        None => OverrideStore::start(state_dir, to, clock, told, &supervisor).await?,
        Some(_) => OverrideStore::watch(state_dir, to, clock, told).await?,
    };
    let state = AdminState {
        published: engine.published().clone(),
        reloader: reloader.clone(),
        overrides: overrides.clone(),
        journal: journal.clone(),
        listeners: listeners.clone(),
        phase: phase.clone(),
        clock,
        version: VERSION,
        upgrade_socket: Arc::default(),
        room: admin::room(open_files),
        supervisor: supervisor.clone(),
    };
    let upgrade_socket = state.upgrade_socket.clone();
    // The process before this one answers operators until this one can serve.
    let mut serve_admin = Some(|| AdminServer::start(admin_socket, state).map(Arc::new));
    let mut admin = None;
    if predecessor.is_none() {
        admin = serve_admin.take().map(|serve| serve()).transpose()?;
    }
    tracing::info!(
        "portolan {VERSION}, configuration {}, {workers} workers, admin API on http://{admin_address}",
        plan.hash,
    );
    look_after(&supervisor, &reloader, &writing, &journal, clock);

    notifier.send(&["STATUS=Waiting for the first verdicts about endpoints."]);
    let grace = plan.process.startup_grace;
    let patience = predecessor
        .as_ref()
        .filter(|predecessor| predecessor.judged)
        // A little less, so that it hears why.
        .map(|predecessor| predecessor.patience.mul_f64(0.9));
    let judging = async {
        let (judged, _) = tokio::join!(
            engine.wait_until_judged(patience.unwrap_or(grace)),
            // Those who come with tokens are judged from the beginning, if keys can be had in time.
            tokio::time::timeout(grace, token_keys::asked_once(&reloader)),
        );
        judged
    };
    let judged = tokio::select! {
        judged = judging => judged,
        stop = signals.stop(&reloader, &listeners) => {
            tracing::info!("stopping before anybody was served ({stop})");
            return Ok(exit::DONE);
        }
        task = supervisor.given_up() => bail!("nothing can be decided without the task `{task}`"),
    };
    if !judged {
        // The process before this one has a verdict about every pool, and serves better.
        if patience.is_some() {
            let snapshot = engine.published().load();
            let pools = snapshot.pools.iter().filter(|pool| !pool.judged);
            let names: Vec<&str> = pools.map(|pool| pool.plan.name.as_str()).collect();
            bail!("no verdict yet about {}", names.join(", "));
        }
        tracing::warn!("opening the listeners although not every pool has answered yet");
    }
    if let Some(predecessor) = predecessor {
        tokio::select! {
            told = predecessor.ready(VERSION) => told?,
            stop = signals.stop(&reloader, &listeners) => {
                tracing::info!("stopping before anybody was served ({stop})");
                return Ok(exit::DONE);
            }
        }
        // What changed since this process began to read.
        overrides.take_over(&supervisor).await?;
    }
    data_plane.open().context("cannot open a listener")?;
    // Not before: an authority that is asked comes and looks at once.
    let (keeper, answers) = (reloader.clone(), answers);
    let acme = supervisor.keep("acme", move || {
        CertificateManager::new(keeper.clone(), answers.clone(), clock).run()
    });
    phase.set_ready();
    if let Some(serve) = serve_admin {
        admin = Some(serve()?);
    }
    let admin = admin.context("the admin API is not served")?;
    let elders = PreviousGenerations::default();
    let (tell, mut handed) = mpsc::channel(1);
    let upgrades = program.and_then(|program| {
        let upgrader = Arc::new(Upgrader {
            program,
            sockets: Box::new(data_plane.sockets()),
            admin: admin.clone(),
            elders: elders.clone(),
            reloader: reloader.clone(),
            overrides: overrides.clone(),
            engine: engine.clone(),
            clock,
            journal: journal.clone(),
            notifier: notifier.clone(),
            turn: Mutex::new(false),
        });
        open_door(&plan.process.state_dir, &upgrade_socket, upgrader, tell)
    });
    if let Some(mut predecessor) = predecessor.take() {
        totals.upgrades_done.add(predecessor.done);
        totals.upgrades_failed.add(predecessor.failed);
        predecessor.serving().await;
        let pid = predecessor.pid();
        journal.emit(&Event::Process(Stage::TakenOver { pid }));
        elders.add(predecessor.into_elders());
    }
    notifier.ready(listeners.status().len());
    for listener in listeners.status() {
        let address = listener.bound;
        journal.emit(&Event::ListenerOpened { address });
    }
    journal.emit(&Event::Process(Stage::Ready));
    ready(Serving {
        listeners: listeners
            .status()
            .iter()
            .map(|listener| listener.bound)
            .collect(),
        admin: admin_address,
    });

    let stop = tokio::select! {
        stop = signals.stop(&reloader, &listeners) => stop,
        task = supervisor.given_up() => Stop::Failed(task),
        Some(successor) = handed.recv() => {
            phase.set_handed_over();
            // The new process has the listeners, so its answers are those that authorities get.
            acme.abort();
            finish(successor, &data_plane, &admin, &reloader, &mut signals).await;
            drop(data_plane);
            drop(writer);
            tracing::info!("stopped");
            return Ok(exit::DONE);
        }
    };
    phase.set_stopping();
    journal.emit(&Event::Process(match stop {
        Stop::Failed(task) => Stage::Failed { task },
        Stop::Gracefully | Stop::Now => Stage::Stopping {
            signal: stop.to_string(),
        },
    }));
    acme.abort();
    if let Some(upgrades) = upgrades {
        upgrades.abort();
    }
    elders.stop();
    if stop != Stop::Now {
        let process = reloader.running().plan.process.clone();
        notifier.stopping(process.shutdown_timeout);
        // The next process goes by the file, and the calendar may have been set since the last look.
        drop(overrides.pause().await);
        stop_gracefully(
            &data_plane,
            process.lame_duck,
            process.shutdown_timeout,
            &mut signals,
        )
        .await;
    } else {
        notifier.send(&["STOPPING=1"]);
    }
    drop(data_plane);
    drop(writer);
    if let Some(socket) = upgrade_socket.get() {
        UpgradeSocket::remove(socket);
    }
    tracing::info!("stopped");
    Ok(match stop {
        Stop::Failed(_) => exit::FAILED,
        Stop::Gracefully | Stop::Now => exit::DONE,
    })
}

/// Begins the tasks that go on for as long as the process lives.
fn look_after(
    supervisor: &Supervisor,
    reloader: &Arc<Reloader>,
    writing: &Arc<Writing>,
    journal: &Arc<Journal>,
    clock: Clock,
) {
    let (to, written) = (reloader.clone(), writing.clone());
    supervisor.keep("files", move || watch_files(to.clone(), written.clone()));
    let (to, written) = (reloader.clone(), writing.clone());
    supervisor.keep("certificates", move || {
        watch_certificates(to.clone(), written.clone())
    });
    let (to, own) = (reloader.clone(), supervisor.clone());
    supervisor.keep("token_keys", move || {
        TokenKeyKeeper::new(to.clone(), clock, own.clone()).run()
    });
    let told = journal.clone();
    supervisor.keep("shortages", move || {
        exhaustion_watch::keep_telling(&SHORTAGES, told.clone(), clock)
    });
}

/// The admin API's socket: of the process before this one, of systemd, or a new one.
async fn bind_admin(
    plan: &Plan,
    inherited: &mut Inherited,
    taking_over: bool,
) -> anyhow::Result<TcpListener> {
    let wanted = plan.admin.bind;
    let mut socket = inherited.admin.take();
    if !taking_over {
        let sockets = &mut inherited.sockets;
        let at = sockets.iter().position(|it| it.configured == wanted);
        socket = at.map(|at| sockets.remove(at));
    }
    let bound = match socket.filter(|socket| socket.configured == wanted) {
        Some(socket) => AdminServer::inherit(socket.socket),
        None => AdminServer::bind(wanted).await,
    };
    bound.with_context(|| format!("cannot bind the admin API to {wanted}"))
}

/// Opens the socket for those who ask for an upgrade. Without one, everything else works.
fn open_door(
    state_dir: &Path,
    told: &OnceLock<PathBuf>,
    upgrader: Arc<Upgrader>,
    handed: mpsc::Sender<Successor>,
) -> Option<JoinHandle<()>> {
    match UpgradeSocket::open(state_dir) {
        Ok(socket) => {
            let _ = told.set(socket.path().to_owned());
            Some(tokio::spawn(socket.serve(upgrader, handed)))
        }
        Err(error) => {
            tracing::warn!(
                "cannot be upgraded: no socket for it in {}: {error}",
                state_dir.display()
            );
            None
        }
    }
}

/// Lame duck → nobody new → requests finish.
async fn stop_gracefully(
    data_plane: &DataPlane,
    lame_duck: Duration,
    shutdown_timeout: Duration,
    signals: &mut Signals,
) {
    tracing::info!(
        "stopping gracefully, within {} s",
        shutdown_timeout.as_secs_f64()
    );
    let drain = async {
        tokio::time::sleep(lame_duck).await;
        data_plane
            .drain(shutdown_timeout.saturating_sub(lame_duck))
            .await
    };
    tokio::select! {
        finished = drain => if !finished {
            tracing::warn!("{} requests did not finish in time", data_plane.under_way());
        },
        () = signals.again() => tracing::warn!("told again: stopping now"),
    }
}

/// Another process serves: what is under way here finishes, however long that takes, unless this
/// process is told to stop or the other one stops.
async fn finish(
    mut successor: Successor,
    data_plane: &DataPlane,
    admin: &AdminServer,
    reloader: &Arc<Reloader>,
    signals: &mut Signals,
) {
    data_plane.hand_over();
    let finished = async {
        tokio::join!(data_plane.wait_until_empty(), admin.left());
    };
    let stop = tokio::select! {
        () = finished => return,
        stop = signals.told() => stop,
        () = successor.gone() => {
            tracing::info!("process {} stops", successor.pid);
            Stop::Gracefully
        }
    };
    if stop == Stop::Gracefully {
        let limit = reloader.running().plan.process.shutdown_timeout;
        stop_gracefully(data_plane, Duration::ZERO, limit, signals).await;
    }
}

/// How to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stop {
    Gracefully,
    Now,
    /// Nobody told it to, but nothing can be decided without this task.
    Failed(&'static str),
}

impl std::fmt::Display for Stop {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Gracefully => "SIGTERM",
            Self::Now => "SIGINT",
            Self::Failed(task) => task,
        })
    }
}

struct Signals {
    notifier: Notifier,
    hangup: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
}

impl Signals {
    fn new(notifier: Notifier) -> anyhow::Result<Self> {
        let listen = |kind| signal(kind).context("cannot listen for signals");
        Ok(Self {
            notifier,
            hangup: listen(SignalKind::hangup())?,
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
        })
    }

    /// Waits until told to stop; reloads when told to.
    async fn stop(&mut self, reloader: &Arc<Reloader>, listeners: &Arc<dyn Listeners>) -> Stop {
        loop {
            tokio::select! {
                _ = self.hangup.recv() => {
                    let (reloader, listeners) = (reloader.clone(), listeners.clone());
                    let notifier = self.notifier.clone();
                    tokio::spawn(async move {
                        notifier.reloading();
                        reloader.reload(Trigger::Signal).await;
                        notifier.ready(listeners.status().len());
                    });
                }
                _ = self.terminate.recv() => return Stop::Gracefully,
                _ = self.interrupt.recv() => return Stop::Now,
            }
        }
    }

    /// Waits until told to stop; there is nothing left to reload.
    async fn told(&mut self) -> Stop {
        loop {
            tokio::select! {
                _ = self.hangup.recv() => {
                    tracing::warn!("not reloading: another process has taken over");
                }
                _ = self.terminate.recv() => return Stop::Gracefully,
                _ = self.interrupt.recv() => return Stop::Now,
            }
        }
    }

    /// Waits until told to stop once more.
    async fn again(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// Reloads when a watched file changes.
async fn watch_files(reloader: Arc<Reloader>, writing: Arc<Writing>) {
    let watched = reloader.watched();
    let watch = match FileWatch::new(&writing) {
        Ok(watch) => watch,
        Err(error) => {
            tracing::warn!("cannot watch files ({error}): changes are only seen on reload");
            return;
        }
    };
    keep_up(watch, watched, Follower(reloader)).await;
}

/// Reads certificates again when one of their files changes, and now and then in any case: time
/// passes for certificates, and not every file system tells of changes.
async fn watch_certificates(reloader: Arc<Reloader>, writing: Arc<Writing>) {
    const IN_ANY_CASE: Duration = Duration::from_secs(600);
    let mut plans = reloader.plans();
    let mut watch = match FileWatch::new(&writing) {
        Ok(watch) => watch,
        Err(error) => {
            tracing::warn!("cannot watch certificates ({error}): they are read every ten minutes");
            loop {
                reloader.refresh_certificates().await;
                tokio::time::sleep(IN_ANY_CASE).await;
            }
        }
    };
    loop {
        plans.mark_unchanged();
        let mut files = reloader.certificate_files();
        loop {
            // They are read below in any case.
            let _ = watch.set(&WatchedFiles {
                files: files.iter().cloned().collect(),
                ..WatchedFiles::default()
            });
            // After the watch is set: a change between reading a file and watching it.
            reloader.refresh_certificates().await;
            let now = reloader.certificate_files();
            if now == files {
                break;
            }
            files = now;
        }
        tokio::select! {
            () = watch.settled() => {}
            () = tokio::time::sleep(IN_ANY_CASE) => {}
            changed = plans.changed() => if changed.is_err() {
                return;
            },
        }
    }
}
