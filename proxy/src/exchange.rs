//! The exchange: a request, and an endpoint's answer to it.
//!
//! Portolan holds the tries in its own hands: each is an [`attempt`] of its own, so that it can
//! have deadlines, be given up, or be overtaken by a second one. Whichever is answered first is
//! passed on by [`relay`]. What is spoken with the endpoint stands in [`wire`]: HTTP/1.1 by a codec
//! of our own ([`http1`]), HTTP/2 by the engine's sessions ([`http2`]).
//!
//! The body of a request flows on while the answer flows back. As far as it is kept ([`upload`]) it
//! can be sent again; a try's time begins when the request was sent as a whole, for before that
//! nobody knows whether the endpoint or the client is waited for.

mod ask;
mod attempt;
mod body;
mod cohort;
mod http1;
mod http2;
mod kept;
mod pool;
mod relay;
mod request;
mod stream;
mod upload;
mod wire;

use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::Version;
use pingora::{Error, ErrorType, Result};
use portolan_config::plan::{HedgeAfterPlan, RoutePlan};
use portolan_control::clock::{Clock, Tick};
use portolan_control::retry::{Fault, Sent};
use portolan_control::shortage::SHORTAGES;
use portolan_control::silence::Judgement;
use portolan_control::stats::{RetryReason, TryOutcome};
use smallvec::SmallVec;

pub(crate) use self::ask::{Told, ask};
use self::attempt::{Answer, Attempt, Failed, Patience, Progress, Request};
pub(crate) use self::kept::keep_house;
pub(crate) use self::pool::Upstream;
pub(crate) use self::request::{EndsHere, wants_upgrade};
use self::upload::Upload;
use self::wire::Length;
use crate::choose::{self, Place};
use crate::context::{RequestContext, Try};
use crate::downstream::Downstream;
use crate::edge::Edge;
use crate::fault;
use crate::head::ResponseHeader;
use crate::refusal::Refusal;

/// When a try that waits is first looked at: most answers have come by then.
const FIRST_LOOK: Duration = Duration::from_millis(40);

/// The shortest and the longest time between two looks at a try that waits.
const LOOKS: (Duration, Duration) = (Duration::from_millis(10), Duration::from_millis(100));

/// A try under way.
struct Running {
    this: Try,
    attempt: Attempt,
}

impl Running {
    /// When its time is over. Its own time counts from when the body was there, or it began.
    fn limit(&self, ctx: &RequestContext, route: &RoutePlan) -> Option<Tick> {
        let per_try = ctx.given.zip(route.retry.per_try);
        let per_try = per_try.map(|(given, limit)| self.this.began.max(given) + limit);
        let own = self.attempt.limit();
        match (per_try, own) {
            (Some(one), Some(other)) => Some(one.min(other)),
            (one, other) => one.or(other),
        }
    }

    /// Another try was answered first. If the endpoint of this one is suspect, its word is waited
    /// for all the same, without the client: it may only have been slow, and nobody else would hear
    /// of it.
    fn listen_on(mut self, edge: &Edge, upload: &Upload, patience: Duration) {
        if !self.this.live.endpoint().silence.is_suspect() || !upload.is_complete() {
            return;
        }
        self.this.retrying = None;
        let (clock, messenger) = (edge.recorder.clock, edge.messenger.clone());
        let mut upload = upload.clone();
        tokio::spawn(async move {
            let ending = end_of(&mut self.attempt, &mut upload, &clock);
            match tokio::time::timeout(patience, ending).await {
                Ok(Ok(answer)) => {
                    let now = clock.now();
                    let status = answer.head.status.as_u16();
                    let took = now.since(self.this.began);
                    self.this.live.answered(status, took, now, &messenger);
                }
                Ok(Err(failed)) => self.this.live.ended(fault::outcome(&failed.error)),
                Err(_) => self.this.live.ended(TryOutcome::TimedOut),
            }
        });
    }
}

