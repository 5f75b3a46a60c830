//! The tries of a request: which endpoint is asked first and next, which are asked side by side, whose
//! answer counts, and whose fault it was.
//!
//! Purely decided: the caller says what happens ([`Tries::failed`], [`Tries::answered`],
//! [`Tries::look`]) and does what it is told. The data plane and the simulation are such callers.
//!
//! # Where the next try goes
//! To another endpoint of the same pool, as long as it is one of the first two there. After a second
//! failure in one pool, and for the last try that a request may have, to another pool of its target
//! that can serve; then to whatever is left. Endpoints that are down or silent are asked when there is
//! nothing else.
//!
//! # What costs a try
//! `retry.tries` says how often a request may be *sent*. A connection that could not be made, and a
//! request that certainly was not processed, cost none.
//!
//! # Side by side
//! Only requests that may run twice ([`Repeat::safe`]) are under way at two endpoints at the same time:
//! beside a slow try (`hedge`), and beside tries whose endpoints have all gone silent or down (a
//! rescue), as often as there are places left. Whichever is answered first counts; an answer of 400 or
//! above only once the first try has failed, for another cloud may not know yet what this one knows.
//!
//! # Endpoints that are found dead
//! Who waits for such an endpoint is released: what may run twice is tried elsewhere as well, what may
//! be repeated is ended and tried elsewhere, anything else has failed.
//!
//! # Whose fault
//! A request that fails alike wherever it is tried is itself the cause: no endpoint is blamed for it. So
//! a failure counts only when the next try went otherwise: when it was answered, or has already taken
//! much longer than the failure.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use portolan_config::plan::{PoolId, PoolPlan, RoutePlan};
use smallvec::SmallVec;

use crate::clock::Tick;
use crate::counters::RetryReason;
use crate::decision::Decision;
use crate::decision::affinity::{ClientAffinity, EndpointIndex};
use crate::decision::decide::decide_again;
use crate::geo::Whereabouts;
use crate::health::outlier::Source;
use crate::health::outlier::fault::EndpointFault;
use crate::health::retry;
use crate::health::retry::{Action, Chances, Repeatable, RetryReasoning, Sent, TryFault};
use crate::pool::balance::Criteria;
use crate::pool::endpoint::{Blame, Endpoint};
use crate::snapshot::Snapshot;
use crate::steering::{Basis, Draw};

/// How long another try may take until it has not failed alike: so many times as long as the failure
/// took, and this much longer; no longer than the last, but for failures that are nothing but time.
const ALIKE: (u32, Duration, Duration) = (3, Duration::from_millis(40), Duration::from_secs(1));

/// How long it is believed that there is no place for another try, first and at most: to look for one takes
/// a while, and when all endpoints are silent every request that waits would look all the time.
const NOWHERE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(1));

/// Failures in one pool after which another pool is asked.
const FAILURES_IN_A_POOL: usize = 2;

/// What a request asks for: what does not change while it is tried.
#[derive(Clone, Copy)]
pub struct Asking<'a> {
    /// The world it sees.
    pub snapshot: &'a Snapshot,
    /// Its route.
    pub route: &'a RoutePlan,
    /// Its client's address.
    pub client: Option<IpAddr>,
    /// Where its client is.
    pub found: &'a Whereabouts,
    /// What ties it to where its client was before.
    pub tie: &'a ClientAffinity,
    /// What pools may hash.
    pub properties: &'a dyn Properties,
}

/// What is known of a request beside its target.
pub trait Properties {
    /// A hash of the property that a pool's balancer looks at; nothing if it looks at none, or the
    /// request does not have it.
    fn hash(&self, pool: &PoolPlan) -> Option<u64>;

    /// Where the request came from and what it asks for.
    fn source(&self) -> Source {
        Source::default()
    }
}

/// A request of which balancers know nothing.
#[derive(Clone, Copy, Debug)]
pub struct Plain;

impl Properties for Plain {
    fn hash(&self, _: &PoolPlan) -> Option<u64> {
        None
    }
}

/// How often a request may run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Repeat {
    /// Twice at the same time: it changes nothing (RFC 9110, section 9.2.1), or its route says so.
    pub safe: bool,
    /// Twice, one after the other (RFC 9110, section 9.2.2).
    pub idempotent: bool,
}

