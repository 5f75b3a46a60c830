//! A client's connection over HTTP/2: requests side by side.
//!
//! The engine frames and speaks; the loop that accepts requests is ours, because the engine's own
//! tells nobody of the requests that it turns away.

use std::sync::Arc;
use std::time::Duration;

use pingora::apps::HttpServerApp as _;
use pingora::protocols::http::ServerSession;
use pingora::protocols::http::v2::server::{H2Accept, HttpSession, default_h2_options, handshake};
use pingora::protocols::{Digest, GetProxyDigest as _, GetSocketDigest as _};
use pingora::server::ShutdownWatch;
use portolan_config::plan::LimitsPlan;
use portolan_control::ledger::Outcome;
use portolan_control::stats::Gauge;
use tokio::sync::{Notify, watch};

use super::accept::{LEAVE_GRACE, Service};
use crate::connection::Connection;
use crate::ledger::{self, Entry};
use crate::refusal::Refusal;

/// How long a connection without requests stays after it was told to go away. A client that is
/// there ends it at once; what is left may be the end of an answer on its way to a slow one.
const GONE_AWAY: Duration = Duration::from_secs(60);

/// What clients may send on a connection and a stream before we have taken it.
const CONNECTION_WINDOW: u32 = 4 << 20;
const STREAM_WINDOW: u32 = 1 << 20;
const STREAMS: u32 = 128;

/// What is kept of an answer on a stream until the client takes it.
const SEND_BUFFER: usize = 128 << 10;

/// Malformed requests after which a connection is given up.
const MOST_MALFORMED: u32 = 32;

/// The connection from its first frame to its end.
pub(super) async fn serve(connection: Box<Connection>, service: &Service, limits: &LimitsPlan) {
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
    mut leaving: ShutdownWatch,
    requests: &Arc<Requests>,
) {
    let context = connection.context().clone();
    let digest = Arc::new(Digest {
        ssl_digest: None,
        timing_digest: Vec::new(),
        proxy_digest: connection.get_proxy_digest(),
        socket_digest: connection.get_socket_digest(),
    });
    let mut options = default_h2_options();
    // Twice of what is taken: so it is our guard that refuses, and counts, what is only a little more.
    let list = limits.header_bytes.saturating_mul(2);
    options.max_header_list_size(u32::try_from(list).unwrap_or(u32::MAX));
    options.max_concurrent_streams(STREAMS);
    options.initial_connection_window_size(CONNECTION_WINDOW);
    options.initial_window_size(STREAM_WINDOW);
    options.max_send_buffer_size(SEND_BUFFER);
    let mut engine = match handshake(connection, Some(options)).await {
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
    loop {
        let accepted = tokio::select! {
            biased;
            _ = leaving.wait_for(|leaving| *leaving), if !asked_to_leave => {
                engine.graceful_shutdown();
                requests.told.send_replace(true);
                asked_to_leave = true;
                continue;
            }
            accepted = HttpSession::from_h2_conn(&mut engine, digest.clone()) => accepted,
            () = requests.idle_for(limits.idle_timeout), if !asked_to_leave => return,
        };
        match accepted {
            Ok(Some(H2Accept::Session(session))) => {
                let entry = Entry::open(context.clone(), "HTTP/2");
                let under_way = UnderWay::new(requests);
                begun += 1;
                if begun >= most && !asked_to_leave {
                    engine.graceful_shutdown();
                    requests.told.send_replace(true);
                    asked_to_leave = true;
                }
                let (proxy, leaving) = (service.proxy.clone(), leaving.clone());
                tokio::spawn(async move {
                    let session = ServerSession::new_http2(session);
                    ledger::with(entry, proxy.process_new_http(session, &leaving)).await;
                    drop(under_way);
                });
            }
            Ok(Some(H2Accept::Rejected)) => {
                let refusal = Refusal::Malformed;
                Entry::open(context.clone(), "HTTP/2").close_early(
                    Outcome::Refused(refusal),
                    refusal.status().as_u16(),
                    "-",
                );
                malformed += 1;
                if malformed == MOST_MALFORMED {
                    tracing::debug!("{} sends nothing but malformed requests", context.peer);
                    return;
                }
            }
            Ok(None) => return,
            Err(error) => {
                tracing::debug!("HTTP/2 with {} ended: {error}", context.peer);
                return;
            }
        }
    }
}

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
    under_way: Gauge,
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
