//! Endpoints that behave: HTTP servers on loopback that say who they are and what they got, and can
//! be killed, revived, slowed and made to fail.

use std::collections::{BTreeMap, VecDeque};
use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicU64, Ordering};
use std::time::Duration;

use futures_util::stream;
use http::{HeaderMap, Response, Version};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::{Bytes, Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use serde_json::json;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::{Mutex, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio_rustls::TlsAcceptor;

/// What answers.
pub(crate) struct Origin {
    pub(crate) address: SocketAddr,
    state: Arc<State>,
    tls: Option<TlsAcceptor>,
    life: Mutex<Life>,
}

/// One of the two.
struct Life {
    serving: Option<JoinHandle<()>>,
    /// While it is dead: nobody listens here, and nobody else gets the address.
    kept: Option<TcpSocket>,
}

struct State {
    name: String,
    /// Requests other than probes.
    hits: AtomicU64,
    probes: AtomicU64,
    connections: AtomicU64,
    /// Whoever holds it has a connection open.
    open: Arc<()>,
    /// What `/health` answers.
    health: AtomicU16,
    /// What it answers before that, in turn.
    script: std::sync::Mutex<VecDeque<u16>>,
    /// Whether probes have to wait for their answer.
    held: watch::Sender<bool>,
    /// What everything else answers.
    status: AtomicU16,
    latency_ms: AtomicU64,
    /// It takes requests and says nothing.
    frozen: watch::Sender<bool>,
    /// The same, but its probes are answered.
    stuck: watch::Sender<bool>,
}

impl Origin {
    pub(crate) async fn start(name: &str) -> Self {
        Self::start_at(name, "127.0.0.1:0".parse().unwrap(), None).await
    }

    pub(crate) async fn start_tls(name: &str, config: rustls::ServerConfig) -> Self {
        let acceptor = TlsAcceptor::from(Arc::new(config));
        Self::start_at(name, "127.0.0.1:0".parse().unwrap(), Some(acceptor)).await
    }

    pub(crate) async fn start_at(
        name: &str,
        address: SocketAddr,
        tls: Option<TlsAcceptor>,
    ) -> Self {
        Self::start_on(name, listen(address).unwrap(), tls)
    }

    fn start_on(name: &str, listener: TcpListener, tls: Option<TlsAcceptor>) -> Self {
        let state = Arc::new(State {
            name: name.to_owned(),
            hits: AtomicU64::new(0),
            probes: AtomicU64::new(0),
            connections: AtomicU64::new(0),
            open: Arc::default(),
            health: AtomicU16::new(200),
            script: std::sync::Mutex::default(),
            held: watch::Sender::new(false),
            status: AtomicU16::new(200),
            latency_ms: AtomicU64::new(0),
            frozen: watch::Sender::new(false),
            stuck: watch::Sender::new(false),
        });
        Self {
            address: listener.local_addr().unwrap(),
            life: Mutex::new(Life {
                serving: Some(tokio::spawn(serve(listener, state.clone(), tls.clone()))),
                kept: None,
            }),
            state,
            tls,
        }
    }

    /// Several, called name-1, name-2, …
    pub(crate) async fn start_several(name: &str, count: usize) -> Vec<Self> {
        let mut origins = Vec::new();
        for number in 1..=count {
            origins.push(Self::start(&format!("{name}-{number}")).await);
        }
        origins
    }

    /// One for each of these addresses, called by them, all on the same port: what a name leads to.
    pub(crate) async fn start_at_each(addresses: &[IpAddr]) -> Vec<Self> {
        super::eventually("a port that is free at every address", async || {
            let first = listen((addresses[0], 0).into()).ok()?;
            let port = first.local_addr().ok()?.port();
            let mut listeners = vec![first];
            for address in &addresses[1..] {
                listeners.push(listen((*address, port).into()).ok()?);
            }
            let named = addresses.iter().zip(listeners);
            let origins = named
                .map(|(address, listener)| Self::start_on(&address.to_string(), listener, None));
            Some(origins.collect())
        })
        .await
    }

    /// Dies: connections break, and new ones are refused.
    pub(crate) async fn kill(&self) {
        let mut life = self.life.lock().await;
        if let Some(serving) = life.serving.take() {
            serving.abort();
            let _ = serving.await;
            // What it told to end may not have ended yet.
            super::eventually("its connections are closed", async || {
                (Arc::strong_count(&self.state.open) == 1).then_some(())
            })
            .await;
            // Somebody's connection may have the port for a moment.
            let socket = super::eventually("its address is free", async || {
                let socket = match self.address {
                    SocketAddr::V4(_) => TcpSocket::new_v4(),
                    SocketAddr::V6(_) => TcpSocket::new_v6(),
                }
                .unwrap();
                socket.set_reuseaddr(true).unwrap();
                socket.bind(self.address).is_ok().then_some(socket)
            })
            .await;
            life.kept = Some(socket);
        }
    }

    /// Comes back at the same address.
    pub(crate) async fn revive(&self) {
        let mut life = self.life.lock().await;
        if let Some(socket) = life.kept.take() {
            let listener = socket.listen(QUEUE).unwrap();
            let task = serve(listener, self.state.clone(), self.tls.clone());
            life.serving = Some(tokio::spawn(task));
        }
    }

    /// What probes are told from now on.
    pub(crate) fn set_health(&self, status: u16) {
        self.state.health.store(status, Ordering::Relaxed);
    }

    /// What the next probes are told, one after the other, before the rest is told what
    /// `set_health` says.
    pub(crate) fn script_health(&self, statuses: impl IntoIterator<Item = u16>) {
        self.state.script.lock().unwrap().extend(statuses);
    }

    /// Lets probes wait for their answer until it is told otherwise.
    pub(crate) fn hold_probes(&self, hold: bool) {
        self.state.held.send_replace(hold);
    }

    /// What everybody else is told from now on.
    pub(crate) fn set_status(&self, status: u16) {
        self.state.status.store(status, Ordering::Relaxed);
    }

    /// Like a process that is stopped: it takes requests and probes, and answers them when it goes on.
    pub(crate) fn freeze(&self, frozen: bool) {
        self.state.frozen.send_replace(frozen);
    }

    /// Like a process whose workers are all stuck: it takes requests, and answers them when they go on;
    /// probes are answered as ever.
    pub(crate) fn stick(&self, stuck: bool) {
        self.state.stuck.send_replace(stuck);
    }

    pub(crate) fn set_latency(&self, milliseconds: u64) {
        self.state.latency_ms.store(milliseconds, Ordering::Relaxed);
    }

    /// Requests so far, other than probes.
    pub(crate) fn hits(&self) -> u64 {
        self.state.hits.load(Ordering::Relaxed)
    }

    pub(crate) fn probes(&self) -> u64 {
        self.state.probes.load(Ordering::Relaxed)
    }

    pub(crate) fn connections(&self) -> u64 {
        self.state.connections.load(Ordering::Relaxed)
    }
}

/// Connections that may wait to be accepted. The usual 128 overflow when hundreds of requests come at
/// once, and whoever is dropped from the queue only tries again after a second.
const QUEUE: u32 = 4096;

fn listen(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4(),
        SocketAddr::V6(_) => TcpSocket::new_v6(),
    }?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(QUEUE)
}

async fn serve(listener: TcpListener, state: Arc<State>, tls: Option<TlsAcceptor>) {
    let mut clients = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let (stream, _) = accepted.unwrap();
                let _ = stream.set_nodelay(true);
                state.connections.fetch_add(1, Ordering::Relaxed);
                let (state, tls, open) = (state.clone(), tls.clone(), state.open.clone());
                clients.spawn(async move {
                    let _open = open;
                    match tls {
                        None => converse(stream, state).await,
                        // Whoever breaks the handshake off has the test's reasons.
                        Some(tls) => if let Ok(stream) = tls.accept(stream).await {
                            converse(stream, state).await;
                        },
                    }
                });
            }
            Some(_) = clients.join_next() => {}
        }
    }
}

