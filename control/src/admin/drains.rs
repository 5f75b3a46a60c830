//! Drains: what operators take out of service for a while.

use std::net::SocketAddr;
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::{Extension, Path, State};
use axum::http::StatusCode;
use axum::response::IntoResponse;
use axum::{Json, response};
use portolan_config::leaf::Leaf as _;
use portolan_config::names::Name;
use portolan_config::units::TimeSpan;
use serde::de::DeserializeOwned;
use serde_json::json;

use super::AdminState;
use super::guard::Caller;
use super::reply::Problem;
use crate::overrides::audit::AuditEntry;
use crate::overrides::keeper::NotChanged;
use crate::overrides::{Change, Event, LONGEST_LEASE, Lease, Reason, Subject, USUAL_LEASE};
use crate::snapshot::Snapshot;
use crate::status::{OverrideEntry, exists};

/// What `PUT …/drain` says.
#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct DrainRequest {
    #[serde(rename = "for")]
    lease: Option<String>,
    reason: Option<String>,
}

/// What `DELETE …/drain` may say.
#[derive(Debug, Default, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct UndrainRequest {
    reason: Option<String>,
}

/// Everything that is overridden now.
pub(super) fn entries(state: &AdminState, snapshot: &Snapshot) -> Vec<OverrideEntry> {
    OverrideEntry::all(&state.overrides.current(), snapshot, state.overrides.now())
}

pub(super) async fn overrides(State(state): State<AdminState>) -> Json<Vec<OverrideEntry>> {
    Json(entries(&state, &state.published.load()))
}

pub(super) async fn audit(
    State(state): State<AdminState>,
) -> Result<Json<Vec<AuditEntry>>, Problem> {
    state.overrides.audit().await.map(Json).map_err(|error| {
        Problem::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "The audit log cannot be read",
            error.to_string(),
        )
    })
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
    let since = whole(state.overrides.now());
    let lease = Lease {
        by: caller.0.clone(),
        reason: Reason::new(asked.reason.as_deref().unwrap_or_default()).map_err(bad)?,
        since,
        until: since + lease(asked.lease.as_deref())?,
    };
    state
        .overrides
        .change(Event::Drained(subject.clone(), lease.clone()))
        .await
        .map_err(not_changed)?;
    let snapshot = state.published.load();
    let now = state.overrides.now();
    Ok(Json(OverrideEntry::drain(&subject, &lease, &snapshot, now)))
}

async fn undrain(
    state: &AdminState,
    caller: &Caller,
    subject: Subject,
    body: &[u8],
) -> Result<response::Response, Problem> {
    let asked: UndrainRequest = if body.is_empty() {
        UndrainRequest::default()
    } else {
        parse(body)?
    };
    let reason = asked.reason.as_deref().map(Reason::new).transpose();
    let event = Event::Undrained {
        subject: subject.clone(),
        by: caller.0.clone(),
        reason: reason.map_err(bad)?,
    };
    let changes = state.overrides.change(event).await.map_err(not_changed)?;
    let ended = changes.iter().any(
        |change| matches!(change, Change::Undrained { subject: ended, .. } if *ended == subject),
    );
    let snapshot = state.published.load();
    let by_configuration = subject.endpoint.is_none()
        && state
            .reloader
            .running()
            .plan
            .pools
            .iter()
            .any(|pool| pool.name == subject.pool && pool.drain);
    if ended {
        return Ok(Json(json!({
            "pool": subject.pool.as_str(),
            "endpoint": subject.endpoint.map(|address| address.to_string()),
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
    Ok(Subject {
        pool: Name::parse(pool).map_err(|_| unknown())?,
        endpoint,
    })
}

fn lease(text: Option<&str>) -> Result<Duration, Problem> {
    let Some(text) = text else {
        return Ok(USUAL_LEASE);
    };
    let lease = TimeSpan::parse(text)
        .map_err(|wrong| bad(format!("`for`: `{text}` {}", wrong.message)))?
        .duration();
    if lease.is_zero() || lease > LONGEST_LEASE {
        return Err(bad(format!(
            "`for`: a lease is longer than nothing and at most {} days",
            LONGEST_LEASE.as_secs() / 86_400
        )));
    }
    Ok(lease)
}

/// Whole milliseconds, as they are kept.
fn whole(time: Duration) -> Duration {
    Duration::from_millis(time.as_millis() as u64)
}

fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, Problem> {
    serde_json::from_slice(body)
        .map_err(|error| bad(format!("the body is not what it should be: {error}")))
}

fn bad(detail: String) -> Problem {
    Problem::new(StatusCode::BAD_REQUEST, "Bad request", detail)
}

fn not_changed(error: NotChanged) -> Problem {
    match error {
        NotChanged::NotKept { .. } => Problem::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "Nothing was changed",
            error.to_string(),
        ),
        NotChanged::Stopped(_) => Problem::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "Stopping",
            error.to_string(),
        ),
    }
}
