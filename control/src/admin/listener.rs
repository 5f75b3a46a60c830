//! Where the API's clients come in: how many there may be, and how long each of them may take.
//!
//! Whoever can reach the address can open connections to it, and say nothing. So there are never more
//! than a few, and their number has nothing to do with that of the listeners' clients: whatever happens
//! there, here is room. When somebody comes for whom there is none, one of those leaves who have not been
//! let in, of the address that has most of them: who comes from another address than a crowd of strangers
//! is not kept out by them, and nobody who was let in is.

use std::collections::{BTreeMap, HashMap};
use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes, HttpBody};
use axum::extract::ConnectInfo;
use axum::http::{Request, StatusCode};
use axum::response::{IntoResponse as _, Response};
use hyper::body::{Frame, Incoming, SizeHint};
use hyper::server::conn::http1;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::reply::Problem;
use crate::supervisor::caught;
use crate::telemetry::totals::Totals;

/// How long a client may take for the head of a request, from its first byte, or from the beginning of
/// the connection: as at listeners, unless they say otherwise. So are the others.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a connection may stay open without a request.
const IDLE_TIMEOUT: Duration = Duration::from_secs(75);

/// How long a client may take nothing of an answer.
const WRITE_STALL: Duration = Duration::from_secs(60);

/// A request's head: more is answered with 431.
const HEADER_BYTES: usize = 64 << 10;
const HEADERS: usize = 100;

/// How long to wait when nobody can be let in for want of descriptors.
const EXHAUSTED_PAUSE: Duration = Duration::from_millis(50);

/// A client's address.
#[derive(Clone, Copy, Debug)]
pub(super) struct Peer(pub(super) SocketAddr);

/// How many clients there may be at the same time, where the process may have so many descriptors: half
/// of what is kept back for operators, probes and name servers.
pub fn room(descriptors: u64) -> usize {
    let room = (descriptors / 32).clamp(8, 256);
    usize::try_from(room).unwrap_or(8)
}

/// Everybody who is inside.
#[derive(Debug, Default)]
struct Guests {
    all: Mutex<BTreeMap<u64, Arc<Guest>>>,
}

/// A client's connection.
#[derive(Debug)]
pub(super) struct Guest {
    /// Its address.
    from: IpAddr,
    /// It has been let in: it had a token, or needed none.
    known: AtomicBool,
    state: Mutex<State>,
    /// Rings when its deadline has changed.
    changed: Notify,
    /// It must make room.
    leave: Notify,
}

#[derive(Clone, Copy, Debug)]
struct State {
    doing: Doing,
    since: Instant,
    /// Since when it has taken nothing that it is sent.
    stalled: Option<Instant>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Doing {
    /// A request's head comes.
    Arriving,
    /// Nothing.
    Idle,
    /// It is answered.
    Answered,
}

impl State {
    /// When it has taken too long, and for what.
    fn deadline(&self) -> Option<(Instant, &'static str)> {
        let own = match self.doing {
            Doing::Arriving => Some((self.since + HEADER_TIMEOUT, "admin_too_slow")),
            Doing::Idle => Some((self.since + IDLE_TIMEOUT, "admin_idle")),
            Doing::Answered => None,
        };
        let stalled = self
            .stalled
            .map(|at| (at + WRITE_STALL, "admin_write_stalled"));
        own.into_iter().chain(stalled).min_by_key(|(at, _)| *at)
    }
}

impl Guest {
    fn new(from: IpAddr) -> Self {
        let state = State {
            doing: Doing::Arriving,
            since: Instant::now(),
            stalled: None,
        };
        Self {
            from,
            known: AtomicBool::new(false),
            state: Mutex::new(state),
            changed: Notify::new(),
            leave: Notify::new(),
        }
    }

    /// It may ask what it asks.
    pub(super) fn is_let_in(&self) {
        self.known.store(true, Ordering::Relaxed);
    }

    fn state(&self) -> State {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner));
        self.changed.notify_one();
    }

    fn now_does(&self, doing: Doing) {
        self.change(|state| {
            state.doing = doing;
            state.since = Instant::now();
        });
    }

    /// Returns when it has taken too long for something, and says for what.
    async fn takes_too_long(&self) -> &'static str {
        loop {
            let changed = self.changed.notified();
            match self.state().deadline() {
                Some((deadline, reason)) => tokio::select! {
                    () = tokio::time::sleep_until(deadline) => return reason,
                    () = changed => {}
                },
                None => changed.await,
            }
        }
    }
}

