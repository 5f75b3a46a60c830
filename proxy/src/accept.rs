//! Lets clients in: accepts, shakes hands, finds out what they speak, and hands their requests on.

mod handshake;
mod http2;
mod proxy_protocol;
pub(crate) mod service;
pub(crate) mod set;

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use http::HeaderValue;
use portolan_config::document::HeaderCase;
use portolan_control::counters::Gauge;
use portolan_control::health::exhaustion::{SHORTAGES, Shortage};
use portolan_control::refusal::Refusal;
use portolan_control::supervisor::caught;
use portolan_control::telemetry::ledger::{Gone, Outcome};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio::time::Instant;

use crate::accept::handshake::{Shaken, shake_hands};
use crate::accept::service::{LEAVE_GRACE, Service};
use crate::connection::context::ConnectionContext;
use crate::connection::{Connection, NoRequest, Patience, Speaks, Transport};
use crate::descriptors;
use crate::downstream::Downstream;
use crate::edge::answer::reply::Reply;
use crate::listener::Listener;
use crate::listener::socket::Opening;

/// How long clients are let in by a socket that new ones do not come by any more: their connections are
/// being made.
const LINGER: Duration = Duration::from_millis(500);

/// How long to wait when no file descriptors are left for clients.
const EXHAUSTED_PAUSE: Duration = Duration::from_millis(50);

/// Accepts clients at one of the listener's sockets, until it is closed.
pub(crate) async fn accept(
    listener: Arc<Listener>,
    socket: std::net::TcpListener,
    mut opening: watch::Receiver<Opening>,
    service: Service,
) {
    let socket = match TcpListener::from_std(socket) {
        Ok(socket) => socket,
        Err(error) => {
            tracing::error!("cannot accept on {}: {error}", listener.place().bound);
            return;
        }
    };
    // One that nobody can close any more was closed with the process.
    let closing = opening.wait_for(|opening| *opening != Opening::Open);
    let how = keep_accepting(&listener, &socket, &service, async {
        closing.await.map_or(Opening::Closed, |opening| *opening)
    })
    .await;
    match how {
        // The queue belongs to both.
        Opening::Taken => return,
        Opening::Lingering => {
            let enough = tokio::time::sleep(LINGER);
            keep_accepting(&listener, &socket, &service, enough).await;
        }
        Opening::Open | Opening::Closed => {}
    }
    // Those who are connected already and wait to be accepted are not turned away.
    while let Some(Ok((stream, _))) = now_or_never(socket.accept()).await {
        let_in(&listener, stream, None, &service);
    }
}

/// Accepts clients until something is over, and returns what came of that. A fault of our own costs the
/// client whom it met, not everybody who comes later.
async fn keep_accepting<T>(
    listener: &Arc<Listener>,
    socket: &TcpListener,
    service: &Service,
    over: impl Future<Output = T>,
) -> T {
    let mut over = std::pin::pin!(over);
    loop {
        let accepting = accept_until(listener, socket, service, over.as_mut());
        if let Ok(how) = caught(accepting).await {
            return how;
        }
        service.recorder.totals.task_failures.one("accept");
        tokio::time::sleep(EXHAUSTED_PAUSE).await;
    }
}

/// Accepts clients until something is over, and returns what came of that.
async fn accept_until<T>(
    listener: &Arc<Listener>,
    socket: &TcpListener,
    service: &Service,
    over: impl Future<Output = T>,
) -> T {
    let mut over = std::pin::pin!(over);
    loop {
        let accepted = tokio::select! {
            biased;
            over = &mut over => return over,
            accepted = accept_one(listener, socket) => accepted,
        };
        let short = match accepted {
            Ok((stream, permit)) => {
                let room = descriptors::has_room_after(&stream);
                let_in(listener, stream, Some(permit), service);
                if room {
                    continue;
                }
                Some(Shortage::Files)
            }
            // The client was gone before it was accepted.
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => continue,
            Err(error) => {
                tracing::debug!("cannot accept on {}: {error}", listener.place().bound);
                Shortage::of(&error)
            }
        };
        tokio::select! {
            biased;
            over = &mut over => return over,
            () = until_there_is_room(short) => {}
        }
    }
}

