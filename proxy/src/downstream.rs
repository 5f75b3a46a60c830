//! The client's side of a request: the request as it comes, and the answer as it goes.
//!
//! Whoever answers reads and writes through this, whatever the client speaks: HTTP/1.1 over our own
//! codec ([`http1`]), HTTP/2 over a stream of its connection ([`http2`]). Nothing here waits by
//! itself: what is written is collected, and goes out when somebody polls for that.

mod ahead;
mod gone;
pub(crate) mod http1;
pub(crate) mod http2;

use std::future::poll_fn;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, StatusCode, header};
use pingora::{Error, Result};
use tokio::time::Instant;

use self::http1::Http1;
use self::http2::Http2;
use crate::connection::Connection;
use crate::http::head::{RequestHeader, ResponseHeader};

/// How long a client that has its answer may go on sending what nobody wants, so that it gets to
/// read the answer: a connection that is closed while something comes in is reset.
const LINGER: Duration = Duration::from_secs(5);

/// A request of a client, and the way to answer it.
#[derive(Debug)]
pub(crate) struct Downstream {
    request: Box<RequestHeader>,
    /// The status of the head that was written last.
    written: Option<StatusCode>,
    side: Side,
}

#[derive(Debug)]
enum Side {
    One(Box<Http1>),
    Two(Box<Http2>),
}

impl Downstream {
    /// A request over HTTP/1.1 whose head was read.
    pub(crate) fn over_http1(
        connection: Box<Connection>,
        mut head: crate::http::http1::request::Head,
    ) -> Self {
        head.request.look_for_trailers();
        let side = Http1::new(connection, &head);
        Self {
            request: Box::new(head.request),
            written: None,
            side: Side::One(Box::new(side)),
        }
    }

    /// A request over a stream of HTTP/2.
    pub(crate) fn over_http2(mut request: RequestHeader, side: Http2) -> Self {
        request.look_for_trailers();
        Self {
            request: Box::new(request),
            written: None,
            side: Side::Two(Box::new(side)),
        }
    }

    /// The head of the request.
    pub(crate) fn request(&self) -> &RequestHeader {
        &self.request
    }

    /// The same, to be changed.
    pub(crate) fn request_mut(&mut self) -> &mut RequestHeader {
        &mut self.request
    }

    /// Whether the client speaks HTTP/2.
    pub(crate) fn is_http2(&self) -> bool {
        matches!(self.side, Side::Two(_))
    }

    /// The status that the client was sent: an interim one, if nothing else was written yet.
    pub(crate) fn written(&self) -> Option<StatusCode> {
        self.written
    }

    /// Whether the head of an answer was written that is not an interim one.
    pub(crate) fn is_answered(&self) -> bool {
        let informational = |status: StatusCode| {
            status.is_informational() && status != StatusCode::SWITCHING_PROTOCOLS
        };
        self.written.is_some_and(|status| !informational(status))
    }

    /// Whether the request has no body.
    pub(crate) fn is_body_empty(&self) -> bool {
        match &self.side {
            Side::One(one) => one.is_body_done(),
            Side::Two(two) => two.is_body_empty(),
        }
    }

    /// Whether all of the request's body was read.
    pub(crate) fn is_body_done(&self) -> bool {
        match &self.side {
            Side::One(one) => one.is_body_done(),
            Side::Two(two) => two.is_body_done(),
        }
    }

    /// More of the request's body; `None` when it is over.
    pub(crate) fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>>> {
        let part = match &mut self.side {
            Side::One(one) => one.poll_body(cx),
            Side::Two(two) => two.poll_body(cx),
        };
        part.map_err(Error::into_down)
    }

    /// What is left of a body that is not read for the moment, once its client will send no more: like
    /// [`poll_body`](Self::poll_body) from then on. `ahead`: after a while some more is read in any case,
    /// to see whether the client is still there.
    pub(crate) fn poll_rest(
        &mut self,
        cx: &mut Context<'_>,
        ahead: bool,
    ) -> Poll<Result<Option<Bytes>>> {
        match &mut self.side {
            Side::One(one) => one.poll_rest(cx, ahead).map_err(Error::into_down),
            // Over HTTP/2 frames are read in any case, and a client that leaves resets its stream.
            Side::Two(_) => Poll::Pending,
        }
    }

    /// What came behind the request's body, once that is over.
    pub(crate) fn take_trailers(&mut self) -> Option<HeaderMap> {
        match &mut self.side {
            Side::One(one) => one.take_trailers(),
            Side::Two(two) => two.take_trailers(),
        }
    }

    /// Whether the client takes trailers behind its answer: over HTTP/1.1 it has said so.
    pub(crate) fn takes_trailers(&self) -> bool {
        match &self.side {
            Side::One(one) => one.takes_trailers(),
            Side::Two(_) => true,
        }
    }