/// Whether one more may come in.
#[derive(Debug)]
enum Room {
    /// There is room.
    Free,
    /// There is, when this one has left.
    Made(Arc<Guest>),
    /// Everybody was let in and is being answered.
    Full,
}

impl Guests {
    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<u64, Arc<Guest>>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes room for one more, if there are `most`: somebody is asked to leave. That is one who has not
    /// been let in, of the address that has most of those, and of these the one who came first; or, if
    /// all were let in, one who does nothing. Those who are being answered stay.
    fn make_room(&self, most: usize) -> Room {
        let mut all = self.lock();
        if all.len() < most {
            return Room::Free;
        }
        let mut strangers: HashMap<IpAddr, usize> = HashMap::new();
        let is_stranger = |guest: &Guest| !guest.known.load(Ordering::Relaxed);
        for guest in all.values().filter(|guest| is_stranger(guest)) {
            *strangers.entry(guest.from).or_default() += 1;
        }
        let leaves = all
            .iter()
            .filter(|(_, guest)| is_stranger(guest) || guest.state().doing != Doing::Answered)
            .min_by_key(|(number, guest)| {
                let answered = guest.state().doing == Doing::Answered;
                match is_stranger(guest) {
                    true => (
                        false,
                        usize::MAX - strangers[&guest.from],
                        answered,
                        **number,
                    ),
                    false => (true, 0, answered, **number),
                }
            })
            .map(|(number, _)| *number);
        match leaves.and_then(|number| all.remove(&number)) {
            Some(guest) => Room::Made(guest),
            None => Room::Full,
        }
    }
}

/// Lets clients in until the socket is closed, and serves those who are inside to the end of their requests:
/// they have a `grace` to begin one that they are sending just now.
pub(super) async fn serve(
    listener: TcpListener,
    app: Router,
    most: usize,
    totals: Arc<Totals>,
    mut closed: watch::Receiver<bool>,
    grace: Duration,
) {
    let guests: Arc<Guests> = Arc::default();
    let mut tasks = JoinSet::new();
    let (ask_to_end, end) = watch::channel(false);
    let mut number = 0;
    loop {
        let accepted = tokio::select! {
            biased;
            _ = closed.wait_for(|closed| *closed) => break,
            accepted = listener.accept() => accepted,
            Some(_) = tasks.join_next() => continue,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::debug!("the admin API cannot accept: {error}");
                tokio::time::sleep(EXHAUSTED_PAUSE).await;
                continue;
            }
        };
        match guests.make_room(most) {
            Room::Free => {}
            Room::Made(guest) => {
                totals.refused_connections.one("admin_crowded");
                guest.leave.notify_one();
            }
            Room::Full => {
                totals.refused_connections.one("admin_crowded");
                continue;
            }
        }
        number += 1;
        let guest = Arc::new(Guest::new(peer.ip().to_canonical()));
        guests.lock().insert(number, guest.clone());
        let attending = attend(
            stream,
            peer,
            app.clone(),
            guest,
            totals.clone(),
            end.clone(),
        );
        let guests = guests.clone();
        tasks.spawn(async move {
            // Whatever happens to it, it is not inside any more.
            let _ = caught(attending).await;
            guests.lock().remove(&number);
        });
    }
    drop(listener);
    tokio::time::sleep(grace).await;
    ask_to_end.send_replace(true);
    while tasks.join_next().await.is_some() {}
}

