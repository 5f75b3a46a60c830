//! A connection to an endpoint over HTTP/2, from its preface to its end.
//!
//! The library speaks; what comes is watched on its way, for what the endpoint allows and when it
//! leaves ([`super::state`]). A task drives each connection: it reads, writes, asks a silent endpoint
//! whether it still lives, and looks after streams that were given up ([`super::winding`]).

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use h2::client::{ResponseFuture, SendRequest};
use h2::{Ping, PingPong, RecvStream, SendStream, client};
use pingora::{Error, ErrorType, OrErr as _, Result};
use portolan_control::counters::Amount;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use super::state::{Http2State, MOST_STREAMS, Need};
use super::winding::{GivenUp, Winding};
use crate::http::held::{MOST_OF_MANY, SMALL_FRAMES, WIDE};
use crate::http::http1::answer::MOST_BYTES;
use crate::http::http2_frames::{FrameEvent, Scanner};
use crate::timer::Timer;
use crate::upstream::connect::stream::EndpointStream;

/// How long an endpoint may say nothing before it is asked whether it still lives, and how long it may
/// take to say so.
const PING: Duration = Duration::from_secs(15);
const PONG: Duration = Duration::from_secs(5);

/// How long what the endpoint allows is waited for, where nothing says how long connecting may take.
const SETTLING: Duration = Duration::from_secs(1);

/// What is kept of a body on a stream until the endpoint takes it.
const SEND_BUFFER: usize = 128 << 10;

/// Streams that were reset are remembered: what the endpoint still sends on them is ignored. On
/// streams that nobody remembers, it would be answered with another reset.
const REMEMBERED: usize = 1024;
const REMEMBERED_FOR: Duration = Duration::from_secs(30);

/// A connection, for whoever begins requests on it.
pub(crate) struct Connection {
    requests: SendRequest<Bytes>,
    shared: Arc<Shared>,
}

/// What its requests, its driver and its pool know of it.
pub(crate) struct Shared {
    /// Told when something has changed about it: those who wait may go on.
    changed: Box<dyn Fn() + Send + Sync>,
    /// Never waited for where requests are served: a connection stays with one thread.
    state: Mutex<Http2State>,
    winding: Mutex<Winding<Abandoned>>,
}

/// Where an answer comes from.
#[derive(Debug)]
pub(crate) enum Receive {
    Head(ResponseFuture),
    Body(RecvStream),
}

/// A stream that was given up. It is reset when it is dropped, unless it is over.
#[derive(Debug)]
pub(crate) struct Abandoned {
    _send: SendStream<Bytes>,
    receive: Receive,
    /// Given back after it was reset.
    slot: Slot,
}

impl Abandoned {
    pub(crate) fn new(slot: Slot, send: SendStream<Bytes>, receive: Receive) -> Self {
        Self {
            _send: send,
            receive,
            slot,
        }
    }
}

impl GivenUp for Abandoned {
    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            match &mut self.receive {
                Receive::Head(response) => match response.poll_informational(cx) {
                    Poll::Ready(Some(Ok(_))) => {}
                    Poll::Ready(Some(Err(_))) => return Poll::Ready(()),
                    Poll::Ready(None) => match Pin::new(response).poll(cx) {
                        Poll::Ready(Ok(response)) => {
                            self.receive = Receive::Body(response.into_body());
                        }
                        Poll::Ready(Err(_)) => return Poll::Ready(()),
                        Poll::Pending => return Poll::Pending,
                    },
                    Poll::Pending => return Poll::Pending,
                },
                Receive::Body(body) => match body.poll_data(cx) {
                    // Not released: no more than a window of it comes.
                    Poll::Ready(Some(Ok(part))) => {
                        let stream = self.slot.stream();
                        self.slot.state().held.taken(stream, part.len());
                    }
                    Poll::Ready(Some(Err(_))) => return Poll::Ready(()),
                    Poll::Ready(None) => return body.poll_trailers(cx).map(|_| ()),
                    Poll::Pending => return Poll::Pending,
                },
            }
        }
    }
}

impl Drop for Abandoned {
    fn drop(&mut self) {
        self.slot.state().wound_up();
    }
}

/// A request's place on a connection, given back when it is dropped.
pub(crate) struct Slot {
    connection: Arc<Connection>,
    claim: i64,
    /// The number of its stream, once there is one.
    stream: Option<u32>,
    /// The connection had served others before; and how often the endpoint had answered something.
    kept: bool,
    progress: u64,
    /// It is to be given back.
    held: bool,
}

impl std::fmt::Debug for Slot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Slot").finish_non_exhaustive()
    }
}

