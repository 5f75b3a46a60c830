//! The exchange: a request, and an endpoint's answer to it.
//!
//! Portolan holds the tries in its own hands: each is an [`attempt`] of its own, so that it can
//! have deadlines, be given up, or be overtaken by a second one. Whichever is answered first is
//! passed on by [`relay`]. What is spoken with the endpoint stands in [`session`](super::session): HTTP/1.1 by a codec
//! of our own ([`http1`](super::session::http1)), HTTP/2 over connections of our own ([`http2`](super::session::http2)).
//!
//! The body of a request flows on while the answer flows back. As far as it is kept ([`upload`]) it
//! can be sent again; a try's time begins when the request was sent as a whole, for before that
//! nobody knows whether the endpoint or the client is waited for.

pub(crate) mod ask;
mod attempt;
mod body;
mod client;
pub(crate) mod inquire;
pub(crate) mod relay;
pub(crate) mod request;
mod upload;

use std::future::Future as _;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::Version;
use pingora::{Error, ErrorType, Result};
use portolan_config::plan::{HedgeAfterPlan, RoutePlan};
use portolan_control::clock::{Clock, Tick};
use portolan_control::counters::{RetryReason, TryOutcome};
use portolan_control::decision::tries::{
    Act, AfterAnswer, AfterFailure, Asking, Body, Choice, Failure, Moment, Repeat, Tries,
};
use portolan_control::health::exhaustion::{SHORTAGES, Shortage};
use portolan_control::health::outlier::Source;
use portolan_control::health::stall::Judgement;
use portolan_control::pool::endpoint::Blame;
use portolan_control::refusal::Refusal;
use smallvec::SmallVec;
use tokio::sync::futures::OwnedNotified;

use self::attempt::{Attempt, Failed, Patience, Progress, UpstreamAnswer};
use self::upload::Upload;
use crate::downstream::Downstream;
use crate::http::head::ResponseHeader;
use crate::random::fastrand_scope;
use crate::request::context::{Admitted, Served, Try};
use crate::upstream::exchange::attempt::end_of;
use crate::upstream::exchange::client::{Client, ClientEvent, hear};
use crate::upstream::exchange_context::ExchangeContext;
use crate::upstream::session::part::Length;
use crate::upstream::session::question::Request;
use crate::upstream::{choose, fault};

/// When a try that waits is first looked at: most answers have come by then.
const FIRST_LOOK: Duration = Duration::from_millis(40);

/// The shortest and the longest time between two looks at a try that waits.
const LOOKS: (Duration, Duration) = (Duration::from_millis(10), Duration::from_millis(100));

/// Endpoints of the same pool that say what is usual there.
const MOST_OTHERS: usize = 16;

/// A try under way.
struct Running {
    this: Try,
    attempt: Attempt,
    /// Rings when something becomes of its endpoint. Nearly all tries are answered before anybody
    /// listens.
    bell: Option<Pin<Box<OwnedNotified>>>,
}

/// An answer that counts if no better one comes.
struct KeptAnswer {
    this: Try,
    answer: UpstreamAnswer,
}

impl KeptAnswer {
    /// Whether an answer with this status is better.
    fn yields_to(&self, status: u16) -> bool {
        self.answer.head.status.as_u16() >= 500 && status < 500
    }
}

impl Running {
    /// From now on it is told when something becomes of its endpoint.
    fn listen(&mut self) {
        if self.bell.is_none() {
            let mut bell = Box::pin(self.this.live.endpoint().bell().notified_owned());
            bell.as_mut().enable();
            self.bell = Some(bell);
        }
    }

    /// Whether that has happened.
    fn poll_bell(&mut self, cx: &mut Context<'_>) -> bool {
        let Some(bell) = &mut self.bell else {
            return false;
        };
        let rings = bell.as_mut().poll(cx).is_ready();
        if rings {
            self.bell = None;
        }
        rings
    }

