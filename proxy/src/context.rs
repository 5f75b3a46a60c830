//! What is known about a connection, and about a request while it is under way.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use http::HeaderValue;
use portolan_certs::CertificateStore;
use portolan_certs::store::Able;
use portolan_config::plan::{PoolId, RouteId, RoutePlan};
use portolan_control::affinity::Tie;
use portolan_control::clock::Tick;
use portolan_control::endpoint::Endpoint;
use portolan_control::engine::Messenger;
use portolan_control::geo::Whereabouts;
use portolan_control::outlier::Epoch;
use portolan_control::retry::{self, Action, Chances, Fault, Repeatable, Sent};
use portolan_control::silence::Waiting;
use portolan_control::snapshot::Snapshot;
use portolan_control::stats::{Gauge, PoolStats, RetryReason, Totals, TryOutcome};
use portolan_control::steering::Basis;
use smallvec::SmallVec;

use crate::access;
use crate::auth::Proved;
use crate::body_rate::BodyRate;
use crate::carried::Carried;
use crate::client_certificate::ClientCertificate;
use crate::ledger::Entry;
use crate::listener::Listener;
use crate::record::Recorder;
use crate::refusal::Refusal;

/// A client's connection.
#[derive(Debug)]
pub(crate) struct ConnectionContext {
    /// The client's socket.
    pub(crate) peer: SocketAddr,
    /// Its address as text.
    pub(crate) peer_text: HeaderValue,
    /// Our end of it.
    pub(crate) local: SocketAddr,
    /// The listener that accepted it.
    pub(crate) listener: Arc<Listener>,
    /// What TLS agreed on.
    pub(crate) tls: Option<TlsContext>,
    /// What is counted about the process.
    pub(crate) totals: Arc<Totals>,
    /// The request under way is the last that this connection may bring.
    pub(crate) last: AtomicBool,
    /// Who writes down what became of its requests.
    pub(crate) recorder: Arc<Recorder>,
    /// For whom it speaks, if it may.
    pub(crate) carried: Arc<Carried>,
}

impl ConnectionContext {
    /// Whether the request under way is the last that this connection may bring.
    pub(crate) fn is_at_its_end(&self) -> bool {
        self.last.load(Ordering::Relaxed)
    }
}

/// What TLS agreed on.
#[derive(Debug)]
pub(crate) struct TlsContext {
    /// `TLSv1.3`.
    pub(crate) version: &'static str,
    /// The certificates the client could have got.
    pub(crate) store: Arc<CertificateStore>,
    /// The one it got, by index.
    pub(crate) certificate: Option<usize>,
    /// What it can verify.
    pub(crate) able: Able,
    /// It was asked for a certificate of its own.
    pub(crate) asked: bool,
    /// The one that it showed, verified.
    pub(crate) client: Option<Arc<ClientCertificate>>,
}

