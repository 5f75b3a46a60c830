//! The request's body, kept as a whole so that it can be sent again.

use bytes::{Bytes, BytesMut};
use http::header;
use pingora::http::RequestHeader;
use pingora::proxy::Session;
use pingora::{Error, ErrorType, Result};
use tokio::time::Instant;

use crate::body_rate::BodyRate;
use crate::context::RequestContext;

/// How long a body will be, if the client said so.
pub(super) fn length(request: &RequestHeader) -> Option<u64> {
    let length = request.headers.get(header::CONTENT_LENGTH)?;
    length.to_str().ok()?.parse().ok()
}

/// Reads all of it.
pub(super) async fn read(session: &mut Session, ctx: &mut RequestContext) -> Result<Bytes> {
    if session.is_body_empty() {
        return Ok(Bytes::new());
    }
    let request = session.req_header();
    let length = length(request).unwrap_or_default() as usize;
    let waits = request
        .headers
        .get(header::EXPECT)
        .is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"));
    if waits {
        session.write_continue_response().await?;
    }
    let limits = ctx
        .connection
        .as_ref()
        .map(|connection| connection.listener.limits());
    let mut rate = BodyRate::default();
    let mut whole = BytesMut::with_capacity(length);
    loop {
        // Over HTTP/2 the engine would wait for ever.
        let reading = session.as_downstream_mut().read_request_body();
        let began = Instant::now();
        let part = match limits {
            None => reading.await?,
            Some(limits) => match tokio::time::timeout(rate.within(&limits), reading).await {
                Ok(part) => part?,
                Err(_) => {
                    let error = Error::explain(ErrorType::ReadTimedout, "the body took too long");
                    return Err(error.into_down());
                }
            },
        };
        match part {
            Some(part) => {
                rate.came(part.len(), began.elapsed());
                ctx.bytes_in += part.len() as u64;
                whole.extend_from_slice(&part);
            }
            None => return Ok(whole.freeze()),
        }
    }
}