impl Connection {
    /// Begins to speak HTTP/2, in a process that holds so much. The connection, and who drives it.
    ///
    /// # Errors
    /// When it broke before anything was said.
    pub(crate) async fn begin(
        stream: EndpointStream,
        changed: Box<dyn Fn() + Send + Sync>,
        patience: Option<Duration>,
        process: Arc<Amount>,
    ) -> Result<(Arc<Self>, impl Future<Output = ()> + Send + use<>)> {
        let patience = patience.unwrap_or(SETTLING);
        let shared = Arc::new(Shared {
            changed,
            state: Mutex::new(Http2State::new(process)),
            winding: Mutex::default(),
        });
        let watched = Watched {
            stream,
            scanner: Scanner::default(),
            shared: shared.clone(),
            cut: false,
        };
        let handshake = client::Builder::new()
            .enable_push(false)
            .initial_window_size(WIDE)
            // So that no stream that nobody takes from is in the way of another.
            .initial_connection_window_size(WIDE * MOST_STREAMS)
            .max_header_list_size(MOST_BYTES as u32)
            .max_send_buffer_size(SEND_BUFFER)
            .max_concurrent_reset_streams(REMEMBERED)
            .reset_stream_duration(REMEMBERED_FOR)
            // Answers that are malformed are their own end, and nobody else's.
            .max_local_error_reset_streams(None)
            .data_frame_budget(SMALL_FRAMES * MOST_OF_MANY)
            .handshake(watched);
        let (requests, connection) = match tokio::time::timeout(patience, handshake).await {
            Ok(begun) => begun.or_err(ErrorType::H2Error, "when beginning to speak HTTP/2")?,
            Err(_) => return Error::e_explain(ErrorType::ConnectTimedout, "the preface"),
        };
        let driver = Driver {
            shared: shared.clone(),
            connection,
            pings: None,
            timer: Timer::default(),
            settle_by: Instant::now() + patience,
            look: Instant::now() + PING,
            asked: false,
        };
        Ok((Arc::new(Self { requests, shared }), driver.drive()))
    }

    /// A place for a request with these needs, if there is one now.
    pub(crate) fn slot(self: &Arc<Self>, need: Need) -> Option<Slot> {
        let mut state = self.state();
        if !state.takes(need) {
            return None;
        }
        let claim = state.begin(need);
        Some(Slot {
            kept: state.has_accepted(),
            progress: state.progress(),
            connection: self.clone(),
            claim,
            stream: None,
            held: true,
        })
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, Http2State> {
        self.shared.state()
    }
}

impl Shared {
    pub(crate) fn state(&self) -> MutexGuard<'_, Http2State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn winding(&self) -> MutexGuard<'_, Winding<Abandoned>> {
        self.winding.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Which requests it takes has changed.
    fn tell(&self) {
        (self.changed)();
    }
}

impl Slot {
    /// Begins a request: its stream, both ways.
    ///
    /// # Errors
    /// When the connection takes no more requests, or this is none.
    pub(crate) fn open(
        &mut self,
        request: http::Request<()>,
        end: bool,
    ) -> Result<(ResponseFuture, SendStream<Bytes>), h2::Error> {
        let mut requests = self.connection.requests.clone();
        let (response, send) = requests.send_request(request, end).inspect_err(|error| {
            if is_gone(error) {
                // Nobody else shall try.
                self.state().end();
            }
        })?;
        let stream = response.stream_id().as_u32();
        self.stream = Some(stream);
        self.state().held.begin(stream, 0);
        Ok((response, send))
    }

