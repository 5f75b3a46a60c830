//! Why an order for a certificate failed.

use std::path::PathBuf;
use std::time::Duration;

use crate::acme::directory::RequestError;
use crate::acme::issued::Unusable;
use crate::acme::records::RecordError;

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
pub enum OrderError {
    /// Nobody can be asked.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// Nobody could be asked from the beginning.
    #[error("{0}")]
    Unprepared(String),
    /// Ordering itself failed.
    #[error("ordering has failed, by a fault of Portolan's")]
    Own,
    /// The authority refused, or did not answer.
    #[error("{}", authority(.0))]
    Authority(#[from] instant_acme::Error),
    /// It does not offer the challenge.
    #[error("the authority offers no {kind} for {name}")]
    NotOffered {
        /// Which.
        kind: &'static str,
        /// For this name.
        name: String,
    },
    /// It was not convinced.
    #[error("{0}")]
    Unconvinced(String),
    /// The answer to a challenge cannot be made.
    #[error("cannot make the certificate that answers for {name}: is that a name?")]
    Answer {
        /// For this name.
        name: String,
        /// Why.
        error: rcgen::Error,
    },
    /// A record was not written.
    #[error("the record for {name} was not written: {error}")]
    Record {
        /// For this name.
        name: String,
        /// Why.
        error: RecordError,
    },
    /// The key or the request for the certificate cannot be made.
    #[error("cannot make the request for a certificate: are all of its names such?")]
    Ask(#[from] rcgen::Error),
    /// What was issued cannot be used.
    #[error("what the authority issued cannot be used: {0}")]
    Unusable(#[from] Unusable),
    /// The key for the external account is not base64url.
    #[error("`hmac_key` is not base64url")]
    ExternalKey,
    /// The account or the certificate cannot be read or kept.
    #[error("{}: {error}", path.display())]
    Storage {
        /// Where.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// It took too long.
    #[error("the order was not done within {} s", .0.as_secs_f64())]
    TooSlow(Duration),
}

impl OrderError {
    /// The kind of failure, as `portolan_acme_orders_total` tells them apart.
    pub fn outcome(&self) -> &'static str {
        match self {
            Self::Authority(instant_acme::Error::Api(problem)) => {
                match problem.r#type.as_deref().and_then(kind) {
                    Some("rateLimited") => "rate_limited",
                    _ => "refused",
                }
            }
            Self::Authority(instant_acme::Error::Timeout(_)) | Self::TooSlow(_) => "too_slow",
            Self::Authority(_) | Self::Request(_) => "unreachable",
            Self::Unconvinced(_) | Self::NotOffered { .. } => "challenge_failed",
            Self::Record { .. } => "record_failed",
            Self::Unusable(_) => "unusable",
            Self::Own
            | Self::Unprepared(_)
            | Self::Answer { .. }
            | Self::Ask(_)
            | Self::ExternalKey
            | Self::Storage { .. } => "internal",
        }
    }

    /// Every outcome of an order.
    pub const OUTCOMES: [&'static str; 9] = [
        "issued",
        "refused",
        "rate_limited",
        "too_slow",
        "unreachable",
        "challenge_failed",
        "record_failed",
        "unusable",
        "internal",
    ];

    /// Whether the authority has never heard of the account, or has forgotten it.
    pub(crate) fn no_account(&self) -> bool {
        match self {
            Self::Authority(instant_acme::Error::Api(problem)) => {
                problem.r#type.as_deref().and_then(kind) == Some("accountDoesNotExist")
            }
            _ => false,
        }
    }
}

/// The last part of a problem's type.
pub(crate) fn kind(problem: &str) -> Option<&str> {
    problem.strip_prefix("urn:ietf:params:acme:error:")
}

/// An authority's error in words: its own, where it has some.
pub(crate) fn authority(error: &instant_acme::Error) -> String {
    match error {
        instant_acme::Error::Api(problem) => {
            let detail = problem.detail.as_deref().unwrap_or("no reason given");
            let mut text = format!("the authority refused: {detail}");
            if let Some(kind) = problem.r#type.as_deref().and_then(kind) {
                text = format!("{text} ({kind})");
            }
            for sub in &problem.subproblems {
                text = format!("{text}; {sub}");
            }
            text
        }
        instant_acme::Error::Timeout(_) => "the authority is not done yet".to_owned(),
        // The reader's own words quote what it has found.
        instant_acme::Error::Json(error) => format!(
            "the authority answered something else than ACME: {}",
            crate::shown::no_json(error)
        ),
        instant_acme::Error::Crypto | instant_acme::Error::KeyRejected => {
            "the key of the account, in `account.json`, is damaged: without the file a new account \
             is made"
                .to_owned()
        }
        instant_acme::Error::Other(error) => format!("the authority cannot be asked: {error}"),
        instant_acme::Error::Unsupported(what) => {
            format!("the authority does not offer {what}")
        }
        instant_acme::Error::Str(what) => {
            format!("the authority's answer is not whole: it lacks {what}")
        }
        _ => "the authority cannot be asked: it has named an address that is none".to_owned(),
    }
}
