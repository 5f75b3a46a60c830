//! Streams that were given up before they were over.
//!
//! Each is reset, so that its endpoint does nothing in vain (RFC 9113, section 5.4.2). But an endpoint
//! counts resets on a connection, and ends one that brings too many (CVE-2023-44487): with everybody's
//! requests that are on it. So resets are paced. What has to wait for its turn is read on and thrown
//! away; many answers come to their end before it. It is not read further than its window, and a
//! connection with many such streams takes no requests: others are opened beside it.

use std::collections::VecDeque;
use std::task::{Context, Poll};

use tokio::time::Instant;

use crate::http::token_bucket::Bucket;

/// Resets in a row on one connection, and how many more each second. The strictest widespread limits
/// are a hundred in a row and thirty-three each second.
const RESETS: (f64, f64) = (100.0, 30.0);

/// The streams of one connection that were given up.
#[derive(Debug)]
pub(crate) struct Winding<S> {
    streams: VecDeque<S>,
    resets: Bucket,
    /// Who drives the connection, while nothing waits here.
    driver: Option<std::task::Waker>,
    /// The connection is over.
    over: bool,
}

impl<S> Default for Winding<S> {
    fn default() -> Self {
        Self {
            streams: VecDeque::new(),
            resets: Bucket::new(RESETS, Instant::now()),
            driver: None,
            over: false,
        }
    }
}

/// A stream that was given up: it is reset when it is dropped, unless it is over.
pub(crate) trait GivenUp {
    /// Reads on. Ready when the endpoint has nothing more to say.
    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<()>;
}

impl<S: GivenUp> Winding<S> {
    /// Takes a stream, unless it can be reset at once.
    pub(crate) fn add(&mut self, stream: S) -> Option<S> {
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
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> (Vec<S>, Option<Instant>) {
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
    pub(crate) fn end(&mut self) -> VecDeque<S> {
        self.over = true;
        std::mem::take(&mut self.streams)
    }
}