/// Waits for the end of a try.
async fn end_of(
    attempt: &mut Attempt,
    upload: &mut Upload,
    clock: &Clock,
) -> Result<Answer, Failed> {
    loop {
        match std::future::poll_fn(|cx| attempt.poll(cx, upload, clock)).await? {
            Progress::Answered(answer) => return Ok(answer),
            Progress::Sent | Progress::Interim(_) => {}
        }
    }
}

/// What happened first.
enum Happened {
    /// A try has come further.
    Went(usize, Progress),
    /// A try is over.
    Failed(usize, Failed),
    /// The client.
    Client(Heard),
    /// It is time to look.
    Time,
}

/// What was heard of the client.
enum Heard {
    /// More of the request's body, or its end.
    Body(Result<Option<Bytes>>),
    /// It is gone.
    Gone(Box<Error>),
}

/// What is expected of the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Client {
    /// More of its body.
    Body,
    /// Nothing but that it stays.
    Presence,
    /// Nothing: it may send, and is not read.
    Nothing,
}

/// Passes a request on, and its answer back.
///
/// # Errors
/// When there is no answer to pass on, or its passing on was cut short.
pub(crate) async fn exchange(
    edge: &Edge,
    downstream: &mut Downstream,
    ctx: &mut RequestContext,
) -> Result<()> {
    let plan = ctx.snapshot().plan.clone();
    let Some(route) = ctx.route.map(|id| &plan.routes[id.index()]) else {
        return Error::e_explain(ErrorType::InternalError, "an exchange without a route");
    };
    let length = body::length(downstream);
    let clock = &edge.recorder.clock;
    let mut upload = body::first(downstream, ctx, route, length, clock).await?;
    let mut exchange = Exchange {
        edge,
        downstream,
        ctx,
        route,
        length,
        clock,
    };
    let answer = exchange.answer(&mut upload).await?;
    relay::relay(edge, downstream, ctx, answer, upload).await
}

/// Everything a request's tries need.
struct Exchange<'a> {
    edge: &'a Edge,
    downstream: &'a mut Downstream,
    ctx: &'a mut RequestContext,
    route: &'a RoutePlan,
    length: Length,
    clock: &'a Clock,
}

type Tries = SmallVec<[Running; 2]>;