/// How much of a request's body is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Body {
    /// All of it came.
    pub complete: bool,
    /// All that came is still there.
    pub whole: bool,
    /// The same, and it is as small as what the route keeps for another try.
    pub kept: bool,
}

impl Body {
    /// There is none.
    pub const NONE: Self = Self {
        complete: true,
        whole: true,
        kept: true,
    };
}

/// Where a try goes, and how that came about.
#[derive(Clone, Debug, PartialEq)]
pub struct Choice {
    /// The endpoint.
    pub place: EndpointIndex,
    /// By which health its pool was chosen.
    pub basis: Basis,
    /// How it came to this pool, in a line.
    pub why: Option<Arc<str>>,
}

/// The next try, and why there is one.
pub type Next = (Choice, RetryReason);

/// A try under way.
#[derive(Debug)]
struct UnderWay {
    place: EndpointIndex,
    began: Tick,
    /// How many there were before it.
    number: u32,
    /// It began while another one was under way.
    beside: bool,
    /// How often its endpoint had been found dead before.
    deaths: u32,
    /// Its endpoint was down already.
    was_down: bool,
    /// Its endpoint was found dead since.
    dead: bool,
}

/// A failure of which it is not known yet whose fault it was.
#[derive(Debug)]
struct Suspended {
    pool: PoolId,
    blame: Blame,
    /// Then it counts.
    until: Tick,
}

/// What follows from a failure.
#[derive(Debug, PartialEq)]
pub enum AfterFailure {
    /// Another try.
    TryAgain(Next),
    /// Other tries are under way.
    Wait,
    /// The request has failed.
    GiveUp,
}

/// What follows from an answer.
#[derive(Debug, PartialEq)]
pub enum AfterAnswer {
    /// It is the answer of the request.
    Take,
    /// It may become that, if no better one comes: another try is under way that may still be
    /// answered.
    Keep,
    /// Another try may be answered better.
    TryAgain(Next),
}

/// What follows from a look at tries that wait.
#[derive(Debug, PartialEq)]
pub enum Act {
    /// The try at this index has failed: nothing is to be expected of it.
    End(usize, TryFault, Sent),
    /// One more try, beside those under way.
    Rescue(Next),
    /// Nothing is to be expected of the tries under way: take the answer that was kept.
    TakeKept,
}

/// How a try failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failure {
    /// What happened.
    pub fault: TryFault,
    /// How much of the request reached the endpoint.
    pub sent: Sent,
    /// It was ended because its endpoint was found dead: to go elsewhere adds to nobody's load.
    pub released: bool,
    /// No other endpoint would do better: it is the request itself that cannot be sent, or this instance
    /// cannot connect to any endpoint.
    pub hopeless: bool,
}

/// What the decider must know of the moment.
#[derive(Debug)]
pub struct Moment<'r> {
    /// Now.
    pub now: Tick,
    /// When all of the request was there: its time counts from then.
    pub given: Option<Tick>,
    /// How much of its body is there.
    pub body: Body,
    /// Chance, from outside.
    pub random: &'r mut fastrand::Rng,
}

/// The tries of a request.
#[derive(Debug)]
pub struct Tries {
    repeat: Repeat,
    /// Pools that were chosen, and how; the last one is asked now.
    pools: SmallVec<[Chosen; 2]>,
    /// Endpoints that failed it, or are waited for.
    asked: SmallVec<[EndpointIndex; 2]>,
    under_way: SmallVec<[UnderWay; 1]>,
    /// Tries so far.
    begun: u32,
    /// How often it was sent, of tries that have failed.
    spent: u32,
    /// The first try has failed.
    first_failed: bool,
    /// An answer was kept.
    kept: bool,
    /// Failures that count unless it turns out that the request was the cause.
    blames: SmallVec<[Suspended; 2]>,
    /// There was no place for another try: until when that is believed, and for how long it was.
    nowhere: Option<(Tick, Duration)>,
}

/// A pool that was chosen, and how.
#[derive(Clone, Debug)]
struct Chosen {
    pool: PoolId,
    basis: Basis,
    why: Option<Arc<str>>,
}

/// How the next endpoint is chosen.
#[derive(Clone, Copy, Debug, Default)]
struct Choosing {
    /// Not in the same pool, if another one can serve.
    elsewhere: bool,
    /// Of endpoints in the same pool only those that were heard since.
    heard_since: Option<Tick>,
    /// Only an endpoint of which nothing bad is known.
    only_good: bool,
}

