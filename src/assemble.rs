//! A serving process, put together: configuration → engine → listeners → admin API; then signals
//! until it is told to stop.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use anyhow::Context as _;
use portolan_certs::server::Tickets;
use portolan_config::diagnostic::{Report, Severity};
use portolan_config::{Machine, Watch};
use portolan_control::access_log::AccessLog;
use portolan_control::admin::{AdminServer, AdminState, Phase};
use portolan_control::affinity::SecretKeeper;
use portolan_control::clock::Clock;
use portolan_control::configuration::{self, Outcome, Ready, Source};
use portolan_control::engine::Engine;
use portolan_control::last_known_good::LastKnownGood;
use portolan_control::overrides::keeper::OverrideKeeper;
use portolan_control::reload::{self, Parts, Reloader, Running, Trigger};
use portolan_control::resolve::NameServers;
use portolan_control::stats::Totals;
use portolan_control::watch::FileWatch;
use portolan_proxy::{DataPlane, EngineDialer};
use tokio::signal::unix::{SignalKind, signal};

use crate::telemetry::Telemetry;
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
    let clock = Clock::start();
    let machine = machine::machine();
    let tickets = Tickets::new();
    let Some(chosen) =
        choose_configuration(start.config, start.last_known_good, &machine, &tickets)
    else {
        return Ok(exit::FAILED);
    };
    let telemetry = Telemetry::start(&chosen.ready.plan.log, machine::variable("RUST_LOG"));
    say_warnings(&chosen.report);
    let control = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(CONTROL_THREADS)
        .thread_name("control")
        .enable_all()
        .build()
        .context("cannot start the control plane's threads")?;
    let code = control.block_on(run(chosen, start.ready, clock, machine, tickets, telemetry));
    // Whatever still runs there (a probe, a question to a name server) is nobody's concern now.
    control.shutdown_background();
    code
}

/// The configuration to start with.
struct Chosen {
    source: Source,
    ready: Ready,
    report: Report,
    watch: Watch,
    saved: Vec<portolan_config::SavedSource>,
    last_known_good: bool,
}

/// Reads the file, or what was kept of the last one that ran. `None`: neither can be used, and why
/// has been said.
fn choose_configuration(
    config: PathBuf,
    last_known_good: bool,
    machine: &Machine,
    tickets: &Tickets,
) -> Option<Chosen> {
    let source = Source::File(config);
    let Outcome {
        ready,
        report,
        watch,
        saved,
        state_dir,
    } = configuration::read(&source, machine, tickets);
    if let Some(ready) = ready {
        return Some(Chosen {
            source,
            ready,
            report,
            watch,
            saved,
            last_known_good: false,
        });
    }
    output::report(&report);
    output::note(&format!(
        "portolan: the configuration cannot be used: {}",
        report.summary()
    ));
    if !last_known_good {
        return None;
    }
    let kept = match LastKnownGood::load(&state_dir) {
        Ok(kept) => kept,
        Err(error) => {
            output::note(&format!(
                "portolan: there is no last known good one in {}: {error}",
                state_dir.display()
            ));
            return None;
        }
    };
    let kept_source = Source::Saved(kept.sources);
    let outcome = configuration::read(&kept_source, machine, tickets);
    let Some(ready) = outcome.ready else {
        output::report(&outcome.report);
        output::note("portolan: the last known good configuration cannot be used either");
        return None;
    };
    output::note(&format!(
        "portolan: starting with the last known good one, {}",
        kept.hash
    ));
    Some(Chosen {
        // The file is what a reload reads: once it is mended, it is used.
        source,
        ready,
        report: outcome.report,
        watch,
        saved: outcome.saved,
        last_known_good: true,
    })
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
    ready: Box<dyn FnOnce(Serving)>,
    clock: Clock,
    machine: Machine,
    tickets: Tickets,
    telemetry: Telemetry,
) -> anyhow::Result<ExitCode> {
    let Ready {
        plan,
        material,
        locator,
    } = chosen.ready;
    // Before anything is bound, so that a signal during the start is not lost.
    let mut signals = Signals::new()?;
    let totals: Arc<Totals> = Arc::default();
    let (access_log, writer) = AccessLog::start(plan.access_log.as_ref(), totals.clone())
        .context("cannot open the access log")?;
    for worry in locator.worries(clock.wall()) {
        tracing::warn!("{worry}");
    }
    let engine = Engine::start(
        plan.clone(),
        material.clone(),
        locator,
        Arc::new(EngineDialer::new(clock)),
        Arc::new(NameServers::default()),
        clock,
    );
    let workers = machine::workers(plan.process.workers)?;
    let data_plane = DataPlane::start(
        workers,
        engine.published().clone(),
        engine.messenger(),
        clock,
        totals.clone(),
        access_log.clone(),
        Arc::new(SecretKeeper::new(plan.process.state_dir.clone())),
    )
    .context("cannot start the workers")?;
    let listeners = data_plane.listeners();
    match listeners.prepare(&plan, &material) {
        Ok(prepared) => prepared.commit(),
        Err(found) => {
            output::report(&Report::new(chosen.report.sources, found));
            return Ok(exit::FAILED);
        }
    }
    let admin = AdminServer::bind(plan.admin.bind)
        .await
        .with_context(|| format!("cannot bind the admin API to {}", plan.admin.bind))?;

    let wall = clock.wall();
    totals
        .last_reload_success
        .store(wall.as_millis() as u64, Ordering::Relaxed);
    if !chosen.last_known_good {
        reload::keep(&plan, chosen.saved, clock);
    }
    let reloader = Arc::new(Reloader::new(
        chosen.source,
        Parts {
            engine: engine.clone(),
            listeners: listeners.clone(),
            access_log: access_log.clone(),
            set_log: Box::new(move |log| telemetry.set(log)),
            totals,
            clock,
            machine,
            tickets,
        },
        Running {
            plan: plan.clone(),
            applied: wall.as_secs(),
            last_known_good: chosen.last_known_good,
            warnings: Arc::new(chosen.report),
            last_attempt: None,
        },
        chosen.watch,
    ));
    let phase = Phase::default();
    // Before anybody is served: what was drained before a restart still is.
    let overrides = OverrideKeeper::start(&plan.process.state_dir, engine.clone(), clock).await?;
    let admin = AdminServer::start(
        admin,
        AdminState {
            published: engine.published().clone(),
            reloader: reloader.clone(),
            overrides,
            listeners: listeners.clone(),
            phase: phase.clone(),
            clock,
            version: VERSION,
        },
    )?;
    tracing::info!(
        "portolan {VERSION}, configuration {}, {workers} workers, admin API on http://{}",
        plan.hash,
        admin.address()
    );
    tokio::spawn(watch_files(reloader.clone()));

    let judged = tokio::select! {
        judged = engine.wait_until_judged(plan.process.startup_grace) => judged,
        stop = signals.stop(&reloader) => {
            tracing::info!("stopping before anybody was served ({stop})");
            return Ok(exit::DONE);
        }
    };
    if !judged {
        tracing::warn!("opening the listeners although not every pool has answered yet");
    }
    data_plane.open().context("cannot open a listener")?;
    phase.set_ready();
    tracing::info!("ready");
    ready(Serving {
        listeners: listeners
            .status()
            .iter()
            .map(|listener| listener.bound)
            .collect(),
        admin: admin.address(),
    });

    let stop = signals.stop(&reloader).await;
    phase.set_stopping();
    if stop == Stop::Gracefully {
        stop_gracefully(&data_plane, &reloader, &mut signals).await;
    }
    drop(data_plane);
    drop(writer);
    tracing::info!("stopped");
    Ok(exit::DONE)
}

