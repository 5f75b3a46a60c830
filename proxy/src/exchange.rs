//! The direct exchange: request and answer without the engine's own loop.
//!
//! The engine's loop tries one endpoint after another, and nothing can interrupt a try that waits.
//! Most requests are small, and for those Portolan holds the tries in its own hands: each is an
//! [`attempt`] of its own, so that it can have deadlines, be given up, or be overtaken by a second
//! one. Whichever is answered first is passed on by [`relay`]. Upgrades (WebSocket) and bodies that
//! are not kept for another try go through the engine's loop, by the same decider
//! ([`portolan_control::retry`]) and the same hooks.

mod attempt;
mod body;
mod cohort;
mod relay;
mod request;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use pingora::connectors::ConnectorOptions;
use pingora::connectors::http::Connector;
use pingora::proxy::Session;
use pingora::{Error, ErrorType, Result};
use portolan_config::plan::{HedgeAfterPlan, RoutePlan};
use portolan_control::clock::Tick;
use portolan_control::retry::{Fault, Sent};
use portolan_control::silence::Judgement;
use portolan_control::stats::{RetryReason, TryOutcome};
use smallvec::SmallVec;

pub(crate) use self::attempt::{Answer, Failed, classify};
use crate::choose::{self, Place};
use crate::context::{RequestContext, Try};
use crate::edge::Edge;
use crate::fault;
use crate::refusal::Refusal;

/// Connections to endpoints.
pub(crate) struct Upstream {
    connector: Connector,
}

impl std::fmt::Debug for Upstream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Upstream")
    }
}

impl Upstream {
    /// Keeps so many idle connections, in all.
    pub(crate) fn new(kept: usize) -> Self {
        Self {
            connector: Connector::new(Some(ConnectorOptions::new(kept))),
        }
    }
}

/// When a try that waits is first looked at: most answers have come by then.
const FIRST_LOOK: Duration = Duration::from_millis(40);

/// The shortest and the longest time between two looks at a try that waits.
const LOOKS: (Duration, Duration) = (Duration::from_millis(10), Duration::from_millis(100));

/// A try under way.
struct Running {
    this: Try,
    /// Something of the request may have reached the endpoint.
    sent: Arc<AtomicBool>,
    deadline: Tick,
    attempt: Pin<Box<dyn Future<Output = Result<Answer, Failed>> + Send>>,
}

impl Running {
    /// Another try was answered first. If the endpoint of this one is suspect, its word is waited
    /// for all the same, without the client: it may only have been slow, and nobody else would hear
    /// of it.
    fn listen_on(mut self, edge: &Edge) {
        if !self.this.live.endpoint().silence.is_suspect() {
            return;
        }
        self.this.retrying = None;
        let (clock, messenger) = (edge.recorder.clock, edge.messenger.clone());
        tokio::spawn(async move {
            match self.attempt.await {
                Ok(answer) => {
                    let now = clock.now();
                    let status = answer.head.status.as_u16();
                    let took = now.since(self.this.began);
                    self.this.live.answered(status, took, now, &messenger);
                    answer.discard().await;
                }
                Err(failed) => self.this.live.ended(fault::outcome(&failed.error)),
            }
        });
    }
}

/// What happened first.
#[expect(
    clippy::large_enum_variant,
    reason = "it is taken apart where it is made"
)]
enum Happened {
    /// A try is over.
    Ended(usize, Result<Answer, Failed>),
    /// The client is gone.
    ClientGone(Box<Error>),
    /// It is time to look.
    Time,
}

/// Whether a request can take this way.
pub(crate) fn is_direct(session: &mut Session, ctx: &RequestContext, route: &RoutePlan) -> bool {
    !ctx.wants_upgrade
        && (session.is_body_empty()
            || body::length(session.req_header())
                .is_some_and(|length| length <= route.retry.max_body))
}

/// Passes a request on, and its answer back.
///
/// # Errors
/// When there is no answer to pass on, or its passing on was cut short.
pub(crate) async fn exchange(
    edge: &Edge,
    session: &mut Session,
    ctx: &mut RequestContext,
) -> Result<()> {
    let body = body::read(session, ctx).await?;
    let answer = answer(edge, session, ctx, body).await?;
    relay::relay(edge, session, ctx, answer).await
}

