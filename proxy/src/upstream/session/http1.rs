//! HTTP/1.1 with an endpoint: one request, one answer, over a connection that may be kept.
//!
//! Written and read at the same time, and never for longer than there is something to write or to
//! read: whoever polls decides. What is read is believed only as far as it can be read in one way
//! ([`answer`], [`body`](crate::http::http1::body)); the connection is kept only when both messages ended as they should and
//! nothing stands behind the answer.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Method};
use pingora::{Error, ErrorType, Result};
use tokio::io::AsyncWrite as _;
use tokio_util::io::poll_read_buf;

use crate::http::buffer_pool;
use crate::http::head::{RequestHeader, ResponseHeader};
use crate::http::http1::answer::Asked;
use crate::http::http1::body::{Body, Step};
use crate::http::http1::{Bad, answer, write};
use crate::http::write_buffer::WriteBuffer;
use crate::upstream::connect::idle;
use crate::upstream::connect::stream::EndpointStream;
use crate::upstream::session::part::{Length, Next, Part};

/// How much is read at a time: a head with a small body, and more of a body that is larger.
const READ: usize = 8 << 10;
const READ_MORE: usize = 64 << 10;

/// Whoever sends less than this at once, one segment of the largest usual frames, may wait for it to be
/// acknowledged. Of more the system acknowledges every other segment at once (RFC 9293, section
/// 3.8.6.3).
const FEW: usize = 9 << 10;

/// Interim answers to one request: more than this is an attack.
const MOST_INTERIM: u32 = 16;

/// How the body of the request is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sending {
    /// So many bytes are still to be written.
    Length(u64),
    Chunks,
    /// As it is: the connection was upgraded.
    Everything,
    Done,
}

/// A request and its answer.
pub(crate) struct Http1 {
    stream: EndpointStream,
    asked: Asked,
    sending: Sending,
    /// Names of headers are written in small letters.
    lower: bool,
    /// What comes behind the request's body is sent.
    trailers: bool,
    /// To be written.
    outgoing: WriteBuffer,
    /// Written, and perhaps not sent.
    unflushed: bool,
    /// Nothing more can be written, and why.
    cut: Option<io::Error>,
    /// Read, and not yet taken.
    read: BytesMut,
    /// Bytes of a head that were looked at.
    seen: usize,
    /// The endpoint has said something.
    heard: bool,
    /// It will say nothing more.
    closed: bool,
    /// The last that it said was little, and may not be acknowledged yet.
    unacknowledged: bool,
    interim: u32,
    /// What follows the head, once it is known.
    body: Option<Body>,
    keep: bool,
    /// How long it says that it keeps the connection.
    promise: Option<Duration>,
}

impl std::fmt::Debug for Http1 {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Http1").finish_non_exhaustive()
    }
}

impl Http1 {
    /// Begins a request. Its head is written with whatever is sent first of its body.
    pub(crate) fn begin(
        stream: EndpointStream,
        head: &RequestHeader,
        length: Length,
        upgrade: bool,
    ) -> Self {
        let mut outgoing = WriteBuffer::default();
        write::request(outgoing.small(), head);
        write::end(outgoing.small());
        Self {
            stream,
            asked: Asked {
                head: head.method == Method::HEAD,
                upgrade,
            },
            sending: match length {
                Length::None | Length::Known(0) => Sending::Done,
                Length::Known(length) => Sending::Length(length),
                Length::Unknown => Sending::Chunks,
            },
            lower: head.headers.is_lower(),
            trailers: head.takes_trailers(),
            outgoing,
            unflushed: false,
            cut: None,
            read: BytesMut::new(),
            seen: 0,
            heard: false,
            closed: false,
            unacknowledged: false,
            interim: 0,
            body: None,
            keep: true,
            promise: None,
        }
    }

    /// Whether it takes more to be sent.
    pub(crate) fn has_room(&self) -> bool {
        self.cut.is_none() && self.outgoing.has_room()
    }

    /// Whether nothing more can be sent.
    pub(crate) fn is_cut(&self) -> bool {
        self.cut.is_some()
    }