    /// Names of headers are written in small letters. In HTTP/2 they are in any case.
    pub(crate) fn write_lower(&mut self) {
        if let Side::One(one) = &mut self.side {
            one.write_lower();
        }
    }

    /// Ready when the client is gone.
    pub(crate) fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<Box<Error>> {
        let gone = match &mut self.side {
            Side::One(one) => one.poll_gone(cx),
            Side::Two(two) => two.poll_gone(cx),
        };
        gone.map(Error::into_down)
    }

    /// Whether this is past; if not, the task is woken when it is.
    pub(crate) fn poll_time(&mut self, cx: &mut Context<'_>, until: Instant) -> bool {
        match &mut self.side {
            Side::One(one) => one.timer().poll(cx, until),
            Side::Two(two) => two.timer.poll(cx, until),
        }
    }

    /// No other request is taken on this connection. Over HTTP/2 that is not for a request to say.
    pub(crate) fn close_after(&mut self) {
        if let Side::One(one) = &mut self.side {
            one.close_after();
        }
    }

    /// Whether more may be written.
    pub(crate) fn has_room(&self) -> bool {
        match &self.side {
            Side::One(one) => one.has_room(),
            Side::Two(two) => two.has_room(),
        }
    }

    /// Writes a head. `end`: nothing follows it.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(crate) fn put_head(&mut self, head: Box<ResponseHeader>, end: bool) -> Result<()> {
        let status = head.status;
        let put = match &mut self.side {
            Side::One(one) => {
                one.put_head(&head, end);
                Ok(())
            }
            Side::Two(two) => two.put_head(*head, end),
        };
        self.written = Some(status);
        put.map_err(Error::into_down)
    }

    /// Writes some of the answer's body, or of what follows an upgrade. Only while there is room.
    pub(crate) fn put_body(&mut self, part: Bytes, end: bool) {
        match &mut self.side {
            Side::One(one) => one.put_body(part, end),
            Side::Two(two) => two.put_body(part, end),
        }
    }

    /// Ends the answer, with trailers if there are any and the client takes them.
    pub(crate) fn put_end(&mut self, trailers: Option<HeaderMap>) {
        match &mut self.side {
            Side::One(one) => one.put_end(trailers.as_ref()),
            Side::Two(two) => two.put_end(trailers),
        }
    }

    /// Sends what was written.
    pub(crate) fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<Result<()>> {
        let sent = match &mut self.side {
            Side::One(one) => one.poll_send(cx),
            Side::Two(two) => two.poll_send(cx),
        };
        sent.map_err(Error::into_down)
    }

    /// Sends what was written.
    pub(crate) async fn send(&mut self) -> Result<()> {
        poll_fn(|cx| self.poll_send(cx)).await
    }

    /// Tells a client that waits for it that its body is wanted (RFC 9110, section 10.1.1).
    pub(crate) async fn write_continue(&mut self) -> Result<()> {
        let head = ResponseHeader::build(StatusCode::CONTINUE, 0)?;
        self.put_head(Box::new(head), false)?;
        self.send().await
    }

    /// Writes a whole answer.
    pub(crate) async fn answer(&mut self, mut head: ResponseHeader, body: Bytes) -> Result<()> {
        let headless = head.status != StatusCode::NO_CONTENT;
        if headless && body.is_empty() && !head.headers.contains(header::CONTENT_LENGTH) {
            // So that its connection can be kept.
            head.insert_header(header::CONTENT_LENGTH, 0)?;
        }
        let nothing = body.is_empty() || self.request.method == http::Method::HEAD;
        self.put_head(Box::new(head), nothing)?;
        if !nothing {
            self.put_body(body, true);
        }
        self.send().await
    }

    /// Lets a client that has its answer finish its body, for a while: nobody wants it. How much
    /// that was.
    pub(crate) async fn linger(&mut self) -> u64 {
        let mut read = 0;
        // Over HTTP/2 the stream is ended, and nothing else.
        if self.is_http2() || self.is_body_done() {
            return read;
        }
        let until = Instant::now() + LINGER;
        let over = poll_fn(|cx| {
            loop {
                match self.poll_body(cx) {
                    Poll::Ready(Ok(Some(part))) => read += part.len() as u64,
                    Poll::Ready(Ok(None)) => return Poll::Ready(true),
                    Poll::Ready(Err(_)) => return Poll::Ready(false),
                    Poll::Pending if self.poll_time(cx, until) => return Poll::Ready(false),
                    Poll::Pending => return Poll::Pending,
                }
            }
        })
        .await;
        if !over {
            self.close_after();
        }
        read
    }

    /// The request is over. The connection, if another one may come over it.
    pub(crate) async fn into_connection(mut self) -> Option<Box<Connection>> {
        if let Side::One(one) = &self.side
            && one.keeps()
        {
            self.linger().await;
        }
        match self.side {
            Side::One(one) => one.into_connection().await,
            Side::Two(_) => None,
        }
    }
}