/// Readiness says no → lame duck → nobody new → requests finish.
async fn stop_gracefully(data_plane: &DataPlane, reloader: &Arc<Reloader>, signals: &mut Signals) {
    let process = reloader.running().plan.process.clone();
    tracing::info!(
        "stopping gracefully, within {} s",
        process.shutdown_timeout.as_secs_f64()
    );
    let drain = async {
        tokio::time::sleep(process.lame_duck).await;
        data_plane
            .drain(process.shutdown_timeout.saturating_sub(process.lame_duck))
            .await
    };
    tokio::select! {
        finished = drain => if !finished {
            tracing::warn!("{} requests did not finish in time", data_plane.under_way());
        },
        () = signals.again() => tracing::warn!("told again: stopping now"),
    }
}

/// How to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stop {
    Gracefully,
    Now,
}

impl std::fmt::Display for Stop {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Gracefully => "SIGTERM",
            Self::Now => "SIGINT",
        })
    }
}

struct Signals {
    hangup: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
}

impl Signals {
    fn new() -> anyhow::Result<Self> {
        let listen = |kind| signal(kind).context("cannot listen for signals");
        Ok(Self {
            hangup: listen(SignalKind::hangup())?,
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
        })
    }

    /// Waits until told to stop; reloads when told to.
    async fn stop(&mut self, reloader: &Arc<Reloader>) -> Stop {
        loop {
            tokio::select! {
                _ = self.hangup.recv() => {
                    let reloader = reloader.clone();
                    tokio::spawn(async move { reloader.reload(Trigger::Signal).await });
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
async fn watch_files(reloader: Arc<Reloader>) {
    let mut watched = reloader.watched();
    let mut watch = match FileWatch::new() {
        Ok(watch) => watch,
        Err(error) => {
            tracing::warn!("cannot watch files ({error}): changes are only seen on reload");
            return;
        }
    };
    set(&mut watch, &watched.borrow_and_update());
    // A change between reading the file and watching it.
    reloader.reload(Trigger::FileChanged).await;
    loop {
        tokio::select! {
            () = watch.changed() => {
                reloader.reload(Trigger::FileChanged).await;
            }
            changed = watched.changed() => if changed.is_err() {
                return;
            },
        }
        let now = watched.borrow_and_update().clone();
        set(&mut watch, &now);
    }
}

fn set(watch: &mut FileWatch, watched: &Watch) {
    let files = watched.files.iter().chain(&watched.folders);
    watch.set(files.map(PathBuf::as_path));
}
