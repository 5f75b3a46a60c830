//! What is said in the log about keys of tokens.

use std::fmt;
use std::time::Duration;

use portolan_certs::token_keys::KeyFault;

/// Something an operator wants to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Said {
    /// Other keys are in use, or they can be had again.
    Replaced {
        /// Where they come from.
        source: String,
        /// How many they are.
        count: usize,
        /// What is wrong with others beside them.
        faults: Vec<KeyFault>,
    },
    /// They cannot be had, or cannot be used.
    Failed {
        /// Where they should come from.
        source: String,
        /// Why.
        error: String,
        /// Whether there are older ones.
        keys: bool,
    },
    /// They were not had for far longer than they should have been.
    Old {
        /// Where they come from.
        source: String,
        /// For how long.
        age: Duration,
    },
}

impl Said {
    /// Its kind, in a word.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Replaced { .. } => "token_keys_replaced",
            Self::Failed { .. } => "token_keys_failed",
            Self::Old { .. } => "token_keys_old",
        }
    }

    /// What it is about.
    pub(crate) fn subject(&self) -> String {
        let (Self::Replaced { source, .. }
        | Self::Failed { source, .. }
        | Self::Old { source, .. }) = self;
        format!("token keys {source}")
    }

    /// Why, where that is known.
    pub(crate) fn reason(&self) -> Option<String> {
        match self {
            Self::Failed { error, .. } => Some(error.clone()),
            Self::Replaced { faults, .. } if !faults.is_empty() => {
                let faults: Vec<String> = faults.iter().map(ToString::to_string).collect();
                Some(faults.join("; "))
            }
            Self::Replaced { .. } | Self::Old { .. } => None,
        }
    }

    /// Writes the log line.
    pub(crate) fn emit(&self) {
        match self {
            Self::Replaced { faults, .. } if faults.is_empty() => tracing::info!("{self}"),
            Self::Replaced { .. } => tracing::warn!("{self}"),
            Self::Failed { keys: true, .. } | Self::Old { .. } => tracing::warn!("{self}"),
            Self::Failed { keys: false, .. } => tracing::error!("{self}"),
        }
    }
}

impl fmt::Display for Said {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Replaced {
                source,
                count,
                faults,
            } => {
                write!(f, "{count} keys of tokens from {source} are in use")?;
                faults.iter().try_for_each(|fault| write!(f, "; {fault}"))
            }
            Self::Failed {
                source,
                error,
                keys: true,
            } => write!(
                f,
                "no keys of tokens from {source}: {error}; those of before go on"
            ),
            Self::Failed {
                source,
                error,
                keys: false,
            } => write!(
                f,
                "no keys of tokens from {source}: {error}; requests with tokens are refused until there are"
            ),
            Self::Old { source, age } => write!(
                f,
                "the keys of tokens from {source} are {} s old, and no newer ones can be had",
                age.as_secs()
            ),
        }
    }
}
