//! One endpoint while it lives: who it is, and what is counted about it.
//!
//! An endpoint is its pool's name and its address. As long as a configuration keeps both, this
//! object stays, and with it every count and average: editing a weight, a timeout or a path forgets
//! nothing. The data plane writes here with single atomic operations and never waits.

use std::fmt;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use portolan_config::names::Name;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

use crate::clock::Tick;
use crate::counters::{ByOutcome, Counter, TryOutcome};
use crate::health::outlier::fault::EndpointFault;
use crate::health::outlier::{Alarm, EjectionReason, Epoch, PassiveCounters, Source, Tally};
use crate::health::stall::StallDetector;
use crate::pool::rendezvous::seed_of_address;

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
pub(crate) const MEMORY: Duration = Duration::from_secs(10);

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
    /// Time of successful probes, smoothed.
    probes: Average,
    /// Time of the last probe, however it ended, in nanoseconds; 0 is "none yet".
    last_probe: AtomicU64,
    /// How tries ended.
    pub tries: ByOutcome,
    /// Whether its silence is still plausible.
    pub stall: StallDetector,
    /// What they tell about it.
    pub passive: PassiveCounters,
    /// It is unhealthy or ejected at the moment.
    down: AtomicBool,
    /// How often it was found dead.
    deaths: AtomicU32,
    /// Rings for requests that wait for it when something becomes of it.
    bell: Arc<Notify>,
    /// Connections are reused within a connection_generation: see [`Self::begin_connection_generation`].
    connection_generation: AtomicU64,
    /// How often it was ejected, by the kind of reason.
    pub ejections: [Counter; EjectionReason::KINDS.len()],
}

impl Endpoint {
    /// An endpoint of which nothing is known, and which nobody watches.
    pub fn new(key: EndpointKey) -> Self {
        Self::watched(key, Arc::default())
    }

    /// An endpoint of which nothing is known. What requests tell about it wakes the engine by this.
    pub fn watched(key: EndpointKey, alarm: Arc<Alarm>) -> Self {
        // What was kept for an endpoint that had this address before is not this one's.
        let connection_generation = u64::from(fastrand::u32(..)) << 32;
        Self {
            connection_generation: AtomicU64::new(connection_generation),
            seed: seed_of_address(key.address),
            key,
            tag: OnceLock::new(),
            in_flight: AtomicU32::new(0),
            requests: AtomicU64::new(0),
            traffic: Average::default(),
            probes: Average::default(),
            last_probe: AtomicU64::new(0),
            tries: ByOutcome::default(),
            stall: StallDetector::default(),
            passive: PassiveCounters::new(alarm),
            down: AtomicBool::new(false),
            deaths: AtomicU32::new(0),
            bell: Arc::default(),
            ejections: Default::default(),
        }
    }

    /// A try that began in this epoch ended now, and what that says about the endpoint counts. `source`:
    /// whose it was; it is only asked now and then.
    pub fn tried(
        &self,
        outcome: TryOutcome,
        epoch: Epoch,
        now: Tick,
        source: impl FnOnce() -> Source,
    ) {
        self.tries.one(outcome);
        self.passive.rouse();
        match (EndpointFault::of(outcome), outcome) {
            (Some(fault), _) => {
                let source = source_of(fault, source);
                self.passive.failed(fault, epoch, source);
            }
            (None, TryOutcome::Abandoned | TryOutcome::EdgeExhausted) => {}
            (None, _) => self.passive.succeeded(epoch, now, source),
        }
    }

    /// A try that began in this epoch ended, and it is not known yet whether its request was the cause:
    /// what it says about the endpoint. Nothing if it does not speak against it.
    pub fn suspend(
        self: &Arc<Self>,
        outcome: TryOutcome,
        epoch: Epoch,
        source: impl FnOnce() -> Source,
    ) -> Option<Blame> {
        let fault = EndpointFault::of(outcome)?;
        self.passive.suspended.up();
        self.tries.one(outcome);
        Some(Blame {
            endpoint: self.clone(),
            epoch,
            fault,
            source: source_of(fault, source),
            excused: false,
        })
    }

    /// A try ended like this, and the endpoint is not to blame: a kept connection that was closed
    /// meanwhile, a request whose body never came to its end.
    pub fn excused(&self, outcome: TryOutcome) {
        self.tries.one(outcome);
        if EndpointFault::of(outcome).is_some() {
            self.passive.excused.one();
        }
        self.passive.rouse();
    }

    /// An answer that counts as one broke off before its end.
    pub fn broke_off(&self) {
        self.passive.truncated.one();
        self.passive.rouse();
    }

    /// All tries so far, by what they say about the endpoint.
    pub fn tally(&self) -> Tally {
        let of = |outcome| self.tries.get(outcome);
        let truncated = self.passive.truncated.get();
        let failed: u64 = TryOutcome::ALL
            .into_iter()
            .filter(|outcome| EndpointFault::of(*outcome).is_some())
            .map(of)
            .sum();
        Tally {
            answered: of(TryOutcome::Answered).saturating_sub(truncated),
            errors: of(TryOutcome::ServerError),
            failed: (failed + truncated)
                .saturating_sub(self.passive.excused.get())
                .saturating_sub(self.passive.suspended.get().max(0) as u64),
        }
    }

    /// Whether it is unhealthy or ejected at this moment, whatever the snapshot of a request says.
    pub fn is_down(&self) -> bool {
        self.down.load(Ordering::Relaxed)
    }

    /// How often it was found dead: unhealthy or ejected because it does not answer. A request that waits
    /// for it compares this number with that of when it began.
    pub fn deaths(&self) -> u32 {
        self.deaths.load(Ordering::Acquire)
    }