    /// Whether the connection had served others before.
    pub(crate) fn is_kept(&self) -> bool {
        self.kept
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, Http2State> {
        self.connection.state()
    }

    /// Whether the endpoint has answered something on this connection since.
    pub(crate) fn has_progressed(&self) -> bool {
        self.state().progress() > self.progress
    }

    /// The number of its stream; 0 before there is one.
    pub(crate) fn stream(&self) -> u32 {
        self.stream.unwrap_or(0)
    }

    /// Gives its stream up, and itself when that is over.
    pub(crate) fn abandon(self, send: SendStream<Bytes>, receive: Receive) {
        self.state().winds_up();
        let shared = self.connection.shared.clone();
        let abandoned = Abandoned::new(self, send, receive);
        let ended = shared.winding().add(abandoned);
        // Not while others wait for what it has to be told.
        drop(ended);
    }

    /// Takes it back before anybody had it, by whoever holds the pool.
    pub(crate) fn take_back(mut self) {
        self.held = false;
        self.state().over(self.claim, None);
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        if self.held {
            self.state().over(self.claim, self.stream);
            self.connection.shared.tell();
        }
    }
}

/// Whether it is the connection that takes no more requests, and not the request that is none.
pub(crate) fn is_gone(error: &h2::Error) -> bool {
    error.is_io() || error.is_go_away()
}

/// Who drives a connection.
struct Driver {
    shared: Arc<Shared>,
    connection: client::Connection<Watched, Bytes>,
    /// Once it was needed.
    pings: Option<PingPong>,
    timer: Timer,
    /// Until when what the endpoint allows is waited for.
    settle_by: Instant,
    /// When to look again whether something was heard.
    look: Instant,
    /// The endpoint was asked whether it still lives.
    asked: bool,
}

impl Driver {
    /// To its end.
    async fn drive(mut self) {
        std::future::poll_fn(|cx| self.poll(cx)).await;
        let Self {
            shared, connection, ..
        } = self;
        // Whoever still waits for something on it is told.
        drop(connection);
        shared.state().end();
        let left = shared.winding().end();
        drop(left);
        shared.tell();
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            let again = self.wind_up(cx);
            if Pin::new(&mut self.connection).poll(cx).is_ready() {
                return Poll::Ready(());
            }
            let (change, end) = {
                let held = &mut self.shared.state().held;
                held.open_again();
                // What it has just read may have been too much, or enough.
                (held.change(), held.end_at(Instant::now))
            };
            if let Some(window) = change
                && self.connection.set_initial_window_size(window).is_ok()
            {
                self.shared.state().held.changed(window);
                continue;
            }
            if let Some(pings) = self.pings.as_mut().filter(|_| self.asked)
                && let Poll::Ready(answer) = pings.poll_pong(cx)
            {
                if answer.is_err() {
                    return Poll::Ready(());
                }
                self.asked = false;
                self.look = Instant::now() + PING;
            }
            let settling = (!self.shared.state().is_settled()).then_some(self.settle_by);
            let until = [settling, again, end]
                .into_iter()
                .flatten()
                .fold(self.look, Instant::min);
            if !self.timer.poll(cx, until) {
                return Poll::Pending;
            }
            let now = Instant::now();
            if settling.is_some_and(|until| now >= until) && self.shared.state().settle() {
                self.shared.tell();
            }
            if end.is_some_and(|at| now >= at) || (now >= self.look && !self.is_alive(now)) {
                return Poll::Ready(());
            }
        }
    }

    /// Looks after streams that were given up. When there is something to do about them again.
    fn wind_up(&self, cx: &mut Context<'_>) -> Option<Instant> {
        let (ended, again) = self.shared.winding().poll(cx);
        // Their places are given back without anything being held that they need for it.
        drop(ended);
        again
    }

    /// It is time to look: whether the endpoint still lives, as far as is known.
    fn is_alive(&mut self, now: Instant) -> bool {
        let heard = self.shared.state().was_heard();
        if self.asked && !heard {
            return false;
        }
        self.look = now + PING;
        if !heard {
            if self.pings.is_none() {
                self.pings = self.connection.ping_pong();
            }
            let pings = self.pings.as_mut();
            // One that cannot be sent is on its way already.
            self.asked = pings.is_some_and(|pings| pings.send_ping(Ping::opaque()).is_ok());
            self.look = now + PONG;
        }
        true
    }
}

/// The endpoint's bytes, watched on their way to the library.
struct Watched {
    stream: EndpointStream,
    scanner: Scanner,
    shared: Arc<Shared>,
    /// Nothing more can be written. That is no news for the library: what the endpoint had said before
    /// is still to be read, which requests it has not processed among it.
    cut: bool,
}

impl Watched {
    /// What became of writing so much.
    fn unless_cut(
        &mut self,
        written: Poll<io::Result<usize>>,
        all: usize,
    ) -> Poll<io::Result<usize>> {
        match written {
            Poll::Ready(Ok(0) | Err(_)) => {
                self.cut = true;
                Poll::Ready(Ok(all))
            }
            written => written,
        }
    }
}

impl AsyncRead for Watched {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let before = out.filled().len();
        ready!(Pin::new(&mut this.stream).poll_read(cx, out))?;
        let mut changed = false;
        let mut state = this.shared.state();
        this.scanner.feed(&out.filled()[before..], |seen| {
            if let FrameEvent::Frame(frame) = seen {
                changed |= state.came(&frame);
            }
        });
        drop(state);
        if changed {
            this.shared.tell();
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Watched {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.cut {
            return Poll::Ready(Ok(bytes.len()));
        }
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.unless_cut(written, bytes.len())
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let all = slices.iter().map(|slice| slice.len()).sum();
        if self.cut {
            return Poll::Ready(Ok(all));
        }
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        self.unless_cut(written, all)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.cut {
            self.cut = ready!(Pin::new(&mut self.stream).poll_flush(cx)).is_err();
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
