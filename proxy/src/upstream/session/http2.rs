//! HTTP/2 with an endpoint: one request and one answer, over a stream of a connection that many share.
//!
//! The library `h2` speaks; what is ours is which connection a request goes on ([`pool`](crate::upstream::connect::http2::pool)), what an
//! endpoint allows on it ([`state`](crate::upstream::connect::http2::state)), when it is driven and how it ends ([`connection`](crate::upstream::connect::http2::connection)), and what
//! becomes of streams that are given up ([`winding`](crate::upstream::connect::http2::winding)).

mod websocket;

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::{Reason, SendStream};
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use pingora::{Error, ErrorType, Result};
use portolan_config::fields::Fields;

use crate::http::head::{RequestHeader, ResponseHeader, is_whole};
use crate::upstream::connect::peer::Target;
use crate::upstream::session::part::{Length, Lost, Next, Part};

pub(crate) use crate::upstream::connect::http2::connection::{Receive, Slot};
pub(crate) use crate::upstream::connect::http2::state::{Claim, Need};

/// Interim answers to one request: more than this is an attack.
const MOST_INTERIM: u32 = 16;

/// A head that is larger than this has its connection to itself: many endpoints that find it too large
/// end the connection, whoever else is on it. It is the smallest limit that is widespread.
const LARGE_HEAD: usize = 8 << 10;

/// How many bytes the longest code of HPACK takes for one (RFC 7541, appendix B).
const LONGEST_CODE: usize = 4;

/// Only a head that is smaller than this is sent before the endpoint has said how large one may be.
const SMALL_HEAD: usize = LARGE_HEAD / LONGEST_CODE;

/// What a field costs besides its bytes where heads are measured (RFC 9113, section 6.5.2).
const FIELD: usize = 32;

/// A request and its answer.
pub(crate) struct Http2 {
    /// Until it is over.
    stream: Option<Stream>,
    /// By HEAD.
    head_only: bool,
    /// It asks for its connection to be upgraded; the client's key.
    upgrade: Option<Option<HeaderValue>>,
    /// Its head is large.
    large: bool,
    /// Taken, and not yet sent.
    pending: Bytes,
    trailers: Option<HeaderMap>,
    /// Nothing more will be taken.
    finished: bool,
    /// The end of the request was sent.
    ended: bool,
    cut: bool,
    interim: u32,
    /// What the answer says it will be long, less what came.
    rest: Option<u64>,
    /// There is nothing more but trailers.
    behind: bool,
    /// The answer is over.
    over: bool,
    /// The stream is: there is nothing to be said on it any more.
    broken: bool,
}

/// A stream, both ways, and its place on a connection.
struct Stream {
    send: SendStream<Bytes>,
    receive: Receive,
    slot: Slot,
}

impl std::fmt::Debug for Http2 {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Http2").finish_non_exhaustive()
    }
}

/// The size of a request's head, as HTTP/2 counts it (RFC 9113, section 6.5.2).
fn size(head: &RequestHeader) -> usize {
    // `:method`, `:scheme`, `:path`, and Host in place of `:authority`.
    const PSEUDO: usize = 7 + 7 + 5 + 3 * FIELD + "https".len();
    let fields = head.headers.iter();
    let fields = fields.map(|(name, value)| name.as_str().len() + value.len() + FIELD);
    PSEUDO + head.method.as_str().len() + head.target().len() + fields.sum::<usize>()
}

/// Whether it is large: as it is, or as it is written, for what is rare takes more room then.
fn is_large(head: &RequestHeader) -> bool {
    let size = size(head);
    if size <= SMALL_HEAD {
        return false;
    }
    let values = head.headers.iter().map(|(_, value)| value.as_bytes());
    let more: usize = values
        .chain([head.target()])
        .flatten()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' => 0,
            b' ' | b'%' | b'&' | b'*' | b',' | b'-' | b'.' | b'/' | b':' | b';' | b'=' | b'_' => 0,
            b'!'..=b'~' => 1,
            _ => LONGEST_CODE - 1,
        })
        .sum();
    size + more > LARGE_HEAD
}

/// What a request needs of its connection.
pub(crate) fn need(head: &RequestHeader, claim: Claim, upgrade: bool) -> Need {
    Need {
        alone: is_large(head),
        measured: size(head) > SMALL_HEAD,
        upgrade,
        claim,
        once: None,
    }
}

