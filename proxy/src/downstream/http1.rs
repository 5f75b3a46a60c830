//! A request over HTTP/1.1, and its answer.

use std::io;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode, Version, header};
use pingora::protocols::http::date::get_cached_date;
use pingora::{Error, ErrorType, Result};

use super::ahead::Ahead;
use crate::connection::{Connection, Waiting};
use crate::downstream::gone::gone;
use crate::http::head::ResponseHeader;
use crate::http::http1::body::{Body, Step};
use crate::http::http1::request::Head;
use crate::http::http1::{Bad, write};
use crate::timer::Timer;

/// How much is read at a time of a body.
const READ: usize = 8 << 10;
const READ_MORE: usize = 64 << 10;

/// How long a client that has half-closed its connection waits for its answer before it is sent an interim
/// answer, and how often from then on. A client that has closed its connection as a whole looks the same
/// until something is sent to it: then its system answers with a reset.
const ASK: Duration = Duration::from_secs(5);
const ASK_AGAIN: Duration = Duration::from_secs(30);

/// What every client of HTTP/1.1 reads over (RFC 9110, section 15.2).
const STILL_THERE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// How the body of the answer is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Writing {
    /// The head was not written yet.
    Head,
    /// So many bytes are still to be written.
    Length(u64),
    Chunks,
    /// Until the connection ends.
    UntilClose,
    Done,
}

/// A request and its answer.
#[derive(Debug)]
pub(crate) struct Http1 {
    connection: Box<Connection>,
    /// The request's body, as far as it was read.
    body: Body,
    writing: Writing,
    /// It was asked for by HEAD: no answer has a body.
    head_only: bool,
    version: Version,
    /// Another request may come over this connection.
    keep: bool,
    /// Waiting for an answer, of a client that has half-closed; and whether it was sent an interim one.
    silent: Waiting,
    asked: bool,
    /// What was read of the body while the upload is stalled.
    ahead: Ahead,
    /// The client takes trailers behind its answer.
    takes_trailers: bool,
    /// What came behind the request's body.
    trailers: Option<HeaderMap>,
    /// Names of headers are written in small letters.
    lower: bool,
}

impl Http1 {
    pub(super) fn new(connection: Box<Connection>, head: &Head) -> Self {
        Self {
            connection,
            body: head.body.clone(),
            writing: Writing::Head,
            head_only: head.request.method == Method::HEAD,
            version: head.request.version,
            keep: head.keep,
            silent: Waiting::default(),
            asked: false,
            ahead: Ahead::default(),
            takes_trailers: head.request.takes_trailers(),
            trailers: None,
            lower: false,
        }
    }

    pub(super) fn timer(&mut self) -> &mut Timer {
        &mut self.connection.timer
    }

    pub(super) fn is_body_done(&self) -> bool {
        self.body.is_done()
    }

    pub(super) fn keeps(&self) -> bool {
        self.keep
    }

    pub(super) fn close_after(&mut self) {
        self.keep = false;
    }

    pub(super) fn has_room(&self) -> bool {
        self.connection.outgoing.has_room()
    }

    pub(super) fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>>> {
        self.connection.is_read();
        self.ahead.taken();
        self.poll_more(cx)
    }

    /// What is left of the request's body, once the client will send no more than that: it costs no
    /// more here than where it waits to be read, and whether it is a whole request shows by it.
    pub(super) fn poll_rest(
        &mut self,
        cx: &mut Context<'_>,
        ahead: bool,
    ) -> Poll<Result<Option<Bytes>>> {
        if self.body.is_done() {
            return Poll::Pending;
        }
        ready!(self.connection.poll_unread(cx));
        if !(ahead && self.ahead.has_room()) {
            ready!(self.connection.poll_silent(cx));
        }
        let part = ready!(self.poll_more(cx));
        if let Ok(Some(part)) = &part {
            self.ahead.read(part.len());
        }
        Poll::Ready(part)
    }