/// What a pool has for a request.
enum Pick {
    Good(usize),
    /// Endpoints that may have the same fault as the one that is waited for.
    Unsure(usize),
    /// Only endpoints that are silent or down, or have just failed too often.
    Bad(usize),
    None,
}

impl Tries {
    /// The tries of a request for which this pool was chosen.
    pub fn new(repeat: Repeat, pool: PoolId, basis: Basis, why: Option<Arc<str>>) -> Self {
        let mut pools = SmallVec::new();
        pools.push(Chosen { pool, basis, why });
        Self {
            repeat,
            pools,
            asked: SmallVec::new(),
            under_way: SmallVec::new(),
            begun: 0,
            spent: 0,
            first_failed: false,
            kept: false,
            blames: SmallVec::new(),
            nowhere: None,
        }
    }

    /// Where the first try goes; nothing if there is no endpoint at all.
    pub fn first(&mut self, asking: &Asking<'_>, moment: &mut Moment<'_>) -> Option<Choice> {
        let Chosen { pool, basis, why } = self.pools.last()?.clone();
        // Nearly always there is a good one.
        match self.pick(asking, pool, basis, None, moment) {
            Pick::Good(endpoint) => Some(Choice {
                place: EndpointIndex { pool, endpoint },
                basis,
                why,
            }),
            _ => self.choose(asking, Choosing::default(), moment),
        }
    }

    /// A try begins there.
    pub fn begin(&mut self, place: EndpointIndex, snapshot: &Snapshot, now: Tick) {
        let live = live(snapshot, place);
        self.under_way.push(UnderWay {
            place,
            began: now,
            number: self.begun,
            beside: !self.under_way.is_empty(),
            deaths: live.deaths(),
            was_down: live.is_down(),
            dead: false,
        });
        self.asked.push(place);
        self.begun += 1;
    }

    /// Tries so far.
    pub fn count(&self) -> u32 {
        self.begun
    }

    /// Whether there is an endpoint that was not asked yet and is not known to be down, and a try left for it
    /// besides the one that begins now: else nothing is gained by giving that one up early.
    pub fn has_another(&self, snapshot: &Snapshot, route: &RoutePlan) -> bool {
        let pools = snapshot.routes[route.id.index()].pools();
        let mut places = pools.flat_map(|pool| {
            let endpoints = 0..snapshot.pools[pool.index()].endpoints.len();
            endpoints.map(move |endpoint| EndpointIndex { pool, endpoint })
        });
        self.spent + 1 < route.retry.tries
            && places.any(|place| !self.asked.contains(&place) && !live(snapshot, place).is_down())
    }

    /// The try at this index has failed. It is under way no more. `blame`: its endpoint's, if it is
    /// to blame.
    pub fn failed(
        &mut self,
        at: usize,
        failure: Failure,
        blame: Option<Blame>,
        asking: &Asking<'_>,
        moment: &mut Moment<'_>,
    ) -> AfterFailure {
        let ended = self.under_way.remove(at);
        self.first_failed |= ended.number == 0;
        self.suspend(&ended, blame, moment.now);
        if failure.sent == Sent::Perhaps {
            self.spent += 1;
        }
        if !self.under_way.is_empty() {
            return AfterFailure::Wait;
        }
        if failure.hopeless {
            return AfterFailure::GiveUp;
        }
        let free = failure.released || failure.sent == Sent::Nothing;
        if self.may_retry(failure, asking, moment) == Action::TryAgain
            && let Some(choice) = self.choose(asking, self.after(asking), moment)
            && (free || pay(asking, moment.now))
        {
            return AfterFailure::TryAgain((choice, reason(failure.fault)));
        }
        AfterFailure::GiveUp
    }