/// Has an endpoint answer.
async fn answer(
    edge: &Edge,
    session: &mut Session,
    ctx: &mut RequestContext,
    body: Bytes,
) -> Result<Answer> {
    let plan = ctx.snapshot().plan.clone();
    let Some(route) = ctx.route.map(|id| &plan.routes[id.index()]) else {
        return Error::e_explain(ErrorType::InternalError, "an exchange without a route");
    };
    let clock = edge.recorder.clock;
    let deadline = ctx.began + route.timeout;
    ctx.chances.body_kept = true;
    let now = clock.now();
    let Some(first) = choose::first(ctx, session.req_header(), now) else {
        ctx.refusal = Some(Refusal::NobodyCanServe);
        return Error::e_explain(ErrorType::HTTPStatus(503), "nobody can take the request");
    };
    let mut tries: SmallVec<[Running; 2]> = SmallVec::new();
    tries.push(begin(edge, session, ctx, route, (first, None), &body, now)?);
    let mut hedged = false;
    let mut look = now + FIRST_LOOK;
    loop {
        let wake = next_wake(&tries, deadline, look, hedge_at(ctx, route, &tries, hedged));
        match happens(&mut tries, session, clock.instant(wake)).await {
            Happened::ClientGone(error) => return Err(error.into_down()),
            Happened::Ended(at, Ok(answer)) => {
                let mut ended = tries.remove(at);
                let now = clock.now();
                let status = answer.head.status.as_u16();
                let took = now.since(ended.this.began);
                ended.this.live.answered(status, took, now, &edge.messenger);
                // Another try may still be answered better.
                let better = route.retry.on_statuses.contains(&status)
                    && (!tries.is_empty()
                        || ctx.may_retry(route, Fault::Status(status), Sent::Perhaps, now));
                if !better {
                    ctx.settle(ended.this, now);
                    for overtaken in tries {
                        overtaken.listen_on(edge);
                    }
                    return Ok(answer);
                }
                let failed = (ended.this.pool, ended.this.endpoint);
                if !tries.is_empty() {
                    ctx.failed.push(failed);
                } else if let Some(next) = choose::after(ctx, session.req_header(), failed, now) {
                    answer.discard().await;
                    let next = (next, Some(RetryReason::Status));
                    tries.push(begin(edge, session, ctx, route, next, &body, now)?);
                    look = now + FIRST_LOOK;
                } else {
                    ctx.settle(ended.this, now);
                    return Ok(answer);
                }
            }
            Happened::Ended(at, Err(failed)) => {
                let ended = tries.remove(at);
                let now = clock.now();
                let next = after_failure(session, ctx, route, &tries, ended, &failed, now);
                match next {
                    Some(next) => {
                        tries.push(begin(edge, session, ctx, route, next, &body, now)?);
                        look = now + FIRST_LOOK;
                    }
                    None if tries.is_empty() => return Err(failed.error),
                    None => {}
                }
            }
            Happened::Time => {
                let now = clock.now();
                if now >= deadline {
                    return Err(too_late(ctx, tries));
                }
                while let Some(at) = tries.iter().position(|running| now >= running.deadline) {
                    let ended = tries.remove(at);
                    let failed = timed_out(&ended);
                    let next = after_failure(session, ctx, route, &tries, ended, &failed, now);
                    match next {
                        Some(next) => {
                            tries.push(begin(edge, session, ctx, route, next, &body, now)?);
                        }
                        None if tries.is_empty() => return Err(failed.error),
                        None => {}
                    }
                }
                let due = hedge_at(ctx, route, &tries, hedged).is_some_and(|at| now >= at);
                if now >= look {
                    let late = now.since(look);
                    look_at(edge, &tries, now, late);
                    look = now + pause(&tries, now);
                }
                // Who waits for an endpoint that has gone silent asks another one as well, and
                // whoever answers first is believed.
                let silent = tries.len() == 1 && tries[0].this.live.endpoint().silence.is_suspect();
                if (silent || due)
                    && ctx.may_retry(route, Fault::Timeout, Sent::Perhaps, now)
                    && (silent || ctx.hedge_allowed(route))
                {
                    hedged |= due;
                    let waiting = (tries[0].this.pool, tries[0].this.endpoint);
                    if let Some(next) = choose::after(ctx, session.req_header(), waiting, now) {
                        let next = (next, Some(RetryReason::Beside));
                        tries.push(begin(edge, session, ctx, route, next, &body, now)?);
                    }
                }
            }
        }
    }
}

/// Begins a try.
fn begin(
    edge: &Edge,
    session: &mut Session,
    ctx: &mut RequestContext,
    route: &RoutePlan,
    (place, again): (Place, Option<RetryReason>),
    body: &Bytes,
    now: Tick,
) -> Result<Running> {
    let (pool, _) = place;
    let head = request::for_endpoint(session.req_header(), ctx, route, pool, body.len())?;
    let peer = choose::peer(ctx, place)?;
    let mut this = choose::begin(ctx, place, now, again);
    for old in this.live.endpoint().old_cohorts() {
        edge.upstream
            .close(choose::peer_of_cohort(ctx, place, old)?);
    }
    this.live.wait(now);
    let timeouts = ctx.snapshot().plan.pools[pool.index()].timeouts;
    let sent = Arc::new(AtomicBool::new(false));
    let attempt = attempt::attempt(
        edge.upstream.clone(),
        peer,
        head,
        body.clone(),
        timeouts.first_byte,
        ctx.chances.idempotent,
        sent.clone(),
    );
    Ok(Running {
        this,
        sent,
        deadline: route
            .retry
            .per_try
            .map_or(ctx.began + route.timeout, |limit| now + limit),
        attempt: Box::pin(attempt),
    })
}