/// Waits until clients may be let in again: as long as they may not, they wait in the system's queue, and
/// what is left is for those who are inside, for probes and for operators.
async fn until_there_is_room(short: Option<Shortage>) {
    if let Some(short) = short {
        SHORTAGES.clients_wait(short);
    }
    loop {
        tokio::time::sleep(EXHAUSTED_PAUSE).await;
        if descriptors::has_room() {
            return;
        }
        SHORTAGES.persists(Shortage::Files);
    }
}

async fn accept_one(
    listener: &Listener,
    socket: &TcpListener,
) -> io::Result<(TcpStream, OwnedSemaphorePermit)> {
    loop {
        // Without room nobody is accepted: clients wait in the system's queue.
        let room = listener.room.clone().acquire_owned().await;
        let permit = room.map_err(io::Error::other)?;
        match poll_fn(|cx| Poll::Ready(socket.poll_accept(cx))).await {
            Poll::Ready(accepted) => return accepted.map(|(stream, _)| (stream, permit)),
            // The room is for whoever comes first, by this socket or another.
            Poll::Pending => drop(permit),
        }
        // Whoever comes wakes this task.
        let mut woken = false;
        poll_fn(|_| match std::mem::replace(&mut woken, true) {
            true => Poll::Ready(()),
            false => Poll::Pending,
        })
        .await;
    }
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
    // From this thread to whichever serves it.
    let Ok(stream) = stream.into_std() else {
        return;
    };
    let listener = listener.clone();
    let own = service.clone();
    let (worker, place) = service.dispatch.place();
    let serving = async move {
        if let Ok(stream) = TcpStream::from_std(stream) {
            serve(listener, stream, &own).await;
        }
        drop((open, place));
    };
    service.tasks.spawn_on(serving, worker);
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
        match proxy_protocol::header(&mut stream, trusted, limits.header_timeout).await {
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
            let limit = limits.header_timeout;
            match shake_hands(stream, server, local.ip(), limit, &listener.handshakes).await {
                Shaken::Client(stream, tls) => (Transport::Tls(stream), Some(tls)),
                Shaken::PlainHttp(stream) => (Transport::Plain(stream), None),
                Shaken::Nothing => return,
            }
        }
    };
    let misunderstood = settings.tls.is_some() && tls.is_none();
    let context = Arc::new(ConnectionContext {
        peer,
        // Digits, dots and colons: what a header may have.
        peer_text: HeaderValue::try_from(peer.ip().to_canonical().to_string())
            .unwrap_or(HeaderValue::from_static("unknown")),
        local,
        listener: listener.clone(),
        tls,
        totals: service.recorder.totals.clone(),
        last: AtomicBool::new(false),
        recorder: service.recorder.clone(),
        carried: Arc::default(),
    });
    let mut connection = Connection::new(transport, context);
    if misunderstood {
        // It has not become a request: nobody has read it.
        refused("plain_http");
        let lower = header_case(service) == HeaderCase::Lower;
        connection
            .end_with(Reply::plain_http().to_http1(lower))
            .await;
        return;
    }
    let leaving = listener.leaving();
    match tokio::time::timeout(limits.header_timeout, find_out(&mut connection, leaving)).await {
        Ok(Ok(Speaks::Http1)) => http1(Box::new(connection), &listener, service).await,
        Ok(Ok(Speaks::Http2)) => http2::serve(Box::new(connection), service, &limits).await,
        // HTTP/2 that never got as far as a request.
        Ok(Err(_)) | Err(_) if connection.is_half_preface() => {}
        // So little that it may have become anything.
        Ok(Err(_)) => gone_in_head(&mut connection),
        Err(_) if connection.has_begun() => {
            refuse(Box::new(connection), Refusal::HeadersTooSlow, service).await;
        }
        // Nothing came: nobody is owed an answer.
        Err(_) => {}
    }
}

