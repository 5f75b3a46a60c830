//! What a request says against its endpoint.

use portolan_config::plan::ProbeKind;
use serde::{Deserialize, Serialize};

use crate::counters::TryOutcome;

/// What an endpoint did wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EndpointFault {
    /// There was no connection.
    Connect,
    /// The connection broke, or what came was not HTTP.
    Broken,
    /// Nothing came in time.
    TimedOut,
    /// It answered with 502, 503 or 504.
    Unavailable,
}

impl EndpointFault {
    /// Every fault, in the order of their numbers.
    pub const ALL: [Self; 4] = [
        Self::Connect,
        Self::Broken,
        Self::TimedOut,
        Self::Unavailable,
    ];

    /// What a try's outcome says about its endpoint, if it is to blame.
    pub fn of(outcome: TryOutcome) -> Option<Self> {
        match outcome {
            TryOutcome::ConnectFailed => Some(Self::Connect),
            TryOutcome::Broken => Some(Self::Broken),
            TryOutcome::TimedOut => Some(Self::TimedOut),
            TryOutcome::Unavailable => Some(Self::Unavailable),
            TryOutcome::Answered
            | TryOutcome::ServerError
            | TryOutcome::Abandoned
            | TryOutcome::EdgeExhausted => None,
        }
    }

    /// Whether a probe of this kind would have met it, too.
    pub fn is_met_by(self, probe: &ProbeKind) -> bool {
        match self {
            Self::Connect => true,
            // A connection alone says nothing about answers.
            Self::Broken | Self::TimedOut => !matches!(probe, ProbeKind::Tcp),
            Self::Unavailable => false,
        }
    }

    pub(crate) fn words(self) -> &'static str {
        match self {
            Self::Connect => "no connection",
            Self::Broken => "a broken connection",
            Self::TimedOut => "no answer in time",
            Self::Unavailable => "status 502, 503 or 504",
        }
    }
}
