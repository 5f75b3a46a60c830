//! The body of a request, between the client and the tries.
//!
//! As long as it is small it is kept, so that it can be sent again; what is larger is sent on as it
//! comes and forgotten.

use std::collections::VecDeque;

use bytes::Bytes;
use http::HeaderMap;

/// What is kept of a body whatever its route says: a request that certainly was not processed is
/// sent again with it. More is not read before somebody takes it.
pub(super) const KEPT: u64 = 64 << 10;

/// The same while an endpoint has not answered that may not have processed the request: as much as
/// endpoints usually take before they begin with it (their first windows are 64 KiB), what came with that,
/// and as much again.
const KEPT_WHILE_UNSURE: u64 = 256 << 10;

/// The body of a request, as far as it was read.
#[derive(Clone, Debug)]
pub(crate) struct Upload {
    /// In order; the first `forgotten` ones are gone.
    parts: VecDeque<Bytes>,
    forgotten: usize,
    /// Bytes so far.
    read: u64,
    /// Nothing more will come.
    complete: bool,
    /// What came behind it.
    trailers: Option<HeaderMap>,
}

impl Upload {
    /// One of which nothing was read yet.
    pub(super) fn new() -> Self {
        Self {
            parts: VecDeque::new(),
            forgotten: 0,
            read: 0,
            complete: false,
            trailers: None,
        }
    }

    /// One that is there as a whole.
    pub(super) fn whole(body: Bytes) -> Self {
        Self::whole_with(body, None)
    }

    /// The same with what came behind it.
    pub(super) fn whole_with(body: Bytes, trailers: Option<HeaderMap>) -> Self {
        let mut upload = Self::new();
        upload.add(body);
        upload.end(trailers);
        upload
    }

    /// More of it came.
    pub(super) fn add(&mut self, part: Bytes) {
        if !part.is_empty() {
            self.read += part.len() as u64;
            self.parts.push_back(part);
        }
    }

    /// All of it came, and this behind it (RFC 9110, section 6.5).
    pub(super) fn end(&mut self, trailers: Option<HeaderMap>) {
        self.complete = true;
        self.trailers = trailers;
    }

    /// What came behind it.
    pub(super) fn trailers(&self) -> Option<&HeaderMap> {
        self.trailers.as_ref()
    }

    /// Whether all of it came.
    pub(super) fn is_complete(&self) -> bool {
        self.complete
    }

    /// Whether nothing of it has come.
    pub(super) fn is_untouched(&self) -> bool {
        self.read == 0
    }

    /// Whether all that came is still there.
    pub(super) fn is_whole(&self) -> bool {
        self.forgotten == 0
    }

    /// Whether it may be sent again, if no more than this is to be kept.
    pub(super) fn is_kept(&self, most: u64) -> bool {
        self.is_whole() && self.read <= most
    }

    /// The part at this place, if it has come.
    pub(super) fn part(&self, at: usize) -> Option<&Bytes> {
        self.parts.get(at.checked_sub(self.forgotten)?)
    }

    /// Whether nothing has come that stands behind this place.
    pub(super) fn is_used_up(&self, at: usize) -> bool {
        at >= self.forgotten + self.parts.len()
    }

    /// Everything before this place was sent: what is too large to be kept is forgotten. `unsure`: over
    /// HTTP/2, where an endpoint may say later that it has processed nothing of it.
    pub(super) fn sent(&mut self, at: usize, unsure: bool) {
        if self.read > if unsure { KEPT_WHILE_UNSURE } else { KEPT } {
            while self.forgotten < at && self.parts.pop_front().is_some() {
                self.forgotten += 1;
            }
        }
    }

    /// Everything before this place was sent, and nothing will be sent again.
    pub(super) fn sent_for_good(&mut self, at: usize) {
        while self.forgotten < at && self.parts.pop_front().is_some() {
            self.forgotten += 1;
        }
    }

    /// Whether more of it may be read before anybody has taken what is there.
    pub(super) fn may_read_ahead(&self) -> bool {
        self.read < KEPT
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_bodies_are_kept_and_large_ones_are_forgotten_as_they_are_sent() {
        let mut upload = Upload::new();
        upload.add(Bytes::from_static(b"hello"));
        assert!(upload.is_kept(5) && !upload.is_kept(4));
        upload.sent(1, false);
        assert!(upload.is_whole() && upload.part(0).is_some() && upload.is_used_up(1));
        upload.add(vec![b'x'; KEPT as usize].into());
        assert!(upload.is_whole() && !upload.may_read_ahead());
        assert!(!upload.is_kept(KEPT));
        upload.sent(1, true);
        assert!(upload.is_whole(), "it may have to be sent again");
        upload.sent(1, false);
        assert!(!upload.is_whole());
        assert_eq!(upload.part(0), None);
        assert_eq!(upload.part(1).map(Bytes::len), Some(KEPT as usize));
        upload.sent(2, false);
        assert!(upload.is_used_up(2) && upload.part(2).is_none());
    }
}