async fn converse(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, state: Arc<State>) {
    let service = service_fn(move |request| {
        let state = state.clone();
        async move { Ok::<_, Infallible>(state.answer(request).await) }
    });
    let _ = auto::Builder::new(TokioExecutor::new())
        .serve_connection_with_upgrades(TokioIo::new(stream), service)
        .await;
}

type Body = BoxBody<Bytes, Infallible>;

fn body(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).boxed()
}

impl State {
    async fn answer(&self, request: http::Request<Incoming>) -> Response<Body> {
        let mut frozen = self.frozen.subscribe();
        // The sender lives as long as this.
        let _ = frozen.wait_for(|frozen| !frozen).await;
        let latency = self.latency_ms.load(Ordering::Relaxed);
        if latency > 0 {
            tokio::time::sleep(Duration::from_millis(latency)).await;
        }
        let path = request.uri().path().to_owned();
        if path == "/health" {
            self.probes.fetch_add(1, Ordering::Relaxed);
            let mut held = self.held.subscribe();
            // The sender lives as long as this.
            let _ = held.wait_for(|held| !held).await;
            return self.health(&request);
        }
        self.hits.fetch_add(1, Ordering::Relaxed);
        let mut stuck = self.stuck.subscribe();
        // The sender lives as long as this.
        let _ = stuck.wait_for(|stuck| !stuck).await;
        // Who answers without reading the body ends the connection, sooner or later.
        let (parts, incoming) = request.into_parts();
        let length = drain(incoming).await;
        let request = http::Request::from_parts(parts, ());
        let status = self.status.load(Ordering::Relaxed);
        let builder = Response::builder()
            .status(status)
            .header("x-origin", &self.name);
        let wanted = |name: &str| {
            let query = request.uri().query()?;
            let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
            pairs
                .into_iter()
                .find(|(key, _)| *key == name)
                .map(|(_, value)| value.to_owned())
        };
        match path.as_str() {
            "/echo" => {
                let mut seen = seen(&self.name, &request);
                seen["body_bytes"] = json!(length);
                builder
                    .header("content-type", "application/json")
                    .body(body(seen.to_string()))
            }
            "/status" => {
                let status: u16 = wanted("code").unwrap().parse().unwrap();
                builder.status(status).body(body(""))
            }
            "/sleep" => {
                let milliseconds = wanted("ms").unwrap().parse().unwrap();
                tokio::time::sleep(Duration::from_millis(milliseconds)).await;
                builder.body(body(self.name.clone()))
            }
            "/bytes" => {
                let count: u64 = wanted("count").unwrap().parse().unwrap();
                builder
                    .header("content-length", count)
                    .body(StreamBody::new(pattern(count)).boxed())
            }
            "/events" => {
                let count: u64 = wanted("count").unwrap().parse().unwrap();
                let every: u64 = wanted("ms").unwrap().parse().unwrap();
                builder
                    .header("content-type", "text/event-stream")
                    .body(StreamBody::new(events(count, every)).boxed())
            }
            "/hop" => builder
                .header("connection", "x-internal")
                .header("x-internal", "for the next hop alone")
                .header("keep-alive", "timeout=5")
                .header("server", "origin/1.0")
                .body(body("")),
            _ => builder.body(body(self.name.clone())),
        }
        .unwrap()
    }