    /// Its verdict changed. `dead`: it was found not to answer any more. Requests that wait for it are
    /// told.
    pub(crate) fn turn(&self, down: bool, dead: bool) {
        self.down.store(down, Ordering::Relaxed);
        if dead {
            self.deaths.fetch_add(1, Ordering::Release);
        }
        self.bell.notify_waiters();
    }

    /// Tells requests that wait for it to look at it.
    pub fn ring(&self) {
        self.bell.notify_waiters();
    }

    /// What rings for requests that wait for it.
    pub fn bell(&self) -> Arc<Notify> {
        self.bell.clone()
    }

    /// Which connections may be reused: those that were opened for requests of this connection_generation.
    pub fn connection_generation(&self) -> u64 {
        self.connection_generation.load(Ordering::Relaxed)
    }

    /// It is out of order: whatever is connected to it now may be dead without a word. What is under
    /// way goes on, but nothing new is sent over those connections.
    pub fn begin_connection_generation(&self) {
        self.connection_generation.fetch_add(1, Ordering::Relaxed);
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

    /// Response headers came, and how long that took, if that is known. What an endpoint says that cannot
    /// serve says nothing about how long its answers usually take.
    pub fn answered(&self, outcome: TryOutcome, took: Option<Duration>, now: Tick) {
        match took.filter(|_| EndpointFault::of(outcome).is_none()) {
            Some(took) => {
                self.observe_answer(took, now);
                self.stall.answered(took, now);
            }
            None => {
                self.stall.heard(now);
            }
        }
    }

    /// A request's response headers came after `took`.
    pub fn observe_answer(&self, took: Duration, now: Tick) {
        self.traffic.add(took, now);
    }

    /// A probe ended after `took`.
    pub fn observe_probe(&self, took: Duration, succeeded: bool, now: Tick) {
        self.last_probe
            .store((took.as_nanos() as u64).max(1), Ordering::Relaxed);
        if succeeded {
            self.probes.add(took, now);
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

    /// The same, and how long ago the last answer came.
    pub(crate) fn latency(&self, now: Tick) -> Option<(Duration, Duration)> {
        let average = self.traffic.get(now)?;
        Some((average, self.traffic.age(now)))
    }

    /// Smoothed time of probes.
    pub fn probe_latency(&self) -> Option<Duration> {
        self.probes.last()
    }

    /// What was measured, for a process that takes over.
    pub(crate) fn measured(&self) -> Measured {
        Measured {
            traffic: self.traffic.parts(),
            probes: self.probes.parts(),
            last_probe: self.last_probe.load(Ordering::Relaxed),
        }
    }

    /// Goes on with what a process before this one measured.
    pub(crate) fn go_on(&self, measured: &Measured) {
        self.traffic.set(measured.traffic);
        self.probes.set(measured.probes);
        self.last_probe
            .store(measured.last_probe, Ordering::Relaxed);
    }
}

/// Whose request a failure may be bound to: that there is no connection is bound to no request.
fn source_of(fault: EndpointFault, source: impl FnOnce() -> Source) -> Source {
    match fault {
        EndpointFault::Connect => Source::default(),
        _ => source(),
    }
}

/// A failed try of which it is not known yet whose fault it was. It counts against its endpoint when it is
/// dropped, unless that is excused.
#[derive(Debug)]
pub struct Blame {
    endpoint: Arc<Endpoint>,
    epoch: Epoch,
    fault: EndpointFault,
    source: Source,
    excused: bool,
}

impl Blame {
    /// What happened.
    pub fn fault(&self) -> EndpointFault {
        self.fault
    }

    /// Its request was the cause: it says nothing about the endpoint.
    pub fn excuse(mut self) {
        self.excused = true;
    }
}

impl Drop for Blame {
    fn drop(&mut self) {
        let passive = &self.endpoint.passive;
        if self.excused {
            passive.excused.one();
        } else {
            passive.failed(self.fault, self.epoch, self.source);
        }
        passive.suspended.down();
        passive.rouse();
    }
}

/// What was measured about an endpoint. Averages are nanoseconds, and the nanosecond of their last
/// sample; 0 is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Measured {
    traffic: (u64, u64),
    probes: (u64, u64),
    last_probe: u64,
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
    fn add(&self, sample: Duration, now: Tick) {
        let sample = (sample.as_nanos() as u64).max(1);
        let moment = now.since_start().as_nanos() as u64;
        let before = self.value.load(Ordering::Relaxed);
        let since = moment.saturating_sub(self.moment.swap(moment, Ordering::Relaxed));
        let value = if before == 0 {
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
        if self.age(now) > MEMORY * 6 {
            None
        } else {
            self.last()
        }
    }

    /// How long ago the last sample came.
    fn age(&self, now: Tick) -> Duration {
        let moment = Duration::from_nanos(self.moment.load(Ordering::Relaxed));
        now.since_start().saturating_sub(moment)
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
    use portolan_config::scalar::FromScalar as _;

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
    fn latency_is_as_old_as_the_last_answer() {
        let endpoint = endpoint();
        assert_eq!(endpoint.latency(at(0)), None);
        let took = Duration::from_millis(10);
        endpoint.observe_answer(took, at(1));
        assert_eq!(endpoint.latency(at(1)), Some((took, Duration::ZERO)));
        let age = Duration::from_secs(30);
        assert_eq!(endpoint.latency(at(31)), Some((took, age)));
        assert_eq!(endpoint.latency(at(100)), None);
        endpoint.begin();
        assert_eq!((endpoint.in_flight(), endpoint.requests()), (1, 1));
        endpoint.end();
        assert_eq!((endpoint.in_flight(), endpoint.requests()), (0, 1));
    }
}