    /// When its time is over. Its own time counts from when the body was there, or it began.
    fn limit(&self, ctx: &Served<'_>, route: &RoutePlan) -> Option<Tick> {
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
    fn listen_on(
        mut self,
        with: &ExchangeContext,
        upload: &Upload,
        patience: Duration,
        source: Source,
    ) {
        if !self.this.live.endpoint().stall.is_suspect() || !upload.is_complete() {
            return;
        }
        let clock = with.clock;
        let mut upload = upload.clone();
        tokio::spawn(async move {
            let ending = end_of(&mut self.attempt, &mut upload, &clock);
            let ended = tokio::time::timeout(patience, ending).await;
            let now = clock.now();
            let live = &mut self.this.live;
            // What this says counts at once: the request was answered elsewhere.
            let _ = match ended {
                Ok(Ok(answer)) => {
                    let status = answer.head.status.as_u16();
                    let took = now.since(self.this.began);
                    live.answered(status, Some(took), now, || source)
                }
                Ok(Err(failed)) => live.failed(fault::outcome(&failed.error), now, || source),
                Err(_) => live.failed(TryOutcome::TimedOut, now, || source),
            };
        });
    }
}

/// What happened first.
enum Happened {
    /// A try has come further.
    Went(usize, Progress),
    /// A try is over.
    Failed(usize, Failed),
    /// The client.
    Client(ClientEvent),
    /// It is time to look.
    Time,
    /// Something became of an endpoint that is waited for.
    Told,
}

/// Passes a request on. The answer has begun, and what was read of the request's body.
///
/// # Errors
/// When there is no answer to pass on.
pub(crate) async fn exchange<'r>(
    with: &ExchangeContext,
    downstream: &mut Downstream,
    ctx: &mut Served<'r>,
    admitted: &Admitted<'r>,
) -> Result<(UpstreamAnswer, Upload)> {
    let route = admitted.route;
    let length = body::length(downstream);
    let clock = &with.clock;
    let mut upload = body::first(downstream, ctx, route, length, clock).await?;
    let repeat = Repeat {
        safe: route.may_hedge(&downstream.request().method),
        idempotent: ctx.received.idempotent,
    };
    let tries = Tries::new(repeat, admitted.pool, admitted.basis, ctx.why.clone());
    let began = ctx.received.began;
    let mut exchange = Exchange {
        with,
        downstream,
        ctx,
        admitted,
        route,
        length,
        clock,
        tries,
        running: SmallVec::new(),
        kept: None,
        short: false,
        expects: false,
        hedged: false,
        look: began,
    };
    let answer = exchange.answer(&mut upload).await;
    // Whatever became of it, what failed it is known now.
    drop(exchange);
    Ok((answer?, upload))
}

/// Everything a request's tries need.
struct Exchange<'a, 'r> {
    with: &'a ExchangeContext,
    downstream: &'a mut Downstream,
    ctx: &'a mut Served<'r>,
    admitted: &'a Admitted<'r>,
    route: &'r RoutePlan,
    length: Length,
    clock: &'a Clock,
    tries: Tries,
    /// Those under way, in the same order.
    running: SmallVec<[Running; 1]>,
    kept: Option<KeptAnswer>,
    /// The last try failed because this process had nothing left to connect with.
    short: bool,
    /// The client still waits to be told that its body is wanted.
    expects: bool,
    /// A second try was begun beside a slow one, or would have been.
    hedged: bool,
    /// When to look next at the tries that wait.
    look: Tick,
}