    /// The try at this index was answered. Unless its answer is taken, it is under way no more. `blame`:
    /// its endpoint's, if this answer is one that it is to blame for.
    pub fn answered(
        &mut self,
        at: usize,
        status: u16,
        blame: Option<Blame>,
        asking: &Asking<'_>,
        moment: &mut Moment<'_>,
    ) -> AfterAnswer {
        let ended = &self.under_way[at];
        let bad = asking.route.retry.on_statuses.contains(&status);
        // The first try may still be answered, and it is the one that was meant.
        let first_waits = self
            .under_way
            .iter()
            .any(|other| other.number < ended.number && !other.dead);
        let yields = ended.beside && status >= 400 && first_waits;
        let others = self.under_way.len() > 1;
        let ended = self.under_way.remove(at);
        self.suspend(&ended, blame, moment.now);
        if !(bad || yields) {
            self.under_way.insert(at, ended);
            return AfterAnswer::Take;
        }
        if bad {
            self.first_failed |= ended.number == 0;
            self.spent += 1;
        }
        if others {
            self.kept = true;
            return AfterAnswer::Keep;
        }
        let failure = Failure {
            fault: TryFault::Status(status),
            sent: Sent::Perhaps,
            released: false,
            hopeless: false,
        };
        if self.may_retry(failure, asking, moment) == Action::TryAgain
            && let Some(choice) = self.choose(asking, self.after(asking), moment)
            && pay(asking, moment.now)
        {
            return AfterAnswer::TryAgain((choice, RetryReason::Status));
        }
        self.under_way.insert(0, ended);
        AfterAnswer::Take
    }

    /// A look at tries that wait: what is to be done now; to be asked again when it is done. `sent`:
    /// whether anything of the request may have reached the endpoint of the try at an index.
    pub fn look(
        &mut self,
        sent: &dyn Fn(usize) -> bool,
        asking: &Asking<'_>,
        moment: &mut Moment<'_>,
    ) -> Option<Act> {
        let snapshot = asking.snapshot;
        self.count_failures(moment.now);
        for running in &mut self.under_way {
            let dead = live(snapshot, running.place).deaths() != running.deaths;
            if dead && !running.dead {
                running.dead = true;
                // What leaves it is free: where there was nowhere to go, there may be now.
                self.nowhere = None;
            }
        }
        let silent = |running: &UnderWay| live(snapshot, running.place).stall.is_suspect();
        let rescued = self.repeat.safe && may_run_beside(asking, moment);
        for at in 0..self.under_way.len() {
            let running = &self.under_way[at];
            if !(running.dead || silent(running)) {
                continue;
            }
            if !sent(at) {
                // Still connecting: to go elsewhere costs nothing, if it may.
                let failure = Failure {
                    fault: TryFault::Connect,
                    sent: Sent::Nothing,
                    released: false,
                    hopeless: false,
                };
                if self.may_retry(failure, asking, moment) == Action::TryAgain
                    && self.peek(asking, moment)
                {
                    return Some(Act::End(at, TryFault::Connect, Sent::Nothing));
                }
                continue;
            }
            if rescued || !running.dead {
                continue;
            }
            let policy = &asking.route.retry;
            let may_move = self.repeat.idempotent
                && moment.body.kept
                && policy.on_timeout
                && self.spent + 1 < policy.tries;
            let ends = if may_move {
                self.peek(asking, moment)
            } else {
                snapshot.pools[running.place.pool.index()].plan.releases
            };
            if ends {
                return Some(Act::End(at, TryFault::Timeout, Sent::Perhaps));
            }
        }
        let all = |troubled: &dyn Fn(&UnderWay) -> bool| self.under_way.iter().all(troubled);
        let now = moment.now;
        // It is down, and somebody is there: most of what it has it will still answer.
        let down = |running: &UnderWay| {
            let endpoint = live(snapshot, running.place);
            let down = endpoint.is_down() && !running.was_down;
            down && endpoint.stall.is_late(running.began, now)
        };
        let all_dead = all(&|running| running.dead);
        let troubled = all(&|running| running.dead || silent(running) || down(running));
        if rescued && troubled && !self.is_nowhere(moment.now) {
            match self.beside(all_dead, asking, moment) {
                Some(choice) => return Some(Act::Rescue((choice, RetryReason::Rescue))),
                None => self.found(false, moment.now),
            }
        }
        (self.kept && all_dead).then_some(Act::TakeKept)
    }

    /// A second try beside the first, which takes long.
    pub fn hedge(&mut self, asking: &Asking<'_>, moment: &mut Moment<'_>) -> Option<Next> {
        let choice = self.beside(false, asking, moment)?;
        Some((choice, RetryReason::Hedged))
    }

    /// One more try beside those under way. `free`: their endpoints are dead.
    fn beside(
        &mut self,
        free: bool,
        asking: &Asking<'_>,
        moment: &mut Moment<'_>,
    ) -> Option<Choice> {
        if !(self.repeat.safe && may_run_beside(asking, moment)) {
            return None;
        }
        let choosing = Choosing {
            // An endpoint that is heard is better than one that may be as silent.
            heard_since: self.under_way.iter().map(|running| running.began).max(),
            only_good: true,
            ..self.after(asking)
        };
        let before = self.pools.clone();
        let choice = self.choose(asking, choosing, moment)?;
        if free || pay(asking, moment.now) {
            return Some(choice);
        }
        self.pools = before;
        None
    }