/// One request after the other.
async fn http1(mut connection: Box<Connection>, listener: &Arc<Listener>, service: &Service) {
    let mut leaving = Leaving::new(listener.clone());
    let context = connection.context().clone();
    let mut first = true;
    let mut requests = 0;
    loop {
        let limits = listener.limits();
        let head = match connection.next_request(&limits, first, &mut leaving).await {
            Ok(head) => head,
            Err(NoRequest::Closed | NoRequest::Idle) => {
                gone_in_head(&mut connection);
                connection.close(false).await;
                return;
            }
            Err(NoRequest::Refused(refusal)) => {
                refuse(connection, refusal, service).await;
                return;
            }
        };
        first = false;
        let Some(entry) = connection.take_entry() else {
            return;
        };
        requests += 1;
        if limits
            .requests_per_connection
            .is_some_and(|most| requests >= most)
        {
            context.last.store(true, Ordering::Relaxed);
        }
        let mut downstream = Downstream::over_http1(connection, head);
        service
            .edge
            .serve(context.clone(), &mut downstream, entry)
            .await;
        match downstream.into_connection().await {
            Some(kept) => connection = kept,
            None => return,
        }
    }
}

/// Whether the clients of a listener are to leave, as one of its idle connections sees it.
struct Leaving {
    listener: Arc<Listener>,
    told: Pin<Box<dyn Future<Output = ()> + Send>>,
    /// This task is woken when they are. Once is enough: it stays the same task.
    listens: bool,
    /// How long a request that may be on its way just now is waited for.
    until: Option<Instant>,
}

impl Leaving {
    fn new(listener: Arc<Listener>) -> Self {
        let mut leaving = listener.leaving();
        let told = async move {
            let _ = leaving.wait_for(|leaving| *leaving).await;
        };
        Self {
            listener,
            told: Box::pin(told),
            listens: false,
            until: None,
        }
    }
}

impl Patience for Leaving {
    fn ends(&mut self, cx: &mut Context<'_>) -> Option<Instant> {
        if !std::mem::replace(&mut self.listens, true) {
            // Whether that is so already stands in the listener as well.
            let _ = self.told.as_mut().poll(cx);
        }
        if !self.listener.is_leaving() {
            return None;
        }
        Some(
            *self
                .until
                .get_or_insert_with(|| Instant::now() + LEAVE_GRACE),
        )
    }
}

/// Finds out what a client speaks, unless it says nothing and it is time to leave.
async fn find_out(
    connection: &mut Connection,
    mut leaving: watch::Receiver<bool>,
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

/// How names of headers are written to those who never got as far as a request.
fn header_case(service: &Service) -> HeaderCase {
    service.published.load().plan.header_case
}

/// The client went away, perhaps in the middle of a head.
fn gone_in_head(connection: &mut Connection) {
    connection.accept();
    if let Some(entry) = connection.take_entry() {
        entry.close_early(Outcome::ClientGone(Gone::InHead), 0, "-");
    }
}

/// Answers what nobody else is to see, and closes.
async fn refuse(mut connection: Box<Connection>, refusal: Refusal, service: &Service) {
    let id = format!("{:016x}{:016x}", fastrand::u64(..), fastrand::u64(..));
    connection.accept();
    if let Some(entry) = connection.take_entry() {
        entry.close_early(Outcome::Refused(refusal), refusal.status().as_u16(), &id);
    }
    tracing::debug!(
        id,
        peer = %connection.context().peer,
        "request refused: {}",
        refusal.reason()
    );
    let lower = header_case(service) == HeaderCase::Lower;
    let bytes = Reply::refusal(refusal, &id, None, None).to_http1(lower);
    connection.end_with(bytes).await;
}