impl Exchange<'_, '_> {
    /// Has an endpoint answer.
    async fn answer(&mut self, upload: &mut Upload) -> Result<UpstreamAnswer> {
        let now = match self.length {
            // Nothing was waited for.
            Length::None if self.route.auth.is_none() => self.ctx.received.began,
            _ => self.clock.now(),
        };
        self.know(upload, now);
        let Some(first) = self.decide(upload, now, |tries, asking, moment| {
            tries.first(asking, moment)
        }) else {
            self.ctx.refusal = Some(Refusal::NobodyCanServe);
            return Error::e_explain(ErrorType::HTTPStatus(503), "nobody can take the request");
        };
        self.expects = !upload.is_complete() && body::is_expected(self.downstream.request());
        self.begin(first, None, upload, now)?;
        self.look = now + FIRST_LOOK;
        loop {
            let client = self.client(upload);
            if client == Client::Body && self.expects {
                self.downstream.write_continue().await?;
                self.expects = false;
            }
            body::awaited(self.ctx, client == Client::Body, self.clock);
            let wake = self.next_wake();
            let end = match self.happens(upload, client, wake).await {
                Happened::Client(heard) => {
                    self.heard(heard, upload)?;
                    None
                }
                Happened::Went(at, Progress::Sent) => {
                    // From here on its silence means something.
                    self.running[at].this.live.wait(self.clock.now());
                    None
                }
                Happened::Went(_, Progress::Interim(head)) => {
                    self.interim(head, self.running.len() == 1).await?;
                    None
                }
                Happened::Went(at, Progress::Answered(answer)) => {
                    self.answer_came(at, answer, upload)?
                }
                Happened::Failed(at, failed) => self.try_failed(at, failed, upload)?,
                Happened::Time | Happened::Told => self.look_around(upload)?,
            };
            if let Some(end) = end {
                return end;
            }
        }
    }

    /// More of the request's body came, or the client is gone.
    fn heard(&mut self, heard: ClientEvent, upload: &mut Upload) -> Result<()> {
        let part = match heard {
            ClientEvent::Body(part) => part,
            ClientEvent::Gone(error) => return Err(self.gone(error)),
        };
        let now = self.clock.now();
        if let Err(error) = part.and_then(|part| self.take(part, upload, now)) {
            return Err(self.gone(error));
        }
        self.know(upload, now);
        Ok(())
    }

    /// A try was answered. What becomes of the request, if that is its end.
    fn answer_came(
        &mut self,
        at: usize,
        answer: UpstreamAnswer,
        upload: &Upload,
    ) -> Result<Option<Result<UpstreamAnswer>>> {
        let now = self.clock.now();
        self.know(upload, now);
        let status = answer.head.status.as_u16();
        let blame = self.answered(at, status, now);
        match self.decide(upload, now, |tries, asking, moment| {
            tries.answered(at, status, blame, asking, moment)
        }) {
            AfterAnswer::Take => Ok(Some(Ok(self.settle(at, answer, upload, now)))),
            AfterAnswer::Keep => {
                let this = self.running.remove(at).this;
                self.keep(KeptAnswer { this, answer });
                self.look_at(upload, now)
            }
            AfterAnswer::TryAgain((choice, reason)) => {
                let ended = self.running.remove(at);
                // Kept, so that the log can say who failed last.
                self.ctx.current = Some(ended.this);
                answer.discard(self.with);
                self.begin(choice, Some(reason), upload, now)?;
                self.look = now + FIRST_LOOK;
                Ok(None)
            }
        }
    }

    /// A try has failed. What becomes of the request, if that is its end.
    fn try_failed(
        &mut self,
        at: usize,
        failed: Failed,
        upload: &Upload,
    ) -> Result<Option<Result<UpstreamAnswer>>> {
        let now = self.clock.now();
        let under_way = self.running.len();
        if let Some(end) = self.failed(at, failed, false, upload, now)? {
            return Ok(Some(end));
        }
        if self.running.len() == under_way {
            self.look = now + FIRST_LOOK;
            return Ok(None);
        }
        self.look_at(upload, now)
    }

