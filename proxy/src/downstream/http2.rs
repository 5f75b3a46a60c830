//! A request over a stream of HTTP/2, and its answer.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{RecvStream, SendStream};
use http::{HeaderMap, HeaderName, Response, header};
use pingora::protocols::http::date::get_cached_date;
use pingora::{Error, ErrorType, Result};

use crate::connection::{Bodies, WRITE_STALL, Waiting};
use crate::downstream::gone::gone;
use crate::http::head::{RequestHeader, ResponseHeader, is_whole};
use crate::http::http1::framing::length;
use crate::http::http1::request::is_target;
use crate::http::trailers;
use crate::timer::Timer;

/// Headers that say how a connection of HTTP/1.1 goes on (RFC 9113, section 8.2.2).
static NOT_HERE: [HeaderName; 5] = [
    header::TRANSFER_ENCODING,
    header::CONNECTION,
    header::UPGRADE,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
];

/// A request and its answer.
#[derive(Debug)]
pub(crate) struct Http2 {
    body: RecvStream,
    /// What is known of the bodies on its connection.
    bodies: Arc<Mutex<Bodies>>,
    /// Some of the body was read.
    read: bool,
    /// What came behind it.
    came_behind: Option<HeaderMap>,
    respond: SendResponse<Bytes>,
    /// Once the head was written.
    stream: Option<SendStream<Bytes>>,
    /// Taken, and not yet given to the connection.
    pending: Bytes,
    trailers: Option<HeaderMap>,
    /// Nothing more will be taken.
    finished: bool,
    /// The end was given to the connection.
    ended: bool,
    /// Waiting for the client to take what it is sent.
    stall: Waiting,
    pub(super) timer: Timer,
}

impl Http2 {
    /// `bodies`: what is known of the bodies on its connection.
    pub(crate) fn new(
        mut body: RecvStream,
        respond: SendResponse<Bytes>,
        bodies: Arc<Mutex<Bodies>>,
    ) -> Self {
        if !body.is_end_stream() {
            let stream = body.stream_id().as_u32();
            let flow = body.flow_control().clone();
            let held = &mut lock(&bodies).held;
            held.begin(stream, flow.used_capacity());
            held.opens(stream, flow);
        }
        Self {
            body,
            bodies,
            read: false,
            came_behind: None,
            respond,
            stream: None,
            pending: Bytes::new(),
            trailers: None,
            finished: false,
            ended: false,
            stall: Waiting::default(),
            timer: Timer::default(),
        }
    }

    pub(super) fn is_body_empty(&self) -> bool {
        !self.read && self.body.is_end_stream()
    }

    pub(super) fn is_body_done(&self) -> bool {
        self.body.is_end_stream()
    }

    pub(super) fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>>> {
        match ready!(self.body.poll_data(cx)) {
            None => {
                let trailers = ready!(self.body.poll_trailers(cx)).map_err(unread)?;
                if let Some(trailers) = trailers {
                    let stream = self.body.stream_id().as_u32();
                    let sent = lock(&self.bodies).behind.take(stream);
                    // What the library keeps for itself is a pseudo-header (RFC 9113, section 8.1).
                    let all = sent.is_none_or(|sent| sent <= trailers.len());
                    if !all || !trailers.values().all(is_whole) {
                        let bad = io::Error::from(io::ErrorKind::InvalidData);
                        return Poll::Ready(Err(unread(bad)));
                    }
                    self.came_behind = trailers::pass(trailers);
                }
                Poll::Ready(Ok(None))
            }
            Some(Ok(part)) => {
                self.read = true;
                lock(&self.bodies)
                    .held
                    .taken(self.body.stream_id().as_u32(), part.len());
                // What is given on is bounded by whoever takes it.
                let _ = self.body.flow_control().release_capacity(part.len());
                Poll::Ready(Ok(Some(part)))
            }
            Some(Err(error)) => Poll::Ready(Err(unread(error))),
        }
    }

    pub(super) fn take_trailers(&mut self) -> Option<HeaderMap> {
        self.came_behind.take()
    }

    pub(super) fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<Box<Error>> {
        let reset = match &mut self.stream {
            Some(stream) => ready!(stream.poll_reset(cx)),
            None => ready!(self.respond.poll_reset(cx)),
        };
        Poll::Ready(match reset {
            Ok(_) => gone("the client has taken its request back"),
            Err(error) => Error::because(ErrorType::ReadError, "the connection broke", error),
        })
    }

    pub(super) fn has_room(&self) -> bool {
        self.pending.is_empty()
    }

