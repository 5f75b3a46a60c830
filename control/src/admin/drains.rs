//! Drains: what operators take out of service for a while.

use std::net::SocketAddr;

use axum::body::Bytes;
use axum::extract::{Extension, Path, State};
use axum::http::StatusCode;
use axum::response::IntoResponse;
use axum::{Json, response};
use portolan_config::names::Name;
use portolan_config::scalar::FromScalar as _;
use serde_json::json;

use super::given::parse;
use super::guard::Caller;
use super::overrides::{LEASE, REASON, end, set};
use super::reply::Problem;
use crate::admin::state::AdminState;
use crate::api::status::{OverrideEntry, exists};
use crate::overrides::{LONGEST_REASON, OverrideDecision, Subject};
use crate::pool::endpoint::EndpointKey;

/// What `PUT …/drain` says.
#[derive(Debug, serde::Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct DrainRequest {
    /// For how long: `30m`. One hour if nobody says, 30 days at most.
    #[serde(rename = "for")]
    #[schemars(regex(pattern = LEASE))]
    lease: Option<String>,
    /// Why; it is needed.
    #[schemars(required, with = "String", length(max = LONGEST_REASON), regex(pattern = REASON))]
    reason: Option<String>,
}

pub(super) async fn drain_pool(
    State(state): State<AdminState>,
    Extension(caller): Extension<Caller>,
    Path(pool): Path<String>,
    body: Bytes,
) -> Result<Json<OverrideEntry>, Problem> {
    drain(&state, &caller, subject(&pool, None)?, &body).await
}

pub(super) async fn drain_endpoint(
    State(state): State<AdminState>,
    Extension(caller): Extension<Caller>,
    Path((pool, address)): Path<(String, String)>,
    body: Bytes,
) -> Result<Json<OverrideEntry>, Problem> {
    drain(&state, &caller, subject(&pool, Some(&address))?, &body).await
}

pub(super) async fn undrain_pool(
    State(state): State<AdminState>,
    Extension(caller): Extension<Caller>,
    Path(pool): Path<String>,
    body: Bytes,
) -> Result<response::Response, Problem> {
    undrain(&state, &caller, subject(&pool, None)?, &body).await
}

pub(super) async fn undrain_endpoint(
    State(state): State<AdminState>,
    Extension(caller): Extension<Caller>,
    Path((pool, address)): Path<(String, String)>,
    body: Bytes,
) -> Result<response::Response, Problem> {
    undrain(&state, &caller, subject(&pool, Some(&address))?, &body).await
}

async fn drain(
    state: &AdminState,
    caller: &Caller,
    subject: Subject,
    body: &[u8],
) -> Result<Json<OverrideEntry>, Problem> {
    // What is there is said before what is wrong with the request.
    if !exists(&state.published.load(), &subject) {
        return Err(Problem::not_found(&subject.to_string()));
    }
    let asked: DrainRequest = parse(body)?;
    let (lease, reason) = (asked.lease.as_deref(), asked.reason.as_deref());
    set(
        state,
        caller,
        subject,
        OverrideDecision::Drain,
        lease,
        reason,
    )
    .await
}

async fn undrain(
    state: &AdminState,
    caller: &Caller,
    subject: Subject,
    body: &[u8],
) -> Result<response::Response, Problem> {
    let ended = end(state, caller, &subject, body).await?;
    let snapshot = state.published.load();
    let by_configuration = match &subject {
        Subject::Pool(name) => {
            let running = state.reloader.running();
            let mut pools = running.plan.pools.iter();
            pools.any(|pool| pool.name == *name && pool.drain)
        }
        _ => false,
    };
    if ended {
        return Ok(Json(json!({
            "pool": subject.pool().map(Name::as_str),
            "endpoint": subject.endpoint().map(|address| address.to_string()),
            "still_drained": by_configuration,
        }))
        .into_response());
    }
    if by_configuration {
        return Err(Problem::new(
            StatusCode::CONFLICT,
            "Drained by the configuration",
            format!("no override drains {subject}: the configuration says `drain: true`"),
        ));
    }
    Err(if exists(&snapshot, &subject) {
        Problem::not_found(&format!("drain of {subject}"))
    } else {
        Problem::not_found(&subject.to_string())
    })
}

/// What a path names. Something that cannot be a name is not there.
fn subject(pool: &str, endpoint: Option<&str>) -> Result<Subject, Problem> {
    let unknown = || match endpoint {
        None => Problem::not_found(&format!("pool {pool}")),
        Some(address) => Problem::not_found(&format!("endpoint {pool}/{address}")),
    };
    let endpoint = endpoint
        .map(str::parse::<SocketAddr>)
        .transpose()
        .map_err(|_| unknown())?;
    let pool = Name::parse(pool).map_err(|_| unknown())?;
    Ok(match endpoint {
        None => Subject::Pool(pool),
        Some(address) => Subject::Endpoint(EndpointKey { pool, address }),
    })
}
