//! What the control plane has to say to operators: one value per fact, which writes the log line and
//! becomes an entry of the [journal](crate::events::journal).
//!
//! A new kind is a variant here, its word in [`Event::kind`], what it is about in
//! [`Event::subject`], and its sentence in `Display`.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use portolan_config::diagnostic::Colours;
use portolan_config::names::Name;

use crate::background::{acme, token_keys};
use crate::events::log_loss::{Log, Why};
use crate::events::reload::{Doubt, Reloaded, Trigger};
use crate::health::exhaustion::Shortage;
use crate::health::outlier::EjectionChange;
use crate::health::partition;
use crate::health::verdict::{Verdict, VerdictReason};
use crate::overrides;
use crate::overrides::weights::Misfit;
use crate::pool::endpoint::EndpointKey;

/// Something an operator wants to know.
#[derive(Clone, Debug)]
pub enum Event {
    /// An endpoint's verdict changed.
    EndpointJudged {
        /// Which.
        key: EndpointKey,
        /// What is believed now.
        verdict: Verdict,
        /// Why.
        because: VerdictReason,
    },
    /// Where an endpoint stands with traffic changed.
    EndpointStanding {
        /// Which.
        key: EndpointKey,
        /// How.
        change: EjectionChange,
    },
    /// This instance suspects its own network, or does not any more.
    SelfSuspicion {
        /// What changed.
        change: partition::PartitionChange,
        /// The pools that failed together.
        pools: Vec<Name>,
    },
    /// A pool can serve, or cannot any more.
    PoolChanged {
        /// Which.
        pool: Name,
        /// Whether it can take any traffic.
        up: bool,
        /// Healthy endpoints, and all that count.
        healthy: (usize, usize),
    },
    /// An endpoint that has requests says nothing, for longer than is plausible.
    WentSilent {
        /// Which.
        key: EndpointKey,
        /// For how long.
        silent: Duration,
    },
    /// It was heard again.
    HeardAgain {
        /// Which.
        key: EndpointKey,
    },
    /// A name leads to other addresses than before.
    NameChanged {
        /// The name.
        host: Arc<str>,
        /// How many addresses it has now.
        addresses: usize,
    },
    /// A name could not be resolved; the last answer stays.
    NameFailed {
        /// The name.
        host: Arc<str>,
        /// Why.
        error: String,
    },
    /// A certificate that clients get was replaced by what its file holds now.
    CertificateReplaced {
        /// Whose: `listener 0.0.0.0:443`.
        of: String,
        /// The file.
        file: String,
    },
    /// What a pool is verified with, or what it is shown, was replaced.
    IdentityReplaced {
        /// Which.
        pool: Name,
    },
    /// A file of a certificate changed, and cannot be used; what was good before it stays.
    CertificateRefused {
        /// Whose: `listener 0.0.0.0:443`, `pool aws`.
        of: String,
        /// Why.
        error: String,
    },
    /// A certificate ends before long, or has ended.
    CertificateEnds {
        /// Whose: `listener 0.0.0.0:443`, `pool aws`.
        of: String,
        /// Its file.
        name: String,
        /// Whole days that are left; below 0 when it is over.
        days: i64,
    },
    /// A certificate that looks after itself is there, or is not.
    Certificate(acme::Said),
    /// Keys of tokens are new, or cannot be had.
    TokenKeys(token_keys::Said),
    /// An operator overrides the configuration, or does so no longer.
    Overridden(overrides::OverrideChange),
    /// The running configuration does not fit the weights that an operator gave to a service.
    WeightsIdle {
        /// The service.
        service: Name,
        /// Why.
        misfit: Misfit,
    },
    /// It fits them again.
    WeightsFit {
        /// The service.
        service: Name,
    },
    /// Somebody or something asked for another configuration.
    Reloaded {
        /// Who.
        trigger: Trigger,
        /// What became of it.
        outcome: Reloaded,
    },
    /// A file of the configuration has changed, and is not believed yet.
    ReloadWaits {
        /// Which.
        file: String,
        /// Why.
        doubt: Doubt,
    },
    /// This instance, or its machine, has run out of something, or has enough of it again.
    Shortage {
        /// Of what.
        what: Shortage,
        /// Whether it has begun.
        began: bool,
    },
    /// Lines of a log are lost.
    LinesLost {
        /// Of which.
        log: Log,
        /// Why.
        why: Option<Why>,
    },
    /// They are no longer.
    LinesWritten {
        /// Of which.
        log: Log,
        /// How many were lost.
        lost: u64,
    },
    /// A task of the control plane panicked: a fault of Portolan's own.
    TaskFailed {
        /// Which.
        task: &'static str,
        /// After which pause it is begun again; nothing if the process ends for want of it.
        again_in: Option<Duration>,
    },
    /// A geo database was replaced.
    GeoSwapped {
        /// Its path.
        name: String,
        /// What kind it says it is.
        kind: String,
    },
    /// Clients are accepted on an address.
    ListenerOpened {
        /// As bound.
        address: SocketAddr,
    },
    /// Nobody new is accepted on an address any more.
    ListenerClosed {
        /// As bound.
        address: SocketAddr,
    },
    /// The process has got somewhere in its life.
    Process(Stage),
    /// A new process is to take over.
    Upgrade(Upgrade),
}