    /// Whether it was found a moment ago that there is no place for another try.
    fn is_nowhere(&self, now: Tick) -> bool {
        self.nowhere.is_some_and(|(until, _)| now < until)
    }

    /// It was looked for one.
    fn found(&mut self, one: bool, now: Tick) {
        let longer = |(_, span): (Tick, Duration)| (span * 2).min(NOWHERE.1);
        self.nowhere = (!one).then(|| {
            let span = self.nowhere.map_or(NOWHERE.0, longer);
            (now + span, span)
        });
    }

    /// Whether the answer that counts came from elsewhere although the first try had not failed: then
    /// its client stays where it is.
    pub fn is_stand_in(&self, at: usize) -> bool {
        self.under_way
            .get(at)
            .is_some_and(|running| running.number != 0)
            && !self.first_failed
            && !self
                .under_way
                .iter()
                .any(|running| running.number == 0 && running.dead)
    }

    /// The request's time is over while the oldest try waits. `blame`: its endpoint's.
    pub fn ran_out(&mut self, blame: Option<Blame>, now: Tick) {
        if !self.under_way.is_empty() {
            let ended = self.under_way.remove(0);
            self.suspend(&ended, blame, now);
        }
    }

    /// It is not known yet whether the request was the cause.
    fn suspend(&mut self, ended: &UnderWay, blame: Option<Blame>, now: Tick) {
        let took = now.since(ended.began);
        self.blames.extend(blame.map(|blame| {
            let patience = (took * ALIKE.0 + ALIKE.1).min(ALIKE.2);
            let patience = match blame.fault() {
                // Another one takes as long to fail alike.
                EndpointFault::TimedOut => patience.max(took + ALIKE.1),
                _ => patience,
            };
            Suspended {
                pool: ended.place.pool,
                blame,
                until: now + patience,
            }
        }));
    }

    /// When to look again at failures that do not count yet.
    pub fn suspended_until(&self) -> Option<Tick> {
        self.blames.iter().map(|suspended| suspended.until).min()
    }

    /// Failures count of which it is known by now that the next try went otherwise.
    fn count_failures(&mut self, now: Tick) {
        if self.suspended_until().is_some_and(|until| now >= until) {
            // Those of one request stand or fall together.
            self.blames.clear();
        }
    }

    /// What is known of the request in the end: whether it was answered well somewhere. Then whoever
    /// failed it is to blame; if it failed alike everywhere, it was its own fault.
    pub fn judge(&mut self, well: bool, asking: &Asking<'_>, now: Tick) {
        if self.blames.is_empty() {
            return;
        }
        let known = &asking.snapshot.routes[asking.route.id.index()].alike;
        let source = asking.properties.source();
        let alike = !well && self.failed_alike(asking);
        if alike {
            known.note(source, now);
        } else if well {
            known.forget(source);
        }
        // It may have been tried once only, for lack of a budget or of time.
        let excused = alike || (!well && known.lately(source, now));
        for suspended in self.blames.drain(..) {
            if excused {
                suspended.blame.excuse();
            }
        }
    }

    /// Whether it failed in the same way at two endpoints at least, and there was no other pool left
    /// that could have served it.
    fn failed_alike(&self, asking: &Asking<'_>) -> bool {
        let [first, rest @ ..] = &self.blames[..] else {
            return false;
        };
        let fault = first.blame.fault();
        if rest.is_empty() || rest.iter().any(|other| other.blame.fault() != fault) {
            return false;
        }
        if rest.iter().any(|other| other.pool != first.pool) {
            return true;
        }
        // All in one pool: that says something only if there is no other.
        let draw = Draw(0);
        let again = decide_again(
            asking.snapshot,
            asking.route,
            asking.client,
            asking.found,
            &[first.pool],
            asking.tie,
            draw,
        );
        !matches!(
            again,
            Decision::Pool {
                basis: Basis::Health,
                ..
            }
        )
    }

    // === May it be tried again? ===