impl Http2 {
    /// Begins a request.
    ///
    /// # Errors
    /// When it is too large for the endpoint (431), asks for what cannot be had over HTTP/2 (501),
    /// cannot be written, or the connection takes no more requests.
    pub(crate) fn begin(
        mut slot: Slot,
        mut head: RequestHeader,
        length: Length,
        upgrade: bool,
        target: &Target,
    ) -> Result<Self> {
        let large = is_large(&head);
        {
            let state = slot.state();
            let most = state.header_list();
            if most.is_some_and(|most| size(&head) > most as usize) {
                return Error::e_explain(
                    ErrorType::HTTPStatus(431),
                    "a head that is larger than the endpoint takes",
                );
            }
            if upgrade && !state.connects() {
                return Error::e_explain(
                    ErrorType::HTTPStatus(501),
                    "an upgrade that the endpoint does not offer over HTTP/2",
                );
            }
        }
        let empty = !upgrade && matches!(length, Length::None | Length::Known(0));
        let head_only = head.method == Method::HEAD;
        let key = upgrade.then(|| websocket::ask(&mut head));
        crate::upstream::session::head::for_http2(&mut head, target.is_tls(), target.authority())?;
        let mut request = http::Request::from_parts(head.into_parts(), ());
        if upgrade {
            request.extensions_mut().insert(websocket::protocol());
        }
        let (response, send) = slot.open(request, empty).map_err(|error| {
            Error::because(ErrorType::H2Error, "when beginning a request", error)
        })?;
        let receive = Receive::Head(response);
        Ok(Self {
            stream: Some(Stream {
                send,
                receive,
                slot,
            }),
            head_only,
            upgrade: key,
            large,
            pending: Bytes::new(),
            trailers: None,
            finished: empty,
            ended: empty,
            cut: false,
            interim: 0,
            rest: None,
            behind: false,
            over: false,
            broken: false,
        })
    }

    pub(crate) fn has_room(&self) -> bool {
        !self.cut && self.pending.is_empty()
    }

    pub(crate) fn is_cut(&self) -> bool {
        self.cut
    }

    pub(crate) fn is_sent(&self) -> bool {
        self.pending.is_empty() && (self.ended || !self.finished)
    }

    pub(crate) fn send(&mut self, part: Bytes) {
        if !self.cut && !self.finished {
            self.pending = part;
        }
    }

    pub(crate) fn finish(&mut self, trailers: Option<HeaderMap>) {
        // A request that asks for an upgrade has no body; what follows is for when it is granted.
        let asks = self.upgrade.is_some() && matches!(self.receive(), Some(Receive::Head(_)));
        if !self.finished && !asks {
            self.trailers = trailers;
            self.finished = true;
        }
    }

    fn receive(&self) -> Option<&Receive> {
        self.stream.as_ref().map(|stream| &stream.receive)
    }

    pub(crate) fn send_on(&mut self, cx: &mut Context<'_>) -> bool {
        let mut sent = false;
        if !self.cut && !self.ended && self.poll_send(cx, &mut sent).is_err() {
            self.cut = true;
            self.pending.clear();
        }
        sent
    }

    /// Sends on as far as the endpoint takes it; `sent`: whether it took any.
    fn poll_send(&mut self, cx: &mut Context<'_>, sent: &mut bool) -> std::result::Result<(), Cut> {
        let Stream { send, slot, .. } = self.stream.as_mut().ok_or(Cut)?;
        while !self.pending.is_empty() {
            let room = send.capacity();
            if room == 0 {
                send.reserve_capacity(self.pending.len());
                match send.poll_capacity(cx) {
                    Poll::Pending => return Ok(()),
                    Poll::Ready(Some(Ok(_))) => continue,
                    Poll::Ready(Some(Err(_)) | None) => return Err(Cut),
                }
            }
            let part = self.pending.split_to(room.min(self.pending.len()));
            let end = self.finished && self.pending.is_empty() && self.trailers.is_none();
            slot.state().sent(part.len());
            send.send_data(part, end).map_err(|_| Cut)?;
            self.ended |= end;
            *sent = true;
        }
        if self.finished && !self.ended {
            self.ended = true;
            match self.trailers.take() {
                Some(trailers) => send.send_trailers(trailers),
                None => send.send_data(Bytes::new(), true),
            }
            .map_err(|_| Cut)?;
            *sent = true;
        }
        Ok(())
    }

