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
            | Self::CertificateRefused { .. }
            | Self::CertificateEnds { .. }
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
            Self::Overridden(change) => change.fmt(f),
        }
    }
}