    fn may_retry(&self, failure: Failure, asking: &Asking<'_>, moment: &Moment<'_>) -> Action {
        if !moment.body.whole {
            return Action::GiveUp(RetryReasoning::BodyGone);
        }
        let request = Repeatable {
            idempotent: self.repeat.idempotent,
            body_kept: moment.body.kept,
        };
        let chances = Chances {
            tries: self.spent,
            in_time: in_time(asking.route, moment),
            // Paid for when it is known where it goes.
            in_budget: true,
            answer_begun: false,
        };
        retry::decide(
            &asking.route.retry,
            failure.fault,
            failure.sent,
            request,
            chances,
        )
    }

    // === Where? ===

    /// How the endpoint of the next try is chosen.
    fn after(&self, asking: &Asking<'_>) -> Choosing {
        Choosing {
            elsewhere: self.spent + 1 >= asking.route.retry.tries,
            ..Choosing::default()
        }
    }

    /// Whether there is a good endpoint for another try.
    fn peek(&mut self, asking: &Asking<'_>, moment: &mut Moment<'_>) -> bool {
        if self.is_nowhere(moment.now) {
            return false;
        }
        let before = self.pools.clone();
        let choosing = Choosing {
            only_good: true,
            ..self.after(asking)
        };
        let found = self.choose(asking, choosing, moment).is_some();
        self.pools = before;
        self.found(found, moment.now);
        found
    }

    /// An endpoint that was not asked yet.
    fn choose(
        &mut self,
        asking: &Asking<'_>,
        choosing: Choosing,
        moment: &mut Moment<'_>,
    ) -> Option<Choice> {
        let mut unsure: Option<(Choice, usize)> = None;
        let mut bad: Option<(Choice, usize)> = None;
        let here = self.pools.last()?.pool;
        let failures = self.asked.iter().filter(|place| place.pool == here).count();
        let stays = !choosing.elsewhere && failures < FAILURES_IN_A_POOL;
        let asked = self.pools.len();
        if stays {
            let found = self.try_pool(asked - 1, asking, choosing.heard_since, moment);
            if let Some(choice) = sort(found, asked - 1, &mut unsure, &mut bad) {
                return self.go(choice, asked - 1);
            }
        }
        // Another pool of the target: those that were asked are left out.
        loop {
            let without: SmallVec<[PoolId; 4]> =
                self.pools.iter().map(|chosen| chosen.pool).collect();
            let draw = Draw(moment.random.u64(..));
            let again = decide_again(
                asking.snapshot,
                asking.route,
                asking.client,
                asking.found,
                &without,
                asking.tie,
                draw,
            );
            let Decision::Pool { pool, basis, why } = again else {
                break;
            };
            if without.contains(&pool) {
                break;
            }
            let why = Some(Arc::from(format!("retried: {why}")));
            self.pools.push(Chosen { pool, basis, why });
            let at = self.pools.len() - 1;
            let mut found = self.try_pool(at, asking, None, moment);
            if let Some((_, quality)) = &mut found
                && !matches!(basis, Basis::Health | Basis::Held)
                && !self.asked.is_empty()
            {
                // It would serve only because nothing else does.
                *quality = Quality::Bad;
            }
            if let Some(choice) = sort(found, at, &mut unsure, &mut bad) {
                return self.go(choice, at);
            }
        }
        // Whatever is left in pools that were asked already.
        for at in (0..asked).rev() {
            if stays && at == asked - 1 {
                continue;
            }
            let found = self.try_pool(at, asking, choosing.heard_since, moment);
            if let Some(choice) = sort(found, at, &mut unsure, &mut bad) {
                return self.go(choice, at);
            }
        }
        if let Some((choice, at)) = unsure {
            return self.go(choice, at);
        }
        match bad {
            Some((choice, at)) if !choosing.only_good => self.go(choice, at),
            _ => {
                self.pools.truncate(asked);
                None
            }
        }
    }

    /// The pool at this index is the one that is asked now.
    fn go(&mut self, choice: Choice, at: usize) -> Option<Choice> {
        let pool = self.pools.remove(at);
        self.pools.push(pool);
        Some(choice)
    }

