//! A request while it is under way: as it was received, as it was admitted, as it is served.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderValue;
use portolan_config::plan::{PoolId, RoutePlan};
use portolan_control::clock::Tick;
use portolan_control::counters::{Gauge, RetryReason, TryOutcome};
use portolan_control::decision::affinity::ClientAffinity;
use portolan_control::geo::Whereabouts;
use portolan_control::health::outlier::{Epoch, Source};
use portolan_control::health::stall::Waiting;
use portolan_control::pool::endpoint::{Blame, Endpoint};
use portolan_control::refusal::Refusal;
use portolan_control::snapshot::Snapshot;
use portolan_control::steering::Basis;

use crate::connection::context::ConnectionContext;
use crate::connection::entry::LedgerEntry;
use crate::request::allowance::RateLimitFields;
use crate::request::body_rate::BodyRate;
use crate::request::proof::Proved;

/// A request as it was received. Nothing of it changes.
#[derive(Debug)]
pub(crate) struct Received {
    /// When it began.
    pub(crate) began: Tick,
    /// The world it sees, from start to end.
    pub(crate) snapshot: Arc<Snapshot>,
    /// The connection that it came on.
    pub(crate) connection: Arc<ConnectionContext>,
    /// What it is known by, in logs and to endpoints.
    pub(crate) id: String,
    /// The client's address.
    pub(crate) client: IpAddr,
    /// The peer may say whom it speaks for.
    pub(crate) peer_trusted: bool,
    /// It asks for its connection to be upgraded.
    pub(crate) wants_upgrade: bool,
    /// It may be sent again, after it was sent (RFC 9110, section 9.2.2).
    pub(crate) idempotent: bool,
    /// It counts as under way until it is dropped.
    pub(crate) _under_way: UnderWay,
}

/// The route that a request takes, and what that route asked about its client.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Routed<'a> {
    /// The route.
    pub(crate) route: &'a RoutePlan,
    /// Where the client is, as far as the route asked.
    pub(crate) found: Whereabouts,
}

/// A request that may pass, and where it goes.
#[derive(Debug)]
pub(crate) struct Admitted<'a> {
    /// The route.
    pub(crate) route: &'a RoutePlan,
    /// Where the client is, as far as the route asked.
    pub(crate) found: Whereabouts,
    /// The pool that gets it.
    pub(crate) pool: PoolId,
    /// By which health that was chosen.
    pub(crate) basis: Basis,
    /// What ties it to where its client was before.
    pub(crate) tie: ClientAffinity,
}

/// What becomes of a request, from its first byte to the last of its answer.
#[derive(Debug)]
pub(crate) struct Served<'a> {
    /// The request.
    pub(crate) received: &'a Received,
    /// Its entry in the ledger, until it has ended.
    pub(crate) entry: Option<LedgerEntry>,
    /// The route it takes, once that is known.
    pub(crate) routed: Option<Routed<'a>>,
    /// How it came to where it goes, or why it goes nowhere.
    pub(crate) why: Option<Arc<str>>,
    /// By which health the try that counts was chosen.
    pub(crate) basis: Basis,
    /// The try under way.
    pub(crate) current: Option<Try>,
    /// Tries so far, with the one under way.
    pub(crate) tries: u32,
    /// When all of it was there: its time counts from then.
    pub(crate) given: Option<Tick>,
    /// It is a gRPC call, whose client speaks when it has something to say: no rate is asked of it.
    pub(crate) converses: bool,
    /// How slowly its body came so far.
    pub(crate) body_rate: BodyRate,
    /// Since when more of it is waited for, if that is what is waited for.
    pub(crate) body_awaited: Option<Tick>,
    /// The answer came from elsewhere although the first try has not failed: its client stays where it
    /// is.
    pub(crate) stand_in: bool,
    /// Why Portolan answers itself, if it does.
    pub(crate) refusal: Option<Refusal>,
    /// What was proved about who sends it.
    pub(crate) proved: Option<Box<Proved>>,
    /// What its client is told about how to prove who it is.
    pub(crate) challenge: Option<HeaderValue>,
    /// What its rate limits tell its client.
    pub(crate) allowance: Option<Box<RateLimitFields>>,
    /// Its answer is that it is to be had over https.
    pub(crate) redirected: bool,
    /// When response headers came.
    pub(crate) answered: Option<Tick>,
    /// Bytes of the request's body so far.
    pub(crate) bytes_in: u64,
    /// Bytes of the answer's body so far.
    pub(crate) bytes_out: u64,
}

/// A try to have an endpoint answer.
#[derive(Debug)]
pub(crate) struct Try {
    /// Whose endpoint.
    pub(crate) pool: PoolId,
    /// Its index in the pool's view.
    pub(crate) endpoint: usize,
    /// The endpoint: it counts this try as in flight until it is dropped.
    pub(crate) live: InFlight,
    /// When it began.
    pub(crate) began: Tick,
    /// How it came to this pool.
    pub(crate) why: Option<Arc<str>>,
    /// By which health.
    pub(crate) basis: Basis,
}

/// An endpoint that is answering a request. Dropped when that is over, however it ends.
#[derive(Debug)]
pub(crate) struct InFlight {
    endpoint: Arc<Endpoint>,
    /// When it began, in terms of the endpoint's standing.
    epoch: Epoch,
    outcome: Option<TryOutcome>,
    /// It was asked, and has not answered yet.
    waiting: Option<Waiting>,
}