/// A request, from its first byte to the last of its answer.
#[derive(Debug)]
pub(crate) struct RequestContext {
    /// Its entry in the ledger, until it has ended.
    pub(crate) entry: Option<Entry>,
    /// When it began.
    pub(crate) began: Tick,
    /// The world it sees, from start to end.
    pub(crate) snapshot: Option<Arc<Snapshot>>,
    /// Whose connection it came on.
    pub(crate) connection: Option<Arc<ConnectionContext>>,
    /// What it is known by, in logs and to endpoints.
    pub(crate) id: String,
    /// The client's address.
    pub(crate) client: Option<IpAddr>,
    /// Whether the peer may say whom it speaks for.
    pub(crate) peer_trusted: bool,
    /// Where the client is, as far as the route asked.
    pub(crate) found: Whereabouts,
    /// The route it takes.
    pub(crate) route: Option<RouteId>,
    /// The pool that gets it.
    pub(crate) pool: Option<PoolId>,
    /// By which health that was chosen.
    pub(crate) basis: Basis,
    /// What ties it to where its client was before.
    pub(crate) tie: Tie,
    /// How it came about.
    pub(crate) why: Option<Arc<str>>,
    /// The try under way.
    pub(crate) current: Option<Try>,
    /// Tries so far, with the one under way.
    pub(crate) tries: u32,
    /// Endpoints that failed it.
    pub(crate) failed: SmallVec<[(PoolId, usize); 2]>,
    /// When all of it was there: its time counts from then.
    pub(crate) given: Option<Tick>,
    /// It is a gRPC call, whose client speaks when it has something to say: no rate is asked of it.
    pub(crate) converses: bool,
    /// How slowly its body came so far.
    pub(crate) body_rate: BodyRate,
    /// Since when more of it is waited for, if that is what is waited for.
    pub(crate) body_awaited: Option<Tick>,
    /// Whether it may be sent again.
    pub(crate) chances: Repeatable,
    /// Why Portolan answers itself, if it does.
    pub(crate) refusal: Option<Refusal>,
    /// What was proved about who sends it.
    pub(crate) proved: Option<Box<Proved>>,
    /// What its client is told about how to prove who it is.
    pub(crate) challenge: Option<HeaderValue>,
    /// What its rate limits tell its client.
    pub(crate) allowance: Option<Box<access::Told>>,
    /// Its answer is that it is to be had over https.
    pub(crate) redirected: bool,
    /// It asks for its connection to be upgraded.
    pub(crate) wants_upgrade: bool,
    /// When response headers came.
    pub(crate) answered: Option<Tick>,
    /// Bytes of the request's body so far.
    pub(crate) bytes_in: u64,
    /// Bytes of the answer's body so far.
    pub(crate) bytes_out: u64,
    /// Counted as under way until it is dropped.
    pub(crate) under_way: Option<UnderWay>,
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
    /// Counted towards the pool's budget of retries until it is answered.
    pub(crate) retrying: Option<Retrying>,
}

/// A try that is not the first of its request.
#[derive(Debug)]
pub(crate) struct Retrying(Arc<PoolStats>);

impl Retrying {
    pub(crate) fn new(pool: &Arc<PoolStats>) -> Self {
        pool.retrying.up();
        Self(pool.clone())
    }
}

