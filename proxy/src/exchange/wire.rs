//! A request and its answer on their way to and from an endpoint, whatever it speaks.

use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderMap, header};
use pingora::{Error, Result};
use tokio::time::Instant;

use super::attempt::Request;
use super::http1::Http1;
use super::http2::Http2;
use super::pool::{Connected, Upstream};
use super::request;
use crate::head::ResponseHeader;
use crate::peer::Target;

/// How long a request's body is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Length {
    /// There is none.
    None,
    /// The client said.
    Known(u64),
    /// Nobody knows until it ends.
    Unknown,
}

/// What follows a head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// Another head: this was an interim one.
    Interim,
    /// Nothing.
    Nothing,
    /// The answer's body.
    Body,
    /// Whatever both sides have to say: the connection was upgraded.
    Upgraded,
}

/// A part of an answer's body.
#[derive(Debug)]
pub(crate) enum Part {
    /// Some of it, and whether it is known to be the last.
    Body(Bytes, bool),
    /// What comes behind it; nothing comes behind that.
    Trailers(HeaderMap),
    /// It is over.
    End,
}

/// What an error means for a request that was begun and is not answered yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lost {
    /// It was certainly not processed. `useful`: others were, on the same connection.
    Unprocessed { useful: bool },
    /// It is the connection: a kept one may have been closed meanwhile, or the endpoint has too much to do
    /// with it.
    Stale,
    /// Its head is more than the endpoint takes.
    TooLarge,
    /// Nobody knows.
    Perhaps,
}

/// A request and its answer.
#[derive(Debug)]
pub(crate) enum Wire {
    One(Box<Http1>),
    Two(Box<Http2>),
}

impl Wire {
    /// Begins a request on this connection.
    ///
    /// # Errors
    /// When it cannot be written, or the connection takes no more requests.
    pub(super) fn begin(
        connected: Connected,
        target: &Target,
        request: &mut Request,
    ) -> Result<Self> {
        let length = request.length;
        match connected {
            Connected::One(stream) => {
                // Who can only be spoken to like this gets the head as it is; otherwise the next
                // connection may need it as it was.
                let mut kept = None;
                let head = if !target.speaks_http2() {
                    &mut request.head
                } else {
                    kept.insert(request.head.clone())
                };
                request::for_http1(head, length, target.authority())?;
                if request.expects {
                    head.insert_header(header::EXPECT, "100-continue")?;
                }
                let one = Http1::begin(stream, head, length, request.upgrade);
                Ok(Self::One(Box::new(one)))
            }
            Connected::Two(slot) => {
                let head = request.head.clone();
                let two = Http2::begin(slot, head, length, request.upgrade, target)?;
                Ok(Self::Two(Box::new(two)))
            }
        }
    }

    /// Whether it takes more of the request's body.
    pub(super) fn has_room(&self) -> bool {
        match self {
            Self::One(one) => one.has_room(),
            Self::Two(two) => two.has_room(),
        }
    }

    /// Takes some of the request's body. Only when there is room.
    pub(super) fn send(&mut self, part: Bytes) {
        match self {
            Self::One(one) => one.send(part),
            Self::Two(two) => two.send(part),
        }
    }

    /// The request's body is over; what comes behind it.
    pub(super) fn finish(&mut self, trailers: Option<HeaderMap>) {
        match self {
            Self::One(one) => one.finish(trailers),
            Self::Two(two) => two.finish(trailers),
        }
    }

    /// Sends what it took, as far as the endpoint takes it. Whether anything was sent.
    pub(super) fn send_on(&mut self, cx: &mut Context<'_>) -> bool {
        match self {
            Self::One(one) => one.send_on(cx),
            Self::Two(two) => two.send_on(cx),
        }
    }

    /// Whether all that it took was sent.
    pub(super) fn is_sent(&self) -> bool {
        match self {
            Self::One(one) => one.is_sent(),
            Self::Two(two) => two.is_sent(),
        }
    }

    /// Whether the endpoint takes no more of the request. It may answer all the same.
    pub(super) fn is_cut(&self) -> bool {
        match self {
            Self::One(one) => one.is_cut(),
            Self::Two(two) => two.is_cut(),
        }
    }

    /// What this error means for a request that is not answered yet, and whose connection may have been
    /// `kept`.
    pub(super) fn lost(&self, error: &Error, kept: bool) -> Lost {
        match self {
            Self::One(one) if kept && one.is_unheard() => Lost::Stale,
            Self::One(_) => Lost::Perhaps,
            Self::Two(two) => two.lost(error, kept),
        }
    }

    /// The next head.
    pub(super) fn poll_head(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(Box<ResponseHeader>, Next)>> {
        match self {
            Self::One(one) => one.poll_head(cx),
            Self::Two(two) => two.poll_head(cx),
        }
    }

    /// What comes next of the answer.
    pub(super) fn poll_part(&mut self, cx: &mut Context<'_>) -> Poll<Result<Part>> {
        match self {
            Self::One(one) => one.poll_part(cx),
            Self::Two(two) => two.poll_part(cx),
        }
    }

    /// No more is said on an upgraded connection; the endpoint may still say something.
    pub(super) fn poll_half_close(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match self {
            Self::One(one) => one.poll_half_close(cx),
            Self::Two(_) => Poll::Ready(()),
        }
    }

    /// Gives the connection back, if it may be used again. Otherwise it is cut: over HTTP/1.1 the
    /// connection ends, over HTTP/2 the stream (`CANCEL`). `used`: when the endpoint was last heard, or
    /// earlier.
    pub(super) fn give_back(self, upstream: &Upstream, target: Target, used: Instant) {
        match self {
            Self::One(one) => {
                if let Some((stream, promise)) = one.into_kept() {
                    upstream.keep_one(stream, target, used, promise);
                }
            }
            // Its place is given back when it is dropped.
            Self::Two(_) => {}
        }
    }
}