    pub(super) fn put_head(&mut self, mut head: ResponseHeader, end: bool) -> Result<()> {
        let interim = head.status.is_informational();
        for name in &NOT_HERE {
            head.remove_header(name);
        }
        if !interim && !head.headers.contains(header::DATE) {
            // RFC 9110, section 6.6.1.
            head.insert_header(header::DATE, get_cached_date())?;
        }
        let parts = head.into_parts();
        let written = if interim {
            if parts.status == http::StatusCode::CONTINUE && self.body.is_end_stream() {
                return Ok(());
            }
            self.respond
                .send_informational(Response::from_parts(parts, ()))
        } else {
            let sent = self
                .respond
                .send_response(Response::from_parts(parts, ()), end);
            self.finished |= end;
            self.ended |= end;
            sent.map(|stream| self.stream = Some(stream))
        };
        written.map_err(unwritten)
    }

    pub(super) fn put_body(&mut self, part: Bytes, end: bool) {
        self.pending = part;
        self.finished |= end;
    }

    pub(super) fn put_end(&mut self, trailers: Option<HeaderMap>) {
        self.trailers = trailers;
        self.finished = true;
    }

    pub(super) fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<Result<()>> {
        let Some(stream) = self.stream.as_mut().filter(|_| !self.ended) else {
            return Poll::Ready(Ok(()));
        };
        while !self.pending.is_empty() {
            if stream.capacity() == 0 {
                stream.reserve_capacity(self.pending.len());
                match stream.poll_capacity(cx) {
                    Poll::Ready(Some(Ok(_))) => self.stall.over(),
                    Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(unwritten(error))),
                    Poll::Ready(None) => {
                        return Poll::Ready(Err(gone("the client takes no more of its answer")));
                    }
                    Poll::Pending if self.stall.poll_longer_than(cx, WRITE_STALL) => {
                        let late = Error::explain(ErrorType::WriteTimedout, "when answering");
                        return Poll::Ready(Err(late));
                    }
                    Poll::Pending => return Poll::Pending,
                };
                continue;
            }
            let part = self
                .pending
                .split_to(stream.capacity().min(self.pending.len()));
            self.ended = self.finished && self.pending.is_empty() && self.trailers.is_none();
            stream.send_data(part, self.ended).map_err(unwritten)?;
        }
        if self.finished && !self.ended {
            self.ended = true;
            match self.trailers.take() {
                Some(trailers) => stream.send_trailers(trailers),
                None => stream.send_data(Bytes::new(), true),
            }
            .map_err(unwritten)?;
        }
        Poll::Ready(Ok(()))
    }
}

impl Drop for Http2 {
    fn drop(&mut self) {
        lock(&self.bodies).held.end(self.body.stream_id().as_u32());
    }
}

/// Never waited for: a connection stays with one thread.
fn lock(bodies: &Mutex<Bodies>) -> MutexGuard<'_, Bodies> {
    bodies.lock().unwrap_or_else(PoisonError::into_inner)
}

fn unread(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Box<Error> {
    Error::because(ErrorType::ReadError, "when reading a request", error)
}

fn unwritten(error: h2::Error) -> Box<Error> {
    Error::because(ErrorType::WriteError, "when answering", error)
}

/// Whether a request can be read in one way only, by whoever gets it next (RFC 9113, sections 8.1.1
/// and 8.3.1).
pub(crate) fn is_unambiguous(request: &RequestHeader) -> bool {
    let headers = &request.headers;
    if !headers.iter().all(|(_, value)| is_whole(value)) {
        return false;
    }
    let mut lengths = headers.get_all(header::CONTENT_LENGTH);
    match (lengths.next(), lengths.next()) {
        (None, _) => {}
        (Some(said), None) if length(said.as_bytes()).is_some() => {}
        (Some(_), _) => return false,
    }
    let mut hosts = headers.get_all(header::HOST);
    let (host, another) = (hosts.next(), hosts.next());
    let authority = request.uri.authority().map(http::uri::Authority::as_str);
    let agree = match (authority, host) {
        (None, None) => false,
        (Some(authority), Some(host)) => host.as_bytes() == authority.as_bytes(),
        _ => true,
    };
    if !agree || another.is_some() {
        return false;
    }
    if request.method == http::Method::CONNECT {
        // Refused later, whatever it asks for.
        return true;
    }
    let target = request
        .uri
        .path_and_query()
        .map_or("", http::uri::PathAndQuery::as_str);
    (target == "*" || target.starts_with('/')) && is_target(target.as_bytes())
}
