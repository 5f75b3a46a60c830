//! Who somebody is.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, HeaderValue};

use super::id::PoolId;
use crate::document::{PasswordHash, TokenAlgorithm};
use crate::source::Origin;

/// What a route asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuthPlan {
    /// How somebody proves who they are.
    pub proof: ProofPlan,
    /// In which endpoints get the user's name.
    pub user_header: Option<HeaderName>,
    /// Whether endpoints get what it was proved by.
    pub forward_authorization: bool,
}

/// How somebody proves who they are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProofPlan {
    /// Names and passwords.
    Basic(BasicPlan),
    /// Signed tokens.
    Jwt(Arc<JwtPlan>),
    /// A service says.
    Forward(Arc<ForwardAuthPlan>),
}

impl AuthPlan {
    /// What tokens are asked for, if they are.
    pub fn jwt(&self) -> Option<&Arc<JwtPlan>> {
        match &self.proof {
            ProofPlan::Jwt(jwt) => Some(jwt),
            _ => None,
        }
    }
}

/// Names and passwords.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BasicPlan {
    /// Every user with the hash of the password.
    pub users: Vec<(Arc<str>, PasswordHash)>,
    /// For WWW-Authenticate.
    pub challenge: HeaderValue,
}

/// Signed tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JwtPlan {
    /// Where the keys come from.
    pub keys: TokenKeysPlan,
    /// Who may have issued a token; empty: whoever has a key.
    pub issuers: Vec<Arc<str>>,
    /// For whom a token may be; empty: for anybody.
    pub audiences: Vec<Arc<str>>,
    /// How it may be signed.
    pub algorithms: Vec<TokenAlgorithm>,
    /// How far clocks may be apart.
    pub leeway: Duration,
    /// Where it stands.
    pub place: TokenPlacePlan,
    /// Scopes that it must have.
    pub scopes: Vec<Arc<str>>,
    /// Claims that it must have, each with one of these values.
    pub claims: Vec<(Arc<str>, Vec<Arc<str>>)>,
    /// Claims that endpoints get, and in which header.
    pub headers: Vec<(Arc<str>, HeaderName)>,
    /// What clients are told the route belongs to.
    pub realm: Arc<str>,
}

/// Keys, and how often they are asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenKeysPlan {
    /// Where they come from.
    pub source: TokenKeySource,
    /// How often a URL is asked.
    pub refresh: Duration,
    /// How long it may take to answer.
    pub timeout: Duration,
    /// Where it stood.
    pub origin: Origin,
}

/// Where keys come from: what they are known by, across plans.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum TokenKeySource {
    /// A file.
    File(PathBuf),
    /// A URL, and the certificates that are trusted there instead of the system's.
    Url(Arc<str>, Option<PathBuf>),
}

impl std::fmt::Display for TokenKeySource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::File(path) => path.display().fmt(f),
            // What follows may be meant for the issuer alone.
            Self::Url(url, _) => f.write_str(url.split(['?', '#']).next().unwrap_or_default()),
        }
    }
}

/// Where a token stands in a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TokenPlacePlan {
    /// `Authorization: Bearer`.
    Bearer,
    /// A header of its own.
    Header(HeaderName),
    /// A cookie.
    Cookie(Arc<str>),
}

/// A service that says who may pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForwardAuthPlan {
    /// Its pool.
    pub pool: PoolId,
    /// The path that is asked for.
    pub path: Arc<str>,
    /// The request's headers that it gets; without it, all.
    pub send_headers: Option<Vec<HeaderName>>,
    /// Its answer's headers that endpoints get.
    pub copy_headers: Vec<HeaderName>,
    /// How long it may take.
    pub timeout: Duration,
    /// Questions at the same time.
    pub at_once: usize,
    /// How much of its answer's body a client gets, in bytes.
    pub max_body: usize,
    /// Whether requests pass when it cannot be asked.
    pub fail_open: bool,
}
