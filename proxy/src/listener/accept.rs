//! Lets clients in: accepts, shakes hands, finds out what they speak, and hands their requests to
//! the engine.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use pingora::apps::ServerApp as _;
use pingora::apps::{HttpServerApp, HttpServerOptions, ReusedHttpStream};
use pingora::protocols::http::ServerSession;
use pingora::protocols::http::v2::server::{H2Options, default_h2_options};
use pingora::proxy::HttpProxy;
use pingora::server::ShutdownWatch;
use portolan_config::plan::LimitsPlan;
use portolan_control::engine::Published;
use portolan_control::stats::Gauge;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio_rustls::TlsAcceptor;
use tokio_util::task::TaskTracker;

use super::Listener;
use super::proxied;
use crate::connection::{self, Connection, NoRequest, Speaks, Transport};
use crate::context::{ConnectionContext, TlsContext};
use crate::edge::Edge;
use crate::record::Recorder;
use crate::refusal::Refusal;
use crate::reply::Reply;

/// How long an idle connection may still begin a request after it was asked to leave: the client
/// may be sending one just now.
const LEAVE_GRACE: Duration = Duration::from_millis(500);

/// How long an HTTP/2 connection without requests stays after it was told to go away. A client that
/// is there ends it at once; what is left may be the end of an answer on its way to a slow one.
const GONE_AWAY: Duration = Duration::from_secs(60);

/// How long to wait when no file descriptors are left.
const EXHAUSTED_PAUSE: Duration = Duration::from_millis(50);

/// What clients may send on an HTTP/2 connection and stream before we have taken it.
const H2_CONNECTION_WINDOW: u32 = 4 << 20;
const H2_STREAM_WINDOW: u32 = 1 << 20;
const H2_STREAMS: u32 = 128;

/// What is kept of an answer on a stream until the client takes it.
const H2_SEND_BUFFER: usize = 128 << 10;

/// What every connection needs.
#[derive(Clone)]
pub(crate) struct Service {
    /// The engine: one for all listeners, so that connections to endpoints are shared.
    pub(crate) proxy: Arc<HttpProxy<Edge>>,
    pub(crate) recorder: Recorder,
    /// The configuration that runs, among other things.
    pub(crate) published: Published,
    /// Every connection, so that the process can wait for them.
    pub(crate) tasks: TaskTracker,
}

impl std::fmt::Debug for Service {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Service")
    }
}

/// Accepts clients until the listener's clients are to leave.
pub(crate) async fn accept(listener: Arc<Listener>, socket: TcpListener, service: Service) {
    let mut leaving = listener.leaving();
    loop {
        let accepted = tokio::select! {
            biased;
            _ = leaving.wait_for(|leaving| *leaving) => break,
            accepted = accept_one(&listener, &socket) => accepted,
        };
        match accepted {
            Ok((stream, permit)) => let_in(&listener, stream, Some(permit), &service),
            Err(error) => {
                // The client was gone before it was accepted, or we are out of descriptors.
                tracing::debug!("cannot accept on {}: {error}", listener.bound);
                if error.kind() != io::ErrorKind::ConnectionAborted {
                    tokio::time::sleep(EXHAUSTED_PAUSE).await;
                }
            }
        }
    }
    if listener.is_handed_over() {
        // Whoever waits is accepted by the other process: the queue belongs to both.
        return;
    }
    // Those who are connected already and wait to be accepted are not turned away.
    while let Some(Ok((stream, _))) = now_or_never(socket.accept()).await {
        let_in(&listener, stream, None, &service);
    }
}

async fn accept_one(
    listener: &Listener,
    socket: &TcpListener,
) -> io::Result<(TcpStream, OwnedSemaphorePermit)> {
    // Without room nobody is accepted: clients wait in the system's queue.
    let room = listener.room.clone().acquire_owned().await;
    let permit = room.map_err(io::Error::other)?;
    let (stream, _) = socket.accept().await?;
    Ok((stream, permit))
}

/// What a future gives if it gives it at once.
async fn now_or_never<T>(future: impl Future<Output = T>) -> Option<T> {
    tokio::select! {
        biased;
        value = future => Some(value),
        () = std::future::ready(()) => None,
    }
}

fn let_in(
    listener: &Arc<Listener>,
    stream: TcpStream,
    permit: Option<OwnedSemaphorePermit>,
    service: &Service,
) {
    let open = Open::new(&listener.connections, permit);
    let listener = listener.clone();
    let own = service.clone();
    service.tasks.spawn(async move {
        serve(listener, stream, &own).await;
        drop(open);
    });
}

/// An open connection: counted, and in somebody's room, until it is dropped.
struct Open {
    connections: Arc<Gauge>,
    _permit: Option<OwnedSemaphorePermit>,
}

impl Open {
    fn new(connections: &Arc<Gauge>, permit: Option<OwnedSemaphorePermit>) -> Self {
        connections.up();
        Self {
            connections: connections.clone(),
            _permit: permit,
        }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.connections.down();
    }
}