/// Serves a client.
async fn attend(
    stream: TcpStream,
    peer: SocketAddr,
    app: Router,
    guest: Arc<Guest>,
    totals: Arc<Totals>,
    mut end: watch::Receiver<bool>,
) {
    let _ = stream.set_nodelay(true);
    let io = TokioIo::new(Watched {
        stream,
        guest: guest.clone(),
    });
    let (own, counted) = (guest.clone(), totals.clone());
    let app = TowerToHyperService::new(app);
    let service = service_fn(move |mut request: Request<Incoming>| {
        own.now_does(Doing::Answered);
        request.extensions_mut().insert(ConnectInfo(Peer(peer)));
        request.extensions_mut().insert(own.clone());
        let too_large = head_bytes(&request) > HEADER_BYTES;
        let answering = (!too_large).then(|| caught(app.call(request.map(Body::new))));
        let (own, counted) = (own.clone(), counted.clone());
        async move {
            let answered = match answering {
                Some(answering) => Some(answering.await),
                None => None,
            };
            let response: Response = match answered {
                None => {
                    let most = format!("a head has at most {} KiB", HEADER_BYTES >> 10);
                    let status = StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE;
                    Problem::new(status, "Too large", most).into_response()
                }
                Some(Ok(Ok(response))) => response,
                Some(Ok(Err(never))) => match never {},
                Some(Err(_)) => {
                    counted.task_failures.one("admin");
                    let detail = "this is a fault of Portolan's; its log says more";
                    let status = StatusCode::INTERNAL_SERVER_ERROR;
                    Problem::new(status, "Failed", detail).into_response()
                }
            };
            Ok::<_, Infallible>(response.map(|body| Answer { body, guest: own }))
        }
    });
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        // Both are looked after here.
        .header_read_timeout(HEADER_TIMEOUT + IDLE_TIMEOUT)
        .max_headers(HEADERS)
        .max_buf_size(HEADER_BYTES)
        .serve_connection(io, service);
    let mut serving = pin!(serving);
    let reason = loop {
        let told = *end.borrow();
        tokio::select! {
            _ = &mut serving => return,
            reason = guest.takes_too_long() => break reason,
            () = guest.leave.notified() => return,
            _ = end.changed(), if !told => serving.as_mut().graceful_shutdown(),
        }
    };
    totals.refused_connections.one(reason);
}

/// The size of a head as HTTP/1.1 writes it: the library takes a larger one if it comes at once.
fn head_bytes<T>(request: &Request<T>) -> usize {
    let target = request.uri().path_and_query();
    let target = target.map_or(1, |target| target.as_str().len());
    let fields = request.headers().iter();
    let fields = fields.map(|(name, value)| name.as_str().len() + value.len() + ": \r\n".len());
    target + fields.sum::<usize>()
}

/// A connection whose client is watched.
struct Watched {
    stream: TcpStream,
    guest: Arc<Guest>,
}

impl Watched {
    fn written(&self, pending: bool) {
        if pending != self.guest.state().stalled.is_some() {
            let since = pending.then(Instant::now);
            self.guest.change(|state| state.stalled = since);
        }
    }
}

impl AsyncRead for Watched {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buf);
        if buf.filled().len() > before && self.guest.state().doing == Doing::Idle {
            self.guest.now_does(Doing::Arriving);
        }
        read
    }
}

impl AsyncWrite for Watched {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.written(written.is_pending());
        written
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        self.written(written.is_pending());
        written
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// The body of an answer: when it is over, so is the request.
struct Answer {
    body: Body,
    guest: Arc<Guest>,
}

impl HttpBody for Answer {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        self.guest.now_does(Doing::Idle);
    }
}

#[cfg(test)]
mod tests {
    use axum::routing::get;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    struct Api {
        address: SocketAddr,
        totals: Arc<Totals>,
        _close: watch::Sender<bool>,
    }

    async fn begin(most: usize) -> Api {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let totals: Arc<Totals> = Arc::default();
        let let_in = async |request: Request<Body>| {
            if let Some(guest) = request.extensions().get::<Arc<Guest>>() {
                guest.is_let_in();
            }
            "in\n"
        };
        let fail = async || -> &'static str { panic!("on purpose") };
        let app = Router::new()
            .route("/open", get(async || "open\n"))
            .route("/in", get(let_in))
            .route("/large", get(async || vec![b'x'; 64 << 20]))
            .route("/fail", get(fail));
        let (close, closed) = watch::channel(false);
        let counted = totals.clone();
        tokio::spawn(serve(listener, app, most, counted, closed, Duration::ZERO));
        Api {
            address,
            totals,
            _close: close,
        }
    }

    impl Api {
        async fn connect(&self) -> TcpStream {
            TcpStream::connect(self.address).await.unwrap()
        }

        fn refused(&self, reason: &str) -> u64 {
            let refused = self.totals.refused_connections.get();
            refused.get(reason).copied().unwrap_or(0)
        }
    }

    /// Asks for something, and reads the answer to the end of its short body.
    async fn ask(stream: &mut TcpStream, path: &str) -> Option<String> {
        let head = format!("GET {path} HTTP/1.1\r\nhost: here\r\n\r\n");
        stream.write_all(head.as_bytes()).await.ok()?;
        let mut answer = Vec::new();
        while !answer.ends_with(b"\n") && !answer.ends_with(b"}") {
            if stream.read_buf(&mut answer).await.ok()? == 0 {
                return None;
            }
        }
        Some(String::from_utf8_lossy(&answer).into_owned())
    }

