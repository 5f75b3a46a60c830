//! Overrides: what operators decide beside the configuration. What all kinds have in common.

use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use portolan_config::scalar::FromScalar as _;
use portolan_config::units::TimeSpan;

use super::given::parse;
use super::guard::Caller;
use super::reply::Problem;
use crate::admin::reply::bad;
use crate::admin::state::AdminState;
use crate::api::status::OverrideEntry;
use crate::background::overrides::NotChanged;
use crate::overrides::audit::AuditEntry;
use crate::overrides::{
    LONGEST_LEASE, LONGEST_REASON, Lease, Override, OverrideChange, OverrideDecision,
    OverrideEvent, Reason, Subject, USUAL_LEASE,
};
use crate::snapshot::Snapshot;

/// How soon a process that takes over answers, in seconds.
const SOON: u32 = 1;

/// What the API's description says of a reason: one line with something in it.
pub(super) const REASON: &str =
    r"^[^\x00-\x1f\x7f-\x9f]*[^\s\x00-\x1f\x7f-\x9f][^\x00-\x1f\x7f-\x9f]*$";

/// What it says of a lease: a number of seconds, minutes, hours or days.
pub(super) const LEASE: &str =
    "^([1-9][0-9]{0,4}s|[1-9][0-9]{0,3}m|[1-9][0-9]?h|([1-9]|[12][0-9]|30)d)$";

/// What `DELETE` may say.
#[derive(Debug, Default, serde::Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct EndRequest {
    /// Why, for the log.
    #[schemars(length(max = LONGEST_REASON), regex(pattern = REASON))]
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

/// Overrides something from now on.
pub(super) async fn set(
    state: &AdminState,
    caller: &Caller,
    subject: Subject,
    decision: OverrideDecision,
    asked_lease: Option<&str>,
    reason: Option<&str>,
) -> Result<Json<OverrideEntry>, Problem> {
    let reason = Reason::new(reason.unwrap_or_default()).map_err(bad)?;
    let lasts = lease(asked_lease)?;
    let made = |now| {
        let since = whole(now);
        Override {
            decision,
            lease: Lease {
                by: caller.0.clone(),
                reason,
                since,
                until: since + lasts,
            },
        }
    };
    let mut new = None;
    let event = |now| OverrideEvent::Set(subject.clone(), new.insert(made(now)).clone());
    let changed = state.overrides.change_at(event).await;
    changed.map_err(not_changed)?;
    // Whatever was changed was made.
    let new = new.ok_or_else(|| bad("nothing was changed".to_owned()))?;
    let snapshot = state.published.load();
    let now = state.overrides.now();
    Ok(Json(OverrideEntry::new(&subject, &new, &snapshot, now)))
}

/// Ends an override before its time. Whether there was one.
pub(super) async fn end(
    state: &AdminState,
    caller: &Caller,
    subject: &Subject,
    body: &[u8],
) -> Result<bool, Problem> {
    let asked: EndRequest = if body.is_empty() {
        EndRequest::default()
    } else {
        parse(body)?
    };
    let reason = asked.reason.as_deref().map(Reason::new).transpose();
    let event = OverrideEvent::Ended {
        subject: subject.clone(),
        by: caller.0.clone(),
        reason: reason.map_err(bad)?,
    };
    let changes = state.overrides.change(event).await.map_err(not_changed)?;
    Ok(changes.iter().any(
        |change| matches!(change, OverrideChange::Ended { subject: ended, .. } if ended == subject),
    ))
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

fn not_changed(error: NotChanged) -> Problem {
    let said = error.to_string();
    match error {
        NotChanged::NotKept { .. } => Problem::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "Nothing was changed",
            said,
        ),
        NotChanged::Stopped(_) => Problem::new(StatusCode::SERVICE_UNAVAILABLE, "Stopping", said),
        NotChanged::HandedOver => {
            Problem::new(StatusCode::SERVICE_UNAVAILABLE, "Handing over", said).again_after(SOON)
        }
    }
}
