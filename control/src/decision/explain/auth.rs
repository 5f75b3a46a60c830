//! What a route's `auth` would say to a request, as far as that can be told without asking anybody
//! and without leaving a trace.

use portolan_config::plan::{ProofPlan, RoutePlan, TokenPlacePlan};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::auth::basic::Credentials;
use crate::auth::jwt;
use crate::decision::explain::question::Question;
use crate::snapshot::{Proof, Snapshot};

/// What a route's `auth` would say.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "AuthEntry")]
pub struct AuthExplained {
    /// What it asks for: `basic`, `jwt` or `forward_auth`.
    pub by: String,
    /// What would come of it, in a line.
    pub says: String,
    /// The status that the client would get, if the request would certainly not pass.
    pub status: Option<u16>,
}

/// What it would say to this request; nothing if the route asks nobody.
pub(super) fn explain(
    snapshot: &Snapshot,
    route: &RoutePlan,
    question: &Question<'_>,
) -> Option<AuthExplained> {
    let auth = route.auth.as_ref()?;
    // Without it, nobody serves: a file is looked at.
    let state = snapshot.routes.get(route.id.index());
    let proof = state.and_then(|state| state.proof.as_ref());
    let said = |by: &str, says: String, status| {
        Some(AuthExplained {
            by: by.to_owned(),
            says,
            status,
        })
    };
    match &auth.proof {
        ProofPlan::Basic(_) => {
            let Some(credentials) = Credentials::of(question.headers) else {
                let says = "the request has no name and password";
                return said("basic", says.to_owned(), Some(401));
            };
            let known = match proof {
                Some(Proof::Basic(basic)) => basic.recall(&credentials),
                _ => false,
            };
            let name = credentials.name();
            let says = if known {
                format!("passes as `{name}`")
            } else {
                format!("the password of `{name}` would be checked, which is not done here")
            };
            said("basic", says, None)
        }
        ProofPlan::Jwt(plan) => {
            if !jwt::is_there(question.headers, &plan.place) {
                let place = match &plan.place {
                    TokenPlacePlan::Bearer => "`Authorization: Bearer`".to_owned(),
                    TokenPlacePlan::Header(name) => format!("the header `{name}`"),
                    TokenPlacePlan::Cookie(name) => format!("the cookie `{name}`"),
                };
                let says = format!("the request has no token in {place}");
                return said("jwt", says, Some(401));
            }
            let (Some(Proof::Jwt(gate)), Some(now)) = (proof, question.now) else {
                let says = "the token would be verified, which only a running instance can";
                return said("jwt", says.to_owned(), None);
            };
            match gate.judge(question.headers, now) {
                Ok(believed) => {
                    let subject = believed.claims.get("sub").and_then(jwt::text);
                    let says = match subject {
                        Some(subject) => format!("passes as `{subject}`"),
                        None => "passes".to_owned(),
                    };
                    said("jwt", says, None)
                }
                Err(objection) => {
                    let status = objection.refusal().status().as_u16();
                    said("jwt", objection.words().into_owned(), Some(status))
                }
            }
        }
        ProofPlan::Forward(plan) => {
            let pool = &snapshot.pools[plan.pool.index()].plan.name;
            let says = format!(
                "the pool `{pool}` would be asked for {}, which is not done here",
                plan.path
            );
            said("forward_auth", says, None)
        }
    }
}
