//! HTTP/2 with an endpoint: one request and one answer, over a stream of the engine's connections.

use std::future::Future as _;
use std::pin::pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::SendStream;
use http::{HeaderMap, StatusCode, header};
use pingora::protocols::http::v2::client::Http2Session;
use pingora::{Error, ErrorType, Result};

use super::wire::{Length, Next, Part};

use crate::head::{RequestHeader, ResponseHeader};

/// A request and its answer.
pub(crate) struct Http2 {
    /// Dropped before the session, so that the session's end is the stream's.
    body: Option<SendStream<Bytes>>,
    session: Http2Session,
    /// Taken, and not yet sent.
    pending: Bytes,
    /// What comes behind the body.
    trailers: Option<HeaderMap>,
    /// Nothing more will be taken.
    finished: bool,
    /// The end of the request was sent.
    ended: bool,
    cut: bool,
    /// What the answer says it will be long, less what came.
    rest: Option<u64>,
    /// There is nothing more but trailers.
    behind: bool,
}

impl std::fmt::Debug for Http2 {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Http2").finish_non_exhaustive()
    }
}

impl Http2 {
    /// Begins a request.
    ///
    /// # Errors
    /// When it cannot be written as HTTP/2, or the connection takes no more requests.
    pub(super) fn begin(
        mut session: Http2Session,
        head: RequestHeader,
        length: Length,
    ) -> Result<Self> {
        let empty = matches!(length, Length::None | Length::Known(0));
        session.write_request_header(Box::new(head.into_engine()), empty)?;
        Ok(Self {
            body: session.take_request_body_writer(),
            session,
            pending: Bytes::new(),
            trailers: None,
            finished: empty,
            ended: empty,
            cut: false,
            rest: None,
            behind: false,
        })
    }

    pub(super) fn has_room(&self) -> bool {
        !self.cut && self.pending.is_empty()
    }

    pub(super) fn is_cut(&self) -> bool {
        self.cut
    }

    pub(super) fn is_sent(&self) -> bool {
        self.pending.is_empty() && (self.ended || !self.finished)
    }

    pub(super) fn send(&mut self, part: Bytes) {
        if !self.cut && !self.finished {
            self.pending = part;
        }
    }

    pub(super) fn finish(&mut self, trailers: Option<HeaderMap>) {
        self.finished = true;
        self.trailers = trailers;
    }

    pub(super) fn send_on(&mut self, cx: &mut Context<'_>) -> bool {
        let Some(body) = self.body.as_mut().filter(|_| !self.cut) else {
            return false;
        };
        let mut sent = false;
        while !self.pending.is_empty() {
            let room = body.capacity();
            if room == 0 {
                body.reserve_capacity(self.pending.len());
                match body.poll_capacity(cx) {
                    Poll::Pending => return sent,
                    Poll::Ready(Some(Ok(_))) => {}
                    Poll::Ready(Some(Err(_)) | None) => {
                        self.cut = true;
                        self.pending.clear();
                        return sent;
                    }
                }
                continue;
            }
            let part = self.pending.split_to(room.min(self.pending.len()));
            let end = self.finished && self.pending.is_empty() && self.trailers.is_none();
            if body.send_data(part, end).is_err() {
                self.cut = true;
                self.pending.clear();
                return sent;
            }
            self.ended |= end;
            sent = true;
        }
        if self.finished && !self.ended {
            let ended = match self.trailers.take() {
                Some(trailers) => body.send_trailers(trailers),
                None => body.send_data(Bytes::new(), true),
            };
            if ended.is_err() {
                self.cut = true;
            }
            self.ended = true;
            sent = true;
        }
        sent
    }

    pub(super) fn poll_head(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(Box<ResponseHeader>, Next)>> {
        if let Err(error) = ready!(self.session.poll_read_response_header(cx)) {
            return Poll::Ready(Error::e_because(
                ErrorType::H2Error,
                "when reading the head of an answer",
                error,
            ));
        }
        let Some(head) = self.session.response_header() else {
            return Poll::Ready(Error::e_explain(ErrorType::InvalidHTTPHeader, "no head"));
        };
        let head = Box::new(ResponseHeader::from(head));
        if head.status.is_informational() {
            // There are no upgrades in HTTP/2, and interim answers are read elsewhere.
            return Poll::Ready(Error::e_explain(
                ErrorType::InvalidHTTPHeader,
                "an interim answer in place of an answer",
            ));
        }
        let bodiless = self
            .session
            .request_header()
            .is_some_and(|request| request.method == http::Method::HEAD)
            || head.status == StatusCode::NOT_MODIFIED;
        self.rest = head
            .headers
            .get(header::CONTENT_LENGTH)
            .filter(|_| !bodiless)
            .and_then(|length| length.to_str().ok()?.parse().ok());
        let next = if self.is_over()? {
            Next::Nothing
        } else {
            Next::Body
        };
        Poll::Ready(Ok((head, next)))
    }

    /// Whether the answer is over, with nothing behind it.
    fn is_over(&mut self) -> Result<bool> {
        match self.session.check_response_end_or_error() {
            Err(error)
                if self.rest.is_none_or(|rest| rest == 0)
                    && error.root_cause().downcast_ref().is_some_and(is_enough) =>
            {
                Ok(true)
            }
            over => over,
        }
    }

    pub(super) fn poll_part(&mut self, cx: &mut Context<'_>) -> Poll<Result<Part>> {
        while !self.behind {
            match ready!(self.session.poll_read_response_body(cx)) {
                Some(Ok(part)) => {
                    if let Some(rest) = &mut self.rest {
                        *rest = rest.saturating_sub(part.len() as u64);
                    }
                    let end = self.is_over()?;
                    // Nothing in HTTP/2 is the end in HTTP/1.1.
                    if !part.is_empty() || end {
                        return Poll::Ready(Ok(Part::Body(part, end)));
                    }
                }
                Some(Err(error)) if is_enough(&error) && self.rest.is_none_or(|rest| rest == 0) => {
                    return Poll::Ready(Ok(Part::End));
                }
                Some(Err(error)) => {
                    return Poll::Ready(Error::e_because(
                        ErrorType::H2Error,
                        "when reading an answer",
                        error,
                    ));
                }
                None => self.behind = true,
            }
        }
        // Made anew each time: it only looks.
        let trailers = pin!(self.session.read_trailers());
        Poll::Ready(Ok(match ready!(trailers.poll(cx))? {
            Some(trailers) => Part::Trailers(trailers),
            None => Part::End,
        }))
    }

    /// Ends the request, wherever it is, and gives up its stream.
    pub(super) fn into_session(self) -> Http2Session {
        drop(self.body);
        self.session
    }
}

/// The endpoint has said all it had to say and wants no more of the request (RFC 9113, section 8.1).
fn is_enough(error: &h2::Error) -> bool {
    error.is_reset() && error.is_remote() && error.reason() == Some(h2::Reason::NO_ERROR)
}

/// Whether the connection broke, not only the stream.
pub(super) fn is_broken(error: &Error) -> bool {
    error
        .root_cause()
        .downcast_ref::<h2::Error>()
        .is_some_and(h2::Error::is_io)
}
