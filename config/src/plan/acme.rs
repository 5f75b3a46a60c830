//! Certificates that are asked for, and from whom.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::decode::Secret;
use crate::document::{ChallengeKind, KeyKind};
use crate::names::Name;
use crate::source::{At, Origin};

/// A certificate authority that issues by ACME.
#[derive(Clone, Debug, PartialEq)]
pub struct AcmeIssuerPlan {
    /// What the file calls it.
    pub name: Name,
    /// The URL of its directory.
    pub directory: Arc<str>,
    /// Whom it may write to.
    pub email: Option<Arc<str>>,
    /// A customer's account.
    pub external_account: Option<ExternalAccountPlan>,
    /// How names are proved.
    pub challenge: ChallengePlan,
    /// Certificates to trust instead of the system's.
    pub ca: Option<At<PathBuf>>,
    /// The kind of a certificate's key.
    pub key: KeyKind,
    /// The share of the lifetime after which a certificate is renewed, from 0 to 1.
    pub renew_after: f64,
    /// The wait after the first failure.
    pub retry_min: Duration,
    /// The longest wait after a failure.
    pub retry_max: Duration,
    /// For one order.
    pub timeout: Duration,
    /// Where its account is kept.
    pub folder: PathBuf,
    /// Where it stood.
    pub origin: Origin,
}

/// A customer's account at an authority.
#[derive(Clone, PartialEq, Eq)]
pub struct ExternalAccountPlan {
    /// The authority's name for the key.
    pub key_id: Arc<str>,
    /// The key, in base64url.
    pub hmac_key: Secret,
}

impl std::fmt::Debug for ExternalAccountPlan {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ExternalAccountPlan")
            .field("key_id", &self.key_id)
            .finish_non_exhaustive()
    }
}

/// How names are proved to be ours.
#[derive(Clone, Debug, PartialEq)]
pub enum ChallengePlan {
    /// By an answer on port 80.
    Http01,
    /// By a handshake on port 443.
    TlsAlpn01,
    /// By a record in the DNS.
    Dns01(DnsHookPlan),
}

impl ChallengePlan {
    /// Which kind it is.
    pub fn kind(&self) -> ChallengeKind {
        match self {
            Self::Http01 => ChallengeKind::Http01,
            Self::TlsAlpn01 => ChallengeKind::TlsAlpn01,
            Self::Dns01(_) => ChallengeKind::Dns01,
        }
    }
}

/// Who writes records.
#[derive(Clone, Debug, PartialEq)]
pub struct DnsHookPlan {
    /// How it is asked.
    pub by: DnsHookKind,
    /// How long it may take.
    pub timeout: Duration,
    /// How long to wait until every name server has a record.
    pub wait: Duration,
}

/// How whoever writes records is asked.
#[derive(Clone, Debug, PartialEq)]
pub enum DnsHookKind {
    /// A program with its arguments.
    Exec(Vec<String>),
    /// A request.
    Webhook {
        /// Where to.
        url: Arc<str>,
        /// How we prove who asks.
        token: Option<Secret>,
    },
}

/// A certificate that is asked for. Wherever the same issuer and names stand, it is the same one.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ManagedCertificate {
    /// The issuer's name.
    pub issuer: Name,
    /// The names, in lower case and sorted, each once.
    pub names: Arc<[String]>,
    /// Where it is kept.
    pub folder: PathBuf,
}

impl std::fmt::Display for ManagedCertificate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.names.join(", "))
    }
}