/// Waits for whatever happens first.
async fn happens(
    tries: &mut SmallVec<[Running; 2]>,
    session: &mut Session,
    wake: std::time::Instant,
) -> Happened {
    let ended = std::future::poll_fn(|cx| {
        for (at, running) in tries.iter_mut().enumerate() {
            if let Poll::Ready(result) = running.attempt.as_mut().poll(cx) {
                return Poll::Ready((at, result));
            }
        }
        Poll::Pending
    });
    tokio::select! {
        biased;
        (at, result) = ended => Happened::Ended(at, result),
        gone = client_gone(session) => Happened::ClientGone(gone),
        () = tokio::time::sleep_until(wake.into()) => Happened::Time,
    }
}

/// Waits until the client has gone away.
async fn client_gone(session: &mut Session) -> Box<Error> {
    match session.as_downstream_mut().read_body_or_idle(true).await {
        Err(error) => error,
        // More than the body was to be: none of this request's business.
        Ok(_) => std::future::pending().await,
    }
}

fn next_wake(tries: &[Running], deadline: Tick, look: Tick, hedge: Option<Tick>) -> Tick {
    let tries = tries.iter().map(|running| running.deadline);
    let first = tries.min().map_or(deadline, |at| at.min(deadline));
    hedge.map_or(first, |at| at.min(first)).min(look)
}

/// When the second try of a route that hedges begins.
fn hedge_at(
    ctx: &RequestContext,
    route: &RoutePlan,
    tries: &[Running],
    hedged: bool,
) -> Option<Tick> {
    let hedge = route
        .hedge
        .as_ref()
        .filter(|_| !hedged && ctx.chances.idempotent)?;
    let [running] = tries else {
        return None;
    };
    let after = match hedge.after {
        HedgeAfterPlan::Time(after) => after,
        HedgeAfterPlan::Percentile(percentile) => {
            let silence = &running.this.live.endpoint().silence;
            silence.quantile(f64::from(percentile) / 100.0)?
        }
    };
    Some(running.this.began + after)
}

/// How long a try that waits is left alone.
fn pause(tries: &[Running], now: Tick) -> Duration {
    let waited = tries.iter().map(|running| now.since(running.this.began));
    let shortest = waited.min().unwrap_or_default();
    (shortest / 4).clamp(LOOKS.0, LOOKS.1)
}

/// Looks at the endpoints of the tries that wait. `late`: how long this look was due already, for
/// then nobody could have been heard.
fn look_at(edge: &Edge, tries: &[Running], now: Tick, late: Duration) {
    for running in tries {
        let endpoint = running.this.live.endpoint();
        if let Judgement::Suspect(silent) = endpoint.silence.judge(now, late) {
            edge.messenger.silent(&endpoint.key, silent);
        }
    }
}

/// A try has failed: where the next one goes, if there is one.
fn after_failure(
    session: &Session,
    ctx: &mut RequestContext,
    route: &RoutePlan,
    others: &[Running],
    mut ended: Running,
    failed: &Failed,
    now: Tick,
) -> Option<(Place, Option<RetryReason>)> {
    let outcome = fault::outcome(&failed.error);
    if failed.excused {
        ended.this.live.excused(outcome);
    } else {
        ended.this.live.ended(outcome);
    }
    let which = (ended.this.pool, ended.this.endpoint);
    // Kept, so that the log can say who failed last.
    ctx.current = Some(ended.this);
    if !others.is_empty() {
        ctx.failed.push(which);
        return None;
    }
    if !ctx.may_retry(route, failed.fault, failed.sent, now) {
        return None;
    }
    let next = choose::after(ctx, session.req_header(), which, now)?;
    Some((next, Some(choose::reason(failed.fault))))
}

fn timed_out(running: &Running) -> Failed {
    let (etype, fault, sent) = if running.sent.load(Ordering::Relaxed) {
        (ErrorType::ReadTimedout, Fault::Timeout, Sent::Perhaps)
    } else {
        (ErrorType::ConnectTimedout, Fault::Connect, Sent::Nothing)
    };
    Failed {
        error: Error::explain(etype, "the try took too long").into_up(),
        fault,
        sent,
        excused: false,
    }
}

/// The request's time is over.
fn too_late(ctx: &mut RequestContext, tries: SmallVec<[Running; 2]>) -> Box<Error> {
    for mut running in tries {
        running.this.live.ended(TryOutcome::TimedOut);
        ctx.current = Some(running.this);
    }
    Error::explain(ErrorType::ReadTimedout, "the request took too long").into_up()
}

impl Answer {
    /// Gives the answer up: nobody wants it.
    async fn discard(mut self) {
        self.session.shutdown().await;
    }
}
