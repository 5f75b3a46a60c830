//! One endpoint while it lives: who it is, and what is counted about it.
//!
//! An endpoint is its pool's name and its address. As long as a configuration keeps both, this
//! object stays, and with it every count and average: editing a weight, a timeout or a path forgets
//! nothing. The data plane writes here with single atomic operations and never waits.

use std::fmt;
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use portolan_config::names::Name;
use serde::{Deserialize, Serialize};

use crate::affinity::seed_of_address;
use crate::clock::Tick;
use crate::outlier::{Alarm, Epoch, Fault, Reason, Tally, Witness};
use crate::silence::Silence;
use crate::stats::{ByOutcome, Counter, TryOutcome};

/// What an endpoint is known by, across configurations.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EndpointKey {
    /// Its pool's name.
    pub pool: Name,
    /// Its address.
    pub address: SocketAddr,
}

impl fmt::Display for EndpointKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.pool, self.address)
    }
}

/// How fast averages of latency forget: after this long a sample weighs a third.
const MEMORY: Duration = Duration::from_secs(10);

/// An endpoint's counts and averages.
#[derive(Debug)]
pub struct Endpoint {
    /// Who it is.
    pub key: EndpointKey,
    /// A number made of its address, for hashing requests to endpoints.
    pub seed: u64,
    /// Its number in affinity cookies, once somebody asked.
    pub(crate) tag: OnceLock<u128>,
    in_flight: AtomicU32,
    requests: AtomicU64,
    /// Time to response headers of requests, smoothed.
    traffic: Average,
    /// The same, but a slow answer counts at once and is forgotten slowly (peak EWMA).
    peak: Average,
    /// Time of successful probes, smoothed.
    probes: Average,
    /// Time of the last probe, however it ended, in nanoseconds; 0 is "none yet".
    last_probe: AtomicU64,
    /// How tries ended.
    pub tries: ByOutcome,
    /// Whether its silence is still plausible.
    pub silence: Silence,
    /// What they tell about it.
    pub witness: Witness,
    /// Connections are reused within a cohort: see [`Self::begin_cohort`].
    cohort: AtomicU64,
    /// Cohorts before this one were handed out by [`Self::old_cohorts`].
    handed_out: AtomicU64,
    /// How often it was ejected, by the kind of reason.
    pub ejections: [Counter; Reason::KINDS.len()],
}

impl Endpoint {
    /// An endpoint of which nothing is known, and which nobody watches.
    pub fn new(key: EndpointKey) -> Self {
        Self::watched(key, Arc::default())
    }

    /// An endpoint of which nothing is known. What requests tell about it wakes the engine by this.
    pub fn watched(key: EndpointKey, alarm: Arc<Alarm>) -> Self {
        // What was kept for an endpoint that had this address before is not this one's.
        let cohort = u64::from(fastrand::u32(..)) << 32;
        Self {
            cohort: AtomicU64::new(cohort),
            handed_out: AtomicU64::new(cohort),
            seed: seed_of_address(key.address),
            key,
            tag: OnceLock::new(),
            in_flight: AtomicU32::new(0),
            requests: AtomicU64::new(0),
            traffic: Average::default(),
            peak: Average::default(),
            probes: Average::default(),
            last_probe: AtomicU64::new(0),
            tries: ByOutcome::default(),
            silence: Silence::default(),
            witness: Witness::new(alarm),
            ejections: Default::default(),
        }
    }

    /// A try that began in this epoch ended, and what that says about the endpoint counts.
    pub fn tried(&self, outcome: TryOutcome, epoch: Epoch) {
        self.tries.one(outcome);
        self.witness.rouse();
        match (Fault::of(outcome), outcome) {
            (Some(fault), _) => self.witness.failed(fault, epoch),
            (None, TryOutcome::Abandoned | TryOutcome::EdgeExhausted) => {}
            (None, _) => self.witness.succeeded(epoch),
        }
    }

    /// A try ended like this, and the endpoint is not to blame: a kept connection that was closed
    /// meanwhile, a request whose body never came to its end.
    pub fn excused(&self, outcome: TryOutcome) {
        self.tries.one(outcome);
        if Fault::of(outcome).is_some() {
            self.witness.excused.one();
        }
        self.witness.rouse();
    }

    /// An answer that counts as one broke off before its end.
    pub fn broke_off(&self) {
        self.witness.truncated.one();
        self.witness.rouse();
    }

