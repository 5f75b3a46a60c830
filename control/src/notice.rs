//! What the control plane has to say to operators: one value per fact, which writes the log line.

use std::fmt;
use std::sync::Arc;

use portolan_config::names::Name;

use crate::endpoint::EndpointKey;
use crate::health::{Because, Verdict};
use crate::overrides;

/// Something an operator wants to know.
#[derive(Clone, Debug, PartialEq, Eq)]
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