impl InFlight {
    pub(crate) fn new(endpoint: Arc<Endpoint>) -> Self {
        endpoint.begin();
        Self {
            epoch: endpoint.passive.begin(),
            endpoint,
            outcome: None,
            waiting: None,
        }
    }

    /// All of the request goes to the endpoint now: from here on its silence means something.
    pub(crate) fn wait(&mut self, now: Tick) {
        if self.waiting.is_none() {
            self.waiting = Some(self.endpoint.stall.sent(now));
        }
    }

    /// Response headers came, and how long that took, if that is known: what it says against the
    /// endpoint, which may be the request's own fault.
    pub(crate) fn answered(
        &mut self,
        status: u16,
        took: Option<Duration>,
        now: Tick,
        source: impl Fn() -> Source,
    ) -> Option<Blame> {
        let outcome = TryOutcome::of_status(status);
        self.endpoint.answered(outcome, took, now);
        self.over();
        self.failed(outcome, now, source)
    }

    /// More of the answer came.
    pub(crate) fn heard(&self, now: Tick) {
        self.endpoint.stall.heard(now);
    }

    /// Says how the try ended. What it says against the endpoint counts when that is dropped, unless the
    /// request turns out to be the cause. That there was no connection is never the request's fault.
    pub(crate) fn failed(
        &mut self,
        outcome: TryOutcome,
        now: Tick,
        source: impl Fn() -> Source,
    ) -> Option<Blame> {
        if self.outcome.is_some() {
            return None;
        }
        self.outcome = Some(outcome);
        let suspended = match outcome {
            TryOutcome::ConnectFailed => None,
            outcome => self.endpoint.suspend(outcome, self.epoch, &source),
        };
        if suspended.is_none() {
            self.endpoint.tried(outcome, self.epoch, now, source);
        }
        suspended
    }

    fn over(&mut self) {
        if let Some(waiting) = self.waiting.take() {
            self.endpoint.stall.over(waiting);
        }
    }

    pub(crate) fn endpoint(&self) -> &Arc<Endpoint> {
        &self.endpoint
    }

    /// The answer has begun, and breaks off.
    pub(crate) fn broke_off(&mut self) {
        if self.outcome == Some(TryOutcome::Answered) {
            self.endpoint.broke_off();
        }
    }

    /// Says how the try ended, and that the endpoint is not to blame.
    pub(crate) fn excused(&mut self, outcome: TryOutcome) {
        if self.outcome.is_none() {
            self.outcome = Some(outcome);
            self.endpoint.excused(outcome);
        }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.over();
        self.endpoint.end();
        self.endpoint.passive.over(self.epoch);
        self.excused(TryOutcome::Abandoned);
    }
}

/// A request that the process must finish before it ends.
#[derive(Debug)]
pub(crate) struct UnderWay(Arc<Gauge>);

impl UnderWay {
    pub(crate) fn new(gauge: &Arc<Gauge>) -> Self {
        gauge.up();
        Self(gauge.clone())
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.down();
    }
}

impl Drop for Served<'_> {
    /// Dropped before its end: that is its end.
    fn drop(&mut self) {
        if self.entry.is_some() {
            self.received.connection.recorder.dropped(self);
        }
    }
}

impl<'a> Served<'a> {
    /// A request of which nothing is known but what was received.
    pub(crate) fn new(received: &'a Received, entry: LedgerEntry) -> Self {
        Self {
            received,
            entry: Some(entry),
            routed: None,
            why: None,
            basis: Basis::Health,
            current: None,
            tries: 0,
            given: None,
            converses: false,
            body_rate: BodyRate::default(),
            body_awaited: None,
            stand_in: false,
            refusal: None,
            proved: None,
            challenge: None,
            allowance: None,
            redirected: false,
            answered: None,
            bytes_in: 0,
            bytes_out: 0,
        }
    }

    /// The world it sees.
    pub(crate) fn snapshot(&self) -> &'a Snapshot {
        &self.received.snapshot
    }

    /// The route it takes, once that is known.
    pub(crate) fn route(&self) -> Option<&'a RoutePlan> {
        Some(self.routed?.route)
    }

    /// Where its client is, as far as its route asked.
    pub(crate) fn found(&self) -> Whereabouts {
        self.routed
            .map_or(Whereabouts::UNKNOWN, |routed| routed.found)
    }

    /// Whether one more request of this route may have a second try beside a slow first one.
    pub(crate) fn hedge_allowed(&self, route: &RoutePlan) -> bool {
        let state = &self.snapshot().routes[route.id.index()];
        let requests: u64 = state
            .counted()
            .map(|(_, stats)| stats.requests.total())
            .sum();
        let budget = route.hedge.as_ref().map_or(0.0, |hedge| hedge.budget);
        state.retries.get(RetryReason::Hedged) as f64 <= requests as f64 * budget
    }

    /// This try is the one that counts.
    pub(crate) fn settle(&mut self, this: Try, now: Tick) {
        self.why.clone_from(&this.why);
        self.basis = this.basis;
        self.answered = Some(now);
        self.current = Some(this);
    }
}
