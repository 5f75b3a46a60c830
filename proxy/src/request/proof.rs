//! What was proved about who sends a request.

use http::{HeaderName, HeaderValue};
use portolan_certs::token_keys::Claims;
use portolan_config::plan::{AuthPlan, ProofPlan};
use smallvec::SmallVec;

/// What was proved about who sends a request.
#[derive(Debug, Default)]
pub(crate) struct Proved {
    /// The user's name.
    pub(crate) user: Option<Box<str>>,
    /// What endpoints are told besides.
    pub(crate) told: Vec<(HeaderName, HeaderValue)>,
    /// What its token says.
    pub(crate) claims: Option<Claims>,
    /// Which of the cookies of that name is the token, from 0.
    pub(crate) cookie: usize,
}

/// The headers in which endpoints are told who it is, whatever clients say there.
pub(crate) fn told_names(auth: &AuthPlan) -> SmallVec<[&HeaderName; 4]> {
    let mut names: SmallVec<[&HeaderName; 4]> = auth.user_header.iter().collect();
    match &auth.proof {
        ProofPlan::Basic(_) => {}
        ProofPlan::Jwt(jwt) => names.extend(jwt.headers.iter().map(|(_, name)| name)),
        ProofPlan::Forward(forward) => names.extend(&forward.copy_headers),
    }
    names
}
