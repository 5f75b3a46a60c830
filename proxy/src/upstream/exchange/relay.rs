//! The answer, from the endpoint to the client as it comes, while the rest of the request goes the
//! other way.

use std::future::poll_fn;
use std::task::{Context, Poll};
use std::time::Duration;

use http::{HeaderMap, Method, StatusCode, Version, header};
use pingora::{Error, ErrorSource, ErrorType, Result};
use portolan_config::plan::RoutePlan;
use portolan_control::clock::Tick;
use portolan_control::counters::TryOutcome;

use super::attempt::UpstreamAnswer;
use super::upload::Upload;
use super::{body, request};
use crate::downstream::Downstream;
use crate::http::head::ResponseHeader;
use crate::http::trailers;
use crate::request::context::{Admitted, Served};
use crate::upstream::exchange::client::{Client, ClientEvent, hear};
use crate::upstream::exchange_context::ExchangeContext;
use crate::upstream::fault;
use crate::upstream::session::Session;
use crate::upstream::session::part::{Next, Part};

/// How long nothing may happen where no pool says how long.
const IDLE: Duration = Duration::from_secs(5);

/// Passes an answer on. `edit`: what is done to its head on the way.
///
/// # Errors
/// When its passing on was cut short.
pub(crate) async fn relay<'r>(
    with: &ExchangeContext,
    downstream: &mut Downstream,
    ctx: &mut Served<'r>,
    admitted: &Admitted<'r>,
    answer: UpstreamAnswer,
    upload: Upload,
    edit: impl FnOnce(&mut Downstream, &mut ResponseHeader, &Served<'r>) -> Result<()>,
) -> Result<()> {
    let UpstreamAnswer {
        wire,
        target,
        head,
        next,
        at,
        finished,
    } = answer;
    let upgraded = next == Next::Upgraded;
    let idle = ctx.current.as_ref().map_or(IDLE, |current| {
        let timeouts = ctx.snapshot().plan.pools[current.pool.index()].timeouts;
        if upgraded {
            timeouts.upgrade_idle
        } else {
            timeouts.idle
        }
    });
    let active = ctx.answered.unwrap_or_else(|| with.clock.now());
    let expires = ctx
        .current
        .as_ref()
        .filter(|_| upgraded)
        .and_then(|current| {
            let pool = &ctx.snapshot().plan.pools[current.pool.index()];
            Some(active + pool.timeouts.upgrade_lifetime?)
        });
    // An upgraded connection begins anew, and what the client says has no end of its own.
    let (upload, at, finished) = if upgraded {
        (Upload::new(), 0, false)
    } else {
        (upload, at, finished)
    };
    let mut both = Both {
        with,
        downstream,
        ctx,
        admitted,
        wire,
        upload,
        at,
        finished,
        upgraded,
        half_closed: false,
        idle,
        active,
        heard: active,
        waited: false,
        stalled: false,
        expires,
    };
    let passed = both.pass(head, next, edit).await;
    let Both {
        wire,
        upload,
        heard,
        ..
    } = both;
    let heard = with.clock.instant(heard);
    wire.give_back(&with.upstream, target, heard.into());
    match passed {
        Ok(()) => {
            if !upload.is_complete() && !upgraded {
                // A client that was not told to send anything sends nothing.
                let untold = ctx.bytes_in == 0 && body::is_expected(downstream.request());
                if !untold {
                    ctx.bytes_in += downstream.linger().await;
                }
            }
            Ok(())
        }
        Err(error) => {
            if *error.esource() == ErrorSource::Upstream
                && fault::outcome(&error) == TryOutcome::Broken
                && let Some(current) = &mut ctx.current
            {
                current.live.broke_off();
            }
            Err(error)
        }
    }
}

/// What came behind an answer's body, as far as the client gets it: what the route takes off the head is
/// not there either.
fn behind(trailers: HeaderMap, route: &RoutePlan) -> Option<HeaderMap> {
    let mut trailers = trailers::pass(trailers)?;
    for name in &route.response_headers.remove {
        trailers.remove(name);
    }
    (!trailers.is_empty()).then_some(trailers)
}

/// The answer and the rest of the request, each on its way.
struct Both<'a, 'r> {
    with: &'a ExchangeContext,
    downstream: &'a mut Downstream,
    ctx: &'a mut Served<'r>,
    admitted: &'a Admitted<'r>,
    wire: Session,
    upload: Upload,
    /// How much of the request's body was given to the endpoint's connection, and whether that is
    /// all.
    at: usize,
    finished: bool,
    upgraded: bool,
    /// The endpoint was told that the client says no more on an upgraded connection.
    half_closed: bool,
    /// How long nothing may happen.
    idle: Duration,
    /// When something last did.
    active: Tick,
    /// When the endpoint last said something that was waited for. What was there at once it may have said
    /// at any time since.
    heard: Tick,
    /// What happened last was waited for.
    waited: bool,
    /// The upload is stalled: the endpoint takes no more of it for now.
    stalled: bool,
    /// Until when an upgraded connection may last.
    expires: Option<Tick>,
}

