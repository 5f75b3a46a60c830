//! Streams that were given up before they were over.
//!
//! Each is reset, so that its endpoint does nothing in vain (RFC 9113, section 5.4.2). But an endpoint
//! counts resets on a connection, and ends one that brings too many (CVE-2023-44487): with everybody's
//! requests that are on it. So resets are paced. What has to wait for its turn is read on and thrown
//! away; many answers come to their end before it. It is not read further than its window, and a
//! connection with many such streams takes no requests: others are opened beside it.

use std::collections::VecDeque;
use std::task::{Context, Poll};

use bytes::Bytes;
use h2::SendStream;
use tokio::time::Instant;

use super::Receive;
use super::connection::Slot;
use crate::tokens::Bucket;

/// Resets in a row on one connection, and how many more each second. The strictest widespread limits
/// are a hundred in a row and thirty-three each second.
const RESETS: (f64, f64) = (100.0, 30.0);

/// The streams of one connection that were given up.
#[derive(Debug)]
pub(super) struct Winding {
    streams: VecDeque<Abandoned>,
    resets: Bucket,
    /// Who drives the connection, while nothing waits here.
    driver: Option<std::task::Waker>,
    /// The connection is over.
    over: bool,
}

impl Default for Winding {
    fn default() -> Self {
        Self {
            streams: VecDeque::new(),
            resets: Bucket::new(RESETS, Instant::now()),
            driver: None,
            over: false,
        }
    }
}

/// A stream that was given up. It is reset when it is dropped, unless it is over.
#[derive(Debug)]
pub(super) struct Abandoned {
    _send: SendStream<Bytes>,
    receive: Receive,
    /// Given back after it was reset.
    slot: Slot,
}

impl Abandoned {
    pub(super) fn new(slot: Slot, send: SendStream<Bytes>, receive: Receive) -> Self {
        Self {
            _send: send,
            receive,
            slot,
        }
    }

    /// Reads on. Ready when the endpoint has nothing more to say.
    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            match &mut self.receive {
                Receive::Head(response) => match response.poll_informational(cx) {
                    Poll::Ready(Some(Ok(_))) => {}
                    Poll::Ready(Some(Err(_))) => return Poll::Ready(()),
                    Poll::Ready(None) => match std::pin::Pin::new(response).poll(cx) {
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

impl Winding {
    /// Takes a stream, unless it can be reset at once.
    pub(super) fn add(&mut self, stream: Abandoned) -> Option<Abandoned> {
        if self.over || self.streams.is_empty() && self.resets.take(1.0, Instant::now) {
            return Some(stream);
        }
        self.streams.push_back(stream);
        if let Some(driver) = self.driver.take() {
            driver.wake();
        }
        None
    }

    /// Those that are over, or whose turn it is to be reset, are to be dropped; and when the next one's
    /// turn comes.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> (Vec<Abandoned>, Option<Instant>) {
        let mut ended = Vec::new();
        if !self.streams.is_empty() {
            let mut at = 0;
            while at < self.streams.len() {
                if self.streams[at].poll_end(cx).is_ready() {
                    ended.extend(self.streams.remove(at));
                } else {
                    at += 1;
                }
            }
            while !self.streams.is_empty() && self.resets.take(1.0, Instant::now) {
                ended.extend(self.streams.pop_front());
            }
        }
        self.driver = Some(cx.waker().clone());
        let again = !self.streams.is_empty();
        (ended, again.then(|| Instant::now() + self.resets.wait(1.0)))
    }

    /// The connection is over: all of them are to be dropped.
    pub(super) fn end(&mut self) -> VecDeque<Abandoned> {
        self.over = true;
        std::mem::take(&mut self.streams)
    }
}