/// A connection from its beginning to its end.
async fn serve(listener: Arc<Listener>, mut stream: TcpStream, service: &Service) {
    let (Ok(mut peer), Ok(mut local)) = (stream.peer_addr(), stream.local_addr()) else {
        return;
    };
    let _ = stream.set_nodelay(true);
    let settings = listener.settings.load_full();
    let limits = settings.plan.limits;
    let from = peer;
    let refused = |reason| {
        service.recorder.totals.refused_connections.one(reason);
        tracing::debug!(%from, "connection refused: {reason}");
    };
    if settings.plan.proxy_protocol {
        let snapshot = service.published.load_full();
        let trusted = &snapshot.plan.client_ip;
        match proxied::header(&mut stream, trusted, limits.header_timeout).await {
            Ok(None) => {}
            Ok(Some(addresses)) => (peer, local) = (addresses.source, addresses.destination),
            Err(why) => return refused(why.reason()),
        }
    }
    let Some(_place) = listener
        .clients
        .enter(peer.ip(), limits.connections_per_client)
    else {
        return refused("connections_per_client");
    };
    let (transport, tls) = match &settings.tls {
        None => (Transport::Plain(stream), None),
        Some(server) => {
            let acceptor = TlsAcceptor::from(server.config.clone());
            let shaking = tokio::time::timeout(limits.header_timeout, acceptor.accept(stream));
            let stream = match shaking.await {
                Ok(Ok(stream)) => stream,
                Ok(Err(error)) => {
                    tracing::debug!("TLS handshake with {peer} failed: {error}");
                    return;
                }
                Err(_) => {
                    tracing::debug!("TLS handshake with {peer} took too long");
                    return;
                }
            };
            let session = stream.get_ref().1;
            let tls = TlsContext {
                version: match session.protocol_version() {
                    Some(tokio_rustls::rustls::ProtocolVersion::TLSv1_2) => "TLSv1.2",
                    _ => "TLSv1.3",
                },
                certificate: server.store.choose(session.server_name()),
                store: server.store.clone(),
            };
            (Transport::Tls(Box::new(stream)), Some(tls))
        }
    };
    let context = Arc::new(ConnectionContext {
        peer,
        local,
        listener: listener.clone(),
        tls,
        totals: service.recorder.totals.clone(),
        last: AtomicBool::new(false),
        upgraded: Arc::default(),
    });
    let mut connection = Connection::new(transport, context);
    let leaving = listener.leaving();
    match tokio::time::timeout(limits.header_timeout, find_out(&mut connection, leaving)).await {
        Ok(Ok(Speaks::Http1)) => http1(Box::new(connection), &listener, service).await,
        Ok(Ok(Speaks::Http2)) => http2(Box::new(connection), &listener, service, &limits).await,
        // Nothing came: nobody is owed an answer.
        Ok(Err(_)) | Err(_) => {}
    }
}

/// One request after the other.
async fn http1(mut connection: Box<Connection>, listener: &Arc<Listener>, service: &Service) {
    let leaving = listener.leaving();
    let mut first = true;
    let mut settings = None;
    let mut requests = 0;
    loop {
        let limits = listener.limits();
        match next_request(&mut connection, &limits, first, leaving.clone()).await {
            Ok(()) => {}
            Err(NoRequest::Closed | NoRequest::Idle) => {
                pingora::protocols::Shutdown::shutdown(&mut *connection).await;
                return;
            }
            Err(NoRequest::Refused(refusal)) => {
                refuse(connection, refusal, service).await;
                return;
            }
        }
        first = false;
        requests += 1;
        if limits
            .requests_per_connection
            .is_some_and(|most| requests >= most)
        {
            connection.context().last.store(true, Ordering::Relaxed);
        }
        let mut session = ServerSession::new_http1(connection);
        if let Some(settings) = settings.take() {
            apply(settings, &mut session);
        }
        let reused = service.proxy.process_new_http(session, &leaving).await;
        let Some((stream, persistent)) = reused.map(ReusedHttpStream::consume) else {
            return;
        };
        settings = persistent;
        match connection::from_stream(stream) {
            Some(ours) => connection = ours,
            None => return,
        }
    }
}

fn apply(settings: pingora::apps::HttpPersistentSettings, session: &mut ServerSession) {
    settings.apply_to_session(session);
}

/// Finds out what a client speaks, unless it says nothing and it is time to leave.
async fn find_out(
    connection: &mut Connection,
    mut leaving: ShutdownWatch,
) -> Result<Speaks, NoRequest> {
    let silent = async {
        let _ = leaving.wait_for(|leaving| *leaving).await;
        tokio::time::sleep(LEAVE_GRACE).await;
    };
    tokio::select! {
        biased;
        found = connection.find_out() => return found,
        () = silent => {}
    }
    if connection.has_begun() {
        connection.find_out().await
    } else {
        Err(NoRequest::Idle)
    }
}