    fn health<B>(&self, request: &http::Request<B>) -> Response<Body> {
        let scripted = self.script.lock().unwrap().pop_front();
        let status = scripted.unwrap_or_else(|| self.health.load(Ordering::Relaxed));
        let healthy = (200..300).contains(&status);
        Response::builder()
            .status(status)
            .header("content-type", "application/json")
            .header("x-origin", &self.name)
            .header("x-checked-host", host(request))
            .body(body(
                json!({
                    "status": if healthy { "healthy" } else { "ailing" },
                    "checks": [ { "name": "db", "ok": healthy } ],
                })
                .to_string(),
            ))
            .unwrap()
    }
}

fn host<B>(request: &http::Request<B>) -> String {
    let header = request
        .headers()
        .get("host")
        .and_then(|host| host.to_str().ok());
    let authority = request
        .uri()
        .authority()
        .map(|authority| authority.as_str());
    header.or(authority).unwrap_or_default().to_owned()
}

/// A request, as the endpoint saw it.
fn seen<B>(name: &str, request: &http::Request<B>) -> serde_json::Value {
    json!({
        "origin": name,
        "method": request.method().as_str(),
        "target": request.uri().path_and_query().map(|path| path.as_str()),
        "version": match request.version() {
            Version::HTTP_2 => "2",
            Version::HTTP_11 => "1.1",
            _ => "other",
        },
        "host": host(request),
        "headers": headers(request.headers()),
    })
}

/// Headers by name; several of a name are joined as RFC 9110 allows.
fn headers(headers: &HeaderMap) -> BTreeMap<String, String> {
    let mut all: BTreeMap<String, String> = BTreeMap::new();
    for (name, value) in headers {
        let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
        all.entry(name.as_str().to_owned())
            .and_modify(|before| {
                before.push_str(", ");
                before.push_str(&value);
            })
            .or_insert(value);
    }
    all
}

async fn drain(mut incoming: Incoming) -> u64 {
    let mut length = 0;
    while let Some(Ok(frame)) = incoming.frame().await {
        length += frame.data_ref().map_or(0, |data| data.len() as u64);
    }
    length
}

const PIECE: usize = 64 << 10;

/// So many bytes, each determined by its place.
fn pattern(count: u64) -> impl futures_util::Stream<Item = Result<Frame<Bytes>, Infallible>> {
    stream::unfold(0, move |at: u64| async move {
        if at == count {
            return None;
        }
        let length = (count - at).min(PIECE as u64) as usize;
        let start = (at % 251) as usize;
        let bytes = pattern_bytes().slice(start..start + length);
        Some((Ok(Frame::data(bytes)), at + length as u64))
    })
}

/// Enough of the pattern for a piece from any place.
fn pattern_bytes() -> Bytes {
    use std::sync::OnceLock;
    static BYTES: OnceLock<Bytes> = OnceLock::new();
    BYTES
        .get_or_init(|| (0..PIECE + 251).map(|at| (at % 251) as u8).collect())
        .clone()
}

/// Whether these are the bytes of the pattern from a place.
pub(crate) fn is_pattern(at: u64, bytes: &[u8]) -> bool {
    let start = (at % 251) as usize;
    let whole = pattern_bytes();
    let mut rest = bytes;
    let mut from = start;
    while !rest.is_empty() {
        let take = rest.len().min(PIECE);
        if rest[..take] != whole[from..from + take] {
            return false;
        }
        from = (from + take) % 251;
        rest = &rest[take..];
    }
    true
}

fn events(
    count: u64,
    every_ms: u64,
) -> impl futures_util::Stream<Item = Result<Frame<Bytes>, Infallible>> {
    stream::unfold(0, move |number| async move {
        if number == count {
            return None;
        }
        if number > 0 {
            tokio::time::sleep(Duration::from_millis(every_ms)).await;
        }
        let event = Bytes::from(format!("data: {number}\n\n"));
        Some((Ok(Frame::data(event)), number + 1))
    })
}
