//! What is counted where requests pass: plain atomics that live as long as the thing they are about,
//! and are read when somebody asks for metrics.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Upper bounds of the buckets of request durations, in seconds.
pub const DURATION_BUCKETS: [f64; 14] = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
];

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Nothing was counted yet.
    pub const fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    /// One more.
    pub fn one(&self) {
        self.add(1);
    }

    /// So many more.
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    /// How many there are.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A number that goes up and down.
#[derive(Debug, Default)]
pub struct Gauge(AtomicI64);

impl Gauge {
    /// One more.
    pub fn up(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// One less.
    pub fn down(&self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }

    /// How many there are.
    pub fn get(&self) -> i64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// An amount of something, at the moment.
#[derive(Debug, Default)]
pub struct Amount(AtomicU64);

impl Amount {
    /// So much more.
    pub fn add(&self, amount: usize) {
        self.0.fetch_add(amount as u64, Ordering::Relaxed);
    }

    /// So much less of what was added before.
    pub fn subtract(&self, amount: usize) {
        self.0.fetch_sub(amount as u64, Ordering::Relaxed);
    }

    /// How much it is.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// How long things took, in buckets.
#[derive(Debug, Default)]
pub struct Histogram {
    /// One more than there are bounds: the last is everything above.
    buckets: [Counter; DURATION_BUCKETS.len() + 1],
    nanoseconds: Counter,
}

impl Histogram {
    /// One thing took so long.
    pub fn observe(&self, took: Duration) {
        let seconds = took.as_secs_f64();
        let at = DURATION_BUCKETS.partition_point(|bound| *bound < seconds);
        self.buckets[at].one();
        self.nanoseconds.add(took.as_nanos() as u64);
    }

    /// How many things took at most each bound, and how many there were in all.
    pub fn cumulative(&self) -> ([u64; DURATION_BUCKETS.len()], u64) {
        let mut sums = [0; DURATION_BUCKETS.len()];
        let mut sum = 0;
        for (slot, bucket) in sums.iter_mut().zip(&self.buckets) {
            sum += bucket.get();
            *slot = sum;
        }
        (sums, sum + self.buckets[DURATION_BUCKETS.len()].get())
    }

    /// How long all of them took together, in seconds.
    pub fn sum(&self) -> f64 {
        self.nanoseconds.get() as f64 / 1e9
    }
}

/// The first digit of a status: `2xx`. What ended without one is `0xx`.
#[derive(Debug, Default)]
pub struct ByClass([Counter; 6]);

impl ByClass {
    /// The names of the classes, in order.
    pub const NAMES: [&'static str; 6] = ["0xx", "1xx", "2xx", "3xx", "4xx", "5xx"];

    /// One more with this status; 0 is "none".
    pub fn one(&self, status: u16) {
        self.0[usize::from(status / 100).min(5)].one();
    }

    /// How many of each class.
    pub fn get(&self) -> [u64; 6] {
        std::array::from_fn(|at| self.0[at].get())
    }

    /// How many in all.
    pub fn total(&self) -> u64 {
        self.get().iter().sum()
    }
}

/// How a try ended, as `portolan_upstream_tries_total` tells them apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TryOutcome {
    /// Response headers came, below 500.
    Answered,
    /// Response headers came, 500 or above: perhaps the request's own fault.
    ServerError,
    /// Response headers came, 502, 503 or 504: the endpoint cannot serve.
    Unavailable,
    /// There was no connection.
    ConnectFailed,
    /// The connection broke, or what came was not HTTP.
    Broken,
    /// Nothing came in time.
    TimedOut,
    /// The client went away first, or the request is one that cannot be sent there.
    Abandoned,
    /// This instance itself could not connect: it had no descriptors, local ports or memory left.
    EdgeExhausted,
}

impl TryOutcome {
    /// Every outcome.
    pub const ALL: [Self; 8] = [
        Self::Answered,
        Self::ServerError,
        Self::Unavailable,
        Self::ConnectFailed,
        Self::Broken,
        Self::TimedOut,
        Self::Abandoned,
        Self::EdgeExhausted,
    ];

    /// The outcome of a try that was answered with this status.
    pub fn of_status(status: u16) -> Self {
        match status {
            502..=504 => Self::Unavailable,
            500.. => Self::ServerError,
            _ => Self::Answered,
        }
    }

    /// The label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Answered => "answered",
            Self::ServerError => "server_error",
            Self::Unavailable => "unavailable",
            Self::ConnectFailed => "connect_failed",
            Self::Broken => "broken",
            Self::TimedOut => "timed_out",
            Self::Abandoned => "abandoned",
            Self::EdgeExhausted => "edge_exhausted",
        }
    }
}

/// Tries by outcome.
#[derive(Debug, Default)]
pub struct ByOutcome([Counter; TryOutcome::ALL.len()]);

impl ByOutcome {
    /// One more that ended like this.
    pub fn one(&self, outcome: TryOutcome) {
        self.0[outcome as usize].one();
    }

