//! The body of a request, as it comes from the client.

use bytes::{Bytes, BytesMut};
use http::{Version, header};
use pingora::http::RequestHeader;
use pingora::proxy::Session;
use pingora::{Error, ErrorType, Result};
use portolan_config::plan::RoutePlan;
use portolan_control::clock::{Clock, Tick};

use super::upload::Upload;
use super::wire::Length;
use crate::context::RequestContext;
use crate::grpc;

/// How long a request's body will be.
pub(super) fn length(session: &mut Session) -> Length {
    if session.is_body_empty() {
        return Length::None;
    }
    let length = session.req_header().headers.get(header::CONTENT_LENGTH);
    match length.and_then(|length| length.to_str().ok()?.parse().ok()) {
        Some(length) => Length::Known(length),
        None => Length::Unknown,
    }
}

/// Whether the client waits to be told that its body is wanted (RFC 9110, section 10.1.1).
pub(super) fn is_expected(request: &RequestHeader) -> bool {
    request.version == Version::HTTP_11
        && request
            .headers
            .get(header::EXPECT)
            .is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"))
}

/// The body, as far as it has to be there before an endpoint is asked: what is kept for another try
/// anyway is read as a whole, and no endpoint waits for a slow client. The rest comes later.
pub(super) async fn first(
    session: &mut Session,
    ctx: &mut RequestContext,
    route: &RoutePlan,
    length: Length,
    clock: &Clock,
) -> Result<Upload> {
    ctx.converses = grpc::is_call(session.req_header());
    match length {
        Length::None => Ok(Upload::whole(Bytes::new())),
        Length::Known(length) if length <= route.retry.max_body => {
            if is_expected(session.req_header()) {
                let told = session.write_continue_response().await;
                told.map_err(Error::into_down)?;
            }
            whole(session, ctx, length as usize, clock).await
        }
        _ => Ok(Upload::new()),
    }
}

/// Reads all of it.
async fn whole(
    session: &mut Session,
    ctx: &mut RequestContext,
    length: usize,
    clock: &Clock,
) -> Result<Upload> {
    let mut body = BytesMut::with_capacity(length);
    loop {
        let reading = session.as_downstream_mut().read_request_body();
        let began = clock.now();
        let part = match patience(ctx) {
            None => reading.await.map_err(Error::into_down)?,
            Some(patience) => match tokio::time::timeout(patience, reading).await {
                Ok(part) => part.map_err(Error::into_down)?,
                Err(_) => return Err(too_slow()),
            },
        };
        match part {
            Some(part) => {
                ctx.body_rate.came(0, clock.now().since(began));
                taken(ctx, &part, clock.now())?;
                // Most bodies come in one piece.
                if body.is_empty() && part.len() == length {
                    return Ok(Upload::whole(part));
                }
                body.extend_from_slice(&part);
            }
            None => return Ok(Upload::whole(body.freeze())),
        }
    }
}

/// Some of a request's body was read: every part, however it goes on, passes here.
///
/// # Errors
/// When it has become larger than the listener allows.
pub(super) fn taken(ctx: &mut RequestContext, part: &Bytes, now: Tick) -> Result<()> {
    ctx.bytes_in += part.len() as u64;
    ctx.client_heard = now;
    ctx.body_rate.came(part.len(), std::time::Duration::ZERO);
    let limits = ctx.connection.as_ref().map(|c| c.listener.limits());
    let limit = limits.and_then(|limits| limits.body_bytes);
    if limit.is_some_and(|limit| ctx.bytes_in > limit) {
        return Err(Error::explain(ErrorType::HTTPStatus(413), "body too large").into_down());
    }
    Ok(())
}

/// How much longer a client may send nothing of its body.
pub(super) fn patience(ctx: &RequestContext) -> Option<std::time::Duration> {
    let limits = ctx.connection.as_ref()?.listener.limits();
    Some(match ctx.converses {
        true => limits.idle_timeout,
        false => ctx.body_rate.within(&limits),
    })
}

/// The client was silent for longer than that.
pub(super) fn too_slow() -> Box<Error> {
    Error::explain(ErrorType::ReadTimedout, "the body took too long").into_down()
}
