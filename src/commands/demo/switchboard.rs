//! Where pretend clouds are killed, slowed and mended, over HTTP.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Context as _;
use axum::extract::{Path, Query, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use http::StatusCode;
use serde::Deserialize;
use tokio::net::TcpListener;

use super::cloud::{Cloud, Endpoint};

type Clouds = Arc<Vec<Cloud>>;

/// How slow `slow` is when nobody says.
const SLOW_MS: u64 = 300;

/// The slowest, so that a typing error does not need a restart.
const SLOWEST_MS: u64 = 60_000;

/// Starts it. The address it really has.
pub(super) async fn start(address: SocketAddr, clouds: Clouds) -> anyhow::Result<SocketAddr> {
    let listener = TcpListener::bind(address)
        .await
        .with_context(|| format!("cannot listen on {address} (--clouds-port)"))?;
    let bound = listener.local_addr()?;
    let app = Router::new()
        .route("/", get(all))
        .route("/{cloud}/{action}", post(whole_cloud))
        .route("/{cloud}/{endpoint}/{action}", post(one_endpoint))
        .with_state(clouds);
    tokio::spawn(async move { axum::serve(listener, app).await });
    Ok(bound)
}

/// What can be done to an endpoint.
#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Action {
    Kill,
    Revive,
    Fail,
    Slow,
}

#[derive(Deserialize)]
struct Slowness {
    ms: Option<u64>,
}

async fn all(State(clouds): State<Clouds>) -> Response {
    let mut states = BTreeMap::new();
    for cloud in clouds.iter() {
        let mut endpoints = Vec::new();
        for endpoint in cloud.endpoints() {
            endpoints.push(endpoint.state().await);
        }
        states.insert(cloud.name(), endpoints);
    }
    Json(states).into_response()
}

async fn whole_cloud(
    State(clouds): State<Clouds>,
    Path((cloud, action)): Path<(String, Action)>,
    Query(slowness): Query<Slowness>,
) -> Response {
    let Some(found) = clouds.iter().find(|candidate| candidate.name() == cloud) else {
        return unknown(&clouds);
    };
    act(&cloud, found.endpoints(), action, &slowness).await
}

async fn one_endpoint(
    State(clouds): State<Clouds>,
    Path((cloud, number, action)): Path<(String, usize, Action)>,
    Query(slowness): Query<Slowness>,
) -> Response {
    let found = clouds.iter().find(|candidate| candidate.name() == cloud);
    let index = number.checked_sub(1);
    let endpoint = found.and_then(|cloud| cloud.endpoints().get(index?..=index?));
    match endpoint {
        Some(endpoint) => act(&format!("{cloud}/{number}"), endpoint, action, &slowness).await,
        None => unknown(&clouds),
    }
}

async fn act(name: &str, endpoints: &[Endpoint], action: Action, slowness: &Slowness) -> Response {
    let latency = slowness.ms.unwrap_or(SLOW_MS).min(SLOWEST_MS);
    for endpoint in endpoints {
        match action {
            Action::Kill => endpoint.kill().await,
            Action::Fail => endpoint.fail(),
            Action::Slow => endpoint.slow(latency),
            Action::Revive => {
                if let Err(error) = endpoint.revive().await {
                    return (StatusCode::CONFLICT, format!("{error:#}\n")).into_response();
                }
            }
        }
    }
    match action {
        Action::Kill => format!("{name} is dead\n"),
        Action::Revive => format!("{name} is back\n"),
        Action::Fail => format!("{name} answers 503 to everything\n"),
        Action::Slow => format!("{name} takes {latency} ms\n"),
    }
    .into_response()
}

fn unknown(clouds: &Clouds) -> Response {
    let names: Vec<&str> = clouds.iter().map(Cloud::name).collect();
    let words = format!(
        "there are {}, each with endpoints 1 and 2\n",
        names.join(", ")
    );
    (StatusCode::NOT_FOUND, words).into_response()
}