    /// Whether the endpoint has not said anything yet.
    pub(crate) fn is_unheard(&self) -> bool {
        !self.heard
    }

    /// Takes some of the request's body. Only when there is room.
    pub(crate) fn send(&mut self, part: Bytes) {
        if part.is_empty() || self.cut.is_some() {
            return;
        }
        match &mut self.sending {
            Sending::Length(rest) if *rest >= part.len() as u64 => {
                *rest -= part.len() as u64;
                self.outgoing.put(part);
            }
            Sending::Everything => self.outgoing.put(part),
            Sending::Chunks => self.outgoing.put_chunk(part),
            Sending::Length(_) | Sending::Done => {
                self.cut(io::Error::other("a body that is longer than it was to be"));
            }
        }
    }

    /// The request's body is over. Where its length was told there is no place for anything behind it.
    pub(crate) fn finish(&mut self, trailers: Option<HeaderMap>) {
        match self.sending {
            Sending::Chunks => {
                let trailers = trailers.filter(|_| self.trailers);
                self.outgoing.end_chunks(trailers.as_ref(), self.lower);
                self.sending = Sending::Done;
            }
            Sending::Length(0) => self.sending = Sending::Done,
            Sending::Length(_) => {
                self.cut(io::Error::other("a body that is shorter than it was to be"));
            }
            Sending::Everything | Sending::Done => {}
        }
    }

    fn cut(&mut self, error: io::Error) {
        self.outgoing.clear();
        self.keep = false;
        self.cut.get_or_insert(error);
    }

    /// Whether all that it took was sent.
    pub(crate) fn is_sent(&self) -> bool {
        self.outgoing.is_empty() && !self.unflushed
    }

    /// Sends what it took, as far as the endpoint takes it. What cannot be sent is given up: an
    /// answer may be there all the same. Whether anything was sent.
    pub(crate) fn send_on(&mut self, cx: &mut Context<'_>) -> bool {
        let mut sent = false;
        while !self.outgoing.is_empty() {
            match self.outgoing.poll_write(cx, Pin::new(&mut self.stream)) {
                Poll::Pending => return sent,
                Poll::Ready(Ok(count)) if count > 0 => {
                    sent = true;
                    self.unflushed = true;
                }
                Poll::Ready(Ok(_)) => self.cut(io::ErrorKind::WriteZero.into()),
                Poll::Ready(Err(error)) => self.cut(error),
            }
        }
        if self.unflushed && self.cut.is_none() {
            match Pin::new(&mut self.stream).poll_flush(cx) {
                Poll::Pending => {}
                Poll::Ready(Ok(())) => self.unflushed = false,
                Poll::Ready(Err(error)) => self.cut(error),
            }
        }
        sent
    }

    /// Reads more: so much at most. Ready with whether there was any.
    fn poll_fill(&mut self, cx: &mut Context<'_>, room: usize) -> Poll<Result<bool>> {
        // A body that is larger than that keeps its own buffer until it is over.
        let small = room <= buffer_pool::SIZE;
        if small && self.read.capacity() == 0 {
            self.read = buffer_pool::take();
        }
        self.read.reserve(room);
        let read = poll_read_buf(Pin::new(&mut self.stream), cx, &mut self.read);
        if self.unacknowledged && read.is_pending() {
            // A part of an answer is here, and the rest of it is not.
            self.unacknowledged = false;
            self.stream.acknowledge();
        }
        if small && read.is_pending() && self.read.is_empty() {
            // Who waits holds no buffer.
            buffer_pool::put(std::mem::take(&mut self.read));
        }
        match ready!(read) {
            Ok(count) => {
                self.heard |= count > 0;
                self.closed |= count == 0;
                self.unacknowledged = (1..FEW).contains(&count);
                Poll::Ready(Ok(count > 0))
            }
            Err(error) => {
                self.closed = true;
                Poll::Ready(Error::e_because(
                    ErrorType::ReadError,
                    "when reading an answer",
                    error,
                ))
            }
        }
    }