/// What happened first.
enum RelayEvent {
    Part(Result<Part>),
    Client(ClientEvent),
    Time,
}

impl<'r> Both<'_, 'r> {
    async fn pass(
        &mut self,
        mut head: Box<ResponseHeader>,
        next: Next,
        edit: impl FnOnce(&mut Downstream, &mut ResponseHeader, &Served<'r>) -> Result<()>,
    ) -> Result<()> {
        let nothing = next == Next::Nothing;
        if !self.upgraded {
            frame(self.downstream, &mut head, nothing)?;
            let waits = self.upload.is_untouched() && body::is_expected(self.downstream.request());
            if !self.upload.is_complete() && waits {
                // A client that was never told to send its body may send it or not: nobody knows
                // what would come next.
                self.downstream.close_after();
            }
        }
        edit(self.downstream, &mut head, self.ctx)?;
        self.downstream.put_head(head, nothing)?;
        if nothing {
            return self.send().await;
        }
        let clock = self.with.clock;
        loop {
            // Whatever is said: who never falls silent is not waited for.
            if self.expires.is_some_and(|end| self.active >= end) {
                return self.expire().await;
            }
            match self.event().await {
                RelayEvent::Part(Err(error)) => {
                    // What came before is the client's, even if nothing of it was sent yet: it shall not
                    // wonder whether it was answered at all.
                    let _ = self.send().await;
                    return Err(error.into_up());
                }
                RelayEvent::Part(Ok(part)) => {
                    if self.waited {
                        self.happened();
                        self.heard = self.active;
                    }
                    if let Some(current) = &self.ctx.current {
                        current.live.heard(self.active);
                    }
                    if self.pass_part(part).await? {
                        return Ok(());
                    }
                }
                RelayEvent::Client(ClientEvent::Body(part)) => {
                    // What is read of a stalled upload does not bring the endpoint any further.
                    if !self.stalled {
                        self.happened();
                    }
                    match part.map_err(Error::into_down)? {
                        Some(part) => {
                            if self.upgraded {
                                self.ctx.bytes_in += part.len() as u64;
                            } else {
                                body::taken(self.ctx, &part, self.active)?;
                            }
                            self.upload.add(part);
                            if self.downstream.is_body_done() {
                                self.upload.end(None);
                            }
                        }
                        None => {
                            let trailers = self.trailers();
                            self.upload.end(trailers);
                        }
                    }
                }
                RelayEvent::Client(ClientEvent::Gone(error)) => return Err(error.into_down()),
                RelayEvent::Time => {
                    let now = clock.now();
                    if self.expires.is_some_and(|end| now >= end) {
                        return self.expire().await;
                    }
                    if now >= self.limit() {
                        return Err(self.too_idle(now));
                    }
                }
            }
        }
    }

    /// What came behind the request's body, as the endpoint gets it.
    fn trailers(&mut self) -> Option<HeaderMap> {
        request::trailers(self.downstream, self.ctx, self.admitted.route)
    }

    /// Passes a part of the answer on. Whether it was the last.
    async fn pass_part(&mut self, part: Part) -> Result<bool> {
        let last = match part {
            Part::Body(part, end) => {
                self.ctx.bytes_out += part.len() as u64;
                self.downstream.put_body(part, end);
                end
            }
            Part::Trailers(trailers) => {
                let trailers = behind(trailers, self.admitted.route);
                self.downstream.put_end(trailers);
                true
            }
            Part::End => {
                self.downstream.put_end(None);
                true
            }
        };
        // Small parts are collected until there is nothing more to be had at once.
        if last || !self.downstream.has_room() {
            self.send().await?;
        }
        Ok(last)
    }

    /// Sends what was written to the client, while the rest of the request goes on.
    async fn send(&mut self) -> Result<()> {
        let Self {
            downstream,
            wire,
            upload,
            at,
            finished,
            ..
        } = self;
        let mut waited = false;
        poll_fn(|cx| {
            send_on(cx, wire, upload, at, finished);
            let sent = downstream.poll_send(cx);
            waited |= sent.is_pending();
            sent
        })
        .await?;
        if waited {
            // To wait for a client is not to wait for an endpoint.
            self.happened();
        }
        Ok(())
    }

    /// Waits for whatever happens first.
    async fn event(&mut self) -> RelayEvent {
        let client = self.client();
        self.stalled = client == Client::Stalled;
        let waits = client == Client::Body && !self.upgraded;
        body::awaited(self.ctx, waits, &self.with.clock);
        let until = self.with.clock.instant(self.limit()).into();
        let Self {
            downstream,
            wire,
            upload,
            at,
            finished,
            half_closed,
            active,
            waited,
            with,
            upgraded,
            ..
        } = self;
        *waited = false;
        poll_fn(|cx| {
            if send_on(cx, wire, upload, at, finished) {
                *active = with.clock.now();
            }
            if *upgraded && *finished && wire.is_sent() && !*half_closed {
                *half_closed = wire.poll_half_close(cx).is_ready();
            }
            if let Poll::Ready(part) = wire.poll_part(cx) {
                return Poll::Ready(RelayEvent::Part(part));
            }
            *waited = true;
            // The endpoint has no more for now: the client shall not wait for what there is.
            if let Poll::Ready(Err(error)) = downstream.poll_send(cx) {
                return Poll::Ready(RelayEvent::Client(ClientEvent::Gone(error)));
            }
            if let Poll::Ready(heard) = hear(downstream, cx, client) {
                return Poll::Ready(RelayEvent::Client(heard));
            }
            // Room may have come up that the client could fill.
            if client != Client::Body
                && !upload.is_complete()
                && upload.is_used_up(*at)
                && wire.has_room()
            {
                return Poll::Ready(RelayEvent::Time);
            }
            if downstream.poll_time(cx, until) {
                return Poll::Ready(RelayEvent::Time);
            }
            Poll::Pending
        })
        .await
    }

    /// What is expected of the client now.
    fn client(&mut self) -> Client {
        if self.upload.is_complete() {
            // An upgraded connection that the client has half closed says nothing of itself.
            return if self.upgraded {
                Client::Nothing
            } else {
                Client::Presence
            };
        }
        if !self.wire.is_cut() && self.upload.is_used_up(self.at) && self.wire.has_room() {
            return Client::Body;
        }
        match self.downstream.is_http2() {
            true => Client::Presence,
            false if self.wire.is_cut() || self.upgraded => Client::Nothing,
            false => Client::Stalled,
        }
    }

    fn happened(&mut self) {
        self.active = self.with.clock.now();
    }

    /// Until when something has to happen, on either side.
    fn limit(&self) -> Tick {
        let endpoint = self.active + self.idle;
        let others = [body::awaited_until(self.ctx), self.expires];
        others.into_iter().flatten().fold(endpoint, Tick::min)
    }

    /// Ends an upgraded connection that has lasted as long as it may: nobody's fault.
    async fn expire(&mut self) -> Result<()> {
        if let Some(current) = &self.ctx.current {
            let stats = &self.ctx.snapshot().pool_stats[current.pool.index()];
            stats.expired.one();
        }
        self.ctx.why = Some("timeouts.upgrade_lifetime of the pool".into());
        // What the client was sent ends as if the endpoint had closed the connection.
        self.downstream.put_end(None);
        self.send().await
    }

    fn too_idle(&self, now: Tick) -> Box<Error> {
        if body::awaited_until(self.ctx).is_some_and(|limit| now >= limit) {
            return body::too_slow();
        }
        Error::explain(ErrorType::ReadTimedout, "nothing more came").into_up()
    }
}