    pub(crate) fn poll_head(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(Box<ResponseHeader>, Next)>> {
        let Some(Stream {
            receive: receive @ Receive::Head(_),
            slot,
            ..
        }) = &mut self.stream
        else {
            return Poll::Ready(Error::e_explain(ErrorType::InternalError, "a second head"));
        };
        let Receive::Head(response) = receive else {
            return Poll::Pending;
        };
        match ready!(response.poll_informational(cx)) {
            Some(Ok(interim)) => {
                let (parts, ()) = interim.into_parts();
                self.interim += 1;
                // RFC 9113, section 8.6: there are no upgrades like this.
                if self.interim > MOST_INTERIM || parts.status == StatusCode::SWITCHING_PROTOCOLS {
                    let bad = "interim answers without end, or to switch protocols";
                    return Poll::Ready(Error::e_explain(ErrorType::InvalidHTTPHeader, bad));
                }
                return Poll::Ready(Ok((Box::new(parts.into()), Next::Interim)));
            }
            Some(Err(error)) => {
                return Poll::Ready(Err(self.broke("the head of an answer", error)));
            }
            None => {}
        }
        let (parts, mut body) = match ready!(Pin::new(response).poll(cx)) {
            Ok(response) => response.into_parts(),
            Err(error) => return Poll::Ready(Err(self.broke("the head of an answer", error))),
        };
        let mut head = Box::new(ResponseHeader::from(parts));
        trim(&mut head.headers);
        self.over = body.is_end_stream();
        if !self.over {
            let flow = body.flow_control().clone();
            slot.state().held.opens(slot.stream(), flow);
        }
        *receive = Receive::Body(body);
        if let Some(key) = &self.upgrade {
            if websocket::grant(&mut head, key.as_ref()) {
                return Poll::Ready(Ok((head, Next::Upgraded)));
            }
            self.finished = true;
        }
        let bodiless = self.head_only
            || matches!(
                head.status,
                StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED
            );
        self.rest = head
            .headers
            .get(header::CONTENT_LENGTH)
            .filter(|_| !bodiless)
            .and_then(|length| length.to_str().ok()?.parse().ok());
        let next = match self.over {
            true => Next::Nothing,
            false => Next::Body,
        };
        Poll::Ready(Ok((head, next)))
    }

    pub(crate) fn poll_part(&mut self, cx: &mut Context<'_>) -> Poll<Result<Part>> {
        let Some(Stream {
            receive: Receive::Body(body),
            slot,
            ..
        }) = &mut self.stream
        else {
            return Poll::Ready(Error::e_explain(ErrorType::InternalError, "no head yet"));
        };
        while !self.behind {
            match ready!(body.poll_data(cx)) {
                Some(Ok(part)) => {
                    if let Some(rest) = &mut self.rest {
                        *rest = rest.saturating_sub(part.len() as u64);
                    }
                    let end = body.is_end_stream();
                    self.over |= end;
                    slot.state().held.taken(slot.stream(), part.len());
                    // Whoever takes it bounds how much is taken.
                    let _ = body.flow_control().release_capacity(part.len());
                    // Nothing in HTTP/2 is the end in HTTP/1.1.
                    if !part.is_empty() || end {
                        return Poll::Ready(Ok(Part::Body(part, end)));
                    }
                }
                Some(Err(error)) if self.rest.is_none_or(|rest| rest == 0) && is_enough(&error) => {
                    self.over = true;
                    return Poll::Ready(Ok(Part::End));
                }
                Some(Err(error)) => return Poll::Ready(Err(self.broke("an answer", error))),
                None => self.behind = true,
            }
        }
        let trailers = ready!(body.poll_trailers(cx));
        self.over = true;
        Poll::Ready(match trailers {
            Ok(Some(trailers)) => Ok(Part::Trailers(trailers)),
            Ok(None) => Ok(Part::End),
            Err(error) if is_enough(&error) => Ok(Part::End),
            Err(error) => Err(self.broke("the end of an answer", error)),
        })
    }

    /// Nothing more comes, and nothing more can be said.
    fn broke(&mut self, what: &'static str, error: h2::Error) -> Box<Error> {
        self.broken = true;
        if is_refused(&error)
            && let Some(stream) = &self.stream
        {
            stream.slot.state().refused();
        }
        Error::because(ErrorType::H2Error, format!("when reading {what}"), error)
    }

    /// What this error means for a request that is not answered yet.
    pub(crate) fn lost(&self, error: &Error, kept: bool) -> Lost {
        let h2 = error.root_cause().downcast_ref::<h2::Error>();
        let (Some(h2), Some(stream)) = (h2, &self.stream) else {
            return Lost::Perhaps;
        };
        let state = stream.slot.state();
        let code = match state.goaway() {
            Some(goaway) => Some(goaway.code.into()),
            None if h2.is_remote() => h2.reason(),
            None => None,
        };
        if self.large && code.is_some_and(is_too_much) {
            return Lost::TooLarge;
        }
        // RFC 9113, sections 6.8 and 8.7.
        if state.is_unprocessed(stream.slot.stream()) {
            let useful = state.has_accepted();
            return Lost::Unprocessed { useful };
        }
        if is_refused(h2) {
            drop(state);
            let useful = stream.slot.has_progressed();
            return Lost::Unprocessed { useful };
        }
        // It has too much to do with this connection: another one is as good as new.
        let crowded =
            h2.is_reset() && h2.is_remote() && h2.reason() == Some(Reason::ENHANCE_YOUR_CALM);
        match crowded || kept && h2.is_io() {
            true => Lost::Stale,
            false => Lost::Perhaps,
        }
    }
}

/// Whether it is the connection that takes no more requests: nothing was sent.
pub(crate) fn is_gone(error: &Error) -> bool {
    let h2 = error.root_cause().downcast_ref::<h2::Error>();
    h2.is_some_and(crate::upstream::connect::http2::connection::is_gone)
}

/// The endpoint takes no more of a request.
struct Cut;

impl Drop for Http2 {
    /// Gives its place back: now if the stream is over, and otherwise when its endpoint was told.
    fn drop(&mut self) {
        let done = self.broken || self.over && (self.ended || self.cut);
        if let Some(stream) = self.stream.take().filter(|_| !done) {
            stream.slot.abandon(stream.send, stream.receive);
        }
    }
}

/// Takes blanks off the ends of values, as is done over HTTP/1.1: passed on over HTTP/2 they would make
/// the answer malformed.
fn trim(headers: &mut Fields) {
    if !headers.iter().all(|(_, value)| is_whole(value)) {
        let fields = std::mem::take(headers).into_iter();
        let trimmed = |value: HeaderValue| {
            let bytes = value.as_bytes().trim_ascii();
            HeaderValue::from_bytes(bytes).unwrap_or(value)
        };
        *headers = fields.map(|(name, value)| (name, trimmed(value))).collect();
    }
}

/// The endpoint has said all it had to say and wants no more of the request (RFC 9113, section 8.1).
fn is_enough(error: &h2::Error) -> bool {
    error.is_reset() && error.is_remote() && error.reason() == Some(Reason::NO_ERROR)
}

/// The endpoint has not looked at the request (RFC 9113, section 8.7).
fn is_refused(error: &h2::Error) -> bool {
    error.is_reset() && error.is_remote() && error.reason() == Some(Reason::REFUSED_STREAM)
}

/// The endpoint's words for a head that is more than it takes.
fn is_too_much(code: Reason) -> bool {
    [
        Reason::PROTOCOL_ERROR,
        Reason::INTERNAL_ERROR,
        Reason::FRAME_SIZE_ERROR,
        Reason::COMPRESSION_ERROR,
        Reason::ENHANCE_YOUR_CALM,
    ]
    .contains(&code)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(cookie: &[u8]) -> RequestHeader {
        let mut head = RequestHeader::build("GET", b"/", 0).unwrap();
        head.append_header("host", "a.example").unwrap();
        head.append_header("cookie", cookie).unwrap();
        head
    }

    #[test]
    fn heads_are_measured_as_the_standard_has_it() {
        let mut head = RequestHeader::build("GET", b"/", 0).unwrap();
        head.append_header("host", "a.example").unwrap();
        // `:authority` is two pseudo-headers of six bytes longer than `host`.
        let fields = [(7, 3), (7, 5), (5, 1), (4, 9)];
        let exact: usize = fields
            .iter()
            .map(|(name, value)| name + value + FIELD)
            .sum();
        assert_eq!(size(&head), exact);
    }

    #[test]
    fn a_head_is_large_as_it_is_or_as_it_is_written() {
        for (byte, most) in [(b'a', 7_900), (b'~', 3_900), (0xff, 1_950)] {
            assert!(!is_large(&request(&vec![byte; most])), "{byte}");
            assert!(is_large(&request(&vec![byte; most + 300])), "{byte}");
        }
    }
}
