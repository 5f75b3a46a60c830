//! What the control plane has to say to operators: one value per fact, which writes the log line.

use std::fmt;
use std::sync::Arc;

use portolan_config::names::Name;

use crate::endpoint::EndpointKey;
use crate::health::{Because, Verdict};
use crate::outlier::Change;
use crate::{overrides, suspicion};

/// Something an operator wants to know.
#[derive(Clone, Debug, PartialEq)]
pub enum Notice {
    /// An endpoint's verdict changed.
    EndpointJudged {
        /// Which.
        key: EndpointKey,
        /// What is believed now.
        verdict: Verdict,
        /// Why.
        because: Because,
    },
    /// Where an endpoint stands with traffic changed.
    EndpointStanding {
        /// Which.
        key: EndpointKey,
        /// How.
        change: Change,
    },
    /// This instance suspects its own network, or does not any more.
    SelfSuspicion {
        /// What changed.
        change: suspicion::Change,
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
        silent: std::time::Duration,
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
    /// An operator overrides the configuration, or does so no longer.
    Overridden(overrides::Change),
}

impl Notice {
    /// Writes the log line.
    pub fn emit(&self) {
        match self {
            Self::EndpointJudged {
                verdict: Verdict::Unhealthy,
                ..
            }
            | Self::EndpointStanding {
                change: Change::Ejected(..),
                ..
            }
            | Self::SelfSuspicion {
                change: suspicion::Change::Holding,
                ..
            }
            | Self::PoolChanged { up: false, .. }
            | Self::WentSilent { .. }
            | Self::NameFailed { .. } => tracing::warn!("{self}"),
            _ => tracing::info!("{self}"),
        }
    }
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::EndpointJudged {
                key,
                verdict,
                because,
            } => write!(f, "endpoint {key} is {}: {because}", verdict.as_str()),
            Self::EndpointStanding { key, change } => match change {
                Change::Ejected(reason, span) => write!(
                    f,
                    "endpoint {key} is ejected for {} ms: {reason}",
                    span.as_millis()
                ),
                Change::OnTrial => write!(f, "endpoint {key} is on trial after its ejection"),
                Change::Freed => write!(f, "endpoint {key} is no longer ejected"),
            },
            Self::SelfSuspicion { change, pools } => {
                let names: Vec<&str> = pools.iter().map(Name::as_str).collect();
                let names = names.join(", ");
                match change {
                    suspicion::Change::Holding => write!(
                        f,
                        "{names} failed at the same time: the likelier culprit is this \
                         instance's own network, and traffic goes where it went before"
                    ),
                    suspicion::Change::Settling => write!(
                        f,
                        "a probe passed: this instance's network seems to be back"
                    ),
                    suspicion::Change::LetGo => {
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
            Self::Overridden(change) => change.fmt(f),
        }
    }
}
