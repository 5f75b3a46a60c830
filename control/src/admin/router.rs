//! Which handler answers what.

use axum::extract::{Path, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post, put};
use axum::{Json, Router, middleware};
use portolan_config::diagnostic::{Code, Colours};
use serde_json::json;

use super::reply::Problem;
use super::{drains, events, given, guard, openapi, overrides, weights};
use crate::admin::explain::explain;
use crate::admin::state::AdminState;
use crate::api::status;
use crate::api::status::{
    CertificatesEntry, ConfigStatus, ListenerEntry, PoolEntry, PoolTotals, RequestTotals,
    RouteEntry, ServiceEntry, Status, TokenKeysEntry,
};
use crate::events::reload::{Reloaded, Trigger};
use crate::telemetry::metrics::Page;

/// The whole API.
pub fn router(state: AdminState) -> Router {
    let look = Router::new()
        .route("/status", get(status))
        .route("/pools", get(pools))
        .route("/pools/{pool}", get(pool))
        .route("/services", get(services))
        .route("/routes", get(routes))
        .route("/overrides", get(overrides::overrides))
        .route("/audit", get(overrides::audit))
        .route("/events", get(events::events))
        .route("/openapi.json", get(openapi::openapi))
        .route("/certificates", get(certificates))
        // It changes nothing, though its question is too long for a URL.
        .route("/explain", post(explain))
        .fallback(not_found)
        .method_not_allowed_fallback(wrong_method)
        .layer(middleware::from_fn_with_state(state.clone(), guard::look));
    let change = Router::new()
        .route("/reload", post(reload))
        .route(
            "/pools/{pool}/drain",
            put(drains::drain_pool).delete(drains::undrain_pool),
        )
        .route(
            "/pools/{pool}/endpoints/{address}/drain",
            put(drains::drain_endpoint).delete(drains::undrain_endpoint),
        )
        .route(
            "/services/{service}/weights",
            put(weights::put).delete(weights::delete),
        )
        .method_not_allowed_fallback(wrong_method)
        .layer(middleware::from_fn_with_state(state.clone(), guard::change));
    let metrics =
        Router::new()
            .route("/metrics", get(metrics))
            .layer(middleware::from_fn_with_state(
                state.clone(),
                guard::metrics,
            ));
    Router::new()
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(readyz))
        .merge(metrics)
        .nest("/api/v1", look.merge(change))
        .fallback(not_found)
        .method_not_allowed_fallback(wrong_method)
        .layer(middleware::from_fn(given::shape))
        .with_state(state)
}

async fn not_found() -> Problem {
    Problem::not_found("such resource")
}

async fn wrong_method() -> Problem {
    Problem::new(
        StatusCode::METHOD_NOT_ALLOWED,
        "Wrong method",
        "this resource does not know that method",
    )
}

async fn readyz(State(state): State<AdminState>) -> Response {
    if state.phase.is_ready() {
        "ready\n".into_response()
    } else {
        let state = format!("{}\n", state.phase.as_str());
        (StatusCode::SERVICE_UNAVAILABLE, state).into_response()
    }
}

async fn metrics(State(state): State<AdminState>) -> Response {
    let page = Page {
        snapshot: &state.published.load(),
        totals: state.reloader.totals(),
        listeners: &state.listeners.status(),
        version: state.version,
    }
    .render();
    (
        [(
            header::CONTENT_TYPE,
            "text/plain; version=0.0.4; charset=utf-8",
        )],
        page,
    )
        .into_response()
}