    /// Some time has passed, or something became of an endpoint. What becomes of the request, if that is
    /// its end.
    fn look_around(&mut self, upload: &Upload) -> Result<Option<Result<UpstreamAnswer>>> {
        let now = self.clock.now();
        if self.deadline().is_some_and(|deadline| now >= deadline) {
            return Ok(Some(self.too_late(upload, now)));
        }
        if body::awaited_until(self.ctx).is_some_and(|until| now >= until) {
            return Err(self.gone(body::too_slow()));
        }
        while let Some(at) = self.late(now) {
            let failed = self.running[at].attempt.timed_out();
            if let Some(end) = self.failed(at, failed, false, upload, now)? {
                return Ok(Some(end));
            }
        }
        if now >= self.look {
            self.judge(now, now.since(self.look));
            self.look = now + pause(&self.running, now);
        }
        if let Some(end) = self.look_at(upload, now)? {
            return Ok(Some(end));
        }
        if self.hedge_at().is_some_and(|at| now >= at) {
            self.hedged = true;
            if self.ctx.hedge_allowed(self.route)
                && let Some((choice, reason)) = self.decide(upload, now, |tries, asking, moment| {
                    tries.hedge(asking, moment)
                })
            {
                self.begin(choice, Some(reason), upload, now)?;
            }
        }
        Ok(None)
    }

    /// Asks the decider.
    fn decide<T>(
        &mut self,
        upload: &Upload,
        now: Tick,
        ask: impl FnOnce(&mut Tries, &Asking<'_>, &mut Moment<'_>) -> T,
    ) -> T {
        let properties = choose::Request {
            head: self.downstream.request(),
            client: Some(self.ctx.received.client),
            route: &self.route.name,
        };
        let asking = choose::asking(self.ctx, self.admitted, &properties);
        let body = Body {
            complete: upload.is_complete(),
            whole: upload.is_whole(),
            kept: upload.is_kept(self.route.retry.max_body),
        };
        fastrand_scope(|random| {
            let mut moment = Moment {
                now,
                given: self.ctx.given,
                body,
                random,
            };
            ask(&mut self.tries, &asking, &mut moment)
        })
    }

    /// It is known whether the request was answered well, and so whose fault it was if it failed.
    fn blame(&mut self, well: bool, upload: &Upload, now: Tick) {
        self.decide(upload, now, |tries, asking, _| {
            tries.judge(well, asking, now);
        });
    }

    /// Does what there is to do about tries whose endpoints say nothing. What became of the request, if
    /// that is its end.
    fn look_at(&mut self, upload: &Upload, now: Tick) -> Result<Option<Result<UpstreamAnswer>>> {
        for running in &mut self.running {
            // First this: whoever is told between here and there is told once more.
            running.listen();
        }
        loop {
            let sent: SmallVec<[bool; 2]> = self
                .running
                .iter()
                .map(|running| running.attempt.may_have_sent())
                .collect();
            let act = self.decide(upload, now, |tries, asking, moment| {
                tries.look(&|at| sent[at], asking, moment)
            });
            match act {
                None => return Ok(None),
                Some(Act::End(at, fault, sent)) => {
                    let failed = self.running[at].attempt.given_up(fault, sent);
                    if let Some(end) = self.failed(at, failed, true, upload, now)? {
                        return Ok(Some(end));
                    }
                }
                Some(Act::Rescue((choice, reason))) => {
                    self.begin(choice, Some(reason), upload, now)?;
                }
                Some(Act::TakeKept) => {
                    return Ok(self.settle_kept(upload, now).map(Ok));
                }
            }
            for running in &mut self.running {
                running.listen();
            }
        }
    }

    /// Remembers an answer for the case that no better one comes.
    fn keep(&mut self, kept: KeptAnswer) {
        let better = |before: &KeptAnswer| before.yields_to(kept.answer.head.status.as_u16());
        let worse = if self.kept.as_ref().is_none_or(better) {
            self.kept.replace(kept)
        } else {
            Some(kept)
        };
        if let Some(worse) = worse {
            worse.answer.discard(self.with);
        }
    }