/// Goes on with the request. Whether anything was sent.
fn send_on(
    cx: &mut Context<'_>,
    wire: &mut Session,
    upload: &mut Upload,
    at: &mut usize,
    finished: &mut bool,
) -> bool {
    let mut sent = false;
    loop {
        while !*finished && wire.has_room() {
            if let Some(part) = upload.part(*at) {
                wire.send(part.clone());
                *at += 1;
            } else if upload.is_complete() {
                wire.finish(upload.trailers().cloned());
                *finished = true;
            } else {
                break;
            }
        }
        let more = wire.send_on(cx);
        sent |= more;
        if wire.is_sent() {
            // The answer has begun: nothing is sent again.
            upload.sent_for_good(*at);
        }
        if !more || wire.is_cut() {
            return sent;
        }
    }
}

/// An answer that does not say how long it is goes to the client in chunks, so that its connection
/// can be kept.
fn frame(downstream: &mut Downstream, head: &mut ResponseHeader, nothing: bool) -> Result<()> {
    head.version = Version::HTTP_11;
    if head.status == StatusCode::NO_CONTENT {
        // RFC 9110, section 8.6.
        head.remove_header(&header::CONTENT_LENGTH);
    }
    let bodiless = downstream.request().method == Method::HEAD
        || matches!(
            head.status,
            StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED
        );
    let two = downstream.is_http2();
    if bodiless || two || head.headers.contains(header::CONTENT_LENGTH) {
        return Ok(());
    }
    if nothing {
        return head.insert_header(header::CONTENT_LENGTH, 0);
    }
    if downstream.request().version == Version::HTTP_10 {
        // Chunks are unknown there: the end of the connection is the end.
        downstream.close_after();
        return Ok(());
    }
    head.insert_header(header::TRANSFER_ENCODING, "chunked")
}

/// Takes off an interim answer what is not for the client.
pub(super) fn strip(head: &mut ResponseHeader) {
    head.version = Version::HTTP_11;
    crate::http::hop_by_hop::strip_hop_by_hop(head, false);
}
