//! Weights: how operators divide a service's traffic for a while.

use std::collections::BTreeMap;

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Extension, Path, State};
use axum::http::StatusCode;
use portolan_config::names::Name;
use portolan_config::scalar::FromScalar as _;
use serde_json::{Value, json};

use super::given::parse;
use super::guard::Caller;
use super::overrides::{LEASE, REASON, end, set};
use super::reply::Problem;
use crate::admin::reply::bad;
use crate::admin::state::AdminState;
use crate::api::status::OverrideEntry;
use crate::overrides::weights::{Misfit, Weights, service};
use crate::overrides::{LONGEST_REASON, OverrideDecision, Subject};

/// What `PUT …/weights` says.
#[derive(Debug, serde::Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct WeightsRequest {
    /// The weight of every member of the service's split, by name.
    #[schemars(extend("minProperties" = 1))]
    weights: BTreeMap<String, u64>,
    /// For how long: `1h`, which it is if nobody says. 30 days at most.
    #[serde(rename = "for")]
    #[schemars(regex(pattern = LEASE))]
    lease: Option<String>,
    /// Why; it is needed.
    #[schemars(required, with = "String", length(max = LONGEST_REASON), regex(pattern = REASON))]
    reason: Option<String>,
}

pub(super) async fn put(
    State(state): State<AdminState>,
    Extension(caller): Extension<Caller>,
    Path(name): Path<String>,
    body: Bytes,
) -> Result<Json<OverrideEntry>, Problem> {
    let plan = state.published.load().plan.clone();
    // What is there is said before what is wrong with the request.
    let service = service(&plan, &name).map_err(|misfit| refused(&misfit))?;
    let asked: WeightsRequest = parse(&body)?;
    let weights = asked.weights.iter();
    let weights = Weights::new(weights.map(|(name, weight)| (name.as_str(), *weight)));
    let weights = weights.map_err(bad)?;
    weights
        .fit(&plan, service)
        .map_err(|misfit| refused(&misfit))?;
    let subject = Subject::Service(service.name.clone());
    let (lease, reason) = (asked.lease.as_deref(), asked.reason.as_deref());
    let decision = OverrideDecision::Weights(weights);
    set(&state, &caller, subject, decision, lease, reason).await
}

pub(super) async fn delete(
    State(state): State<AdminState>,
    Extension(caller): Extension<Caller>,
    Path(name): Path<String>,
    body: Bytes,
) -> Result<Json<Value>, Problem> {
    // An override may outlive its service, so the name alone decides.
    if let Ok(parsed) = Name::parse(&name)
        && end(&state, &caller, &Subject::Service(parsed), &body).await?
    {
        return Ok(Json(json!({ "service": name })));
    }
    let plan = state.published.load().plan.clone();
    Err(match service(&plan, &name) {
        Ok(_) => Problem::not_found(&format!("override of the weights of service {name}")),
        Err(misfit) => refused(&misfit),
    })
}

fn refused(misfit: &Misfit) -> Problem {
    match misfit {
        Misfit::NoService { .. } => {
            Problem::new(StatusCode::NOT_FOUND, "Not found", misfit.to_string())
        }
        Misfit::NoSplit { .. } | Misfit::Nameless { .. } | Misfit::Twice { .. } => {
            Problem::new(StatusCode::CONFLICT, "No such split", misfit.to_string())
        }
        Misfit::Stranger { .. } | Misfit::Missing { .. } => bad(misfit.to_string()),
    }
}
