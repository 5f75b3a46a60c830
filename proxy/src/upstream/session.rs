//! A request and its answer on their way to and from an endpoint, whatever it speaks.

pub(crate) mod head;
pub(crate) mod http1;
pub(crate) mod http2;
pub(crate) mod part;
pub(crate) mod question;

use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderMap, header};
use pingora::{Error, Result};
use tokio::time::Instant;

use crate::http::head::ResponseHeader;
use crate::upstream::connect::peer::Target;
use crate::upstream::connect::pool::{Connected, Upstream};
use crate::upstream::session::http1::Http1;
use crate::upstream::session::http2::Http2;
use crate::upstream::session::part::{Lost, Next, Part};
use crate::upstream::session::question::Request;

/// A request and its answer.
#[derive(Debug)]
pub(crate) enum Session {
    H1(Box<Http1>),
    H2(Box<Http2>),
}

impl Session {
    /// Begins a request on this connection.
    ///
    /// # Errors
    /// When it cannot be written, or the connection takes no more requests.
    pub(crate) fn begin(
        connected: Connected,
        target: &Target,
        request: &mut Request,
    ) -> Result<Self> {
        let length = request.length;
        match connected {
            Connected::H1(stream) => {
                // Who can only be spoken to like this gets the head as it is; otherwise the next
                // connection may need it as it was.
                let mut kept = None;
                let head = if !target.speaks_http2() {
                    &mut request.head
                } else {
                    kept.insert(request.head.clone())
                };
                head::for_http1(head, length, target.authority())?;
                if request.expects {
                    head.insert_header(header::EXPECT, "100-continue")?;
                }
                let one = Http1::begin(stream, head, length, request.upgrade);
                Ok(Self::H1(Box::new(one)))
            }
            Connected::H2(slot) => {
                let head = request.head.clone();
                let two = Http2::begin(slot, head, length, request.upgrade, target)?;
                Ok(Self::H2(Box::new(two)))
            }
        }
    }

    /// Whether it takes more of the request's body.
    pub(crate) fn has_room(&self) -> bool {
        match self {
            Self::H1(one) => one.has_room(),
            Self::H2(two) => two.has_room(),
        }
    }

    /// Takes some of the request's body. Only when there is room.
    pub(crate) fn send(&mut self, part: Bytes) {
        match self {
            Self::H1(one) => one.send(part),
            Self::H2(two) => two.send(part),
        }
    }

    /// The request's body is over; what comes behind it.
    pub(crate) fn finish(&mut self, trailers: Option<HeaderMap>) {
        match self {
            Self::H1(one) => one.finish(trailers),
            Self::H2(two) => two.finish(trailers),
        }
    }

    /// Sends what it took, as far as the endpoint takes it. Whether anything was sent.
    pub(crate) fn send_on(&mut self, cx: &mut Context<'_>) -> bool {
        match self {
            Self::H1(one) => one.send_on(cx),
            Self::H2(two) => two.send_on(cx),
        }
    }

    /// Whether all that it took was sent.
    pub(crate) fn is_sent(&self) -> bool {
        match self {
            Self::H1(one) => one.is_sent(),
            Self::H2(two) => two.is_sent(),
        }
    }

    /// Whether the endpoint takes no more of the request. It may answer all the same.
    pub(crate) fn is_cut(&self) -> bool {
        match self {
            Self::H1(one) => one.is_cut(),
            Self::H2(two) => two.is_cut(),
        }
    }

    /// What this error means for a request that is not answered yet, and whose connection may have been
    /// `kept`.
    pub(crate) fn lost(&self, error: &Error, kept: bool) -> Lost {
        match self {
            Self::H1(one) if kept && one.is_unheard() => Lost::Stale,
            Self::H1(_) => Lost::Perhaps,
            Self::H2(two) => two.lost(error, kept),
        }
    }

    /// The next head.
    pub(crate) fn poll_head(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(Box<ResponseHeader>, Next)>> {
        match self {
            Self::H1(one) => one.poll_head(cx),
            Self::H2(two) => two.poll_head(cx),
        }
    }

    /// What comes next of the answer.
    pub(crate) fn poll_part(&mut self, cx: &mut Context<'_>) -> Poll<Result<Part>> {
        match self {
            Self::H1(one) => one.poll_part(cx),
            Self::H2(two) => two.poll_part(cx),
        }
    }

    /// No more is said on an upgraded connection; the endpoint may still say something.
    pub(crate) fn poll_half_close(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match self {
            Self::H1(one) => one.poll_half_close(cx),
            Self::H2(_) => Poll::Ready(()),
        }
    }

    /// Gives the connection back, if it may be used again. Otherwise it is cut: over HTTP/1.1 the
    /// connection ends, over HTTP/2 the stream (`CANCEL`). `used`: when the endpoint was last heard, or
    /// earlier.
    pub(crate) fn give_back(self, upstream: &Upstream, target: Target, used: Instant) {
        match self {
            Self::H1(one) => {
                if let Some((stream, promise)) = one.into_kept() {
                    upstream.keep_h1(stream, target, used, promise);
                }
            }
            // Its place is given back when it is dropped.
            Self::H2(_) => {}
        }
    }
}