    /// All tries so far, by what they say about the endpoint.
    pub fn tally(&self) -> Tally {
        let of = |outcome| self.tries.get(outcome);
        let truncated = self.witness.truncated.get();
        let failed: u64 = TryOutcome::ALL
            .into_iter()
            .filter(|outcome| Fault::of(*outcome).is_some())
            .map(of)
            .sum();
        Tally {
            answered: of(TryOutcome::Answered).saturating_sub(truncated),
            errors: of(TryOutcome::ServerError),
            failed: (failed + truncated).saturating_sub(self.witness.excused.get()),
        }
    }

    /// Which connections may be reused: those that were opened for requests of this cohort.
    pub fn cohort(&self) -> u64 {
        self.cohort.load(Ordering::Relaxed)
    }

    /// It is out of order: whatever is connected to it now may be dead without a word. What is under
    /// way goes on, but nothing new is sent over those connections.
    pub fn begin_cohort(&self) {
        self.cohort.fetch_add(1, Ordering::Relaxed);
    }

    /// Cohorts whose connections are to be closed: each is returned once.
    pub fn old_cohorts(&self) -> Range<u64> {
        let now = self.cohort();
        if self.handed_out.load(Ordering::Relaxed) == now {
            return now..now;
        }
        self.handed_out.fetch_max(now, Ordering::Relaxed)..now
    }

    /// Requests that it is answering now.
    pub fn in_flight(&self) -> u32 {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// Requests that were ever sent to it.
    pub fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }

    /// A request begins. Every call is followed by one of [`Self::end`].
    pub fn begin(&self) {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        self.requests.fetch_add(1, Ordering::Relaxed);
    }

    /// A request is over, however it ended.
    pub fn end(&self) {
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
    }

    /// A request's response headers came after `took`.
    pub fn observe_answer(&self, took: Duration, now: Tick) {
        self.traffic.add(took, now, Rise::Smooth);
        self.peak.add(took, now, Rise::AtOnce);
    }

    /// A probe ended after `took`.
    pub fn observe_probe(&self, took: Duration, succeeded: bool, now: Tick) {
        self.last_probe
            .store((took.as_nanos() as u64).max(1), Ordering::Relaxed);
        if succeeded {
            self.probes.add(took, now, Rise::Smooth);
        }
    }

    /// How long the last probe took, however it ended.
    pub fn last_probe(&self) -> Option<Duration> {
        match self.last_probe.load(Ordering::Relaxed) {
            0 => None,
            nanoseconds => Some(Duration::from_nanos(nanoseconds)),
        }
    }

    /// Smoothed time to response headers, if any came lately.
    pub fn traffic_latency(&self, now: Tick) -> Option<Duration> {
        self.traffic.get(now)
    }

    /// Smoothed time of probes.
    pub fn probe_latency(&self) -> Option<Duration> {
        self.probes.last()
    }

    /// What was measured, for a process that takes over.
    pub(crate) fn measured(&self) -> Measured {
        Measured {
            traffic: self.traffic.parts(),
            peak: self.peak.parts(),
            probes: self.probes.parts(),
            last_probe: self.last_probe.load(Ordering::Relaxed),
        }
    }

    /// Goes on with what a process before this one measured.
    pub(crate) fn go_on(&self, measured: &Measured) {
        self.traffic.set(measured.traffic);
        self.peak.set(measured.peak);
        self.probes.set(measured.probes);
        self.last_probe
            .store(measured.last_probe, Ordering::Relaxed);
    }

    /// What one more request would cost here, in seconds: the latency's peak, times those who wait
    /// already (peak EWMA, as in Finagle). Nothing where nothing was measured: somebody must try.
    pub fn cost(&self, now: Tick) -> f64 {
        let peak = self.peak.get(now).unwrap_or_default();
        peak.as_secs_f64() * (f64::from(self.in_flight()) + 1.0)
    }
}

/// What was measured about an endpoint. Averages are nanoseconds, and the nanosecond of their last
/// sample; 0 is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Measured {
    traffic: (u64, u64),
    peak: (u64, u64),
    probes: (u64, u64),
    last_probe: u64,
}

/// How an average follows a sample above it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rise {
    /// As it follows one below.
    Smooth,
    /// It jumps there.
    AtOnce,
}