    /// The answer that was kept counts.
    fn settle_kept(&mut self, upload: &Upload, now: Tick) -> Option<UpstreamAnswer> {
        let KeptAnswer { this, answer } = self.kept.take()?;
        let well = is_well(answer.head.status.as_u16());
        self.blame(well, upload, now);
        self.ctx.settle(this, now);
        for overtaken in std::mem::take(&mut self.running) {
            self.overtake(overtaken, upload);
        }
        Some(answer)
    }

    /// More of the body came, or its end.
    fn take(&mut self, part: Option<Bytes>, upload: &mut Upload, now: Tick) -> Result<()> {
        let Some(part) = part else {
            upload.end(request::trailers(self.downstream, self.ctx, self.route));
            return Ok(());
        };
        body::taken(self.ctx, &part, now)?;
        upload.add(part);
        if self.downstream.is_body_done() {
            upload.end(None);
        }
        Ok(())
    }

    /// The client has spoiled it. Whoever was asked is kept, so that the log can say so.
    fn gone(&mut self, error: Box<Error>) -> Box<Error> {
        if let Some(running) = self.running.pop() {
            self.ctx.current = Some(running.this);
        }
        error.into_down()
    }

    /// From when the request's time counts.
    fn know(&mut self, upload: &Upload, now: Tick) {
        if upload.is_complete() {
            self.ctx.given.get_or_insert(now);
        }
    }

    /// Begins a try.
    fn begin(
        &mut self,
        choice: Choice,
        again: Option<RetryReason>,
        upload: &Upload,
        now: Tick,
    ) -> Result<()> {
        let place = choice.place;
        let downstream = self.downstream.request();
        let request = Request {
            head: request::for_endpoint(downstream, self.ctx, self.route, place.pool, self.length)?,
            length: self.length,
            idempotent: self.ctx.received.idempotent,
            once: (!self.ctx.received.idempotent || !upload.is_complete())
                .then(|| self.clock.instant(now).into()),
            expects: self.expects,
            upgrade: self.ctx.received.wants_upgrade,
            flows: !upload.is_complete(),
            is_call: self.ctx.converses,
        };
        let target = choose::target(self.ctx, place)?;
        self.tries.begin(place, self.ctx.snapshot(), now);
        let mut this = choose::begin(self.ctx, choice, now, again);
        if upload.is_complete() {
            this.live.wait(now);
        }
        let timeouts = self.ctx.snapshot().plan.pools[place.pool.index()].timeouts;
        let patience = Patience {
            first_byte: timeouts
                .first_byte
                .unwrap_or_else(|| self.first_byte(upload)),
            idle: timeouts.idle,
        };
        let upstream = self.with.upstream.clone();
        let attempt = Attempt::new(upstream, target, request, patience, now);
        self.running.push(Running {
            this,
            attempt,
            bell: None,
        });
        Ok(())
    }

    /// How long an answer is waited for where its pool does not say: half of the time that there is, so that
    /// a request that may be tried again when nothing is heard still can be.
    fn first_byte(&self, upload: &Upload) -> Duration {
        let retry = &self.route.retry;
        let again = self.ctx.received.idempotent
            && retry.on_timeout
            && upload.is_kept(retry.max_body)
            && self.tries.has_another(self.ctx.snapshot(), self.route);
        match again {
            true => self.route.timeout / 2,
            false => self.route.timeout,
        }
    }

    /// A try was answered: what that says against its endpoint.
    fn answered(&mut self, at: usize, status: u16, now: Tick) -> Option<Blame> {
        let Self {
            ctx,
            route,
            downstream,
            running,
            ..
        } = self;
        let ended = &mut running[at];
        // How long it took: from when it could begin with all of the request.
        let from = match (self.length, ended.attempt.asked()) {
            (Length::Unknown, asked) => asked,
            (_, Some(asked)) if ctx.given > Some(ended.this.began) => Some(asked),
            (_, Some(_)) => Some(ended.this.began),
            (_, None) => None,
        };
        let took = from.map(|from| now.since(from));
        let source = || choose::source(ctx, route, downstream.request());
        ended.this.live.answered(status, took, now, source)
    }