/// Waits for the next request, or until it is time to leave.
async fn next_request(
    connection: &mut Connection,
    limits: &LimitsPlan,
    first: bool,
    mut leaving: ShutdownWatch,
) -> Result<(), NoRequest> {
    let silent = async {
        let _ = leaving.wait_for(|leaving| *leaving).await;
        tokio::time::sleep(LEAVE_GRACE).await;
    };
    tokio::select! {
        biased;
        outcome = connection.next_request(limits, first) => return outcome,
        () = silent => {}
    }
    if connection.has_begun() {
        // It is sending one: then it may finish it.
        connection.next_request(limits, true).await
    } else {
        Err(NoRequest::Idle)
    }
}

/// Answers what the engine must not see, and closes.
async fn refuse(mut connection: Box<Connection>, refusal: Refusal, service: &Service) {
    use tokio::io::AsyncWriteExt as _;
    service.recorder.refused_early(refusal);
    let id = format!("{:016x}{:016x}", fastrand::u64(..), fastrand::u64(..));
    tracing::debug!(
        id,
        peer = %connection.context().peer,
        "request refused: {}",
        refusal.reason()
    );
    let bytes = Reply::refusal(refusal, &id, None, None).to_http1();
    let answering = async {
        let _ = connection.write_all(&bytes).await;
        let _ = connection.flush().await;
        connection.linger().await;
    };
    let _ = tokio::time::timeout(Duration::from_secs(2), answering).await;
}

/// Requests side by side.
async fn http2(
    connection: Box<Connection>,
    listener: &Arc<Listener>,
    service: &Service,
    limits: &LimitsPlan,
) {
    let mut options = default_h2_options();
    // Twice of what is taken: so it is our guard that refuses, and counts, what is only a little more.
    let list = limits.header_bytes.saturating_mul(2);
    options.max_header_list_size(u32::try_from(list).unwrap_or(u32::MAX));
    options.max_concurrent_streams(H2_STREAMS);
    options.initial_connection_window_size(H2_CONNECTION_WINDOW);
    options.initial_window_size(H2_STREAM_WINDOW);
    options.max_send_buffer_size(H2_SEND_BUFFER);
    let mut server_options = HttpServerOptions::default();
    server_options.h2_idle_timeout = Some(limits.idle_timeout);
    let app = Arc::new(Http2 {
        proxy: service.proxy.clone(),
        options,
        server_options,
        requests: Gauge::default(),
        begun: AtomicU64::new(0),
        most: limits.requests_per_connection.unwrap_or(u64::MAX),
        leave: watch::Sender::new(false),
    });
    let leave = app.leave.subscribe();
    let mut leaving = listener.leaving();
    tokio::select! {
        _ = app.process_new(connection, &leave) => {}
        () = app.gone_away() => {}
        // Told to leave by the listener, or by its own count: one word for both.
        () = async {
            if leaving.wait_for(|leaving| *leaving).await.is_ok() {
                app.leave.send_replace(true);
            }
            std::future::pending::<()>().await;
        } => {}
    }
}

/// The engine's application for one HTTP/2 connection: the same proxy, with the listener's limits.
struct Http2 {
    proxy: Arc<HttpProxy<Edge>>,
    options: H2Options,
    server_options: HttpServerOptions,
    /// Requests under way.
    requests: Gauge,
    /// Requests so far, and at most.
    begun: AtomicU64,
    most: u64,
    /// Says that the client is to leave.
    leave: watch::Sender<bool>,
}

impl Http2 {
    /// Waits until the client was told to go away and has not asked for anything for a while: it
    /// is gone without a word, and would keep the process from ending.
    async fn gone_away(&self) {
        let mut leaving = self.leave.subscribe();
        if leaving.wait_for(|leaving| *leaving).await.is_err() {
            return;
        }
        let mut idle = Duration::ZERO;
        while idle < GONE_AWAY {
            tokio::time::sleep(LEAVE_GRACE).await;
            idle = match self.requests.get() {
                0 => idle + LEAVE_GRACE,
                _ => Duration::ZERO,
            };
        }
    }
}

/// A request, counted until it is dropped.
struct Counted<'a>(&'a Gauge);

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.down();
    }
}

#[async_trait::async_trait]
impl HttpServerApp for Http2 {
    async fn process_new_http(
        self: &Arc<Self>,
        session: ServerSession,
        shutdown: &ShutdownWatch,
    ) -> Option<ReusedHttpStream> {
        self.requests.up();
        if self.begun.fetch_add(1, Ordering::Relaxed) + 1 >= self.most {
            self.leave.send_replace(true);
        }
        let _counted = Counted(&self.requests);
        self.proxy.process_new_http(session, shutdown).await
    }

    fn h2_options(&self) -> Option<H2Options> {
        Some(self.options.clone())
    }

    fn server_options(&self) -> Option<&HttpServerOptions> {
        Some(&self.server_options)
    }
}