/// An exponentially weighted moving average over time, without a lock.
///
/// Value and moment are two words written one after the other. Two threads that write at the same
/// time can lose a sample or give one the other's moment: a sample among many.
#[derive(Debug, Default)]
struct Average {
    /// Nanoseconds; 0 is "never".
    value: AtomicU64,
    /// Nanoseconds since the process began.
    moment: AtomicU64,
}

impl Average {
    fn add(&self, sample: Duration, now: Tick, rise: Rise) {
        let sample = (sample.as_nanos() as u64).max(1);
        let moment = now.since_start().as_nanos() as u64;
        let before = self.value.load(Ordering::Relaxed);
        let since = moment.saturating_sub(self.moment.swap(moment, Ordering::Relaxed));
        let value = if before == 0 || (rise == Rise::AtOnce && sample > before) {
            sample
        } else {
            let keep = (-(since as f64) / MEMORY.as_nanos() as f64).exp();
            // Many samples at one moment still count for something each.
            let keep = keep.min(0.95);
            (before as f64 * keep + sample as f64 * (1.0 - keep)) as u64
        };
        self.value.store(value.max(1), Ordering::Relaxed);
    }

    /// Its value, and the moment of its last sample.
    fn parts(&self) -> (u64, u64) {
        let value = self.value.load(Ordering::Relaxed);
        (value, self.moment.load(Ordering::Relaxed))
    }

    fn set(&self, (value, moment): (u64, u64)) {
        self.moment.store(moment, Ordering::Relaxed);
        self.value.store(value, Ordering::Relaxed);
    }

    /// The average, unless the last sample is so old that it says nothing.
    fn get(&self, now: Tick) -> Option<Duration> {
        let moment = Duration::from_nanos(self.moment.load(Ordering::Relaxed));
        let age = now.since_start().saturating_sub(moment);
        if age > MEMORY * 6 { None } else { self.last() }
    }

    fn last(&self) -> Option<Duration> {
        match self.value.load(Ordering::Relaxed) {
            0 => None,
            value => Some(Duration::from_nanos(value)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use portolan_config::leaf::Leaf as _;

    fn endpoint() -> Endpoint {
        Endpoint::new(EndpointKey {
            pool: Name::parse("aws").unwrap(),
            address: "10.0.0.1:80".parse().unwrap(),
        })
    }

    fn at(seconds: u64) -> Tick {
        Tick::after(Duration::from_secs(seconds))
    }

    #[test]
    fn an_old_cohort_is_handed_out_once() {
        let endpoint = endpoint();
        let first = endpoint.cohort();
        assert!(endpoint.old_cohorts().is_empty());
        endpoint.begin_cohort();
        endpoint.begin_cohort();
        assert_eq!(endpoint.cohort(), first + 2);
        assert_eq!(endpoint.old_cohorts(), first..first + 2);
        assert!(endpoint.old_cohorts().is_empty());
    }

    #[test]
    fn averages_follow_and_forget() {
        let endpoint = endpoint();
        assert_eq!(endpoint.traffic_latency(at(0)), None);
        endpoint.observe_answer(Duration::from_millis(100), at(1));
        assert_eq!(
            endpoint.traffic_latency(at(1)),
            Some(Duration::from_millis(100))
        );
        for second in 2..60 {
            endpoint.observe_answer(Duration::from_millis(10), at(second));
        }
        let settled = endpoint.traffic_latency(at(60)).unwrap();
        assert!(settled < Duration::from_millis(11), "{settled:?}");
        assert_eq!(
            endpoint.traffic_latency(at(200)),
            None,
            "too old to say anything"
        );
    }

    #[test]
    fn peaks_count_at_once() {
        let endpoint = endpoint();
        for second in 0..10 {
            endpoint.observe_answer(Duration::from_millis(10), at(second));
        }
        let before = endpoint.cost(at(10));
        endpoint.observe_answer(Duration::from_millis(500), at(10));
        assert!(endpoint.cost(at(10)) > before * 40.0);
        assert!(endpoint.traffic_latency(at(10)).unwrap() < Duration::from_millis(100));
        endpoint.begin();
        assert!(
            (endpoint.cost(at(10)) - 1.0).abs() < 1e-6,
            "twice the half second"
        );
        endpoint.end();
        assert_eq!((endpoint.in_flight(), endpoint.requests()), (0, 1));
    }
}