    /// A try has failed, or was `released`, because its endpoint was found dead: then that says
    /// nothing new about it. What became of the request, if that is its end.
    fn failed(
        &mut self,
        at: usize,
        failed: Failed,
        released: bool,
        upload: &Upload,
        now: Tick,
    ) -> Result<Option<Result<UpstreamAnswer>>> {
        let mut ended = self.running.remove(at);
        let outcome = fault::outcome(&failed.error);
        let blame = if failed.excused || released {
            ended.this.live.excused(outcome);
            None
        } else {
            let source = || choose::source(self.ctx, self.route, self.downstream.request());
            ended.this.live.failed(outcome, now, source)
        };
        let short = fault::shortage(&failed.error);
        if let Some(short) = short {
            SHORTAGES.one(short);
        }
        // Another endpoint may have a connection already.
        let hopeless = self.short && short.is_some_and(Shortage::is_everybodys);
        self.short = short.is_some();
        let failure = Failure {
            fault: failed.fault,
            sent: failed.sent,
            released,
            hopeless: failed.is_the_requests_own() || hopeless,
        };
        let after = self.decide(upload, now, |tries, asking, moment| {
            tries.failed(at, failure, blame, asking, moment)
        });
        // Kept, so that the log can say who failed last.
        self.ctx.current = Some(ended.this);
        match after {
            AfterFailure::TryAgain((choice, reason)) => {
                self.begin(choice, Some(reason), upload, now)?;
                Ok(None)
            }
            AfterFailure::Wait => Ok(None),
            AfterFailure::GiveUp => {
                if let Some(kept) = self.settle_kept(upload, now) {
                    return Ok(Some(Ok(kept)));
                }
                self.blame(false, upload, now);
                Ok(Some(Err(failed.error)))
            }
        }
    }

    /// The answer of this try is the one that counts.
    fn settle(
        &mut self,
        at: usize,
        answer: UpstreamAnswer,
        upload: &Upload,
        now: Tick,
    ) -> UpstreamAnswer {
        self.blame(is_well(answer.head.status.as_u16()), upload, now);
        self.ctx.stand_in = self.tries.is_stand_in(at);
        let ended = self.running.remove(at);
        self.ctx.settle(ended.this, now);
        for overtaken in std::mem::take(&mut self.running) {
            self.overtake(overtaken, upload);
        }
        if let Some(kept) = self.kept.take() {
            kept.answer.discard(self.with);
        }
        answer
    }

