//! One try: connect to an endpoint, send the request, and wait for the head of the answer.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::protocols::http::HttpTask;
use pingora::protocols::http::client::HttpSession;
use pingora::upstreams::peer::HttpPeer;
use pingora::{Error, ErrorType, Result, RetryType};
use portolan_control::retry::{Fault, Sent};
use portolan_control::stats::TryOutcome;

use super::{Upstream, request};
use crate::fault;

/// Pooled connections that may be found closed before that counts as the endpoint's failure.
const MOST_REPLACEMENTS: u32 = 3;

/// The head of an answer, and where the rest of it comes from.
pub(crate) struct Answer {
    pub(super) session: HttpSession,
    pub(super) peer: HttpPeer,
    pub(super) head: Box<ResponseHeader>,
    /// There is no body.
    pub(super) end: bool,
}

/// A try that failed.
#[derive(Debug)]
pub(crate) struct Failed {
    /// As the engine says it.
    pub(crate) error: Box<Error>,
    /// As the decider knows it.
    pub(crate) fault: Fault,
    /// How much of the request reached the endpoint.
    pub(crate) sent: Sent,
    /// It says nothing about the endpoint: a kept connection had been closed meanwhile.
    pub(crate) excused: bool,
}

/// Makes the try. A pooled connection that turns out to be closed is replaced, if the request may
/// be repeated or certainly was not seen: that says nothing about the endpoint.
pub(super) async fn attempt(
    upstream: Arc<Upstream>,
    peer: HttpPeer,
    head: RequestHeader,
    body: Bytes,
    first_byte: Duration,
    idempotent: bool,
    sent: Arc<AtomicBool>,
) -> Result<Answer, Failed> {
    let mut replacements = 0;
    loop {
        let connected = upstream.connector.get_http_session(&peer).await;
        let (mut session, reused) = connected.map_err(|error| Failed {
            fault: classify(&error).0,
            error: error.into_up(),
            sent: Sent::Nothing,
            excused: false,
        })?;
        sent.store(true, Ordering::Relaxed);
        match ask(&mut session, &peer, head.clone(), &body, first_byte).await {
            Ok((head, end)) => {
                return Ok(Answer {
                    session,
                    peer,
                    head,
                    end,
                });
            }
            Err(error) => {
                session.shutdown().await;
                let (fault, what) = classify(&error);
                let stale = reused && matches!(error.retry, RetryType::ReusedOnly);
                let harmless = what == Sent::Nothing || (stale && idempotent);
                if harmless && fault == Fault::Reset && replacements < MOST_REPLACEMENTS {
                    replacements += 1;
                    continue;
                }
                return Err(Failed {
                    error: error.into_up(),
                    fault,
                    sent: what,
                    excused: stale,
                });
            }
        }
    }
}

/// Sends the request and reads the head of the answer.
async fn ask(
    session: &mut HttpSession,
    peer: &HttpPeer,
    mut head: RequestHeader,
    body: &Bytes,
    first_byte: Duration,
) -> Result<(Box<ResponseHeader>, bool)> {
    session.set_write_timeout(peer.options.write_timeout);
    session.set_read_timeout(Some(first_byte));
    let answer = match session {
        HttpSession::H1(h1) => {
            request::for_http1(&mut head)?;
            h1.write_request_header(Box::new(head)).await?;
            if !body.is_empty() {
                h1.write_body(body).await?;
            }
            h1.finish_body().await?;
            loop {
                let HttpTask::Header(head, end) = h1.read_response_task().await? else {
                    return Error::e_explain(ErrorType::InvalidHTTPHeader, "no head");
                };
                // The body is there already: nobody waits for the word to send it.
                if head.status != StatusCode::CONTINUE {
                    break (head, end);
                }
            }
        }
        HttpSession::H2(h2) => {
            request::for_http2(&mut head, peer.is_tls())?;
            h2.write_request_header(Box::new(head), body.is_empty())?;
            if !body.is_empty() {
                h2.write_request_body(body.clone(), true).await?;
            }
            h2.read_response_header().await?;
            let Some(head) = h2.response_header() else {
                return Error::e_explain(ErrorType::InvalidHTTPHeader, "no head");
            };
            let head = Box::new(head.clone());
            (head, h2.check_response_end_or_error()?)
        }
        HttpSession::Custom(()) => {
            return Error::e_explain(ErrorType::InternalError, "no such protocol");
        }
    };
    if answer.0.status == StatusCode::SWITCHING_PROTOCOLS {
        // Nobody asked for it (RFC 9110, section 15.2.2).
        return Error::e_explain(ErrorType::InvalidHTTPHeader, "an upgrade nobody asked for");
    }
    session.set_read_timeout(peer.options.read_timeout);
    Ok(answer)
}

/// The engine's error, in the decider's words.
pub(crate) fn classify(error: &Error) -> (Fault, Sent) {
    if let Some(h2) = error.root_cause().downcast_ref::<h2::Error>() {
        let refused = h2.is_reset() && h2.reason() == Some(h2::Reason::REFUSED_STREAM);
        let leaving = h2.is_go_away() && h2.reason() == Some(h2::Reason::NO_ERROR);
        if h2.is_remote() && (refused || leaving) {
            // RFC 9113, sections 8.7 and 6.8: not processed.
            return (Fault::Reset, Sent::Nothing);
        }
    }
    match fault::outcome(error) {
        TryOutcome::ConnectFailed => (Fault::Connect, Sent::Nothing),
        TryOutcome::TimedOut => (Fault::Timeout, Sent::Perhaps),
        _ => (Fault::Reset, Sent::Perhaps),
    }
}
