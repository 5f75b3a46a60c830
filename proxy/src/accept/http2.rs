//! A client's connection over HTTP/2: requests side by side.
//!
//! What HTTP/2 asks of every server is the library's affair; here is what it asks of this one.

use std::future::poll_fn;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use h2::Reason;
use http::{Request, Response};
use portolan_config::plan::LimitsPlan;
use portolan_control::counters::Gauge;
use portolan_control::refusal::Refusal;
use portolan_control::telemetry::ledger::Outcome;
use portolan_control::telemetry::totals::Totals;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use crate::accept::service::{LEAVE_GRACE, Service};
use crate::connection::entry::LedgerEntry;
use crate::connection::http2::Http2Connection;
use crate::connection::{Bodies, Connection};
use crate::downstream::Downstream;
use crate::downstream::http2::{Http2, is_unambiguous};
use crate::http::head::RequestHeader;
use crate::http::held::{MOST_OF_MANY, MOST_OF_ONE, SMALL_FRAMES, WIDE};
use crate::timer::Timer;

/// How long a connection without requests stays after it was told to go away. A client that is
/// there ends it at once; what is left may be the end of an answer on its way to a slow one.
const GONE_AWAY: Duration = Duration::from_secs(60);

/// Requests at the same time on one connection.
const STREAMS: u32 = 128;

/// Requests that may be taken back before anybody has looked at them: of a client, and of a peer that
/// speaks for many. The library bounds these, for they are remembered; how often requests are taken back
/// is bounded by [`crate::connection`].
const TAKEN_BACK: usize = 256;
const TAKEN_BACK_OF_MANY: usize = 1024;

/// What is kept of an answer on a stream until the client takes it.
const SEND_BUFFER: usize = 128 << 10;

/// Malformed requests after which a connection is given up.
const MOST_MALFORMED: u32 = 32;

/// The connection from its first frame to its end.
pub(crate) async fn serve(connection: Box<Connection>, service: &Service, limits: &LimitsPlan) {
    let leaving = connection.context().listener.leaving();
    let requests = Arc::new(Requests::default());
    tokio::select! {
        () = accept(connection, service, limits, leaving, &requests) => {}
        () = gone_away(&requests) => {}
    }
}

/// Accepts requests until the client leaves, says nothing for too long, or was asked to go and has
/// no more.
async fn accept(
    connection: Box<Connection>,
    service: &Service,
    limits: &LimitsPlan,
    mut leaving: watch::Receiver<bool>,
    requests: &Arc<Requests>,
) {
    let context = connection.context().clone();
    let peer = context.peer.ip().to_canonical();
    let trusted = service.published.load().plan.client_ip.trusts(peer);
    let most_held = if trusted { MOST_OF_MANY } else { MOST_OF_ONE };
    let process = context.totals.held.clone();
    let bodies = Arc::new(Mutex::new(Bodies::new(process, most_held)));
    // Twice of what is taken: so it is our guard that refuses, and counts, what is only a little more.
    let list = limits.header_bytes.saturating_mul(2);
    let mut builder = h2::server::Builder::new();
    builder
        .max_header_list_size(u32::try_from(list).unwrap_or(u32::MAX))
        .max_concurrent_streams(STREAMS)
        // So that no stream that nobody takes from is in the way of another.
        .initial_connection_window_size(WIDE * STREAMS)
        .initial_window_size(WIDE)
        .max_send_buffer_size(SEND_BUFFER)
        .max_pending_accept_reset_streams(TAKEN_BACK)
        .data_frame_budget(SMALL_FRAMES * most_held);
    if trusted {
        builder
            .max_pending_accept_reset_streams(TAKEN_BACK_OF_MANY)
            .max_local_error_reset_streams(None);
    }
    let under_way = requests.under_way.clone();
    let io = Http2Connection::new(connection, under_way, bodies.clone());
    let mut engine = match builder.handshake::<_, Bytes>(io).await {
        Ok(engine) => engine,
        Err(error) => {
            tracing::debug!("HTTP/2 with {} failed: {error}", context.peer);
            return;
        }
    };
    let most = limits.requests_per_connection.unwrap_or(u64::MAX);
    let mut begun = 0;
    let mut asked_to_leave = false;
    let mut malformed = 0;
    let mut hoard = Hoard {
        totals: context.totals.clone(),
        timer: Timer::default(),
        over: false,
    };
    loop {
        let accepted = tokio::select! {
            biased;
            _ = leaving.wait_for(|leaving| *leaving), if !asked_to_leave => {
                engine.graceful_shutdown();
                requests.told.send_replace(true);
                asked_to_leave = true;
                continue;
            }
            accepted = poll_fn(|cx| accept_one(&mut engine, &bodies, &mut hoard, cx)) => accepted,
            () = requests.idle_for(limits.idle_timeout), if !asked_to_leave => return,
        };
        let (request, mut respond) = match accepted {
            Some(Ok(accepted)) => accepted,
            None => return,
            Some(Err(error)) => {
                tracing::debug!("HTTP/2 with {} ended: {error}", context.peer);
                return;
            }
        };
        let entry = LedgerEntry::open(context.clone(), "HTTP/2");
        let (parts, body) = request.into_parts();
        let request = RequestHeader::from(parts);
        if !is_unambiguous(&request) {
            let refusal = Refusal::Malformed;
            entry.close_early(Outcome::Refused(refusal), refusal.status().as_u16(), "-");
            let mut response = Response::new(());
            *response.status_mut() = refusal.status();
            // It may have taken its request back.
            let _ = respond.send_response(response, true);
            malformed += 1;
            if malformed >= MOST_MALFORMED * context.carried.clients() {
                tracing::debug!("{} sends nothing but malformed requests", context.peer);
                return;
            }
            continue;
        }
        let under_way = UnderWay::new(requests);
        begun += 1;
        if begun >= most && !asked_to_leave {
            engine.graceful_shutdown();
            requests.told.send_replace(true);
            asked_to_leave = true;
        }
        let (edge, context) = (service.edge.clone(), context.clone());
        let side = Http2::new(body, respond, bodies.clone());
        tokio::spawn(async move {
            let mut downstream = Downstream::over_http2(request, side);
            edge.serve(context, &mut downstream, entry).await;
            drop(downstream);
            drop(under_way);
        });
    }
}