    /// Another try was answered first.
    fn overtake(&self, overtaken: Running, upload: &Upload) {
        let pool = &self.ctx.snapshot().plan.pools[overtaken.this.pool.index()];
        let patience = pool.timeouts.first_byte.unwrap_or(self.route.timeout / 2);
        let source = choose::source(self.ctx, self.route, self.downstream.request());
        overtaken.listen_on(self.with, upload, patience, source);
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
    fn client(&mut self, upload: &Upload) -> Client {
        if upload.is_complete() {
            return Client::Presence;
        }
        if wants_more(&self.running, upload) || (upload.may_read_ahead() && !self.expects) {
            return Client::Body;
        }
        // Over HTTP/1.1 only reading would tell whether it is still there.
        match self.downstream.is_http2() {
            true => Client::Presence,
            false if self.expects => Client::Nothing,
            false => Client::Stalled,
        }
    }

    /// When the request's time is over.
    fn deadline(&self) -> Option<Tick> {
        self.ctx.given.map(|given| given + self.route.timeout)
    }

    /// A try whose time is over.
    fn late(&self, now: Tick) -> Option<usize> {
        self.running.iter().position(|running| {
            let limit = running.limit(self.ctx, self.route);
            limit.is_some_and(|limit| now >= limit)
        })
    }

    /// When to look again if nothing happens.
    fn next_wake(&self) -> Tick {
        let limits = self
            .running
            .iter()
            .filter_map(|running| running.limit(self.ctx, self.route));
        let held = self
            .running
            .iter()
            .filter_map(|running| running.attempt.held_until());
        limits
            .chain(held)
            .chain(self.deadline())
            .chain(body::awaited_until(self.ctx))
            .chain(self.tries.suspended_until())
            .chain(self.hedge_at())
            .fold(self.look, Tick::min)
    }

    /// When the second try of a route that hedges begins.
    fn hedge_at(&self) -> Option<Tick> {
        let hedge = self.route.hedge.as_ref().filter(|_| !self.hedged)?;
        let [running] = &self.running[..] else {
            return None;
        };
        let after = match hedge.after? {
            HedgeAfterPlan::Time(after) => after,
            HedgeAfterPlan::Percentile(percentile) => {
                let stall = &running.this.live.endpoint().stall;
                stall.quantile(f64::from(percentile) / 100.0)?
            }
        };
        // While the body still comes, nobody is slow but its client.
        Some(running.this.began.max(self.ctx.given?) + after)
    }

    /// Looks whether the silence of endpoints that are waited for is still plausible. `late`: how long
    /// this look was due already, for then nobody could have been heard.
    fn judge(&self, now: Tick, late: Duration) {
        for running in &self.running {
            let endpoint = running.this.live.endpoint();
            let pool = &self.ctx.snapshot().pools[running.this.pool.index()];
            let others = pool
                .endpoints
                .iter()
                .enumerate()
                .filter(|(at, _)| *at != running.this.endpoint)
                .map(|(_, other)| &other.live.stall)
                .take(MOST_OTHERS);
            match endpoint.stall.judge(now, late, others) {
                Judgement::Same => {}
                Judgement::Doubt => self.with.messenger.doubted(&endpoint.key),
                Judgement::Suspect(silent) => {
                    endpoint.ring();
                    self.with.messenger.silent(&endpoint.key, silent);
                }
            }
        }
    }

    /// Waits for whatever happens first.
    async fn happens(&mut self, upload: &mut Upload, client: Client, wake: Tick) -> Happened {
        let clock = self.clock;
        let wake = clock.instant(wake).into();
        let downstream = &mut *self.downstream;
        let tries = &mut self.running;
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
            if tries.iter_mut().any(|running| running.poll_bell(cx)) {
                return Poll::Ready(Happened::Told);
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

    /// The request's time is over.
    fn too_late(&mut self, upload: &Upload, now: Tick) -> Result<UpstreamAnswer> {
        if let Some(kept) = self.settle_kept(upload, now) {
            return Ok(kept);
        }
        for mut running in std::mem::take(&mut self.running) {
            let source = || choose::source(self.ctx, self.route, self.downstream.request());
            let blame = running.this.live.failed(TryOutcome::TimedOut, now, source);
            self.tries.ran_out(blame, now);
            self.ctx.current = Some(running.this);
        }
        self.blame(false, upload, now);
        Err(Error::explain(ErrorType::ReadTimedout, "the request took too long").into_up())
    }
}

/// Whether more of the body would be sent at once. While it still comes, there is one try at a time.
fn wants_more(tries: &[Running], upload: &Upload) -> bool {
    matches!(tries, [running] if running.attempt.wants_more(upload))
}

/// How long a try that waits is left alone.
fn pause(tries: &[Running], now: Tick) -> Duration {
    let waited = tries.iter().map(|running| now.since(running.this.began));
    let shortest = waited.min().unwrap_or_default();
    (shortest / 4).clamp(LOOKS.0, LOOKS.1)
}

/// Whether an answer with this status speaks for its endpoint.
fn is_well(status: u16) -> bool {
    portolan_control::health::outlier::fault::EndpointFault::of(TryOutcome::of_status(status))
        .is_none()
}

impl UpstreamAnswer {
    /// Gives the answer up: nobody wants it.
    fn discard(self, with: &ExchangeContext) {
        let now = with.clock.now();
        let now = with.clock.instant(now);
        self.wire.give_back(&with.upstream, self.target, now.into());
    }
}