    /// Waits for the other end to close the connection; how long that takes.
    async fn closed(stream: &mut TcpStream) -> Duration {
        let begun = Instant::now();
        let mut rest = [0; 64];
        while matches!(stream.read(&mut rest).await, Ok(1..)) {}
        begun.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_may_take_for_ever() {
        let api = begin(8).await;
        // Says nothing.
        let mut silent = api.connect().await;
        assert_eq!(closed(&mut silent).await, HEADER_TIMEOUT);
        // Says a little now and then.
        let mut slow = api.connect().await;
        let dripping = async {
            let begun = Instant::now();
            while slow.write_all(b"G").await.is_ok() && begun.elapsed() < HEADER_TIMEOUT * 3 {
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
            begun.elapsed()
        };
        assert!(dripping.await < HEADER_TIMEOUT * 2);
        assert_eq!(api.refused("admin_too_slow"), 2);
        // Asks once and stays.
        let mut idle = api.connect().await;
        assert!(
            ask(&mut idle, "/open")
                .await
                .unwrap()
                .starts_with("HTTP/1.1 200")
        );
        tokio::time::sleep(IDLE_TIMEOUT / 2).await;
        assert!(ask(&mut idle, "/in").await.unwrap().ends_with("in\n"));
        assert_eq!(closed(&mut idle).await, IDLE_TIMEOUT);
        assert_eq!(api.refused("admin_idle"), 1);
    }

    #[tokio::test]
    async fn a_head_has_bounds() {
        let api = begin(8).await;
        for head in [
            format!(
                "GET /open HTTP/1.1\r\nhost: a\r\nx: {}\r\n\r\n",
                "x".repeat(HEADER_BYTES)
            ),
            format!(
                "GET /open HTTP/1.1\r\nhost: a\r\n{}\r\n",
                "x: y\r\n".repeat(HEADERS)
            ),
        ] {
            let mut stream = api.connect().await;
            let _ = stream.write_all(head.as_bytes()).await;
            let mut answer = [0; 12];
            stream.read_exact(&mut answer).await.unwrap();
            assert_eq!(&answer, b"HTTP/1.1 431");
        }
    }

    #[tokio::test]
    async fn strangers_make_room_for_those_who_are_let_in() {
        let api = begin(4).await;
        let mut operator = api.connect().await;
        ask(&mut operator, "/in").await.unwrap();
        let mut strangers = Vec::new();
        for _ in 0..20 {
            let mut stranger = api.connect().await;
            ask(&mut stranger, "/open").await.unwrap();
            strangers.push(stranger);
        }
        assert_eq!(api.refused("admin_crowded"), 17);
        for stranger in &mut strangers[..17] {
            closed(stranger).await;
        }
        ask(&mut operator, "/in").await.unwrap();
        // And somebody who comes now is let in at once.
        let mut other = api.connect().await;
        assert!(ask(&mut other, "/in").await.is_some());
        for stranger in &mut strangers[18..] {
            assert!(ask(stranger, "/open").await.is_some());
        }
    }

    #[tokio::test]
    async fn a_handler_that_fails_is_answered_for() {
        let api = begin(4).await;
        let mut stream = api.connect().await;
        let answer = ask(&mut stream, "/fail").await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 500"), "{answer}");
        assert!(answer.contains("application/problem+json"), "{answer}");
        assert_eq!(api.totals.task_failures.get()["admin"], 1);
        assert!(
            ask(&mut stream, "/open").await.is_some(),
            "the connection goes on"
        );
    }

    #[test]
    fn there_is_room_for_some_whatever_the_machine_gives() {
        assert_eq!([room(20), room(1024), room(1 << 20)], [8, 32, 256]);
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_takes_nothing_of_an_answer_is_sent_away() {
        let guest = Guest::new(IpAddr::from([127, 0, 0, 1]));
        guest.now_does(Doing::Answered);
        let patient = tokio::time::timeout(WRITE_STALL * 9, guest.takes_too_long()).await;
        assert!(patient.is_err(), "an answer may take its time");
        let begun = Instant::now();
        guest.change(|state| state.stalled = Some(begun));
        assert_eq!(guest.takes_too_long().await, "admin_write_stalled");
        assert_eq!(begun.elapsed(), WRITE_STALL);
    }
}