    /// How many ended like this.
    pub fn get(&self, outcome: TryOutcome) -> u64 {
        self.0[outcome as usize].get()
    }
}

/// What is counted about the requests of one route that one pool served (or none).
#[derive(Debug, Default)]
pub struct RoutePoolStats {
    /// By the first digit of the status.
    pub requests: ByClass,
    /// From the request's head to the last byte of the answer.
    pub duration: Histogram,
}

/// Why a request was tried once more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RetryReason {
    /// There was no connection.
    Connect,
    /// The connection broke.
    Reset,
    /// No answer in time.
    Timeout,
    /// An answer with a status that is tried again.
    Status,
    /// Hedged a try that took long.
    Hedged,
    /// Hedged a try whose endpoint went silent.
    Rescue,
}

impl RetryReason {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Connect,
        Self::Reset,
        Self::Timeout,
        Self::Status,
        Self::Hedged,
        Self::Rescue,
    ];

    /// The label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Reset => "reset",
            Self::Timeout => "timeout",
            Self::Status => "status",
            Self::Hedged => "beside",
            Self::Rescue => "rescue",
        }
    }
}

/// Retries by reason.
#[derive(Debug, Default)]
pub struct ByRetryReason([Counter; RetryReason::ALL.len()]);

impl ByRetryReason {
    /// One more.
    pub fn one(&self, reason: RetryReason) {
        self.0[reason as usize].one();
    }

    /// How many.
    pub fn get(&self, reason: RetryReason) -> u64 {
        self.0[reason as usize].get()
    }
}

/// What is counted about a pool, whoever asked.
#[derive(Debug, Default)]
pub struct PoolStats {
    /// Bytes of bodies sent to it.
    pub bytes_to: Counter,
    /// Bytes of bodies that came from it.
    pub bytes_from: Counter,
    /// Upgraded connections to it that have lasted as long as they may.
    pub expired: Counter,
}

/// Connections or streams that were refused, by reason. Reasons are few and known to the code.
#[derive(Debug, Default)]
pub struct Refused(Mutex<BTreeMap<&'static str, u64>>);

impl Refused {
    /// One more for this reason. Refusals are the exception, so a lock is good enough here; a
    /// request that is served never comes by.
    pub fn one(&self, reason: &'static str) {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *counts.entry(reason).or_default() += 1;
    }

    /// How many there were for each reason.
    pub fn get(&self) -> BTreeMap<&'static str, u64> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn histograms_count_up_to_each_bound() {
        let histogram = Histogram::default();
        for milliseconds in [1, 2, 7, 40_000] {
            histogram.observe(Duration::from_millis(milliseconds));
        }
        let (upto, all) = histogram.cumulative();
        assert_eq!(upto[..4], [1, 2, 2, 3]);
        assert_eq!((upto[13], all), (3, 4));
        assert!((histogram.sum() - 40.010).abs() < 1e-9);
    }

    #[test]
    fn classes_are_first_digits() {
        let classes = ByClass::default();
        for status in [0, 101, 204, 299, 404, 599, 999] {
            classes.one(status);
        }
        assert_eq!(classes.get(), [1, 1, 2, 0, 1, 2]);
        assert_eq!(classes.total(), 7);
    }
}
