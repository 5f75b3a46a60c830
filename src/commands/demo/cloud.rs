//! Pretend clouds: HTTP servers on loopback that answer with their own name, as slowly and as badly
//! as they are told to.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use axum::Router;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use http::StatusCode;
use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;
use tokio::sync::Mutex;
use tokio::task::{JoinHandle, JoinSet};

/// The clouds, and how many milliseconds each takes to answer at first.
const CLOUDS: [(&str, u64); 3] = [
    ("aws-virginia", 5),
    ("gcp-iowa", 10),
    ("azure-netherlands", 15),
];

const ENDPOINTS_PER_CLOUD: usize = 2;

/// A pretend cloud region, called like the pool that stands for it.
pub(super) struct Cloud {
    name: &'static str,
    endpoints: Vec<Endpoint>,
}

impl Cloud {
    /// Starts all of them.
    pub(super) async fn start_all() -> anyhow::Result<Vec<Self>> {
        let mut clouds = Vec::new();
        for (name, latency_ms) in CLOUDS {
            let mut endpoints = Vec::new();
            for number in 1..=ENDPOINTS_PER_CLOUD {
                endpoints.push(Endpoint::start(name, number, latency_ms).await?);
            }
            clouds.push(Self { name, endpoints });
        }
        Ok(clouds)
    }

    pub(super) fn name(&self) -> &'static str {
        self.name
    }

    pub(super) fn endpoints(&self) -> &[Endpoint] {
        &self.endpoints
    }

    pub(super) fn addresses(&self) -> impl Iterator<Item = SocketAddr> {
        self.endpoints.iter().map(|endpoint| endpoint.address)
    }
}

/// A pretend server.
pub(super) struct Endpoint {
    address: SocketAddr,
    behaviour: Arc<Behaviour>,
    /// Whoever accepts clients; nobody while it is dead.
    serving: Mutex<Option<JoinHandle<()>>>,
}

struct Behaviour {
    /// What it answers.
    greeting: String,
    /// How slow it is by nature.
    usual_latency_ms: u64,
    latency_ms: AtomicU64,
    failing: AtomicBool,
}

/// How an endpoint behaves now.
#[derive(serde::Serialize)]
pub(super) struct EndpointState {
    address: SocketAddr,
    alive: bool,
    failing: bool,
    latency_ms: u64,
}

impl Endpoint {
    async fn start(cloud: &str, number: usize, latency_ms: u64) -> anyhow::Result<Self> {
        let listener = bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).await?;
        let address = listener.local_addr()?;
        let behaviour = Arc::new(Behaviour {
            greeting: format!("pretend {cloud}, endpoint {number}\n"),
            usual_latency_ms: latency_ms,
            latency_ms: AtomicU64::new(latency_ms),
            failing: AtomicBool::new(false),
        });
        let serving = tokio::spawn(serve(listener, behaviour.clone()));
        Ok(Self {
            address,
            behaviour,
            serving: Mutex::new(Some(serving)),
        })
    }

    /// Dies: connections break, and new ones are refused.
    pub(super) async fn kill(&self) {
        if let Some(serving) = self.serving.lock().await.take() {
            serving.abort();
            // Once it has ended, so have its socket and its connections.
            let _ = serving.await;
        }
    }

    /// Comes back, if it was dead, and is as it was at first.
    pub(super) async fn revive(&self) -> anyhow::Result<()> {
        self.behaviour.failing.store(false, Ordering::Relaxed);
        self.slow(self.behaviour.usual_latency_ms);
        let mut serving = self.serving.lock().await;
        if serving.is_none() {
            let listener = bind(self.address).await?;
            *serving = Some(tokio::spawn(serve(listener, self.behaviour.clone())));
        }
        Ok(())
    }

    /// Answers everything with an error from now on.
    pub(super) fn fail(&self) {
        self.behaviour.failing.store(true, Ordering::Relaxed);
    }

    /// Takes this long for every answer from now on.
    pub(super) fn slow(&self, milliseconds: u64) {
        self.behaviour
            .latency_ms
            .store(milliseconds, Ordering::Relaxed);
    }

    pub(super) async fn state(&self) -> EndpointState {
        EndpointState {
            address: self.address,
            alive: self.serving.lock().await.is_some(),
            failing: self.behaviour.failing.load(Ordering::Relaxed),
            latency_ms: self.behaviour.latency_ms.load(Ordering::Relaxed),
        }
    }
}

async fn bind(address: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address)
        .await
        .with_context(|| format!("cannot listen on {address}"))
}

/// Accepts clients until aborted, which breaks their connections.
async fn serve(listener: TcpListener, behaviour: Arc<Behaviour>) {
    let app = Router::new()
        .route("/health", get(health))
        .fallback(greet)
        .with_state(behaviour);
    let mut clients = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    let service = TowerToHyperService::new(app.clone());
                    clients.spawn(
                        http1::Builder::new().serve_connection(TokioIo::new(stream), service),
                    );
                }
                // Out of file descriptors, perhaps: others may leave in the meantime.
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            },
            Some(_) = clients.join_next() => {}
        }
    }
}

async fn health(State(behaviour): State<Arc<Behaviour>>) -> Response {
    behaviour.answer("ok\n").await
}

async fn greet(State(behaviour): State<Arc<Behaviour>>) -> Response {
    behaviour.answer(&behaviour.greeting).await
}

impl Behaviour {
    async fn answer(&self, words: &str) -> Response {
        tokio::time::sleep(Duration::from_millis(
            self.latency_ms.load(Ordering::Relaxed),
        ))
        .await;
        if self.failing.load(Ordering::Relaxed) {
            let words = format!("failing on purpose: {}", self.greeting);
            return (StatusCode::SERVICE_UNAVAILABLE, words).into_response();
        }
        words.to_owned().into_response()
    }
}