    /// What the pool at this index has for the request.
    fn try_pool(
        &self,
        at: usize,
        asking: &Asking<'_>,
        heard_since: Option<Tick>,
        moment: &mut Moment<'_>,
    ) -> Option<(Choice, Quality)> {
        let Chosen { pool, basis, why } = &self.pools[at];
        let (endpoint, quality) = match self.pick(asking, *pool, *basis, heard_since, moment) {
            Pick::Good(endpoint) => (endpoint, Quality::Good),
            Pick::Unsure(endpoint) => (endpoint, Quality::Unsure),
            Pick::Bad(endpoint) => (endpoint, Quality::Bad),
            Pick::None => return None,
        };
        let choice = Choice {
            place: EndpointIndex {
                pool: *pool,
                endpoint,
            },
            basis: *basis,
            why: why.clone(),
        };
        Some((choice, quality))
    }

    /// An endpoint of this pool that was not asked yet, by its balancer.
    fn pick(
        &self,
        asking: &Asking<'_>,
        pool: PoolId,
        basis: Basis,
        heard_since: Option<Tick>,
        moment: &mut Moment<'_>,
    ) -> Pick {
        let view = &asking.snapshot.pools[pool.index()];
        let now = moment.now;
        let mut excluded: SmallVec<[usize; 4]> = self
            .asked
            .iter()
            .filter(|place| place.pool == pool)
            .map(|place| place.endpoint)
            .collect();
        let hash = asking.properties.hash(&view.plan);
        let mut unsure = None;
        let mut bad = None;
        loop {
            let tied = asking.tie.endpoint(view, basis, &excluded);
            let picked = tied.or_else(|| {
                let mut wish = Criteria {
                    hash,
                    excluded: &excluded,
                    random: &mut *moment.random,
                    now,
                };
                view.pick(basis, &mut wish)
            });
            let Some(endpoint) = picked else {
                return match (unsure, bad) {
                    (Some(endpoint), _) => Pick::Unsure(endpoint),
                    (None, Some(endpoint)) => Pick::Bad(endpoint),
                    (None, None) => Pick::None,
                };
            };
            let live = &view.endpoints[endpoint].live;
            // What may run twice is what a silent endpoint is tried with: it can be rescued.
            let silent = live.stall.is_suspect()
                && !(self.repeat.safe && self.asked.is_empty() && live.stall.trickle(now));
            let down = live.is_down() && basis == Basis::Health;
            if silent || down || live.passive.awaits_verdict() {
                bad.get_or_insert(endpoint);
            } else if heard_since.is_some_and(|since| !live.stall.was_heard_since(since)) {
                unsure.get_or_insert(endpoint);
            } else {
                return Pick::Good(endpoint);
            }
            excluded.push(endpoint);
        }
    }
}

/// How good an endpoint seems to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Quality {
    Good,
    Unsure,
    Bad,
}

/// Returns a good choice, and remembers the first of the others.
fn sort(
    found: Option<(Choice, Quality)>,
    at: usize,
    unsure: &mut Option<(Choice, usize)>,
    bad: &mut Option<(Choice, usize)>,
) -> Option<Choice> {
    let (choice, quality) = found?;
    match quality {
        Quality::Good => return Some(choice),
        Quality::Unsure => unsure.get_or_insert((choice, at)),
        Quality::Bad => bad.get_or_insert((choice, at)),
    };
    None
}

fn live(snapshot: &Snapshot, place: EndpointIndex) -> &Arc<Endpoint> {
    &snapshot.pools[place.pool.index()].endpoints[place.endpoint].live
}

/// Whether a request that may run twice may have one more try beside those under way.
fn may_run_beside(asking: &Asking<'_>, moment: &Moment<'_>) -> bool {
    let policy = &asking.route.retry;
    policy.tries > 1
        && policy.on_timeout
        && moment.body.complete
        && moment.body.whole
        && in_time(asking.route, moment)
}

/// Whether there is room for one more try that is not its request's first, wherever it goes.
fn pay(asking: &Asking<'_>, now: Tick) -> bool {
    let budget = &asking.snapshot.routes[asking.route.id.index()].budget;
    budget.take(asking.route.retry.budget, now)
}

fn in_time(route: &RoutePlan, moment: &Moment<'_>) -> bool {
    moment
        .given
        .is_none_or(|given| moment.now < given + route.timeout)
}

/// What a retry after this fault is counted as.
fn reason(fault: TryFault) -> RetryReason {
    match fault {
        TryFault::Connect => RetryReason::Connect,
        TryFault::Reset => RetryReason::Reset,
        TryFault::Timeout => RetryReason::Timeout,
        TryFault::Status(_) => RetryReason::Status,
    }
}