impl Exchange<'_> {
    /// Has an endpoint answer.
    async fn answer(&mut self, upload: &mut Upload) -> Result<Answer> {
        let now = match self.length {
            // Nothing was waited for.
            Length::None if self.route.auth.is_none() => self.ctx.began,
            _ => self.clock.now(),
        };
        self.know(upload, now);
        let Some(first) = choose::first(self.ctx, self.downstream.request(), now) else {
            self.ctx.refusal = Some(Refusal::NobodyCanServe);
            return Error::e_explain(ErrorType::HTTPStatus(503), "nobody can take the request");
        };
        // Whether the client still waits to be told that its body is wanted.
        let mut expects = !upload.is_complete() && body::is_expected(self.downstream.request());
        let mut tries = Tries::new();
        tries.push(self.begin((first, None), upload, expects, now)?);
        let mut hedged = false;
        let mut look = now + FIRST_LOOK;
        loop {
            let client = self.client(&tries, upload, expects);
            if client == Client::Body && expects {
                self.downstream.write_continue().await?;
                expects = false;
            }
            body::awaited(self.ctx, client == Client::Body, self.clock);
            let wake = self.next_wake(&tries, look, hedged);
            match self.happens(&mut tries, upload, client, wake).await {
                Happened::Client(Heard::Gone(error)) => return Err(self.gone(tries, error)),
                Happened::Client(Heard::Body(part)) => {
                    let now = self.clock.now();
                    match part.and_then(|part| self.take(part, upload, now)) {
                        Ok(()) => {}
                        Err(error) => return Err(self.gone(tries, error)),
                    }
                    self.know(upload, now);
                }
                Happened::Went(at, Progress::Sent) => {
                    // From here on its silence means something.
                    tries[at].this.live.wait(self.clock.now());
                }
                Happened::Went(_, Progress::Interim(head)) => {
                    self.interim(head, tries.len() == 1).await?;
                }
                Happened::Went(at, Progress::Answered(answer)) => {
                    let mut ended = tries.remove(at);
                    let now = self.clock.now();
                    let status = answer.head.status.as_u16();
                    self.answered(&mut ended, status, now);
                    self.know(upload, now);
                    // Another try may still be answered better.
                    let better = self.route.retry.on_statuses.contains(&status)
                        && (!tries.is_empty()
                            || self.may_retry(Fault::Status(status), Sent::Perhaps, upload, now));
                    if !better {
                        return Ok(self.settle(ended, tries, answer, upload, now));
                    }
                    let failed = (ended.this.pool, ended.this.endpoint);
                    if !tries.is_empty() {
                        self.ctx.failed.push(failed);
                    } else if let Some(next) =
                        choose::after(self.ctx, self.downstream.request(), failed, now)
                    {
                        answer.discard(self.edge);
                        let next = (next, Some(RetryReason::Status));
                        tries.push(self.begin(next, upload, expects, now)?);
                        look = now + FIRST_LOOK;
                    } else {
                        return Ok(self.settle(ended, tries, answer, upload, now));
                    }
                }
                Happened::Failed(at, failed) => {
                    let ended = tries.remove(at);
                    let now = self.clock.now();
                    match self.after_failure(&tries, ended, &failed, upload, now) {
                        Some(next) => {
                            tries.push(self.begin(next, upload, expects, now)?);
                            look = now + FIRST_LOOK;
                        }
                        None if tries.is_empty() => return Err(failed.error),
                        None => {}
                    }
                }
                Happened::Time => {
                    let now = self.clock.now();
                    if self.deadline().is_some_and(|deadline| now >= deadline) {
                        return Err(too_late(self.ctx, tries));
                    }
                    if body::awaited_until(self.ctx).is_some_and(|until| now >= until) {
                        return Err(self.gone(tries, body::too_slow()));
                    }
                    while let Some(at) = self.late(&tries, now) {
                        let ended = tries.remove(at);
                        let failed = ended.attempt.timed_out();
                        match self.after_failure(&tries, ended, &failed, upload, now) {
                            Some(next) => tries.push(self.begin(next, upload, expects, now)?),
                            None if tries.is_empty() => return Err(failed.error),
                            None => {}
                        }
                    }
                    let due = hedge_at(self.ctx, self.route, &tries, hedged);
                    let due = due.is_some_and(|at| now >= at);
                    if now >= look {
                        let late = now.since(look);
                        look_at(self.edge, &tries, now, late);
                        look = now + pause(&tries, now);
                    }
                    // Who waits for an endpoint that has gone silent asks another one as well, and
                    // whoever answers first is believed.
                    let silent =
                        tries.len() == 1 && tries[0].this.live.endpoint().silence.is_suspect();
                    if (silent || due)
                        && upload.is_complete()
                        && self.may_retry(Fault::Timeout, Sent::Perhaps, upload, now)
                        && (silent || self.ctx.hedge_allowed(self.route))
                    {
                        hedged |= due;
                        let waiting = (tries[0].this.pool, tries[0].this.endpoint);
                        let next = choose::after(self.ctx, self.downstream.request(), waiting, now);
                        if let Some(next) = next {
                            let next = (next, Some(RetryReason::Beside));
                            tries.push(self.begin(next, upload, expects, now)?);
                        }
                    }
                }
            }
        }
    }

    /// More of the body came, or its end.
    fn take(&mut self, part: Option<Bytes>, upload: &mut Upload, now: Tick) -> Result<()> {
        let Some(part) = part else {
            upload.end();
            return Ok(());
        };
        body::taken(self.ctx, &part, now)?;
        upload.add(part);
        if self.downstream.is_body_done() {
            upload.end();
        }
        Ok(())
    }

    /// The client has spoiled it. Whoever was asked is kept, so that the log can say so.
    fn gone(&mut self, mut tries: Tries, error: Box<Error>) -> Box<Error> {
        if let Some(running) = tries.pop() {
            self.ctx.current = Some(running.this);
        }
        error.into_down()
    }

    /// What the decider has to know about the body.
    fn know(&mut self, upload: &Upload, now: Tick) {
        self.ctx.chances.body_kept = upload.is_kept(self.route.retry.max_body);
        if upload.is_complete() {
            self.ctx.given.get_or_insert(now);
        }
    }

    /// Whether a try that failed like this is followed by another one. What was sent and forgotten
    /// cannot be sent again, whatever became of it.
    fn may_retry(&self, fault: Fault, sent: Sent, upload: &Upload, now: Tick) -> bool {
        upload.is_whole() && self.ctx.may_retry(self.route, fault, sent, now)
    }

    /// Begins a try.
    fn begin(
        &mut self,
        (place, again): (Place, Option<RetryReason>),
        upload: &Upload,
        expects: bool,
        now: Tick,
    ) -> Result<Running> {
        let (pool, _) = place;
        let downstream = self.downstream.request();
        let request = Request {
            head: request::for_endpoint(downstream, self.ctx, self.route, pool, self.length)?,
            length: self.length,
            idempotent: self.ctx.chances.idempotent,
            expects,
            upgrade: self.ctx.wants_upgrade,
            flows: !upload.is_complete(),
        };
        let target = choose::target(self.ctx, place)?;
        let mut this = choose::begin(self.ctx, place, now, again);
        for old in this.live.endpoint().old_cohorts() {
            if target.speaks_http2() {
                self.edge
                    .upstream
                    .close(target.clone().of_cohort(old).peer());
            }
        }
        if upload.is_complete() {
            this.live.wait(now);
        }
        let timeouts = self.ctx.snapshot().plan.pools[pool.index()].timeouts;
        let patience = Patience {
            first_byte: timeouts.first_byte,
            idle: timeouts.idle,
        };
        let upstream = self.edge.upstream.clone();
        let attempt = Attempt::new(upstream, target, request, patience, now);
        Ok(Running { this, attempt })
    }

    /// A try was answered.
    fn answered(&self, ended: &mut Running, status: u16, now: Tick) {
        // How long it took: from when it could begin with all of the request.
        let from = match (self.length, ended.attempt.asked()) {
            (Length::Unknown, asked) => asked,
            (_, Some(asked)) if self.ctx.given > Some(ended.this.began) => Some(asked),
            (_, Some(_)) => Some(ended.this.began),
            (_, None) => None,
        };
        let messenger = &self.edge.messenger;
        match from {
            Some(from) => {
                ended
                    .this
                    .live
                    .answered(status, now.since(from), now, messenger);
            }
            None => ended.this.live.answered_early(status, now, messenger),
        }
    }

    /// This answer is the one that counts.
    fn settle(
        &mut self,
        ended: Running,
        overtaken: Tries,
        answer: Answer,
        upload: &Upload,
        now: Tick,
    ) -> Answer {
        self.ctx.settle(ended.this, now);
        for overtaken in overtaken {
            let pool = &self.ctx.snapshot().plan.pools[overtaken.this.pool.index()];
            overtaken.listen_on(self.edge, upload, pool.timeouts.first_byte);
        }
        answer
    }

    /// Passes an interim answer on.
    async fn interim(&mut self, mut head: Box<ResponseHeader>, alone: bool) -> Result<()> {
        // Of two tries nobody knows yet whose word counts; and who speaks HTTP/1.0 knows no such
        // answers.
        if alone && self.downstream.request().version != Version::HTTP_10 {
            relay::strip(&mut head);
            self.downstream.put_head(head, false)?;
            self.downstream.send().await?;
        }
        Ok(())
    }

    /// What is expected of the client now.
    fn client(&mut self, tries: &[Running], upload: &Upload, expects: bool) -> Client {
        if upload.is_complete() {
            return Client::Presence;
        }
        if wants_more(tries, upload) || (upload.may_read_ahead() && !expects) {
            return Client::Body;
        }
        // Over HTTP/1.1 only reading would tell whether it is still there.
        match self.downstream.is_http2() {
            true => Client::Presence,
            false => Client::Nothing,
        }
    }

    /// When the request's time is over.
    fn deadline(&self) -> Option<Tick> {
        self.ctx.given.map(|given| given + self.route.timeout)
    }

    /// A try whose time is over.
    fn late(&self, tries: &[Running], now: Tick) -> Option<usize> {
        tries.iter().position(|running| {
            let limit = running.limit(self.ctx, self.route);
            limit.is_some_and(|limit| now >= limit)
        })
    }

    /// When to look again if nothing happens.
    fn next_wake(&self, tries: &[Running], look: Tick, hedged: bool) -> Tick {
        let limits = tries
            .iter()
            .filter_map(|running| running.limit(self.ctx, self.route));
        let held = tries
            .iter()
            .filter_map(|running| running.attempt.held_until());
        let silent = body::awaited_until(self.ctx);
        let hedge = hedge_at(self.ctx, self.route, tries, hedged);
        limits
            .chain(held)
            .chain(self.deadline())
            .chain(silent)
            .chain(hedge)
            .fold(look, Tick::min)
    }

    /// Waits for whatever happens first.
    async fn happens(
        &mut self,
        tries: &mut Tries,
        upload: &mut Upload,
        client: Client,
        wake: Tick,
    ) -> Happened {
        let clock = self.clock;
        let wake = clock.instant(wake).into();
        let downstream = &mut *self.downstream;
        std::future::poll_fn(|cx| {
            for (at, running) in tries.iter_mut().enumerate() {
                match running.attempt.poll(cx, upload, clock) {
                    Poll::Ready(Ok(progress)) => return Poll::Ready(Happened::Went(at, progress)),
                    Poll::Ready(Err(failed)) => return Poll::Ready(Happened::Failed(at, failed)),
                    Poll::Pending => {}
                }
            }
            if let Poll::Ready(heard) = hear(downstream, cx, client) {
                return Poll::Ready(Happened::Client(heard));
            }
            // The endpoint may have taken what there was, and could take more.
            if client != Client::Body && !upload.is_complete() && wants_more(tries, upload) {
                return Poll::Ready(Happened::Time);
            }
            if downstream.poll_time(cx, wake) {
                return Poll::Ready(Happened::Time);
            }
            Poll::Pending
        })
        .await
    }

    /// A try has failed: where the next one goes, if there is one.
    fn after_failure(
        &mut self,
        others: &[Running],
        mut ended: Running,
        failed: &Failed,
        upload: &Upload,
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
        self.ctx.current = Some(ended.this);
        if let Some(short) = fault::shortage(&failed.error) {
            SHORTAGES.one(short);
            // Nobody else could be connected to, either.
            if short.is_everybodys() {
                return None;
            }
        }
        if !others.is_empty() {
            self.ctx.failed.push(which);
            return None;
        }
        if !self.may_retry(failed.fault, failed.sent, upload, now) {
            return None;
        }
        let next = choose::after(self.ctx, self.downstream.request(), which, now)?;
        Some((next, Some(choose::reason(failed.fault))))
    }
}

/// Whether more of the body would be sent at once. While it still comes, there is one try at a time.
fn wants_more(tries: &[Running], upload: &Upload) -> bool {
    matches!(tries, [running] if running.attempt.wants_more(upload))
}

/// What is heard of the client, of which this is expected.
fn hear(downstream: &mut Downstream, cx: &mut Context<'_>, client: Client) -> Poll<Heard> {
    match client {
        Client::Body => downstream.poll_body(cx).map(Heard::Body),
        Client::Presence => downstream.poll_gone(cx).map(Heard::Gone),
        Client::Nothing => Poll::Pending,
    }
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
    // While the body still comes, nobody is slow but its client.
    Some(running.this.began.max(ctx.given?) + after)
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

/// The request's time is over.
fn too_late(ctx: &mut RequestContext, tries: Tries) -> Box<Error> {
    for mut running in tries {
        running.this.live.ended(TryOutcome::TimedOut);
        ctx.current = Some(running.this);
    }
    Error::explain(ErrorType::ReadTimedout, "the request took too long").into_up()
}

impl Answer {
    /// Gives the answer up: nobody wants it.
    fn discard(self, edge: &Edge) {
        self.wire.give_back(&edge.upstream, self.target);
    }
}