    /// The next head: an interim one, or the answer's own, with whether nothing follows it.
    pub(crate) fn poll_head(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(Box<ResponseHeader>, Next)>> {
        loop {
            if !self.read.is_empty()
                && let Some(head) =
                    answer::take(&mut self.read, &mut self.seen, self.asked).map_err(refused)?
            {
                let interim = head.response.status.is_informational()
                    && head.response.status != http::StatusCode::SWITCHING_PROTOCOLS;
                if interim {
                    self.interim += 1;
                    // What it says may follow may be taken for an answer.
                    self.keep &= head.keep;
                    if self.interim > MOST_INTERIM {
                        let bad = Bad::Head("interim answers without end");
                        return Poll::Ready(Err(refused(bad)));
                    }
                    return Poll::Ready(Ok((head.response, Next::Interim)));
                }
                let next = match head.body {
                    Body::Everything => {
                        self.sending = Sending::Everything;
                        Next::Upgraded
                    }
                    ref body if body.is_done() => Next::Nothing,
                    _ => Next::Body,
                };
                self.keep &= head.keep && self.cut.is_none();
                if self.keep {
                    self.promise = idle::promise(&head.response.headers);
                }
                self.body = Some(head.body);
                return Poll::Ready(Ok((head.response, next)));
            }
            if self.closed || !ready!(self.poll_fill(cx, READ))? {
                let error = match self.cut.take() {
                    Some(error) => {
                        Error::because(ErrorType::WriteError, "when sending a request", error)
                    }
                    None if self.heard => refused(Bad::CutShort),
                    None => Error::explain(ErrorType::ConnectionClosed, "closed without a word"),
                };
                return Poll::Ready(Err(error));
            }
        }
    }

    /// What comes next of the answer.
    pub(crate) fn poll_part(&mut self, cx: &mut Context<'_>) -> Poll<Result<Part>> {
        let mut body = self.body.take().unwrap_or(Body::Done);
        let result = self.poll_body(cx, &mut body);
        self.body = Some(body);
        result
    }

    fn poll_body(&mut self, cx: &mut Context<'_>, body: &mut Body) -> Poll<Result<Part>> {
        loop {
            match body.take(&mut self.read, self.closed).map_err(refused)? {
                Step::Data(data) => {
                    // Whether it is the last of it is known at once, if what ends it is there.
                    let end = body.is_done() || self.is_over(body);
                    return Poll::Ready(Ok(Part::Body(data, end)));
                }
                Step::End(Some(trailers)) => return Poll::Ready(Ok(Part::Trailers(trailers))),
                Step::End(None) => return Poll::Ready(Ok(Part::End)),
                Step::More => {
                    let room = match body {
                        Body::Length(rest) => usize::try_from(*rest).unwrap_or(READ_MORE),
                        _ => 2 * READ,
                    };
                    ready!(self.poll_fill(cx, room.clamp(READ, READ_MORE)))?;
                }
            }
        }
    }

    /// Whether nothing but the end of a chunked body stands in the buffer; then it is taken.
    fn is_over(&mut self, body: &mut Body) -> bool {
        if matches!(body, Body::Chunked(_)) && self.read.starts_with(b"\r\n0\r\n\r\n") {
            return matches!(body.take(&mut self.read, false), Ok(Step::End(None)));
        }
        false
    }

    /// No more is said to the endpoint; it may still say something.
    pub(crate) fn poll_half_close(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        Pin::new(&mut self.stream).poll_shutdown(cx).map(|_| ())
    }

    /// The connection, if the next request may use it: both messages are over, and nothing stands
    /// behind the answer. And how long the endpoint says that it keeps it.
    pub(crate) fn into_kept(self) -> Option<(EndpointStream, Option<Duration>)> {
        let empty = self.read.is_empty();
        let sent = self.sending == Sending::Done && self.is_sent();
        let over = self.body.as_ref().is_some_and(Body::is_done) && empty;
        let keep = self.keep && sent && over && !self.closed && self.cut.is_none();
        buffer_pool::put(self.read);
        keep.then_some((self.stream, self.promise))
    }
}

fn refused(bad: Bad) -> Box<Error> {
    Error::because(
        ErrorType::InvalidHTTPHeader,
        "an answer that is refused",
        bad,
    )
}