/// Whether a client holds more than it was told that it may, and for too long.
struct Hoard {
    totals: Arc<Totals>,
    timer: Timer,
    /// It was told to go.
    over: bool,
}

impl Hoard {
    /// Ends the connection, once, when it is time for that.
    fn end_at<I: AsyncRead + AsyncWrite + Unpin>(
        &mut self,
        at: Instant,
        engine: &mut h2::server::Connection<I, Bytes>,
        cx: &mut Context<'_>,
    ) -> bool {
        if self.over || !self.timer.poll(cx, at) {
            return false;
        }
        self.over = true;
        self.totals.refused_connections.one("h2_hoard");
        engine.abrupt_shutdown(Reason::ENHANCE_YOUR_CALM);
        true
    }
}

/// The next request; and what its streams may hold, as far as that has changed.
fn accept_one<I: AsyncRead + AsyncWrite + Unpin>(
    engine: &mut h2::server::Connection<I, Bytes>,
    bodies: &Mutex<Bodies>,
    hoard: &mut Hoard,
    cx: &mut Context<'_>,
) -> Poll<Option<Result<Accepted, h2::Error>>> {
    loop {
        let accepted = engine.poll_accept(cx);
        // What it has just read may have been too much, or enough.
        let held = &mut bodies.lock().unwrap_or_else(PoisonError::into_inner).held;
        held.open_again();
        let end = held.end_at(Instant::now);
        match held.change() {
            Some(window) if engine.set_initial_window_size(window).is_ok() => {
                held.changed(window);
                if accepted.is_ready() {
                    return accepted;
                }
            }
            _ if accepted.is_pending() && end.is_some_and(|at| hoard.end_at(at, engine, cx)) => {}
            _ => return accepted,
        }
    }
}

type Accepted = (Request<h2::RecvStream>, h2::server::SendResponse<Bytes>);

/// Waits until the client was told to go away and has not asked for anything for a while: it is
/// gone without a word, and would keep the process from ending.
async fn gone_away(requests: &Requests) {
    let mut told = requests.told.subscribe();
    if told.wait_for(|told| *told).await.is_err() {
        return;
    }
    let mut idle = Duration::ZERO;
    while idle < GONE_AWAY {
        tokio::time::sleep(LEAVE_GRACE).await;
        idle = match requests.under_way.get() {
            0 => idle + LEAVE_GRACE,
            _ => Duration::ZERO,
        };
    }
}

/// The requests of a connection.
#[derive(Debug, Default)]
struct Requests {
    under_way: Arc<Gauge>,
    /// Whether the client was told to go away.
    told: watch::Sender<bool>,
    /// Told when the last one has ended.
    idle: Notify,
}

impl Requests {
    /// Waits until there has been none for so long.
    async fn idle_for(&self, time: Duration) {
        while self.under_way.get() > 0 {
            self.idle.notified().await;
        }
        tokio::time::sleep(time).await;
    }
}

/// A request, counted until it is dropped.
#[derive(Debug)]
struct UnderWay(Arc<Requests>);

impl UnderWay {
    fn new(requests: &Arc<Requests>) -> Self {
        requests.under_way.up();
        Self(requests.clone())
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.under_way.down();
        if self.0.under_way.get() == 0 {
            self.0.idle.notify_one();
        }
    }
}