impl Drop for Retrying {
    fn drop(&mut self) {
        self.0.retrying.down();
    }
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
            epoch: endpoint.witness.epoch(),
            endpoint,
            outcome: None,
            waiting: None,
        }
    }

    /// All of the request goes to the endpoint now: from here on its silence means something.
    pub(crate) fn wait(&mut self, now: Tick) {
        if self.waiting.is_none() {
            self.waiting = Some(self.endpoint.silence.sent(now));
        }
    }

    /// Response headers came, after this time.
    pub(crate) fn answered(
        &mut self,
        status: u16,
        took: Duration,
        now: Tick,
        messenger: &Messenger,
    ) {
        self.endpoint.observe_answer(took, now);
        self.over();
        if self.endpoint.silence.answered(took, now) {
            messenger.heard(&self.endpoint.key);
        }
        self.ended(TryOutcome::of_status(status));
    }

    /// Response headers came before all of the request was sent: how long the endpoint takes to
    /// answer is not known.
    pub(crate) fn answered_early(&mut self, status: u16, now: Tick, messenger: &Messenger) {
        self.over();
        self.heard(now, messenger);
        self.ended(TryOutcome::of_status(status));
    }

    /// More of the answer came.
    pub(crate) fn heard(&self, now: Tick, messenger: &Messenger) {
        if self.endpoint.silence.heard(now) {
            messenger.heard(&self.endpoint.key);
        }
    }

    fn over(&mut self) {
        if let Some(waiting) = self.waiting.take() {
            self.endpoint.silence.over(waiting);
        }
    }

    pub(crate) fn endpoint(&self) -> &Arc<Endpoint> {
        &self.endpoint
    }

    /// Says how the try ended. The first word counts; but an answer that has begun may still break
    /// off.
    pub(crate) fn ended(&mut self, outcome: TryOutcome) {
        match self.outcome {
            None => {
                self.outcome = Some(outcome);
                self.endpoint.tried(outcome, self.epoch);
            }
            Some(TryOutcome::Answered) if outcome == TryOutcome::Broken => {
                self.endpoint.broke_off();
            }
            Some(_) => {}
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

impl Drop for RequestContext {
    /// Dropped before its end: somebody has to say so.
    fn drop(&mut self) {
        if let Some(entry) = &self.entry {
            let recorder = entry.connection.recorder.clone();
            recorder.dropped(self);
        }
    }
}

impl RequestContext {
    /// A request of which nothing is known yet.
    pub(crate) fn new(began: Tick) -> Self {
        Self {
            entry: None,
            began,
            snapshot: None,
            connection: None,
            id: String::new(),
            client: None,
            peer_trusted: false,
            found: Whereabouts::UNKNOWN,
            route: None,
            pool: None,
            basis: Basis::Health,
            tie: Tie::Free,
            why: None,
            current: None,
            tries: 0,
            failed: SmallVec::new(),
            given: None,
            converses: false,
            body_rate: BodyRate::default(),
            body_awaited: None,
            chances: Repeatable {
                idempotent: false,
                body_kept: false,
            },
            refusal: None,
            proved: None,
            challenge: None,
            allowance: None,
            redirected: false,
            wants_upgrade: false,
            answered: None,
            bytes_in: 0,
            bytes_out: 0,
            under_way: None,
        }
    }

    /// The world it sees.
    ///
    /// # Panics
    /// Before the first phase has set it.
    pub(crate) fn snapshot(&self) -> &Arc<Snapshot> {
        self.snapshot
            .as_ref()
            .expect("the first phase takes a snapshot")
    }

    /// Whether a try that failed like this is followed by another one.
    pub(crate) fn may_retry(&self, route: &RoutePlan, fault: Fault, sent: Sent, now: Tick) -> bool {
        let snapshot = self.snapshot();
        let in_budget = self.pool.is_none_or(|pool| {
            let retrying = snapshot.pool_stats[pool.index()].retrying.get();
            let in_flight = snapshot.pools[pool.index()].in_flight();
            retry::in_budget(route.retry.budget, in_flight, retrying.max(0) as u64)
        });
        let chances = Chances {
            tries: self.tries,
            in_time: self.given.is_none_or(|given| now < given + route.timeout),
            in_budget,
            answer_begun: self.answered.is_some(),
        };
        retry::decide(&route.retry, fault, sent, self.chances, chances) == Action::TryAgain
    }

    /// Whether one more request of this route may have a second try beside a slow first one.
    pub(crate) fn hedge_allowed(&self, route: &RoutePlan) -> bool {
        let state = &self.snapshot().routes[route.id.index()];
        let requests: u64 = state
            .counted()
            .map(|(_, stats)| stats.requests.total())
            .sum();
        let budget = route.hedge.map_or(0.0, |hedge| hedge.budget);
        state.retries.get(RetryReason::Beside) as f64 <= requests as f64 * budget
    }

    /// This try is the one that counts.
    pub(crate) fn settle(&mut self, mut this: Try, now: Tick) {
        this.retrying = None;
        self.pool = Some(this.pool);
        self.why.clone_from(&this.why);
        self.basis = this.basis;
        self.answered = Some(now);
        self.current = Some(this);
    }

    /// The pools all of whose endpoints failed it, or that have none left.
    pub(crate) fn failed_pools(&self) -> SmallVec<[PoolId; 2]> {
        let mut pools: SmallVec<[PoolId; 2]> = SmallVec::new();
        for (pool, _) in &self.failed {
            if !pools.contains(pool) {
                pools.push(*pool);
            }
        }
        pools
    }
}