/// Where a process is in its life.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stage {
    /// It serves.
    Ready,
    /// It serves in the place of another one.
    TakenOver {
        /// The process before it.
        pid: u32,
    },
    /// It was told to stop.
    Stopping {
        /// By what.
        signal: String,
    },
    /// It cannot go on.
    Failed {
        /// For want of what.
        task: &'static str,
    },
}

/// How an upgrade goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Upgrade {
    /// A new process starts.
    Started {
        /// Its binary.
        binary: String,
    },
    /// The new process serves.
    Done {
        /// The process.
        pid: u32,
        /// Its version.
        version: String,
    },
    /// This process goes on.
    Failed {
        /// Why.
        error: String,
    },
}

impl Event {
    /// Its kind, in a word.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::EndpointJudged { verdict, .. } => match verdict {
                Verdict::Unknown => "endpoint_unknown",
                Verdict::Healthy => "endpoint_up",
                Verdict::Unhealthy => "endpoint_down",
            },
            Self::EndpointStanding { change, .. } => match change {
                EjectionChange::Ejected(..) => "endpoint_ejected",
                EjectionChange::HalfOpen => "endpoint_on_trial",
                EjectionChange::Readmitted => "endpoint_freed",
            },
            Self::SelfSuspicion { change, .. } => match change {
                partition::PartitionChange::Holding => "self_suspicion_began",
                partition::PartitionChange::Settling => "self_suspicion_settling",
                partition::PartitionChange::LetGo => "self_suspicion_ended",
            },
            Self::PoolChanged { up: true, .. } => "pool_up",
            Self::PoolChanged { up: false, .. } => "pool_down",
            Self::WentSilent { .. } => "endpoint_suspect",
            Self::HeardAgain { .. } => "endpoint_cleared",
            Self::NameChanged { .. } => "name_changed",
            Self::NameFailed { .. } => "name_failed",
            Self::CertificateReplaced { .. } => "certificate_replaced",
            Self::IdentityReplaced { .. } => "identity_replaced",
            Self::CertificateRefused { .. } => "certificate_refused",
            Self::CertificateEnds { .. } => "certificate_ends",
            Self::Certificate(said) => said.kind(),
            Self::TokenKeys(said) => said.kind(),
            Self::Overridden(change) => change.kind(),
            Self::WeightsIdle { .. } => "weights_idle",
            Self::WeightsFit { .. } => "weights_fit",
            Self::Reloaded { outcome, .. } => match outcome {
                Reloaded::Applied { .. } => "reload_applied",
                Reloaded::Unchanged => "reload_unchanged",
                Reloaded::Refused(_) => "reload_refused",
            },
            Self::ReloadWaits { .. } => "reload_waits",
            Self::Shortage { began: true, .. } => "edge_exhausted",
            Self::Shortage { began: false, .. } => "edge_recovered",
            Self::LinesLost { .. } => "log_lines_lost",
            Self::LinesWritten { .. } => "log_lines_written",
            Self::TaskFailed { .. } => "task_failed",
            Self::GeoSwapped { .. } => "geo_database_replaced",
            Self::ListenerOpened { .. } => "listener_opened",
            Self::ListenerClosed { .. } => "listener_closed",
            Self::Process(stage) => match stage {
                Stage::Ready => "ready",
                Stage::TakenOver { .. } => "taken_over",
                Stage::Stopping { .. } => "stopping",
                Stage::Failed { .. } => "failed",
            },
            Self::Upgrade(upgrade) => match upgrade {
                Upgrade::Started { .. } => "upgrade_started",
                Upgrade::Done { .. } => "upgrade_done",
                Upgrade::Failed { .. } => "upgrade_failed",
            },
        }
    }

    /// What it is about: `pool aws`, `endpoint aws/10.0.0.1:80`, `service api`, …
    pub fn subject(&self) -> String {
        match self {
            Self::EndpointJudged { key, .. }
            | Self::EndpointStanding { key, .. }
            | Self::WentSilent { key, .. }
            | Self::HeardAgain { key } => format!("endpoint {key}"),
            Self::SelfSuspicion { .. }
            | Self::Shortage { .. }
            | Self::TaskFailed { .. }
            | Self::Process(_)
            | Self::Upgrade(_) => "process".to_owned(),
            Self::PoolChanged { pool, .. } => format!("pool {pool}"),
            Self::NameChanged { host, .. } | Self::NameFailed { host, .. } => {
                format!("name {host}")
            }
            Self::CertificateReplaced { of, .. }
            | Self::CertificateRefused { of, .. }
            | Self::CertificateEnds { of, .. } => of.clone(),
            Self::IdentityReplaced { pool } => format!("pool {pool}"),
            Self::Certificate(said) => said.subject(),
            Self::TokenKeys(said) => said.subject(),
            Self::Overridden(change) => change.subject().to_string(),
            Self::WeightsIdle { service, .. } | Self::WeightsFit { service } => {
                format!("service {service}")
            }
            Self::Reloaded { .. } | Self::ReloadWaits { .. } => "configuration".to_owned(),
            Self::LinesLost { log, .. } | Self::LinesWritten { log, .. } => log.to_string(),
            Self::GeoSwapped { name, .. } => format!("geo database {name}"),
            Self::ListenerOpened { address } | Self::ListenerClosed { address } => {
                format!("listener {address}")
            }
        }
    }

    /// Why, where that is known apart from what happened.
    pub fn reason(&self) -> Option<String> {
        match self {
            Self::EndpointJudged { because, .. } => Some(because.to_string()),
            Self::EndpointStanding {
                change: EjectionChange::Ejected(reason, _),
                ..
            } => Some(reason.to_string()),
            Self::NameFailed { error, .. } | Self::CertificateRefused { error, .. } => {
                Some(error.clone())
            }
            Self::Certificate(said) => said.reason(),
            Self::TokenKeys(said) => said.reason(),
            Self::Overridden(change) => change.reason().map(str::to_owned),
            Self::WeightsIdle { misfit, .. } => Some(misfit.to_string()),
            Self::Reloaded { trigger, outcome } => match outcome {
                Reloaded::Refused(report) => report.first_error(),
                _ => Some(trigger.to_string()),
            },
            Self::ReloadWaits { doubt, .. } => Some(doubt.to_string()),
            Self::Shortage { what, began: true } => Some(what.advice().to_owned()),
            Self::LinesLost { why: Some(why), .. } => Some(why.to_string()),
            Self::Process(Stage::Stopping { signal }) => Some(signal.clone()),
            Self::Upgrade(Upgrade::Failed { error }) => Some(error.clone()),
            _ => None,
        }
    }

    /// Writes the log line.
    pub fn write_log_line(&self) {
        match self {
            Self::Certificate(said) => said.emit(),
            Self::TokenKeys(said) => said.emit(),
            Self::EndpointJudged {
                verdict: Verdict::Unhealthy,
                ..
            }
            | Self::EndpointStanding {
                change: EjectionChange::Ejected(..),
                ..
            }
            | Self::SelfSuspicion {
                change: partition::PartitionChange::Holding,
                ..
            }
            | Self::PoolChanged { up: false, .. }
            | Self::WentSilent { .. }
            | Self::NameFailed { .. }
            | Self::CertificateRefused { .. }
            | Self::CertificateEnds { .. }
            | Self::ReloadWaits { .. }
            | Self::Shortage { began: true, .. }
            | Self::LinesLost { .. }
            | Self::WeightsIdle { .. } => tracing::warn!("{self}"),
            Self::Reloaded {
                outcome: Reloaded::Refused(report),
                ..
            } => tracing::error!("{self}\n{}", report.render(Colours::Off)),
            Self::Upgrade(Upgrade::Failed { .. })
            | Self::TaskFailed { .. }
            | Self::Process(Stage::Failed { .. }) => tracing::error!("{self}"),
            _ => tracing::info!("{self}"),
        }
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::EndpointJudged {
                key,
                verdict,
                because,
            } => write!(f, "endpoint {key} is {}: {because}", verdict.as_str()),
            Self::EndpointStanding { key, change } => match change {
                EjectionChange::Ejected(reason, span) => write!(
                    f,
                    "endpoint {key} is ejected for {} ms: {reason}",
                    span.as_millis()
                ),
                EjectionChange::HalfOpen => {
                    write!(f, "endpoint {key} is on trial after its ejection")
                }
                EjectionChange::Readmitted => write!(f, "endpoint {key} is no longer ejected"),
            },
            Self::SelfSuspicion { change, pools } => {
                let names: Vec<&str> = pools.iter().map(Name::as_str).collect();
                let names = names.join(", ");
                match change {
                    partition::PartitionChange::Holding => write!(
                        f,
                        "{names} failed at the same time: the likelier culprit is this \
                         instance's own network, and traffic goes where it went before"
                    ),
                    partition::PartitionChange::Settling => write!(
                        f,
                        "a probe passed: this instance's network seems to be back"
                    ),
                    partition::PartitionChange::LetGo => {
                        write!(f, "this instance no longer suspects its own network")
                    }
                }
            }
            Self::PoolChanged { pool, up, healthy } => write!(
                f,
                "pool {pool} is {}: {} of {} endpoints healthy",
                if *up { "up" } else { "down" },
                healthy.0,
                healthy.1
            ),
            Self::WentSilent { key, silent } => write!(
                f,
                "endpoint {key} is suspect: no word for {} ms, which it never took before",
                silent.as_millis()
            ),
            Self::HeardAgain { key } => write!(f, "endpoint {key} was heard again"),
            Self::NameChanged { host, addresses } => {
                write!(f, "{host} has {addresses} addresses")
            }
            Self::NameFailed { host, error } => {
                write!(f, "cannot resolve {host}: {error}; the last answer stays")
            }
            Self::CertificateReplaced { of, file } => {
                write!(f, "{of}: the certificate in `{file}` is new, and in use")
            }
            Self::IdentityReplaced { pool } => write!(
                f,
                "pool {pool}: the files of its `tls` are new, and new connections use them"
            ),
            Self::CertificateRefused { of, error } => {
                write!(f, "{of}: {error}; what was good before stays in use")
            }
            Self::CertificateEnds { of, name, days } if *days < 0 => {
                write!(f, "{of}: `{name}` is out of date")
            }
            Self::CertificateEnds { of, name, days } => {
                write!(f, "{of}: `{name}` ends in {days} days")
            }
            Self::Certificate(said) => said.fmt(f),
            Self::TokenKeys(said) => said.fmt(f),
            Self::Overridden(change) => change.fmt(f),
            Self::WeightsIdle { service, misfit } => write!(
                f,
                "the overridden weights of service {service} are not applied, because {misfit}"
            ),
            Self::WeightsFit { service } => {
                write!(
                    f,
                    "the overridden weights of service {service} are applied again"
                )
            }
            Self::Reloaded { trigger, outcome } => match outcome {
                Reloaded::Applied { hash, generation } => write!(
                    f,
                    "configuration {hash} applied as generation {generation} ({trigger})"
                ),
                // The file was put back as it was: what was wrong with it is no longer true.
                Reloaded::Unchanged => {
                    write!(
                        f,
                        "the configuration is again the one that runs ({trigger})"
                    )
                }
                Reloaded::Refused(report) => write!(
                    f,
                    "configuration refused ({trigger}), the old one goes on: {}",
                    report.summary()
                ),
            },
            Self::ReloadWaits { file, doubt } => {
                write!(f, "`{file}` has changed and is not read yet: {doubt}")?;
                match doubt {
                    Doubt::Open => f.write_str("; it is when it is closed, or left alone for 5 s"),
                    Doubt::NoMark => f.write_str("; `portolan reload` reads it as it is"),
                    _ => f.write_str("; it is when it has been left alone for 2 s"),
                }
            }
            Self::Shortage { what, began: true } => write!(
                f,
                "{what}: clients wait or get 503, and no endpoint is blamed; {}",
                what.advice()
            ),
            Self::Shortage { what, began: false } => {
                write!(f, "for 10 s it has not been true any more that {what}")
            }
            Self::LinesLost { log, why } => {
                write!(f, "lines of the {log} are lost")?;
                match why {
                    Some(why) => write!(f, ": {why}"),
                    None => Ok(()),
                }
            }
            Self::LinesWritten { log, lost } => {
                write!(
                    f,
                    "the {log} is written again; {lost} of its lines were lost"
                )
            }
            Self::TaskFailed { task, again_in } => {
                write!(
                    f,
                    "the task `{task}` has failed, which is a fault of Portolan's: "
                )?;
                match again_in {
                    None => f.write_str("it fails again and again, and the process ends"),
                    Some(Duration::ZERO) => f.write_str("it begins again at once"),
                    Some(pause) => write!(f, "it begins again in {} ms", pause.as_millis()),
                }
            }
            Self::GeoSwapped { name, kind } => write!(f, "geo database {name} ({kind}) replaced"),
            Self::ListenerOpened { address } => write!(f, "accepting clients on {address}"),
            Self::ListenerClosed { address } => {
                write!(f, "no longer accepting clients on {address}")
            }
            Self::Process(Stage::Ready) => f.write_str("ready"),
            Self::Process(Stage::TakenOver { pid }) => write!(f, "taken over from process {pid}"),
            Self::Process(Stage::Stopping { signal }) => write!(f, "told to stop ({signal})"),
            Self::Process(Stage::Failed { task }) => {
                write!(
                    f,
                    "stopping: nothing can be decided without the task `{task}`"
                )
            }
            Self::Upgrade(Upgrade::Started { binary }) => write!(f, "upgrade: starting {binary}"),
            Self::Upgrade(Upgrade::Done { pid, version }) => {
                write!(f, "upgrade: process {pid} (portolan {version}) serves now")
            }
            Self::Upgrade(Upgrade::Failed { error }) => {
                write!(f, "upgrade failed, this process goes on: {error}")
            }
        }
    }
}