    fn poll_more(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>>> {
        let mut closed = false;
        loop {
            match self.body.take(&mut self.connection.read, closed) {
                Ok(Step::Data(part)) => return Poll::Ready(Ok(Some(part))),
                Ok(Step::End(trailers)) => {
                    self.trailers = trailers.or(self.trailers.take());
                    return Poll::Ready(Ok(None));
                }
                Ok(Step::More) => {
                    let room = match self.body {
                        Body::Length(rest) => usize::try_from(rest).unwrap_or(READ_MORE),
                        _ => 2 * READ,
                    };
                    let room = room.clamp(READ, READ_MORE);
                    match ready!(self.connection.poll_fill(cx, room)) {
                        Ok(count) => closed = count == 0,
                        Err(error) => return Poll::Ready(Err(unread(error))),
                    }
                }
                Err(bad) => {
                    self.keep = false;
                    return Poll::Ready(Err(match bad {
                        Bad::CutShort => gone("the client ended the connection in its request"),
                        bad => unread(io::Error::new(io::ErrorKind::InvalidData, bad)),
                    }));
                }
            }
        }
    }

    pub(super) fn take_trailers(&mut self) -> Option<HeaderMap> {
        self.trailers.take()
    }

    pub(super) fn takes_trailers(&self) -> bool {
        self.takes_trailers
    }

    pub(super) fn write_lower(&mut self) {
        self.lower = true;
    }

    pub(super) fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<Box<Error>> {
        if let Poll::Ready(error) = self.connection.poll_gone(cx) {
            return Poll::Ready(unread(error));
        }
        // HTTP/1.0 has no interim answers.
        if !self.connection.is_ended()
            || self.version != Version::HTTP_11
            || self.writing != Writing::Head
        {
            return Poll::Pending;
        }
        let patience = if self.asked { ASK_AGAIN } else { ASK };
        if self.silent.poll_longer_than(cx, patience) {
            self.silent.over();
            self.asked = true;
            let out = self.connection.outgoing.small();
            out.extend_from_slice(STILL_THERE);
            if let Poll::Ready(Err(error)) = self.connection.poll_send(cx) {
                return Poll::Ready(unread(error));
            }
            // The timer has to be set.
            cx.waker().wake_by_ref();
        }
        Poll::Pending
    }

    pub(super) fn put_head(&mut self, head: &ResponseHeader, end: bool) {
        let interim =
            head.status.is_informational() && head.status != StatusCode::SWITCHING_PROTOCOLS;
        if !interim {
            self.frame(head, end);
        }
        let out = self.connection.outgoing.small();
        write::answer(out, head, self.lower);
        if !interim {
            if !head.headers.contains(header::DATE) {
                // RFC 9110, section 6.6.1.
                write::field(out, &header::DATE, get_cached_date().as_bytes(), self.lower);
            }
            if head.status == StatusCode::SWITCHING_PROTOCOLS {
                // It says itself what becomes of the connection.
            } else if !self.keep {
                write::field(out, &header::CONNECTION, b"close", self.lower);
            } else if self.version == Version::HTTP_10 {
                write::field(out, &header::CONNECTION, b"keep-alive", self.lower);
            }
        }
        write::end(out);
    }

    /// How what follows the head is framed.
    fn frame(&mut self, head: &ResponseHeader, end: bool) {
        let headers = &head.headers;
        let bodiless = self.head_only
            || matches!(
                head.status,
                StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED
            );
        self.writing = if head.status == StatusCode::SWITCHING_PROTOCOLS {
            // Neither side says any more where it ends.
            self.body = Body::Everything;
            self.keep = false;
            Writing::UntilClose
        } else if bodiless {
            Writing::Done
        } else if headers.contains(header::TRANSFER_ENCODING) {
            Writing::Chunks
        } else if let Some(length) = headers.get(header::CONTENT_LENGTH) {
            let length = length.to_str().ok().and_then(|length| length.parse().ok());
            length.map_or(Writing::UntilClose, Writing::Length)
        } else {
            Writing::UntilClose
        };
        if self.writing == Writing::UntilClose {
            self.keep = false;
        }
        if end {
            self.put_end(None);
        }
    }

    pub(super) fn put_body(&mut self, part: Bytes, end: bool) {
        if !part.is_empty() {
            let outgoing = &mut self.connection.outgoing;
            match &mut self.writing {
                Writing::Length(rest) if *rest >= part.len() as u64 => {
                    *rest -= part.len() as u64;
                    outgoing.put(part);
                }
                Writing::UntilClose => outgoing.put(part),
                Writing::Chunks => outgoing.put_chunk(part),
                // More than was announced: the client would take it for the next answer.
                Writing::Length(_) | Writing::Done | Writing::Head => self.keep = false,
            }
        }
        if end {
            self.put_end(None);
        }
    }

    pub(super) fn put_end(&mut self, trailers: Option<&HeaderMap>) {
        match self.writing {
            Writing::Chunks => {
                let trailers = trailers.filter(|_| self.takes_trailers);
                self.connection.outgoing.end_chunks(trailers, self.lower);
            }
            // Less than was announced, or nothing at all: the client still waits.
            Writing::Length(1..) | Writing::Head => self.keep = false,
            Writing::Length(0) | Writing::UntilClose | Writing::Done => {}
        }
        self.writing = Writing::Done;
    }

    pub(super) fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<Result<()>> {
        self.connection.poll_send(cx).map_err(|error| {
            self.keep = false;
            let kind = match error.kind() {
                io::ErrorKind::TimedOut => ErrorType::WriteTimedout,
                _ => ErrorType::WriteError,
            };
            Error::because(kind, "when answering", error)
        })
    }

    /// The connection, if another request may come over it; otherwise it ends.
    pub(super) async fn into_connection(mut self) -> Option<Box<Connection>> {
        let over = self.writing == Writing::Done && self.body.is_done();
        if self.keep && over {
            self.connection.is_read();
            return Some(self.connection);
        }
        if self.writing == Writing::Done {
            // Whoever still sends, or has sent more already, shall read why it need not.
            let more = !self.connection.read.is_empty();
            let may_send = more || !(self.body.is_done() || self.body == Body::Everything);
            self.connection.close(may_send).await;
        }
        // An answer that breaks off must not look like one that is over.
        None
    }
}

fn unread(error: io::Error) -> Box<Error> {
    Error::because(ErrorType::ReadError, "when reading a request", error)
}
