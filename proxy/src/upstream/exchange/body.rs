//! The body of a request, as it comes from the client.

use std::future::poll_fn;
use std::task::Poll;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{Version, header};
use pingora::{Error, ErrorType, Result};
use portolan_config::plan::RoutePlan;
use portolan_control::clock::{Clock, Tick};
use tokio::time::Instant;

use super::request;
use super::upload::Upload;
use crate::downstream::Downstream;
use crate::http::grpc;
use crate::http::head::RequestHeader;
use crate::request::context::Served;
use crate::upstream::session::part::Length;

/// How long a request's body will be.
pub(super) fn length(downstream: &Downstream) -> Length {
    if downstream.is_body_empty() {
        return Length::None;
    }
    let length = downstream.request().headers.get(header::CONTENT_LENGTH);
    match length.and_then(|length| length.to_str().ok()?.parse().ok()) {
        Some(length) => Length::Known(length),
        None => Length::Unknown,
    }
}

/// Whether the client waits to be told that its body is wanted (RFC 9110, section 10.1.1; over HTTP/2
/// alike). Clients of HTTP/1.0 know no interim answers.
pub(super) fn is_expected(request: &RequestHeader) -> bool {
    request.version != Version::HTTP_10
        && request
            .headers
            .get(header::EXPECT)
            .is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"))
}

/// The body, as far as it has to be there before an endpoint is asked: what is kept for another try
/// anyway is read as a whole, and no endpoint waits for a slow client. The rest comes later.
pub(super) async fn first(
    downstream: &mut Downstream,
    ctx: &mut Served<'_>,
    route: &RoutePlan,
    length: Length,
    clock: &Clock,
) -> Result<Upload> {
    ctx.converses = grpc::is_call(downstream.request());
    match length {
        Length::None => Ok(Upload::whole(Bytes::new())),
        Length::Known(length) if length <= route.retry.max_body => {
            if is_expected(downstream.request()) {
                downstream.write_continue().await?;
            }
            whole(downstream, ctx, route, length as usize, clock).await
        }
        _ => Ok(Upload::new()),
    }
}

/// Reads all of it.
async fn whole(
    downstream: &mut Downstream,
    ctx: &mut Served<'_>,
    route: &RoutePlan,
    length: usize,
    clock: &Clock,
) -> Result<Upload> {
    let mut body = BytesMut::with_capacity(length);
    loop {
        let began = clock.now();
        let until: Instant = clock.instant(began + patience(ctx)).into();
        let part = poll_fn(|cx| match downstream.poll_body(cx) {
            Poll::Pending if downstream.poll_time(cx, until) => Poll::Ready(Err(too_slow())),
            part => part,
        })
        .await?;
        match part {
            Some(part) => {
                ctx.body_rate.came(0, clock.now().since(began));
                taken(ctx, &part, clock.now())?;
                // Most bodies come in one piece.
                if body.is_empty() && part.len() == length && downstream.is_body_done() {
                    return Ok(Upload::whole(part));
                }
                body.extend_from_slice(&part);
            }
            None => {
                let trailers = request::trailers(downstream, ctx, route);
                return Ok(Upload::whole_with(body.freeze(), trailers));
            }
        }
    }
}

/// Some of a request's body was read: every part, however it goes on, passes here.
///
/// # Errors
/// When it has become larger than the listener allows.
pub(super) fn taken(ctx: &mut Served<'_>, part: &Bytes, now: Tick) -> Result<()> {
    ctx.bytes_in += part.len() as u64;
    let waited = ctx.body_awaited.take();
    let waited = waited.map_or(Duration::ZERO, |since| now.since(since));
    ctx.body_rate.came(part.len(), waited);
    let limit = ctx.received.connection.listener.limits().body_bytes;
    if limit.is_some_and(|limit| ctx.bytes_in > limit) {
        return Err(Error::explain(ErrorType::HTTPStatus(413), "body too large").into_down());
    }
    Ok(())
}

/// Whether the client is waited for from now on: only such time counts.
pub(super) fn awaited(ctx: &mut Served<'_>, is_awaited: bool, clock: &Clock) {
    match (is_awaited, ctx.body_awaited) {
        (true, None) => ctx.body_awaited = Some(clock.now()),
        (false, Some(since)) => {
            ctx.body_rate.came(0, clock.now().since(since));
            ctx.body_awaited = None;
        }
        (true, Some(_)) | (false, None) => {}
    }
}

/// Until when a client that is waited for may send nothing of its body.
pub(super) fn awaited_until(ctx: &Served<'_>) -> Option<Tick> {
    Some(ctx.body_awaited? + patience(ctx))
}

/// How much longer a client may send nothing of its body.
fn patience(ctx: &Served<'_>) -> Duration {
    let limits = ctx.received.connection.listener.limits();
    match ctx.converses {
        true => limits.idle_timeout,
        false => ctx.body_rate.within(&limits),
    }
}

/// The client was silent for longer than that.
pub(super) fn too_slow() -> Box<Error> {
    Error::explain(ErrorType::ReadTimedout, "the body took too long").into_down()
}