async fn status(State(state): State<AdminState>) -> Json<Status> {
    let snapshot = state.published.load();
    let running = state.reloader.running();
    let mut warnings = snapshot.locator.worries(state.clock.wall());
    warnings.extend(status::suspicion(&snapshot));
    let now = portolan_certs::now();
    let certificates = CertificatesEntry::new(&state.listeners.status(), &state.reloader, now);
    warnings.extend(certificates.worries(now));
    let token_keys = TokenKeysEntry::all(&snapshot);
    warnings.extend(token_keys.iter().filter_map(TokenKeysEntry::worry));
    // What was said of files when they were read first may be otherwise by now.
    let lasting = running.warnings.diagnostics.iter().filter(|diagnostic| {
        !matches!(
            diagnostic.code,
            Code::Certificate | Code::CertificateExpiry | Code::TokenKeys
        )
    });
    warnings.extend(lasting.map(|diagnostic| {
        let place = diagnostic
            .origin
            .span()
            .map(|span| running.warnings.sources.place(span));
        match place {
            Some(place) => format!("{place}: {}", diagnostic.message),
            None => diagnostic.message.clone(),
        }
    }));
    Json(Status {
        version: state.version.to_owned(),
        state: state.phase.as_str().to_owned(),
        pid: std::process::id(),
        upgrade_socket: state
            .upgrade_socket
            .get()
            .map(|path| path.display().to_string()),
        uptime_seconds: state.clock.uptime().as_secs(),
        config: ConfigStatus::new(&running, &snapshot, state.reloader.waiting().as_deref()),
        listeners: state
            .listeners
            .status()
            .iter()
            .map(ListenerEntry::from)
            .collect(),
        certificates: certificates.totals(),
        token_keys,
        geo: status::geo(&snapshot),
        self_suspicion_seconds: snapshot
            .suspicion
            .map(|since| state.clock.now().since(since).as_secs_f64()),
        warnings,
        requests: RequestTotals::new(state.reloader.totals()),
        pools: PoolTotals::new(&snapshot),
        overrides: overrides::entries(&state, &snapshot),
    })
}

async fn certificates(State(state): State<AdminState>) -> Json<CertificatesEntry> {
    Json(CertificatesEntry::new(
        &state.listeners.status(),
        &state.reloader,
        portolan_certs::now(),
    ))
}

async fn pools(State(state): State<AdminState>) -> Json<Vec<PoolEntry>> {
    let snapshot = state.published.load();
    let now = state.clock.now();
    let overrides = overrides::entries(&state, &snapshot);
    Json(
        snapshot
            .pools
            .iter()
            .map(|pool| PoolEntry::new(pool, now).with_overrides(&overrides))
            .collect(),
    )
}

async fn pool(
    State(state): State<AdminState>,
    Path(name): Path<String>,
) -> Result<Json<PoolEntry>, Problem> {
    let snapshot = state.published.load();
    let found = snapshot
        .pools
        .iter()
        .find(|pool| pool.plan.name.as_str() == name);
    match found {
        Some(pool) => {
            let overrides = overrides::entries(&state, &snapshot);
            let entry = PoolEntry::new(pool, state.clock.now());
            Ok(Json(entry.with_overrides(&overrides)))
        }
        None => Err(Problem::not_found(&format!("pool named `{name}`"))),
    }
}

async fn services(State(state): State<AdminState>) -> Json<Vec<ServiceEntry>> {
    let snapshot = state.published.load();
    let overrides = overrides::entries(&state, &snapshot);
    Json(status::services(&snapshot, &overrides))
}

async fn routes(State(state): State<AdminState>) -> Json<Vec<RouteEntry>> {
    Json(status::routes(&state.published.load()))
}

async fn reload(State(state): State<AdminState>) -> Result<Json<serde_json::Value>, Problem> {
    match state.reloader.reload(Trigger::Api).await {
        Reloaded::Applied { hash, generation } => Ok(Json(
            json!({ "outcome": "applied", "hash": hash, "generation": generation }),
        )),
        Reloaded::Unchanged => Ok(Json(json!({ "outcome": "unchanged" }))),
        Reloaded::Refused(report) => Err(Problem::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            "Configuration refused",
            report.first_error().unwrap_or_default(),
        )
        .with("report", report.to_json())
        .with("text", report.render(Colours::Off).into())),
    }
}
